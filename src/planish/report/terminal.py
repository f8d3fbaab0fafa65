"""A run in a terminal: the ladder, the verdict, what was made."""

from __future__ import annotations

from pathlib import Path

from planish.events import STAGES
from planish.report import package, sections
from planish.report.findings import Findings, gather

COLUMNS = 5
"""Seconds stand on the page; a terminal of 80 columns has no room for them."""


def show(workspace: Path, run_id: str) -> None:
    """Print a run: stages, ladder, verdict, package, endpoint."""
    from rich.console import Console
    from rich.table import Table

    found = gather(workspace, run_id)
    out = Console(highlight=False, markup=False)
    out.print(f"\n{found.run['id']}  {found.run['status']}" + ("  UNPROVEN: the gate said no" if found.unproven else ""))
    ladder = sections.ladder_table(found)
    if ladder is not None:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for index, column in enumerate(ladder.header[:COLUMNS]):
            table.add_column(column, justify="right" if index == 1 else "left", no_wrap=True)
        for row in ladder.rows:
            table.add_row(*row[:COLUMNS])
        out.print(table)
    for said in _lines(found):
        out.print(said, soft_wrap="/" in said)  # a path is never broken
    out.print(seconds_line(found))


def _lines(found: Findings) -> list[str]:
    said = [f"{report.system}: {report.details['seeds']}" for report in found.baselines.values() if "seeds" in report.details]
    said += sections.answer_faults(found)
    if found.candidate:
        said += sections.stage_lines(found) + sections.general_lines(found)
    if found.verdict:
        said.append(f"verdict: {found.verdict.decision}. {found.verdict.sentence}")
        if found.verdict.ship == "classifier" and (folder := found.folder("baseline")):
            said.append(f"the classifier to ship: {folder / 'classifier'}")
    shown = (("compress", package.package_lines), ("serve", package.answer_lines), ("observe", package.drift_lines), ("feedback", package.feedback_lines))
    return said + [line for stage, lines in shown if found.folder(stage) for line in lines(found)]


def seconds_line(found: Findings) -> str:
    """Seconds per stage."""
    parts = [f"{stage} {row['seconds']:.0f}" if row["status"] == "done" else f"{stage} {row['status']}" for stage in STAGES if (row := found.stages.get(stage))]
    return "seconds: " + ", ".join(parts)
