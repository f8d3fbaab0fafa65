"""One renderer and exact masks over the habits of five template families (MISSION K1, K2; the field's defects in template and mask)."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from tests.model.chat_families import CALLED, CHATML, FAMILIES, GEMMA, LLAMA3, TOOL, chat, scored_text, turns

from planish.errors import InputError
from planish.model.chat import Chat, Refused
from planish.model.mask import Dialogue, Masked
from planish.rows import Message, ToolCall

ASKED = turns(("user", "What is the capital of France?"), ("assistant", "Paris"))
TWICE = turns(("user", "the capital"), ("assistant", "Paris"), ("user", "the weather"), ("assistant", "It is sunny"))
WORDS = [
    "what",
    "is",
    "the",
    "capital",
    "of",
    "france",
    "please",
    "answer",
    "it's",
    "",
    "in",
    "one",
    "word:",
    "12,",
    "345",
    "ünï",
    "你好",
    "\n\nx",
    "🙂",
    "</think>",
    "{a}",
]


def refusal(found: Masked | Refused) -> Refused:
    assert isinstance(found, Refused)
    return found


def raw(messages: tuple[Message, ...], arguments: str = "object") -> list[dict[str, object]]:
    """Turns as the field gives them to apply_chat_template."""
    given: list[dict[str, object]] = []
    for message in messages:
        turn: dict[str, object] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            call = message.tool_calls[0]
            said = call.arguments if arguments == "object" else json.dumps(call.arguments, ensure_ascii=False)
            turn["tool_calls"] = [{"type": "function", "id": "call00001", "function": {"name": call.name, "arguments": said}}]
        if message.role == "tool":
            turn |= {"tool_call_id": "call00001", "name": "weather"}
        given.append(turn)
    return given


def conversations(count: int) -> list[tuple[Message, ...]]:
    """Random dialogues of one to three exchanges."""
    draw = random.Random(7)

    def text() -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(1, 12))).replace("</think>", "").strip()  # a line break before an answer is a defect, see below

    return [turns(*[turn for _ in range(draw.randint(1, 3)) for turn in (("user", text() + "?"), ("assistant", text() + "."))]) for _ in range(count)]


@pytest.mark.parametrize("name", FAMILIES)
def test_k1_ids_equal_apply_chat_template(name: str) -> None:
    """MISSION K1: 100 conversations per family, 500 in all, prompt and whole conversation, id for id."""
    one = chat(name)
    for messages in conversations(100):
        given = raw(messages)
        assert one.prompt(messages[:-1]) == one.tokenizer.apply_chat_template(given[:-1], add_generation_prompt=True)["input_ids"]
        whole = one.tokenizer.apply_chat_template(given)["input_ids"]
        assert one.encode(one.text(messages, prompt=False)) == whole
        found = one.masks([Dialogue(messages)], "last")[0]
        if name == "qwen3":  # an answer without a thought gets an empty one: not in the prompt, so still a prefix
            assert "<think>" in one.tokenizer.decode(whole)
        assert isinstance(found, Masked)
        assert found.ids == whole[: len(found.ids)]


@pytest.mark.parametrize("name", FAMILIES)
def test_k2_the_answer_and_its_end_are_trained_and_nothing_else(name: str) -> None:
    one, end = chat(name), FAMILIES[name].end
    thought = "<think>\n\n</think>\n\n" if name == "qwen3" else ""
    assert scored_text(one, ASKED) == f"{thought}Paris{end}"
    sequence = one.trained(ASKED)
    assert sequence.ids[-1] == one.end
    assert sequence.weights[-1] == 1
    assert list(sequence.ids[: sequence.weights.index(1.0)]) == one.prompt(ASKED[:1])


def test_k2_worked_example() -> None:
    """MISSION K2: `<user> What is 2+2? <asst> It is 4. <end>` = 9 tokens, trained {It, is, 4., <end>} = 4.

    A tokenizer of whole words: <user>, What, is, 2+2?, <asst>, It, is, 4., <end>.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<user>", "<asst>", "<end>", "What", "is", "2+2?", "It", "4."]
    tokenizer = Tokenizer(models.WordLevel({word: id for id, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unk>", pad_token="<end>")
    fast.add_special_tokens({"additional_special_tokens": ["<user>", "<asst>"]})
    fast.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ '<user> ' + m.content }}{% else %}{{ ' <asst> ' + m.content + ' <end>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ ' <asst>' }}{% endif %}"
    )
    found = Chat(fast).masks([Dialogue(turns(("user", "What is 2+2?"), ("assistant", "It is 4.")))])[0]
    assert isinstance(found, Masked)
    assert len(found.ids) == 9
    assert fast.convert_ids_to_tokens([id for id, weight in zip(found.ids, found.weights, strict=True) if weight]) == ["It", "is", "4.", "<end>"]
    assert found.scored / len(found.ids) == 4 / 9


@pytest.mark.parametrize("name", ["chatml", "llama3", "gemma", "mistral"])
def test_every_turn_or_the_last(name: str) -> None:
    one, end = chat(name), FAMILIES[name].end
    assert scored_text(one, TWICE) == f"Paris{end}It is sunny{end}"
    assert scored_text(one, TWICE, turns="last") == f"It is sunny{end}"
    masked = (*TWICE[:3], TWICE[3].model_copy(update={"weight": 0}))
    assert scored_text(one, masked) == f"Paris{end}"
    assert one.trained(masked).ids[-1] == one.end


def test_pad_equal_to_eos_does_not_mask_the_end() -> None:
    one = chat("chatml")
    assert one.tokenizer.pad_token_id == one.tokenizer.eos_token_id
    assert one.trained(ASKED).weights[-1] == 1


def test_k1_worked_example() -> None:
    """MISSION K1: prompt ids [1,5,9] against prompt + answer [1,5,7,...]: not a prefix, both renderings in the reason."""
    one = chat("chatml", template=CHATML.replace("'<|im_start|>assistant\n' }}{% endif %}", "'<|im_start|>assistant\n<think>' }}{% endif %}"))
    why = refusal(one.masks([Dialogue(ASKED)])[0])
    assert why.code == "not_a_prefix"
    assert "<think>" in why.why
    assert "Paris" in why.why


def test_a_token_over_the_end_of_the_prompt_is_refused() -> None:
    """The prompt ends in "\n" and the answer begins with one: written together they are one token, which serving never sends."""
    one = chat("chatml", template=CHATML.replace("assistant\n' }}{% endif %}", "assistant\n\n' }}{% endif %}").replace("m.role + '\n'", "m.role + '\n\n'"))
    one.tokenizer.add_tokens(["\n\n\n"])
    why = refusal(one.masks([Dialogue(turns(("user", "a"), ("assistant", "\nPar")))])[0])
    assert why.code == "not_a_prefix"
    assert "reaches over" in why.why


def test_thoughts_that_the_history_drops_are_refused_unless_only_the_last_answer_is_trained() -> None:
    one = chat("qwen3")
    thought = turns(("user", "a"), ("assistant", "<think>\nhm\n</think>\n\nParis"), ("user", "b"), ("assistant", "<think>\nso\n</think>\n\nsunny"))
    assert refusal(one.masks([Dialogue(thought)])[0]).code == "not_a_prefix"
    assert scored_text(one, thought, turns="last") == "<think>\nso\n</think>\n\nsunny<|im_end|>"
    dropped = chat("qwen3", template=FAMILIES["qwen3"].template.replace("'<think>\n' + thought + '\n</think>\n\n'", "''"))
    why = refusal(dropped.masks([Dialogue(thought[:2])])[0])
    assert why.code == "not_a_prefix"
    assert "hm" in why.why


@pytest.mark.parametrize("name", ["gemma", "mistral"])
def test_a_system_turn_that_the_template_refuses_or_drops(name: str) -> None:
    """Gemma raises; the Mistral copy says nothing and leaves it out. Both are the same defect."""
    why = refusal(chat(name).masks([Dialogue((*turns(("system", "Be brief.")), *ASKED))])[0])
    assert why.code == "unknown_role"
    assert "System role not supported" in why.why if name == "gemma" else "leaves out turn 1 (system: 'Be brief.')" in why.why


def test_one_bad_conversation_does_not_fail_its_batch() -> None:
    bad = (*turns(("system", "Be brief.")), *ASKED)
    found = chat("gemma").masks([Dialogue(messages) for messages in (ASKED, bad, TWICE, bad, ASKED)])
    assert [isinstance(one, Masked) for one in found] == [True, False, True, False, True]
    order = turns(("user", "a"), ("user", "b"), ("assistant", "c"))
    assert refusal(chat("gemma").masks([Dialogue(order)])[0]).code == "role_order"


@pytest.mark.parametrize(("name", "arguments"), [("chatml", "object"), ("llama3", "object"), ("mistral", "text"), ("gemma", None), ("qwen3", None)])
def test_tool_calls_are_given_as_the_family_needs_them(name: str, arguments: str | None) -> None:
    """A family that writes JSON quotes text twice; one that glues text in fails on an object; a family without calls refuses the row instead of dropping the call."""
    one = chat(name)
    assert one.template.arguments == arguments
    if arguments is None:
        assert refusal(one.masks([Dialogue(CALLED, (TOOL,))])[0]).code == "unknown_role"
        return
    said = scored_text(one, CALLED, (TOOL,))
    assert '{"city": "Oslo, \\"N\\""}' in said
    assert '\\"city' not in said
    assert said.endswith("It is sunny." + FAMILIES[name].end)
    assert said.count(FAMILIES[name].end) == 2
    assert "sky" not in said  # what a tool says is not trained
    given = raw(CALLED, arguments)
    assert one.encode(one.text(CALLED, prompt=False, tools=(TOOL,))) == one.tokenizer.apply_chat_template(given, tools=[TOOL])["input_ids"]
    assert "weather" in one.text(CALLED[:1], prompt=True, tools=(TOOL,))


def test_tools_without_a_place_and_calls_that_are_dropped_are_refused() -> None:
    assert "leaves out the tool weather" in refusal(chat("gemma").masks([Dialogue(ASKED, (TOOL,))])[0]).why
    several = (CALLED[0], Message(role="assistant", content="", tool_calls=(ToolCall(name="weather"), ToolCall(name="weather"))))
    assert "single tool-calls" in refusal(chat("llama3").masks([Dialogue(several, (TOOL,))])[0]).why
    named = (CALLED[0], CALLED[1].model_copy(update={"tool_calls": (ToolCall(name="weather", id="call_1"),)}))
    assert "length 9" in refusal(chat("mistral").masks([Dialogue(named, (TOOL,))])[0]).why


def test_double_bos_and_missing_end() -> None:
    assert refusal(chat("llama3", template="{{ bos_token }}" + LLAMA3).masks([Dialogue(ASKED)])[0]).code == "double_bos"
    assert refusal(chat("gemma", template=GEMMA.replace("<end_of_turn>\n", "\n")).masks([Dialogue(ASKED)])[0]).code == "eos_missing"


def test_the_end_of_a_turn_is_the_one_the_template_writes(tmp_path: Path) -> None:
    """Gemma's tokenizer says <eos>, its turns end in <end_of_turn>: named in generation_config.json, found by one rendering, kept when saved."""
    one = chat("gemma")
    assert one.tokenizer.convert_ids_to_tokens(one.end) == "<end_of_turn>"
    one.save(tmp_path)
    again = Chat.load(tmp_path)
    assert again.end == one.end
    assert again.ends == one.ends
    assert again.template_hash == one.template_hash


def test_what_a_template_writes_behind_the_last_end_is_not_trained() -> None:
    """Phi 3's way: each turn has its end token, and the whole text another one, which stands behind the last turn alone."""
    one = chat(
        "chatml",
        template=CHATML.replace("{% if add_generation_prompt", "{% if not add_generation_prompt %}<|endoftext|>{% endif %}{% if add_generation_prompt"),
    )
    one = Chat(one.tokenizer, one.more_ends | {one.tokenizer.convert_tokens_to_ids("<|endoftext|>")})
    assert scored_text(one, TWICE) == "Paris<|im_end|>It is sunny<|im_end|>"
    spelled = turns(("user", "a"), ("assistant", "say <|im_end|> twice"))
    assert scored_text(one, spelled) == "say <|im_end|> twice<|im_end|>"


def test_an_end_that_only_the_last_turn_has_is_refused_before() -> None:
    """gpt-oss's way: the last answer ends in another token than the answers of the history."""
    last = "{{ '<|endoftext|>' if loop.last and m.role == 'assistant' else '<|im_end|>' }}{{ '\n' }}{% endfor %}"
    one = chat("chatml", template=CHATML.replace("{{ '<|im_end|>\n' }}{% endfor %}{% if add", last + "{% if add"))
    one = Chat(one.tokenizer, frozenset({one.tokenizer.convert_tokens_to_ids("<|endoftext|>")}))
    assert refusal(one.masks([Dialogue(TWICE)])[0]).code == "not_a_prefix"
    assert scored_text(one, TWICE, turns="last") == "It is sunny<|endoftext|>"


def test_a_base_model_gets_an_explicit_template(tmp_path: Path) -> None:
    one = chat("chatml")
    one.tokenizer.chat_template = None
    one.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no chat template"):
        Chat.load(tmp_path)
    given = Chat.load(tmp_path, template=CHATML)
    given.save(tmp_path / "tuned")
    assert Chat.load(tmp_path / "tuned").prompt(ASKED[:1]) == given.prompt(ASKED[:1])


def test_parts_are_encoded_as_the_whole() -> None:
    """Parts remembered or new give the tokenizer's own ids; a tokenizer whose words touch is given whole texts."""
    from tokenizers import pre_tokenizers

    one = chat("chatml")
    texts = [one.text(messages, prompt=False) for messages in conversations(60)]
    assert one.tokens.in_parts
    assert one.tokens.of(texts) == one.tokens.of(texts[::-1])[::-1] == one.tokenizer(texts, add_special_tokens=False)["input_ids"]
    sticky = chat("chatml")
    sticky.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    assert not sticky.tokens.in_parts
    assert sticky.tokens.of(texts) == sticky.tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert sticky.tokens.of(texts) != one.tokens.of(texts)


def test_templates_by_name() -> None:
    """A tokenizer with several named templates: rows with tools are rendered by tool_use."""
    one = chat("chatml")
    one.tokenizer.chat_template = {"default": CHATML, "tool_use": CHATML.replace("system\n", "tools\n")}
    assert one.text(ASKED, prompt=False) == chat("chatml").text(ASKED, prompt=False)
    assert "<|im_start|>tools" in one.text(ASKED, prompt=False, tools=(TOOL,))
    assert len(one.template_hash) == 64


@pytest.mark.slow
def test_k1_smollm2_ids_equal_apply_chat_template_on_500_conversations() -> None:
    from planish.model import bundled

    one = Chat.load(bundled.locate("smollm2-135m-instruct"))
    assert one.tokens.in_parts
    for messages in conversations(500):
        given = raw(messages)
        whole = one.tokenizer.apply_chat_template(given)["input_ids"]
        assert one.prompt(messages[:-1]) == one.tokenizer.apply_chat_template(given[:-1], add_generation_prompt=True)["input_ids"]
        found = one.masks([Dialogue(messages)])[0]
        assert isinstance(found, Masked)
        assert found.ids == whole[: len(found.ids)]
        assert found.ids[-1] == one.end
