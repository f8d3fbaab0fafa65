"""The template and the mask (MISSION K1, K2)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from planish.errors import InputError
from planish.model.chat import Chat, Refused
from planish.rows import Message

U, A, S = "user", "assistant", "system"


def turns(*given: tuple[str, str]) -> tuple[Message, ...]:
    return tuple(Message(role=role, content=text) for role, text in given)  # type: ignore[arg-type]


def trained_text(chat: Chat, messages: tuple[Message, ...]) -> list[str]:
    sequence = chat.trained(messages)
    return [chat.tokenizer.decode([id]) for id, weight in zip(sequence.ids, sequence.weights, strict=True) if weight]


def test_k2_worked_example(tiny: Path) -> None:
    """MISSION K2: the answer's text and the token that ends it are trained, the header and the question are not; nothing follows the end token."""
    chat = Chat.load(tiny)
    messages = turns((U, "What is 2+2?"), (A, "It is 4."))
    assert "".join(trained_text(chat, messages)) == "It is 4.<|im_end|>"
    assert chat.trained(messages).ids[-1] == chat.end


def test_every_assistant_turn_is_trained_unless_its_weight_is_0(tiny: Path) -> None:
    chat = Chat.load(tiny)
    messages = turns((S, "Be brief."), (U, "a"), (A, "one"), (U, "b"), (A, "two"))
    assert "".join(trained_text(chat, messages)) == "one<|im_end|>two<|im_end|>"
    masked = (*messages[:2], messages[2].model_copy(update={"weight": 0}), *messages[3:])
    assert "".join(trained_text(chat, masked)) == "two<|im_end|>"


def test_the_prompt_is_where_training_begins(tiny: Path) -> None:
    """What serving sends is, id for id, what stands before the first trained token."""
    chat = Chat.load(tiny)
    messages = turns((U, "is the phone good?"), (A, "positive"))
    sequence = chat.trained(messages)
    assert list(sequence.ids[: sequence.weights.index(1.0)]) == chat.prompt(messages[:1])


def test_no_scored_tokens(tiny: Path) -> None:
    with pytest.raises(Refused) as refused:
        Chat.load(tiny).trained(turns((U, "a question")))
    assert refused.value.code == "no_scored_tokens"


def test_k1_not_a_prefix(tiny: Path) -> None:
    """A template that writes the prompt differently once the answer is there (as think blocks do): the row is refused, not trained."""
    chat = Chat.load(tiny)
    chat.tokenizer.chat_template = chat.tokenizer.chat_template.replace("assistant\n' }}{% endif %}", "assistant\n<think>' }}{% endif %}")
    with pytest.raises(Refused) as refused:
        chat.trained(turns((U, "a"), (A, "b")))
    assert refused.value.code == "not_a_prefix"


def test_eos_missing(tiny: Path) -> None:
    chat = Chat.load(tiny)
    chat.tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ':' + m['content'] + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    with pytest.raises(Refused) as refused:
        chat.trained(turns((U, "a"), (A, "b")))
    assert refused.value.code == "eos_missing"


def test_s1_same_words_with_other_merges_are_another_tokenizer(tiny: Path, tmp_path: Path) -> None:
    """MISSION S1: token distillation rests on this hash; one merge that no trial text touches is enough to cut a rare text into other tokens."""
    other = shutil.copytree(tiny, tmp_path / "other")
    assert Chat.load(other).tokenizer_hash == Chat.load(tiny).tokenizer_hash
    told = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    told["model"]["merges"] = told["model"]["merges"][:-1]
    (other / "tokenizer.json").write_text(json.dumps(told), encoding="utf-8")
    changed = Chat.load(other)
    assert changed.tokenizer.get_vocab() == Chat.load(tiny).tokenizer.get_vocab()
    assert changed.tokenizer_hash != Chat.load(tiny).tokenizer_hash


def test_a_model_without_template_or_tokenizer_is_refused(tiny: Path, tmp_path: Path) -> None:
    from planish.model import bundled

    shutil.copytree(tiny, tmp_path / "m")
    (tmp_path / "m" / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="no chat template"):
        Chat.load(tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="no tokenizer"):
        bundled.locate(str(tmp_path / "m"))
    with pytest.raises(InputError, match="smollm2-135m-instruct"):
        bundled.locate("smolm2-135m-instruct")


@pytest.mark.slow
def test_smollm2_ids_equal_apply_chat_template() -> None:
    """The real tokenizer: prompt and whole conversation, id for id, and the injected system prompt is never trained."""
    from planish.model import bundled

    chat = Chat.load(bundled.locate("smollm2-135m-instruct"))
    messages = turns((U, "Is this good?  Ünïcode 🙂"), (A, "positive"))
    raw = [{"role": message.role, "content": message.content} for message in messages]
    assert chat.prompt(messages[:1]) == chat.tokenizer.apply_chat_template(raw[:1], add_generation_prompt=True)["input_ids"]
    assert list(chat.trained(messages).ids) == chat.tokenizer.apply_chat_template(raw)["input_ids"][: len(chat.trained(messages).ids)]
    assert trained_text(chat, messages) == ["positive", "<|im_end|>"]
