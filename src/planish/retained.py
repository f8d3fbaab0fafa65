"""What a student kept of its teacher, out of report files or of runs of a workspace: the verdict, and the same by slice (MISSION S5)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from planish.errors import InputError, Problem, did_you_mean
from planish.evidence.distilled import TARGET, Distilled, distilled
from planish.evidence.retained_slices import SliceKept
from planish.evidence.slices import Cuts
from planish.model import bundled
from planish.scores import EvalReport
from planish.stages._context import read_reports
from planish.stages._gold import Gold, read_gold
from planish.stages._losses import cuts
from planish.store import Store

SHOWN = 20


class Answered(NamedTuple):
    """One system's answers to the gold set. Of a run also its prepared data, the bytes of its weights, and its curve and last objective where it was trained."""

    report: EvalReport
    gold: Gold | None = None
    prepared: Path | None = None
    bytes: int | None = None
    curve: Path | None = None
    objective: str | None = None


def judge(student: str, teacher: str, control: str, metric: str, *, target: float = TARGET, curve: Path | None = None, workspace: Path) -> Distilled:
    """The verdict on three systems, each a report file, a run (its tuned model), or `RUN:SYSTEM` (one of its baselines).

    Slices are those of the student's run; of report files alone, the labels. Raises InputError for a name that is neither, and as `distilled` does.
    """
    found, problems = [], list[Problem]()
    for name in (student, teacher, control):
        try:
            found.append(answered(name, workspace))
        except InputError as refused:
            problems += refused.problems
    if problems:
        raise InputError(*dict.fromkeys(problems))
    ours, theirs, plain = found
    groups, cut = _slices(ours)
    path = curve or ours.curve
    lines = [] if path is None else _curve(path)
    sizes = (ours.bytes, theirs.bytes) if ours.bytes and theirs.bytes else None
    named = plain.report if plain.report.system != ours.report.system else plain.report.model_copy(update={"system": plain.objective or control})
    return distilled(ours.report, theirs.report, named, metric, target=target, groups=groups, cuts=cut, sizes=sizes, curve=lines)


def _curve(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl. Raises InputError naming what cannot be read."""
    fix = "give the metrics.jsonl that training writes"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as why:
        raise InputError(Problem(f"--curve {path}", f"cannot be read: {why}", fix)) from why
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(json.loads(line))
        except ValueError:
            found.append(None)
        if not isinstance(found[-1], dict) or not isinstance(found[-1].get("metrics", {}), dict):
            raise InputError(Problem(f"--curve {path}:{number}", "is no step of a training curve", fix))
    return found


def answered(name: str, workspace: Path) -> Answered:
    """The report in a file, or of a run; the reading of a run's gold set is an event of that run. Raises InputError where there is none."""
    if Path(name).is_file():
        try:
            return Answered(EvalReport.model_validate_json(Path(name).read_bytes()))
        except ValueError as why:
            raise InputError(Problem(name, "is no report of an evaluation", "give a file of reports/ of the evaluate stage")) from why
    if not workspace.is_dir():
        raise InputError(Problem(name, f"is no file, and there are no runs in {workspace}", "give a report file, or the workspace of the run"))
    store = Store(workspace)
    run_id, _, system = name.partition(":")
    row = store.run(run_id)
    folders = {stage: store.path(one["artifact"]) for stage, one in store.stages(row["id"]).items() if one["artifact"]}
    tuned = read_reports(folders["evaluate"]) if "evaluate" in folders else {}
    reports = (read_reports(folders["baseline"]) if "baseline" in folders else {}) | tuned
    system = system or next(iter(tuned), "")
    if system not in reports:
        what = f'scored no "{system}"' if system else "has no tuned model"
        fix = f"name one of its systems: {row['id']}:{next(iter(reports))}; {did_you_mean(system, reports)}" if reports else "run it as far as its baselines"
        raise InputError(Problem(name, what, fix))
    gold = read_gold(store, row["id"], "evaluate", folders["prepare"])
    is_tuned = system in tuned
    curve = folders["train"] / "metrics.jsonl" if is_tuned else None
    size = _bytes(row["recipe"]["model"], workspace, folders["train"] if is_tuned else None)
    return Answered(reports[system], gold, folders["prepare"], size, curve, row["recipe"]["train"][-1]["objective"]["name"] if is_tuned else None)


def text(found: Distilled) -> str:
    """What a person reads: the verdict, what the student costs beside its teacher, and the slices with the least kept first."""
    interval = "" if found.retained.low is None or found.retained.high is None else f" [{found.retained.low:.3f}, {found.retained.high:.3f}]"
    said = [f"{'ship' if found.ship else 'do not ship'}: {found.metric} keeps {found.retained.value:.3f}{interval} of the teacher; {found.why}"]
    ratios = {"bytes of weights": found.size_ratio, "time for the gold set": found.seconds_ratio}
    if costs := [f"{name} {value:.2f}" for name, value in ratios.items() if value is not None]:
        said.append(f"  student / teacher: {', '.join(costs)}")
    if found.decoding_unknown:
        said.append(f"  not compared: whether they were decoded alike; not known of {', '.join(found.decoding_unknown)}")
    if found.slices is not None and found.slices.slices:
        kept = found.slices
        said.append(f"  by slice, {kept.metric}: the least kept first; short: proven below {kept.target:.0%}, over all {kept.tested} slices tested (Holm)")
        said += [f"    {one.said}{_mark(one)}" for one in kept.slices[:SHOWN]]
        if len(kept.slices) > SHOWN:
            said.append(f"    and {len(kept.slices) - SHOWN} more (--json)")
    return "\n".join(said)


def _mark(one: SliceKept) -> str:
    if one.retained is None:
        return f": {one.undefined}"
    return " short" if one.short else " few rows" if one.thin else ""


def _slices(one: Answered) -> tuple[dict[str, str] | None, Cuts]:
    """The clusters and cuts of the gold rows."""
    if one.gold is None or one.prepared is None:
        return None, {"label": {score.id: score.target for score in one.report.scores}}
    return dict(one.gold.groups) if one.gold.groups else None, cuts(one.gold, one.prepared)


def _bytes(model: str, workspace: Path, trained: Path | None) -> int | None:
    """Of the weights that answer: the whole model that was trained, or the base with its adapter; None where the base is not to be found: a folder is looked for
    beside the workspace."""
    if trained is not None and (trained / "model").is_dir():
        return _size(trained / "model")
    try:
        base = bundled.locate(model, workspace.resolve().parent)
    except InputError:
        return None
    return _size(base) + (_size(trained / "adapter") if trained is not None else 0)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
