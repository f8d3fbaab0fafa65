"""A tuned review model made a fifth smaller, vocabulary first, then channels, and made good again on the same rows: what it kept of the tuned one.

The demo's rows and recipe, tuned once; `compress` cuts, recovers, makes files and scores them beside quantised files of the uncut model, and the uncut model given the same
extra training is the control. Works in the folder `pruning`; given again, it goes on where it stopped. About twelve minutes on two cores; --quick tries it on few rows.
Writes docs/examples/pruning.md with its drawing. Exits 0 when everything ran, whatever was kept.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

from planish import Recipe, doctor, pipeline
from planish.data import dataset
from planish.data import gold as gold_set
from planish.data.reviews import write_reviews
from planish.errors import PlanishError
from planish.evidence.paired import compare
from planish.evidence.recovered import Recovery
from planish.evidence.retained import quality_retained
from planish.model import bundled, general
from planish.progress import Progress, Terminal
from planish.recipe_compress import CompressSection
from planish.recipe_keys import Use
from planish.recipe_train import TrainSection
from planish.report.blocks import Code, Figure, Paragraph, Section, Table
from planish.report.files import blocks, front
from planish.report.page import bare_markdown
from planish.report.plots import pareto
from planish.scores import Comparison, EvalReport, Metric
from planish.stages._context import read_json, read_reports
from planish.stages._general import general_rows

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs" / "examples"
BAR = 0.99
"""Of the tuned model's quality, after recovery: the aim for a fifth less on a narrow task."""
WORDS, TARGET = 8192, "80%"
METRICS = ("label.macro_f1", "label.accuracy")
QUANTS = ("Q8_0", "Q5_K_M", "Q4_K_M")
PLAIN, FOLDER = {"safetensors": {"dtype": "fp16"}}, "model-safetensors-fp16"
INSIDE = {"tuned": "", "words": "pruned-1/", "recovered": "pruned-2/"}
"""Where the package has each model as a plain folder."""
SAID = {
    "tuned": "tuned, uncut",
    "words": f"vocabulary of {WORDS:,} alone, untrained",
    "cut": "a fifth cut, before recovery",
    "recovered": "a fifth cut, recovered",
    "control": "uncut, trained as much again (control)",
}


class System(NamedTuple):
    """What a model scored on the gold rows, and in bits a byte on text of which no row was made."""

    gold: EvalReport
    text: EvalReport


