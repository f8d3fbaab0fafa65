"""What a row of each shape must hold: its own fields, brought to one form, or Refused with the reason (MISSION D2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from planish.data import dialogues, tool_calls, turns
from planish.data.fault import Refused
from planish.data.json_text import structure
from planish.data.normalise import normalised
from planish.errors import did_you_mean
from planish.rows import RejectCode, canonical_json

Value = dict[str, Any]
Labels = Sequence[str] | None
Fields = Callable[[Value, Labels, Value], Value]
"""(the shape's own keys, the declared labels, a dict for columns of single turns or spans) -> the fields of the row."""


def chat(value: Value, labels: Labels, columns: Value) -> Value:
    """`messages`, and `tools` where some are on offer."""
    made = turns.read(dialogues.turns_of(value["messages"], "messages"), columns)
    turns.answered(made)
    turns.order(made)
    turns.filled(made)
    turns.scored(made)
    return _with_tools(made, value.get("tools"), {"messages": made})


def _with_tools(made: list[Value], tools: Any, fields: Value) -> Value:
    """The fields with the catalogue, calls held to it and results to their calls."""
    offered = tool_calls.catalogue(tools) if tools else []
    if len(made) > 2 or offered or "tool_calls" in made[-1]:
        tool_calls.hold(made, offered)
    if offered:
        fields["tools"] = offered
    return fields


def preference(value: Value, labels: Labels, columns: Value) -> Value:
    """`prompt`, `chosen` and `rejected` as messages."""
    parts = _dialogue(value, ("prompt", "chosen", "rejected"), columns)
    if _said(parts["chosen"]) == _said(parts["rejected"]):
        why = "its chosen and rejected answers are the same but for case and white space"
        raise Refused(RejectCode.CHOSEN_EQUALS_REJECTED, why, "write two different answers, or remove the row")
    for answer in ("chosen", "rejected"):
        _continued(parts["prompt"], parts[answer], answer)
    return _with_tools(parts["prompt"] + parts["rejected"], value.get("tools"), _with_tools(parts["prompt"] + parts["chosen"], value.get("tools"), dict(parts)))


def unpaired(value: Value, labels: Labels, columns: Value) -> Value:
    """`prompt` and `completion` as messages, and `label`, true or false."""
    if not isinstance(value["label"], bool):
        why = f"its label is {value['label']!r}: whether the answer is good must be true or false"
        raise Refused(RejectCode.WRONG_TYPE, why, 'write "label": true, or false; a table cannot')
    if value.get("tools"):
        why = "it offers tools, and the prompt of a judged answer has no place for them"
        raise Refused(RejectCode.UNKNOWN_SHAPE, why, "give pairs with tools (chosen, rejected) for dpo, or leave tools out")
    parts = _dialogue(value, ("prompt", "completion"), columns)
    _continued(parts["prompt"], parts["completion"], "completion")
    tool_calls.hold(parts["prompt"] + parts["completion"], [])
    return parts | {"label": value["label"]}


def _dialogue(value: Value, keys: Sequence[str], columns: Value) -> dict[str, list[Value]]:
    parts = {}
    for key in keys:
        own: Value = {}
        parts[key] = turns.read(dialogues.turns_of(value[key], key), own, f"message of its {key}")
        if own:
            columns[key] = own
    return parts


def _continued(prompt: list[Value], answer: list[Value], key: str) -> None:
    """The answer goes on where the prompt ends."""
    if not prompt:
        raise Refused(RejectCode.MISSING_FIELD, "its prompt is empty", "write the question that was answered")
    if not answer:
        raise Refused(RejectCode.EMPTY_ANSWER, f"its {key} is empty", f"write the {key}, or remove the row")
    turns.order([*prompt, *answer])
    turns.filled([*prompt, *answer])


def _said(messages: list[Value]) -> list[tuple[str, str, str]]:
    return [(message["role"], normalised(message["content"]), canonical_json(message.get("tool_calls", []))) for message in messages]


def text_of(value: Value, key: str, code: RejectCode) -> str:
    """The text under a key that must hold some; `code` is the reason where it holds none."""
    text = value.get(key)
    if text is None or (isinstance(text, str) and not text.strip(turns.BLANK)):
        raise Refused(code, f"its {key} is empty", f"write the {key}, or remove the row")
    if not isinstance(text, str):
        raise Refused(RejectCode.WRONG_TYPE, f"its {key} is a {type(text).__name__}, not text", f'write the {key} in quotes: "{key}": "..."')
    return text


def label(value: Value, labels: Labels, columns: Value) -> Value:
    """`text` and its `label`, one of the declared ones if any are."""
    given = text_of(value, "label", RejectCode.MISSING_FIELD)
    text = text_of(value, "text", RejectCode.EMPTY_ANSWER)
    if labels is not None and given not in labels:
        raise Refused(RejectCode.LABEL_UNKNOWN, f'its label "{given}" is not among the declared ones', did_you_mean(given, labels))
    return {"text": text, "label": given}


def prompt_completion(value: Value, labels: Labels, columns: Value) -> Value:
    """`prompt` and `completion`, both text."""
    prompt = text_of(value, "prompt", RejectCode.MISSING_FIELD)
    return {"prompt": prompt, "completion": text_of(value, "completion", RejectCode.EMPTY_ANSWER)}


def text(value: Value, labels: Labels, columns: Value) -> Value:
    """`text` alone."""
    return {"text": text_of(value, "text", RejectCode.EMPTY_ANSWER)}


def summary(value: Value, labels: Labels, columns: Value) -> Value:
    """`document` and `summary`."""
    document = text_of(value, "document", RejectCode.MISSING_FIELD)
    return {"document": document, "summary": text_of(value, "summary", RejectCode.EMPTY_ANSWER)}


def question(value: Value, labels: Labels, columns: Value) -> Value:
    """`question`, `answer`, and `documents` where there are any."""
    asked = text_of(value, "question", RejectCode.MISSING_FIELD)
    made = {"question": asked, "answer": text_of(value, "answer", RejectCode.EMPTY_ANSWER)}
    documents = value.get("documents") or []
    if not isinstance(documents, list) or not all(isinstance(document, str) for document in documents):
        raise Refused(RejectCode.WRONG_TYPE, "its documents are no list of texts", 'write "documents": ["...", ...], or one text under "context"')
    if not all(document.strip(turns.BLANK) for document in documents):
        raise Refused(RejectCode.MISSING_FIELD, "one of its documents is empty", "write the document, or leave it out")
    return made | ({"documents": documents} if documents else {})


def steps(value: Value, labels: Labels, columns: Value) -> Value:
    """`prompt`, the `completions` that are its steps, and a `labels` true or false for each."""
    prompt = text_of(value, "prompt", RejectCode.MISSING_FIELD)
    said, judged = structure(value["completions"]), structure(value["labels"])
    if not isinstance(said, list) or not all(isinstance(step, str) for step in said):
        raise Refused(RejectCode.WRONG_TYPE, "its completions are no list of texts", 'write "completions": ["first step", ...]')
    if not isinstance(judged, list) or not all(isinstance(mark, bool) for mark in judged):
        raise Refused(RejectCode.WRONG_TYPE, "its labels are no list of true and false", 'write "labels": [true, false, ...]')
    if len(said) != len(judged):
        raise Refused(RejectCode.WRONG_TYPE, f"has {len(said)} steps and {len(judged)} labels", "write one label for each step")
    if not said or not all(step.strip(turns.BLANK) for step in said):
        raise Refused(RejectCode.EMPTY_ANSWER, "a step is empty" if said else "has no step", "write the steps, or remove the row")
    return {"prompt": prompt, "completions": said, "labels": judged}


def extraction(value: Value, labels: Labels, columns: Value) -> Value:
    """`text`, and either the `entities` in it or the `fields` that it says."""
    text = text_of(value, "text", RejectCode.MISSING_FIELD)
    entities, fields = structure(value.get("entities")), structure(value.get("fields"))
    if entities is not None and fields is not None:
        raise Refused(RejectCode.WRONG_TYPE, "has both entities and fields", "keep one of the two")
    if entities is None:
        if not isinstance(fields, dict):
            what = "empty" if fields is None else f"a {type(fields).__name__}, not an object"
            code = RejectCode.MISSING_FIELD if fields is None else RejectCode.WRONG_TYPE
            raise Refused(code, f"its fields are {what}", 'write "fields": {"name": value}')
        return {"text": text, "fields": fields}
    if not isinstance(entities, list) or not all(isinstance(entity, dict) for entity in entities):
        raise Refused(RejectCode.WRONG_TYPE, "its entities are no list of objects", 'write "entities": [{"type": ..., "start": 0, "end": 4}]')
    return {"text": text, "entities": [_entity(entity, number, text, columns) for number, entity in enumerate(entities, start=1)]}


def _entity(entity: Value, number: int, text: str, columns: Value) -> Value:
    absent = [key for key in ("type", "start", "end") if entity.get(key) is None]
    if absent:
        raise Refused(RejectCode.MISSING_FIELD, f"entity {number} has no {' and no '.join(absent)}", "an entity needs: type, start, end")
    kind, start, end = entity["type"], entity["start"], entity["end"]
    if not isinstance(kind, str) or not kind.strip() or not all(isinstance(place, int) and not isinstance(place, bool) for place in (start, end)):
        raise Refused(RejectCode.WRONG_TYPE, f"entity {number} is {canonical_json(entity)}", "its type is text, its start and end are whole numbers")
    if not 0 <= start < end <= len(text):
        why = f"entity {number} spans {start} to {end} of a text of {len(text)} characters"
        raise Refused(RejectCode.SPAN_OUT_OF_RANGE, why, "count characters from 0; the end is not included")
    if "text" in entity and entity["text"] != text[start:end]:
        why = f'entity {number} spans "{text[start:end]}", not "{entity["text"]}"'
        raise Refused(RejectCode.SPAN_OUT_OF_RANGE, why, "count characters, not bytes or tokens, from 0")
    others = {key: item for key, item in entity.items() if key not in ("type", "start", "end")}
    if others:
        columns[str(number)] = others
    return {"type": kind, "start": start, "end": end}


FIELDS: dict[str, Fields] = {
    "chat": chat,
    "preference": preference,
    "unpaired": unpaired,
    "label": label,
    "prompt_completion": prompt_completion,
    "text": text,
    "summary": summary,
    "question": question,
    "steps": steps,
    "extraction": extraction,
}
