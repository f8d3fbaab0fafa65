"""A run for people: tables in the terminal, one HTML page and the same in Markdown. Every number is read from the run's own files; a missing section says so (MISSION X7)."""

from __future__ import annotations

from pathlib import Path

from planish.report.findings import Findings, gather
from planish.report.page import html_page, markdown_page
from planish.report.terminal import show
from planish.store.objects import write_atomic

__all__ = ["Findings", "gather", "show", "write"]


def write(workspace: Path, run_id: str) -> Path:
    """`reports/<run>.html`, one file without network or script, and `reports/<run>.md` beside it. Gives the path of the page."""
    found = gather(workspace, run_id)
    path = workspace / "reports" / f"{found.run['id']}.html"
    write_atomic(path, html_page(found).encode())
    write_atomic(path.with_suffix(".md"), markdown_page(found).encode())
    return path
