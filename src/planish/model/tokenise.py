"""Making a token store: every row rendered, tokenised and masked once, on every core, in bounded memory (MISSION K6)."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain, groupby, islice
from json.encoder import encode_basestring
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from planish.data.parallel import map_chunks, uncollected
from planish.data.plain_dialogue import talk
from planish.data.spool import Spool
from planish.data.table import ROW, Table, line_of
from planish.data.task import Task
from planish.model import token_part
from planish.model.chat import Chat
from planish.model.fit import Policy, fit
from planish.model.mask import Dialogue, Masked, Turns
from planish.model.template import Refused
from planish.model.token_part import Encoded, Part, Runs
from planish.model.token_store import ARRAYS, MANIFEST, TokenStore
from planish.rows import RejectCode, Row, canonical_json, content_hash
from planish.store.objects import file_hash, write_folder

if TYPE_CHECKING:
    from planish.model.example import Example

FORMAT = 2
"""Of the key: raised when the same options come to mean other tokens."""
CHUNK = 1024
"""Rows tokenised together: enough for the batch to pay, few enough to stay in the processor's cache."""


@dataclass(frozen=True)
class How:
    """What is made of a row, and the part of the cache key that says so.

    `model` is the folder of the tokenizer. `task` makes dialogues of rows, for SFT and whatever else reads dialogues. `encode` is an objective's own, for rows of
    several sequences: it must be picklable, and `meaning` must say which it is, with its options. `template` as in Chat.load; `turns`, `max_length` and `policy`
    as in mask and fit.
    """

    model: Path
    template: str | None = None
    turns: Turns = "all"
    max_length: int | None = None
    policy: Policy = "refuse"
    task: Task | None = None
    encode: Callable[[Any, Chat], Example] | None = None
    meaning: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.encode is not None and not self.meaning:
            raise ValueError("an objective's own encoding needs its `meaning`, or another one's store would be taken for its own")

    @property
    def takes_dialogues(self) -> bool:
        """Whether a dialogue is made into tokens as it stands."""
        return self.encode is None and (self.task is None or "chat" in self.task.kind.rows)

    @property
    def key(self) -> dict[str, Any]:
        """By content: the tokenizer's files, the template and every option."""
        names = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
        files = {name: file_hash(self.model / name) for name in (*names, "generation_config.json", "config.json") if (self.model / name).is_file()}
        options = {"template": self.template, "turns": self.turns, "max_length": self.max_length, "policy": self.policy, "meaning": dict(self.meaning)}
        task = self.task.model_dump(mode="json") if self.task is not None else None
        return {"format": FORMAT, "tokenizer": files, "task": task, **options}


@uncollected()
def build(rows: Table | Iterable[Row], how: How, root: Path, *, content: str | None = None) -> TokenStore:
    """The store of these rows under `root`: the one that is there, or a new one that appears only complete.

    `content` is the hash of the rows where it is known; else they are read once more to make it, so they must be a Table or a list. A row that cannot be trained on is a
    fault of the store, not an error.
    """
    key = how.key
    folder = root / content_hash({"rows": content or _hash(rows), **key})
    if not (folder / MANIFEST).is_file():
        tokenizer = content_hash(key["tokenizer"])
        _chat(how.model, how.template, tokenizer)  # opened before the fork, so that every process has it
        items: Iterable[Any] = zip(rows.ids, rows.at.tolist(), strict=True) if isinstance(rows, Table) else rows
        chunks = map_chunks(partial(_chunk, how, tokenizer, rows.spool if isinstance(rows, Table) else None), items, chunk=CHUNK)
        write_folder(folder, lambda partial_folder: _write(partial_folder, chain.from_iterable(chunks), how))
    return TokenStore(folder)


def _chunk(how: How, tokenizer: str, spool: Spool | None, items: list[Any]) -> list[Part]:
    """The arrays of some rows, which are given as they are, or by their ids and places in a spool.

    Rows that only talk are laid out without being rendered. The first of them is rendered all the same: where the two differ, which they never should, all are.
    """
    chat = _chat(how.model, how.template, tokenizer)
    if spool is None:
        return [token_part.of_rows([row.id for row in items], _rendered(items, how, chat))]
    ids, places = zip(*items, strict=True)
    lines = list(spool.lines(places))
    laid = chat.plain_masks.masks([talk(line) if how.takes_dialogues else None for line in lines], how.turns)
    known = laid.known & (np.diff(laid.starts) <= how.max_length) if how.max_length is not None else laid.known
    sample = int(known.argmax())
    if known.any() and not token_part.of_laid([""], laid, sample).same(token_part.of_rows([""], _rendered([ROW.validate_json(lines[sample])], how, chat))):
        known = np.zeros(len(lines), bool)
    others = _rendered([ROW.validate_json(line) for line, is_known in zip(lines, known, strict=True) if not is_known], how, chat)
    parts, first = list[Part](), 0
    for is_known, run in groupby(known.tolist()):
        names = ids[first : first + len(list(run))]
        parts.append(token_part.of_laid(names, laid, first) if is_known else token_part.of_rows(names, islice(others, len(names))))
        first += len(names)
    return parts


