"""Ids and labels against TRL 1.16's own dataset preparation: equal wherever TRL's are right, and where they differ, why (issue 3, Parity)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import TEMPLATE

from planish.model.chat import Chat, Refused
from planish.model.mask import Dialogue, Masked
from planish.rows import Message

pytestmark = [
    pytest.mark.slow,  # the import of trl alone takes longer than the fast suite allows one file
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),  # the peer's, in each release others
]

MARKED = TEMPLATE.replace(
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}",
    "{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ m['content'] + '<|im_end|>' + '\n' }}{% endif %}",
)
"""The tiny model's template with markers around what the assistant says: the same text."""
THOUGHTFUL = TEMPLATE.replace("'<|im_start|>assistant\n' }}{% endif %}", "'<|im_start|>assistant\n<think>' }}{% endif %}")
"""The prompt opens a thought that the whole conversation does not have."""

ROWS = [
    [turn for k in range(1 + n % 4) for turn in (("user", f"the sound {'is ' * (n + k)}{n}?"), ("assistant", f"{'good ' * (1 + k)}ünï {n} 🙂."))]
    for n in range(24)
] + [[("system", "Be brief."), ("user", "review"), ("assistant", "positive")]]


def peer(tiny: Path, out: Path, rows: list[dict[str, Any]], template: str, **options: Any) -> list[tuple[list[int], list[int]]]:
    """(ids, labels) of each row as TRL's trainer prepares them."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = template
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32),
        args=SFTConfig(output_dir=str(out), use_cpu=True, bf16=False, report_to="none", save_strategy="no", disable_tqdm=True, max_length=None, **options),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    return [(list(row["input_ids"]), list(row["labels"])) for row in trainer.train_dataset]


def ours(tiny: Path, conversations: list[list[tuple[str, str]]], template: str = TEMPLATE, **options: Any) -> list[Masked | Refused]:
    chat = Chat.load(tiny, template)
    return chat.masks([Dialogue(tuple(Message.model_validate({"role": role, "content": text}) for role, text in turns)) for turns in conversations], **options)


def labels(masked: Masked | Refused) -> tuple[list[int], list[int]]:
    """Our ids and labels in TRL's form."""
    assert isinstance(masked, Masked)
    return masked.ids, [id if weight else -100 for id, weight in zip(masked.ids, masked.weights, strict=True)]


def messages(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in turns]


def test_assistant_only_is_equal(tiny: Path, tmp_path: Path) -> None:
    """With markers in TRL's template, without any in ours: the same ids and the same labels. What TRL keeps behind the last trained token is never trained."""
    theirs = peer(tiny, tmp_path, [{"messages": messages(turns)} for turns in ROWS], MARKED, assistant_only_loss=True)
    for (ids, target), masked in zip(theirs, ours(tiny, ROWS), strict=True):
        mine, my_target = labels(masked)
        assert mine == ids[: len(mine)]
        assert my_target == target[: len(mine)]
        assert set(target[len(mine) :]) <= {-100}


def test_trl_cannot_do_it_without_markers(tiny: Path, tmp_path: Path) -> None:
    """Templates as they are shipped have no markers: TRL refuses those that it does not know, where our spans come from the template as it is."""
    with pytest.raises(ValueError, match="generation"):
        peer(tiny, tmp_path, [{"messages": messages(turns)} for turns in ROWS], TEMPLATE, assistant_only_loss=True)


def test_completion_only_is_equal_up_to_what_no_model_ever_says(tiny: Path, tmp_path: Path) -> None:
    """Ids are equal. TRL trains all that follows the prompt, also the line break that the template writes behind the end token: generation has stopped there.

    `<|im_end|>` is our last token; TRL's labels hold one more.
    """
    rows = [{"prompt": messages(turns[:-1]), "completion": messages(turns[-1:])} for turns in ROWS]
    theirs = peer(tiny, tmp_path, rows, TEMPLATE, completion_only_loss=True)
    newline = Chat.load(tiny).encode("\n")
    for (ids, target), masked in zip(theirs, ours(tiny, ROWS, turns="last"), strict=True):
        mine, my_target = labels(masked)
        assert mine == ids[: len(mine)]
        assert my_target == target[: len(mine)]
        assert target[len(mine) :] == ids[len(mine) :] == newline


