"""Calibration, rounding to nearest, GPTQ and AWQ against numpy, hand-worked numbers and the text itself (MISSION Z1, Z3, Z4)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from planish.errors import InputError
from planish.model import gram
from planish.model.awq import clipped, scales_of, search
from planish.model.clipping import by_column, by_output, fitted
from planish.model.gptq import factor, gptq, rounded
from planish.model.gram import Gram
from planish.model.gram_pass import collect, tree_tokens
from planish.model.layout import Layout, use_plain
from planish.model.load import load
from planish.model.rtn import grid, group_for, output_error, rtn


def text(count: int = 6, length: int = 20) -> list[list[int]]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(3, 500, (length + index,), generator=draw).tolist() for index in range(count)]


def alike() -> list[list[int]]:
    """Rows that begin alike, one that ends inside another, and one that is there three times."""
    first, *rest = text()
    return [first + row for row in rest] + [first[:9], rest[0], rest[0], rest[0]]


def gram_of(inputs: torch.Tensor) -> Gram:
    return Gram(inputs.T @ inputs, inputs.abs().mean(0), len(inputs))


@pytest.mark.parametrize("rows", [text(), alike()], ids=["apart", "alike"])
@pytest.mark.parametrize("kind", ["tree", "rows"])
def test_z1_the_gram_is_x_x_transposed_of_what_each_layer_reads(tiny: Path, rows: list[list[int]], kind: Literal["tree", "rows"]) -> None:
    """Z1 proof: G equals X X^T (1e-5), X recorded by hooks of the test's own, row by row; q, k, v and gate, up share one matrix. Shared tokens count in every row."""
    model = load(tiny, "fp32")
    model.planish_layout = Layout(kind)
    found, less = collect(model, rows), collect(model, rows, matrices=False)
    use_plain(model)
    read: dict[str, list[torch.Tensor]] = {}
    hooks = [
        module.register_forward_hook(lambda _, given, __, name=name: read.setdefault(name, []).append(given[0].detach().reshape(-1, given[0].shape[-1])))
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    ]
    with torch.no_grad():
        for ids in rows:
            model(input_ids=torch.tensor([ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    assert read.keys() == found.inputs.keys()
    assert len(found.matrices) == 2 * 4
    assert found.sharing("model.layers.0.self_attn.k_proj") == [f"model.layers.0.self_attn.{part}_proj" for part in "qkv"]
    for name, pieces in read.items():
        inputs = torch.cat(pieces).double()
        true = inputs.T @ inputs
        ours = found.of(name)
        assert ours.tokens == len(inputs) == found.tokens
        assert float((ours.matrix - true).norm() / true.norm()) < 1e-5
        assert torch.allclose(ours.mean_abs.double(), inputs.abs().mean(0), rtol=1e-5)
        assert torch.allclose(ours.norms.double(), inputs.norm(dim=0), rtol=1e-5)
        assert torch.allclose(less.of(name).norms.double(), inputs.norm(dim=0), rtol=1e-5)
        assert torch.allclose(less.of(name).mean_abs, ours.mean_abs, rtol=1e-5)
        with pytest.raises(ValueError, match="only the diagonal"):
            _ = less.of(name).matrix


class Expert(torch.nn.Module):
    """An expert: it reads the tokens whose first value is above 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expert = torch.nn.Linear(width, width, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        chosen = hidden[..., 0] > 0
        found = torch.zeros_like(hidden)
        found[chosen] = self.expert(hidden[chosen])
        return found


def test_z1_a_layer_that_is_sent_a_choice_of_the_tokens(tiny: Path) -> None:
    """An expert does not know how many rows a token stands for, so rows are read one by one: its matrix is that of every token it was sent, shared ones in every row."""
    model = load(tiny, "fp32")
    torch.manual_seed(0)
    model.model.layers[1].mlp = Expert(model.config.hidden_size)
    sent: list[torch.Tensor] = []
    found = collect(model, alike(), matrices=True)
    hook = model.model.layers[1].mlp.expert.register_forward_hook(lambda _, given, __: sent.append(given[0].detach()))
    use_plain(model)
    with torch.no_grad():
        for ids in alike():
            model(input_ids=torch.tensor([ids]), use_cache=False)
    hook.remove()
    inputs = torch.cat(sent).double()
    ours = found.of("model.layers.1.mlp.expert")
    assert ours.tokens == len(inputs) < found.tokens
    assert torch.allclose(ours.matrix.double(), inputs.T @ inputs, rtol=1e-4, atol=1e-5)


def test_z1_shared_tokens_go_through_once() -> None:
    """Three rows of 5 that begin alike in 3, twice one of 4, and one that begins like it and ends earlier: 3 + 3 x 2 and 4 tokens."""
    rows = [(5, 6, 7, 1, 1), (5, 6, 7, 2, 2), (5, 6, 7, 3, 3), (9, 9, 8, 9), (9, 9, 8, 9), (9, 9)]
    assert tree_tokens(rows) == 13


def test_z1_few_sequences_are_said_and_none_is_refused(tiny: Path) -> None:
    """Z1 bad: fewer than 128 sequences warns."""
    model = load(tiny, "fp32")
    assert "6 sequences, fewer than 128" in collect(model, text()).warning
    assert collect(model, text(count=128, length=2)).warning == ""
    with pytest.raises(InputError, match="no text"):
        collect(model, [])
    with pytest.raises(InputError, match="no calibration text came through"):
        collect(model, text(), only=lambda name: "mlp" in name).of("model.layers.0.self_attn.q_proj")


def test_z1_what_was_collected_is_kept_by_content(tiny: Path, tmp_path: Path) -> None:
    model, calls = load(tiny, "fp32"), []

    def make() -> gram.Grams:
        calls.append(1)
        return collect(model, text())

    first = gram.kept(tmp_path, "model-a", text(), make)
    again = gram.kept(tmp_path, "model-a", text(), make)
    gram.kept(tmp_path, "model-a", text(), make, matrices=False)  # matrices hold the diagonals
    assert len(calls) == 1
    assert again.inputs == first.inputs
    assert all(torch.equal(again.matrices[name].matrix, first.matrices[name].matrix) for name in first.matrices)
    gram.kept(tmp_path, "model-b", text(), make)
    gram.kept(tmp_path, "model-c", text(), lambda: collect(model, text(), matrices=False), matrices=False)
    assert gram.kept(tmp_path, "model-c", text(), make, matrices=False).matrices["model.layers.0.mlp.down_proj"].products.ndim == 1
    gram.kept(tmp_path, "model-a", text(count=5), make)
    assert len(calls) == 3


def test_z1_ex_four_weights_in_int4() -> None:
    """Z1 Ex: (.70, -.33, .14, 0): s = .70 / 7 = .1; q = round(7, -3.3, 1.4, 0) = (7, -3, 1, 0); errors (0, .03, .04, 0), the largest .04 <= s/2 = .05."""
    weight = torch.tensor([[0.70, -0.33, 0.14, 0.0]])
    found = rtn(weight, 4, 4)
    assert found.grid.scale.tolist() == [[pytest.approx(0.1)]]
    assert found.codes.tolist() == [[7, -3, 1, 0]]
    assert float((found.values() - weight).abs().max()) == pytest.approx(0.04)


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("symmetric", [True, False])
def test_z1_rtn_is_numpys(bits: int, symmetric: bool) -> None:
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    cells = weight.numpy().reshape(6, 2, 32)
    if symmetric:
        scale = np.abs(cells).max(-1, keepdims=True) / np.float32(2 ** (bits - 1) - 1)
        true = np.round(cells / scale) * scale
    else:
        scale = (cells.max(-1, keepdims=True) - cells.min(-1, keepdims=True)) / np.float32(2**bits - 1)
        zero = np.round(-cells.min(-1, keepdims=True) / scale)
        true = (np.clip(np.round(cells / scale) + zero, 0, 2**bits - 1) - zero) * scale
    assert np.allclose(rtn(weight, bits, 32, symmetric=symmetric).values().numpy(), true.reshape(6, 64), atol=1e-6)


def test_z1_scales_are_those_that_are_stored_and_a_group_of_zeros_stays_zero() -> None:
    weight = torch.zeros(2, 64)
    weight[0, 3] = 0.123456
    found = rtn(weight, 4, 32, stored=torch.float16)
    assert torch.equal(found.grid.scale, found.grid.scale.half().float())
    assert torch.count_nonzero(found.values()) == 1


def test_z3_the_group_that_divides_is_taken() -> None:
    """Z3 Def: 128, else the largest of 64, 32 that divides the width: 576 takes 64."""
    assert group_for([576, 1536], 128) == 64
    assert group_for([2048, 8192], 128) == 128
    assert group_for([96], 128) == 32
    assert group_for([48], 16) == 16
    with pytest.raises(InputError, match="no group of 128, 64 or 32 columns divides the widths"):
        group_for([40], 128)


def test_z4_ex_two_weights_rounded_to_integers() -> None:
    """Z4 Ex: H = [[2, 1], [1, 2]], w = (.6, .6). Hinv = [[2, -1], [-1, 2]] / 3. q_1 = 1, e = (.6 - 1) / (2/3) = -.6, w_2 = .6 - (-.6)(-1/3) = .4, q_2 = 0.
    Error d H d^T with d = (-.4, .6): .32 + .72 - .48 = .56; rounding to (1, 1), d = (-.4, -.4): 3 x .32 = .96."""
    hessian, weight = torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([[0.6, 0.6]])
    found = factor(hessian, 0.0)
    assert found is not None
    codes = rounded(weight.clone(), found[0], lambda column, _, __: column.round().int(), lambda codes, _: codes.float(), 1)
    assert codes.tolist() == [[1, 0]]
    assert output_error(weight, codes.float(), hessian) == pytest.approx(0.56)
    assert output_error(weight, weight.round(), hessian) == pytest.approx(0.96)


@pytest.mark.parametrize("act_order", [False, True])
def test_z4_a_diagonal_hessian_is_rounding_to_nearest(act_order: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    weight, diagonal = torch.randn(8, 64, generator=draw), torch.diag(torch.rand(64, generator=draw) + 0.1)
    found = gptq(weight, diagonal, 4, 32, act_order=act_order).coded
    assert torch.equal(found.codes, found.grid.codes(weight, found.group_of))
    assert torch.equal(found.grid.scale, fitted(weight, by_column(diagonal.diagonal()), 4, 32).scale)


def test_z4_ex_a_grid_fitted_to_what_errors_cost() -> None:
    """3 bits, w = (3, .64, .64, .64): the whole range gives s = 3 / 3 = 1, where .64 becomes 1. Costs (0, 1, 1, 1): s = .64 rounds nothing that counts.

    Costs of 1 each: a part p of the range has s = p, 3 becomes 3 p and .64 becomes p, which costs 9 (1 - p)^2 + 3 (p - .64)^2, least at p = 10.92 / 12 = .91; of the parts tried
    .92 costs .2928, .88 .3024, the whole range .3888. What lies on the grid of the whole range keeps it.
    """
    weight = torch.tensor([[3.0, 0.64, 0.64, 0.64]])
    assert fitted(weight, by_column(torch.tensor([0.0, 1, 1, 1])), 3, 4).scale.item() == pytest.approx(0.64)
    assert fitted(weight, by_column(torch.ones(4)), 3, 4).scale.item() == pytest.approx(0.92)
    assert fitted(torch.tensor([[3.0, 1, 0, -2]]), by_column(torch.ones(4)), 3, 4).scale.item() == 1


@pytest.mark.parametrize("symmetric", [True, False])
def test_z4_a_fitted_grid_never_costs_more_than_that_of_the_range(symmetric: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    weight, cost = torch.randn(16, 128, generator=draw), torch.rand(128, generator=draw) ** 4
    of = torch.arange(128) // 32
    paid = []
    for made in (fitted(weight, by_column(cost), 4, 32, symmetric=symmetric), grid(weight, 4, 32, symmetric=symmetric)):
        paid.append(((made.values(made.codes(weight, of), of) - weight).square() * cost).reshape(16, 4, 32).sum(-1))
    assert bool((paid[0] <= paid[1]).all())
    assert float(paid[0].sum()) < 0.9 * float(paid[1].sum())


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("bits", [3, 4])
def test_z4_correlated_inputs_come_out_nearer_than_with_rtn(bits: int, act_order: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(512, 192, generator=draw) @ torch.randn(192, 192, generator=draw) + torch.randn(1, 192, generator=draw)
    weight, matrix = torch.randn(32, 192, generator=draw), inputs.T @ inputs
    found = gptq(weight, matrix, bits, 64, act_order=act_order, symmetric=False)
    assert found.damping == 0.01
    plain = rtn(weight, bits, 64, symmetric=False)
    assert output_error(weight, found.coded.values(), matrix) < 0.7 * output_error(weight, plain.values(), matrix)
    stacked = gptq(torch.cat([weight, -weight]), matrix, bits, 64, act_order=act_order, symmetric=False)
    assert torch.equal(stacked.coded.values()[:32], found.coded.values())


def test_z4_each_column_is_the_formula_done_slowly() -> None:
    """F: q_i, e = (w - q)/Hinv_ii, w_j -= e Hinv_ij, with Hinv of the columns that are left, inverted anew each time, in fp64; on the same scales."""
    draw = torch.Generator().manual_seed(3)
    inputs, weight = torch.randn(400, 160, generator=draw), torch.randn(4, 160, generator=draw)
    inputs[:, 1] += 2 * inputs[:, 0]
    matrix = inputs.T @ inputs
    hessian = (2 * matrix).double()
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(160, dtype=torch.float64)
    found = gptq(weight, matrix, 4, 32)
    left, codes = weight.double(), []
    for i in range(160):
        if i % 32 == 0:
            scale = found.coded.grid.scale[:, i // 32].double()
        inverse = torch.linalg.inv(hessian[i:, i:])
        code = (left[:, i] / scale).round().clamp(-8, 7)
        codes.append(code)
        left[:, i:] -= ((left[:, i] - code * scale) / inverse[0, 0])[:, None] * inverse[0][None]
    assert (found.coded.codes == torch.stack(codes, 1)).float().mean() > 0.995  # a tie may fall either way in fp32


def test_z4_a_singular_hessian_is_damped_more_and_then_rounded() -> None:
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    dead = gptq(weight, torch.zeros(64, 64), 4, 32)
    assert dead.damping is None
    assert torch.equal(dead.coded.values(), rtn(weight, 4, 32).values())
    uneven = torch.eye(64)
    uneven[0, 1] = uneven[1, 0] = 1.05  # indefinite: 1 % is not enough, 10 % is
    raised = gptq(weight, uneven, 4, 32)
    assert raised.damping == pytest.approx(0.1)


def test_z3_ex_exponent_zero_is_rounding_to_nearest_and_the_best_is_never_worse() -> None:
    """Z3 Ex: a = 0 makes every scale 1, so the search begins with RTN and can only lower the error."""
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 64, generator=draw)
    inputs[:, :3] *= 30  # a few channels that carry most, as in a real model
    weights = [torch.randn(16, 64, generator=draw), torch.randn(8, 64, generator=draw)]
    assert torch.equal(scales_of(inputs.abs().mean(0), 0.0), torch.ones(64))
    found = search(weights, gram_of(inputs), 4, 32)
    plain = sum(output_error(weight, rtn(weight, 4, 32).values(), inputs.T @ inputs) for weight in weights)
    assert found.rtn_error == pytest.approx(plain)
    assert found.exponent > 0
    assert found.error < 0.8 * plain
    even = search(weights, Gram(torch.eye(64), torch.ones(64), 64), 4, 32)
    assert (even.exponent, even.error) == (0.0, even.rtn_error)


def test_z3_ex_a_range_cut_for_the_outputs() -> None:
    """3 bits, w = (3, .65, .65, .65), four inputs that are always equal, so that an output errs by the sum of the errors. The whole range,
    s = 1: 3 (1 - .65) = 1.05, squared 1.1025.

    A part p of it has s = p, 3 becomes 3 p and .65 becomes p: 3 p - 3 + 3 (p - .65) = 6 p - 4.95, which is 0 at .825; of the parts tried .84 gives .09,
    .80 gives -.15. Squared .0081.
    Inputs that are independent ask for another part: 9 (1 - p)^2 + 3 (p - .65)^2 is least at p = 10.95 / 12 = .9125, of the parts tried .92.
    """
    weight = torch.tensor([[3.0, 0.65, 0.65, 0.65]])
    together, apart = torch.ones(4, 4), torch.eye(4)
    found = clipped(weight, together, 3, 4)
    assert found.grid.scale.item() == pytest.approx(0.84)
    assert output_error(weight, found.values(), together) == pytest.approx(0.0081, rel=1e-3)
    assert output_error(weight, rtn(weight, 3, 4).values(), together) == pytest.approx(1.1025)
    assert clipped(weight, apart, 3, 4).grid.scale.item() == pytest.approx(0.92)
    errors, costs = torch.randn(5, 2, 4), torch.rand(8)
    assert torch.allclose(by_output(costs.diag())(errors), by_column(costs)(errors))


def test_z3_a_group_costs_what_its_own_inputs_make_of_its_errors() -> None:
    draw = torch.Generator().manual_seed(0)
    inputs, errors = torch.randn(50, 96, generator=draw), torch.randn(7, 3, 32, generator=draw)
    parts = [(errors[:, at] @ inputs[:, 32 * at : 32 * at + 32].T).square().sum(-1) for at in range(3)]
    assert torch.allclose(by_output(inputs.T @ inputs)(errors), torch.stack(parts, 1), rtol=1e-4)


def test_z3_groups_whose_cuts_add_up_to_more_keep_their_ranges() -> None:
    """Two groups that read the same input: alone each comes nearer with a cut, which leaves both too small; rounded on whole ranges their errors cancel. Never worse than RTN."""
    draw = torch.Generator().manual_seed(0)
    kept = 0
    for _ in range(200):
        weight = torch.randn(1, 4, generator=draw) * torch.tensor([3.0, 1, 3, 1])
        matrix = torch.ones(4, 4) + 0.01 * torch.eye(4)
        found, plain = clipped(weight, matrix, 3, 2), rtn(weight, 3, 2)
        assert output_error(weight, found.values(), matrix) <= output_error(weight, plain.values(), matrix)
        alone = fitted(weight, by_output(matrix), 3, 2)
        if not torch.equal(alone.scale, plain.grid.scale) and torch.equal(found.grid.scale, plain.grid.scale):
            kept += 1
    assert kept > 0


def test_z3_before_rounding_outputs_are_equal() -> None:
    """(W s)(x / s) = W x."""
    draw = torch.Generator().manual_seed(0)
    inputs, weight = torch.randn(32, 64, generator=draw), torch.randn(16, 64, generator=draw)
    scales = scales_of(inputs.abs().mean(0), 0.6)
    assert torch.allclose((inputs / scales) @ (weight * scales).T, inputs @ weight.T, rtol=1e-4, atol=1e-5)


def test_a_symmetric_grid_has_no_zero() -> None:
    assert not torch.count_nonzero(grid(torch.randn(4, 32), 4, 32).zero)
