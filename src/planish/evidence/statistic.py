"""A reported metric as a function of row weights: the one form in which it can be resampled, paired and checked against the report.

What a metric's name means, after any scorer prefix (`label.macro_f1`):

    macro_f1, micro_f1, f1.<label>   from the confusion of parsed answer and target, over the declared labels
    parse_rate                       share of answers that were read as a declared label
    next_token_accuracy              sum of `detail["correct"]` over sum of `detail["tokens"]`
    perplexity                       exp(sum of `detail["nll"]` over sum of `detail["tokens"]`)
    bleu, chrf                       from the n-gram counts in the details (`ngrams`)
    error.<class>                    share of rows whose details name this error
    any whose rows have kinds        mean over KINDS of the sum of `detail["<kind>_<name>.part"]` over that of `detail["<kind>_<name>.whole"]`: kinds count alike, however
                                     many rows there are of each
    any other                        sum of `detail["<name>.part"]` over sum of `detail["<name>.whole"]` where every row has them, else
                                     mean over rows of `detail[name]` where every row has it, else of `value`

What a row's details say goes before the confusion: a scorer without labels gives `f1` and `parse_rate` per row. A report keeps the rows of its first scorer;
the details of its others stand in them under the scorer's name (`exact.parse_rate`), and there the metric's full name is looked up first (`detail_name`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from planish.errors import InputError, Problem
from planish.evidence import ngrams
from planish.evidence.intervals import Floats, Statistic
from planish.scores import EvalReport, Score

CONFUSION = ("macro_f1", "micro_f1", "f1", "parse_rate")
RATIOS = {"next_token_accuracy": "correct", "perplexity": "nll"}  # over detail["tokens"]
ERROR = "error."
OWN = {"f1": ("f1", "parse_rate"), "perplexity": ("perplexity", "bits_per_byte")}  # scorers that are called like a metric, and what they report


KINDS = ("good", "bad")
"""Kinds of rows that a metric may count alike: answers that were judged good, and those judged bad."""

Pair = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Per-row parts and wholes, both (n,)."""


def mean(values: Floats) -> Statistic:
    """The mean of per-row values (n,)."""
    return ratio(values, np.ones(len(values)))


def ratio(numerator: Floats, denominator: Floats) -> Statistic:
    """Sum of per-row numerators over sum of per-row denominators, both (n,): a mean weighted by tokens, for one. 0 where the denominators sum to 0."""
    columns = np.stack([numerator, denominator], axis=1)

    def of(weights: NDArray[np.float32]) -> Floats:
        sums = weights @ columns
        return np.divide(sums[:, 0], sums[:, 1], out=np.zeros(len(sums)), where=sums[:, 1] != 0)

    return of


def balanced(kinds: Sequence[Pair]) -> Statistic:
    """Mean of the ratios of several kinds of rows; in a resample that holds none of a kind, of the others."""
    columns = np.stack([column for pair in kinds for column in pair], axis=1)

    def of(weights: NDArray[np.float32]) -> Floats:
        sums = weights @ columns
        parts, wholes = sums[:, 0::2], sums[:, 1::2]
        there = wholes > 0
        rates = np.divide(parts, wholes, out=np.zeros_like(parts), where=there)
        return np.asarray(rates.sum(axis=1) / np.maximum(there.sum(axis=1), 1))

    return of


class Confusion(NamedTuple):
    """Per-row class indices (n,) among `labels`; -1 is an answer that is no declared label."""

    labels: tuple[str, ...]
    target: NDArray[np.intp]
    answer: NDArray[np.intp]

    def f1(self) -> Statistic:
        """(_R, n) weights to (_R, L) F1 per label: 2 tp / (answered + asked), 0 where both are 0, as scikit-learn's zero_division=0."""
        classes = np.arange(len(self.labels))
        asked = (self.target[:, None] == classes).astype(np.float32)
        answered = (self.answer[:, None] == classes).astype(np.float32)
        right = asked * answered

        def of(weights: NDArray[np.float32]) -> Floats:
            total = weights @ asked + weights @ answered
            return np.asarray(2 * (weights @ right).astype(np.float64) / np.maximum(total, 1))

        return of

    def macro_f1(self) -> Statistic:
        """Unweighted mean of F1 over the declared labels."""
        per_label = self.f1()
        return lambda weights: np.asarray(per_label(weights).mean(axis=1))

    def micro_f1(self) -> Statistic:
        """2 tp / (answered + asked) over all labels together; equals accuracy when every answer parses."""
        return ratio(2.0 * (self.answer == self.target), 1.0 + (self.answer >= 0))

    def parse_rate(self) -> Statistic:
        """Share of answers that are a declared label."""
        return mean((self.answer >= 0).astype(np.float64))


