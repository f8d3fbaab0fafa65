"""Training rows that hold what the evaluation asks: exactly, in a run of 13 words, nearly, or (if asked) in meaning."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planish.data.finding import CheckResult, Finding
from planish.data.held_out import HeldOut, Leak, copied
from planish.data.numbered import Numbered
from planish.data.overlap import Same
from planish.data.parallel import uncollected
from planish.data.reading import read_rows
from planish.data.table import Table
from planish.data.texts import prompt_text
from planish.data.traces import traces
from planish.errors import InputError, Problem
from planish.rows import NoteCode, RejectCode

AFTER_SPLIT = True
"""This check compares splits, so it runs once they exist."""

MOST = "more than half leak, so both sides are one set: give it as one file and let planish divide it, or take gold rows from another source"
"""The fix where more than half of the rows leak."""

_BATCH = 4096


@uncollected()
def check(
    rows: Table,
    split: Mapping[str, str] | None = None,
    chat: Any = None,
    *,
    threshold: float = 0.8,
    embedding: float | None = None,
    encoder: str = "minilm",
    benchmarks: list[str] | None = None,
    refuse_above: float = 0.01,
) -> CheckResult:
    """A finding per leaking row, with the evaluation row in `see` (MISSION D9). Gold itself is never touched.

    Train and validation are compared with gold and the files of `benchmarks`, train also with validation. Methods, the surest first: the same question
    after normalisation; a shared run of 13 words, or four fifths of the 5-grams of a question below 26 words; Jaccard of `threshold`; and with
    `embedding` (0.95 is customary) a cosine of at least that, by the sentence encoder `encoder`. `figures.leaks` lists row, evaluation row, method and score.
    More than the share `refuse_above` of gold matched is for training to refuse: see `require_clean`.
    A prompt that gives its answer away is warned of. Raises InputError without a split, or when a benchmark file cannot be read.
    """
    if split is None:
        raise InputError(Problem("checks.leakage", "compares train with gold and was given no split", "run it after the split"))
    sides = [split.get(key.id, "unused") for key in rows.keys]
    gold, validation = HeldOut(), HeldOut()
    trained, validating, gilded = (rows.where([side == name for side in sides]) for name in ("train", "validation", "gold"))
    evaluation = [gilded]
    _hold(gold, "gold", evaluation[0])
    for path in benchmarks or ():
        evaluation.append(read_rows(Path(path), mixed=True, strict=False).accepted)
        _hold(gold, "benchmark", evaluation[-1], f"{Path(path).name}:")
    _hold(validation, "validation", validating)
    leaks: list[tuple[str, HeldOut, Leak]] = []
    told: list[str] = []
    left_out = too_long = 0
    for table, held_out in ((trained, [(gold, evaluation), (validation, [validating])]), (validating, [(gold, evaluation)])):
        found, names, missed = _search(table, held_out, threshold)
        leaks += [(table.keys[leak.row].id, held, leak) for held, leak in found]
        told += names
        left_out += missed
    if embedding is not None:
        (train, train_cut), (held_back, validation_cut), (asked, gold_cut) = (_meanings(tables, encoder) for tables in ([trained], [validating], evaluation))
        too_long = train_cut + validation_cut + gold_cut
        for table, ours, held, theirs in ((trained, train, gold, asked), (trained, train, validation, held_back), (validating, held_back, gold, asked)):
            leaks += [(table.keys[leak.row].id, held, leak) for leak in _by_meaning(ours, theirs, embedding)]
    place = {key.id: index for index, key in enumerate(rows.keys)}
    by_row: dict[str, list[tuple[HeldOut, Leak]]] = defaultdict(list)
    for row_id, held, leak in sorted(leaks, key=lambda each: (place[each[0]], each[1] is validation)):
        by_row[row_id].append((held, leak))
    compared = len(trained) + len(validating)
    fix = MOST if len(by_row) > compared / 2 else "leave it out of training"
    findings = [_finding(row_id, *each[0], fix) for row_id, each in by_row.items()]
    findings += [_told(row_id) for row_id in sorted(told, key=place.__getitem__)]
    if left_out:
        why = f"so many questions are nearly alike that {left_out} of their pairs were not compared"
        findings.append(Finding(row_id=None, code=NoteCode.BOILERPLATE, severity="warn", why=why, fix="take the text that all rows share out of them"))
    n_gold = sides.count("gold")
    matched = len({leak.held for each in by_row.values() for held, leak in each if held is gold and gold.kinds[leak.held] == "gold"})
    figures = {
        "compared": compared,
        "evaluation_rows": dict(sorted(Counter(gold.kinds + validation.kinds).items())),
        "leaking_rows": len(by_row),
        "by_method": dict(sorted(Counter(leak.method for _, _, leak in leaks).items())),
        "gold_matched": matched,
        "gold_matched_share": matched / n_gold if n_gold else 0.0,
        "refuse_above": refuse_above,
        "template_ngrams": sum(grams.common for held in (gold, validation) for grams in held.ngrams),
        "pairs_left_out": left_out,
        **({} if embedding is None else {"prompts_too_long_for_meaning": too_long}),
        "leaks": [
            {"train_row": row_id, "eval_row": held.names[leak.held], "method": leak.method, "score": leak.score}
            for row_id, each in by_row.items()
            for held, leak in each
        ],
    }
    return CheckResult(findings=tuple(findings), figures=figures)


def require_clean(figures: Mapping[str, Any]) -> None:
    """Raises InputError when more than the allowed share of gold was matched by training rows: so much overlap says that train and gold were not drawn apart,
    and what no method here can see has leaked as well."""
    if figures["gold_matched_share"] > figures["refuse_above"]:
        gold = figures["evaluation_rows"]["gold"]
        why = f"{figures['gold_matched']} of {gold} gold rows ({figures['gold_matched_share']:.1%}) stood in the training rows in some form"
        fix = "group the split by what the copies share, or draw gold anew; checks: [{leakage: {refuse_above: ..}}] allows more"
        raise InputError(Problem("data.checks.leakage", f"{why}; at most {figures['refuse_above']:.1%} may", fix))


def _hold(held: HeldOut, kind: str, table: Table, file: str = "") -> None:
    held.add(kind, [f"{file}{key.line}" if file else key.id for key in table.keys], table.keys, traces(table))


def _search(table: Table, held_out: Sequence[tuple[HeldOut, Sequence[Table]]], threshold: float) -> tuple[list[tuple[HeldOut, Leak]], list[str], int]:
    """Leaks of the rows of a table, the ids of rows whose prompt gives the answer away, and how many pairs were not compared."""
    traced, left_out = traces(table), 0
    numbered = [(Numbered(*tables, table), sum(map(len, tables))) for _, tables in held_out]
    found = list(copied([held for held, _ in held_out], table.keys, traced, [_behind(each.held, first) for each, first in numbered]))
    for (held, _), (each, first) in zip(held_out, numbered, strict=True):
        near, missed = held.nearly(traced, threshold, _behind(each.same, first))
        found += [(held, leak) for leak in near]
        left_out += missed
    return found, [table.keys[row].id for row in np.flatnonzero(traced.tells).tolist()], left_out


def _behind(same: Same, first: int) -> Same:
    """`same` of held-out rows and searched rows, which are numbered behind these, from `first` on."""
    return lambda held, row: same(held, row + first)


def _meanings(tables: Sequence[Table], encoder: str) -> tuple[NDArray[np.float64], int]:
    """The vectors of the prompts (_N, _H), and how many the encoder would cut. Their end is not known: they are zero, which is like nothing."""
    from planish.model.encoder import embed

    vectors, cut = embed([text for each in tables for text in each.map(prompt_text)], encoder=encoder)
    return np.where(cut[:, None], 0, vectors), int(cut.sum())


def _by_meaning(ours: NDArray[np.float64], theirs: NDArray[np.float64], least: float) -> Iterator[Leak]:
    """For each row with a cosine of `least` with a held-out one, the nearest of these."""
    for first in range(0, len(ours) if len(theirs) else 0, _BATCH):
        cosines = ours[first : first + _BATCH] @ theirs.T
        nearest = cosines.argmax(axis=1)
        score = cosines[np.arange(len(nearest)), nearest]
        for row in np.flatnonzero(score >= least).tolist():
            yield Leak(first + row, int(nearest[row]), "embedding", float(score[row]))


def _finding(row_id: str, held: HeldOut, leak: Leak, fix: str) -> Finding:
    name = f"{held.kinds[leak.held]} row {held.names[leak.held]}"
    how = {
        "exact": f"asks what {name} asks",
        "13-gram": f"holds 13 words in a row of what {name} asks ({leak.score:.0%} of its 13-grams)",
        "5-gram": f"holds {leak.score:.0%} of what {name} asks, by 5-grams",
        "near": f"asks nearly what {name} asks (Jaccard {leak.score:.2f})",
        "embedding": f"means what {name} means (cosine {leak.score:.2f})",
    }
    return Finding(row_id=row_id, code=RejectCode.GOLD_OVERLAP, severity="reject", why=how[leak.method], fix=fix, see=held.names[leak.held])


def _told(row_id: str) -> Finding:
    why, fix = "the prompt holds the whole answer, word for word", "take the answer out of the prompt, unless copying is what you teach"
    return Finding(row_id=row_id, code=NoteCode.ANSWER_IN_PROMPT, severity="warn", why=why, fix=fix)
