"""What a merge says of itself: its parents by content, the checks that held, everything that the method was told, and how far the result moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from planish.model.merge_checks import Checked
from planish.model.merging import MergeSpec
from planish.rows import Noun
from planish.shelf import find

REPORT = "merge_report.json"


class MergedParent(Noun):
    """One parent: its folder's name and what its files hash to."""

    name: str
    identity: str
    role: str


class MergeReport(Noun):
    """What was merged. `changed` is the share of values that differ from the first reference as stored, `moved` the length of the difference over the reference's.

    `bytes` are the tensors' on disk; `peak` is the process's largest resident memory in bytes, everything it had loaded included. `verdict` (planish.evidence.merged) says
    which skill survived, where the parents name their tasks.
    """

    method: str
    parents: list[MergedParent]
    checks: list[Checked]
    options: dict[str, Any]
    tensors: int
    bytes: int
    changed: float
    moved: float
    peak: int
    seconds: float
    untranslated: list[dict[str, str]] = []
    verdict: dict[str, Any] | None = None


class MergeForecast(Noun):
    """A dry run: checks made, nothing written. Bytes are exact; memory and time are estimates."""

    method: str
    checks: list[Checked]
    tensors: int
    bytes: int
    memory: int
    seconds: float
    untranslated: list[dict[str, str]] = []
    kind: str = "estimated"


def options_of(spec: MergeSpec) -> dict[str, Any]:
    """Everything that the method was told, what it takes by default among it, parents by their folder's name; their tasks change no weight."""
    known = {name: default for name, (_, default) in find("transforms", spec.technique).keys.items() if default is not None and default is not ...}
    known |= {"ties": True} if spec.method == "dare_ties" else {}
    each = {name: known.pop(name) for name in ("weight", "density", "scale") if name in known}

    def told(sources: list[Any]) -> list[dict[str, Any]]:
        return [each | source.model_dump(mode="json", exclude_none=True, exclude={"task"}) | {"path": Path(source.path).name} for source in sources]

    plain = spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"base", "models", "slices", "method"})
    stacked = [one.model_dump(mode="json", exclude_none=True, exclude={"sources"}) | {"sources": told(one.sources)} for one in spec.slices]
    whole = {name.rstrip("_"): default for name, default in known.items()} | plain | {"models": told(spec.models)}
    return whole | ({"slices": stacked} if stacked else {})
