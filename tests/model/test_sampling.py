"""Logits to tokens against transformers' processors on random rows, and the numbers of MISSION E2."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from planish.errors import InputError
from planish.model import sampling
from planish.model.choice import probabilities
from planish.model.engine import Decoding

CASES = 1000


def rows() -> Iterator[tuple[Tensor, torch.Generator]]:
    """(V,) logits of many sizes and scales, and the draw for the case's own setting."""
    draw = torch.Generator().manual_seed(7)
    for _ in range(CASES):
        size = int(torch.randint(2, 300, (1,), generator=draw))
        yield torch.randn(size, generator=draw) * float(torch.rand(1, generator=draw) * 8), draw


def uniform(draw: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(1, generator=draw))


def agree(ours: Callable[[Tensor, float], Tensor], theirs: Callable[[float], object], setting: Callable[[torch.Generator, int], float]) -> None:
    for logits, draw in rows():
        given = setting(draw, len(logits))
        wanted = theirs(given)(torch.zeros(1, 0, dtype=torch.long), logits[None].clone())[0]  # type: ignore[operator]
        assert torch.equal(ours(logits.clone(), given), wanted), f"{len(logits)} logits at {given}"


def test_e2_top_k_is_transformers() -> None:
    from transformers import TopKLogitsWarper

    agree(
        lambda row, k: sampling.top_k(row, int(k)), lambda k: TopKLogitsWarper(int(k)), lambda draw, size: int(torch.randint(1, size + 3, (1,), generator=draw))
    )


def test_e2_top_p_is_transformers() -> None:
    from transformers import TopPLogitsWarper

    agree(sampling.top_p, TopPLogitsWarper, lambda draw, _: uniform(draw, 0.01, 1))


def test_e2_min_p_is_transformers() -> None:
    from transformers import MinPLogitsWarper

    agree(sampling.min_p, MinPLogitsWarper, lambda draw, _: uniform(draw, 0, 1))


def test_e2_repetition_penalty_is_transformers() -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    for logits, draw in rows():
        seen = torch.randint(0, len(logits), (1, int(torch.randint(1, 20, (1,), generator=draw))), generator=draw)
        penalty = uniform(draw, 0.5, 2)
        wanted = RepetitionPenaltyLogitsProcessor(penalty)(seen, logits[None].clone())[0]
        assert torch.equal(sampling.penalised(logits, sorted(set(seen[0].tolist())), penalty), wanted)


