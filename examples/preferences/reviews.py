"""DPO on rewrites of real review sentences: a 135M model makes wordy sentences short again, and what the reviewer wrote is preferred to a rewrite that breaks a rule.

The rules read the rewrite alone (rewrites.py): its length, its numbers, its words, and its tone by a classifier of planish, trained on other reviews. SFT first; then DPO over
pairs of the reviewer's own sentence and the model's own wrong rewrite, and as the control SFT on the right ones of the same pairs. Works in the folder `review_rewrites`; given
again, it goes on where it stopped. About twelve minutes on one core; `--prepare` stops when the pairs are there, `--quick` shows in a few that it runs, in a folder of its own.
Writes report.md. Exits 0 when everything ran, whatever the verdict.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import rewrites
from preference_run import SAID, Words, answered, own_answers, sections, three_runs, trained_first, write

from planish import Recipe, doctor
from planish.data import reviews
from planish.data.reading import read_rows
from planish.data.task import row_shape
from planish.errors import PlanishError
from planish.evidence.tally import tally
from planish.model import preference_state
from planish.progress import Progress, Terminal
from planish.report.blocks import Code, Paragraph, Section, Table
from planish.report.page import bare_markdown
from planish.rows import LabelRow
from planish.scores import EvalReport
from planish.solvers import classifier
from planish.stages._context import read_json

HERE = Path(__file__).parent
SIZES, QUICK = (320, 240, 160), (60, 20, 30)
"""Sentences for SFT, for the pairs, and those that judge."""
CLEAR = 1.0
"""Twenty people's mean rating, -4 to 4, from which on a sentence has a tone."""
JUDGES = 0.3
"""The share of the reviews that the classifier learns from; none of their sentences is rewritten."""
SAMPLES, TOKENS = 2, 48
LEAST_GOLD = 33
WORDS = Words("rewrite.score", "right by the verifier", "sentences", "right rewrite")
TASK = "Say this sentence of a review in fewer words. Keep what it says, its tone and its numbers.\n\n{wordy}\n\nAt most {most} words."

Row = dict[str, Any]


