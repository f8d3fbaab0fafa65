"""What a row is: its shapes, where it came from, and the reasons for which one is refused."""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class RejectCode(StrEnum):
    """Why a row was refused (MISSION D2). The codes are stable: scripts may rely on them."""

    BAD_JSON = "bad_json"
    UNKNOWN_SHAPE = "unknown_shape"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    EMPTY_ANSWER = "empty_answer"
    NO_ASSISTANT_TURN = "no_assistant_turn"
    ROLE_ORDER = "role_order"
    LABEL_UNKNOWN = "label_unknown"
    LABEL_CONFLICT = "label_conflict"
    CHOSEN_EQUALS_REJECTED = "chosen_equals_rejected"
    SPAN_OUT_OF_RANGE = "span_out_of_range"
    TOOL_UNKNOWN = "tool_unknown"
    TOOL_ARGS_INVALID = "tool_args_invalid"
    TOO_LONG = "too_long"
    ANSWER_TRUNCATED = "answer_truncated"
    DUPLICATE = "duplicate"
    NEAR_DUPLICATE = "near_duplicate"
    GOLD_OVERLAP = "gold_overlap"
    PII = "pii"
    BAD_ENCODING = "bad_encoding"
    NO_SCORED_TOKENS = "no_scored_tokens"
    NOT_A_PREFIX = "not_a_prefix"
    UNKNOWN_ROLE = "unknown_role"
    SECRET = "secret"
    GROUP_LEAK = "group_leak"
    EOS_MISSING = "eos_missing"
    DOUBLE_BOS = "double_bos"


class NoteCode(StrEnum):
    """What a check points out without refusing the row: it is counted and shown, and the row stays."""

    MISLABEL_SUSPECTED = "mislabel_suspected"
    CLASS_RARE = "class_rare"
    CLASS_IMBALANCE = "class_imbalance"
    LANGUAGE_OTHER = "language_other"
    LENGTH_OUTLIER = "length_outlier"
    MOJIBAKE = "mojibake"
    CONTROL_CHARACTERS = "control_characters"
    BOILERPLATE = "boilerplate"
    REFUSAL = "refusal"
    CUT_OFF = "cut_off"
    STYLE = "style"
    UNGROUNDED = "ungrounded"
    REPETITION = "repetition"
    ANSWER_IN_PROMPT = "answer_in_prompt"
    PROMPT_IN_ANSWER = "prompt_in_answer"
    LENGTH_BIAS = "length_bias"
    TIE = "tie"
    CONTRADICTION = "contradiction"
    ANNOTATORS_DISAGREE = "annotators_disagree"
    OFF_POLICY = "off_policy"
    ALL_TOKENS_SCORED = "all_tokens_scored"
    SPECIAL_TOKEN = "special_token"


MALFORMED = frozenset(
    {
        RejectCode.BAD_JSON,
        RejectCode.UNKNOWN_SHAPE,
        RejectCode.MISSING_FIELD,
        RejectCode.WRONG_TYPE,
        RejectCode.BAD_ENCODING,
        RejectCode.EMPTY_ANSWER,
        RejectCode.NO_ASSISTANT_TURN,
        RejectCode.ROLE_ORDER,
        RejectCode.LABEL_UNKNOWN,
    }
)
"""Codes that count towards the 5 % at which the prepare stage stops; the others are counted and never stop it by that rule."""


class Noun(BaseModel):
    """A value that is compared and stored by content."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ToolCall(Noun):
    """A call that an assistant turn makes. `arguments` is always the object, however the file wrote it; `id` pairs the call with its result."""

    name: str
    arguments: dict[str, Any] = {}
    id: str | None = None


class Message(Noun):
    """One turn. `weight` 0 keeps an assistant turn out of the loss. A turn that only calls tools has empty content; a tool's result names its call."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    weight: float | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


class Origin(Noun):
    """Where a row was read: file name, 1-based line, and the sha256 of the raw line."""

    file: str
    line: int
    sha256: str


class RowBase(Noun):
    """What every shape has. `group` is the split key: rows of one group never cross splits. `extra` keeps the columns no shape names."""

    id: str
    origin: Origin
    group: str | None = None
    extra: dict[str, Any] = {}


