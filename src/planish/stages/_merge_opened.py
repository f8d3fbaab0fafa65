"""The parents of a merge opened and held against each other, tensor by tensor laid out: what cannot be merged is refused here, before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from planish.errors import InputError, Problem
from planish.model.merge_checks import Checked, examine
from planish.model.merge_sources import Checkpoint, Parent, open_parents, placed
from planish.model.merging import DTYPES, WITH_BASE, MergeSpec, Planned, lay_out
from planish.model.tensor_stream import Buffers


@dataclass
class Opened:
    """Parents by folder, and every tensor of the result with where it comes from and how it is stored (`layout`: name -> format, shape). `problems` are found while reading."""

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
        """The base, or the first parent: its configuration and tokenizer go with the result."""
        return self.base if self.base is not None else next(iter(self.parents.values()))


def open_for(spec: MergeSpec, out: Path, relative_to: Path) -> Opened:
    """`open_merge` for what is written to `out`. Raises InputError as it does, and for an `out` inside a parent."""
    opened = open_merge(spec, relative_to)
    if inside := [folder for folder in _folders(opened) if out.resolve().is_relative_to(folder.resolve())]:
        raise InputError(Problem(str(out), f"lies inside {inside[0]}, which is read and never changed", "give a folder elsewhere"))
    return opened


def open_merge(spec: MergeSpec, relative_to: Path) -> Opened:
    """The parents opened and held against each other, tensor by tensor laid out. Raises InputError with every problem."""
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
        stored = base.entries[one.base_name].dtype if base is not None and one.base_name in base.entries else entry.dtype
        layout[one.name] = (DTYPES[spec.dtype] if spec.dtype is not None else stored, entry.shape)
    return Opened(spec, base, by_path, planned, checks, layout)


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


def _folders(opened: Opened) -> list[Path]:
    return [*([] if opened.base is None else [opened.base.folder]), *(parent.folder for parent in opened.parents.values())]
