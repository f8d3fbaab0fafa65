"""Labels that are probably wrong, by a classifier that never saw the row it judges (confident learning)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planish.data.finding import CheckResult, Finding
from planish.data.table import Table
from planish.data.texts import prompt_text
from planish.errors import InputError, Problem
from planish.lazy import require
from planish.rows import NoteCode

_FEATURES = 2**15
_DIMENSIONS = 128
_SPARSE = 200_000  # rows times labels that are fitted as they are: beyond, a regression on all features takes minutes


def check(
    rows: Table,
    split: Mapping[str, str] | None = None,
    chat: Any = None,
    *,
    encoder: str | None = "minilm",
    folds: int = 5,
    odds: float = 10.0,
    least_accuracy: float = 0.5,
    seed: int = 0,
) -> CheckResult:
    """A warning per row of classification whose label is probably another (MISSION D4); the row stays.

    Logistic regression over the sentence encoder's vectors, or with `encoder: null` over hashed character 2- to 5-grams, which is faster and blunter; every
    row is judged by the fold it was not in. A row is named when another label reaches the mean probability that its own rows have for it (confident learning,
    Northcutt, Jiang and Chuang 2021) and is `odds` times likelier than the row's label. Below an out-of-fold accuracy of `least_accuracy` nothing is named:
    the classifier knows too little. Raises InputError on fewer than 2 folds or odds below 1, MissingExtra without scikit-learn or the encoder.
    """
    if folds < 2:
        raise InputError(Problem("checks.mislabels.folds", f"{folds} folds leave nothing to hold out", "folds >= 2, 5 by default"))
    if odds < 1:
        raise InputError(Problem("checks.mislabels.odds", f"{odds:g}: the other label must be the likelier one", "odds >= 1, 10 by default"))
    at = [index for index, key in enumerate(rows.keys) if key.label is not None]
    labels = np.array([str(rows.keys[index].label) for index in at])
    classes, targets, counts = np.unique(labels, return_inverse=True, return_counts=True)
    usable = counts[targets] >= folds
    figures: dict[str, Any] = {"rows": len(at), "rows_judged": int(usable.sum()) if len(classes) else 0, "labels": len(classes)}
    if len(classes) < 2 or (counts >= folds).sum() < 2:
        return CheckResult(figures=figures | {"named": 0})
    table = rows.where(key.label is not None for key in rows.keys)
    texts = list(table.map(prompt_text))
    vectors = _characters(texts, len(classes), seed) if encoder is None else _meanings(texts, encoder)
    groups = _groups(table)
    probability = _out_of_fold(vectors, targets, groups, len(classes), folds, seed, usable)
    accuracy = float((probability.argmax(axis=1) == targets)[usable].mean())
    figures["out_of_fold_accuracy"] = accuracy
    named = _named(probability, targets, usable, odds) if accuracy >= least_accuracy else []
    figures["named"] = len(named)
    findings = []
    for place, other in named:
        own, theirs = classes[targets[place]], classes[other]
        why = f'is labelled "{own}" (probability {probability[place, targets[place]]:.2f}); like rows are "{theirs}" ({probability[place, other]:.2f})'
        fix = "read it, and correct the label if it is wrong: it may be right and merely rare"
        findings.append(Finding(row_id=table.keys[place].id, code=NoteCode.MISLABEL_SUSPECTED, severity="warn", why=why, fix=fix))
    return CheckResult(findings=tuple(findings), figures=figures)


def _groups(table: Table) -> NDArray[np.int64]:
    """Rows of one group, and rows that ask the same, are never judged by each other."""
    known: dict[Any, int] = {}
    return np.array([known.setdefault(key.group if key.group is not None else key.question, len(known)) for key in table.keys], np.int64)


def _characters(texts: list[str], classes: int, seed: int) -> Any:
    """TF-IDF of hashed character 2- to 5-grams within words: sparse (_N, 32768), or where there is much to fit its first 128 singular directions."""
    text = require("sklearn.feature_extraction.text", extra="classifier")
    hashed = text.HashingVectorizer(analyzer="char_wb", ngram_range=(2, 5), n_features=_FEATURES, alternate_sign=False, norm=None).transform(texts)
    weighted = text.TfidfTransformer(sublinear_tf=True).fit_transform(hashed)
    if len(texts) * classes <= _SPARSE:
        return weighted
    reduced = require("sklearn.decomposition", extra="classifier").TruncatedSVD(_DIMENSIONS, random_state=seed).fit_transform(weighted)
    return reduced / np.maximum(np.linalg.norm(reduced, axis=1, keepdims=True), 1e-12)


def _meanings(texts: list[str], encoder: str) -> NDArray[np.float64]:
    from planish.model.encoder import embed

    return embed(texts, encoder=encoder)[0]


def _out_of_fold(
    vectors: Any, targets: NDArray[np.int64], groups: NDArray[np.int64], classes: int, folds: int, seed: int, usable: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(_N, classes): the probabilities of each row's labels, by a regression fitted on the other folds. Rows of labels with too few rows only count as fitted."""
    probability = np.zeros((len(targets), classes))
    splitter = require("sklearn.model_selection", extra="classifier").StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    model = require("sklearn.linear_model", extra="classifier").LogisticRegression(C=10.0, max_iter=1000, class_weight="balanced")
    judged = np.flatnonzero(usable)
    for fitted, held in splitter.split(vectors[judged], targets[judged], groups[judged]):
        if len(held) and len(np.unique(targets[judged[fitted]])) > 1:
            head = model.fit(vectors[judged[fitted]], targets[judged[fitted]])
            probability[np.ix_(judged[held], head.classes_)] = head.predict_proba(vectors[judged[held]])
    return probability


def _named(probability: NDArray[np.float64], targets: NDArray[np.int64], usable: NDArray[np.bool_], odds: float) -> list[tuple[int, int]]:
    """(row, likelier label) of the suspects, in order."""
    own = probability[np.arange(len(targets)), targets]
    expected = np.full(probability.shape[1], np.inf)
    for label in np.unique(targets[usable]):
        expected[label] = own[usable & (targets == label)].mean()
    reached = np.where(probability >= expected, probability, 0)
    other, most = reached.argmax(axis=1), reached.max(axis=1)
    suspect = usable & (most > 0) & (other != targets) & (most >= odds * own)
    return [(int(place), int(other[place])) for place in np.flatnonzero(suspect)]
