"""Screening in a climb: gold rows are asked in a shuffled order until a system is known to stay below the goal; one that may reach it is asked all of them (MISSION E5, G2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace

from planish import rules, shelf
from planish.data.task import Task
from planish.evidence.screen import Screened, screen, share_to_clear
from planish.evidence.statistic import is_row_mean, row_values
from planish.model.asker import Answer, Asker
from planish.model.engine import Decoding
from planish.recipe_evaluate import EvaluateSection
from planish.recipe_keys import Use
from planish.rows import Sample
from planish.scores import EvalReport
from planish.stages._gold import Gold
from planish.stages._scoring import reads, score_each

SCREENED = "screened"
"""The detail of a report whose system was ruled out before all rows were asked."""
Values = Callable[[Sequence[Sample], Sequence[Answer]], list[float]]


@dataclass(frozen=True)
class Screening(Asker):
    """An asker that stops asking gold rows once the goal is out of reach. What it did not ask has no text; `found` says whether that happened, and which rows were asked.

    Whoever asks it shows samples in gold's order with messages of his own; anything else than the whole gold set (validation rows) is asked plainly."""

    ids: tuple[str, ...] = ()
    bar: float = 1.0
    values: Values | None = None
    found: list[Screened] = field(default_factory=list)

    def answer(self, samples: Sequence[Sample], task: Task, decoding: Decoding | None = None) -> list[Answer]:
        """One answer per sample, as `Asker.answer`, in the order given."""
        if tuple(sample.id for sample in samples) != self.ids or self.values is None:
            return super().answer(samples, task, decoding)
        known: dict[int, Answer] = {}

        def ask(places: Sequence[int]) -> Sequence[float]:
            part = [samples[place] for place in places]
            given = super(Screening, self).answer(part, task, decoding)
            known.update(zip(places, given, strict=True))
            assert self.values is not None
            return self.values(part, given)

        looked = screen(ask, len(samples), self.bar)
        rest = [place for place in range(len(samples)) if place not in known]
        if looked.decision == "fail":
            self.found.append(looked)
            self.advance(len(rest))
        elif rest:
            known.update(zip(rest, super().answer([samples[place] for place in rest], task, decoding), strict=True))
        return [known.get(place, Answer(None)) for place in range(len(samples))]


def screening(asker: Asker, gold: Gold, evaluate: EvaluateSection) -> Asker:
    """The asker with the recipe's screen before it; as it is where there is none, or where the goal is no mean over rows (macro-F1 takes the full gold)."""
    use = None if evaluate.screen is None else _scorer(evaluate, gold)
    if use is None or evaluate.screen is None:
        return asker
    rule = rules.parse(evaluate.screen)
    score = shelf.call("scorers", use.name, "score", use.options)

    def values(samples: Sequence[Sample], given: Sequence[Answer]) -> list[float]:
        report = EvalReport(system="", gold=gold.sha256, metrics={}, scores=score_each(score, samples, [one.text for one in given]))
        return [float(value) for value in row_values(report, rule.metric)]

    total = len(gold.samples)
    least = share_to_clear(rule.offset, total)
    bar = (
        rule.offset if least is None else least - 0.5 / total
    )  # half a row below: the same for rows that are right or wrong, and below 1 where all must be right
    own = {one.name: getattr(asker, one.name) for one in fields(Asker)}
    return Screening(**own, ids=tuple(sample.id for sample in gold.samples), bar=bar, values=values)


def asked(asker: Asker, gold: Gold, answers: Sequence[Answer | str | None]) -> tuple[Gold, Sequence[Answer | str | None], Screened | None]:
    """The gold rows that were really asked, with their answers; and the screening where it ruled the system out."""
    found = asker.found[0] if isinstance(asker, Screening) and asker.found else None
    if found is None:
        return gold, answers, None
    places = sorted(found.asked)
    part = replace(gold, samples=tuple(gold.samples[place] for place in places), texts=tuple(gold.texts[place] for place in places))
    return part, [answers[place] for place in places], found


def ruled_out(report: EvalReport, found: Screened | None) -> EvalReport:
    """The report of the rows that were asked, which says so: it is no estimate of the whole set."""
    return report if found is None else report.model_copy(update={"details": dict(report.details) | {SCREENED: str(found)}})


def _scorer(evaluate: EvaluateSection, gold: Gold) -> Use | None:
    """The scorer whose metric the goal is over, where that can be screened: a mean over rows, of answers' texts, with a lower bar in (0, 1)."""
    assert evaluate.screen is not None
    rule = rules.parse(evaluate.screen)
    use = next((one for one in evaluate.scorers if rule.metric.startswith(f"{one.name}.")), None)
    if use is None or rule.operator not in (">", ">=") or not 0 < rule.offset < 1 or reads(use) != "text":
        return None
    example = score_each(shelf.call("scorers", use.name, "score", use.options), gold.samples[:1], [None])
    return use if is_row_mean(rule.metric, EvalReport(system="", gold=gold.sha256, metrics={}, scores=example)) else None
