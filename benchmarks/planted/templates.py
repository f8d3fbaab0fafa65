"""Chat templates, sound and broken, on one small byte-level tokenizer made here: no model and no download."""

from __future__ import annotations

from functools import cache
from typing import Any

BOS, EOS, HEAD = "<|begin|>", "<|end|>", "<|turn|>"

_TURN = "{{ '<|turn|>' + m['role'] + '\\n' + (m['content'] or '') }}"
_CALLS = "{% for c in m['tool_calls'] or [] %}{{ '<call>' + (c['function'] | tojson) + '</call>' }}{% endfor %}"
_TOOLS = "{% if tools %}{{ '<|turn|>system\\n' + (tools | tojson) + '<|end|>\\n' }}{% endif %}"
_END = "{{ '<|end|>\\n' }}"
_ASK = "{% if add_generation_prompt %}{{ '<|turn|>assistant\\n' }}{% endif %}"
_LAST_USER = "{% set at = namespace(user=-1) %}{% for m in messages %}{% if m['role'] == 'user' %}{% set at.user = loop.index0 %}{% endif %}{% endfor %}"
_THOUGHT = (
    "{% if m['role'] == 'assistant' and loop.index0 < at.user and '</think>' in m['content'] %}"
    "{{ '<|turn|>assistant\\n' + m['content'].split('</think>')[-1].lstrip('\\n') }}"
    "{% else %}" + _TURN + "{% endif %}"
)
_REFUSING = "{{% if m['role'] == '{role}' %}}{{{{ raise_exception('no {role} turns') }}}}{{% endif %}}"


def _loop(turn: str, before: str = "", behind: str = _ASK) -> str:
    return before + "{% for m in messages %}" + turn + "{% endfor %}" + behind


def _without(role: str) -> str:
    return _loop("{% if m['role'] != '" + role + "' %}" + _TURN + _CALLS + _END + "{% endif %}", _TOOLS)


TEMPLATES: dict[str, str | None] = {
    "sound": _loop(_TURN + _CALLS + _END, "{{ bos_token }}" + _TOOLS),
    "trimmed": _loop("{{ '<|turn|>' + m['role'] + '\\n' + (m['content'] or '') | trim }}" + _CALLS + _END, _TOOLS),
    "none": None,
    "broken": "{% for m in messages %}{{ m['content'] }",
    "bos_twice": _loop(_TURN + _CALLS + _END, "{{ bos_token }}{{ bos_token }}" + _TOOLS),
    "no_end": _loop(_TURN + _CALLS + "{{ '\\n' }}", "{{ bos_token }}" + _TOOLS),
    "end_before_user_only": _loop("{% if m['role'] == 'user' and not loop.first %}{{ '<|end|>\\n' }}{% endif %}" + _TURN, "{{ bos_token }}"),
    "forgets_thoughts": _loop(_THOUGHT + _END, "{{ bos_token }}" + _LAST_USER),
    "other_header": _loop(_TURN + _END, "{{ bos_token }}", "{% if add_generation_prompt %}{{ '<|turn|>model\\n' }}{% endif %}"),
    "no_system": _loop(_REFUSING.format(role="system") + _TURN + _END, "{{ bos_token }}"),
    "no_tool": _loop(_REFUSING.format(role="tool") + _TURN + _CALLS + _END, "{{ bos_token }}" + _TOOLS),
    "drops_system": _without("system"),
    "drops_tool": _without("tool"),
    "drops_user": _loop("{% if m['role'] == 'assistant' %}{{ m['content'] + '<|end|>' }}{% endif %}", behind=""),
    "drops_answer": _loop("{% if m['role'] != 'assistant' %}" + _TURN + _END + "{% endif %}", "{{ bos_token }}"),
    "empties_answer": _loop("{{ '<|turn|>' + m['role'] + '\\n' + (m['text'] if m['role'] == 'assistant' else m['content']) }}" + _END, "{{ bos_token }}"),
    "drops_calls": _loop(_TURN + _END, "{{ bos_token }}" + _TOOLS),
}
"""Jinja templates by name: `sound` and `trimmed` are right; every other one has the defect that its name tells."""


@cache
def tokenizer(name: str) -> Any:
    """A tokenizer with this template; its padding token is its end token, as in many released models."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[BOS, EOS, HEAD], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    raw.train_from_iterator(["the weather of the town and the question that the user asks of the assistant is a question of the time"] * 4, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=BOS, eos_token=EOS, pad_token=EOS)
    made.chat_template = TEMPLATES[name]
    return made
