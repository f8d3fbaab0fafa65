"""Tree against flat for many families: loss and every gradient, in fp64 to 1e-9 and in fp32 to 1e-5; and families that the tree cannot serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.model.families import FAMILIES, PLAIN, WINDOW, distance, draw_rows, eager, flat_loss, gradients, make
from torch import nn
from transformers import AttentionInterface

from planish.data.tree import Sequence, build
from planish.errors import InputError
from planish.model import sibling_tree, tree_attention
from planish.model.layout import layout_of, settle, use_plain, use_tree
from planish.model.load import load
from planish.model.merged_attention import merged_attention
from planish.model.policy import score


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


def opened(folder: Path, name: str) -> nn.Module:
    kind, changes = FAMILIES.get(name) or PLAIN[name][:2]
    where = folder / name
    return load(where if where.is_dir() else make(where, kind, changes), "fp32").requires_grad_(True)


def tree_loss(model: nn.Module, rows: list[Sequence], **options: object) -> torch.Tensor:
    part = score(model, build(rows), "fp32", **options)
    return -(part.log_prob * part.weight).sum()


def both(model: nn.Module, rows: list[Sequence], **options: object) -> tuple[float, float]:
    """Relative distance of the loss and of the gradients."""
    loss = tree_loss(model, rows, **options)
    ours = gradients(model, loss)
    with eager(model):
        flat = flat_loss(model, rows)
        theirs = gradients(model, flat)
    return abs(loss.item() / flat.item() - 1), distance(ours, theirs)


@pytest.fixture
def everything_in_fp64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models cast to fp32 for norms and softmax whatever they are given; in fp64 that would hide the last nine digits of both sides."""
    to, as_float, softmax = torch.Tensor.to, torch.Tensor.float, F.softmax

    def wide_to(self: torch.Tensor, *args: Any, **named: Any) -> torch.Tensor:
        narrows = self.dtype == torch.float64 and torch.float32 in (*args, named.get("dtype"))
        return self if narrows else to(self, *args, **named)

    monkeypatch.setattr(torch.Tensor, "to", wide_to)
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self if self.dtype == torch.float64 else as_float(self))
    monkeypatch.setattr(F, "softmax", lambda x, dim, dtype=None: softmax(x, dim, dtype=x.dtype if x.dtype == torch.float64 else dtype))


@pytest.fixture(params=[(1, False), (8, True), (128, False)], ids=["segments", "merged", "whole"])
def cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way in which a tiny tree can be cut: each segment alone, small subtrees with every prefix merged by log-sum-exp, one unit with a mask."""
    unit, merged = request.param
    monkeypatch.setattr(sibling_tree, "UNIT", unit)
    monkeypatch.setattr(sibling_tree, "merging_pays", lambda members, longest, ancestors: merged and ancestors > 0)


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("name", FAMILIES)
def test_k6_t11_tree_equals_flat_in_fp32(folder: Path, name: str) -> None:
    """MISSION K6 and T11: loss and every gradient of a three-level tree equal those of its rows alone to 1e-5."""
    model = opened(folder, name)
    assert layout_of(model).kind == "tree", layout_of(model).reason
    assert max(both(model, draw_rows(1))) <= 1e-5


@pytest.mark.usefixtures("everything_in_fp64", "cut")
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "qwen3_moe"])
def test_k6_tree_equals_flat_in_fp64(folder: Path, name: str) -> None:
    """MISSION K6: 1e-9 in fp64. Not for mixtures of experts: torch's grouped matrix product takes no fp64."""
    assert max(both(opened(folder, name).double(), draw_rows(2))) <= 1e-9


@given(st.data())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2"])
def test_random_tries(folder: Path, name: str, data: st.DataObject) -> None:
    """Any rows over four tokens: empty, equal and nested ones, deep forks, several answers to one position."""
    rows = data.draw(st.lists(st.lists(st.integers(3, 6), min_size=2, max_size=3 * WINDOW), min_size=1, max_size=6))
    sequences = [Sequence(tuple(ids), (0.0, *[1.0] * (len(ids) - 1))) for ids in rows]
    assert max(both(opened(folder, name), sequences)) <= 1e-5


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3"])
@pytest.mark.parametrize("way", ["dense", "flex"])
def test_every_way_is_the_same_attention(folder: Path, name: str, way: str) -> None:
    """The dense mask and FlexAttention (as written, not compiled) give the hidden states of the sibling calls, windows and soft caps included."""
    model, tree = opened(folder, name), build(draw_rows(3, 20))
    with torch.no_grad():
        ours, theirs = (score(model, tree, "fp32", way=each).log_prob for each in ("siblings", way))
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_dense_gradients(folder: Path) -> None:
    assert max(both(opened(folder, "gemma2"), draw_rows(4), way="dense")) <= 1e-5


