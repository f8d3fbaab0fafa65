"""Run yobro's checks over exported cases, in yobro's own environment: python drive_yobro.py CASES.json OUT.json.

Every check that `yobro check` knows for data, with near duplicates on; those that need a tokenizer with the case's, or a sound one.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")

from yobro import checks  # noqa: E402
from yobro.dataset import load  # noqa: E402
from yobro.errors import DataError  # noqa: E402
from yobro.model import ModelRef  # noqa: E402


def check(case: dict[str, Any], tokenizers: Path) -> dict[str, Any]:
    """The findings of one case. A row's id is `L` and its line."""
    try:
        rows = load(case["file"], name="rows")
        chosen = [checks.no_duplicates(near=True), checks.generated_share(0.5)]
        if case["gold"]:
            chosen.append(checks.no_overlap_with(load(case["gold"], name="gold"), near=True))
        model = ModelRef("model", str(tokenizers / case["template"]), max_length=case["max_length"] or 2048)
        chosen += [checks.template_matches(model, sample=1000), checks.truncation(model, model.max_length)]
        report = checks.run_checks(rows, chosen)
    except DataError as refused:
        number = re.search(r"(?:line|row) (\d+) of", str(refused))
        kind = "unknown_format" if "cannot tell what kind" in str(refused) else "load"
        return {"findings": [{"kind": kind, "lines": [int(number[1])] if number else None, "text": str(refused), "alarm": True}], "exit_codes": [1]}
    except Exception as crashed:
        return {"findings": [{"kind": "crash", "lines": None, "text": f"{type(crashed).__name__}: {crashed}", "alarm": True}], "exit_codes": [1]}
    findings = []
    for one in report.results:
        if one.status != "ok":
            lines = sorted({int(number[1]) for name in one.all_ids if (number := re.match(r"L(\d+)", name))})
            findings.append({"kind": one.check, "lines": lines or None, "text": f"{one.status}: {one.message}", "alarm": True})
    return {"findings": findings, "exit_codes": [0 if report.ok else 1]}


def main(cases: Path, out: Path) -> None:
    """Check every case and write what was said."""
    found = {case["name"]: check(case, cases.parent / "tokenizers") for case in json.loads(cases.read_text())}
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
