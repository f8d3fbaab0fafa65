"""The reward model: MISSION P4's numbers, where the reward is read, a run of the loop, and whether it may be used."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.runs import plan
from tests.objectives.answers import PAIRS, scored
from torch import nn

from planish.adapters import head
from planish.errors import InputError
from planish.evidence.pair_accuracy import pair_accuracy
from planish.model import class_head, loop, trained
from planish.model.backbone import base_of
from planish.model.chat import Chat
from planish.model.lm_head import Head
from planish.model.load import load
from planish.model.policy import Rows, Scored
from planish.objectives import reward


def rewards(*values: float) -> Scored:
    """One answer for each reward: a head that passes on the one hidden number."""
    scalar = class_head.ClassHead(1, 1, "last")
    nn.init.ones_(scalar.linear.weight)
    hidden, at = torch.tensor(values)[:, None], torch.arange(len(values))
    return Scored(None, torch.ones(len(values)), at, len(values), Rows(hidden, Head(torch.zeros(2, 1)), at, "fp32", scalar))


@pytest.mark.parametrize(("better", "worse", "loss", "probability"), [(1.5, 0.5, 0.3133, 0.731), (0.5, 0.5, 0.6931, 0.5), (-1.0, 0.0, 1.3133, 0.269)])
def test_p4_example(better: float, worse: float, loss: float, probability: float) -> None:
    """P4: a difference of 1 costs -ln sigma(1) = ln(1 + e^-1) = .3133 with P = .731; none costs ln 2 = .6931; the wrong way round 1 + .3133."""
    found = reward.loss(rewards(better, worse))
    assert found.total.item() == pytest.approx(loss, abs=5e-5)
    assert found.metrics["probability"] == pytest.approx(probability, abs=5e-4)
    assert found.metrics["accuracy"] == float(better > worse)


def test_p4_margin() -> None:
    """A difference of 1 under a margin of 1 costs ln 2; its probability is still .731."""
    found = reward.loss(rewards(1.0, 0.0), margin=1.0)
    assert found.total.item() == pytest.approx(math.log(2), abs=1e-6)
    assert found.metrics["probability"] == pytest.approx(0.731, abs=5e-4)


def test_a_model_without_a_reward_head_is_refused(tiny: Path) -> None:
    """No head, two outputs, or a mean over tokens, each with what to write instead; a margin below 0 beside it."""
    examples = [reward.encode(row, Chat.load(tiny)) for row in PAIRS[:2]]
    with pytest.raises(InputError, match="kind: reward"):
        reward.loss(scored(load(tiny, "fp32"), examples))
    with pytest.raises(InputError, match="kind: reward"):
        reward.loss(scored(head.attach(load(tiny, "fp32"), labels=["a", "b"]), examples))
    with pytest.raises(InputError) as refused:
        reward.loss(scored(head.attach(load(tiny, "fp32"), kind="reward", pooling="mean"), examples), margin=-1.0)
    assert [problem.where for problem in refused.value.problems] == ["train.objective.reward.margin", "train.adapter.head.pooling"]


def test_the_reward_is_that_of_the_whole_answer(tiny: Path) -> None:
    """What the loss reads is what `class_logits` says of the rows, each alone, with its end token: best-of-n sees the rewards that were trained."""
    model, chat = head.attach(load(tiny, "fp32"), kind="reward"), Chat.load(tiny)
    nn.init.normal_(base_of(model).class_head.linear.weight, generator=torch.Generator().manual_seed(1))
    example = reward.encode(PAIRS[3], chat)
    found = scored(model, [example]).rows.class_logits()[:, 0]
    for value, sequence in zip(found, example.sequences, strict=True):
        assert sequence.ids[-2] == chat.end
        assert value.item() == pytest.approx(class_head.class_logits(model, [sequence.ids[:-1]], "fp32").item(), abs=1e-5)


def test_the_head_is_saved_in_safetensors_and_gives_the_same_reward(tiny: Path, tmp_path: Path) -> None:
    """Saved with its layer, put on a fresh base again: the same reward to the bit, and no file but safetensors, JSON and text."""
    model, chat = head.attach(load(tiny, "fp32"), kind="reward", unfreeze=1), Chat.load(tiny)
    nn.init.normal_(base_of(model).class_head.linear.weight, generator=torch.Generator().manual_seed(1))
    rows = [sequence.ids[:-1] for sequence in reward.encode(PAIRS[3], chat).sequences]
    trained.save(model, chat, tmp_path, tiny)
    fresh = head.attach(load(tiny, "fp32"), kind="reward", unfreeze=1)
    trained.load_adapter(fresh, tmp_path / "adapter")
    assert torch.equal(class_head.class_logits(fresh, rows, "fp32"), class_head.class_logits(model, rows, "fp32"))
    assert not [path.name for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]


def test_it_learns_in_the_loop(tiny: Path, tmp_path: Path) -> None:
    """8 pairs, 40 steps: from ln 2, as the head starts at zero, to all pairs in order."""
    chat = Chat.load(tiny)
    model = head.attach(load(tiny, "fp32"), kind="reward", unfreeze=1)
    lines: list[loop.Step] = []
    made, more = plan(len(PAIRS), max_steps=40, schedule="constant"), {"meaning": {}, "on_step": lines.append}
    given: dict[str, Any] = more
    loop.train(model, [reward.encode(row, chat) for row in PAIRS], reward.loss, made, tmp_path, **given)
    assert lines[0].loss == pytest.approx(math.log(2), abs=1e-5)
    assert lines[-1].loss < 0.2
    assert lines[-1].metrics["accuracy"] == 1


def test_p4_an_interval_over_a_half_cannot_be_used() -> None:
    """P4 Bad. 6 of 10 right: Wilson .313 to .832 covers .5. 9 of 10: .596 to .982 does not."""
    some, most = (pair_accuracy([1.0] * right + [-1.0] * (10 - right), list(range(10))) for right in (6, 9))
    assert some.all.value == pytest.approx(0.6)
    assert (some.all.interval.low, some.all.interval.high) == pytest.approx((0.313, 0.832), abs=1e-3)
    assert not some.usable
    assert most.usable


def test_p4_calibration_length_and_slices() -> None:
    """P4 IO. Differences ln 3, ln 3, ln 3, -ln 3: each says .75 of the answer it prefers, and 3 of 4 come true: calibration 0; with 2 of 4 it is .25.

    Lengths that go with the reward correlate at 1; lengths that never change say nothing. A tie counts half.
    """
    step = math.log(3)
    good = pair_accuracy([step, step, step, -step], [2, 2, 2, -2], ["a", "a", "b", "b"])
    assert good.calibration == pytest.approx(0)
    assert good.length_correlation == pytest.approx(1)
    assert {name: (share.value, share.n) for name, share in good.slices.items()} == {"a": (1.0, 2), "b": (0.5, 2)}
    over = pair_accuracy([step, step, -step, -step], [1, 1, 1, 1])
    assert over.calibration == pytest.approx(0.25)
    assert over.length_correlation is None
    assert pair_accuracy([0.0, 1.0], [0, 0]).all.value == 0.75
    with pytest.raises(InputError, match="pair_accuracy"):
        pair_accuracy([], [])
