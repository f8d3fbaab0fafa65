"""Which rows a system loses to a baseline, what they have in common, and what data would help (MISSION E7).

The rows are gold: they say which kind of row to collect, and must never be trained on themselves (R-4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planish.errors import MissingExtra
from planish.evidence.paired import aligned
from planish.evidence.slices import Slice
from planish.lazy import require
from planish.rows import Noun
from planish.scores import EvalReport

FEWEST = 3  # rows in a group or a confusion: fewer are single cases
MOST_GROUPS = 10
COMPARED = 2000  # lost rows that are compared each with each; further ones are counted, not grouped
TERMS, EXAMPLES = 3, 3


class Loss(Noun):
    """A row the baseline had right and the model has wrong."""

    id: str
    target: str
    answer: str | None
    baseline_answer: str | None


class Confusion(Noun):
    """`rows` of the `of` rows with this target were read as `read`; None where the answer could not be read."""

    target: str
    read: str | None
    rows: int
    of: int


class Group(Noun):
    """Rows with a common wording: the terms that set them apart from the other gold rows, their commonest targets, and the most typical texts."""

    terms: tuple[str, ...]
    ids: tuple[str, ...]
    targets: dict[str, int]
    examples: tuple[str, ...]


class ToAdd(Noun):
    """Data that would help, and what it is concluded from. `rows` is how many at least, where something says so."""

    what: str
    why: str
    rows: int | None = None


class Losses(Noun):
    """A system against one baseline, row by row."""

    candidate: str
    baseline: str
    n: int
    won: int  # rows only the candidate has right
    lost: tuple[Loss, ...]
    groups: tuple[Group, ...] | None  # None where nothing could be grouped: `note` says why
    note: str
    confusions: tuple[Confusion, ...]
    to_add: tuple[ToAdd, ...]


def losses(candidate: EvalReport, baseline: EvalReport) -> list[Loss]:
    """Rows the baseline answered better than the candidate, in gold order. Raises InputError on unpaired reports."""
    pairs = zip(candidate.scores, aligned(candidate, baseline).scores, strict=True)
    return [Loss(id=ours.id, target=ours.target, answer=ours.answer, baseline_answer=theirs.answer) for ours, theirs in pairs if theirs.value > ours.value]


def confusions(report: EvalReport, *, top: int = 10) -> list[Confusion]:
    """The commonest wrong readings, most frequent first."""
    wrong = Counter((score.target, score.parsed) for score in report.scores if score.value < 1)
    asked = Counter(score.target for score in report.scores)
    ranked = sorted(wrong.items(), key=lambda entry: (-entry[1], entry[0][0], entry[0][1] or ""))
    return [Confusion(target=target, read=read, rows=rows, of=asked[target]) for (target, read), rows in ranked[:top]]


def grouped(lost: Sequence[Loss], texts: Mapping[str, str]) -> list[Group]:
    """The lost rows by their wording, the largest group first; what is like no other is left out. `texts` are all gold texts by row id.

    TF-IDF over all gold texts; average linkage on cosine distance, cut where the silhouette is best. Raises MissingExtra without scikit-learn."""
    lost = lost[:COMPARED]
    if len(lost) < FEWEST:
        return []
    # words of two letters and more; a script without spaces between words falls back to pairs of characters
    spaced = sum(" " in text.strip() for text in texts.values()) >= len(texts) / 2
    how: dict[str, Any] = {"analyzer": "word"} if spaced else {"analyzer": "char", "ngram_range": (2, 2)}
    vectorizer = require("sklearn.feature_extraction.text", extra="classifier").TfidfVectorizer(sublinear_tf=True, **how)
    try:
        everything = vectorizer.fit_transform(list(texts.values()))
    except ValueError:  # no text has a word
        return []
    names, place = vectorizer.get_feature_names_out(), {row: position for position, row in enumerate(texts)}
    vectors = everything[[place[one.id] for one in lost]].toarray()
    labels = _clusters(vectors)
    typical = np.asarray(everything.mean(axis=0)).ravel()
    groups = []
    for label in np.unique(labels):
        members = [int(member) for member in np.flatnonzero(labels == label)]
        if len(members) < FEWEST:
            continue
        centre = vectors[members].mean(axis=0)
        apart = centre - typical
        terms = [str(names[column]) for column in np.argsort(-apart, kind="stable")[:TERMS] if apart[column] > 0]
        nearest = sorted(members, key=lambda member: -float(vectors[member] @ centre))[:EXAMPLES]
        groups.append(
            Group(
                terms=tuple(terms),
                ids=tuple(lost[member].id for member in members),
                targets=dict(Counter(lost[member].target for member in members).most_common(TERMS)),
                examples=tuple(texts[lost[member].id] for member in nearest),
            )
        )
    return sorted(groups, key=lambda group: (-len(group.ids), group.terms))


def _clusters(vectors: NDArray[np.float64]) -> NDArray[np.int64]:
    """A cluster per row (_N,), at most 10 besides single rows; one cluster where no cut separates."""
    cluster, metrics = require("sklearn.cluster", extra="classifier"), require("sklearn.metrics", extra="classifier")
    distances = np.clip(metrics.pairwise.cosine_distances(vectors), 0, None)
    best, found = 0.0, np.zeros(len(vectors), np.int64)
    for count in range(2, min(MOST_GROUPS, len(vectors) // FEWEST) + 1):
        labels = cluster.AgglomerativeClustering(n_clusters=count, metric="precomputed", linkage="average").fit_predict(distances)
        score = float(metrics.silhouette_score(distances, labels, metric="precomputed"))
        if score > best:
            best, found = score, labels.astype(np.int64)
    return found


def to_add(
    weak: Sequence[Slice], confused: Sequence[Confusion], groups: Sequence[Group], trained: Mapping[str, int] | None = None, *, apart: str = "label"
) -> list[ToAdd]:
    """What to collect, the proven first: rows of the weak slices, rows that tell confused targets apart, rows worded like the lost groups.

    `trained` counts the training rows by label; the key `apart` is the slice key that holds labels."""
    usual = round(median(trained.values())) if trained else 0
    advice = []
    for one in weak:
        have = (trained or {}).get(one.value) if one.key == apart else None
        short = usual - have if have is not None and have < usual else None
        why = f"{one.metric.value:.2f} on {one.metric.n} gold rows" + (f" against {one.others:.2f} on the others" if one.others is not None else "")
        seen = f"; it has {have} training rows, the median label {usual}" if short else f"; it has {have} training rows" if have is not None else ""
        advice.append(ToAdd(what=f"rows with {one.key} {one.value}", why=why + seen, rows=short))
    for pair in confused:
        if pair.rows < FEWEST:
            continue
        why = f"{pair.rows} of {pair.of} gold rows of {pair.target} "
        if pair.read is None:
            advice.append(ToAdd(what=f"rows of {pair.target} whose answer has the required form", why=why + "were answered in a form that cannot be read"))
        else:
            advice.append(ToAdd(what=f"rows that tell {pair.target} from {pair.read}", why=why + f"were read as {pair.read}"))
    for group in groups:
        words = ", ".join(group.terms)
        why = f"{len(group.ids)} rows that the baseline has right are lost there; read them, then collect new ones: these are gold"
        advice.append(ToAdd(what=f'new rows about "{words}"' if words else "new rows like the lost ones", why=why))
    return advice


def compare_rows(
    candidate: EvalReport,
    baseline: EvalReport,
    texts: Mapping[str, str],
    *,
    weak: Sequence[Slice] = (),
    trained: Mapping[str, int] | None = None,
) -> Losses:
    """Everything above for one pair of systems. Without scikit-learn the rows are not grouped, and `note` names the package. Raises InputError on unpaired reports."""
    lost, won = losses(candidate, baseline), losses(baseline, candidate)
    note, groups = "", None
    try:
        groups = tuple(grouped(lost, texts))
    except MissingExtra as absent:
        note = str(absent)
    if len(lost) > COMPARED:
        note = f"the first {COMPARED} of {len(lost)} lost rows are grouped"
    confused = confusions(candidate)
    return Losses(
        candidate=candidate.system,
        baseline=baseline.system,
        n=len(candidate.scores),
        won=len(won),
        lost=tuple(lost),
        groups=groups,
        note=note,
        confusions=tuple(confused),
        to_add=tuple(to_add(weak, confused, groups or (), trained)),
    )