def test_trl_trains_what_serving_never_sends(tiny: Path, tmp_path: Path) -> None:
    """The prompt is no prefix of the conversation. TRL takes the ids that both share for the prompt and trains the rest, so that the model never sees the prompt that is served;
    ours refuses the row and shows both renderings."""
    rows = [{"prompt": messages(turns[:1]), "completion": messages(turns[1:2])} for turns in ROWS[:-1]]
    theirs = peer(tiny, tmp_path, rows, THOUGHTFUL, completion_only_loss=True)
    served = Chat.load(tiny, THOUGHTFUL)
    for row, (ids, target) in zip(ROWS, theirs, strict=False):
        prompt = served.prompt((Message(role="user", content=row[0][1]),))
        assert ids[: len(prompt)] != prompt
        assert any(label != -100 for label in target)
    found = ours(tiny, [row[:2] for row in ROWS[:-1]], THOUGHTFUL)
    assert all(isinstance(one, Refused) and one.code == "not_a_prefix" and "<think>" in one.why for one in found)


def test_trl_trains_a_turn_of_weight_0(tiny: Path, tmp_path: Path) -> None:
    """`weight: 0` of OpenAI's format keeps an answer out of the loss; TRL reads past the key."""
    row = [*messages([("user", "a"), ("assistant", "wrong")]), *messages([("user", "b"), ("assistant", "right")])]
    (ids, target), *_ = peer(
        tiny, tmp_path, [{"messages": [turn | {"weight": 0 if turn["content"] == "wrong" else 1} for turn in row]}] * 2, MARKED, assistant_only_loss=True
    )
    chat = Chat.load(tiny)
    turns = tuple(Message.model_validate(turn | {"weight": 0} if turn["content"] == "wrong" else turn) for turn in row)
    _, my_target = labels(chat.masks([Dialogue(turns)])[0])
    assert chat.decode([label for label in target if label != -100]) == "wrongright"
    assert chat.decode([label for label in my_target if label != -100]) == "right"
    assert len(ids) > len(my_target)


def test_every_training_template_of_trl(tmp_path: Path) -> None:
    """TRL ships some 30 templates with markers set by hand, one per family. On the same templates our spans need no marker: no token is trained that TRL leaves out.

    What TRL trains besides is either in the prompt that is served (Qwen 3.5's opened thought: the model never writes it) or behind the end token (a line
    break, the end of the text).
    """
    import re

    import trl
    from tests.model.chat_families import chat

    turns = tuple(
        Message(role=role, content=text)
        for role, text in (("user", "what is it?"), ("assistant", "Paris"), ("user", "the weather"), ("assistant", "It is sunny"))
    )  # type: ignore[arg-type]
    compared = []
    for path in sorted((Path(trl.__file__).parent / "chat_templates").glob("*_training.jinja")):
        template = path.read_text(encoding="utf-8")
        one = chat("llama3", template=template)
        found = set(re.findall(r"<[|｜][^|｜<>{} ]+[|｜]>|<end_of_turn>|<turn\|>", template))
        one.tokenizer.add_special_tokens({"additional_special_tokens": sorted(found)})
        ending = {token for token in found if re.search(r"(?i)im_end|eot|end_of_turn|<\|end\||end▁of|turn\|>|return|endoftext", token)}
        one = Chat(one.tokenizer, frozenset(one.tokenizer.convert_tokens_to_ids(sorted(ending))))
        (masked,) = one.masks([Dialogue(turns)])
        if isinstance(masked, Refused):  # the prompt opens a thought that the history does not have, no end token, or content given as a list of parts
            assert masked.code in ("not_a_prefix", "eos_missing", "unknown_role")
            continue
        theirs = one.tokenizer.apply_chat_template(
            [dict(role=turn.role, content=turn.content) for turn in turns], return_assistant_tokens_mask=True, return_dict=True
        )
        ids, marks = theirs["input_ids"], theirs["assistant_masks"]
        assert masked.ids == ids[: len(masked.ids)]
        assert all(mark for mark, weight in zip(marks, masked.weights, strict=False) if weight)
        prompts = {span.start: len(one.prompt(turns[: span.turn])) for span in masked.spans}
        ends = [span.stop for span in masked.spans]
        for at, mark in enumerate(marks):
            if mark and not (at < len(masked.weights) and masked.weights[at]):
                served = any(at < start == length for start, length in prompts.items())
                after = max((end for end in ends if end <= at), default=None)
                nothing = {"", *one.tokenizer.convert_ids_to_tokens(list(one.ends))}
                behind = after is not None and one.tokenizer.decode(ids[after : at + 1]).strip() in nothing
                assert served or behind, path.name
        compared.append(path.stem)
    assert len(compared) >= 18