def main() -> int:
    """SFT, pairs, three runs on the same gold, one page."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--prepare", action="store_true", help="stop when the pairs are there")
    given.add_argument("--quick", action="store_true", help="few rows: it shows that everything runs, and its figures say nothing")
    asked = given.parse_args()
    folder, progress = Path("review_rewrites_quick" if asked.quick else "review_rewrites"), Terminal()
    workspace = folder / ".planish"
    folder.mkdir(exist_ok=True)
    for name in ("reviews_sft.yaml", "reviews.yaml"):
        shutil.copy(HERE / name, folder / name)
    if not (folder / "reviews.jsonl").is_file():
        reviews.write_reviews(folder / "reviews.jsonl")
    first, trained, gold = QUICK if asked.quick else SIZES
    rows, tone, agreed = sentences(folder / "reviews.jsonl", first + trained + gold)
    write(folder / "rewrites.jsonl", [{"prompt": row["prompt"], "completion": row["own"]} for row in rows[:first]])
    if not (folder / "sft").is_dir():
        trained_first(start_of(Recipe.load(folder / "reviews_sft.yaml"), first), workspace, folder / "sft", progress)
    if not (folder / "pairs.json").is_file():
        write_pairs(rows[first:], trained, tone, folder, progress)
    if asked.prepare:
        return 0
    done = three_runs(Recipe.load(folder / "reviews.yaml"), workspace, progress)
    systems = answered(done, lambda report: judged(report, {row["own"]: row["label"] for row in rows}, tone))
    counts = read_json(folder / "pairs.json")
    made = (
        f"{len(rows)} sentences of real customer reviews (the rows of planish data reviews), {first} of them for SFT; each was made wordy by rule, and the task is to say it in "
        f"no more words than the reviewer did. Then {counts['pairs']} pairs from other reviews: chosen is the reviewer's own sentence, rejected the model's first rewrite of "
        f"{SAMPLES} at temperature 1 that breaks a rule ({counts['own']} of them), else a spoilt one; {counts['right']:.0%} of its rewrites break none. {gold} sentences of "
        f"reviews of their own are gold. The rules: {', '.join(rewrites.FAULTS)}. The classifier of the tone learnt from reviews that are not rewritten, and is right on "
        f"{agreed:.0%} of the others' sentences; those that it reads otherwise than people do were left out."
    )
    page = bare_markdown(
        "DPO on rewrites of review sentences",
        [Paragraph(f"Made by python examples/preferences/reviews.py with SmolLM2-135M-Instruct on {doctor.machine()}."), Paragraph(made)],
        [
            *sections(done, systems, WORDS),
            Section("Which rules the rewrites break", [broken(systems), Paragraph("Shares of the gold sentences; a rewrite may break several.")]),
            Section("Length and margin", [Paragraph(line) for line in health(done, counts, folder)]),
            Section("Again", [Code("python examples/preferences/reviews.py")]),
        ],
    )
    (folder / "report.md").write_text(page, encoding="utf-8")
    print(page)
    return 0


def start_of(recipe: Recipe, rows: int) -> Recipe:
    """The recipe of the SFT start with the least gold that says anything, whatever the number of rows: nothing is read off it."""
    split = recipe.data.split.model_copy(update={"gold": LEAST_GOLD / rows})
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"split": split})})


def sentences(path: Path, count: int) -> tuple[list[Row], classifier.Fitted, float]:
    """Sentences with their wordy twins in the order of their reviews, so that SFT, pairs and gold share none; the classifier of the tone, and how often it is right."""
    read = read_rows(path, shape=row_shape("classification"), group_by=reviews.GROUP_BY).accepted
    rated = [row for row in read if isinstance(row, LabelRow) and abs(row.extra["rating"]) >= CLEAR]
    order = list(dict.fromkeys(row.group for row in rated))
    Random(7).shuffle(order)
    judges = set(order[: int(JUDGES * len(order))])
    tone = classifier.fit([row for row in rated if row.group in judges], ("negative", "positive"), encoder=classifier.NGRAMS)
    others = sorted((row for row in rated if row.group not in judges), key=lambda row: order.index(row.group))
    clear = [row for row, said in zip(others, tone.predict([row.text for row in others]), strict=True) if row.label == said]
    found: dict[str, Row] = {}
    for row in clear:
        if rewrites.usable(row.text):
            wordy = rewrites.wordy(row.text, Random(row.id))
            prompt = TASK.format(wordy=wordy, most=len(rewrites.words(row.text)))
            found.setdefault(row.text, {"prompt": prompt, "own": row.text, "wordy": wordy, "label": row.label})
    return list(found.values())[:count], tone, len(clear) / len(others)


def write_pairs(rows: list[Row], trained: int, tone: classifier.Fitted, folder: Path, progress: Progress) -> None:
    """`pairs.jsonl` and `gold.jsonl`: the reviewer's sentence and, of the model's rewrites, the first that breaks a rule, else a spoilt one. `pairs.json`: the counts."""
    said = own_answers(folder / "sft", [row["prompt"] for row in rows], SAMPLES, TOKENS, progress)
    pairs, right, seen = [], 0, Counter[str]()
    for row, texts in zip(rows, said, strict=True):
        found = {text: rewrites.faults(text, row["own"], row["label"], tone.predict([text])[0]) for text in texts if text}
        right += sum(text in found and not found[text] for text in texts)
        wrong = next((text for text, faults in found.items() if faults), None)
        seen.update(found[wrong] if wrong else [])
        rejected = wrong or rewrites.spoilt(row["own"], row["wordy"])
        pairs.append({"prompt": row["prompt"], "chosen": row["own"], "rejected": rejected, "pair": "its own rewrite" if wrong else "spoilt"})
    write(folder / "pairs.jsonl", pairs[:trained])
    write(folder / "gold.jsonl", pairs[trained:])
    own = sum(pair["pair"] == "its own rewrite" for pair in pairs[:trained])
    counts = {"pairs": len(pairs[:trained]), "own": own, "right": right / (SAMPLES * len(rows)), "faults": dict(seen)}
    (folder / "pairs.json").write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
    progress.say(
        f"  {own} of {len(pairs[:trained])} pairs reject a rewrite of its own; {counts['right']:.1%} of its {SAMPLES * len(rows):,} rewrites break no rule"
    )


def judged(report: EvalReport, labels: dict[str, str], tone: classifier.Fitted) -> EvalReport:
    """The report with `rewrite.score`, 1 where a rewrite breaks no rule, and a share for each rule."""
    read = tone.predict([score.answer or "" for score in report.scores])
    scores = []
    for score, said in zip(report.scores, read, strict=True):
        wrong = rewrites.faults(score.answer or "", score.target, labels[score.target], said)
        detail = {WORDS.score: float(not wrong)} | {f"rewrite.{fault}": float(fault in wrong) for fault in rewrites.FAULTS}
        scores.append(score.model_copy(update={"detail": score.detail | detail}))
    return report.model_copy(
        update={"scores": scores, "metrics": report.metrics | tally(scores, (WORDS.score, *(f"rewrite.{fault}" for fault in rewrites.FAULTS)))}
    )


def broken(systems: dict[str, EvalReport]) -> Table:
    """How often each rule is broken, and how often the answer is the reviewer's sentence to the letter."""
    lines = [
        [SAID[name], str(report.metrics["verifier.score"]), *(f"{report.metrics[f'rewrite.{fault}'].value:.3f}" for fault in rewrites.FAULTS)]
        for name, report in systems.items()
    ]
    return Table(["system", "the reviewer's sentence", *rewrites.FAULTS], lines)


def health(done: dict[str, dict[str, Path]], counts: dict[str, Any], folder: Path) -> list[str]:
    """Whether the pairs could teach a length, and whether the run's figures say that its margin collapsed."""
    words = read_json(done["dpo"]["prepare"] / "findings" / "preferences.json")["words"]
    points = [json.loads(line) for line in (done["dpo"]["train"] / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    found = preference_state.states([{"loss": point["loss"], **point["metrics"]} for point in points])
    seen = ", ".join(f"{fault} {counts['faults'].get(fault, 0)}" for fault in rewrites.FAULTS)
    return [
        f"The better answer has {words['better']:.1f} words and the worse {words['worse']:.1f}; it is the shorter in {words['better_is_shorter']:.0%} of the pairs and the longer "
        f"in {words['better_is_longer']:.0%} (check preferences).",
        f"Rules that the model's own rejected rewrites break, gold included: {seen}.",
        *(
            f"The DPO run from step {one.since_step} on: {one.state.replace('_', ' ')}; {one.evidence}" + (f"; {one.fix}" if one.fix else "") + "."
            for one in found
        ),
    ]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PlanishError as refused:
        print(refused, file=sys.stderr)
        sys.exit(refused.exit_code)
