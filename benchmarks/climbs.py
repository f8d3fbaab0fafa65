"""Three climbs on real rows, each up to the first rung that clears its goal, written down in docs/examples as they came out.

Run: python benchmarks/climbs.py [--only clinc150]. CLINC150: fifteen banking intents and the requests that are none of them, its own test rows as gold. Reviews: sentences of
four kinds of shops with three labels. GSM8K: a slice, with its own test rows as gold. SmolLM2-135M with its real weights; the goals were set before the first run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
import platformdirs
import rows

from planish import climb as climbing
from planish.climb import page
from planish.data.reviews import ARCHIVE, review_rows
from planish.progress import Terminal
from planish.recipe import Recipe

DATA = rows.CLINC150.parents[1]
EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
ENTRY: dict[str, Any] = {"objective": "sft", "epochs": 1, "batch_size": 16, "max_rows": 2400}
"""What every training rung shares; its adapter is the rung's own."""
RUNGS = {"gsm8k": ("prompt", "few_shot", "lora")}
"""Rungs of a climb that is not let go to the end: two cores take hours for the others."""


def clinc150(folder: Path) -> dict[str, Any]:
    """100 training rows an intent, 100 out of scope; 20 test rows an intent and 100 out of scope as gold."""
    intents = sorted(json.loads((DATA / "clinc150" / "domains.json").read_text(encoding="utf-8"))["banking"])
    data = json.loads(rows.CLINC150.read_text(encoding="utf-8"))
    train = [pair for pair in data["train"] if pair[1] in intents] + data["oos_train"][:100]
    gold = [pair for intent in intents for pair in [one for one in data["test"] if one[1] == intent][:20]] + data["oos_test"][:100]
    for name, found in (("rows.jsonl", train), ("gold.jsonl", gold)):
        write(folder / name, [{"text": text, "label": label} for text, label in found])
    return {"data": {"path": "rows.jsonl", "gold": "gold.jsonl", "task": "classification", "instruction": "Name the intent of this message."}}


def reviews(folder: Path) -> dict[str, Any]:
    """Every rated sentence; 400 of them gold, no review on both sides."""
    write(folder / "rows.jsonl", review_rows((platformdirs.user_cache_path("planish") / ARCHIVE).read_bytes()))
    return {"data": {"path": "rows.jsonl", "task": "classification", "split": {"group_by": "review_id", "gold_max": 400}}}


def gsm8k(folder: Path) -> dict[str, Any]:
    """250 training questions and 100 test ones; an answer is right when its last number is. Only prompt, few-shot and LoRA are tried."""
    for name, source, count in (("rows.jsonl", "train.jsonl", 250), ("gold.jsonl", "test.jsonl", 100)):
        lines = (DATA / "gsm8k" / source).read_text(encoding="utf-8").splitlines()[:count]
        write(folder / name, [{"prompt": row["question"], "completion": row["answer"]} for row in map(json.loads, lines)])
    return {"data": {"path": "rows.jsonl", "gold": "gold.jsonl", "task": "reasoning"}, "evaluate": {"decoding": {"max_new_tokens": 192}}}


CLIMBS = {"clinc150": (clinc150, "macro_f1 >= 0.90"), "reviews": (reviews, "macro_f1 >= 0.60"), "gsm8k": (gsm8k, "score >= 0.20")}


def write(path: Path, found: list[dict[str, Any]]) -> None:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")


def main() -> int:
    """Every climb, or the one asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=CLIMBS, default=None)
    options = parser.parse_args()
    for name, (prepare, goal) in CLIMBS.items():
        if options.only in (None, name):
            one(name, prepare, goal)
    return 0


def one(name: str, prepare: Any, goal: str) -> None:
    """One climb, and its page."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        recipe = {"recipe": 1, "model": "smollm2-135m-instruct", "train": [ENTRY], **prepare(folder)}
        (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
        started, facts = climbing.start(folder / "recipe.yaml", model="smollm2-135m-instruct")
        assert isinstance(started, Recipe)
        with measure.Foreign() as foreign:
            found = climbing.climb(started, goal, facts=facts, only=RUNGS.get(name), workspace=folder / "work", progress=Terminal())
        page.show(found)
        text = page.write(found).with_suffix(".md").read_text(encoding="utf-8")
        told = f"Made by `python benchmarks/climbs.py --only {name}` on {measure.machine('cpu')}; others used {foreign.share:.0%} of the machine. {prepare.__doc__}"
        EXAMPLES.mkdir(parents=True, exist_ok=True)
        title, _, rest = text.partition("\n")
        (EXAMPLES / f"climb_{name}.md").write_text(f"{title}: {name}\n\n{told}\n{rest}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
