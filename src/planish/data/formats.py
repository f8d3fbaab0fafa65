"""The formats of rows, told by their keys, and what each becomes (MISSION D1). Files are read by `containers`; the rows are judged by `contract`.

Sources: OpenAI's fine-tuning files, TRL's data set formats, Stanford Alpaca, ShareGPT, LLaMA-Factory's and ms-swift's custom data sets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

from planish.data import dialogues
from planish.data.containers import Record, read_records
from planish.data.fault import Fault, Refused
from planish.data.json_text import structure
from planish.rows import RejectCode

__all__ = ["FORMATS", "Fault", "Format", "Record", "detect", "fitting", "holds", "read_records"]

Value = dict[str, Any]


@dataclass(frozen=True)
class Format:
    """A way to write a row of `shape`.

    A record has this format when it holds all of `keys`, nothing under `never`, and `when` says so of its values. `reads` are optional columns that it means
    something by. `content` makes the shape's own keys from it (None: they stand there), and under `extra` what it has no place for; any other column is the row's
    `extra` too.
    """

    name: str
    shape: str
    keys: tuple[str, ...]
    reads: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    when: Callable[[Value], bool] | None = None
    content: Callable[[Value], Value] | None = None

    @cached_property
    def own(self) -> frozenset[str]:
        """The columns that it means something by."""
        return frozenset(self.keys + self.reads)

    def fits(self, value: Value) -> bool:
        """Whether a record that has the keys is of this format."""
        return not any(holds(value, key) for key in self.never) and (self.when is None or self.when(value))


def holds(value: Value, key: str) -> bool:
    """Whether a record has something under `key`; null, an empty list and an empty cell are nothing."""
    return key in value and value[key] is not None and value[key] not in ([], "")


def _judged(value: Value) -> bool:
    """Whether `label` says good or bad, in whatever type: such a row has to be read as a judged one, or its bad answers would be trained."""
    label = value["label"]
    return isinstance(label, bool | int | float) or (isinstance(label, str) and label.strip().lower() in ("true", "false", "0", "1"))


def _not_judged(value: Value) -> bool:
    return not ("label" in value and _judged(value))


def _lists(*keys: str) -> Callable[[Value], bool]:
    """Whether messages, not text, stand under the keys."""
    return lambda value: all(
        isinstance(item := dialogues.structure_of_turns(value[key]), list) and not any(isinstance(turn, str) for turn in item) for key in keys
    )


def _question(value: Value) -> Value:
    """`question, answer` or SQuAD's `answers{text}`, of which the first counts and all are kept; what it is answered from under `context` or `documents`."""
    context, documents = value.get("context"), structure(value.get("documents"))
    if dialogues.nothing(documents):
        documents = [] if dialogues.nothing(context) else [context]
    elif not dialogues.nothing(context):
        raise Refused(RejectCode.WRONG_TYPE, "has both a context and documents", "keep one of the two")
    if "answer" in value:
        return {"question": value["question"], "answer": value["answer"], "documents": documents}
    answers = structure(value["answers"])
    answer = answers.get("text") if isinstance(answers, dict) else answers
    if isinstance(answer, list):
        answer = answer[0] if answer else None
    return {"question": value["question"], "answer": answer, "documents": documents, "extra": {"answers": value["answers"]}}


_BAD = ("kto_tag", "rejected_response", "rejected_messages")
"""Columns without which a row would teach its bad answer."""

_PAIR = (*_BAD, "chosen", "rejected")
_TOLD = ("system", "history", "tools")


def _judged_dialogues(name: str, keys: tuple[str, ...], reads: tuple[str, ...], read: Callable[[Value], Value]) -> tuple[Format, Format]:
    """A format of dialogues with a verdict on the last answer: LLaMA-Factory's `kto_tag` and ms-swift's `label`."""
    tagged = Format(f"{name}_kto_tag", "unpaired", (*keys, "kto_tag"), reads=reads, content=partial(dialogues.judged, read, "kto_tag"))
    return tagged, Format(f"{name}_kto", "unpaired", (*keys, "label"), reads=reads, when=_judged, content=partial(dialogues.judged, read, "label"))


