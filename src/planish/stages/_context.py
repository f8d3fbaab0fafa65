"""What a stage is given: the recipe, the store, the run it belongs to, and the means to say what it does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from planish.events import EventType, ReasonCode
from planish.progress import Progress
from planish.recipe import Recipe
from planish.scores import EvalReport
from planish.store import Store

Inputs = dict[str, Path]
"""The artifact folders of the stages that a stage needs, by stage name."""


@dataclass(frozen=True)
class Context:
    """`work` is a folder that outlives an interruption of this very stage with these very inputs."""

    recipe: Recipe
    store: Store
    run_id: str
    stage: str
    work: Path
    progress: Progress
    unproven: bool = False

    def event(
        self,
        type: EventType,
        body: dict[str, Any] | None = None,
        *,
        severity: Literal["info", "warning", "error"] = "info",
        reason_code: ReasonCode | None = None,
    ) -> None:
        """Append to the run's events."""
        self.store.event(self.run_id, type, self.stage, body, severity=severity, reason_code=reason_code)


class Stage(Protocol):
    """A box of the flow: one module of `planish.stages`. It may also have `preflight(recipe, store)`, which refuses before anything runs; `still_true(context, folder)`, whether
    a result that is known still holds; and `agree(recipe, folder)`, which refuses a recipe that a known result cannot serve."""

    NEEDS: tuple[str, ...]  # the stages whose artifacts it reads

    def options(self, recipe: Recipe) -> dict[str, Any]:
        """Everything outside its inputs that its result depends on; together they are its cache key."""

    def run(self, context: Context, inputs: Inputs, folder: Path) -> None:
        """Fill `folder`. Nothing upstream is written to."""


def write_json(path: Path, value: Any) -> None:
    """Readable JSON, the same bytes for the same value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The value in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_report(folder: Path, report: EvalReport) -> None:
    """`reports/<system>.json`."""
    write_json(folder / "reports" / f"{report.system}.json", report.model_dump(mode="json"))


def read_reports(folder: Path) -> dict[str, EvalReport]:
    """Every report of a stage by system."""
    found = [EvalReport.model_validate(read_json(path)) for path in sorted((folder / "reports").rglob("*.json"))]
    return {report.system: report for report in found}
