"""The tuned review model in every format: the demo's rows and recipe, tuned once, exported as each file that planish writes, every file scored again on the same gold rows.

Works in the folder `compression`; given again, it goes on where it stopped. About forty minutes on two cores; --quick tries it on few rows.
Writes docs/examples/compression.md with the table and the drawing.
Exits 0 when every file was made and scored, whatever the gate says of them; 3 where a runtime is absent and a file stays unproven.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from planish import Recipe, pipeline
from planish.data import dataset
from planish.data import gold as gold_set
from planish.data.reviews import write_reviews
from planish.errors import PlanishError
from planish.evidence.paired import compare
from planish.model import bundled
from planish.progress import Terminal
from planish.recipe_compress import CompressSection
from planish.recipe_keys import Use
from planish.report.blocks import Block, Figure, Table
from planish.report.files import blocks
from planish.scores import EvalReport
from planish.shelf import shelf
from planish.stages._context import read_json, read_reports

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs" / "examples"
QUANTS = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K", "IQ4_NL")
OTHERS: tuple[dict[str, Any], ...] = (
    {"name": "rtn"},
    {"name": "gptq"},
    {"name": "awq"},
    {"name": "nf4"},
    {"name": "onnx", "options": {"precision": "fp32"}},
    {"name": "onnx", "options": {"precision": "int8"}},
    {"name": "onnx", "options": {"precision": "int4", "gptq": True}},
    {"name": "safetensors", "options": {"dtype": "bf16"}},
)
SMALLER = {"vocabulary": 16384, "export": [{"gguf": {"quant": "Q8_0"}}]}
"""The one cut that is exact on kept tokens, held against quantisation at equal size."""
GATE = ["quality_retained >= 0.95"]
DROP, METRIC = 0.02, "label.accuracy"
"""A file clears when the paired interval of its drop lies under it (MISSION Z6)."""


def recipe_of(folder: Path, *, rows: int, gold: int) -> Recipe:
    """The demo's recipe up to compress, with every exporter there is."""
    demo = Recipe.load(HERE.parent / "reviews" / "recipe.yaml")
    split = demo.data.split.model_copy(update={"gold_max": gold})
    exports = [{"gguf": {"quant": quant}} for quant in QUANTS] + [use for use in OTHERS if use["name"] in shelf("exporters")]
    return demo.model_copy(
        update={
            "source": folder / "recipe.yaml",
            "data": demo.data.model_copy(update={"split": split}),
            "baseline": [Use(name="majority")],
            "train": [demo.train[0].model_copy(update={"max_rows": rows})],
            "evaluate": demo.evaluate.model_copy(update={"general": []}),
            "gate": ["label.macro_f1 > best_baseline.label.macro_f1"],
            "compress": CompressSection.model_validate({"export": exports, "prune": [SMALLER], "gate": GATE}),
            "serve": None,
            "observe": None,
            "feedback": None,
        }
    )


def main() -> int:
    """Tune, export, score, write the page."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--quick", action="store_true", help="few rows, and no page in docs: to see that it runs")
    asked = given.parse_args()
    folder = Path("compression")
    folder.mkdir(exist_ok=True)
    if not (folder / "reviews.jsonl").is_file():
        write_reviews(folder / "reviews.jsonl")
    recipe = recipe_of(folder, rows=160 if asked.quick else 1600, gold=60 if asked.quick else 400)
    try:
        outcome = pipeline.run(recipe, workspace=folder / ".planish", until="compress", unproven=True, progress=Terminal())
    except PlanishError as refused:
        print(refused, file=sys.stderr)
        return refused.exit_code
    made = {name: stage.folder for name, stage in outcome.stages.items()}
    assert made["compress"] is not None
    report = read_json(made["compress"] / "compress_report.json")
    tuned = EvalReport.model_validate(read_json(made["compress"] / "reference.json"))
    place = folder if asked.quick else DOCS
    drops = _drops(report, tuned, read_reports(made["compress"]), made["prepare"])
    (place / "compression.md").write_text(page(report, tuned, drops, recipe, place), encoding="utf-8")
    print(f"{report['sentence']}\npage: {place / 'compression.md'}")
    return 3 if any("unproven" in entry for entry in report["files"]) else 0


def page(report: dict[str, Any], tuned: EvalReport, drops: list[list[str]], recipe: Recipe, place: Path) -> str:
    """The table as Markdown, the drawing beside it in `place`, each file's paired drop, and where the figures flatter."""
    origin = read_json(bundled.locate(recipe.model) / "bundled.json")["note"]
    compress, data = recipe.compress, recipe.data
    assert compress is not None
    said = [
        "# One tuned model, every format",
        "Made by `python examples/compression/run.py` on real rows: customer-review triage, SmolLM2-135M with LoRA merged in, "
        f"{recipe.train[0].max_rows} training rows, {data.split.gold_max} gold rows at most, the same for every file. Before compression, in fp32: accuracy "
        f"{tuned.metrics[METRIC]}, macro-F1 {tuned.metrics['label.macro_f1']}. Intervals are 95 %; quality retained is the ratio of macro-F1 to that of the tuned model, "
        "resampled in pairs over gold rows. KL, agreement and perplexity are of the file's weights, in fp32, on validation rows. Loading, speed and memory are one run each; of "
        "codes, loading includes unpacking them. ONNX int4 is rounded as GPTQ does.",
        f"**{report['sentence']}**",
        *(_markdown(block, place) for block in blocks(report["files"])),
        f"**Where the figures flatter.** {origin[0].upper()}{origin[1:]}: a 4-bit format finds weights that already lie near a 4-bit grid, so it loses less here than "
        "on weights that were trained in 16 bits. What is below 4 bits gains nothing from it, and the adapter's part of the weights is new.",
        "## The drop, in pairs",
        f"Accuracy of the file less that of the tuned model, on the same rows. What has its whole interval above -{DROP} clears; what does not is worse, or needs more gold rows.",
        _table(["file", "difference", f"clears {DROP}"], drops),
    ]
    return "\n\n".join(said) + "\n"


def _drops(report: dict[str, Any], tuned: EvalReport, files: dict[str, EvalReport], prepared: Path | None) -> list[list[str]]:
    """File, difference, and whether it clears; clusters of gold rows are resampled as one, as in the gate."""
    assert prepared is not None
    groups = {sample.id: sample.group for sample in gold_set.read(dataset.read(prepared).gold_path).samples if sample.group is not None}
    found = []
    for name in (entry["file"] for entry in report["files"] if entry["file"] in files):
        apart = compare(files[name], tuned, METRIC, groups=groups or None)
        found.append([name, f"{apart.difference:+.3f} [{apart.low:+.3f}, {apart.high:+.3f}] (n={apart.n})", "yes" if apart.low > -DROP else "no"])
    return found


def _markdown(block: Block, place: Path) -> str:
    if isinstance(block, Table):
        return _table(block.header, block.rows)
    if isinstance(block, Figure):
        (place / "compression.svg").write_text(block.svg, encoding="utf-8")
        return f"![{block.label}](compression.svg)"
    return block.text


def _table(header: Any, rows: Any) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
