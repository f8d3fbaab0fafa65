"""Unstructured and N:M pruning (MISSION Z7): hand numbers, torch's own masks, exact counts; the checkpoint that is written, and what it honestly saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.transforms.test_prune_structured import loaded
from torch import Tensor, nn

from planish.errors import InputError, RunFailed
from planish.model.cut_folder import Source
from planish.shelf import call
from planish.stages._sparsify import NOTE, prunable, sparsify, speed


def done(technique: str, weight: Any, norms: Any = None, **options: Any) -> Tensor:
    found: Tensor = call("transforms", technique, "transform", options)(torch.as_tensor(weight), None if norms is None else torch.as_tensor(norms))
    return found


def some(rows: int = 24, columns: int = 32, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_z7_ex_two_of_four_by_hand() -> None:
    """MISSION Z7 Ex: of (.9, -.1, .2, -.8) the two largest by size are .9 and -.8 -> (.9, 0, 0, -.8); half of the matrix by magnitude is the same here."""
    weight = torch.tensor([[0.9, -0.1, 0.2, -0.8]])
    right = torch.tensor([[0.9, 0.0, 0.0, -0.8]])
    assert torch.equal(done("nm_sparsity", weight), right)
    assert torch.equal(done("magnitude", weight, sparsity=0.5), right)


def test_z7_ex_wanda_keeps_the_second() -> None:
    """MISSION Z7 Ex: w = (.9, .5), ||x|| = (.1, 1): .9 * .1 = .09 < .5 * 1 = .5, so the second stays; by magnitude the first would."""
    weight, norms = torch.tensor([[0.9, 0.5]]), torch.tensor([0.1, 1.0])
    assert torch.equal(done("wanda", weight, norms, sparsity=0.5), torch.tensor([[0.0, 0.5]]))
    assert torch.equal(done("nm_sparsity", weight, norms, n=1, m=2), torch.tensor([[0.0, 0.5]]))
    assert torch.equal(done("magnitude", weight, sparsity=0.5), torch.tensor([[0.9, 0.0]]))


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.77])
def test_z7_proof_magnitude_is_torchs_l1_mask(sparsity: float) -> None:
    """MISSION Z7 Proof: torch.nn.utils.prune.l1_unstructured gives the same mask."""
    from torch.nn.utils import prune

    layer = nn.Linear(32, 24, bias=False)
    mine = done("magnitude", layer.weight.detach().clone(), sparsity=sparsity)
    prune.l1_unstructured(layer, "weight", amount=sparsity)
    assert torch.equal(mine != 0, layer.weight_mask.bool())


def test_wanda_is_torchs_l1_mask_row_by_row_with_the_scores_as_importance() -> None:
    from torch.nn.utils import prune

    weight, norms = some(), some(1)[0].abs()
    mine = done("wanda", weight, norms, sparsity=0.5) != 0
    for row in range(len(weight)):
        layer = nn.Linear(32, 1, bias=False)
        prune.l1_unstructured(layer, "weight", amount=16, importance_scores=(weight[row] * norms)[None])
        assert torch.equal(mine[row], layer.weight_mask.bool()[0])


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8), (1, 2)])
def test_z7_proof_exactly_n_of_m_stay(n: int, m: int) -> None:
    """MISSION Z7 Proof: every run of m neighbours in a row has exactly n left, and they are the largest."""
    weight = some()
    groups = done("nm_sparsity", weight, n=n, m=m).reshape(-1, m)
    assert ((groups != 0).sum(1) == n).all()
    gone = torch.where(groups == 0, weight.reshape(-1, m).abs(), 0).amax(1)
    assert (gone <= torch.where(groups != 0, groups.abs(), torch.inf).amin(1)).all()


@pytest.mark.parametrize(
    ("technique", "options", "norms", "why"),
    [
        ("nm_sparsity", {"m": 5}, None, "not divisible by 5"),
        ("nm_sparsity", {"n": 4}, None, "no pattern"),
        ("nm_sparsity", {}, torch.ones(3), "3 norms"),
        ("wanda", {}, None, "no norms"),
        ("wanda", {}, torch.ones(3), "3 norms"),
        ("wanda", {"sparsity": 1.0}, torch.ones(32), "no share"),
        ("magnitude", {"sparsity": -0.1}, None, "no share"),
    ],
)
def test_z7_bad_options_are_refused(technique: str, options: dict[str, Any], norms: Tensor | None, why: str) -> None:
    """MISSION Z7 Bad: a width that M does not divide, and what else cannot be done."""
    with pytest.raises(InputError, match=why):
        done(technique, some(), norms, **options)


def test_the_checkpoint_is_the_technique_on_every_matrix_and_says_what_it_saves(tiny: Path, tmp_path: Path) -> None:
    """Embeddings and norms are as they were; the file is as large as before, and the report says so beside the measured speed."""
    source = Source(tiny)
    report = sparsify(source, "nm_sparsity", {"n": 2, "m": 4}, tmp_path / "out")
    before, after = loaded(tiny).state_dict(), loaded(tmp_path / "out").state_dict()
    for name, weight in after.items():
        assert torch.equal(weight, done("nm_sparsity", before[name]) if prunable(name) else before[name]), name
    assert report.zeros == 0.5
    assert report.zeros_before == 0
    assert report.bytes == sum(entry.size * 4 for entry in source.entries.values())
    assert report.mask_bytes == report.weights * 2 + report.weights // 8
    assert report.note == NOTE
    assert report.speed_dense > 0
    assert report.speed_rows > 0


def test_norms_reach_the_technique(tiny: Path, tmp_path: Path) -> None:
    """With an input column of length 0 everywhere, Wanda zeroes that column in every row."""
    source = Source(tiny)

    def norms(layer: str) -> Tensor:
        columns = source.entries[f"{layer}.weight"].shape[1]
        return torch.cat([torch.zeros(1), torch.ones(columns - 1)])

    sparsify(source, "wanda", {"sparsity": 0.1}, tmp_path / "out", norms=norms)
    assert all(not weight[:, 0].any() for name, weight in loaded(tmp_path / "out").state_dict().items() if prunable(name))


def test_a_compressor_that_does_nothing_is_an_error(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="not one"):
        sparsify(Source(tiny), "magnitude", {"sparsity": 0.0}, tmp_path / "out")
    with pytest.raises(InputError, match="not divisible by 7"):
        sparsify(Source(tiny), "nm_sparsity", {"m": 7}, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_speed_measures_both_forms() -> None:
    dense, rows = speed(some(256, 256), done("magnitude", some(256, 256), sparsity=0.5))
    assert 0.1 < dense < 10
    assert rows > 0
