"""How the rows are spread over labels, lengths, words and tasks, and what always giving the most frequent answer would score."""

from __future__ import annotations

import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planish.data.finding import CheckResult, Finding
from planish.data.normalise import normalised
from planish.data.ragged import Ragged
from planish.data.shingles import ngrams, word_units
from planish.data.table import Table
from planish.data.texts import body_text, final_answer, prompt_text
from planish.rows import LabelRow, NoteCode, Row

RARE = 5
"""Fewer rows of a label than this are warned of; below 2 no stratified split can be made."""

LOPSIDED = 0.8
"""Share of the largest label above which one answer looks like skill."""

_SAMPLE = 1000  # rows embedded for the spread of meaning


def check(
    rows: Table, split: Mapping[str, str] | None = None, chat: Any = None, *, embedding: bool = False, encoder: str = "minilm", seed: int = 0
) -> CheckResult:
    """Figures of the spread (MISSION D7), and warnings of rare labels, of one label in several spellings and of imbalance. No row is set aside.

    `labels`: count, share, class weight N / (C n_c) and median words of each label; entropy H in nats, effective classes exp(H), accuracy and macro-F1 of the
    majority. `offers`: what capping at the median label or repeating up to the largest would give. `lengths` in words. `ngrams`: share of words, pairs and
    triples that are different. `tasks`: rows by shape. With `embedding`: 1 - mean cosine over up to 1,000 rows, by `encoder`, drawn with `seed`.
    Balancing shifts the prior: test on the natural mix.
    """
    lengths: list[tuple[int, int]] = []
    told: list[bytes] = []
    for asked, answered, words in rows.map(_read):
        lengths.append((asked, answered))
        told.append(words)
    figures: dict[str, Any] = {
        "rows": len(rows),
        "tasks": dict(sorted(Counter(key.shape for key in rows.keys).items())),
        "groups": len({key.group for key in rows.keys if key.group is not None}),
        "lengths": {"prompt": _quantiles([each[0] for each in lengths]), "answer": _quantiles([each[1] for each in lengths])},
        "ngrams": {f"distinct_{n}": _distinct(told, n) for n in (1, 2, 3)},
    }
    labels = [key.label for key in rows.keys if key.label is not None]
    findings: list[Finding] = []
    if labels:
        counts = Counter(labels)
        spread = spread_of(counts)
        words_of: dict[str, list[int]] = defaultdict(list)
        for key, (asked, _) in zip(rows.keys, lengths, strict=True):
            if key.label is not None:
                words_of[key.label].append(asked)
        figures["labels"] = spread | {"median_words": {label: float(np.median(words_of[label])) for label in sorted(counts)}}
        figures["offers"] = _offers(counts)
        findings = _warnings(counts, spread)
    if embedding and len(rows) > 1:
        figures["embedding_spread"] = _meaning(rows, encoder, seed)
    return CheckResult(findings=tuple(findings), figures=figures)


def spread_of(counts: Mapping[str, int]) -> dict[str, Any]:
    """Entropy H = -sum p ln p, exp(H), weights N / (C n_c), and accuracy and macro-F1 of always giving the most frequent label."""
    total, largest = sum(counts.values()), max(counts.values())
    entropy = -sum(count / total * math.log(count / total) for count in counts.values())
    accuracy = largest / total
    return {
        "counts": dict(sorted(counts.items())),
        "shares": {label: count / total for label, count in sorted(counts.items())},
        "weights": {label: total / (len(counts) * count) for label, count in sorted(counts.items())},
        "entropy": entropy,
        "effective_classes": math.exp(entropy),
        "majority_accuracy": accuracy,
        "majority_macro_f1": 2 * accuracy / (1 + accuracy) / len(counts),
    }


def _warnings(counts: Mapping[str, int], spread: Mapping[str, Any]) -> list[Finding]:
    findings = []
    for label, count in sorted(counts.items()):
        if count < RARE:
            why = f'label "{label}" has {count} row{"s" if count > 1 else ""}'
            why += ": no stratified split can be made, which takes 2" if count < 2 else f"; below {RARE} neither training nor its score means anything"
            fix = "add rows of it, or merge it with another label"
            findings.append(Finding(row_id=None, code=NoteCode.CLASS_RARE, severity="warn", why=why, fix=fix))
    spelt: dict[str, list[str]] = defaultdict(list)
    for label in sorted(counts):
        spelt[normalised(label)].append(label)
    for labels in spelt.values():
        if len(labels) > 1:
            why = f"{' and '.join(json.dumps(label, ensure_ascii=False) for label in labels)} are one label in several spellings"
            fix = "write it in one way in every row: an answer in the other spelling counts as wrong"
            findings.append(Finding(row_id=None, code=NoteCode.STYLE, severity="warn", why=why, fix=fix))
    if spread["majority_accuracy"] > LOPSIDED or spread["effective_classes"] < len(counts) / 2:
        why = f"always the most frequent label is right {spread['majority_accuracy']:.1%} of the time (macro-F1 {spread['majority_macro_f1']:.3f}); "
        why += f"{len(counts)} labels count like {spread['effective_classes']:.1f}"
        fix = "judge by macro-F1, and add rows of the rare labels; figures.offers says what capping, repeating or weighting would do"
        findings.append(Finding(row_id=None, code=NoteCode.CLASS_IMBALANCE, severity="warn", why=why, fix=fix))
    return findings


def _offers(counts: Mapping[str, int]) -> dict[str, Any]:
    cap, largest = int(np.median(list(counts.values()))), max(counts.values())
    return {
        "cap": {"at": cap, "rows_left": sum(min(count, cap) for count in counts.values())},
        "oversample": {label: round(largest / count, 3) for label, count in sorted(counts.items())},
    }


def _read(row: Row) -> tuple[int, int, bytes]:
    """Words of prompt and answer, and the words of everything."""
    answer = 0 if isinstance(row, LabelRow) else len(final_answer(row).split())
    return len(prompt_text(row).split()), answer, word_units(body_text(row))


def _quantiles(values: Sequence[int]) -> dict[str, float]:
    if not values:
        return {}
    at = {"min": 0.0, "p05": 0.05, "median": 0.5, "p95": 0.95, "max": 1.0}
    return {name: float(value) for name, value in zip(at, np.quantile(values, list(at.values())), strict=True)}


def _distinct(texts: Iterable[bytes], n: int) -> float:
    """Different n-grams over all n-grams (Li et al. 2016); 0 without any."""
    parts, total = [np.zeros(0, np.uint64)], 0
    for flat, lengths in Ragged.packed(texts).parts():
        hashed, _ = ngrams(flat, lengths, n)
        total += len(hashed)
        parts.append(_each_once(hashed))
    return len(_each_once(np.concatenate(parts))) / total if total else 0.0


def _each_once(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    ordered = np.sort(values)
    return ordered[np.concatenate(([True], ordered[1:] != ordered[:-1]))] if len(ordered) else ordered


def _meaning(rows: Table, encoder: str, seed: int) -> dict[str, float]:
    """1 - mean cosine of different rows' prompts: 0 when all say the same."""
    from planish.model.encoder import embed

    drawn = sorted(random.Random(seed).sample(range(len(rows)), min(_SAMPLE, len(rows))))
    vectors, _ = embed([prompt_text(rows[index]) for index in drawn], encoder=encoder)
    n = len(vectors)
    mean = (float(np.square(vectors.sum(axis=0)).sum()) - n) / (n * (n - 1))  # the vectors have length 1
    return {"value": 1 - mean, "n": n}
