"""Five families of chat templates in small, over one tiny tokenizer: each has the habit of its family that breaks masks elsewhere."""

from __future__ import annotations

from typing import Any, NamedTuple

from planish.model.chat import Chat
from planish.rows import ChatRow, Message, Origin, ToolCall

CHATML = (
    "{% if tools %}{{ '<|im_start|>system\n' }}{% for tool in tools %}{{ tool | tojson + '\n' }}{% endfor %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{% for call in m.tool_calls or [] %}{{ '<tool_call>' + call.function | tojson + '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Qwen 2.5's way: the whole call is written as JSON, so that arguments given as text would be quoted twice."""

LLAMA3 = (
    "{{ bos_token }}{% if tools %}{{ '<|start_header_id|>system<|end_header_id|>\n\n' }}{% for tool in tools %}{{ tool | tojson(indent=2) }}{% endfor %}"
    "{{ '<|eot_id|>' }}{% endif %}"
    "{% for m in messages %}"
    "{% if m.tool_calls %}{% if m.tool_calls | length != 1 %}{{ raise_exception('This model only supports single tool-calls at once!') }}{% endif %}"
    '{{ \'<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "\' + m.tool_calls[0].function.name + \'", "parameters": \''
    " + m.tool_calls[0].function.arguments | tojson + '}<|eot_id|>' }}"
    "{% elif m.role == 'tool' %}{{ '<|start_header_id|>ipython<|end_header_id|>\n\n' + m.content | tojson + '<|eot_id|>' }}"
    "{% else %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
"""Llama 3.1's way: begins with BOS, trims what is said, writes results of tools as JSON text, one call a turn."""

QWEN3 = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{% set said = m.content.split('</think>')[-1].lstrip('\n') %}"
    "{% set thought = m.content.split('</think>')[0].split('<think>')[-1].strip('\n') if '</think>' in m.content else '' %}"
    "{% if loop.index0 > ns.last and (loop.last or thought) %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}{{ said }}"
    "{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Qwen 3's way: thoughts are stripped from all answers but the last, and the last one gets an empty thought if it has none."""

GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
"""Gemma's way: no system turn, and a turn ends with another token than the tokenizer's eos."""

MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}{% if tools and (loop.last or (messages[loop.index0 + 1:] | selectattr('role', 'equalto', 'user') | list | length == 0)) %}"
    "{{ '[AVAILABLE_TOOLS]' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{{ '[/AVAILABLE_TOOLS]' }}{% endif %}{{ '[INST]' + m.content + '[/INST]' }}"
    "{% elif m.tool_calls %}{{ '[TOOL_CALLS][' }}{% for call in m.tool_calls %}{% if call.id | length != 9 %}"
    "{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}"
    "{{ '{\"name\": \"' + call.function.name + '\", \"arguments\": ' + call.function.arguments + ', \"id\": \"' + call.id + '\"}' }}{% endfor %}{{ ']' + eos_token }}"
    "{% elif m.role == 'tool' %}{{ '[TOOL_RESULTS]{\"content\": ' + m.content + ', \"call_id\": \"' + m.tool_call_id + '\"}[/TOOL_RESULTS]' }}"
    "{% elif m.role == 'assistant' %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
"""Mistral's way, in a common copy that glues the arguments in as text: an object would fail. It asks for an answer by nothing at all, and leaves a system turn out."""


class Family(NamedTuple):
    """A template, the special tokens of its family, and the words it ends a turn with."""

    template: str
    bos: str | None
    eos: str
    end: str
    special: tuple[str, ...]


FAMILIES = {
    "chatml": Family(CHATML, None, "<|im_end|>", "<|im_end|>", ("<|endoftext|>", "<|im_start|>", "<|im_end|>")),
    "llama3": Family(LLAMA3, "<|begin_of_text|>", "<|eot_id|>", "<|eot_id|>", ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")),
    "qwen3": Family(QWEN3, None, "<|im_end|>", "<|im_end|>", ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")),
    "gemma": Family(GEMMA, "<bos>", "<eos>", "<end_of_turn>", ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")),
    "mistral": Family(
        MISTRAL, "<s>", "</s>", "</s>", ("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]")
    ),
}
_TEXT = [
    "system user assistant model tool what is the capital of france paris it is sunny today the weather in oslo please answer in one word name arguments city"
]


def chat(name: str, **changed: Any) -> Chat:
    """The chat of a family; `changed` replaces fields of it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    family = FAMILIES[name]._replace(**changed)
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [token for token in family.special if "think" not in token]  # thoughts are said by the model: their tokens are added, but not special
    raw.train_from_iterator(_TEXT * 4, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False))
    raw.add_tokens([token for token in family.special if "think" in token])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=family.bos, eos_token=family.eos, pad_token=family.eos)
    tokenizer.chat_template = family.template
    end = tokenizer.convert_tokens_to_ids(family.end)
    return Chat(tokenizer, frozenset({end}) - {tokenizer.eos_token_id})


def turns(*given: tuple[str, str]) -> tuple[Message, ...]:
    """Plain turns by role and text."""
    return tuple(Message.model_validate({"role": role, "content": text}) for role, text in given)


TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALLED = (
    Message(role="user", content="What is the weather in Oslo?"),
    Message(role="assistant", content="", tool_calls=(ToolCall(name="weather", arguments={"city": 'Oslo, "N"'}),)),
    Message(role="tool", content='{"sky": "sunny"}'),
    Message(role="assistant", content="It is sunny."),
)
"""A dialogue with a call, its result and an answer."""


def row(messages: tuple[Message, ...], id: str = "r", tools: tuple[dict[str, Any], ...] = ()) -> ChatRow:
    """Turns as a row."""
    return ChatRow(id=id, origin=Origin(file="rows.jsonl", line=1, sha256=""), messages=messages, tools=tools)


def scored_text(chat: Chat, messages: tuple[Message, ...], tools: tuple[dict[str, Any], ...] = (), **options: Any) -> str:
    """What is trained, with its special tokens."""
    sequence = chat.trained(messages, tools, **options)
    return str(chat.tokenizer.decode([id for id, weight in zip(sequence.ids, sequence.weights, strict=True) if weight]))
