"""Length learnt for merit: what a preference run reports of it, the finding and its bounds on planted figures, and real runs of the tiny model, one of them sabotaged."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.objectives.answers import answers, pair, scored, single

from planish import diagnose, shelf
from planish.adapters import full
from planish.data.tree import Sequence, pack
from planish.evidence.longer_answers import longer_answers
from planish.model import loop
from planish.model.chat import Chat
from planish.model.example import Example
from planish.model.load import load
from planish.model.plan import make_plan
from planish.model.policy import score
from planish.model.preference_lengths import learnt_length
from planish.model.ranks import ALONE
from planish.model.relation import Relation, pearson, related
from planish.model.step import Work, validation
from planish.objectives import dpo, kto, simpo
from planish.rows import Row
from planish.scores import EvalReport, Metric, Score

WORDS = ("phone", "sound", "the", "is")
SETTINGS: dict[str, Any] = {
    "batch_size": 8,
    "epochs": None,
    "max_steps": 24,
    "warmup": 0.05,
    "validations": 6,
    "checkpoints": 0,
    "micro_tokens": 2048,
    "clip": 1.0,
    "seed": 42,
    "learning_rate": 3e-3,
    "schedule": "cosine",
    "weight_decay": 0.0,
    "precision": "fp32",
}


def test_the_correlation_adds_up_over_micro_batches() -> None:
    """Oracle: numpy's corrcoef over all rows, from the sums of three parts; among marked rows alone; undefined of two rows and of a figure that never changes."""
    draw = np.random.default_rng(7)
    x, y = draw.normal(50, 1, 90), draw.normal(0, 2, 90)
    y += 0.5 * x
    parts = [related(torch.tensor(x[at : at + 30]), torch.tensor(y[at : at + 30])) for at in (0, 30, 60)]
    assert pearson(Relation(*map(sum, zip(*parts, strict=True)))) == pytest.approx(np.corrcoef(x, y)[0, 1], rel=1e-9)
    marked = torch.arange(90) % 3 == 0
    assert pearson(related(torch.tensor(x), torch.tensor(y), marked)) == pytest.approx(np.corrcoef(x[::3], y[::3])[0, 1], rel=1e-9)
    assert pearson(related(torch.tensor(x[:2]), torch.tensor(y[:2]))) is None
    assert pearson(related(torch.full((9,), 0.1), torch.tensor(y[:9]))) is None


def test_what_is_related_is_the_objectives_own_reward() -> None:
    """dpo: log-ratios 1, 2, 4 of chosen answers with 1, 2, 4 tokens: r = 1, and -1 where the rejected ones lose a nat a token. ipo: per token, all 1 and -1: undefined. simpo:
    means -1, -1, -1 never change. kto: the good answers are those pairs' chosen ones."""
    log_probs = [(-1.0,) * n for n in (1, 2, 4) for _ in range(2)]
    given = [(reference * n,) for n in (1, 2, 4) for reference in (-2.0, 0.0)]
    found = {name: pearson(one) for name, one in dpo.loss(answers(*log_probs, given=given)).relations.items()}
    assert found == pytest.approx({"chosen_length_correlation": 1, "rejected_length_correlation": -1})
    assert {pearson(one) for one in dpo.loss(answers(*log_probs, given=given), loss="ipo").relations.values()} == {None}
    assert {pearson(one) for one in simpo.loss(answers(*log_probs)).relations.values()} == {None}
    good = [(number, 1.0) for (number,) in given[::2] for _ in range(2)]
    judged = kto.loss(answers(*log_probs, given=good))
    assert pearson(judged.relations["good_length_correlation"]) == pytest.approx(1)
    assert judged.relations["bad_length_correlation"].rows == 0
    assert judged.metrics["good_tokens"] / judged.counts["good_tokens"] == pytest.approx(7 / 3)


@pytest.mark.parametrize("objective", ["simpo", "orpo"])
def test_a_validation_reports_numpys_correlation_however_it_is_cut(objective: str, tiny: Path) -> None:
    """24 pairs in one micro-batch or in many: the same two figures, those of numpy over all answers of a side, and that they are of 24."""
    module: Any = shelf.find("objectives", objective).load()
    chat, model = Chat.load(tiny), load(tiny, "fp32")
    examples = [module.encode(row, chat) for row in pairs(24, 3, biased=True, marked=False)]
    found = []
    for budget in (64, 100_000):
        plan = make_plan(24, **SETTINGS | {"micro_tokens": budget})
        found.append(validation(model, examples, Work(plan, ALONE, ALONE.forward(model, "fp32", module.loss)))[1])
    whole = scored(model, examples)
    lengths = whole.lengths()
    mean = (whole.sums() / lengths).detach()
    for side, at in (("chosen", 0), ("rejected", 1)):
        want = np.corrcoef(mean[at::2].numpy(), lengths[at::2].numpy())[0, 1]
        assert [one[f"{side}_length_correlation"] for one in found] == pytest.approx([want, want], abs=1e-5)
        assert [one[f"{side}_length_correlation_n"] for one in found] == [24, 24]


