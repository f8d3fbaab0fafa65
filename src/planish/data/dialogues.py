"""The ways in which files write dialogues, brought to OpenAI `messages`: Alpaca, ShareGPT, query/response with a history, prompts and completions, preferences.

These functions rename and reorder; whether the turns make a row is judged by `turns`. What cannot even be told apart raises Refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from planish.data.fault import Refused
from planish.data.json_text import parse, structure
from planish.rows import RejectCode

Value = dict[str, Any]
Turns = list[dict[str, Any]]

SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "system": "system",
    "observation": "tool",
    "function_response": "tool",
    "tool": "tool",
}
"""Who speaks in ShareGPT's `from`, as a role. `function_call` is the assistant, calling."""


def nothing(item: Any) -> bool:
    """Whether an optional column is empty: null, an empty list, or no text."""
    return item is None or item == [] or (isinstance(item, str) and not item.strip())


def turns_of(item: Any, key: str) -> Turns:
    """The item as a list of turns, those of ShareGPT as messages."""
    item = structure(item)
    if not isinstance(item, list) or not all(isinstance(turn, dict) for turn in item):
        raise Refused(RejectCode.WRONG_TYPE, f"its {key} are no list of objects", f'write "{key}": [{{"role": "user", "content": "..."}}, ...]')
    return [_message(turn) if "from" in turn and "role" not in turn else turn for turn in item]


def _message(turn: Value) -> Value:
    """A turn of ShareGPT."""
    speaker, said = turn["from"], turn.get("value")
    others = {key: item for key, item in turn.items() if key not in ("from", "value")}
    if speaker == "function_call":
        return {"role": "assistant", "content": None, "tool_calls": _calls(said), **others}
    if "value" not in turn:
        return {"role": SPEAKERS.get(str(speaker), speaker), **others}
    return {"role": SPEAKERS.get(speaker, speaker) if isinstance(speaker, str) else speaker, "content": said, **others}


def _calls(said: Any) -> Any:
    """The call or calls that a `function_call` turn writes as JSON."""
    try:
        called = parse(said) if isinstance(said, str) else said
    except ValueError as broken:
        raise Refused(RejectCode.TOOL_ARGS_INVALID, f"a function_call is not JSON: {broken}", 'write {"name": ..., "arguments": {...}}') from broken
    return called if isinstance(called, list) else [called]


def messages(value: Value) -> Value:
    """OpenAI: `messages`, with the catalogue under `tools` or, as it was called once, `functions`."""
    tools = value.get("tools")
    return {"messages": value["messages"], "tools": value.get("functions") if tools is None else tools}


def conversations(value: Value) -> Value:
    """ShareGPT: `conversations[{from, value}]`, with `system` and `tools` beside them."""
    return {"messages": _system(value) + turns_of(value["conversations"], "conversations"), "tools": value.get("tools")}


def conversation(value: Value) -> Value:
    """`conversation[{human, assistant}]`: one object per exchange."""
    told = structure(value["conversation"])
    if not isinstance(told, list) or not all(isinstance(pair, dict) for pair in told):
        raise Refused(RejectCode.WRONG_TYPE, "its conversation is no list of objects", 'write "conversation": [{"human": "...", "assistant": "..."}]')
    made = _system(value)
    for number, pair in enumerate(told, start=1):
        if set(pair) != {"human", "assistant"}:
            raise Refused(RejectCode.MISSING_FIELD, f"exchange {number} has {', '.join(sorted(pair)) or 'nothing'}", "an exchange has: human, assistant")
        made += [{"role": "user", "content": pair["human"]}, {"role": "assistant", "content": pair["assistant"]}]
    return {"messages": made}


def alpaca(value: Value) -> Value:
    """`instruction, input, output`, with `system` and `history`. The input stands below the instruction, a blank line between."""
    return {"messages": [*_asked(value, _instruction(value)), {"role": "assistant", "content": value["output"]}], "tools": value.get("tools")}


def query(value: Value) -> Value:
    """ms-swift: `query, response`, with `system` and `history`."""
    return {"messages": [*_asked(value, value["query"]), {"role": "assistant", "content": value["response"]}], "tools": value.get("tools")}


def prompt_completion(value: Value) -> Value:
    """`prompt` and `completion` as lists of messages: one dialogue, of which the answers in the prompt are not trained."""
    before = [turn | {"weight": 0} if turn.get("role") == "assistant" else turn for turn in turns_of(value["prompt"], "prompt")]
    return {"messages": before + spoken(value["completion"], "completion"), "tools": value.get("tools")}


def spoken(item: Any, key: str, role: str = "assistant") -> Turns:
    """What is said as messages: a text is one turn of `role`, an object one turn, a list several."""
    item = structure_of_turns(item)
    if isinstance(item, dict):
        item = [item]
    return turns_of(item, key) if isinstance(item, list) else [{"role": role, "content": item}]