@pytest.mark.parametrize("name", PLAIN)
def test_what_the_tree_cannot_serve_is_computed_as_plain_rows(folder: Path, name: str) -> None:
    """Recurrent, hybrid and chunked layers, attention sinks, position biases: the reason is named, and loss and gradients are still those of the rows alone."""
    model = opened(folder, name)
    layout = layout_of(model)
    assert layout.kind == "rows"
    assert PLAIN[name][2] in layout.reason
    assert max(both(model, draw_rows(5))) <= 1e-5


def test_a_family_that_is_not_what_it_says_is_found_out(folder: Path) -> None:
    """What the check at load is for: a model whose attention differs from the tree's in a way that no configuration key tells."""
    model = opened(folder, "gemma3")
    for layer in model.model.layers:
        layer.self_attn.scaling *= 1.5 if layer.self_attn.sliding_window else 1.0
    assert settle(model, "m").kind == "tree"  # a scale that both ways are given changes nothing
    model.model.layers[0].self_attn.sliding_window = None
    layout = settle(model, "m")
    assert layout.kind == "rows"
    assert "its layers ask for the windows []" in layout.reason
    plain = opened(folder, "llama")
    attend = tree_attention.tree_attention
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(AttentionInterface._global_mapping, tree_attention.NAME, lambda *args, **named: (attend(*args, **named)[0] * 1.1, None))
        layout = settle(plain, "m")
    assert layout.kind == "rows"
    assert "differ from those of its own attention" in layout.reason


def test_a_head_that_is_not_understood_is_refused(folder: Path) -> None:
    """The configuration says that logits are scaled; the model does not scale them."""
    model = opened(folder, "llama")
    model.config.logits_scaling = 2.0
    with pytest.raises(InputError, match="not those of its LM head"):
        settle(model, "m")


def test_a_model_that_looks_ahead_is_refused(folder: Path) -> None:
    """Bidirectional attention leaks the answer into the prompt; neither the tree nor plain rows can train on it."""
    where = make(folder / "bidirectional", "gemma3_text", {"use_bidirectional_attention": True, "sliding_window": WINDOW})
    with pytest.raises(InputError, match="come later"):
        load(where, "fp32")


def test_generation_after_scoring_and_back(folder: Path) -> None:
    """The model's own attention for generation and the tree's for scoring, in turn; Gemma 2 has no SDPA and a recurrent model no tree."""
    for name in ("gemma2", "mamba"):
        model = opened(folder, name)
        with torch.no_grad():
            before = score(model, build(draw_rows(1)), "fp32").log_prob
            use_plain(model)
            logits = model(input_ids=torch.tensor([[3, 4, 5]])).logits
            use_tree(model)
            assert torch.equal(score(model, build(draw_rows(1)), "fp32").log_prob, before)
        assert logits.isfinite().all()


def test_merged_attention_is_one_softmax() -> None:
    """Prefix and own block merged by their log-sum-exps against one masked call, in fp64: values and all five gradients, causal units and units with a tree of their own."""
    torch.manual_seed(0)
    shapes = [(3, 6, 5, 8), (2, 7, 8), (2, 7, 8), (3, 6, 5, 8), (3, 6, 5, 8)]
    leaves = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    causal = torch.ones(5, 5, dtype=torch.bool).tril()
    branching = causal.clone()
    branching[3:, 2] = False
    for own in (None, torch.stack([causal, branching, branching])[:, None]):
        query, before_k, before_v, own_k, own_v = leaves
        out = merged_attention(query, before_k, before_v, own_k, own_v, own, 0.3)
        keys, values = (torch.cat([before.repeat_interleave(3, 0).expand(3, -1, -1, -1), mine], 2) for before, mine in ((before_k, own_k), (before_v, own_v)))
        mask = torch.cat([torch.ones(3, 1, 5, 7, dtype=torch.bool), (causal if own is None else own).expand(3, 1, 5, 5)], 3)
        full = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=0.3)
        weight = torch.randn_like(full)
        for got, wanted in zip(torch.autograd.grad(out, leaves, weight), torch.autograd.grad(full, leaves, weight), strict=True):
            assert torch.allclose(got, wanted, rtol=1e-10, atol=1e-12)
        assert torch.allclose(out, full, rtol=1e-12)
