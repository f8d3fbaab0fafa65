"""The same cases through the tools that install from the package index: what each names, counts, refuses or misses.

Run: python -m benchmarks.planted.rivals [--only NAME ...]. Each tool gets its own environment in the user's cache folder, with torch pinned as in
constraints.txt; its own data checks run at their strictest over the cases, rewritten in a format that it reads. A planted defect is *named* when a fitting
check gives all its rows, *counted* when a fitting check says that there is one without saying where, *refused* when the whole input is turned down, and
otherwise missed; *no check* when the tool has none for that kind. Results are kept in rivals.json; the table is printed, and written into README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import platformdirs
from benchmarks.planted import readme
from benchmarks.planted.case import Case
from benchmarks.planted.export import export
from benchmarks.planted.rival_checks import RIVALS, Rival
from benchmarks.planted.suite import CASES

HERE = Path(__file__).parent
RESULTS = HERE / "rivals.json"


def install(rival: Rival, home: Path) -> Path:
    """The Python of the rival's own environment, made on first use. Raises CalledProcessError when it does not install."""
    python = home / rival.package / ("Scripts" if os.name == "nt" else "bin") / "python"
    done = home / rival.package / "installed.json"
    wanted = json.dumps(rival.requirements)
    if not done.exists() or done.read_text() != wanted:
        venv.create(home / rival.package, with_pip=True, clear=True)
        pins = home / f"{rival.package}.txt"
        torch = next(line for line in (HERE.parents[1] / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
        pins.write_text(torch + "\n")
        pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", "-c", str(pins)]
        subprocess.run([*pip, *rival.requirements], check=True)
        done.write_text(wanted)
    return python


def version(python: Path, package: str) -> str:
    """The installed version."""
    ask = f"import importlib.metadata; print(importlib.metadata.version({package!r}))"
    return subprocess.run([str(python), "-c", ask], check=True, capture_output=True, text=True).stdout.strip()


def run(rival: Rival, python: Path, cases: Sequence[Case]) -> dict[str, Any]:
    """Outcome and words per case. Cases in a format that the rival does not read are `no format`."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        given = export(cases, rival, work)
        (work / "cases.json").write_text(json.dumps(given))
        quiet = {"HOME": folder, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "SOUP_NO_AUDIT_LOG": "1", "PATH": os.environ.get("PATH", "")}
        command = [str(python), str(HERE / "drivers" / rival.driver), str(work / "cases.json"), str(work / "found.json")]
        done = subprocess.run(command, cwd=work, env=quiet, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{rival.package}: {done.stderr[-2000:]}")
        found = json.loads((work / "found.json").read_text())
    return {case.name: _judged(case, rival, found.get(case.name), work) for case in cases}


def _judged(case: Case, rival: Rival, found: dict[str, Any] | None, work: Path) -> dict[str, Any]:
    if found is None:
        return {"outcome": "no format"}
    outcome = rival.outcome(case, found["findings"])
    said = [f"{one['kind']}: {' '.join(one['text'].split())}"[:200].replace(str(work), ".") for one in found["findings"] if one["alarm"]]
    return {"outcome": outcome, "exit_codes": found["exit_codes"], "said": said}


def main(only: Sequence[str]) -> int:
    """Install, run, judge and write. Exits 1 when a rival could not be installed or run; the others are still written."""
    home = Path(platformdirs.user_cache_dir("planish")) / "rivals"
    home.mkdir(parents=True, exist_ok=True)
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    failed = 0
    for rival in RIVALS:
        if only and rival.package not in only:
            continue
        try:
            python = install(rival, home)
            kept[rival.package] = {"version": version(python, rival.package), "cases": run(rival, python, CASES)}
        except (subprocess.CalledProcessError, RuntimeError) as broken:
            print(f"{rival.package}: {broken}", file=sys.stderr)
            failed = 1
        else:
            print(f"{rival.package} {kept[rival.package]['version']}: done")
    RESULTS.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    print(readme.write())
    return failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run the planted defects through other tools.")
    parser.add_argument("--only", nargs="*", default=[], help="packages to run; the others keep their results")
    sys.exit(main(parser.parse_args().only))
