"""Everything that can be known before a model is loaded, one line a check: green means that training will see what was meant, not that it is worth it (MISSION K4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from planish.errors import InputError
from planish.model.chat import Chat
from planish.model.dialogues import Dialogues
from planish.model.fit import Policy, fit, suggested
from planish.model.mask import Dialogue, Masked, Turns
from planish.model.measured import Measured, measure
from planish.model.preflight_files import Line, config, files
from planish.model.template import Refused
from planish.recipe_train import TrainSection
from planish.rows import ChatRow, RejectCode

SAMPLED = 64
"""Rows rendered and tokenised a second time, by transformers itself, to compare."""
MALFORMED, DROPPED = 0.05, 0.02
"""Shares of rows beyond which a run stops: refused by the contract (MISSION D2), and left out for their length (K5)."""


@dataclass(frozen=True)
class Flight:
    """What is about to be trained: rows, the model's folder, and the options that decide which tokens. `bytes_needed` is the room for checkpoints, an estimate."""

    dialogues: Dialogues
    model: Path
    template: str | None = None
    turns: Turns = "all"
    max_length: int | None = None
    policy: Policy = "refuse"
    targets: tuple[str | list[str], ...] = ()
    workspace: Path = field(default_factory=Path.cwd)
    full: bool = False


def preflight(flight: Flight) -> list[Line]:
    """Every check, in the order in which a defect of one would hide the next."""
    lines = [_rows(flight)]
    try:
        chat = Chat.load(flight.model, flight.template)
    except InputError as refused:
        lines += [Line("template", "red", problem.why, problem.fix) for problem in refused.problems]
        return [*lines, *files(flight.model, None, flight.targets, flight.workspace, full=flight.full)]
    measured = measure(flight.dialogues.table, chat, flight.turns)
    lines.append(_template(chat, measured))
    lines.append(_parity(flight, chat, measured))
    lines.append(_end(chat, measured))
    lines.append(_begin(flight, chat, measured))
    length = _length(flight, chat, measured)
    lines += [length, _share(measured, frozenset(length.rows if flight.policy == "drop" else ()))]
    lines.append(_special(measured))
    return [*lines, *files(flight.model, chat, flight.targets, flight.workspace, full=flight.full)]


def targets(entry: TrainSection) -> list[str | list[str]]:
    """The weights that the adapter of a training section names."""
    given = entry.adapter.options.get("targets")
    return [given] if given is not None else []


def text(lines: Sequence[Line]) -> str:
    """One line a check, with its fix where it is red."""
    shown = []
    for line in lines:
        rows = f" (rows {', '.join(line.rows[:20])}{', ...' if len(line.rows) > 20 else ''})" if line.rows else ""
        shown.append(f"{line.status:<4} {line.check:<11} {line.detail}{rows}" + (f"; fix: {line.fix}" if line.status == "red" else ""))
    return "\n".join(shown)


def _rows(flight: Flight) -> Line:
    refused = flight.dialogues.rejected
    total = len(refused) + len(flight.dialogues.table)
    detail = f"{len(flight.dialogues.table)} of {total} rows are right"
    if len(refused) > MALFORMED * total:
        return Line("rows", "red", detail, "mend them: planish check says what is wrong with each", tuple(row.row_id or str(row.line) for row in refused))
    return Line("rows", "ok", detail)


def _faulty(measured: Measured, *codes: RejectCode) -> tuple[tuple[str, ...], str]:
    """Rows with one of these faults, and what the first of them says."""
    found = [(id, fault) for id, fault in measured.faults() if fault.code in codes]
    return tuple(id for id, _ in found), found[0][1].why if found else ""


def _template(chat: Chat, measured: Measured) -> Line:
    rows, why = _faulty(measured, RejectCode.UNKNOWN_ROLE, RejectCode.ROLE_ORDER)
    if rows:
        return Line("template", "red", f"{len(rows)} rows cannot be written: {why}", "leave those turns out, or use a template that has a place for them", rows)
    clock = "; its text depends on the day it is rendered" if chat.template.reads_the_clock else ""
    return Line("template", "ok", f"{chat.template_hash[:12]} writes every turn{clock}")


def _parity(flight: Flight, chat: Chat, measured: Measured) -> Line:
    rows, why = _faulty(measured, RejectCode.NOT_A_PREFIX)
    fix = "train the last answer alone (turns: last), or use a template whose history keeps what it said"
    if rows:
        return Line("parity", "red", f"{len(rows)} rows: what is served is not what is trained: {why}", fix, rows)
    sampled = 0
    for row, masked in _sample(flight, chat, measured):
        sampled += 1
        for span in masked.spans:
            if masked.ids[: span.start] != chat.prompt(row.messages[: span.turn], row.tools):
                return Line("parity", "red", "the ids of a prompt as served are not those it is trained with", fix, (row.id,))
        written = chat.text(row.messages[: masked.spans[-1].turn + 1], prompt=False, tools=row.tools)
        theirs = [int(id) for id in chat.tokenizer(written, add_special_tokens=False)["input_ids"]]
        if masked.ids != theirs[: len(masked.ids)]:
            return Line("parity", "red", "the ids are not the tokenizer's own", "report it with this row: it is a fault of planish", (row.id,))
    return Line("parity", "ok", f"prompts are trained as they are evaluated and served; {sampled} rows tokenised a second time")


