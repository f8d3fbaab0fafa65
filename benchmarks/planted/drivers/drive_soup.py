"""Run soup's data checks over exported cases, in soup's own environment: python drive_soup.py CASES.json OUT.json.

Verbs: validate, dedup, pii, clean (every repair on, dry run), langdetect, decontaminate (its defaults, and 13-grams at any overlap), lint for preferences, doctor
where a tokenizer is given. A verb that writes the rows it keeps names those it removed.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")

from soup_cli.cli import app  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

RUNNER = CliRunner()


def call(*words: str) -> tuple[int, str]:
    """Exit code and everything printed, on one line."""
    done = RUNNER.invoke(app, list(words), env={"NO_COLOR": "1", "COLUMNS": "4000", "SOUP_NO_AUDIT_LOG": "1"})
    said = done.output + (f"\n{type(done.exception).__name__}: {done.exception}" if done.exception and done.exit_code == 1 else "")
    return done.exit_code, said


def rows_of(path: Path) -> list[Any]:
    """The rows a verb wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()] if path.exists() else []


def removed(lines: dict[int, Any], kept: list[Any]) -> list[int]:
    """The lines whose rows are not among those kept; of equal rows the first count as kept."""
    left = Counter(json.dumps(row, sort_keys=True) for row in kept)
    gone = []
    for line, row in lines.items():
        key = json.dumps(row, sort_keys=True)
        if left[key]:
            left[key] -= 1
        else:
            gone.append(line)
    return gone


class Soup:
    """One case: the verbs that were run on it, and what they found."""

    def __init__(self, case: dict[str, Any], work: Path) -> None:
        self.case, self.out, self.work = case, work / "out.jsonl", work
        self.rows = {int(line): row for line, row in case["rows"].items()}
        self.findings: list[dict[str, Any]] = []
        self.codes: list[int] = []

    def say(self, kind: str, lines: list[int] | None, text: str, alarm: bool = True) -> None:
        self.findings.append({"kind": kind, "lines": lines, "text": text, "alarm": alarm})

    def verb(self, *words: str) -> str:
        """Run a verb whose output, if any, goes to `self.out`; what it printed."""
        self.out.unlink(missing_ok=True)
        code, said = call("data", *words)
        self.codes.append(code)
        return said

    def validate(self) -> None:
        said = self.verb("validate", self.case["file"], "--min-valid-fraction", "1.0")
        for line in said.splitlines():
            issue = line.strip().removeprefix("!").strip()
            if match := re.match(r"row (\d+): ", issue):
                self.say("schema", [self.case["lines"][int(match[1])]], issue)
            elif number := re.search(r"\bline (\d+)\b", issue):
                self.say("invalid_line", [int(number[1])], issue)
            elif match := re.match(r"\d+ (duplicate rows|empty fields|samples are very short|rows fail)", issue):
                self.say(match[1].replace(" ", "_"), None, issue)
        if self.codes[-1] not in (0, 2) or "Error" in said:
            kind = "undecodable" if "UnicodeDecodeError" in said else "unknown_format" if "xpected one of: alpaca" in said else "refused"
            self.say(kind, None, said.strip()[-300:])

    def filters(self) -> None:
        """The verbs that write the rows they keep or flag."""
        self.verb("dedup", self.case["file"], "--output", str(self.out))
        self._say_removed("dedup", "removed as duplicates")
        self.verb("pii", "--input", self.case["file"], "--output", str(self.out))
        flagged = Counter(json.dumps({key: item for key, item in row.items() if not key.startswith("_")}, sort_keys=True) for row in rows_of(self.out))
        if flagged:
            lines = [line for line, row in self.rows.items() if flagged[json.dumps(row, sort_keys=True)]]
            self.say("pii", lines, "written as rows with personal data")
        if self.case["gold"]:
            for more in ((), ("--n", "13", "--threshold", "0.01")):
                self.verb("decontaminate", "--input", self.case["file"], "--benchmark-file", self.case["gold"], "--output", str(self.out), *more)
                self._say_removed("decontaminate", "removed as contaminated")

    def clean(self) -> None:
        repairs = ("--strip-boilerplate", "--prune-echo", "--repair-json", "--repair-code", "--drop-invalid-json")
        counted = re.search(r"\{.*\}", self.verb("clean", self.case["file"], "--dry-run", "--json", *repairs), re.DOTALL)
        for rule, count in (json.loads(counted[0])["rule_counts"] if counted else {}).items():
            self.say(f"clean: {rule}", None, f"{rule}: {count}")

    def languages(self) -> None:
        self.verb("langdetect", "--input", self.case["file"], "--output", str(self.out))
        tags = [row.get("_language") for row in rows_of(self.out)]
        if tags and len(tags) == len(self.rows):
            usual = Counter(tags).most_common(1)[0][0]
            other = [line for line, tag in zip(self.rows, tags, strict=True) if tag not in (usual, "unknown")]
            if other:
                self.say("language", other, "tagged with another language", alarm=False)  # a tag on every row, not a complaint

    def report(self, name: str, *more: str) -> None:
        said = self.verb(name, self.case["file"], *more, "--output", str(self.out))
        if not self.out.exists():
            self.say(f"{name}: refused", None, said.strip()[-300:])
            return
        for one in json.loads(self.out.read_text())["checks"]:
            if one["verdict"] != "OK":
                # nearly every released template lacks the markers: said of all alike, it is no complaint about one
                self.say(f"{name}: {one['name']}", None, one["message"], alarm=one["name"] != "generation_markers")

    def _say_removed(self, kind: str, why: str) -> None:
        kept = rows_of(self.out)
        if self.out.exists() and len(kept) < len(self.rows):
            self.say(kind, removed(self.rows, kept), why)


def check(case: dict[str, Any], work: Path) -> dict[str, Any]:
    """The findings of one case by every verb that fits it."""
    soup = Soup(case, work)
    soup.validate()
    if soup.rows:
        soup.filters()
        soup.clean()
        soup.languages()
    if case["form"] in ("preferences", "judged"):
        soup.report("lint")
    elif soup.rows:
        length = ("--max-length", str(case["max_length"])) if case["max_length"] else ()
        soup.report("doctor", "--model", str(work / "tokenizers" / case["template"]), *length)
    return {"findings": soup.findings, "exit_codes": soup.codes}


def main(cases: Path, out: Path) -> None:
    """Check every case and write what was said."""
    asked = json.loads(cases.read_text())
    work = cases.parent
    found = {case["name"]: check(case, work) for case in asked}
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
