"""A row as its tokens, coloured: scored green, masked grey, cut red; for the terminal, a page, or a script (MISSION K3)."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from planish.model.chat import Chat
from planish.model.mask import Dialogue, Turns
from planish.model.template import Refused
from planish.rows import ChatRow

Colour = Literal["scored", "masked", "cut"]
_ANSI: dict[Colour, str] = {"scored": "\x1b[32m", "masked": "\x1b[90m", "cut": "\x1b[31m"}
_CSS = (
    "body{font:14px/1.7 ui-monospace,monospace;margin:2rem auto;max-width:60rem;padding:0 1rem;background:#fff;color:#222}"
    "h2{font-size:1rem;margin:2rem 0 .3rem}p{margin:.2rem 0}div{white-space:pre-wrap;overflow-wrap:anywhere}"
    ".scored{color:#0a5c1f;background:#d9f2df}.masked{color:#666}.cut{color:#8f1313;background:#f8dada;text-decoration:line-through}"
)
IGNORED = -100
"""The label of a token that is not scored, as everywhere in the field."""


class Token(NamedTuple):
    """One token: its id, what it writes, its colour, and why it has it."""

    id: int
    text: str
    colour: Colour
    reason: str


@dataclass(frozen=True)
class View:
    """A row up to its last trained token; one that is refused is shown whole, with nothing trained, and the reason."""

    row: str
    tokens: tuple[Token, ...]
    fault: Refused | None = None

    @property
    def scored(self) -> int:
        """Green tokens."""
        return sum(token.colour == "scored" for token in self.tokens)

    @property
    def share(self) -> float:
        """Green tokens over all tokens."""
        return self.scored / len(self.tokens) if self.tokens else 0.0

    @property
    def labels(self) -> list[int]:
        """The labels array that the colours stand for."""
        return [token.id if token.colour == "scored" else IGNORED for token in self.tokens]


def look(row: ChatRow, chat: Chat, *, max_length: int | None = None, turns: Turns = "all") -> View:
    """The tokens of a row with their colours; those from `max_length` on would be cut."""
    found = chat.masks([Dialogue(row.messages, row.tools)], turns)[0]
    if isinstance(found, Refused):
        try:
            ids = chat.encode(chat.text(row.messages, prompt=False, tools=row.tools))
        except Refused:
            ids = []
        spans: tuple[Any, ...] = ()
    else:
        ids, spans = found.ids, found.spans
    reasons = _turns(row, chat, ids)
    scored = [False] * len(ids)
    for span in spans:
        for place in range(span.start, span.stop):
            scored[place] = True
            reasons[place] = f"answer of turn {span.turn + 1}" + ("" if span.weight == 1 else f", weight {span.weight:g}")
        reasons[span.stop - 1] = f"ends turn {span.turn + 1}"
        header = f"header of turn {span.turn + 1} ("
        for place in range(span.stop, len(ids)):
            if not reasons[place].startswith(header):
                break
            reasons[place] = f"behind the end of turn {span.turn + 1}: nothing is said there"
    tokens = []
    for place, (id, said, is_scored) in enumerate(zip(ids, _texts(ids, chat), scored, strict=True)):
        colour: Colour = "scored" if is_scored else "masked"
        reason = reasons[place]
        if max_length is not None and place >= max_length:
            colour, reason = "cut", f"beyond max_length {max_length}; {reason}"
        tokens.append(Token(id, said, colour, reason))
    return View(row.id, tuple(tokens), found if isinstance(found, Refused) else None)


def _texts(ids: Sequence[int], chat: Chat) -> list[str]:
    """What each token writes; a character of several tokens stands at the last of them."""
    texts: list[str] = []
    held: list[int] = []
    for id in ids:
        held.append(id)
        text = chat.tokenizer.decode(held)
        whole = not text.endswith("\ufffd") or len(held) == 4  # no character is longer than four bytes
        texts.append(text if whole else "")
        held = [] if whole else held
    return texts


def _turns(row: ChatRow, chat: Chat, ids: list[int]) -> list[str]:
    """For each token the turn that the template wrote it for, from renderings of the dialogue cut short."""
    reasons = ["not trained"] * len(ids)
    begin = 0
    for turn, message in enumerate(row.messages):
        try:
            upto = chat.encode(chat.text(row.messages[: turn + 1], prompt=False, tools=row.tools))
        except Refused:
            continue  # some templates refuse a dialogue that ends here
        end = next((place for place, (one, other) in enumerate(zip(upto, ids, strict=False)) if one != other), min(len(upto), len(ids)))
        said = f"turn {turn + 1} ({message.role}{', weight 0' if message.weight == 0 else ''})"
        if begin < end:
            reasons[begin:end] = [f"header of {said}" if message.role == "assistant" and message.weight != 0 else said] * (end - begin)
            begin = end
    return reasons


def text(views: Sequence[View], *, colour: bool, tokens: bool = False) -> str:
    """For the terminal. `tokens` lists each with its id and reason; without `colour`, what is scored stands in brackets."""
    blocks = []
    for view in views:
        lines = [f"row {view.row}: {_shares(view.scored, len(view.tokens))}"]
        if view.fault is not None:
            lines.append(f"  refused: {view.fault}")
        if tokens:
            lines += [f"  {_painted(f'{token.id:>7}  {token.text!r:<20} {token.colour}: {token.reason}', token.colour, colour)}" for token in view.tokens]
        else:
            lines.append("".join(_painted(part, kind, colour) if colour else _marked(part, kind) for part, kind in _runs(view)))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def page(views: Sequence[View], title: str, total: str) -> str:
    """A page that needs no other file; what rows say is escaped. A token's id and reason show under the pointer."""
    parts = [f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title><style>{_CSS}</style>"]
    parts.append(f"<h1>{html.escape(title)}</h1><p>{html.escape(total)}</p>")
    parts.append("<p><span class=scored>scored</span> <span class=masked>masked</span> <span class=cut>cut</span></p>")
    for view in views:
        parts.append(f"<h2>row {html.escape(view.row)}: {_shares(view.scored, len(view.tokens))}</h2>")
        if view.fault is not None:
            parts.append(f"<p class=cut>refused: {html.escape(str(view.fault))}</p>")
        spans = [f'<span class={token.colour} title="{token.id}: {html.escape(token.reason)}">{html.escape(token.text)}</span>' for token in view.tokens]
        parts.append(f"<div>{''.join(spans)}</div>")
    return "\n".join(parts) + "\n</html>\n"


def as_json(view: View) -> dict[str, Any]:
    """Everything, for a script."""
    fault = None if view.fault is None else {"code": str(view.fault.code), "why": view.fault.why}
    tokens = [token._asdict() for token in view.tokens]
    return {"row": view.row, "scored": view.scored, "tokens": tokens, "share": view.share, "labels": view.labels, "fault": fault}


def _shares(scored: int, tokens: int) -> str:
    return f"{scored} of {tokens} tokens trained" + (f" ({scored / tokens:.1%})" if tokens else "")


def _runs(view: View) -> list[tuple[str, Colour]]:
    """Neighbours of one colour together."""
    runs: list[tuple[str, Colour]] = []
    for token in view.tokens:
        if runs and runs[-1][1] == token.colour:
            runs[-1] = (runs[-1][0] + token.text, token.colour)
        else:
            runs.append((token.text, token.colour))
    return runs


def _painted(part: str, kind: Colour, colour: bool) -> str:
    """In colour, line by line, as some pagers end a colour with the line. Control characters in a row's text are shown, never sent to the terminal."""
    shown = "".join(char if char == "\n" or char.isprintable() else repr(char)[1:-1] for char in part)
    return "\n".join(f"{_ANSI[kind]}{line}\x1b[0m" if line else "" for line in shown.split("\n")) if colour else shown


def _marked(part: str, kind: Colour) -> str:
    shown = _painted(part, kind, False)
    return {"scored": f"[{shown}]", "masked": shown, "cut": f"~{shown}~"}[kind]
