"""Frozen sentence encoder and logistic regression: no generation, minutes on a CPU, and often the winner on small classification.

The encoder is the bundled one, a model in a folder (its last hidden states, averaged), or `char_ngrams`, which needs no model at all. It is never trained on labels;
the regression's strength C is chosen by cross-validation on the training rows alone (MISSION B4). A fitted classifier is kept as safetensors and JSON, without pickle,
and predicts after loading exactly what scikit-learn predicted before."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planish.data.task import Task
from planish.errors import InputError, MissingExtra, Problem
from planish.lazy import require
from planish.model import char_ngrams
from planish.model.asker import Asker
from planish.model.char_ngrams import CharNgrams
from planish.model.encoder import embed, encoder_hash
from planish.rows import LabelRow, Sample
from planish.store.objects import write_folder

STRENGTHS = (0.1, 1.0, 10.0, 100.0)  # C; embeddings have length 1, so useful values lie above the customary 1
NGRAMS = "char_ngrams"
KEEPS = True
"""The stage hands it a folder for what it fitted."""


def solve(
    samples: Sequence[Sample],
    texts: Sequence[str],
    train: Sequence[LabelRow],
    task: Task,
    asker: Asker | None,
    keep: Path | None = None,
    *,
    encoder: str = "minilm",
    c: float | None = None,
    folds: int = 5,
    seed: int = 0,
) -> list[str | None]:
    """One label per sample, from its raw text (without the instruction that a prompt would carry). The asker is not used; the fitted classifier is
    kept in the folder `keep`, so that it can be shipped when it wins.

    Raises InputError where texts and samples differ in number, and as `fit`."""
    if len(texts) != len(samples):
        raise InputError(Problem("classifier", f"{len(texts)} texts for {len(samples)} samples", "give one raw text per sample"))
    fitted = fit(train, task.labels, encoder=encoder, c=c, folds=folds, seed=seed)
    if keep is not None:
        fitted.save(keep)
    return list(fitted.predict(texts))


@dataclass(frozen=True)
class Fitted:
    """A fitted classifier. `coef` (K, H) and `intercept` (K,) are scikit-learn's, K 1 for two classes; `truncated` training texts were cut to 256 tokens."""

    classes: tuple[str, ...]
    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]
    encoder: str
    encoder_sha256: str
    c: float
    truncated: int = 0
    ngrams: CharNgrams | None = None

    def predict(self, texts: Sequence[str]) -> list[str]:
        """The most probable class of each text."""
        return self.predict_vectors(self.ngrams.embed(texts) if self.ngrams is not None else embed(texts, encoder=self.encoder)[0])

    def predict_vectors(self, vectors: NDArray[np.float64]) -> list[str]:
        """The most probable class of each embedding (n, H)."""
        logits = vectors @ self.coef.T + self.intercept
        chosen = (logits[:, 0] > 0).astype(np.intp) if len(self.classes) == 2 else logits.argmax(axis=1)
        return [self.classes[index] for index in chosen]

    def save(self, folder: Path) -> None:
        """Write `head.safetensors` and `classifier.json`. The folder appears complete or not at all.

        Raises InputError where it exists already."""
        if folder.exists():
            raise InputError(Problem(str(folder), "exists already", "name a new folder: nothing is overwritten"))
        tensors = {"coef": np.ascontiguousarray(self.coef), "intercept": np.ascontiguousarray(self.intercept)}
        if self.ngrams is not None:
            tensors |= {"idf": self.ngrams.idf, "components": np.ascontiguousarray(self.ngrams.components)}
        about = {"format": 1, "classes": self.classes, "encoder": self.encoder, "encoder_sha256": self.encoder_sha256}
        about |= {"c": self.c, "truncated": self.truncated}

        def fill(aside: Path) -> None:
            require("safetensors.numpy", extra="train").save_file(tensors, aside / "head.safetensors")
            (aside / "classifier.json").write_text(json.dumps(about, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

        write_folder(folder, fill, replace=False)


def load(folder: Path) -> Fitted:
    """Read what `save` wrote.

    Raises InputError where a file is missing or damaged, or the installed encoder is not the one it was fitted on."""
    try:
        about = json.loads((folder / "classifier.json").read_text(encoding="utf-8"))
        tensors = require("safetensors.numpy", extra="train").load_file(folder / "head.safetensors")
        found = Fitted(
            tuple(about["classes"]),
            tensors["coef"],
            tensors["intercept"],
            about["encoder"],
            about["encoder_sha256"],
            float(about["c"]),
            int(about["truncated"]),
            CharNgrams(tensors["idf"], tensors["components"]) if about["encoder"] == NGRAMS else None,
        )
    except MissingExtra:
        raise
    except Exception as damage:  # safetensors raises a class of its own that need not be importable here
        raise InputError(Problem(str(folder), f"is no saved classifier: {damage}", "save it again with Fitted.save")) from damage
    if found.ngrams is None and encoder_hash(found.encoder) != found.encoder_sha256:
        raise InputError(Problem(str(folder), f'was fitted on another version of encoder "{found.encoder}"', "install that version, or fit again"))
    return found


def fit(train: Sequence[LabelRow], labels: Sequence[str], *, encoder: str = "minilm", c: float | None = None, folds: int = 5, seed: int = 0) -> Fitted:
    """Embed the training rows and fit the regression. `c` None chooses C by `folds`-fold cross-validated accuracy on these rows, the smaller on a tie;
    rows of one `group` stay in one fold. Deterministic for one seed.

    Raises InputError where the rows hold fewer than two classes, a label that is not declared, or a parameter is out of range."""
    problems = [Problem(row.id, f'label "{row.label}" is not declared', "declare it, or correct the row") for row in train if row.label not in set(labels)]
    if len({row.label for row in train}) < 2:
        problems.append(Problem("classifier", "the training rows hold fewer than two classes", "add rows of a second class: with one, majority is the answer"))
    if c is not None and not c > 0:
        problems.append(Problem("c", f"{c:g} is no regularisation strength", "c > 0, or leave it out to choose by cross-validation"))
    if folds < 2:
        problems.append(Problem("folds", f"{folds} folds leave nothing to hold out", "folds >= 2, 5 by default"))
    if problems:
        raise InputError(*problems)
    texts = [row.text for row in train]
    ngrams = char_ngrams.fit(texts, seed=seed) if encoder == NGRAMS else None
    vectors, cut = (ngrams.embed(texts), np.zeros(0, bool)) if ngrams is not None else embed(texts, encoder=encoder)
    targets = np.array([row.label for row in train])
    groups = [f"group {row.group}" if row.group is not None else f"row {position}" for position, row in enumerate(train)]
    strength = c if c is not None else choose_c(vectors, targets, groups, folds=folds, seed=seed)
    head = _regression(strength).fit(vectors, targets)
    known_by = encoder_hash(encoder) if ngrams is None else ""
    return Fitted(tuple(str(name) for name in head.classes_), head.coef_, head.intercept_, encoder, known_by, strength, int(cut.sum()), ngrams)


def choose_c(vectors: NDArray[np.float64], targets: NDArray[np.str_], groups: Sequence[str], *, folds: int, seed: int) -> float:
    """C with the best mean accuracy over stratified folds that keep each group whole; 1 when the rows are too few to fold."""
    folds = min(folds, max(Counter(targets.tolist()).values()), len(set(groups)))
    if folds < 2:
        return 1.0
    splitter = require("sklearn.model_selection", extra="classifier").StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # a rare class misses some folds: true, and harmless to the choice of C
        splits = [(fitted, held) for fitted, held in splitter.split(vectors, targets, groups) if len(held) and len(set(targets[fitted])) > 1]
    if not splits:
        return 1.0

    # Each fold climbs the strengths from the solution of the one before, to a looser tolerance: only the choice of C rests on it.
    right = np.zeros((len(splits), len(STRENGTHS)))
    for fold, (fitted, held) in enumerate(splits):
        head = _regression(STRENGTHS[0]).set_params(warm_start=True, tol=1e-3)
        for column, strength in enumerate(STRENGTHS):
            right[fold, column] = head.set_params(C=strength).fit(vectors[fitted], targets[fitted]).score(vectors[held], targets[held])
    return STRENGTHS[int(right.mean(axis=0).round(12).argmax())]  # the first of equals is the smallest


def _regression(strength: float) -> Any:
    return require("sklearn.linear_model", extra="classifier").LogisticRegression(C=strength, max_iter=2000)
