"""One merge from configuration to folder: parents opened, checked, streamed tensor by tensor through the method, the change measured, the report beside the weights."""

from __future__ import annotations

import math
import resource
import shutil
import time
from pathlib import Path

import torch

from planish.errors import InputError, Problem, RunFailed
from planish.model.bundled import identity
from planish.model.merge_checks import as_config
from planish.model.mergekit_yaml import Untranslated
from planish.model.merging import MergeSpec
from planish.model.safetensors_header import BYTES
from planish.model.tensor_stream import PIECE, SHARD, write_tensors
from planish.progress import Progress, Silent
from planish.rows import canonical_json
from planish.shelf import call
from planish.stages._merge_opened import Opened, open_for, open_merge
from planish.stages._merge_report import REPORT, MergedParent, MergeForecast, MergeReport, options_of
from planish.stages._merge_stream import Change, merged_values, pieces_of
from planish.store.objects import write_folder

CARRIED = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
"""What goes with the weights as it is."""
WORKERS = 8
"""Tensors merged at once, at most: each takes some ten pieces of memory."""


def forecast(spec: MergeSpec, relative_to: Path, untranslated: list[Untranslated] | None = None) -> MergeForecast:
    """Open and check the parents and say what the merge would take: time from one piece of the largest tensor, memory from the pieces held at once."""
    opened = open_merge(spec, relative_to)
    size = sum(math.prod(shape) * BYTES[dtype] for dtype, shape in opened.layout.values())
    largest = max(opened.planned, key=lambda one: math.prod(opened.layout[one.name][1]))
    values = math.prod(opened.layout[largest.name][1])
    sample = min(values, PIECE // 4)
    began = time.perf_counter()
    for _ in call("transforms", spec.technique, "stream", largest.options)(pieces_of(opened, largest, limit=sample)):
        pass
    if opened.problems:
        raise InputError(*opened.problems.values())
    taken = time.perf_counter() - began
    total = sum(math.prod(shape) for _, shape in opened.layout.values())
    held = (2 * len(opened.parents) + 4) * min(values, PIECE) * 4
    return MergeForecast(
        method=spec.method,
        checks=opened.checks,
        tensors=len(opened.planned),
        bytes=size,
        memory=held,
        seconds=taken / max(1, sample) * total,
        untranslated=[one._asdict() for one in untranslated or []],
    )


def merge_models(
    spec: MergeSpec, out: Path, *, relative_to: Path, untranslated: list[Untranslated] | None = None, progress: Progress | None = None, shard: int = SHARD
) -> MergeReport:
    """Write the merge to the new folder `out`; gives the report that lies in it. Paths in `spec` are relative to `relative_to`.

    Raises InputError, with every problem, for parents that do not fit together, weights that are not finite, and an `out` that exists; RunFailed on a full disk and
    where the result is what was put in. Nothing is left of a merge that failed.
    """
    if out.exists():
        raise InputError(Problem(str(out), "exists already", "give a new folder"))
    began = time.perf_counter()
    opened = open_for(spec, out, relative_to)
    reports: list[MergeReport] = []
    shown = progress or Silent()

    def fill(partial: Path) -> None:
        with shown.bar(f"merge ({spec.method})", len(opened.planned)) as advance:
            changes = {name: Change() for name in opened.layout}
            written = write_tensors(partial, opened.layout, merged_values(opened, changes, advance), shard, min(torch.get_num_threads(), WORKERS))
        if opened.problems:
            raise InputError(*opened.problems.values())
        change = Change.of_all(changes.values())
        _refuse_nothing(spec, change)
        for name in CARRIED:
            if (opened.first.folder / name).is_file():
                shutil.copyfile(opened.first.folder / name, partial / name)
        (partial / "config.json").write_text(canonical_json(as_config(spec, opened.first)) + "\n", encoding="utf-8")
        reports.append(
            MergeReport(
                method=spec.method,
                parents=_parents(opened),
                checks=opened.checks,
                options=options_of(spec),
                tensors=len(opened.planned),
                bytes=written,
                changed=change.changed / max(1, change.values),
                moved=math.sqrt(change.difference / change.length) if change.length else 0.0,
                peak=_peak(),
                seconds=time.perf_counter() - began,
                untranslated=[one._asdict() for one in untranslated or []],
            )
        )
        (partial / REPORT).write_text(canonical_json(reports[0].model_dump(mode="json")) + "\n", encoding="utf-8")

    write_folder(out, fill, replace=False)
    return reports[0]


def made_before(spec: MergeSpec, out: Path, relative_to: Path) -> MergeReport | None:
    """The report of `out` where it is this very merge of these very parents, by content; else None. Raises InputError as `forecast` does."""
    if not (out / REPORT).is_file():
        return None
    try:
        known = MergeReport.model_validate_json((out / REPORT).read_bytes())
    except ValueError:
        return None
    opened = open_merge(spec, relative_to)
    same = (known.method, known.options, known.parents) == (spec.method, options_of(spec), _parents(opened))
    return known if same else None


def _refuse_nothing(spec: MergeSpec, change: Change) -> None:
    if not spec.slices and spec.technique != "passthrough" and not change.changed:
        why = f"not one of {change.values} values differs from the reference as stored"
        raise RunFailed(Problem("merge", why, "raise lambda, the weights or the density, or write dtype: float32"), reason_code="stage_failed")


def _peak() -> int:
    """Bytes. From /proc where there is one: getrusage also remembers the process that this one was forked from."""
    status = Path("/proc/self/status")
    if status.is_file():
        return next(int(line.split()[1]) for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _parents(opened: Opened) -> list[MergedParent]:
    base = [] if opened.base is None else [MergedParent(name=opened.base.folder.name, identity=identity(opened.base.folder), role="base")]
    return base + [MergedParent(name=parent.folder.name, identity=identity(parent.folder), role="model") for parent in opened.parents.values()]
