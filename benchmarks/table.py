"""Write benchmarks/README.md from the kept reports. Run: python benchmarks/table.py; a test compares the page with the reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HEAD = """# Benchmarks

One script per claim. Each asserts parity first (loss and gradient to 1e-5 in fp32, or nothing is timed), counts the work of each side, then times both sides in turn in
one process. A figure is the median of paired ratios with its 95 % bootstrap interval; the limit is what arithmetic allows. A report measured while others used more
than a tenth of the machine is not kept. `python benchmarks/<name>.py` writes `results/<name>.json`; `--quick` only shows that it runs; `--device cuda` for a GPU.

This page is written from the reports: `python benchmarks/table.py`.
"""


def line(finding: dict[str, Any]) -> str:
    """One bar as a row of the table."""
    value, sign = finding["value"], "<=" if finding["at_most"] else ">="
    spread = f"{value['median']:.3g}" if value["pairs"] == 1 else f"{value['median']:.3g} [{value['low']:.3g}, {value['high']:.3g}], n={value['pairs']}"
    limit = "" if finding["limit"] is None else f"{finding['limit']:.3g} ({finding['limit_is']})"
    return f"| {finding['case']} | {finding['peer']} | {finding['unit']} | {sign} {finding['bar']:g} | {spread} | {limit} | {finding['verdict']} |"


def section(report: dict[str, Any]) -> str:
    """One report: claim, machine, bars, counters, parity, notes."""
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    parts = [f"## {report['name']}", "", report["claim"], "", f"{report['machine']}; {versions}; others used {report['foreign']:.1%} of the machine.", ""]
    parts += ["| case | against | figure | bar | measured | limit | verdict |", "|---|---|---|---|---|---|---|", *map(line, report["findings"]), ""]
    parts += [f"- {case}, parity: " + ", ".join(f"{name} {value:.1e}" for name, value in found.items()) for case, found in report["parity"].items()]
    for case, sides in report["work"].items():
        parts += [f"- {case}, {side}: " + ", ".join(f"{name} {value:,.4g}" for name, value in counters.items()) for side, counters in sides.items()]
    parts += [f"- {note}" for note in report["notes"]]
    return "\n".join(parts) + "\n"


def page() -> str:
    """The whole page, reports in the order of their names."""
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((HERE / "results").glob("*.json"))]
    return "\n".join([HEAD, *(section(report) for report in reports if "findings" in report)])


if __name__ == "__main__":
    (HERE / "README.md").write_text(page(), encoding="utf-8")