def check(step: int, chosen: float, rejected: float, n: float = 100, lengths: tuple[float, float] = (22, 20)) -> dict[str, float]:
    """One validation as a run writes it."""
    figures = {"step": step, "chosen_tokens": lengths[0], "rejected_tokens": lengths[1]}
    for side, r in (("chosen", chosen), ("rejected", rejected)):
        figures |= {f"{side}_length_correlation": r, f"{side}_length_correlation_n": n}
    return figures


@pytest.mark.parametrize(
    ("checks", "since"),
    [
        ([check(10, 0.1, 0.1), check(20, 0.4, 0.4), check(30, 0.5, 0.5)], 20),
        ([check(10, 0.5, 0.5), check(20, 0.5, 0.2), check(30, 0.5, 0.5)], 30),
        ([check(10, 0.5, 0.5), check(20, 0.9, 0.29)], None),
        ([check(10, 0.29, 0.9)], None),
        ([check(10, 0.9, -0.9)], None),
        ([check(10, 0.3, 0.3, n=44)], 10),
        ([check(10, 0.3, 0.3, n=42)], None),
        ([check(10, 0.5, 0.5, n=3)], None),
        ([check(10, 0.5, 0.5, lengths=(21.9, 20))], None),
        ([check(10, 0.5, 0.5, lengths=(20, 22))], None),
        ([{"step": 10, "chosen_tokens": 22, "rejected_tokens": 20}], None),
        ([], None),
    ],
)
def test_p2_longer_is_better(checks: list[dict[str, float]], since: int | None) -> None:
    """P2 IO length, both sides of each bound. Fisher's z: atanh(.3) = .3095, which is 1.96 standard errors at n = (1.96 / .3095)^2 + 3 = 43.1: 44 rows show it, 42 do not.
    Better answers 1.1 times as long are biased pairs, 1.095 times are not; a last validation that does not show it ends it."""
    found = learnt_length([{"loss": 0.5}] * 20, checks, fix="mend")
    assert [(state.state, state.since_step, state.fix) for state in found] == ([] if since is None else [("length_bias", since, "mend")])
    assert not learnt_length([{"loss": 0.5}] * 19, checks, fix="mend")
    if since is not None:
        assert f"{checks[-1]['chosen_length_correlation_n']:.0f} chosen ones" in found[0].evidence


@pytest.mark.parametrize(("start", "said"), [(0.0, True), (0.19, True), (0.21, False), (-0.9, True)])
def test_a_likelihood_that_went_with_length_from_the_start_was_not_learnt(start: float, said: bool) -> None:
    """Of 60 steps the first tenth, 6, show where a reward without a reference began: from .19 to .5 it rose by .31, from .21 by .29. What lay below 0 counts from 0."""
    step = {f"{side}_length_correlation": start for side in ("chosen", "rejected")}
    history = [{"loss": 0.5, **step}] * 6 + [{"loss": 0.5, **dict.fromkeys(step, 0.5)}] * 54
    assert bool(learnt_length(history, [check(60, 0.5, 0.5)], fix="mend", measured_from="start")) == said


def test_a_run_that_learnt_nothing_is_stuck_and_no_more() -> None:
    """At ln 2 a correlation is that of rounding."""
    still = {"loss": 0.6931, "margin": 0.0, "chosen_log_ratio": 1e-4, "rejected_log_ratio": 1e-4}
    moved = {"loss": 0.4, "margin": 1.0, "chosen_log_ratio": 2.0, "rejected_log_ratio": -1.0}
    assert [state.state for state in dpo.diagnose([still] * 20, [check(20, 0.9, 0.9)])] == ["stuck_at_ln2"]
    assert [state.state for state in dpo.diagnose([moved] * 20, [check(20, 0.9, 0.9)])] == ["length_bias"]
    assert [state.state for state in dpo.diagnose([moved] * 20, [check(20, 0.9, -0.9)])] == ["healthy"]


