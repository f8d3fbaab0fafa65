"""Continued pretraining: the loss and gradient of transformers with every label, whatever stands beside a document in its block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from planish import shelf
from planish.data.tree import build
from planish.errors import InputError
from planish.model.chat import Chat
from planish.model.example import Example
from planish.model.load import load
from planish.model.policy import score
from planish.model.template import Refused
from planish.recipe_train import TrainSection
from planish.rows import Origin, TextRow

DOCUMENTS = [
    "the phone is good and the sound is bad",
    "a review",
    "the phone is good until the sound of the review is negative, neutral, positive, and so it is said once more",
]


def document(text: str, id: str = "d") -> TextRow:
    return TextRow(id=id, origin=Origin(file="f", line=1, sha256=""), text=text)


def encoded(tiny: Path, block: int, texts: list[str] = DOCUMENTS) -> list[tuple[str, Example]]:
    chat, encode = Chat.load(tiny), shelf.call("objectives", "cpt", "encode", {"block": block})
    return [(f"d{place}", encode(document(text), chat)) for place, text in enumerate(texts)]


def in_blocks(tiny: Path, block: int) -> list[tuple[str, Example]]:
    made: list[tuple[str, Example]] = shelf.call("objectives", "cpt", "blocks", {"block": block})(encoded(tiny, block), 512)
    return made


def measured(model: nn.Module, examples: list[Example]) -> tuple[float, dict[str, Tensor]]:
    """The mean loss over trained tokens and every gradient, each example a pass of its own."""
    model.zero_grad(set_to_none=True)
    loss = shelf.call("objectives", "cpt", "loss", {})
    share = sum(example.share for example in examples)
    total = 0.0
    for example in examples:
        part = loss(score(model, build(example.sequences), "fp32")).total / share
        part.backward()
        total += float(part.detach())
    return total, {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def close(one: tuple[float, dict[str, Tensor]], other: tuple[float, dict[str, Tensor]]) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], rtol=1e-4, atol=1e-6)


def test_c1_every_token_is_trained_once_and_the_end_is_one_of_them(tiny: Path) -> None:
    """C1 by hand: a document of 9 ids and its end are 10; in blocks of 4 it is read as ids 0-4, 4-8, 8-9: 4 + 4 + 1 = 9 trained tokens, and the last is the end token."""
    chat = Chat.load(tiny)
    ids = chat.encode(DOCUMENTS[0])
    assert len(ids) == 9
    ids = [*ids, chat.tokenizer.eos_token_id]
    (_, example) = encoded(tiny, 4, DOCUMENTS[:1])[0]
    assert [list(piece.ids) for piece in example.sequences] == [ids[0:5], ids[4:9], ids[8:10]]
    assert [piece.ids[place] for piece in example.sequences for place in piece.scored] == ids[1:]
    assert example.share == 9


def test_c1_equals_t1_with_all_labels(tiny: Path) -> None:
    """C1 Proof: loss and every gradient are those of transformers with labels = input_ids, document by document (1e-5)."""
    model: Any = load(tiny, "fp32", trained=True)
    ours = measured(model, [example for _, example in in_blocks(tiny, 256)])
    model.zero_grad(set_to_none=True)
    model.set_attn_implementation("eager")
    chat = Chat.load(tiny)
    rows = [torch.tensor([[*chat.encode(text), chat.tokenizer.eos_token_id]]) for text in DOCUMENTS]
    count = sum(row.shape[1] - 1 for row in rows)
    total = 0.0
    for row in rows:
        part = model(input_ids=row, labels=row).loss * (row.shape[1] - 1) / count
        part.backward()
        total += float(part.detach())
    close(ours, (total, {name: parameter.grad for name, parameter in model.named_parameters()}))


@pytest.mark.parametrize("block", [8, 64], ids=["longer-than-a-block", "several-in-a-block"])
def test_c1_packed_is_unpacked(tiny: Path, block: int) -> None:
    """C1 Proof: pieces in common blocks have the loss and gradient of each piece alone, so nothing is attended across documents."""
    model = load(tiny, "fp32", trained=True)
    alone = [Example((piece,), float(len(piece.scored))) for _, example in encoded(tiny, block) for piece in example.sequences]
    together = [example for _, example in in_blocks(tiny, block)]
    assert len(together) < len(alone)
    close(measured(model, together), measured(model, alone))


def test_blocks_hold_everything_once_within_their_size(tiny: Path) -> None:
    made = in_blocks(tiny, 8)
    assert all(sum(len(piece.ids) - 1 for piece in example.sequences) <= 8 for _, example in made)
    pieces = sorted(piece.ids for _, example in made for piece in example.sequences)
    assert pieces == sorted(piece.ids for _, example in encoded(tiny, 8) for piece in example.sequences)
    assert sum(example.share for _, example in made) == sum(example.share for _, example in encoded(tiny, 8))


def test_a_block_beyond_the_context_and_an_empty_document_are_refused(tiny: Path) -> None:
    with pytest.raises(InputError, match=r"objective\.cpt\.block: is 1024, and the model reads 512"):
        shelf.call("objectives", "cpt", "blocks", {})(encoded(tiny, 64), 512)
    with pytest.raises(Refused, match="empty document"):
        encoded(tiny, 64, ["  \n"])


def test_c1_defaults_of_an_entry() -> None:
    """C1: warmup 5 %, LoRA of rank 64, 1e-4 with it and 5e-5 with full; what the recipe says wins; another objective keeps its own."""
    module = shelf.find("objectives", "cpt").load()
    entry = TrainSection.model_validate({"objective": "cpt", "documents": "d"})
    assert (entry.warmup, entry.adapter.name, entry.adapter.options) == (0.05, "lora", {"r": 64})
    assert module.LEARNING_RATE == {"full": 5e-5, "lora": 1e-4, "dora": 1e-4}
    own = TrainSection.model_validate({"objective": {"cpt": {"block": 64}}, "documents": "d", "adapter": "full", "warmup": 0.1})
    assert (own.warmup, own.adapter.name) == (0.1, "full")
    again = TrainSection.model_validate(own.model_dump(mode="json"))
    assert again == own
    assert TrainSection.model_validate({"objective": "sft"}).warmup == 0.03


def test_c1_little_text_and_no_replay_are_advised_against(tiny: Path) -> None:
    """C1 Bad: under 1M tokens warns; general replay outside 10 to 30 % is advised."""
    module = shelf.find("objectives", "cpt").load()
    few = [example for _, example in in_blocks(tiny, 64)]
    assert [said.partition(":")[0] for said in module.advise(few, None)] == [
        f"{sum(e.share for e in few):,.0f} tokens of documents",
        "no general rows are replayed",
    ]
    many = few * 20_000
    assert module.advise(many, {"loss_share": 0.2, "token_share": 0.1}) == []
    assert module.advise(many, {"loss_share": 0.02, "token_share": 0.01}) == [
        "2% of the loss is replayed: 10 to 30 % hold what the model knows; add replay: {share: 0.2}"
    ]
