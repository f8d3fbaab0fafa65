"""What of a row a reader would read: the prompt, the answers, the documents; without the standing instructions that many rows share."""

from __future__ import annotations

from collections.abc import Sequence

from planish.rows import (
    ChatRow,
    ExtractionRow,
    LabelRow,
    Message,
    PreferenceRow,
    PromptCompletionRow,
    QuestionRow,
    Row,
    StepsRow,
    SummaryRow,
    UnpairedRow,
    canonical_json,
)


def prompt_text(row: Row) -> str:
    """What is asked: everything before the answer but system turns, tool catalogues and retrieved documents. A document asks itself."""
    match row:
        case ChatRow():
            return _turns(row.messages[:-1])
        case PreferenceRow() | UnpairedRow():
            return _turns(row.prompt)
        case PromptCompletionRow() | StepsRow():
            return row.prompt
        case SummaryRow():
            return row.document
        case QuestionRow():
            return row.question
    return row.text


def answers(row: Row) -> tuple[str, ...]:
    """What the model is to say: every assistant turn that is trained on, the better answer of a pair, the label. Empty for a document and for a bad answer."""
    match row:
        case ChatRow():
            said = tuple(message for message in row.messages if message.role == "assistant" and message.weight != 0)
            return tuple(_turn(message) for message in said if message.content or message.tool_calls)
        case LabelRow():
            return (row.label,)
        case PromptCompletionRow():
            return (row.completion,)
        case ExtractionRow():
            return (canonical_json(row.fields if row.entities is None else [[each.type, row.text[each.start : each.end]] for each in row.entities]),)
        case SummaryRow():
            return (row.summary,)
        case QuestionRow():
            return (row.answer,)
        case PreferenceRow():
            return (_turns(row.chosen),)
        case UnpairedRow():
            return (_turns(row.completion),) if row.label else ()
        case StepsRow():
            return row.completions
    return ()


def final_answer(row: Row) -> str:
    """The answer to `prompt_text`: of a dialogue the last turn."""
    if isinstance(row, ChatRow):
        return _turns(row.messages[-1:])
    if isinstance(row, UnpairedRow):
        return _turns(row.completion)
    return "\n".join(answers(row))


def body_text(row: Row) -> str:
    """The parts of the body, a line break between them."""
    return "\n".join(part for part in body_parts(row) if part)


def body_parts(row: Row) -> list[str]:
    """Prompt, documents, answer, and the worse answer of a pair; of a label row the text alone, because its label is no text."""
    parts = [prompt_text(row)]
    if isinstance(row, QuestionRow):
        parts += row.documents
    if not isinstance(row, LabelRow):
        parts.append(final_answer(row))
    if isinstance(row, PreferenceRow):
        parts.append(_turns(row.rejected))
    return parts


def every_text(row: Row) -> list[str]:
    """Every text of a row on its own, system turns included and tool calls as JSON: what a scan for personal data or damage must see."""
    match row:
        case ChatRow():
            return [_turn(message) for message in row.messages]
        case PreferenceRow():
            return [_turn(message) for message in (*row.prompt, *row.chosen, *row.rejected)]
        case UnpairedRow():
            return [_turn(message) for message in (*row.prompt, *row.completion)]
        case QuestionRow():
            return [row.question, *row.documents, row.answer]
        case SummaryRow():
            return [row.document, row.summary]
        case PromptCompletionRow():
            return [row.prompt, row.completion]
        case StepsRow():
            return [row.prompt, *row.completions]
        case ExtractionRow():
            return [row.text] if row.fields is None else [row.text, canonical_json(row.fields)]
    return [row.text]


def _turns(messages: Sequence[Message]) -> str:
    return "\n".join(_turn(message) for message in messages if message.role != "system")


def _turn(message: Message) -> str:
    if not message.tool_calls:
        return message.content
    calls = canonical_json([[call.name, call.arguments] for call in message.tool_calls])
    return f"{message.content}\n{calls}" if message.content else calls
