"""A row as a record of a named format: the way back from `formats` (MISSION D1).

Each writer gives the keys of its format, or None for a row that the format has no words for. What a record lost is found by reading it again, in `convert`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from planish.data.dialogues import last_answer
from planish.rows import (
    ChatRow,
    ExtractionRow,
    LabelRow,
    Message,
    PreferenceRow,
    PromptCompletionRow,
    QuestionRow,
    StepsRow,
    SummaryRow,
    TextRow,
    UnpairedRow,
    canonical_json,
)

Value = dict[str, Any]


class Target(NamedTuple):
    """A format that rows of `shapes` are written in."""

    shapes: tuple[str, ...]
    write: Callable[[Any], Value | None]


def turn(message: Message, columns: Value | None = None) -> Value:
    """A message as OpenAI writes it: only what it has, and the arguments of calls as JSON text."""
    made: Value = {"role": message.role, "content": message.content}
    if message.weight is not None:
        made["weight"] = int(message.weight)
    if message.name is not None:
        made["name"] = message.name
    if message.tool_call_id is not None:
        made["tool_call_id"] = message.tool_call_id
    others = dict(columns or {})
    if message.tool_calls:
        more = others.pop("tool_calls", {})
        made["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": canonical_json(call.arguments)}}
            | ({} if call.id is None else {"id": call.id})
            | more.get(str(number), {})
            for number, call in enumerate(message.tool_calls, start=1)
        ]
    return made | others


def turns(messages: Sequence[Message]) -> list[Value]:
    """Messages as OpenAI writes them."""
    return [turn(message) for message in messages]


def _plain(messages: Sequence[Message], role: str) -> str | None:
    """The text of the one turn of `role` that this is and that has nothing but its text, which must not look like messages; else None."""
    if len(messages) != 1 or messages[0] != Message(role=role, content=messages[0].content):  # type: ignore[arg-type]
        return None
    return None if messages[0].content.lstrip().startswith("[") else messages[0].content


def _tools(row: ChatRow | PreferenceRow) -> Value:
    return {"tools": list(row.tools)} if row.tools else {}


def _openai(row: ChatRow) -> Value:
    columns = row.extra.get("message_columns")
    columns = columns if isinstance(columns, dict) else {}
    return {"messages": [turn(message, columns.get(str(number))) for number, message in enumerate(row.messages, start=1)]} | _tools(row)


def _exchanges(row: ChatRow) -> tuple[str | None, list[tuple[str, str]]] | None:
    """System text and (question, answer) pairs of a dialogue of nothing else; None for any other."""
    messages = row.messages
    system = messages[0].content if messages[0].role == "system" else None
    rest = messages[1:] if system is not None else messages
    if any(message.role != ("user", "assistant")[number % 2] for number, message in enumerate(rest)) or any(message.tool_calls for message in rest):
        return None
    return system, [(asked.content, said.content) for asked, said in zip(rest[::2], rest[1::2], strict=True)]


def _alpaca(row: ChatRow) -> Value | None:
    parts = _exchanges(row)
    if parts is None:
        return None
    system, exchanges = parts
    made: Value = {"instruction": exchanges[-1][0], "input": "", "output": exchanges[-1][1]}
    made |= {} if system is None else {"system": system}
    return made | ({"history": [list(pair) for pair in exchanges[:-1]]} if exchanges[1:] else {}) | _tools(row)


_SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def _sharegpt(row: ChatRow) -> Value:
    told = []
    for message in row.messages:
        said = turn(message)
        only_calls = message.tool_calls and not message.content
        if only_calls:
            calls = [call.model_dump(exclude_none=True) for call in message.tool_calls]
            value, speaker = canonical_json(calls[0] if len(calls) == 1 else calls), "function_call"
        else:
            value, speaker = message.content, _SPEAKERS[message.role]
        others = {key: item for key, item in said.items() if key not in ("role", "content") and not (only_calls and key == "tool_calls")}
        told.append({"from": speaker, "value": value, **others})
    return {"conversations": told} | ({"tools": canonical_json(list(row.tools))} if row.tools else {})


def _prompt_completion(row: PromptCompletionRow | ChatRow) -> Value:
    if isinstance(row, PromptCompletionRow):
        return {"prompt": row.prompt, "completion": row.completion}
    prompt, completion = last_answer(turns(row.messages))
    # an answer in a prompt is never trained: that it has weight 0 goes without saying
    prompt = [{key: item for key, item in one.items() if key != "weight" or item} for one in prompt]
    return {"prompt": prompt, "completion": completion} | _tools(row)


def _dpo(row: PreferenceRow) -> Value:
    texts = (_plain(row.prompt, "user"), _plain(row.chosen, "assistant"), _plain(row.rejected, "assistant"))
    parts = texts if None not in texts else (turns(row.prompt), turns(row.chosen), turns(row.rejected))
    return dict(zip(("prompt", "chosen", "rejected"), parts, strict=True)) | _tools(row)


def _openai_preference(row: PreferenceRow) -> Value:
    others = row.extra.get("input")
    asked = (others if isinstance(others, dict) else {}) | {"messages": turns(row.prompt)} | _tools(row)
    return {"input": asked, "preferred_output": turns(row.chosen), "non_preferred_output": turns(row.rejected)}


def _kto(row: UnpairedRow) -> Value:
    texts = (_plain(row.prompt, "user"), _plain(row.completion, "assistant"))
    prompt, completion = texts if None not in texts else (turns(row.prompt), turns(row.completion))
    return {"prompt": prompt, "completion": completion, "label": row.label}


def _prm(row: StepsRow) -> Value:
    return {"prompt": row.prompt, "completions": list(row.completions), "labels": list(row.labels)}


def _label(row: LabelRow) -> Value:
    return {"text": row.text, "label": row.label}


def _text(row: TextRow) -> Value:
    return {"text": row.text}


def _extraction(row: ExtractionRow) -> Value:
    if row.entities is None:
        return {"text": row.text, "fields": row.fields}
    columns = row.extra.get("entity_columns")
    columns = columns if isinstance(columns, dict) else {}
    return {"text": row.text, "entities": [entity.model_dump() | columns.get(str(number), {}) for number, entity in enumerate(row.entities, start=1)]}


def _summary(row: SummaryRow) -> Value:
    return {"document": row.document, "summary": row.summary}


def _qa(row: QuestionRow) -> Value:
    documents: Value = {"context": row.documents[0]} if len(row.documents) == 1 else {"documents": list(row.documents)} if row.documents else {}
    return {"question": row.question, **documents, "answer": row.answer}


TARGETS: dict[str, Target] = {
    "openai": Target(("chat",), _openai),
    "alpaca": Target(("chat",), _alpaca),
    "sharegpt": Target(("chat",), _sharegpt),
    "prompt_completion": Target(("prompt_completion", "chat"), _prompt_completion),
    "text": Target(("text",), _text),
    "dpo": Target(("preference",), _dpo),
    "openai_preference": Target(("preference",), _openai_preference),
    "kto": Target(("unpaired",), _kto),
    "prm": Target(("steps",), _prm),
    "label": Target(("label",), _label),
    "extraction": Target(("extraction",), _extraction),
    "summary": Target(("summary",), _summary),
    "qa": Target(("question",), _qa),
}
"""Every format that planish writes, by its name on the command line. The first of its shapes is what rows of other shapes are brought to."""

PLACES = {"openai": "message_columns", "openai_preference": "input", "extraction": "entity_columns"}
"""The column of `extra` that a format has its own place for."""