FORMATS = (
    Format("dpo", "preference", ("prompt", "chosen", "rejected"), reads=("tools",), content=dialogues.preference),
    Format("openai_preference", "preference", ("input", "preferred_output", "non_preferred_output"), content=dialogues.openai_preference),
    Format("sharegpt_preference", "preference", ("conversations", "chosen", "rejected"), reads=("system", "tools"), content=dialogues.told_preference),
    Format("alpaca_preference", "preference", ("instruction", "chosen", "rejected"), reads=("input", *_TOLD), content=dialogues.told_preference),
    Format("swift_messages", "preference", ("messages", "rejected_messages"), reads=("tools",), content=dialogues.swift_preference),
    Format("swift_response", "preference", ("messages", "rejected_response"), reads=("tools",), content=dialogues.swift_preference),
    Format("swift_query", "preference", ("query", "response", "rejected_response"), reads=_TOLD, content=dialogues.swift_preference),
    Format(
        "dpo_implicit",
        "preference",
        ("chosen", "rejected"),
        reads=("tools",),
        never=("prompt",),
        when=_lists("chosen", "rejected"),
        content=dialogues.preference,
    ),
    Format("kto", "unpaired", ("prompt", "completion", "label"), content=partial(dialogues.unpaired, "label")),
    Format("kto_tag", "unpaired", ("prompt", "completion", "kto_tag"), content=partial(dialogues.unpaired, "kto_tag")),
    *_judged_dialogues("openai", ("messages",), (), dialogues.messages),
    *_judged_dialogues("sharegpt", ("conversations",), ("system",), dialogues.conversations),
    *_judged_dialogues("alpaca", ("instruction", "output"), ("input", "system", "history"), dialogues.alpaca),
    *_judged_dialogues("query", ("query", "response"), ("system", "history"), dialogues.query),
    Format("prm", "steps", ("prompt", "completions", "labels")),
    Format("openai", "chat", ("messages",), reads=("tools", "functions"), never=_BAD, when=_not_judged, content=dialogues.messages),
    Format(
        "prompt_completion_messages",
        "chat",
        ("prompt", "completion"),
        reads=("tools",),
        never=(*_PAIR, "label"),
        when=_lists("prompt"),
        content=dialogues.prompt_completion,
    ),
    Format("prompt_completion", "prompt_completion", ("prompt", "completion"), never=(*_PAIR, "label")),
    Format("sharegpt", "chat", ("conversations",), reads=("system", "tools"), never=_PAIR, when=_not_judged, content=dialogues.conversations),
    Format("sharegpt_pairs", "chat", ("conversation",), reads=("system",), never=_PAIR, when=_not_judged, content=dialogues.conversation),
    Format("alpaca", "chat", ("instruction", "output"), reads=("input", *_TOLD), never=_PAIR, when=_not_judged, content=dialogues.alpaca),
    Format("query", "chat", ("query", "response"), reads=_TOLD, never=_PAIR, when=_not_judged, content=dialogues.query),
    Format("label", "label", ("text", "label"), never=("entities", "fields")),
    Format("extraction", "extraction", ("text", "entities"), reads=("fields",)),
    Format("extraction_fields", "extraction", ("text", "fields")),
    Format("summary", "summary", ("document", "summary")),
    Format("qa", "question", ("question", "answer"), reads=("context", "documents"), content=_question),
    Format("squad", "question", ("question", "answers"), reads=("context", "documents"), content=_question),
    Format("text", "text", ("text",), never=("label", "entities", "fields")),
)
"""In the order of trial: what says more about a row comes first, and `never` keeps a row of a richer format from being read as half of itself."""


@lru_cache(maxsize=4096)  # the rows of a file share a few sets of keys
def _with_keys(keys: tuple[str, ...]) -> tuple[tuple[Format, bool], ...]:
    """The formats that have all their keys among these, and of each whether the keys alone say that a record is of it."""
    held = set(keys)
    found = [known for known in FORMATS if held.issuperset(known.keys)]
    return tuple((known, held.isdisjoint(known.never) and (known.when is None or (known.when is _not_judged and "label" not in held))) for known in found)


def fitting(value: Value, shape: str | None = None) -> Format | None:
    """The first format of `shape` (None: of any) that the record has. A record asked for its text alone may hold whatever else."""
    for known, sure in _with_keys(tuple(value)):
        if (shape is None or known.shape == shape) and (sure or (shape == "text" and known.name == "text") or known.fits(value)):
            return known
    return None


def detect(value: Value) -> Format | None:
    """The format of a record by its keys, or None when no format has them."""
    return fitting(value)
