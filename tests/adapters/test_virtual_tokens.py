"""Prompt, prefix and P-tuning through every way that a model is asked: tree of other kernels, recomputed layers, half precision, long generation (MISSION A7, A8)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.adapters.shelf_of_adapters import ROWS, attached, log_probs, tuned
from tests.model.families import PLAIN, make

from planish import shelf
from planish.data.tree import build
from planish.errors import InputError
from planish.model.backbone import base_of
from planish.model.chat import Chat
from planish.model.load import load
from planish.model.optimizer import trainable
from planish.model.policy import hidden_states, score
from planish.model.recompute import checkpoint_activations
from planish.model.trunk import frozen_depth
from planish.model.virtual_tokens import rooted

NAMES = ("prompt", "prefix", "p_tuning")


def test_rooted(biased: Path) -> None:
    """Four tokens above two roots: everything moves by four, and both roots hang below them."""
    tree = build(ROWS)
    whole = rooted(tree, attached(biased, "prompt", tokens=4))
    assert len(whole.ids) == len(tree.ids) + 4
    assert [segment.parent for segment in whole.segments if segment.parent <= 0] == [-1, *[0] * sum(segment.parent == -1 for segment in tree.segments)]
    assert whole.ends[0] == len(whole.ids)
    assert (whole.positions[4:] == tree.positions + 4).all()
    for leaf in tree.leaves:
        assert (whole.path(leaf + 1)[4:] == tree.path(leaf) + 4).all()
    assert rooted(tree, load(biased, "fp32")) is tree


@pytest.mark.parametrize("name", NAMES)
def test_kernels_agree(biased: Path, name: str) -> None:
    model = tuned(biased, name)
    with torch.no_grad():
        assert torch.allclose(hidden_states(model, build(ROWS), way="siblings"), hidden_states(model, build(ROWS), way="dense"), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_recomputed_layers_give_the_same_gradient(biased: Path, name: str) -> None:
    model = tuned(biased, name)
    log_probs(model).sum().backward()
    wanted = {key: parameter.grad.clone() for key, parameter in trainable(model).items() if parameter.grad is not None}
    model.zero_grad()
    assert checkpoint_activations(model) == 2
    log_probs(model).sum().backward()
    assert wanted
    for key, gradient in wanted.items():
        assert torch.allclose(gradient, trainable(model)[key].grad, atol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_below_them_is_cached_and_their_gradient_is_fp32_under_half_precision(biased: Path, name: str) -> None:
    model = shelf.call("adapters", name, "attach", {"tokens": 4})(load(biased, "bf16"))
    assert frozen_depth(model) == 0
    score(model, build(ROWS), "bf16").log_prob.sum().backward()
    assert {parameter.grad.dtype for parameter in trainable(model).values() if parameter.grad is not None} == {torch.float32}


@pytest.mark.parametrize("name", NAMES)
def test_generate_goes_through_them(biased: Path, name: str) -> None:
    """transformers' own generate, which makes the cache and the mask itself, gives what asking for every next token anew gives."""
    from planish.model.layout import use_plain

    model = tuned(biased, name)
    use_plain(model)
    ids = [5, 6, 7]
    with torch.inference_mode():
        made = base_of(model).generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, 3, dtype=torch.long), max_new_tokens=4, do_sample=False, pad_token_id=0
        )
        for _ in range(4):
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            if ids[-1] == made[0, len(ids) - 1] == base_of(model).generation_config.eos_token_id:
                break
    assert made[0].tolist()[: len(ids)] == ids


def test_prompt_starts_as_the_text(biased: Path) -> None:
    """The text's own embeddings, repeated to fit."""
    ids = Chat.load(biased).encode("good phone")
    model = attached(biased, "prompt", tokens=len(ids) + 1, init_text="good phone")
    table = base_of(model).get_input_embeddings().weight
    assert torch.equal(base_of(model).virtual.encoder.weight, table[[*ids, ids[0]]])


def test_prefix_needs_attention_everywhere(tmp_path: Path) -> None:
    kind, changes, _ = PLAIN["mamba"]
    model = load(make(tmp_path / "mamba", kind, changes), "fp32")
    with pytest.raises(InputError, match="needs attention in every layer"):
        shelf.call("adapters", "prefix", "attach", {"tokens": 4})(model)
