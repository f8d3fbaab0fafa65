"""Every adapter on the same real rows: parameters, bytes on disk, predicted and measured peak memory, speed, and the gold score with its interval.

Run: python benchmarks/adapter_table.py. Fifteen intents of CLINC150 (its banking domain), 40 training rows each, its own test rows as gold, SmolLM2-135M with its real weights,
two epochs, each adapter at its own default learning rate and keys: nothing was searched, so that a low score says "not with defaults in two epochs", not "never". Each adapter runs
through `planish evaluate` in a process and a workspace of its own. The page is docs/examples/adapters.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import claims
import measure
import rows

PAGE = Path(__file__).parents[1] / "docs" / "examples" / "adapters.md"
INTENTS = 15
PER_INTENT = 40
RECIPE = """recipe: 1
model: smollm2-135m-instruct
data:
  path: rows.jsonl
  gold: gold.jsonl
  task: classification
  instruction: Name the intent of this message.
  split: {validation: 0.1}
baseline: [majority]
train:
  - {objective: %(objective)s, adapter: %(adapter)s, epochs: 2, batch_size: 16%(more)s}
evaluate: {scorers: [label], general: []}
"""
ADAPTERS: dict[str, tuple[str, str, str]] = {
    "head": ("classify", "head", ""),
    "bitfit, biases added": ("sft", "{bitfit: {add_biases: true}}", ""),
    "prompt": ("sft", "prompt", ""),
    "p_tuning": ("sft", "p_tuning", ""),
    "prefix": ("sft", "prefix", ""),
    "ia3": ("sft", "ia3", ""),
    "bottleneck": ("sft", "bottleneck", ""),
    "lora": ("sft", "lora", ""),
    "lora, base in 4 bits": ("sft", "lora", ", four_bit: true"),
    "dora": ("sft", "dora", ""),
    "full": ("sft", "full", ""),
}
HEADER = "| adapter | trained parameters | share | on disk | peak predicted | peak measured | tokens/s | training | accuracy, 95 % | macro-F1, 95 % |"


def write_rows(folder: Path) -> None:
    """The rows of the domain: 40 drawn training rows an intent, and all its test rows as gold."""
    domains = json.loads(rows.CLINC150.with_name("domains.json").read_text(encoding="utf-8"))
    intents = sorted(domains["banking"])[:INTENTS]
    data = json.loads(rows.CLINC150.read_text(encoding="utf-8"))
    taken: list[tuple[str, str]] = []
    for intent in intents:
        taken += [(text, label) for text, label in data["train"] if label == intent][:PER_INTENT]
    for name, found in (("rows.jsonl", taken), ("gold.jsonl", [pair for pair in data["test"] if pair[1] in intents])):
        lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in found)
        (folder / name).write_text("".join(lines), encoding="utf-8")


def run_one(folder: Path) -> dict[str, Any]:
    """One adapter's line, through the product's own commands."""
    from planish import plan, report
    from planish.recipe import Recipe

    predicted = plan.plan(Recipe.load(folder / "recipe.yaml"), plan.machine(None, None))[0].estimate
    command = [sys.executable, "-m", "planish", "evaluate", "recipe.yaml"]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, env={**os.environ, "OMP_WAIT_POLICY": "passive"})
    if done.returncode:
        return {"error": done.stderr[-300:]}
    found = report.gather(folder / ".planish", "last")
    trained, candidate = found.json("train", "report.json"), found.candidate
    assert candidate is not None
    artifact = found.folder("train")
    assert artifact is not None
    steps = [json.loads(line) for line in (artifact / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    stored = artifact / "adapter" if (artifact / "adapter").is_dir() else artifact / "model"
    return {
        "trainable": trained["trainable"],
        "parameters": trained["parameters"],
        "disk": sum(path.stat().st_size for path in stored.rglob("*.safetensors")),
        "predicted": predicted.total,
        "high": predicted.high,
        "measured": max(step["memory_mb"] for step in steps) * 1e6,
        "tokens_in": steps[-1]["tokens_in"],
        "tok_s": statistics.median(step["tok_s"] for step in steps),
        "train_seconds": found.stages["train"]["seconds"],
        "accuracy": candidate.metrics["label.accuracy"].model_dump(),
        "macro_f1": candidate.metrics["label.macro_f1"].model_dump(),
        "rows": trained["rows"],
    }


def line(name: str, one: dict[str, Any]) -> str:
    """A row of the page."""
    if "error" in one:
        return f"| {name} | failed: {' '.join(one['error'].split())[-160:]} |" + " |" * 8
    share = one["trainable"] / one["parameters"]
    figures = [f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]" for figure in (one["accuracy"], one["macro_f1"])]
    sizes = f"{one['disk'] / 1e6:.2f} MB | {one['predicted'] / 1e9:.2f} GB | {one['measured'] / 1e9:.2f} GB ({one['measured'] / one['predicted'] - 1:+.0%})"
    return f"| {name} | {one['trainable']:,} | {share:.3%} | {sizes} | {one['tok_s']:.0f} | {one['train_seconds']:.0f} s | {figures[0]} | {figures[1]} |"


def page(found: dict[str, dict[str, Any]], machine: str, foreign: float) -> str:
    """The committed page."""
    done = [one for one in found.values() if "error" not in one]
    n, trained = done[0]["accuracy"]["n"], done[0]["rows"]
    head = (
        f"# Every adapter on the same rows\n\nMade by `python benchmarks/adapter_table.py` on {machine}; others used {foreign:.0%} of the machine, so speeds are rough.\n\n"
        f"{INTENTS} banking intents of CLINC150, {trained} training rows, {n} gold rows (its own test split), SmolLM2-135M, two epochs,\n"
        "every adapter at its default keys and learning rate; one seed.\n"
        "Predicted peaks are those of `planish plan` (estimated); measured ones are the process's. Intervals are 95 %; one seed says nothing of the spread over seeds.\n"
    )
    return "\n".join([head, HEADER, "|---" * 10 + "|", *(line(name, one) for name, one in found.items())]) + "\n"


def main() -> int:
    """Every adapter, or the one asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=ADAPTERS, default=None)
    parser.add_argument(
        "--json",
        type=Path,
        default=claims.RESULTS / "adapter_table" / "lines.json",
        help="lines are kept here as they are made; those that are there are not made again",
    )
    options = parser.parse_args()
    found = json.loads(options.json.read_text(encoding="utf-8")) if options.json.is_file() else {}
    with measure.Foreign() as foreign:
        for name, (objective, adapter, more) in ADAPTERS.items():
            if name in found or (options.only and name != options.only):
                continue
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place)
                write_rows(folder)
                (folder / "recipe.yaml").write_text(RECIPE % {"objective": objective, "adapter": adapter, "more": more}, encoding="utf-8")
                found[name] = run_one(folder)
            print(line(name, found[name]), flush=True)
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps({key: found[key] for key in ADAPTERS if key in found}, indent=1) + "\n", encoding="utf-8")
    if options.only is None:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(page(found, measure.machine("cpu"), foreign.share), encoding="utf-8")
        print(f"written: {PAGE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