def confusion(scores: Sequence[Score], labels: Sequence[str]) -> Confusion:
    """Targets and answers as class indices. What the scorer called right (`value` 1) is right here and nothing else is, so F1 never contradicts accuracy.

    Raises InputError naming rows whose target is not a declared label."""
    index = {label: position for position, label in enumerate(labels)}
    folded: dict[str, int] = {}
    for label, position in index.items():
        folded.setdefault(label.casefold(), position)
    strangers = [score for score in scores if score.target not in index]
    if strangers:
        raise InputError(*(Problem(s.id, f'target "{s.target}" is not a declared label', "declare it, or correct the gold row") for s in strangers))

    def read(score: Score) -> int:
        if score.value == 1:
            return index[score.target]
        if score.parsed is None:
            return -1
        found = index.get(score.parsed, folded.get(score.parsed.casefold(), -1))
        return -1 if found == index[score.target] else found

    target = np.array([index[score.target] for score in scores], dtype=np.intp)
    return Confusion(tuple(labels), target, np.array([read(score) for score in scores], dtype=np.intp))


def declared_labels(*reports: EvalReport) -> tuple[str, ...]:
    """The labels the reports give per-class figures for (`f1.<label>`); without any, the targets that occur."""
    named = {split_name(name)[1] for report in reports for name in report.metrics if split_name(name)[0] == "f1"} - {""}
    return tuple(sorted(named or {score.target for report in reports for score in report.scores}))


def split_name(metric: str) -> tuple[str, str]:
    """`label.f1.billing` to ("f1", "billing"); `label.macro_f1` to ("macro_f1", ""); what is not known here to (last part, "")."""
    words = metric.split(".")
    if len(words) == 2 and words[1] in OWN.get(words[0], ()):
        return words[1], ""
    for position, word in enumerate(words):
        if f"{word}." == ERROR:
            return ".".join(words[position:]), ""
        if position == len(words) - 1 or word in CONFUSION or word in RATIOS:
            return word, ".".join(words[position + 1 :])
    raise AssertionError("a split has at least one part")


def statistic(report: EvalReport, metric: str, *, labels: Sequence[str] | None = None) -> Statistic:
    """The reported metric as a statistic of its rows.

    Raises InputError where the report lacks the metric, has no rows, or where the rows do not give the reported value (1e-6):
    then the metric is not what its name says, and a test on the rows would be about something else (MISSION R-3)."""
    if metric not in report.metrics:
        raise InputError(Problem(metric, f"{report.system} did not measure it", "measured: " + ", ".join(sorted(report.metrics))))
    if not report.scores:
        raise InputError(Problem(metric, f"the report of {report.system} holds no rows", "keep the scores: without rows nothing can be paired"))
    of = _of_rows(report, metric, labels)
    found, said = float(of(np.ones((1, len(report.scores)), np.float32))[0]), report.metrics[metric].value
    if not abs(found - said) <= 1e-6 * max(1.0, abs(said)):
        why = f"{report.system} reports {said:.6g} and its rows give {found:.6g}"
        raise InputError(Problem(metric, why, "a metric that is no function of its rows cannot be paired"))
    return of


def _of_rows(report: EvalReport, metric: str, labels: Sequence[str] | None) -> Statistic:
    name, label = split_name(metric)
    own = detail_name(report, metric)
    if kinds := kinds_of(report.scores, own):
        return balanced(kinds)
    if name in ngrams.CORPUS and all(f"{own}.0" in score.detail for score in report.scores):
        return ngrams.statistic(name, [score.detail for score in report.scores], prefix=own)
    if own != name or (not label and (is_micro(report, metric) or all(own in score.detail for score in report.scores))):
        return ratio(*parts(report.scores, own))
    if name in CONFUSION and (name != "f1" or label):
        table = confusion(report.scores, labels or declared_labels(report))
        if name == "f1":
            if label not in table.labels:
                raise InputError(Problem(metric, f'"{label}" is not a declared label', "declared: " + ", ".join(table.labels)))
            per_label, column = table.f1(), table.labels.index(label)
            return lambda weights: np.asarray(per_label(weights)[:, column])
        return {"macro_f1": table.macro_f1, "micro_f1": table.micro_f1, "parse_rate": table.parse_rate}[name]()
    if name in RATIOS and all({RATIOS[name], "tokens"} <= score.detail.keys() for score in report.scores):
        share = ratio(_detail(report, RATIOS[name]), _detail(report, "tokens"))
        return share if name != "perplexity" else (lambda weights: np.asarray(np.exp(share(weights))))
    return ratio(*parts(report.scores, name))


