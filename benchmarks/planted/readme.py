"""The score tables of README.md, written between its markers from results.json and rivals.json."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.planted.case import Case
from benchmarks.planted.suite import CASES, CLEAN, DEFECTS

HERE = Path(__file__).parent
BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"
_ORDER = ("named", "counted", "refused", "crashed", "missed", "no check", "no format")


def write() -> str:
    """Write the tables into README.md and give back the totals."""
    page = HERE / "README.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{tables()}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    return _totals(*_results())


def tables() -> str:
    """Totals per tool, then one line per case."""
    own, rivals = _results()
    return "\n\n".join([_totals(own, rivals), _explained(), _every(own, rivals)])


def _results() -> tuple[dict[str, Any], dict[str, Any]]:
    own, rivals = HERE / "results.json", HERE / "rivals.json"
    return json.loads(own.read_text()), json.loads(rivals.read_text()) if rivals.exists() else {}


def _explained() -> str:
    return (
        "*named*: a fitting check gives every planted row (or, of a defect of the whole set, says it). *counted*: a fitting check says that there is such a defect, "
        "not where. *refused*: the input is turned down for a reason that is not the defect. *no check*: the tool has none of that kind. "
        "*no format*: it does not read such files or rows."
    )


def _own(case: Case, own: dict[str, Any]) -> str:
    verdict = own["cases"][case.name]
    if case.clean:
        return "quiet" if verdict["right"] else "false alarm"
    return "named" if verdict["right"] else "not exactly" if verdict["found"] else "missed"


def _totals(own: dict[str, Any], rivals: dict[str, Any]) -> str:
    """One line per tool: what became of the defects, and false alarms on the clean sets."""
    lines = [
        f"| tool | {' | '.join(_ORDER)} | false alarms on clean sets |",
        "|---|" + "---|" * (len(_ORDER) + 1),
    ]
    mine = Counter(_own(case, own) for case in DEFECTS)
    quiet = sum(_own(case, own) == "quiet" for case in CLEAN)
    lost = mine["missed"] + mine["not exactly"]
    lines.append(f"| planish {own['version']} | {mine['named']} | 0 | 0 | 0 | {lost} | 0 | 0 | {len(CLEAN) - quiet} of {len(CLEAN)} |")
    for name, result in sorted(rivals.items()):
        known = result["cases"]
        counts = Counter(known[case.name]["outcome"] for case in DEFECTS if case.name in known)
        read = [case for case in CLEAN if case.name in known and known[case.name]["outcome"] != "no format"]
        alarms = sum(known[case.name]["outcome"] == "false alarm" for case in read)
        lines.append(f"| {name} {result['version']} | {' | '.join(str(counts[outcome]) for outcome in _ORDER)} | {alarms} of {len(read)} |")
    return "\n".join(lines)


def _every(own: dict[str, Any], rivals: dict[str, Any]) -> str:
    """One line per case."""
    names = sorted(rivals)
    lines = [f"| case | what is wrong | must be said | planish | {' | '.join(names)}{' | ' if names else ''}", "|---|---|---|---|" + "---|" * len(names)]
    for case in CASES:
        wanted = "; ".join(f"{one.code}{' ' + _lines(one.lines) if one.lines else ''}" for one in case.expected) or "nothing"
        cells = [rivals[name]["cases"].get(case.name, {"outcome": "not run"})["outcome"] for name in names]
        lines.append(f"| {case.name} | {case.what.replace('|', '/')} | {wanted} | {_own(case, own)} | {' | '.join(cells)}{' | ' if cells else ''}")
    return "\n".join(lines)


def _lines(lines: tuple[int, ...]) -> str:
    """Line numbers, runs of them shortened."""
    if len(lines) > 4 and lines == tuple(range(lines[0], lines[-1] + 1)):
        return f"{lines[0]}-{lines[-1]}"
    return ", ".join(map(str, lines))
