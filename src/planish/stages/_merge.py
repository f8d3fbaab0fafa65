"""One merge from configuration to folder: parents opened, checked, streamed tensor by tensor through the method, the change measured, the report beside the weights."""

from __future__ import annotations

import math
import resource
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from planish.errors import InputError, Problem, RunFailed
from planish.model.bundled import identity
from planish.model.merge_checks import Checked, as_config, examine
from planish.model.merge_sources import Checkpoint, Parent, open_parents, placed
from planish.model.mergekit_yaml import Untranslated
from planish.model.merging import DTYPES, WITH_BASE, MergeSpec, Planned, lay_out
from planish.model.safetensors_header import BYTES
from planish.model.tensor_stream import FLOATING, PIECE, SHARD, Buffers, Piece, Pieces, finite, write_tensors
from planish.progress import Progress, Silent
from planish.rows import canonical_json
from planish.shelf import call
from planish.stages._merge_report import REPORT, MergedParent, MergeForecast, MergeReport, options_of
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


@dataclass
class _Opened:
    spec: MergeSpec
    base: Checkpoint | None
    parents: dict[str, Parent]
    planned: list[Planned]
    checks: list[Checked]
    layout: dict[str, tuple[str, tuple[int, ...]]]
    problems: dict[tuple[str, str], Problem] = field(default_factory=dict)
    buffers: Buffers = field(default_factory=Buffers)

    @property
    def first(self) -> Parent:
        return self.base if self.base is not None else next(iter(self.parents.values()))