def recipe_of(folder: Path, *, rows: int, gold: int) -> Recipe:
    """The demo's recipe up to compress: files of the tuned model, and two smaller models."""
    demo = Recipe.load(HERE.parent / "reviews" / "recipe.yaml")
    again = {"objective": "sft", "adapter": "full", "learning_rate": 2e-5, "epochs": 1, "max_rows": rows // 2, "validations": 2, "checkpoints": 0}
    words = {"vocabulary": WORDS, "export": [PLAIN, {"gguf": {"quant": "Q8_0"}}]}
    fifth = {**words, "target": TARGET, "take": "channels", "by": "gradient", "recover": again}
    files = [PLAIN, *({"gguf": {"quant": quant}} for quant in QUANTS)]
    return demo.model_copy(
        update={
            "source": folder / "recipe.yaml",
            "data": demo.data.model_copy(update={"split": demo.data.split.model_copy(update={"gold_max": gold})}),
            "baseline": [Use(name="majority")],
            "train": [demo.train[0].model_copy(update={"max_rows": rows, "validations": 2, "checkpoints": 0})],
            "evaluate": demo.evaluate.model_copy(update={"general": []}),
            "gate": ["label.macro_f1 > best_baseline.label.macro_f1"],
            "compress": CompressSection.model_validate({"export": files, "prune": [words, fifth], "gate": [f"quality_retained >= {BAR}"]}),
            "serve": None,
            "observe": None,
            "feedback": None,
        }
    )


def main() -> int:
    """Tune, cut, recover, hold against the control and against quantised files, write the page."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--quick", action="store_true", help="few rows, and no page in docs: to see that it runs")
    asked = given.parse_args()
    folder, progress = Path("pruning"), Terminal()
    folder.mkdir(exist_ok=True)
    if not (folder / "reviews.jsonl").is_file():
        write_reviews(folder / "reviews.jsonl")
    recipe = recipe_of(folder, rows=160 if asked.quick else 1200, gold=60 if asked.quick else 400)
    try:
        outcome = pipeline.run(recipe, workspace=folder / ".planish", until="compress", unproven=True, progress=progress)
        made = {stage: done.folder for stage, done in outcome.stages.items() if done.folder is not None}
        systems = measured(recipe, made["compress"], folder / ".planish", progress)
    except PlanishError as refused:
        print(refused, file=sys.stderr)
        return refused.exit_code
    place = folder if asked.quick else DOCS
    page = written(recipe, made, systems, place)
    (place / "pruning.md").write_text(page, encoding="utf-8")
    print(f"{page}\npage: {place / 'pruning.md'}")
    return 0


def measured(recipe: Recipe, package: Path, workspace: Path, progress: Progress) -> dict[str, System]:
    """The plain folders of the package as models of their own, on the same gold rows and on general text; the tuned one also trained as the cut one was, as the control."""
    again = _again(recipe)
    evaluate = recipe.evaluate.model_copy(update={"general": ["held_out_text"]})
    plain = recipe.model_copy(update={"compress": None, "gate": None, "baseline": [Use(name="prompt")], "train": [], "evaluate": evaluate})
    found = {}
    for name, inside in INSIDE.items():
        progress.say(f"--- {SAID[name]}")
        model = str((package / inside / FOLDER).absolute())
        asked = plain.model_copy(update={"model": model, "train": [again] if name == "tuned" else []})
        ran = pipeline.run(asked, workspace=workspace, until="evaluate" if asked.train else "baseline", progress=progress)
        at = {stage: done.folder for stage, done in ran.stages.items() if done.folder is not None}
        found[name] = System(read_reports(at["baseline"])["prompt"], by_byte(at["baseline"], plain))
        if asked.train:
            [trained] = read_reports(at["evaluate"]).values()
            found["control"] = System(trained, by_byte(at["evaluate"], plain))
    return found


def _again(recipe: Recipe) -> TrainSection:
    """The training that makes the cut model good again."""
    assert recipe.compress is not None
    again = recipe.compress.prune[-1].recover
    assert again is not None
    return again


def by_byte(folder: Path, recipe: Recipe) -> EvalReport:
    """Bits a byte of the general text as `general.loss`: per token, models with different vocabularies are not to be compared. The first token of a paragraph is given."""
    known = EvalReport.model_validate(read_json(folder / "general.json"))
    sizes = {row.id: len(row.text.encode()) for row in general_rows(recipe)}
    scores = [
        score.model_copy(update={"detail": {"general.loss.part": score.detail["nll"] / math.log(2), "general.loss.whole": float(sizes[score.id])}})
        for score in known.scores
    ]
    return general.report(known.system, known.gold, scores)


def written(recipe: Recipe, made: dict[str, Path], systems: dict[str, System], place: Path) -> str:
    """The page: what was kept, what it is up against, and where the figures flatter; its drawing beside it in `place`."""
    report = read_json(made["compress"] / "compress_report.json")
    words, fifth = report["variants"]
    recovery = Recovery.model_validate(fifth["recovery"])
    groups = {sample.id: sample.group for sample in gold_set.read(dataset.read(made["prepare"]).gold_path).samples if sample.group is not None} or None
    tuned = systems["tuned"]
    kept = {name: quality_retained(one.gold, tuned.gold, METRICS[0], groups=groups) for name, one in systems.items()}
    cut = fifth["steps"][-1]
    sizes = {"tuned": cut["before"], "words": words["steps"][-1]["after"], "cut": cut["after"], "recovered": cut["after"], "control": cut["before"]}
    rows = []
    for name, said in SAID.items():
        if name == "cut":
            rows.append([said, f"{sizes[name]:,}", f"{recovery.pruned:.3f} (n={recovery.damage.n})", "", "", "", ""])
            continue
        one = systems[name]
        own = [str(kept[name]), str(quality_retained(one.text, tuned.text, "general.loss"))] if name != "tuned" else ["", ""]
        cells = [*(str(one.gold.metrics[metric]) for metric in METRICS), own[0], str(one.text.metrics["general.loss"]), own[1]]
        rows.append([said, f"{sizes[name]:,}", *cells])
    apart = compare(systems["recovered"].gold, tuned.gold, METRICS[0], groups=groups)
    over = compare(systems["recovered"].gold, systems["control"].gold, METRICS[0], groups=groups)
    origin = read_json(bundled.locate(recipe.model) / "bundled.json")["note"]
    section = recipe.train[0]
    how = (
        f"Customer-review triage, three labels; {section.max_rows} training rows, {recovery.damage.n} gold rows of other reviews. LoRA, merged in; then {cut['share']:.1%} of "
        f"the parameters go: all but {WORDS:,} of 49,152 tokens ({words['steps'][-1]['share']:.1%}; validation rows take {_rise(words):+.2%} tokens), and "
        f"{cut['removal']['channels']} of 1,536 MLP channels in every layer, those of least gradient x weight on training rows. Recovery: every weight, one epoch of SFT on "
        f"{_again(recipe).max_rows} training rows. One seed of training ({section.seed}) and of the split ({recipe.data.split.seed})."
    )
    (place / "pruning.svg").write_text(drawing(report["files"]).svg, encoding="utf-8")
    table = next(block for block in blocks(report["files"]) if isinstance(block, Table))
    page = bare_markdown(
        "A fifth less of a tuned model: vocabulary first, then channels",
        [Paragraph(f"Made by python examples/pruning/run.py with SmolLM2-135M-Instruct on {doctor.machine()}."), Paragraph(how)],
        [
            Section(
                "What was kept",
                [
                    Paragraph(verdict(kept["recovered"], apart, tuned.gold.metrics[METRICS[0]].value), "verdict"),
                    Table(HEADER, rows),
                    Paragraph(_READING),
                    Paragraph(f"In the run itself: {recovery.sentence} Damage {_shown(recovery.damage)}, won back {_shown(recovery.regained)}."),
                    Paragraph(
                        f"Cut and recovered, less the control: {METRICS[0]} {_shown(over)}. What the control gained is the extra training's, not the cut's."
                    ),
                ],
            ),
            Section(
                "Against quantisation at equal size",
                [*(Paragraph(one["sentence"]) for one in report["equal_size"]), Paragraph(_DRAWING), table, Paragraph(_FILES)],
            ),
            Section("Where the figures flatter", [Paragraph(f"{origin[0].upper()}{origin[1:]}: {_FLATTERS}")]),
            Section("Again", [Code("python examples/pruning/run.py")]),
        ],
    )
    return page.replace(_DRAWING, f"![{_DRAWING}](pruning.svg)")


HEADER = ["model", "parameters", "macro-F1", "accuracy", "kept of the tuned one", "general text, bits a byte", "kept of the tuned one"]
_DRAWING = "size of every file and the share of macro-F1 it lost"
_READING = (
    "Values with their 95 % intervals; kept: macro-F1 over that of the tuned model, resampled in pairs over gold rows, whole reviews together. General text: paragraphs of the "
    "Python language reference, which no row is about; kept: bits of the tuned model over those of this one. Models as the plain fp16 folders of the package."
)
_FILES = (
    "Every file on the same gold rows in its own runtime; loading, speed and memory are one run each. KL, agreement and perplexity are per token and not measured where the "
    "vocabulary is another one. A rule holds where the lower end of the interval does."
)
_FLATTERS = (
    "4-bit files of the uncut model lose less here than those of weights that were trained in 16 bits would, which favours quantisation in the comparison above; the cut itself "
    "gains nothing from it."
)


def verdict(kept: Metric, apart: Comparison, whole: float) -> str:
    """Whether the bar is reached, by the figure and by its interval; that of the paired difference (of `whole`, the tuned model's value) counts as well, because a ratio of two
    models that answered alike has no width, however few the rows."""
    assert kept.low is not None
    assert kept.high is not None
    told = f"{kept.value:.1%} [{kept.low:.1%}, {kept.high:.1%}] of the tuned model's {apart.metric}, a difference of {_shown(apart)}"
    if min(kept.low, 1 + apart.low / whole) >= BAR:
        return f"At least {BAR:.0%} was kept: {told}."
    if kept.value >= BAR:
        return f"The figure reaches {BAR:.0%}, its interval does not prove it: {told}."
    return f"{BAR:.0%} was not reached{', though it is within noise' if max(kept.high, 1 + apart.high / whole) >= BAR else ''}: {told}."


def drawing(files: list[dict[str, Any]]) -> Figure:
    """Files by size and by the share of macro-F1 that went."""
    kept = [(entry, Metric.model_validate(entry["figures"]["quality_retained"])) for entry in files if "quality_retained" in entry["figures"]]
    best = front([(entry["bytes"], 1 - one.value) for entry, one in kept])
    points = []
    for (entry, one), beaten_by_none in zip(kept, best, strict=True):
        assert one.low is not None
        assert one.high is not None
        lost = one.model_copy(update={"value": 1 - one.value, "low": 1 - one.high, "high": 1 - one.low})
        points.append((entry["file"], float(entry["bytes"]), lost, beaten_by_none))
    return pareto(points, "share of macro-F1 lost")


def _rise(variant: dict[str, Any]) -> float:
    """More tokens of the validation rows in the trimmed vocabulary, as a share."""
    return float(variant["steps"][0]["fertility"]["rise"])


def _shown(found: Comparison) -> str:
    return f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}] on {found.n} rows"


if __name__ == "__main__":
    sys.exit(main())