def test_e2_the_order_is_transformers() -> None:
    """All of them at once, through the list that transformers' own generate would build."""
    from transformers import (
        LogitsProcessorList,
        MinPLogitsWarper,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    for logits, draw in rows():
        seen = torch.randint(0, len(logits), (1, 5), generator=draw)
        setting = Decoding(
            temperature=uniform(draw, 0.1, 3),
            top_k=int(torch.randint(1, len(logits) + 1, (1,), generator=draw)),
            top_p=uniform(draw, 0.1, 1),
            min_p=uniform(draw, 0.001, 0.5),
            repetition_penalty=uniform(draw, 0.8, 1.5),
        )
        chain = LogitsProcessorList(
            [
                RepetitionPenaltyLogitsProcessor(setting.repetition_penalty),
                TemperatureLogitsWarper(setting.temperature),
                TopKLogitsWarper(setting.top_k),
                TopPLogitsWarper(setting.top_p),
                MinPLogitsWarper(setting.min_p),
            ]
        )
        ours = sampling.warped(sampling.penalised(logits, sorted(set(seen[0].tolist())), setting.repetition_penalty), setting)
        assert torch.equal(ours, chain(seen, logits[None].clone())[0])


def kept(logits: Tensor) -> list[float]:
    return [round(chance, 3) for chance in logits.softmax(-1).tolist() if chance > 0]


def test_e2_worked_numbers() -> None:
    """(.5, .3, .1, .07, .03): .5 + .3 = .8 < .85, with .1 it is .9, so three stay: .5/.9 = .556, .3/.9 = .333, .1/.9 = .111. k=2: .5/.8 = .625, .3/.8 = .375.
    Penalty 1.2: 2.4 / 1.2 = 2.0, -1.0 * 1.2 = -1.2, a token not seen keeps 0.5."""
    logits = torch.tensor([0.5, 0.3, 0.1, 0.07, 0.03]).log()
    assert kept(sampling.top_p(logits, 0.85)) == [0.556, 0.333, 0.111]
    assert kept(sampling.top_k(logits, 2)) == [0.625, 0.375]
    assert sampling.penalised(torch.tensor([2.4, -1.0, 0.5]), [0, 1], 1.2).tolist() == pytest.approx([2.0, -1.2, 0.5])
    assert kept(sampling.min_p(logits, 0.15)) == [0.556, 0.333, 0.111]  # .15 * .5 = .075: above the last two only


class Only:
    """A mask that allows a set of tokens and notes what was taken."""

    def __init__(self, *tokens: int) -> None:
        self.tokens, self.taken = tokens, list[int]()

    def allowed(self) -> Tensor:
        found = torch.zeros(4, dtype=torch.bool)
        found[list(self.tokens)] = True
        return found

    def take(self, token: int) -> None:
        self.taken.append(token)


def test_e3_a_mask_renormalises_the_mass_of_the_allowed() -> None:
    """MISSION E3: yes .2, no .1, the other tokens .7: among the labels alone yes is .2 / .3 = .667. The mask's draws and `choose` agree; 3,000 draws, within 3 standard errors."""
    logits = torch.tensor([0.2, 0.1, 0.4, 0.3]).log()
    mask = Only(0, 1)
    drawn = [sampling.Sampler(Decoding(temperature=1, seed=seed), [], mask).pick(logits) for seed in range(3000)]
    assert probabilities([[0], [1]], {(): {0: logits[0].item(), 1: logits[1].item()}})[0] == pytest.approx(0.667, abs=5e-4)
    assert drawn.count(0) / 3000 == pytest.approx(2 / 3, abs=3 * (2 / 9 / 3000) ** 0.5)
    assert mask.taken == drawn


def test_e2_greedy_sees_the_penalty_and_draws_nothing() -> None:
    """Greedy: 2.4 beats 2.2; with penalty 1.2 and token 0 in the prompt, 2.0 loses to 2.2."""
    logits = torch.tensor([2.4, 2.2, -1.0])
    assert sampling.Sampler(Decoding(), [0]).pick(logits) == 0
    assert sampling.Sampler(Decoding(repetition_penalty=1.2), [0]).pick(logits) == 1
    assert Decoding().greedy
    assert not Decoding(temperature=0.1).greedy


def test_e2_what_was_picked_counts_as_seen() -> None:
    sampler = sampling.Sampler(Decoding(repetition_penalty=1.5), [])
    assert [sampler.pick(torch.tensor([2.4, 2.2, -1.0])) for _ in range(3)] == [0, 1, 0]  # 2.4; then 1.6 < 2.2; then 1.6 > 1.47


def test_e2_bad_settings_are_named_all_at_once() -> None:
    with pytest.raises(InputError) as refused:
        Decoding(temperature=-0.5, top_p=1.2, top_k=-1, min_p=2, repetition_penalty=0, max_new_tokens=0, seed=-1, stop=("",))
    named = [problem.where for problem in refused.value.problems]
    assert set(named) == {f"decoding.{name}" for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens", "seed", "stop")}
    assert all(problem.why and problem.fix for problem in refused.value.problems)
    with pytest.raises(InputError, match="temperature"):
        Decoding(temperature=float("nan"))


def test_draws_follow_the_distribution() -> None:
    """4,000 draws at temperature 2 from logits ln(.64, .32, .04): square roots .8, .566, .2 over 1.566 -> .511, .361, .128. Chi-square with 2 degrees of freedom below 13.8
    (p = .001); the seeds are fixed, so it holds always or never."""
    logits = torch.tensor([0.64, 0.32, 0.04]).log()
    drawn = [sampling.Sampler(Decoding(temperature=2, seed=seed), []).pick(logits) for seed in range(4000)]
    wanted = [4000 * share for share in (0.511, 0.361, 0.128)]
    assert sum((drawn.count(token) - mean) ** 2 / mean for token, mean in enumerate(wanted)) < 13.8
