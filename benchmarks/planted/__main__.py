"""Run planish over all cases and write the score: python -m benchmarks.planted. Exits 1 when a defect is not named exactly, or a clean set is not left alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.planted import readme
from benchmarks.planted.ask import ask
from benchmarks.planted.case import Case, Said, judge
from benchmarks.planted.suite import CASES, CLEAN, DEFECTS

from planish import __version__

RESULTS = Path(__file__).with_name("results.json")


def score(case: Case) -> dict[str, Any]:
    """What was said of a case, and how it compares with what had to be said."""
    try:
        said = ask(case)
    except Exception as crashed:  # a traceback is no answer to bad data: it is scored as one false alarm
        said = [Said("crash", None, f"{type(crashed).__name__}: {crashed}")]
    verdict = judge(case, said)
    return {
        "found": verdict.found,
        "code": verdict.code,
        "rows": verdict.rows,
        "right": verdict.right,
        "false_alarms": sorted({f"{one.code} {one.line or one.why}" for one in verdict.false_alarms}),
    }


def main() -> int:
    """Score every case, keep the result and print what is not right."""
    scores = {case.name: score(case) for case in CASES}
    RESULTS.write_text(json.dumps({"version": __version__, "cases": scores}, indent=1) + "\n")
    wrong = [name for name, one in scores.items() if not one["right"]]
    for name in wrong:
        one = scores[name]
        print(f"{name}: found {one['found']}, code {one['code']}, rows {one['rows']}, false alarms {one['false_alarms']}")
    for part in dict.fromkeys(case.part for case in CASES):
        cases = [case for case in CASES if case.part == part]
        print(f"{part:<12} {sum(scores[case.name]['right'] for case in cases):>3} of {len(cases)}")
    named, quiet = (sum(scores[case.name]["right"] for case in cases) for cases in (DEFECTS, CLEAN))
    print(f"{named} of {len(DEFECTS)} planted defects named with their rows; {len(CLEAN) - quiet} of {len(CLEAN)} clean sets raised a false alarm")
    readme.write()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
