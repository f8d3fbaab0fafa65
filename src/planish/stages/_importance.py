"""Importance of a model's units by several methods side by side, how far they agree, and the table that is kept (MISSION Z8)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from planish.errors import InputError, Problem, did_you_mean
from planish.lazy import require
from planish.model import gram_pass, importance
from planish.model.cut_folder import Source
from planish.model.importance import Scores
from planish.model.load import load
from planish.progress import Progress

BY_TEXT = ("gradient", "hessian", "activation", "obs", "influence")
METHODS = ("magnitude", *BY_TEXT, "ablation")
KINDS_OF = {"influence": ("layers",)}
"""Kinds a method scores; all where it is not named."""


class Agreement(NamedTuple):
    """Spearman's rank correlation of two methods over n units of one kind."""

    kind: str
    one: str
    other: str
    rho: float
    n: int


def check(by: str, kinds: Sequence[str], has_text: bool) -> None:
    """Raises InputError for an unknown method, one without its text, and one that does not score a kind that is to be removed."""
    if by not in METHODS:
        raise InputError(Problem("by", f'unknown importance "{by}"', did_you_mean(by, METHODS)))
    if by != "magnitude" and not has_text:
        raise InputError(Problem("by", f"{by} is measured on text, and there is none", "name a recipe whose training rows are read: --recipe recipe.yaml"))
    missing = [kind for kind in kinds if kind not in KINDS_OF.get(by, kinds)]
    if missing:
        raise InputError(Problem("by", f"{by} scores layers, not {', '.join(missing)}", "choose gradient, hessian, activation or obs"))


def measure(
    source: Source, sequences: Sequence[Sequence[int]], kinds: Sequence[str], progress: Progress, *, by: str = "magnitude", compare: bool = False
) -> dict[str, Scores]:
    """Magnitude and the method `by`; with `compare` every method that the text allows, but ablation, which takes a pass of all text for every unit, only as `by`.

    The text is training or validation rows: `calibration_text.sequences` reads no gold (R-4). Raises InputError as `check`.
    """
    check(by, kinds, bool(sequences))
    found = {"magnitude": importance.by_magnitude(source)}
    wanted = {by, *(BY_TEXT if compare and sequences else ())}
    if wanted == {"magnitude"}:
        return found
    model, units = load(source.folder, "fp32"), source.units
    if wanted & {"activation", "obs"}:
        with progress.bar("importance: inputs", len(sequences)) as advance:
            grams = gram_pass.collect(model, sequences, only=lambda name: name.endswith(("self_attn.o_proj", "mlp.down_proj")), advance=advance)
        found |= importance.by_inputs(model, units, grams)
    if wanted & {"gradient", "hessian"}:
        with progress.bar("importance: gradients", len(sequences)) as advance:
            found |= importance.by_gradient(model, units, sequences, advance)
    if "influence" in wanted:
        found["influence"] = importance.by_influence(model, sequences)
    if by == "ablation":
        each = {"layers": 1, "heads": units.groups, "channels": units.channels}
        with progress.bar("importance: ablation", units.layers * sum(each[kind] for kind in kinds)) as advance:
            found["ablation"] = importance.by_ablation(model, units, sequences, kinds, advance)
    return found


def agreement(found: Mapping[str, Scores]) -> list[Agreement]:
    """Every pair of methods on every kind that both score. A method that scores all units alike agrees with none: rho is 0."""
    import numpy as np
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    pairs = []
    for one, other in combinations(found, 2):
        for kind in ("layers", "heads", "channels"):
            if kind in found[one] and kind in found[other]:
                ranks = [rankdata(found[name][kind].flatten().numpy()) for name in (one, other)]
                n = len(ranks[0])
                flat = any(np.ptp(rank) == 0 for rank in ranks)
                pairs.append(Agreement(kind, one, other, 0.0 if flat else float(np.corrcoef(*ranks)[0, 1]), n))
    return pairs


def write(found: Mapping[str, Scores], folder: Path) -> Path:
    """`importance.parquet`, or importance.json without pyarrow: kind, layer, unit, method, score."""
    rows = [
        {"kind": kind, "layer": layer, "unit": unit, "method": method, "score": score}
        for method, scores in found.items()
        for kind, values in scores.items()
        for layer, units in enumerate(values.reshape(len(values), -1).tolist())
        for unit, score in enumerate(units)
    ]
    if find_spec("pyarrow") is None:
        path = folder / "importance.json"
        path.write_text(json.dumps(rows) + "\n", encoding="utf-8")
        return path
    arrow: Any = require("pyarrow", extra="parquet")
    require("pyarrow.parquet", extra="parquet").write_table(arrow.Table.from_pylist(rows), folder / "importance.parquet")
    return folder / "importance.parquet"
