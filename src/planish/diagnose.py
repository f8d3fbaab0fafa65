"""`planish diagnose`: a run's curve in words, one line of training and one of validation loss, and what to do next (MISSION T9)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from planish import shelf
from planish.errors import InputError, Problem
from planish.events import EventType, RunEvent
from planish.evidence.curve import Curve, Diagnosis, best
from planish.evidence.curve_doctor import diagnose
from planish.evidence.longer_answers import longer_answers
from planish.stages._context import read_reports
from planish.store import Store

WIDTH = 56
"""Columns of a line of loss: with its name and its ends it stays within 80."""
BLOCKS, ASCII = "▁▂▃▄▅▆▇█", "_.-=+*#@"
WORDS = {
    "healthy": "healthy",
    "too_early": "too early to say",
    "underfit": "under-fitting: it was still learning",
    "overfit": "over-fitting",
    "diverging": "diverging",
    "lr_too_high": "the learning rate is too high",
    "lr_too_low": "the learning rate is too low",
    "plateau": "a plateau: it stopped learning",
    "noisy_labels": "the labels look noisy",
    "bad_start": "a bad start",
    "zero_trained_tokens": "no token is trained",
    "saturated": "saturated: nothing is left to learn",
    "memorised": "memorised: the rows are known by heart",
    "loss_spike": "a loss spike",
    "not_learning": "not learning at all",
    "both_falling": "both answers of the pairs lose",
    "stuck_at_ln2": "the preference loss never left ln 2",
    "length_bias": "it learns that longer is better",
    "longer_answers": "its answers grew longer",
}
"""Each state in words."""


@dataclass(frozen=True)
class Examined:
    """A curve and what it shows, gravest first."""

    name: str
    curve: Curve
    found: list[Diagnosis]


def of(name: str, workspace: Path) -> list[Examined]:
    """The curves of a `metrics.jsonl`, of a folder that holds one, or of a run: one for each training entry, or the live one of a run that still trains.

    Raises InputError for a file that is no metrics.jsonl and for a run that has trained nothing.
    """
    path = Path(name)
    if path.is_file():
        return [_examined(name, read(path), _report(path.parent))]
    if (path / "metrics.jsonl").is_file():
        return [_examined(name, read(path / "metrics.jsonl"), _report(path))]
    if path.suffix == ".jsonl":
        raise InputError(Problem(name, "there is no such file", "give a run (planish runs) or a metrics.jsonl"))
    store = Store(workspace)
    row = store.run(name)
    artifact = store.stages(row["id"]).get("train", {}).get("artifact")
    if artifact is not None:
        folder = store.path(artifact)
        entries = sorted(folder.glob("entries/*/metrics.jsonl"), key=lambda one: int(one.parent.name)) or [folder / "metrics.jsonl"]
        found = [_examined(f"{row['id']} train[{number}]", read(file), _report(file.parent)) for number, file in enumerate(entries)]
        return [*found[:-1], _with_answers(found[-1], row, store)]
    points, planned = _live(store.events(row["id"]))
    if not points:
        raise InputError(Problem(row["id"], "has trained nothing yet", "planish show says what it did"))
    return [_examined(f"{row['id']} (still training)", points, planned)]


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl. A last line that is torn, as a kill leaves it, is left out; any other that is not a step is an error with its line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found, problems = [], []
    for number, line in enumerate(lines, 1):
        try:
            step = json.loads(line)
            found.append({"step": int(step["step"]), "loss": float(step["loss"]), **{key: step.get(key) for key in _USED}})
        except (ValueError, KeyError, TypeError):
            if number < len(lines) or line.endswith("}"):
                problems.append(Problem(f"{path}:{number}", "is no step: it needs step and loss", "give the metrics.jsonl that training writes"))
    if problems or not found:
        raise InputError(*(problems or [Problem(str(path), "holds no step", "give the metrics.jsonl that training writes")]))
    return found


_USED = ("grad_norm", "learning_rate", "validation_loss", "skipped", "metrics", "validation_metrics")


def _live(events: Sequence[RunEvent]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Points of the last entry that has begun, and its plan: where step numbers fall back, another has, or a resumed run computes again."""
    points: list[dict[str, Any]] = []
    planned: dict[str, Any] = {}
    waiting: dict[str, Any] = {}
    for event in events:
        if event.type == EventType.TRAIN_PLANNED:
            waiting = event.body
        elif event.type == EventType.TRAIN_CURVE:
            planned = waiting
            for point in event.body["points"]:
                points = [one for one in points if one["step"] < point["step"]] + [point]
    return points, planned


def _report(folder: Path) -> dict[str, Any]:
    """`report.json` beside a curve, which knows what the curve does not; nothing where there is none."""
    path = folder / "report.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _with_answers(one: Examined, row: dict[str, Any], store: Store) -> Examined:
    """With what the answers to gold say, where it learnt from preferences and both the base and the tuned model wrote some."""
    if not _prefers(row["recipe"]["train"][-1]["objective"]["name"]):
        return one
    reports = []
    for stage, system in (("evaluate", None), ("baseline", "prompt")):
        artifact = store.stages(row["id"]).get(stage, {}).get("artifact")
        made = read_reports(store.path(artifact)) if artifact is not None else {}
        reports.append(made.get(system or next(iter(made), "")))
    tuned, base = reports
    grown = longer_answers(tuned, base, one.curve.steps[0]) if tuned is not None and base is not None else None
    return one if grown is None else replace(one, found=[*(state for state in one.found if state.state != "healthy"), grown])