def _sample(flight: Flight, chat: Chat, measured: Measured) -> Iterator[tuple[ChatRow, Masked]]:
    """Rows spread over the whole table."""
    good = [place for place, row in enumerate(measured.rows) if row.fault is None]
    for place in islice(good, 0, None, max(1, len(good) // SAMPLED)):
        row = flight.dialogues.table[place]
        assert isinstance(row, ChatRow)
        masked = chat.masks([Dialogue(row.messages, row.tools)], flight.turns)[0]
        assert isinstance(masked, Masked)
        yield row, masked


def _end(chat: Chat, measured: Measured) -> Line:
    rows, why = _faulty(measured, RejectCode.EOS_MISSING)
    if rows:
        fix = "name the id that the template writes in generation_config.json: eos_token_id, or write the end token in the template"
        return Line("end", "red", f"{len(rows)} rows would never learn to stop: {why}", fix, rows)
    return Line("end", "ok", f"{chat.tokenizer.convert_ids_to_tokens(chat.end)} ends every trained answer and is trained")


def _begin(flight: Flight, chat: Chat, measured: Measured) -> Line:
    rows, why = _faulty(measured, RejectCode.DOUBLE_BOS)
    if rows:
        return Line("begin", "red", f"{len(rows)} rows: {why}", "take the begin token out of the template, or out of the rows", rows)
    adds = chat.bos is not None and chat.tokenizer("a")["input_ids"][:1] == [chat.bos]
    first = next(_sample(flight, chat, measured), None)
    if adds and first is not None and first[1].ids[0] != chat.bos:
        why = "the tokenizer begins a text with its begin token, and the template writes none"
        return Line("begin", "red", why, "write {{ bos_token }} at the beginning of the template")
    return Line("begin", "ok", "one begin token" if first is not None and first[1].ids[0] == chat.bos else "the family has no begin token")


def _length(flight: Flight, chat: Chat, measured: Measured) -> Line:
    limit = flight.max_length if flight.max_length is not None else _stated(flight, chat)
    lengths = measured.lengths.tolist()
    if not lengths:
        return Line("length", "ok", "no row to measure")
    whole, most = suggested(lengths, 1.0), suggested(lengths)
    told = f"longest {max(lengths)}, 99 % within {most}"
    if limit is None:
        return Line("length", "ok", f"{told}; no limit is given")
    cut = []
    for place, (id, row) in enumerate(zip(measured.ids, measured.rows, strict=True)):
        if row.fault is None and row.length > limit and _unfit(flight, chat, place, limit):
            cut.append(id)
    happens = "rows would be left out" if flight.policy == "drop" else "answers would be cut"
    detail = f"{len(cut)} of {len(lengths)} {happens} at max_length {limit}; {told}"
    if len(cut) > (DROPPED * len(lengths) if flight.policy == "drop" else 0):
        lost = sum(length > most for length in lengths)
        return Line("length", "red", detail, f"max_length {whole} cuts none; {most} with policy drop leaves out {lost}", tuple(cut))
    return Line("length", "ok", detail, "", tuple(cut))


def _unfit(flight: Flight, chat: Chat, place: int, limit: int) -> bool:
    row = flight.dialogues.table[place]
    assert isinstance(row, ChatRow)
    dialogue = Dialogue(row.messages, row.tools)
    masked = chat.masks([dialogue], flight.turns)[0]
    assert isinstance(masked, Masked)
    try:
        fit(chat, dialogue, masked, limit, flight.policy, flight.turns)
    except Refused:
        return True
    return False


def _stated(flight: Flight, chat: Chat) -> int | None:
    """What the model can read at most, as its files say."""
    stated = [config(flight.model).get("max_position_embeddings"), chat.tokenizer.model_max_length]
    return min((int(limit) for limit in stated if limit is not None and limit < 10**9), default=None)


def _share(measured: Measured, dropped: frozenset[str]) -> Line:
    rows, why = _faulty(measured, RejectCode.NO_SCORED_TOKENS)
    if rows:
        return Line("share", "red", f"{len(rows)} rows: {why}", "give each row an answer, or take it out", rows)
    everything = tuple(id for id, row in zip(measured.ids, measured.rows, strict=True) if row.length and row.scored >= row.length - 1)
    if everything:
        return Line("share", "red", f"{len(everything)} rows would be trained whole, question and all", "give the question as a turn of its own", everything)
    kept = [row for id, row in zip(measured.ids, measured.rows, strict=True) if id not in dropped]
    scored, tokens = sum(row.scored for row in kept), sum(row.length for row in kept)
    return Line("share", "ok", f"{scored} of {tokens} tokens are trained ({scored / max(tokens, 1):.1%})")


def _special(measured: Measured) -> Line:
    found = {id: row.special for id, row in zip(measured.ids, measured.rows, strict=True) if row.special is not None}
    if found:
        named = ", ".join(sorted(set(found.values())))
        return Line("special", "red", f"{len(found)} rows spell {named} in their text, which is read as that token", "take it out of the text", tuple(found))
    return Line("special", "ok", "no text spells a special token")
