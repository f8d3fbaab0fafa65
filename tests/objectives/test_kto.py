"""KTO by hand: MISSION P6's number, z0, the mismatched answers, and one class alone."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tests.objectives.answers import answers, single

from planish.errors import InputError
from planish.model.chat import Chat
from planish.objectives import kto

ROWS = [single(n, f"review {n}", f"{'good ' * (1 + n)}{n}", n % 2 == 0) for n in range(4)]


@pytest.mark.parametrize("good", [1.0, 0.0])
def test_p6_at_z0_the_loss_is_a_half(good: float) -> None:
    """P6: log-ratio = z0 = .3: 1 - sigma(0) = .5, for a good answer and for a bad one."""
    found = kto.loss(answers((-1.0,), (-2.0,), given=[(-1.3, good), (-2.3, good)]))
    assert found.total.item() == pytest.approx(0.5, abs=1e-6)
    assert found.metrics["z0"] == pytest.approx(0.3, abs=1e-6)


def test_z0_is_a_mean_that_is_never_negative_and_has_no_gradient() -> None:
    """Two answers: mismatched log-ratios -1 and .5, mean -.25, read as 0. A good one with log-ratio 1 costs 1 - sigma(.1) = .4750, a bad one the mirror image .5250."""
    policy = answers((-1.0,), (-3.0,), (-1.0,), (-1.5,), given=[(-2.0, 1.0), (-2.0, 1.0), (-2.0, 0.0), (-2.0, 0.0)])
    found = kto.loss(policy)
    assert found.total.item() == pytest.approx(1 - 1 / (1 + math.exp(-0.1)) + 1 / (1 + math.exp(-0.1)), abs=1e-6)
    assert found.metrics == pytest.approx({"z0": 0, "accuracy": 1, "good": 1, "good_log_ratio": 1, "bad_log_ratio": 1, "good_tokens": 1, "bad_tokens": 1})
    found.total.backward()
    grad = policy.log_prob.grad
    assert grad is not None
    assert grad[1] == grad[3] == 0
    assert grad[0] == -grad[2] < 0


def test_weights_of_the_two_kinds() -> None:
    """Twice and three times .5."""
    found = kto.loss(answers((-1.0,), (-1.0,), (-1.0,), (-1.0,), given=[(-1.0, 1.0), (-1.0, 1.0), (-1.0, 0.0), (-1.0, 0.0)]), good_weight=2.0, bad_weight=3.0)
    assert found.total.item() == pytest.approx(2.5)


@pytest.mark.parametrize("good", [True, False])
def test_p6_one_class_alone_is_refused(good: bool, tiny: Path) -> None:
    """P6: where all answers are of one kind nothing can be told apart; with both kinds the rows pass."""
    chat = Chat.load(tiny)
    kto.require([kto.encode(row, chat) for row in ROWS])
    with pytest.raises(InputError, match="all 2 answers are marked"):
        kto.require([kto.encode(row, chat) for row in ROWS if row.label == good])


def test_each_answer_is_followed_by_the_previous_one_behind_its_prompt(tiny: Path) -> None:
    """As TRL pairs them; where that would be longer than the longest row, an earlier answer is taken. Row 0 would need row 3's, which is the longest: it fits only if the
    prompts are equally long, as they are here."""
    chat = Chat.load(tiny)
    examples = kto.prepare([kto.encode(row, chat) for row in ROWS], lambda sequences: [-1.0] * len(sequences))
    shown = [chat.tokenizer.decode([id for id, w in zip(s.ids, s.weights, strict=True) if w]) for example in examples for s in example.sequences[1:]]
    assert shown == [f"{ROWS[n - 1].completion[0].content}<|im_end|>" for n in range(4)]
    assert [example.sequences[0].given for example in examples] == [example.sequences[1].given for example in examples] == [(-1.0, 1.0), (-1.0, 0.0)] * 2
    longest = max(len(example.sequences[0].ids) for example in examples)
    assert all(len(example.sequences[1].ids) <= longest for example in examples)


def test_no_mismatched_answer_is_longer_than_the_rows(tiny: Path) -> None:
    """A long prompt with a short answer, after a row with a long answer: the long answer does not fit behind it, so it keeps its own."""
    chat = Chat.load(tiny)
    rows = [single(0, "a", "good " * 20, True), single(1, "the sound is " * 8, "bad", False)]
    examples = kto.prepare([kto.encode(row, chat) for row in rows], lambda sequences: [0.0] * len(sequences))
    assert examples[1].sequences[0] == examples[1].sequences[1]
    assert examples[0].sequences[0] != examples[0].sequences[1]


def test_options_without_meaning_are_refused_together() -> None:
    with pytest.raises(InputError) as refused:
        kto.loss(answers((-1.0,), (-1.0,), given=[(0.0, 1.0), (0.0, 1.0)]), beta=0.0, good_weight=-1.0, bad_weight=-1.0)
    assert len(refused.value.problems) == 3


def test_one_kind_that_outweighs_the_other_is_said_with_the_weight_that_evens_it(tiny: Path) -> None:
    """2 good against 6 bad: 3 times as heavy, and 6 / 2 = 3 evens it. 2 good of weight 12 against 6 bad of weight 2 (24 to 12) are within twice; of weight 15 they are 30 to 12,
    and 30 / 6 = 5 evens it. A weight of 0 was meant."""
    chat = Chat.load(tiny)
    examples = [kto.encode(single(n, f"review {n}", f"good {n}", n < 2), chat) for n in range(8)]
    (said,) = kto.advise(examples, None)
    assert said.startswith("2 good answers of weight 1 stand against 6 bad ones of weight 1:")
    assert "set good_weight: 3," in said
    assert kto.advise(examples, None, good_weight=12.0, bad_weight=2.0) == []
    assert "set bad_weight: 5," in kto.advise(examples, None, good_weight=15.0, bad_weight=2.0)[0]
    assert kto.advise(examples, None, good_weight=0.0) == []
    assert kto.advise(examples[:4], None) == []