class LabelRow(RowBase):
    """classification: `text, label`."""

    shape: Literal["label"] = "label"
    text: str
    label: str


class ChatRow(RowBase):
    """chat: `messages[{role, content, weight?, tool_calls?}]`, and the catalogue of tools that were on offer, as JSON Schema functions."""

    shape: Literal["chat"] = "chat"
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()


class PromptCompletionRow(RowBase):
    """`prompt, completion`."""

    shape: Literal["prompt_completion"] = "prompt_completion"
    prompt: str
    completion: str


class TextRow(RowBase):
    """`text` alone: documents for continued pretraining."""

    shape: Literal["text"] = "text"
    text: str


class Entity(Noun):
    """A span of a text: characters `start` to `end`, the end not included."""

    type: str
    start: int
    end: int


class ExtractionRow(RowBase):
    """extraction: `text` with the `entities` in it, or with the JSON object `fields` that it says; exactly one of the two."""

    shape: Literal["extraction"] = "extraction"
    text: str
    entities: tuple[Entity, ...] | None = None
    fields: dict[str, Any] | None = None


class SummaryRow(RowBase):
    """summarization: `document, summary`."""

    shape: Literal["summary"] = "summary"
    document: str
    summary: str


class QuestionRow(RowBase):
    """QA: `question, answer`, with the documents it is answered from, if any (one under `context`, several under `documents`)."""

    shape: Literal["question"] = "question"
    question: str
    answer: str
    documents: tuple[str, ...] = ()


class PreferenceRow(RowBase):
    """preference: a dialogue up to the question, a better and a worse continuation."""

    shape: Literal["preference"] = "preference"
    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()


class UnpairedRow(RowBase):
    """unpaired preference: a dialogue up to the question, one continuation, and whether it is good."""

    shape: Literal["unpaired"] = "unpaired"
    prompt: tuple[Message, ...]
    completion: tuple[Message, ...]
    label: bool


class StepsRow(RowBase):
    """Process supervision: a prompt, the steps of a solution, and whether each is right."""

    shape: Literal["steps"] = "steps"
    prompt: str
    completions: tuple[str, ...]
    labels: tuple[bool, ...]


Row = Annotated[
    LabelRow | ChatRow | PromptCompletionRow | TextRow | ExtractionRow | SummaryRow | QuestionRow | PreferenceRow | UnpairedRow | StepsRow,
    Field(discriminator="shape"),
]


class RejectedRow(Noun):
    """A refused row, kept aside: nothing is lost (MISSION R-2)."""

    file: str
    line: int
    row_id: str | None
    code: RejectCode
    why: str
    fix: str
    raw: str


class Sample(Noun):
    """One row of a gold set: what is asked (with the tools on offer), what is right, and the slices it counts in.

    `pair`: the better and the worse continuation of a preference row, turn by turn; `judged`: the one continuation of an unpaired row, and whether it is good; both None, and
    no part of the hash, for any other.
    """

    id: str
    messages: tuple[Message, ...]
    target: str
    tools: tuple[dict[str, Any], ...] = ()
    slices: dict[str, str] = {}
    group: str | None = None
    pair: Annotated[tuple[tuple[Message, ...], tuple[Message, ...]] | None, Field(exclude_if=lambda pair: pair is None)] = None
    judged: Annotated[tuple[tuple[Message, ...], bool] | None, Field(exclude_if=lambda judged: judged is None)] = None


class GoldSet(Noun):
    """A sealed evaluation set. `sha256` is over the canonical samples; the trainer has no parameter of this type."""

    version: int
    sha256: str
    labels: tuple[str, ...] = ()
    samples: tuple[Sample, ...]

    @staticmethod
    def seal(samples: tuple[Sample, ...], labels: tuple[str, ...] = (), version: int = 1) -> GoldSet:
        """Hash the samples in order and lock them."""
        return GoldSet(version=version, sha256=content_hash([sample.model_dump(mode="json") for sample in samples]), labels=labels, samples=samples)


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN. Hashes are made over it."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def content_hash(value: Any) -> str:
    """sha256 (hex) of the canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
