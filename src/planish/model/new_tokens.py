"""Vocabulary extension: the domain's frequent words that a tokenizer breaks into many pieces become tokens of their own (MISSION C2).

    fertility   tokens / words                         a word is what stands between spaces
    saving      sum of count * (pieces - 1) / tokens   what the new tokens take away
    new row     mean of the rows of its old pieces     (1,0), (0,1) -> (.5,.5); in the head as well where it is not tied
    parameters  tokens * hidden * (1 tied, 2 not)      1,000 tokens, H = 576, tied -> 576,000

A new token is a whole word of the tokenizer's own splitting, with its space; merging stays what it was for every other word, so that old text keeps its ids.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planish.errors import InputError, Problem
from planish.model.chat import Chat, Refused
from planish.rows import Message

ABOUT = "new_tokens.json"
"""Beside the model: what was added, and whether its rows have been trained."""
_TURNS = (Message(role="user", content="?"), Message(role="assistant", content="!"))
_DIALOGUES = (_TURNS, (Message(role="system", content="?"), *_TURNS))
"""What shows all that a chat template writes around turns: without a system turn some write one of their own."""
LEAST_SAVING, LEAST_TOKENS = 0.10, 10_000_000
"""Below either it is not worth a tokenizer of one's own."""


@dataclass(frozen=True)
class NewToken:
    """`token` as the vocabulary writes it, `text` as it stands in a document, `pieces` the old ids that it replaces."""

    token: str
    text: str
    count: int
    pieces: tuple[int, ...]

    @property
    def saved(self) -> int:
        """Tokens fewer in the documents."""
        return self.count * (len(self.pieces) - 1)


@dataclass(frozen=True)
class Forecast:
    """What the new tokens would do for the documents: `words` and `tokens` as they are now."""

    new: tuple[NewToken, ...]
    words: int
    tokens: int

    @property
    def saving(self) -> float:
        """Share of the tokens that is saved."""
        return sum(one.saved for one in self.new) / max(1, self.tokens)

    @property
    def fertility(self) -> tuple[float, float]:
        """Tokens a word, before and after."""
        return self.tokens / max(1, self.words), self.tokens * (1 - self.saving) / max(1, self.words)

    @property
    def advice(self) -> str | None:
        """Why to leave the vocabulary as it is; None where nothing speaks against an extension."""
        found = []
        if self.saving < LEAST_SAVING:
            found.append(f"it saves {self.saving:.1%} of the tokens, and under {LEAST_SAVING:.0%} is not worth a tokenizer of one's own")
        if self.tokens < LEAST_TOKENS:
            found.append(f"{self.tokens:,} tokens of documents are too few to teach new rows; {LEAST_TOKENS:,} is the least")
        return "; ".join(found) or None


def find(chat: Chat, texts: Iterable[str], count: int, *, least_count: int = 20, least_pieces: int = 3) -> Forecast:
    """The `count` words of the documents whose own token would save most; those that are seen `least_count` times, made of letters, and now of `least_pieces` pieces.

    A word that the chat template writes around turns stays in its pieces: the model knows its frame in those, and would have to learn to be asked.

    Raises InputError for a tokenizer that does not split text into words before it merges, and for options that choose nothing."""
    backend = _backend(chat)
    if count < 1 or least_count < 1 or least_pieces < 2:
        raise InputError(Problem("vocabulary", "--tokens and the least count are 1 or more, the least pieces 2 or more", "give 1000, 20 and 3"))
    seen: Counter[str] = Counter()
    words = 0
    for text in texts:
        words += len(text.split())
        seen.update(_words(backend, text))
    pieces = {word: tuple(token.id for token in backend.model.tokenize(word)) for word in seen}
    tokens = sum(times * len(pieces[word]) for word, times in seen.items())
    known = backend.get_vocab().keys() | {word for text in _frames(chat) for part in chat.tokens.at_added(text) for word in _words(backend, part)}
    found = [
        NewToken(word, text, times, pieces[word])
        for word, times in seen.items()
        if times >= least_count and len(pieces[word]) >= least_pieces and word not in known and (text := _text(backend, word)).strip().isalpha()
    ]
    found.sort(key=lambda one: (-one.saved, one.token))
    return Forecast(tuple(found[:count]), words, tokens)


def parameters(count: int, hidden: int, *, tied: bool) -> int:
    """How many parameters `count` rows are."""
    return count * hidden * (1 if tied else 2)