def preference(value: Value) -> Value:
    """`prompt, chosen, rejected`, each text or messages. Without a prompt, or where the answers repeat it, the prompt is what both begin with."""
    chosen, rejected = spoken(value["chosen"], "chosen"), spoken(value["rejected"], "rejected")
    tools = value.get("tools")
    if value.get("prompt") is None:
        made = _shared(chosen, rejected, tools)
        if any(turn.get("role") == "user" for answer in ("chosen", "rejected") for turn in made[answer][:1]):
            why = "its chosen and rejected answers have different prompts: nothing says which answer to one prompt is the better"
            raise Refused(RejectCode.MISSING_FIELD, why, "write both answers to one prompt")
        return made
    prompt = spoken(value["prompt"], "prompt", "user")
    if chosen[: len(prompt)] == prompt == rejected[: len(prompt)]:
        return {"prompt": prompt, "chosen": chosen[len(prompt) :], "rejected": rejected[len(prompt) :], "tools": tools}
    shared = _shared(chosen, rejected, tools)
    if isinstance(value["prompt"], str) and shared["prompt"] and shared["prompt"][-1].get("content") == value["prompt"]:
        return shared
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, "tools": tools}


def structure_of_turns(item: Any) -> Any:
    """JSON text of a list of messages as that list; any other text is what somebody said, though it be JSON."""
    found = structure(item)
    return found if isinstance(found, list) and found and all(isinstance(turn, dict) and ({"role", "from"} & set(turn)) for turn in found) else item


def _shared(chosen: Turns, rejected: Turns, tools: Any) -> Value:
    """The turns that both begin with, up to the last that is not an answer, and what is left of each."""
    count = next((number for number, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), min(len(chosen), len(rejected)))
    while count and chosen[count - 1].get("role") == "assistant":
        count -= 1
    return {"prompt": chosen[:count], "chosen": chosen[count:], "rejected": rejected[count:], "tools": tools}


def openai_preference(value: Value) -> Value:
    """`input{messages, tools}, preferred_output, non_preferred_output`."""
    asked = structure(value["input"])
    if not isinstance(asked, dict) or "messages" not in asked:
        raise Refused(RejectCode.MISSING_FIELD, "its input holds no messages", 'write "input": {"messages": [...]}')
    chosen, rejected = turns_of(value["preferred_output"], "preferred_output"), turns_of(value["non_preferred_output"], "non_preferred_output")
    others = {key: item for key, item in asked.items() if key not in ("messages", "tools")}
    made = {"prompt": turns_of(asked["messages"], "messages"), "chosen": chosen, "rejected": rejected, "tools": asked.get("tools")}
    return made | ({"extra": {"input": others}} if others else {})


def told_preference(value: Value) -> Value:
    """LLaMA-Factory: `conversations, chosen, rejected`, or `instruction, input, chosen, rejected`."""
    prompt = conversations(value)["messages"] if "conversations" in value else _asked(value, _instruction(value))
    return {"prompt": prompt, "chosen": spoken(value["chosen"], "chosen"), "rejected": spoken(value["rejected"], "rejected"), "tools": value.get("tools")}


def swift_preference(value: Value) -> Value:
    """ms-swift: `messages` or `query, response`, whose last answer is the better one, and `rejected_response` or the dialogue `rejected_messages`."""
    whole = turns_of((messages(value) if "messages" in value else query(value))["messages"], "messages")
    if "rejected_messages" in value:
        return _shared(whole, turns_of(value["rejected_messages"], "rejected_messages"), value.get("tools"))
    prompt, chosen = last_answer(whole)
    return {"prompt": prompt, "chosen": chosen, "rejected": spoken(value["rejected_response"], "rejected_response"), "tools": value.get("tools")}


def unpaired(label: str, value: Value) -> Value:
    """`prompt, completion`, each text or messages, and under `label` whether the completion is good."""
    prompt = spoken(value["prompt"], "prompt", "user")
    return {"prompt": prompt, "completion": spoken(value["completion"], "completion"), "label": value[label], "tools": value.get("tools")}


def judged(read: Callable[[Value], Value], label: str, value: Value) -> Value:
    """Any dialogue that `read` understands, and under `label` whether its last answer is good."""
    made = read(value)
    prompt, completion = last_answer(turns_of(made["messages"], "messages"))
    return {"prompt": prompt, "completion": completion, "label": value[label], "tools": made.get("tools", value.get("tools"))}


def last_answer(turns: Turns) -> tuple[Turns, Turns]:
    """A dialogue parted before the answer that ends it."""
    at = len(turns)
    while at and turns[at - 1].get("role") == "assistant":
        at -= 1
    return turns[:at], turns[at:]


def _system(value: Value) -> Turns:
    return [] if nothing(value.get("system")) else [{"role": "system", "content": value["system"]}]


def _asked(value: Value, question: Any) -> Turns:
    """System, history and question."""
    history = structure(value.get("history"))
    made = _system(value)
    if not nothing(history):
        if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
            raise Refused(RejectCode.WRONG_TYPE, "its history is no list of pairs", 'write "history": [["question", "answer"], ...]')
        for asked, answered in history:
            made += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return [*made, {"role": "user", "content": question}]


def _instruction(value: Value) -> Any:
    instruction, more = value["instruction"], value.get("input")
    if nothing(more) or not isinstance(instruction, str):
        return instruction
    if not isinstance(more, str):
        raise Refused(RejectCode.WRONG_TYPE, f"its input is a {type(more).__name__}, not text", "write the input as text")
    return f"{instruction}\n\n{more}" if instruction.strip() else more