def forecast(spec: MergeSpec, relative_to: Path) -> MergeForecast:
    """Open and check the parents and say what the merge would take: time from one piece of the largest tensor, memory from the pieces held at once."""
    opened = _open(spec, relative_to)
    size = sum(math.prod(shape) * BYTES[dtype] for dtype, shape in opened.layout.values())
    largest = max(opened.planned, key=lambda one: math.prod(opened.layout[one.name][1]))
    values = math.prod(opened.layout[largest.name][1])
    sample = min(values, PIECE // 4)
    began = time.perf_counter()
    for _ in call("transforms", spec.technique, "stream", largest.options)(_pieces(opened, largest, limit=sample)):
        pass
    if opened.problems:
        raise InputError(*opened.problems.values())
    taken = time.perf_counter() - began
    total = sum(math.prod(shape) for _, shape in opened.layout.values())
    held = (2 * len(opened.parents) + 4) * min(values, PIECE) * 4
    return MergeForecast(method=spec.method, checks=opened.checks, tensors=len(opened.planned), bytes=size, memory=held, seconds=taken / max(1, sample) * total)


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
    opened = _open(spec, relative_to)
    if inside := [folder for folder in _folders(opened) if out.resolve().is_relative_to(folder.resolve())]:
        raise InputError(Problem(str(out), f"lies inside {inside[0]}, which is read and never changed", "give a folder elsewhere"))
    reports: list[MergeReport] = []
    shown = progress or Silent()

    def fill(partial: Path) -> None:
        with shown.bar(f"merge ({spec.method})", len(opened.planned)) as advance:
            changes = {name: _Change() for name in opened.layout}
            written = write_tensors(partial, opened.layout, _values(opened, changes, advance), shard, min(torch.get_num_threads(), WORKERS))
        if opened.problems:
            raise InputError(*opened.problems.values())
        change = _Change.of_all(changes.values())
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
    opened = _open(spec, relative_to)
    same = (known.method, known.options, known.parents) == (spec.method, options_of(spec), _parents(opened))
    return known if same else None


@dataclass
class _Change:
    """How far the result, as stored, is from the reference, over all tensors that both have."""

    values: int = 0
    changed: int = 0
    difference: float = 0.0
    length: float = 0.0

    def add(self, reference: Tensor, stored: Tensor, apart: Tensor) -> None:
        """`apart` is written over."""
        apart.copy_(stored).sub_(reference)
        self.values += apart.numel()
        self.changed += int(np.count_nonzero(apart.numpy() != 0))  # several times as fast as torch's
        self.difference += float(torch.dot(apart, apart))
        self.length += float(torch.dot(reference, reference))

    @classmethod
    def of_all(cls, parts: Iterable[_Change]) -> _Change:
        """Of several tensors."""
        return cls(*(sum(each) for each in zip(*((part.values, part.changed, part.difference, part.length) for part in parts), strict=True)))


def _open(spec: MergeSpec, relative_to: Path) -> _Opened:
    absent: list[Problem] = []
    found: dict[str, Path] = {}
    for path in dict.fromkeys([*([] if spec.base is None else [spec.base]), *spec.inputs]):
        try:
            found[path] = placed(path, relative_to)
        except InputError as refused:
            absent += refused.problems
    if absent:
        raise InputError(*absent)
    place = found.__getitem__
    _refuse_twice(spec, place)
    base, parents = open_parents(None if spec.base is None else place(spec.base), [place(path) for path in spec.inputs])
    # from here on a parent is known by its folder, so that two spellings of one path are one parent
    spec = _with_folders(spec, place)
    by_path = {str(parent.folder): parent for parent in parents}
    known: dict[str, Parent] = by_path if base is None else {str(base.folder): base, **by_path}
    planned = lay_out(spec, {path: list(parent.entries) for path, parent in known.items()}, {path: parent.layers for path, parent in known.items()})
    checks = examine(spec, planned, base, parents)
    layout = {}
    for one in planned:
        entry = by_path[one.sources[0]].entries[one.names[0]]
        stored = base.entries[one.name].dtype if base is not None and one.name in base.entries else entry.dtype
        layout[one.name] = (DTYPES[spec.dtype] if spec.dtype is not None else stored, entry.shape)
    return _Opened(spec, base, by_path, planned, checks, layout)


def _refuse_twice(spec: MergeSpec, place: Callable[[str], Path]) -> None:
    """Two spellings of one folder, or a link to it, are one model."""
    folders = [place(source.path).resolve() for source in spec.models]
    base = None if spec.base is None else place(spec.base).resolve()
    problems = []
    for source, folder in zip(spec.models, folders, strict=True):
        first = spec.models[folders.index(folder)]
        if first is not source:
            problems.append(Problem(f"merge.models: {source.path}", f"is the same folder as {first.path}", "give it once with its weight"))
        if folder == base and spec.technique in WITH_BASE:
            problems.append(Problem(f"merge.models: {source.path}", "is the base: its difference from itself is nothing", "leave it out of models"))
    if problems:
        raise InputError(*problems)


def _with_folders(spec: MergeSpec, place: Callable[[str], Path]) -> MergeSpec:
    def moved(sources: list[Any]) -> list[Any]:
        return [source.model_copy(update={"path": str(place(source.path))}) for source in sources]

    slices = [one.model_copy(update={"sources": moved(one.sources)}) for one in spec.slices]
    return spec.model_copy(update={"base": None if spec.base is None else str(place(spec.base)), "models": moved(spec.models), "slices": slices})


def _pieces(opened: _Opened, one: Planned, limit: int | None = None) -> Pieces:
    parents = [opened.parents[path] for path in one.sources]
    base = opened.base if opened.base is not None and one.name in opened.base.entries else None
    examined: set[int] = set()

    def read(start: int, stop: int) -> Piece:
        own = [opened.buffers.take(f"parent {at}", stop - start) for at in range(len(parents) + 1)]
        values = None if base is None else base.read(one.name, start, stop, into=own[-1])
        models = [parent.read(name, start, stop, values, into) for parent, name, into in zip(parents, one.names, own[:-1], strict=True)]
        if start not in examined:
            examined.add(start)
            everyone = [*([] if base is None or values is None else [(base.folder, one.name, values)])]
            everyone += [(parent.folder, name, model) for parent, name, model in zip(parents, one.names, models, strict=True)]
            for folder, name, model in everyone:
                if not finite(model):
                    why = Problem(f"{folder}: {name}", "holds NaN or infinite weights", "fetch or train this parent again")
                    opened.problems.setdefault((str(folder), name), why)
        return Piece(values, models)

    size = math.prod(opened.layout[one.name][1])
    return Pieces(one.name, size if limit is None else min(size, limit), len(parents), read)


def _values(opened: _Opened, changes: Mapping[str, _Change], advance: Callable[[int], None]) -> Callable[[str], Iterator[Tensor]]:
    by_name = {one.name: one for one in opened.planned}

    def values(name: str) -> Iterator[Tensor]:
        one, dtype = by_name[name], FLOATING[opened.layout[name][0]]
        pieces = _pieces(opened, one)
        for merged in call("transforms", opened.spec.technique, "stream", one.options)(pieces):
            if opened.problems:
                # what is made of such weights is thrown away; the rest is still read, so that every problem is named
                yield torch.zeros_like(merged)
                continue
            stored, read = merged.to(dtype), pieces.last
            assert read is not None
            changes[name].add(read.models[0] if read.base is None else read.base, stored, opened.buffers.take("apart", merged.numel()))
            yield stored
        advance(1)

    return values


def _refuse_nothing(spec: MergeSpec, change: _Change) -> None:
    if not spec.slices and spec.technique != "passthrough" and not change.changed:
        why = f"not one of {change.values} values differs from the reference as stored"
        raise RunFailed(Problem("merge", why, "raise lambda, the weights or the density, or write dtype: float32"), reason_code="stage_failed")


def _peak() -> int:
    """Bytes. From /proc where there is one: getrusage also remembers the process that this one was forked from."""
    status = Path("/proc/self/status")
    if status.is_file():
        return next(int(line.split()[1]) for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _folders(opened: _Opened) -> list[Path]:
    return [*([] if opened.base is None else [opened.base.folder]), *(parent.folder for parent in opened.parents.values())]


def _parents(opened: _Opened) -> list[MergedParent]:
    base = [] if opened.base is None else [MergedParent(name=opened.base.folder.name, identity=identity(opened.base.folder), role="base")]
    return base + [MergedParent(name=parent.folder.name, identity=identity(parent.folder), role="model") for parent in opened.parents.values()]
