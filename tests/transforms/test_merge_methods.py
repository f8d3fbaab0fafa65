"""The merge methods by hand-worked numbers and against plain numpy references; whatever the size of the pieces, the result is the same."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from planish.errors import InputError
from planish.model.task_vectors import top_shares
from planish.model.tensor_stream import Piece, Pieces, of_whole
from planish.shelf import call
from planish.transforms import dare, passthrough, slerp, soup, task_arithmetic, ties


def t(*values: float) -> Tensor:
    return torch.tensor(values)


def drawn(seed: int, count: int = 3, shape: tuple[int, ...] = (37, 53)) -> tuple[Tensor, list[Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=draw)
    return base, [base + 0.01 * torch.randn(shape, generator=draw) for _ in range(count)]


def test_w1_soup_of_two_is_their_mean() -> None:
    """MISSION W1: .80 and .40 -> (.80 + .40) / 2 = .60; with weights 3 and 1: (2.40 + .40) / 4 = .70."""
    assert soup.transform(None, [t(0.8), t(0.4)]).item() == pytest.approx(0.6)
    assert soup.transform(None, [t(0.8), t(0.4)], weight=[3, 1]).item() == pytest.approx(0.7)
    assert soup.transform(None, [t(0.8), t(0.4)], weight=[3, 1], normalize=False).item() == pytest.approx(2.8)


def test_w1_greedy_soup_adds_only_what_improves() -> None:
    """MISSION W1: alone .70/.80/.60, so 1 first; with 0 it reaches .85 and stays; with 2 it falls to .84 and 2 is left out; a tie is no improvement."""
    scores = {(0,): 0.70, (1,): 0.80, (2,): 0.60, (1, 0): 0.85, (1, 0, 2): 0.84}
    assert soup.greedy(3, lambda kept: scores[tuple(kept)]) == [1, 0]
    assert soup.greedy(2, lambda kept: 0.5) == [0]


def test_w2_slerp_of_two_unit_vectors() -> None:
    """MISSION W2: (1,0) and (0,1), O = pi/2: t=.5 -> sin(pi/4) = .7071 each; t=.25 -> (sin(3 pi/8), sin(pi/8)) = (.9239, .3827)."""
    a, b = t(1, 0), t(0, 1)
    assert slerp.transform(None, [a, b], t=0.5).tolist() == pytest.approx([0.7071, 0.7071], abs=5e-5)
    assert slerp.transform(None, [a, b], t=0.25).tolist() == pytest.approx([0.9239, 0.3827], abs=5e-5)


def test_w2_near_parallel_vectors_are_blended_on_a_line() -> None:
    """MISSION W2: |cos| > .9995 -> linear. (1,0) and (2,.01): cos = .9999875, so t=.5 is the mean (1.5, .005); opposite vectors too."""
    assert slerp.transform(None, [t(1, 0), t(2, 0.01)], t=0.5).tolist() == pytest.approx([1.5, 0.005])
    assert slerp.transform(None, [t(1, 0), t(-1, 0)], t=0.25).tolist() == pytest.approx([0.5, 0.0])


def test_w2_slerp_equals_the_formula() -> None:
    """Against numpy in fp64, with an angle of about 0.8."""
    draw = np.random.default_rng(0)
    a = draw.normal(size=500)
    b = a + draw.normal(size=500)
    angle = math.acos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    right = (math.sin(0.7 * angle) * a + math.sin(0.3 * angle) * b) / math.sin(angle)
    ours = slerp.transform(None, [torch.from_numpy(a).float(), torch.from_numpy(b).float()], t=0.3)
    assert np.abs(ours.numpy() - right).max() < 1e-6


def test_w3_task_arithmetic_adds_and_unlearns() -> None:
    """MISSION W3: base .50, tasks .80 and .40: .50 + .30 - .10 = .70; minus the first: .50 - .30 = .20."""
    base, tasks = t(0.5), [t(0.8), t(0.4)]
    assert task_arithmetic.transform(base, tasks).item() == pytest.approx(0.70)
    assert task_arithmetic.transform(base, tasks[:1], weight=-1.0).item() == pytest.approx(0.20)
    assert task_arithmetic.transform(base, tasks, lambda_=0.5).item() == pytest.approx(0.60)
    assert task_arithmetic.transform(base, tasks, weight=[1.0, 3.0], normalize=True).item() == pytest.approx(0.5 + (0.3 - 0.3) / 4)


def test_w4_ties_elects_the_sign_of_the_sum() -> None:
    """MISSION W4: base .50, +.30 against -.10 at density 1: the sum +.20 elects +, the mean of the agreeing is +.30 -> .80."""
    assert ties.transform(t(0.5), [t(0.8), t(0.4)], density=1.0).item() == pytest.approx(0.80)


def test_w4_a_tie_elects_plus() -> None:
    """MISSION W4: +.25 against -.25 sums to 0, which elects +: .50 + .25 = .75."""
    assert ties.transform(t(0.5), [t(0.75), t(0.25)], density=1.0).item() == 0.75


def test_w4_trims_to_the_top_density_by_magnitude() -> None:
    """MISSION W4: density .2 of five values keeps int(.2 x 5) = 1, the largest: -.5. At .4 it keeps two; at .1 never fewer than one."""
    base, model = torch.zeros(5), t(0.1, -0.5, 0.2, 0.3, -0.05)
    assert ties.transform(base, [model]).tolist() == pytest.approx([0, -0.5, 0, 0, 0])
    assert ties.transform(base, [model], density=0.4).tolist() == pytest.approx([0, -0.5, 0, 0.3, 0])
    assert ties.transform(base, [model], density=0.1).tolist() == pytest.approx([0, -0.5, 0, 0, 0])


def test_w5_dare_drops_or_doubles() -> None:
    """MISSION W5: .30 at p=.5 -> .60 or 0, mean .30. Of 40,000 draws the mean is within 5 standard errors: 5 x .30 / 200 = .0075."""
    merged = dare.transform(torch.zeros(40_000), [torch.full((40_000,), 0.3)])
    assert sorted({round(value, 6) for value in merged.tolist()}) == [0.0, 0.6]
    assert merged.mean().item() == pytest.approx(0.30, abs=0.0075)


def test_w5_the_seed_decides_the_mask() -> None:
    base, models = drawn(1)
    first, again, other = (dare.transform(base, models, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def reference_ties(base: Any, models: list[Any], weights: list[float], density: float, scale: float) -> Any:
    """TIES with a full sort, in numpy."""
    kept = []
    for model in models:
        delta = (model - base).ravel()
        mask = np.zeros_like(delta)
        mask[np.argsort(-np.abs(delta), kind="stable")[: max(1, int(density * delta.size))]] = 1
        kept.append((delta * mask).reshape(base.shape))
    weighted = np.stack([w * delta for w, delta in zip(weights, kept, strict=True)])
    sign = np.where(weighted.sum(0) >= 0, 1, -1)
    agree = np.sign(weighted) == sign
    parts = (np.array(weights).reshape(-1, *[1] * base.ndim) * agree).sum(0)
    parts[parts == 0] = 1
    return base + scale * (weighted * agree).sum(0) / parts


@pytest.mark.parametrize("density", [0.05, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.5, 2.0, -0.25]])
def test_w4_equals_a_reference_that_sorts(density: float, weights: list[float]) -> None:
    base, models = drawn(2)
    right = reference_ties(base.numpy(), [model.numpy() for model in models], weights, density, 0.9)
    assert np.abs(ties.transform(base, models, weight=weights, density=density, lambda_=0.9).numpy() - right).max() < 1e-6


def test_w4_bf16_values_of_equal_magnitude_are_kept_in_order() -> None:
    """Of many equal magnitudes on the edge exactly k stay, the first: so says a stable sort too."""
    draw = torch.Generator().manual_seed(3)
    base = torch.zeros(5000)
    models = [(torch.randn(5000, generator=draw) * 0.001).bfloat16().float() for _ in range(2)]
    right = reference_ties(base.numpy(), [model.numpy() for model in models], [1.0, 1.0], 0.3, 1.0)
    assert np.abs(ties.transform(base, models, density=0.3).numpy() - right).max() < 1e-9
    (share, _) = top_shares(of_whole(base, models), [0.3, 0.3])
    assert int((share.trim(models[0]) != 0).sum()) == 1500


METHODS = {
    "soup": dict(weight=[1.0, 2.0]),
    "slerp": dict(t=0.3),
    "task_arithmetic": dict(weight=[0.6, -0.4], lambda_=0.8),
    "ties": dict(density=0.3, weight=[0.6, 0.4]),
    "dare": dict(ties=True, density=0.6, seed=5),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("piece", [1, 7, 64, 1960, 1961, 5000])
def test_pieces_do_not_change_the_result(method: str, piece: int) -> None:
    """The values of 1,961 at once equal those of pieces of any size; no input is changed."""
    if piece == 1 and method != "slerp":
        piece = 100  # one value at a time is slow, and slerp's angle is what it might harm
    base, models = drawn(4, count=2)
    before = [base.clone(), *(model.clone() for model in models)]
    whole = call("transforms", method, "transform", METHODS[method])(base, models)
    streamed = call("transforms", method, "stream", METHODS[method])(of_whole(base, models, piece=piece))
    assert torch.allclose(torch.cat(list(streamed)).reshape(base.shape), whole, atol=1e-6, rtol=0)
    assert all(torch.equal(was, now) for was, now in zip(before, [base, *models], strict=True))


def test_passthrough_gives_the_tensor_itself() -> None:
    assert passthrough.transform(None, [t(1, 2)]).tolist() == [1, 2]
    assert passthrough.transform(None, [t(1, 2)], scale=0.5).tolist() == [0.5, 1]


def test_an_empty_tensor_stays_empty() -> None:
    empty = torch.empty(0, 4)
    for method in ("task_arithmetic", "ties", "dare"):
        assert call("transforms", method, "transform", {})(empty, [empty, empty]).shape == (0, 4)


@pytest.mark.parametrize(
    ("method", "options", "count", "why"),
    [
        ("ties", {"density": 0.0}, 2, "density"),
        ("ties", {"density": 1.5}, 2, "density"),
        ("ties", {"density": [0.5]}, 2, "1 numbers for 2 models"),
        ("dare", {"density": -0.1}, 2, "density"),
        ("soup", {"weight": [1.0, -1.0]}, 2, "sum to 0"),
        ("soup", {"weight": [1.0, float("nan")]}, 2, "finite"),
        ("slerp", {"t": 1.2}, 2, "outside 0 to 1"),
        ("slerp", {}, 3, "blends two"),
        ("passthrough", {}, 2, "one model"),
        ("task_arithmetic", {"weight": [1.0, -1.0], "normalize": True}, 2, "sum to 0"),
        ("dare", {"weight": [2.0, -2.0], "normalize": True}, 2, "sum to 0"),
        ("task_arithmetic", {"weight": [1.0, 2.0, 3.0]}, 2, "3 numbers for 2 models"),
    ],
)
def test_options_that_mean_nothing_are_refused(method: str, options: dict[str, Any], count: int, why: str) -> None:
    base, models = drawn(5, count)
    with pytest.raises(InputError, match=why):
        call("transforms", method, "transform", options)(base, models)


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare"])
def test_task_vectors_need_a_base(method: str) -> None:
    with pytest.raises(InputError, match="none is given"):
        call("transforms", method, "transform", {})(None, [t(1), t(2)])


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(InputError, match="shapes differ"):
        soup.transform(None, [t(1), t(1, 2)])


def test_no_piece_is_read_more_often_than_the_method_needs() -> None:
    """A tensor larger than a piece: soup reads once, slerp twice, TIES three times; at density 1 TIES reads once."""
    base, models = drawn(6, 2, (10,))

    def reads(method: str, **options: Any) -> int:
        read = [0]

        def piece(start: int, stop: int) -> Piece:
            read[0] += 1
            return Piece(base[start:stop], [model[start:stop] for model in models])

        list(call("transforms", method, "stream", options)(Pieces("w", 10, 2, piece, 5)))
        return read[0] // 2

    assert [reads("soup"), reads("slerp"), reads("ties"), reads("ties", density=1.0)] == [1, 2, 3, 1]