def _prefers(objective: str) -> bool:
    """Whether an objective has a word of its own on a run's figures: those that learn from preferences."""
    return hasattr(shelf.find("objectives", objective).load(), "diagnose")


def _preferences(points: Sequence[dict[str, Any]], objective: str | None) -> list[Diagnosis]:
    """What the objective says of its own figures, where something is to be done; nothing of a curve that has none."""
    if objective is None or not _prefers(objective) or not all(isinstance(point["metrics"], dict) and point["metrics"] for point in points):
        return []
    history = [{"loss": point["loss"], **point["metrics"]} for point in points]
    checks = [{"step": point["step"], **point["validation_metrics"]} for point in points if point["validation_metrics"]]
    return [Diagnosis(*state) for state in shelf.find("objectives", objective).load().diagnose(history, checks) if state.fix and state.state != "too_early"]


def _known(told: dict[str, Any], last: int) -> dict[str, Any]:
    """What a report, or the plan of a run that still trains, says beside a curve of `last` steps."""
    known: dict[str, Any] = {key: told.get(key) for key in ("weight_change", "trained_tokens", "chance")}
    if "plan" in told:
        known["epochs"] = last / math.ceil(told["plan"]["rows"] / told["plan"]["batch_size"])
    if "adapter" in told and "objective" in told:
        from planish.stages._ready import usual_rate

        known["usual_rate"] = usual_rate(shelf.find("objectives", told["objective"]["name"]).load(), told["adapter"]["name"])
    return known


def _examined(name: str, points: Sequence[dict[str, Any]], told: dict[str, Any]) -> Examined:
    curve = Curve(
        [point["step"] for point in points],
        [point["loss"] for point in points],
        grad_norm=_series(points, "grad_norm"),
        learning_rate=_series(points, "learning_rate"),
        validation=[(point["step"], point["validation_loss"]) for point in points if point["validation_loss"] is not None],
        skipped=[point["step"] for point in points if point["skipped"]],
        **_known(told, points[-1]["step"]),
    )
    own = _preferences(points, told.get("objective", {}).get("name"))
    return Examined(name, curve, [*(one for one in diagnose(curve) if not own or one.state != "healthy"), *own])


def _series(points: Sequence[dict[str, Any]], key: str) -> list[float]:
    return [float(point[key]) for point in points] if all(point[key] is not None for point in points) else []


def spark(points: Sequence[tuple[int, float]], first: int, last: int, width: int = WIDTH, *, plain: bool = False) -> str:
    """Losses by step as one line: the mean of each column on eight levels between the lowest and the highest; a space where there is none, ! where one is not finite."""
    columns: list[list[float]] = [[] for _ in range(min(width, last - first + 1))]
    for step, loss in points:
        columns[(step - first) * len(columns) // (last - first + 1)].append(loss)
    means = [sum(column) / len(column) if column else None for column in columns]
    finite = [mean for mean in means if mean is not None and math.isfinite(mean)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    marks = ASCII if plain else BLOCKS

    def mark(mean: float | None) -> str:
        if mean is None:
            return " "
        return marks[min(7, int(8 * (mean - low) / (high - low)))] if math.isfinite(mean) and high > low else marks[0] if math.isfinite(mean) else "!"

    return "".join(map(mark, means))


def text(examined: Sequence[Examined], *, plain: bool = False) -> str:
    """Words, the two lines, and the next action, each curve within 80 columns but for the evidence."""
    return "\n\n".join(_text(one, plain) for one in examined)


def _text(one: Examined, plain: bool) -> str:
    curve = one.curve
    first, last = curve.steps[0], curve.steps[-1]
    train = list(zip(curve.steps, curve.loss, strict=True))
    lines = [f"{one.name}: {len(curve.steps)} steps, {len(curve.validation)} validations", _line("train", train, first, last, plain)]
    if curve.validation:
        lines.append(_line("valid", curve.validation, first, last, plain))
        lines.append(f"      best validation {best(curve)[1]:.4g} at step {best(curve)[0]}")
    for found in one.found:
        lines.append(f"{WORDS[found.state]}, since step {found.since_step}")
        lines.append(f"  evidence: {found.evidence}")
        lines.append(f"  next: {found.fix}")
    return "\n".join(lines)


def _line(name: str, points: Sequence[tuple[int, float]], first: int, last: int, plain: bool) -> str:
    return f"{name} {spark(points, first, last, plain=plain)} {points[0][1]:.3g} > {points[-1][1]:.3g}"


def as_json(examined: Sequence[Examined]) -> list[dict[str, Any]]:
    """The same for a program."""
    return [
        {
            "name": one.name,
            "steps": len(one.curve.steps),
            "validations": len(one.curve.validation),
            "best": dict(zip(("step", "loss"), best(one.curve), strict=True)) if one.curve.validation else None,
            "diagnosis": [vars(found) for found in one.found],
        }
        for one in examined
    ]
