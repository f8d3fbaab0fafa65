"""What the artifacts of one run say, read once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from planish.data import dataset
from planish.data.task import KINDS, METRICS, Task
from planish.scores import EvalReport, Verdict
from planish.stages._context import read_json, read_reports
from planish.store import Store


@dataclass(frozen=True)
class Findings:
    """What the artifacts of one run say."""

    run: dict[str, Any]
    stages: dict[str, dict[str, Any]]
    store: Store

    def folder(self, stage: str) -> Path | None:
        """A stage's artifact, when it has one."""
        artifact = self.stages.get(stage, {}).get("artifact")
        return self.store.path(artifact) if artifact else None

    def json(self, stage: str, name: str) -> Any:
        """A JSON file of a stage, or None."""
        folder = self.folder(stage)
        return read_json(folder / name) if folder is not None and (folder / name).is_file() else None

    def lines(self, stage: str, name: str) -> list[dict[str, Any]]:
        """A JSONL file of a stage; empty where there is none."""
        folder = self.folder(stage)
        if folder is None or not (folder / name).is_file():
            return []
        return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]

    @cached_property
    def verdict(self) -> Verdict | None:
        """The gate's word."""
        found = self.json("gate", "verdict.json")
        return Verdict.model_validate(found) if found else None

    @cached_property
    def baselines(self) -> dict[str, EvalReport]:
        """The cheaper systems."""
        folder = self.folder("baseline")
        return read_reports(folder) if folder else {}

    @cached_property
    def candidate(self) -> EvalReport | None:
        """The tuned model."""
        folder = self.folder("evaluate")
        return next(iter(read_reports(folder).values()), None) if folder else None

    @cached_property
    def general(self) -> tuple[EvalReport, EvalReport] | None:
        """General ability of the base and of the tuned model, where both were measured."""
        found = [self.json(stage, "general.json") for stage in ("baseline", "evaluate")]
        return (EvalReport.model_validate(found[0]), EvalReport.model_validate(found[1])) if all(found) else None

    @property
    def unproven(self) -> bool:
        """Whether a gate said no and later stages ran all the same."""
        return any(
            (self.json(stage, name) or {}).get("unproven", False) for stage, name in (("compress", "compress_report.json"), ("serve", "deployment.json"))
        )

    @cached_property
    def task(self) -> Task | None:
        """What the rows are for, where they were prepared."""
        folder = self.folder("prepare")
        return dataset.read(folder).task if folder is not None else None

    @cached_property
    def metric(self) -> str:
        """The metric by which the systems are ranked: that of the verdict's comparisons, else that of the recipe's first scorer, or of the task's."""
        if self.verdict is not None and self.verdict.comparisons:
            return self.verdict.comparisons[0].metric
        named = self.run["recipe"]["evaluate"]["scorers"]
        scorer = named[0]["name"] if named else KINDS[self.task.shape].scorers[0] if self.task is not None else ""
        return f"{scorer}.{METRICS[scorer][0]}" if scorer in METRICS else ""

    def systems(self) -> list[EvalReport]:
        """Every system that reports the metric, from cheap to dear, the tuned model last."""
        from planish.stages.baseline import COST_ORDER

        order = sorted(self.baselines.values(), key=lambda report: COST_ORDER.index(report.system) if report.system in COST_ORDER else len(COST_ORDER))
        return [report for report in (*order, *([self.candidate] if self.candidate else [])) if self.metric in report.metrics]


def gather(workspace: Path, run_id: str) -> Findings:
    """Everything of one run."""
    store = Store(workspace)
    run = store.run(run_id)
    return Findings(run, store.stages(run["id"]), store)
