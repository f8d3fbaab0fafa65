"""Importance of weights and units (MISSION Z8): hand numbers, autograd and finite differences, and rank agreement with the true cost of removal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import make_tiny
from torch import nn

from planish.errors import InputError
from planish.model import importance
from planish.model.cut_folder import Source
from planish.model.gram_pass import collect
from planish.model.load import load

TEXT = [list(range(3 + shift, 27 + shift)) for shift in range(0, 60, 10)]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, nn.Module]:
    """A tiny model fitted to TEXT for a few steps, so that some of its units matter more than others."""
    folder = make_tiny(tmp_path_factory.mktemp("small") / "model", hidden=24, layers=4)
    model: Any = load(folder, "fp32", trained=True)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    torch.manual_seed(0)
    for _ in range(30):
        loss = torch.stack([one / count for one, count in importance.losses(model, TEXT)]).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.save_pretrained(folder)
    return Source(folder), model.eval()


def test_z8_ex_three_scores_by_hand() -> None:
    """MISSION Z8 Ex: w=.5, g=.2, h=4: |w| = .5; |g w| = .1; h w^2/2 = 4 * .25 / 2 = .5, and w^2/(2 Hinv) with Hinv = 1/4 the same .25 / .5 = .5."""
    w, g, h = torch.tensor(0.5), torch.tensor(0.2), torch.tensor(4.0)
    assert importance.magnitude(w).item() == pytest.approx(0.5)
    assert importance.gradient(w, g).item() == pytest.approx(0.1)
    assert importance.hessian(w, h).item() == pytest.approx(0.5)
    assert importance.surgeon(w, 1 / h).item() == pytest.approx(0.5)


def test_surgeon_is_the_least_loss_that_removal_can_cost() -> None:
    """Optimal brain surgeon: minimising d^T H d / 2 with d_0 = -w_0 and the rest free gives w_0^2 / (2 Hinv_00). H = [[2, 1], [1, 2]]: Hinv_00 = 2/3, w_0 = 1 -> .75; the
    free weight at d_1 = .5 costs (2 - 2 * .5 + .5) / 2 = .75."""
    h = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    d = torch.tensor([-1.0, 0.5])
    assert importance.surgeon(torch.tensor(1.0), torch.linalg.inv(h)[0, 0]).item() == pytest.approx(0.75)
    assert (d @ h @ d / 2).item() == pytest.approx(0.75)


def test_magnitude_sums_over_a_units_weights(small: tuple[Source, nn.Module]) -> None:
    source, model = small
    scores = importance.by_magnitude(source)
    layer: Any = dict(model.named_modules())["model.layers.1"]
    channel = layer.mlp.gate_proj.weight[5].abs().sum() + layer.mlp.up_proj.weight[5].abs().sum() + layer.mlp.down_proj.weight[:, 5].abs().sum()
    assert scores["channels"][1, 5].item() == pytest.approx(channel.item(), rel=1e-5)
    attention = layer.self_attn  # group 1: query heads 2 and 3 of width 6, key-value head 1
    group = attention.q_proj.weight[12:].abs().sum() + attention.o_proj.weight[:, 12:].abs().sum()
    group += attention.k_proj.weight[6:].abs().sum() + attention.v_proj.weight[6:].abs().sum()
    assert scores["heads"][1, 1].item() == pytest.approx(group.item(), rel=1e-5)
    assert scores["layers"][1].item() == pytest.approx((scores["heads"][1].sum() + scores["channels"][1].sum()).item())


def test_magnitude_does_not_depend_on_the_pieces(small: tuple[Source, nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    from planish.model import cut_folder

    whole = importance.by_magnitude(small[0])
    monkeypatch.setattr(importance, "PIECE", 100)
    monkeypatch.setattr(cut_folder, "PIECE", 100)
    pieces = importance.by_magnitude(small[0])
    assert all(torch.allclose(whole[kind], pieces[kind]) for kind in whole)


def test_gradient_is_the_slope_of_the_loss_as_a_unit_fades(small: tuple[Source, nn.Module]) -> None:
    """|sum g w| is |d loss / d s| where every weight of a channel is scaled by s, at s = 1: a central difference of 1e-3."""
    source, model = small
    scores = importance.by_gradient(model, source.units, TEXT)["gradient"]
    layer: Any = dict(model.named_modules())["model.layers.2"]

    def at(scale: float) -> float:
        with torch.no_grad():
            parts = [layer.mlp.gate_proj.weight[7], layer.mlp.up_proj.weight[7], layer.mlp.down_proj.weight[:, 7]]
            kept = [part.clone() for part in parts]
            for part in parts:
                part.mul_(scale)
            told = list(importance.losses(model, TEXT))
            for part, old in zip(parts, kept, strict=True):
                part.copy_(old)
        return sum(float(loss.double()) for loss, _ in told) / sum(count for _, count in told)

    slope = abs(at(1.02) - at(0.98)) / 0.04
    assert scores["channels"][2, 7].item() == pytest.approx(slope, rel=0.05, abs=2e-5)


def test_block_influence_by_hand(small: tuple[Source, nn.Module]) -> None:
    """1 - mean cosine of a layer's input and output, from the hidden states that transformers gives; a silenced layer turns nothing: 0."""
    source, model = small
    found = importance.by_influence(model, TEXT[:1])["layers"]
    with torch.no_grad():
        states = model(input_ids=torch.tensor(TEXT[:1]), output_hidden_states=True, use_cache=False).hidden_states
    right = 1 - nn.functional.cosine_similarity(states[1][0].double(), states[2][0].double(), dim=-1).mean()
    assert found[1].item() == pytest.approx(right.item(), abs=1e-6)
    with importance.without(model, source.units, "layers", 1):
        silent = importance.by_influence(model, TEXT[:1])["layers"]
    assert (silent > -1e-9).all()