def measured(report: EvalReport, metric: str) -> EvalReport:
    """The report with the rows that the metric is over: those whose details hold it, where only some do (a general suite among others, MISSION C4); else all."""
    name, _ = split_name(metric)
    own = detail_name(report, metric)
    if ERROR in own:
        return report  # every row counts: those that do not name the error did not make it
    keys = {own, f"{own}.part", _kind(own)} if own != name else {"tokens"} if name in RATIOS else set()
    having = [score for score in report.scores if not keys.isdisjoint(score.detail)]
    return report.model_copy(update={"scores": having}) if having else report


def parts(scores: Sequence[Score], name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Per-row parts and wholes (n,) of a metric by its own name, without the scorer's: what stands above under "any other" and "error"."""
    one = np.ones(len(scores))
    if all(f"{name}.part" in score.detail for score in scores):
        return np.array([score.detail[f"{name}.part"] for score in scores]), np.array([score.detail[f"{name}.whole"] for score in scores])
    if ERROR in name or all(name in score.detail for score in scores):
        return np.array([score.detail.get(name, 0.0) for score in scores]), one
    return np.array([score.value for score in scores]), one


def kinds_of(scores: Sequence[Score], name: str) -> list[Pair]:
    """Per-row parts and wholes of each kind, of a metric by its own name; none where its rows have no kinds."""
    if not all(_kind(name) in score.detail for score in scores):
        return []
    return [parts(scores, of_kind(name, kind)) for kind in KINDS]


def shares_of(kinds: Sequence[Pair]) -> list[tuple[float, int, int]] | None:
    """(weight, right, rows) of each kind, for an interval; None where a row is neither right nor wrong, and where there is none of a kind."""
    counts = [(int(part.sum()), int(whole.sum())) for part, whole in kinds]
    if not all(np.isin(column, (0, 1)).all() for pair in kinds for column in pair) or not all(n for _, n in counts):
        return None
    return [(1 / len(counts), right, n) for right, n in counts]


def of_kind(name: str, kind: str) -> str:
    """`accuracy` of the good rows is `good_accuracy`, under its scorer's name too."""
    scorer, dot, last = name.rpartition(".")
    return f"{scorer}{dot}{kind}_{last}"


def _kind(name: str) -> str:
    return f"{of_kind(name, KINDS[0])}.part"


def detail_name(report: EvalReport, metric: str) -> str:
    """The name under which the rows' details hold a metric: its full one where it is another scorer's than the first, else the metric's own."""
    keys = {metric, f"{metric}.part", f"{metric}.0", _kind(metric)}
    return metric if any(not keys.isdisjoint(score.detail) for score in report.scores) else split_name(metric)[0]


def is_micro(report: EvalReport, metric: str) -> bool:
    """Whether the metric is a sum of parts over a sum of wholes, not a mean over the rows."""
    return all(f"{detail_name(report, metric)}.part" in score.detail for score in report.scores)


def row_values(report: EvalReport, metric: str) -> NDArray[np.float64]:
    """The per-row values (n,) a mean metric is the mean of; of one whose rows have kinds, a row's own in its kind."""
    name = detail_name(report, metric)
    if kinds := kinds_of(report.scores, name):
        return np.asarray(np.sum([part for part, _ in kinds], axis=0), np.float64)
    if ERROR in name or (not is_micro(report, metric) and all(name in score.detail for score in report.scores)):
        return parts(report.scores, name)[0]
    return np.array([score.value for score in report.scores], dtype=np.float64)


def is_row_mean(metric: str, report: EvalReport) -> bool:
    """Whether the metric is a plain mean over the report's rows (accuracy, exact, a rate), not a set metric such as macro-F1 or a micro average."""
    name, label = split_name(metric)
    if is_micro(report, metric) or name in ngrams.CORPUS or kinds_of(report.scores, detail_name(report, metric)):
        return False
    own = detail_name(report, metric)
    if own != name or (not label and all(own in score.detail for score in report.scores)):
        return True
    return not (name in RATIOS or (name in CONFUSION and (name != "f1" or bool(label))))


def _detail(report: EvalReport, key: str) -> NDArray[Any]:
    return np.array([score.detail[key] for score in report.scores], dtype=np.float64)
