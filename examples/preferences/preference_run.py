"""What the examples of preference tuning do alike: an SFT start, the model's own answers, DPO and its SFT control on one gold set, and the table of all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planish import Recipe, pipeline
from planish.engines import transformers
from planish.evidence import forgetting
from planish.evidence.paired import compare
from planish.model import bundled, trained
from planish.model.engine import Decoding
from planish.progress import Progress
from planish.recipe_keys import Use
from planish.report.blocks import Paragraph, Section, Table
from planish.rows import Message
from planish.scores import Comparison, EvalReport
from planish.stages._context import read_json, read_reports
from planish.store.objects import write_folder

BASE = "smollm2-135m-instruct"
AT_ONCE = 32
SAID = {"base": "the base", "sft": "after SFT", "sft again": "SFT again, on the right answers", "dpo": "DPO on the pairs"}
TOKENS, ACCURACY, MARGIN = "cost.answer_tokens", "pair_accuracy.accuracy", "pair_accuracy.margin"

Folders = dict[str, Path]
"""A run's stages and where each left its result."""


@dataclass(frozen=True)
class Words:
    """What differs from example to example: the metric that the verifier gives, its column, what a gold row is, and what its better answer is."""

    score: str
    column: str
    rows: str
    better: str


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def trained_first(recipe: Recipe, workspace: Path, out: Path, progress: Progress) -> None:
    """`sft`: the base with what SFT made of it in its weights."""
    progress.say("--- sft")
    trained_in = pipeline.run(recipe, workspace=workspace, until="train", progress=progress).stages["train"].folder
    assert trained_in is not None  # nothing gates train
    write_folder(out, lambda partial: trained.write_merged(bundled.locate(BASE), trained_in / "adapter", partial, "original"))


def own_answers(folder: Path, questions: list[str], samples: int, tokens: int, progress: Progress) -> list[list[str]]:
    """What the model of a folder answers to each question, `samples` times at temperature 1, at most `tokens` long."""
    engine = transformers.start(folder, exact=False)
    prompts = [engine.chat.prompt((Message(role="user", content=question),)) for question in questions]
    said: list[list[str]] = [[] for _ in questions]
    with progress.bar("the model's own answers", samples * len(questions)) as advance:
        for seed in range(samples):
            for start in range(0, len(questions), AT_ONCE):
                part = engine.generate(prompts[start : start + AT_ONCE], Decoding(max_new_tokens=tokens, temperature=1.0, seed=seed))
                for place, answer in enumerate(part, start=start):
                    said[place].append(answer.text.strip())
                advance(len(part))
    engine.close()
    return said


def three_runs(recipe: Recipe, workspace: Path, progress: Progress) -> dict[str, Folders]:
    """The base, SFT on the better answers, and the recipe's DPO, all on the recipe's gold."""
    again = recipe.train[0].model_copy(update={"objective": Use(name="sft"), "learning_rate": 2e-4})
    asked_of = {
        "base": recipe.model_copy(update={"model": BASE, "train": [], "gate": None}),
        "sft again": recipe.model_copy(update={"train": [again]}),
        "dpo": recipe,
    }
    done: dict[str, Folders] = {}
    for name, one in asked_of.items():
        progress.say(f"--- {name}")
        ran = pipeline.run(one, workspace=workspace, until="gate" if one.train else "baseline", progress=progress)
        done[name] = {stage: outcome.folder for stage, outcome in ran.stages.items() if outcome.folder is not None}
    return done


def answered(done: dict[str, Folders], judged: Callable[[EvalReport], EvalReport] = lambda report: report) -> dict[str, EvalReport]:
    """Every system's answers to the gold rows; `judged` may add figures to a report."""
    found = {"base": read_reports(done["base"]["baseline"])["prompt"], "sft": read_reports(done["dpo"]["baseline"])["prompt"]}
    for name in ("sft again", "dpo"):
        (found[name],) = read_reports(done[name]["evaluate"]).values()
    return {name: judged(report) for name, report in found.items()}


def sections(done: dict[str, Folders], systems: dict[str, EvalReport], words: Words) -> list[Section]:
    """Every system on the same gold rows, what it forgot, what the gates say."""
    base, start = systems["base"], systems["sft"]
    general = {name: EvalReport.model_validate(read_json(done[run][stage] / "general.json")) for name, (run, stage) in _GENERAL.items()}
    shown, said = [[SAID["base"], str(base.metrics[words.score]), "", "", "", f"{base.metrics[TOKENS].value:.1f}", ""]], []
    for name in ("sft again", "dpo"):
        said.append(f"{SAID[name]}: {read_json(done[name]['gate'] / 'verdict.json')['sentence']}")
    for name in ("sft", "sft again", "dpo"):
        report = systems[name]
        pairs = ["", ""] if name == "sft" else [str(report.metrics[ACCURACY]), str(report.metrics[MARGIN])]
        cells = [str(report.metrics[words.score]), wins(compare(report, base, words.score)), *pairs, f"{report.metrics[TOKENS].value:.1f}"]
        shown.append([SAID[name], *cells, change(forgetting.pooled(general["base"], general[name]))])
        if name != "sft":
            said.append(f"{SAID[name]} against where it started: {_against(report, start, words)}")
    said.append(f"dpo against SFT on the right answers of the same pairs: {_against(systems['dpo'], systems['sft again'], words)}")
    header = [
        "system",
        words.column,
        "win rate against the base",
        "preference accuracy",
        "margin, nats",
        "tokens an answer",
        "general ability against the base",
    ]
    reading = (
        f"Values with their 95 % intervals. Win rate: the share of {words.rows} that only it has right, ties half; .5 is a draw. Preference accuracy: the share of gold pairs "
        f"whose {words.better} gained more than the wrong one on the model that training started from; margin: by how much, the implicit reward over beta. One training seed."
    )
    return [
        Section(f"Every system on the same gold {words.rows}", [Table(header, shown), Paragraph(reading)]),
        Section("What the gates and the pairs say", [Paragraph(line) for line in said]),
    ]


_GENERAL = {"base": ("base", "baseline"), "sft": ("dpo", "baseline"), "sft again": ("sft again", "evaluate"), "dpo": ("dpo", "evaluate")}


def _against(candidate: EvalReport, reference: EvalReport, words: Words) -> str:
    found = compare(candidate, reference, words.score)
    return f"win rate {wins(found)}, {words.score} {change(found)}, p = {found.p_value:.2g}, on {found.n} {words.rows}"


def wins(found: Comparison) -> str:
    """The win rate with ties as half: a win is +1 and a loss -1 in the paired difference, so it is (1 + difference) / 2, ends and all."""
    return f"{(1 + found.difference) / 2:.3f} [{(1 + found.low) / 2:.3f}, {(1 + found.high) / 2:.3f}]"


def change(found: Comparison) -> str:
    """A paired difference with its interval."""
    return f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