def test_z8_proof_spearman_against_true_ablation(small: tuple[Source, nn.Module]) -> None:
    """MISSION Z8 Proof: on a fitted tiny model the scores with text rank channels and heads as their true cost does (Spearman > .3 for channels, n = 288), and the
    activation ranks channels better than magnitude, which knows no text."""
    from scipy.stats import spearmanr

    source, model = small
    grams = collect(model, TEXT, only=lambda name: name.endswith(("o_proj", "down_proj")))
    truth = importance.by_ablation(model, source.units, TEXT, ["channels"])["channels"].flatten()
    methods = (
        {"magnitude": importance.by_magnitude(source)} | importance.by_gradient(model, source.units, TEXT) | importance.by_inputs(model, source.units, grams)
    )
    ranks = {name: float(spearmanr(scores["channels"].flatten(), truth).statistic) for name, scores in methods.items()}
    assert ranks["gradient"] > 0.3, ranks
    assert ranks["hessian"] > 0.3, ranks
    assert ranks["activation"] > 0.3, ranks
    assert ranks["activation"] > ranks["magnitude"], ranks


def test_ablation_is_the_loss_of_the_model_that_is_cut(small: tuple[Source, nn.Module], tmp_path: Path) -> None:
    """The truth for a layer is the loss of the checkpoint without it, less the loss with it."""
    from planish.stages._prune import Removal, cut_of, prune

    source, model = small
    rises = importance.by_ablation(model, source.units, TEXT, ["layers", "heads"])
    scores, removal = torch.tensor([1.0, 1.0, 0.0, 1.0]), Removal(layers=1)
    prune(source, cut_of(source.units, removal, {"layers": scores}), removal, tmp_path / "out")
    with torch.no_grad():
        told, own = list(importance.losses(load(tmp_path / "out", "fp32"), TEXT)), list(importance.losses(model, TEXT))
    apart = (sum(float(a) for a, _ in told) - sum(float(a) for a, _ in own)) / sum(count for _, count in own)
    assert rises["layers"][2].item() == pytest.approx(apart, abs=1e-5)
    assert rises["heads"].shape == (4, 2)


def test_no_text_is_refused(small: tuple[Source, nn.Module]) -> None:
    with pytest.raises(InputError, match="two tokens"):
        list(importance.losses(small[1], [[1]]))