def _rendered(rows: list[Row], how: How, chat: Chat) -> Iterator[Encoded | Refused]:
    """Each row's sequences as ids with scored runs, and its share, by rendering it, or by the objective's own encoding; or why it is refused."""
    dialogues: list[Any] = [how.task.conversation(row) for row in rows] if how.task is not None else rows
    if how.encode is not None:
        for row in dialogues:
            try:
                yield _of_example(how.encode(row, chat), how.max_length)
            except Refused as why:
                yield why
        return
    asked = [Dialogue(row.messages, row.tools) for row in dialogues]
    for dialogue, masked in zip(asked, chat.masks(asked, how.turns), strict=True):
        if isinstance(masked, Refused):
            yield masked
            continue
        try:
            parts = [masked] if how.max_length is None else fit(chat, dialogue, masked, how.max_length, how.policy, how.turns)
        except Refused as why:
            yield why
            continue
        made = [_encoded(part) for part in parts]
        yield made, float(sum(_share(part) for part in parts))


def _encoded(masked: Masked) -> tuple[NDArray[np.int32], Runs, tuple[float, ...]]:
    return np.array(masked.ids, np.int32), [(span.start, span.stop, span.weight) for span in masked.spans], ()


def _share(masked: Masked) -> float:
    return sum(span.weight * (span.stop - span.start) for span in masked.spans)


def _of_example(example: Example, max_length: int | None) -> Encoded:
    longest = max(len(sequence.ids) for sequence in example.sequences)
    if max_length is not None and longest > max_length:
        raise Refused(RejectCode.ANSWER_TRUNCATED, f"{longest} tokens, max_length is {max_length}: an answer would be cut")
    return [(np.array(sequence.ids, np.int32), token_part.runs(sequence.weights), sequence.given) for sequence in example.sequences], example.share


def _write(folder: Path, parts: Iterable[Part], how: How) -> None:
    """Append each chunk to the files; places are moved on by what came before."""
    counts = {"rows": 0, "sequences": 0, "tokens": 0, "scored": 0, "given": 0, "faults": 0}
    with ExitStack() as opened:
        files = {name: opened.enter_context((folder / f"{name}.bin").open("wb")) for name in ARRAYS}
        names, faults = (opened.enter_context((folder / name).open("w", encoding="utf-8")) for name in ("row_ids.txt", "faults.jsonl"))
        for part in parts:
            moved = part.arrays | {"ends": part.arrays["ends"] + counts["tokens"], "spans": part.arrays["spans"] + counts["tokens"]}
            moved["rows"] = part.arrays["rows"] + counts["sequences"]
            moved["given_ends"] = part.arrays["given_ends"] + counts["given"]
            for name, values in moved.items():
                files[name].write(values.astype(ARRAYS[name]).tobytes())
            names.writelines([f"{encode_basestring(name)}\n" for name in part.row_ids])
            faults.writelines(f"{canonical_json(list(fault))}\n" for fault in part.faults)
            spans = part.arrays["spans"].reshape(-1, 2)
            added = (
                len(part.row_ids),
                len(part.arrays["ends"]),
                len(part.arrays["ids"]),
                int((spans[:, 1] - spans[:, 0]).sum()),
                len(part.arrays["given"]),
                len(part.faults),
            )
            counts = {name: counts[name] + more for name, more in zip(counts, added, strict=True)}
    (folder / MANIFEST).write_text(canonical_json({"counts": counts, "made_from": how.key}), encoding="utf-8")


def _hash(rows: Table | Iterable[Row]) -> str:
    if isinstance(rows, Iterator):
        raise ValueError("rows that can be read only once need their hash in `content`")
    digest = hashlib.sha256()
    for line in rows.lines() if isinstance(rows, Table) else map(line_of, rows):
        digest.update(line)
    return digest.hexdigest()


@lru_cache(maxsize=2)
def _chat(model: Path, template: str | None, tokenizer: str) -> Chat:
    """The tokenizer, opened once a process, and anew where its files have another hash; what is loaded by then is left out of garbage collection: half the time."""
    chat = Chat.load(model, template)
    gc.collect()
    gc.freeze()
    return chat
