"""Run forgelm's audit over exported cases, in forgelm's own environment: python drive_forgelm.py CASES.json OUT.json.

`forgelm audit` with both near-duplicate methods and the quality filter; with gold as the test split where there is one. Its report counts and names no row,
but for the line of a record it cannot parse, which it logs.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")

from forgelm.cli import main as forgelm  # noqa: E402


class Lines(logging.Handler):
    """Keeps what was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def audit(source: Path, out: Path, method: str) -> tuple[int, dict[str, Any], list[str]]:
    """Exit code, report and log of one audit."""
    shutil.rmtree(out, ignore_errors=True)
    kept = Lines()
    logging.getLogger("forgelm").addHandler(kept)
    sys.argv = [
        "forgelm",
        "audit",
        str(source),
        "--output",
        str(out),
        "--dedup-method",
        method,
        "--jaccard-threshold",
        "0.8",
        "--output-format",
        "json",
        "--verbose",
    ]
    try:
        forgelm()
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    finally:
        logging.getLogger("forgelm").removeHandler(kept)
    report = out / "data_audit_report.json"
    return code, json.loads(report.read_text()) if report.exists() else {}, kept.said


def counted(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What the report counts of the training rows."""
    train = report["splits"].get("train", {})
    for key in ("null_or_empty_count", "near_duplicate_pairs", "parse_errors", "decode_errors", "quality_samples_flagged"):
        if train.get(key):
            yield key, f"{key} {train[key]}"
    for group in ("pii_summary", "secrets_summary"):
        if report[group]:
            yield group, json.dumps(report[group])
    for pair, leak in report["cross_split_overlap"]["pairs"].items():
        if leak.get("leaked_rows_in_train"):
            yield "cross_split_overlap", f"{pair}: {leak['leaked_rows_in_train']} rows of train"


def check(case: dict[str, Any], work: Path) -> dict[str, Any]:
    """The findings of one case, whichever of the two methods made them."""
    source = work / "audited"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    shutil.copy(case["file"], source / "train.jsonl")
    if case["gold"]:
        shutil.copy(case["gold"], source / "test.jsonl")
    findings: list[dict[str, Any]] = []
    codes = []

    def say(kind: str, lines: list[int] | None, text: str) -> None:
        if not any(one["kind"] == kind and one["lines"] == lines for one in findings):
            findings.append({"kind": kind, "lines": lines, "text": text, "alarm": True})

    for method in ("simhash", "minhash"):
        try:
            code, report, log = audit(source, work / "audit", method)
        except Exception as crashed:
            say("crash", None, f"{type(crashed).__name__}: {crashed}")
            codes.append(1)
            continue
        codes.append(code)
        for line in log:
            if number := re.search(r"Skipping .*line (\d+) in .*train", line):
                say("parse_error", [int(number[1])], line)
        for kind, text in counted(report) if report else [("refused", " ".join(log)[-300:])]:
            say(kind, None, text)
    return {"findings": findings, "exit_codes": codes}


def main(cases: Path, out: Path) -> None:
    """Check every case and write what was said."""
    found = {case["name"]: check(case, cases.parent) for case in json.loads(cases.read_text())}
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