def pairs(count: int, seed: int, *, biased: bool, marked: bool) -> list[Row]:
    """Random words. `biased`: the better answer is always 2 to 8 words longer, else as often shorter; `marked`: it begins with good and the other with bad."""
    draw, rows = random.Random(seed), list[Row]()
    for number in range(count):
        short = draw.randint(2, 10)
        lengths = [short, short + draw.randint(2, 8)]
        if biased or draw.random() < 0.5:
            lengths.reverse()
        said = [[draw.choice(WORDS) for _ in range(length)] for length in lengths]
        if marked:
            said[0][0], said[1][0] = "good", "bad"
        rows.append(pair(number, f"review {number % 7}", *map(" ".join, said)))
    return rows


def run(tiny: Path, folder: Path, objective: str, **how: bool) -> diagnose.Examined:
    """Train every weight on 200 pairs for 24 steps, with 96 held out, and read what training wrote; for kto every answer is a row."""
    module: Any = shelf.find("objectives", objective).load()
    chat, model = Chat.load(tiny), full.attach(load(tiny, "fp32", trained=True))

    def encoded(rows: list[Row]) -> list[Example]:
        if objective == "kto":
            both = [((row.chosen, True), (row.rejected, False)) for row in rows]  # type: ignore[union-attr]
            rows = [single(number, "review", turns[0].content, good) for number, (turns, good) in enumerate(one for each in both for one in each)]
        examples = [module.encode(row, chat) for row in rows]
        return module.prepare(examples, base) if hasattr(module, "prepare") else examples

    def base(sequences: list[Sequence]) -> list[float]:
        found = [0.0] * len(sequences)
        with torch.no_grad():
            for members, tree in pack([(one,) for one in sequences], 4096):
                for member, value in zip(members, score(model, tree, "fp32").sums().tolist(), strict=True):
                    found[member] = value
        return found

    train, held = encoded(pairs(200, 1, **how)), encoded(pairs(96, 2, **how))
    plan = make_plan(len(train), **SETTINGS)
    loop.train(model, train, module.loss, plan, folder, meaning={}, validation=held)
    (folder / "report.json").write_text(json.dumps({"adapter": {"name": "full"}, "objective": {"name": objective}, "plan": asdict(plan)}), encoding="utf-8")
    return diagnose.of(str(folder), folder)[0]


@pytest.mark.parametrize("objective", ["dpo", "simpo", "kto"])
def test_p2_a_run_on_pairs_whose_longer_answer_always_wins_is_named_and_its_length_matched_twin_is_not(objective: str, tiny: Path, tmp_path: Path) -> None:
    """P2 Bad. Sabotaged: nothing but length tells the better answer. The twin is marked by a word, and longer half of the time: it learns that, and no word is said."""
    sabotaged = run(tiny, tmp_path / "sabotaged", objective, biased=True, marked=False)
    twin = run(tiny, tmp_path / "twin", objective, biased=False, marked=True)
    (said,) = [one for one in sabotaged.found if one.state == "length_bias"]
    assert "96 " in said.evidence
    assert "like length" in said.fix
    assert "longer is better" in diagnose.text([sabotaged])
    assert "length_bias" not in {one.state for one in twin.found}
    assert json.loads((tmp_path / "twin" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])["validation_metrics"]["accuracy"] > 0.9


def report(tokens: list[float]) -> EvalReport:
    """A report whose answers have these tokens."""
    scores = [Score(id=str(n), answer="a", parsed="a", target="a", value=1.0, detail={"cost.answer_tokens": one}) for n, one in enumerate(tokens)]
    metric = Metric(name="cost.answer_tokens", value=float(np.mean(tokens)), n=len(tokens), higher_is_better=False)
    return EvalReport(system="x", gold="g", metrics={"cost.answer_tokens": metric}, scores=scores)


@pytest.mark.parametrize(
    ("tuned", "said"),
    [([24.0, 25.2] * 20, True), ([23.0] * 40, False), ([20.0] * 39 + [400.0], False), ([10.0] * 40, False)],
    ids=["1.23", "1.15", "one row", "half"],
)
def test_p2_answers_that_grew(tuned: list[float], said: bool) -> None:
    """Of 40 gold rows the base answers in 20 tokens: a mean of 24.6 is 1.23 times as long; 1.15 is not called longer; one answer of 400 makes 1.47 times and proves nothing."""
    found = longer_answers(report(tuned), report([20.0] * 40), 1)
    assert (found is not None) == said
    if found is not None:
        assert found.state == "longer_answers"
        assert "40 gold rows" in found.evidence
        assert "1.23 times" in found.evidence
    assert longer_answers(report(tuned).model_copy(update={"metrics": {}}), report([20.0] * 40), 1) is None
