"""The spread of a data set (MISSION D7)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.metrics import f1_score
from sklearn.utils.class_weight import compute_class_weight

from planish.checks import balance
from planish.data.table import Table
from planish.model import encoder
from planish.rows import LabelRow, NoteCode, Origin, PromptCompletionRow

WHERE = Origin(file="f", line=1, sha256="")


def _rows(**counts: int) -> Table:
    labels = [label for label, count in counts.items() for _ in range(count)]
    return Table.of(LabelRow(id=str(n), origin=WHERE, text=f"text number {n}", label=label) for n, label in enumerate(labels))


def test_d7_900_90_10() -> None:
    """MISSION D7, Ex: 900/90/10 -> weights .370/3.704/33.33; majority accuracy .900 but macro-F1 .316. By hand: 1000/(3*900) = .3704, 1000/270 = 3.704,
    1000/30 = 33.33; F1 of the majority is 2 * .9 * 1 / 1.9 = .9474, a third of it .3158. H = .0948 + .2167 + .0461 = .3576, exp = 1.430."""
    result = balance.check(_rows(a=900, b=90, c=10))
    labels = result.figures["labels"]
    assert labels["weights"] == pytest.approx({"a": 0.3704, "b": 3.704, "c": 33.33}, abs=4e-3)
    assert labels["majority_accuracy"] == pytest.approx(0.9)
    assert labels["majority_macro_f1"] == pytest.approx(0.316, abs=5e-4)
    assert labels["entropy"] == pytest.approx(0.3576, abs=1e-4)
    assert labels["effective_classes"] == pytest.approx(1.430, abs=1e-3)
    assert [(finding.row_id, finding.code) for finding in result.findings] == [(None, NoteCode.CLASS_IMBALANCE)]
    assert result.figures["offers"] == {"cap": {"at": 90, "rows_left": 190}, "oversample": {"a": 1.0, "b": 10.0, "c": 90.0}}


def test_d7_agrees_with_scikit_learn() -> None:
    """MISSION D7, Proof: scikit-learn `compute_class_weight`; and its macro-F1 of always the most frequent label."""
    labels = ["x"] * 13 + ["y"] * 29 + ["z"] * 6
    expected = compute_class_weight("balanced", classes=np.array(["x", "y", "z"]), y=labels)
    spread = balance.spread_of({"x": 13, "y": 29, "z": 6})
    assert list(spread["weights"].values()) == pytest.approx(expected)
    assert spread["majority_macro_f1"] == pytest.approx(f1_score(labels, ["y"] * 48, average="macro", zero_division=0.0))


def test_d7_few_rows_of_a_label_are_warned_of() -> None:
    """MISSION D7, Bad: class < 5 rows warns, < 2 blocks stratified split."""
    result = balance.check(_rows(a=6, b=5, c=4, d=1))
    assert [(finding.row_id, finding.code) for finding in result.findings] == [(None, NoteCode.CLASS_RARE)] * 2
    assert '"c" has 4 rows' in result.findings[0].why
    assert '"d" has 1 row: no stratified split' in result.findings[1].why


def test_d7_one_label_in_several_spellings_is_warned_of() -> None:
    """Three spellings that differ in case and white space, as tables bring them; another label that only begins alike is another label."""
    result = balance.check(_rows(**{"good": 20, "Good": 20, "good ": 20, "goods": 20}))
    assert [(finding.row_id, finding.code, finding.severity) for finding in result.findings] == [(None, NoteCode.STYLE, "warn")]
    assert result.findings[0].why == '"Good" and "good" and "good " are one label in several spellings'


def test_equal_labels_count_fully() -> None:
    result = balance.check(_rows(a=20, b=20, c=20, d=20))
    assert result.figures["labels"]["effective_classes"] == pytest.approx(4)
    assert result.figures["labels"]["entropy"] == pytest.approx(math.log(4))
    assert not result.findings


def test_lengths_words_and_tasks() -> None:
    """Prompts of 1, 2, 3 words, answers of 2. Words a b c x y, three times x y: of 1+2+3+6 = 12 words 5 are different; pairs (a x, x y), (a b, b x, x y),
    (a b, b c, c x, x y): of 9 pairs ax xy ab bx bc cx = 6 are."""
    rows = [PromptCompletionRow(id=str(n), origin=WHERE, prompt=" ".join("abc"[: n + 1]), completion="x y") for n in range(3)]
    figures = balance.check(Table.of(rows)).figures
    assert figures["lengths"]["prompt"]["median"] == 2
    assert figures["lengths"]["answer"] == {"min": 2, "p05": 2, "median": 2, "p95": 2, "max": 2}
    assert figures["ngrams"]["distinct_1"] == pytest.approx(5 / 12)
    assert figures["ngrams"]["distinct_2"] == pytest.approx(6 / 9)
    assert figures["tasks"] == {"prompt_completion": 3}
    assert "labels" not in figures


def test_the_spread_of_meaning_is_one_less_the_mean_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three vectors, two the same and one at right angles: cosines 1, 0, 0, mean 1/3, spread 2/3."""

    def embed(texts: Sequence[str], *, encoder: str) -> tuple[np.ndarray, np.ndarray]:
        return np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.zeros(len(texts), bool)

    monkeypatch.setattr(encoder, "embed", embed)
    figures = balance.check(_rows(a=3), embedding=True).figures
    assert figures["embedding_spread"] == {"value": pytest.approx(2 / 3), "n": 3}


def test_no_rows() -> None:
    assert balance.check(Table.of([])).figures["rows"] == 0