def extended(tokenizer: dict[str, Any], new: Seq[NewToken]) -> tuple[dict[str, Any], int]:
    """A tokenizer.json with the new tokens behind all others, and the id of the first. Raises InputError, with every clash, for a token that is there already."""
    model = tokenizer["model"]
    old: dict[str, int] = model["vocab"]
    added = {entry["content"]: int(entry["id"]) for entry in tokenizer.get("added_tokens", [])}
    twice = [token for token, times in Counter(one.token for one in new).items() if times > 1]
    clashes = [Problem(f"token {one.token!r}", f"has the id {(old | added)[one.token]} already", "leave it out") for one in new if one.token in old | added]
    clashes += [Problem(f"token {token!r}", "is added twice", "name it once") for token in twice]
    if clashes:
        raise InputError(*clashes)
    first = max([*old.values(), *added.values()], default=-1) + 1
    vocab = {**old, **{one.token: first + place for place, one in enumerate(new)}}
    # A word that is in the vocabulary is taken whole; without this it would have to be merged from below, and so would parts of other words.
    return {**tokenizer, "model": {**model, "vocab": vocab, "ignore_merges": True}}, first


def check(before: Chat, after: Chat, new: Seq[NewToken], first: int, texts: Iterable[str]) -> None:
    """Raises InputError unless every new token is one id and is read back, a dialogue has the ids it had, and every text has its old ids once new ones are taken apart."""
    problems = []
    fix = "leave the word out; where it is many, the tokenizer cannot be extended this way"
    for place, one in enumerate(new):
        if after.encode(one.text) != [first + place] or after.decode([first + place]) != before.decode(one.pieces):
            problems.append(Problem(f"token {one.token!r}", f"{one.text!r} does not become the one id {first + place} and back", fix))
    apart = {first + place: one.pieces for place, one in enumerate(new)}
    for text in texts:
        if [id for whole in after.encode(text) for id in apart.get(whole, (whole,))] != before.encode(text):
            problems.append(Problem(f"text {text[:40]!r}", "has other ids than before, beyond the new tokens", fix))
    if any(after.encode(dialogue) != before.encode(dialogue) for dialogue in _frames(before)):
        problems.append(Problem("the chat template", "a new token stands in what it writes around turns", "leave that word out"))
    if problems:
        raise InputError(*problems[:20])


def grow(model: Any, first: int, new: Seq[NewToken]) -> int:
    """Give the new ids their rows, each the mean of its pieces' rows, in the embeddings and in a head of its own. Returns the rows by which the matrices grew: a padded
    vocabulary has room."""
    import torch

    rows = int(model.get_input_embeddings().weight.shape[0])
    grown = max(0, first + len(new) - rows)
    if grown:
        model.resize_token_embeddings(first + len(new), mean_resizing=False)
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    tables = [embeddings.weight] if head is None or head.weight is embeddings.weight else [embeddings.weight, head.weight]
    tables += [head.bias] if getattr(head, "bias", None) is not None else []
    with torch.no_grad():
        for place, one in enumerate(new):
            for table in tables:
                table[first + place] = table[list(one.pieces)].float().mean(0).to(table.dtype)
    return grown


def untrained(base: Path) -> int:
    """New rows of a model folder that nothing has trained: of its last extension, and of those before it."""
    path = base / ABOUT
    about = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"steps": 0, "added": 0}
    return int(about.get("untrained_before", 0)) + (0 if about["steps"] else int(about["added"]))


def refusals(base: Path, adapters: Seq[str]) -> list[Problem]:
    """A model whose new rows nothing has trained, and an adapter that neither trains nor saves them: they would stay the mean of their pieces."""
    count = untrained(base)
    if not count or not adapters or adapters[0] == "full":
        return []
    why = f"{adapters[0]} neither trains nor saves the {count} new rows of this model's vocabulary, which are still the mean of their pieces"
    return [Problem("train[0].adapter", why, "planish vocabulary extend --steps N trains them first; or take adapter: full")]


def _backend(chat: Chat) -> Any:
    """The tokenizer's own engine, which must be a BPE over words."""
    backend: Any = getattr(chat.tokenizer, "backend_tokenizer", None)
    kind = type(backend.model).__name__ if backend is not None else "no fast tokenizer"
    if kind != "BPE" or backend.pre_tokenizer is None:
        why = f"is {kind}" if kind != "BPE" else "merges over whole texts, without words"
        fix = "leave the vocabulary as it is; continued pretraining works without"
        raise InputError(Problem("the tokenizer", f"{why}: a word has no token of its own there", fix))
    return backend


def _frames(chat: Chat) -> list[str]:
    """Dialogues that say next to nothing, as the chat template writes them; none with a system turn where it has no place for one."""
    found = []
    for dialogue in _DIALOGUES:
        try:
            found.append(chat.text(dialogue, prompt=False))
        except Refused:
            continue
    return found


def _words(backend: Any, text: str) -> list[str]:
    """A text as the tokenizer itself splits it, before anything is merged."""
    plain = backend.normalizer.normalize_str(text) if backend.normalizer is not None else text
    return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(plain)]


def _text(backend: Any, word: str) -> str:
    return str(backend.decoder.decode([word])) if backend.decoder is not None else word
