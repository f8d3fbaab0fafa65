"""Run maatml's prepare over exported cases, in maatml's own environment: python drive_maatml.py CASES.json OUT.json.

Rows are read as jsonl_seed, which checks tool calls, and as alpaca or sharegpt, which set empty dialogues aside; gold is the benchmark that must not be trained on.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

from maatml.cli import app
from typer.testing import CliRunner

MODEL = """name: rows
model_id: rows
task: rows
architecture: causal_sft
version: 0.1.0
base_model: none
dataset:
  format: {format}
  seed_samples: seed.jsonl
  split_ratios: [0.8, 0.1, 0.1]
  group_by: family
  seed: 7
{benchmark}training: {{model_id: none}}
evaluation: {{predictor: causal_sft, metrics: []}}
packaging: {{max_input_tokens: 4096}}
"""
RUNNER = CliRunner()


def as_sharegpt(line: bytes) -> bytes:
    """A chat row under the name that the format has for its turns; any other line as it is."""
    try:
        row = json.loads(line)
        row["conversations"] = row.pop("messages")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return line
    return json.dumps(row).encode() + b"\n"


def prepare(case: dict[str, Any], folder: Path, kind: str) -> tuple[int, str]:
    """Exit code and output of one `maatml prepare`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, source in (("seed", case["file"]), ("gold", case["gold"])):
        if source:
            data = Path(source).read_bytes()
            (folder / f"{name}.jsonl").write_bytes(b"".join(map(as_sharegpt, data.splitlines(keepends=True))) if kind == "sharegpt" else data)
    (folder / "model.yml").write_text(MODEL.format(format=kind, benchmark="  benchmark_samples: gold.jsonl\n" if case["gold"] else ""))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = RUNNER.invoke(app, ["prepare", str(folder)], env={"NO_COLOR": "1", "COLUMNS": "4000"})
    return done.exit_code, done.output + (f"\n{type(done.exception).__name__}: {done.exception}" if done.exception and done.exit_code else "")


def check(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The findings of one case. A row's sample_id is `L` and its line."""
    findings: list[dict[str, Any]] = []
    codes = []
    for kind in ("jsonl_seed", *({"alpaca": ("alpaca",), "chat": ("sharegpt",), "tools": ("sharegpt",), "sharegpt": ("sharegpt",)}.get(case["form"], ()))):
        code, said = prepare(case, folder, kind)
        codes.append(code)
        for text in said.splitlines():
            if dropped := re.search(r"dropped \d+ row\(s\) with no user or assistant", text):
                findings.append({"kind": "degenerate", "lines": None, "text": dropped[0], "alarm": True})
        if code:
            rows = sorted({int(number) for number in re.findall(r"(?:seed row L|== L)(\d+)", said)})
            at = re.search(r"(?:line|jsonl:) ?(\d+)", said)
            lines = rows or ([int(at[1])] if at else None)
            what = "tool_calls" if "malformed chat rows" in said else "benchmark" if "benchmark" in said else "refused"
            findings.append({"kind": what, "lines": lines, "text": said.strip()[-400:], "alarm": True})
    return {"findings": findings, "exit_codes": codes}


def main(cases: Path, out: Path) -> None:
    """Check every case and write what was said."""
    found = {case["name"]: check(case, cases.parent / "model") for case in json.loads(cases.read_text())}
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
