"""One more student: half of each step's rows are its own answers, and the teacher says of every token of them what it would have said. The rest is distillation as before."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

from planish import Recipe, doctor, pipeline, retained
from planish.evidence.paired import compare
from planish.evidence.retained import quality_retained
from planish.progress import Progress
from planish.recipe_keys import Use
from planish.report.blocks import Code, Paragraph, Section, Table
from planish.report.page import bare_markdown
from planish.scores import EvalReport
from planish.stages._context import read_json
from planish.store import Store

ENDS = 5
"""Steps at the beginning and at the end over which figures are averaged."""
SAID = {"sft": "fine-tuned (control)", "kd": "distilled", "on policy": "distilled on its own answers too"}


def recipe(distilled: Recipe, teacher: str) -> Recipe:
    """The distilled student's recipe with the share and the length of its own answers, and the teacher beside it in the place of its captured word.

    The cut that it starts from has been asked already, and nothing is gated.
    """
    entry = distilled.train[0]
    own = {"teacher": teacher, "temperature": entry.objective.options["temperature"], "lambda_on": 0.5, "max_new_tokens": 64}
    train = [entry.model_copy(update={"objective": Use(name="on_policy_kd", options=own)})]
    return distilled.model_copy(update={"train": train, "baseline": [], "gate": None})


def page(asked: Recipe, runs: dict[str, str], metric: str, held_out: str, workspace: Path, progress: Progress) -> str:
    """Train it, and tell it beside the runs of the teacher, of `kd` and of `sft`, by their names."""
    progress.say("--- on policy")
    ran = pipeline.run(asked, workspace=workspace, until="evaluate", progress=progress)
    trained = ran.stages["train"].folder
    assert trained is not None  # nothing gates train
    names = {**runs, "on policy": ran.run_id}
    found = {name: retained.answered(f"{run}:prompt" if name == "teacher" else run, workspace) for name, run in names.items()}
    answers, gold = {name: one.report for name, one in found.items()}, found["teacher"].gold
    groups = None if gold is None else gold.groups
    store, rows = Store(workspace), []
    for name, said in SAID.items():
        text = EvalReport.model_validate(read_json(store.path(store.stages(names[name])["evaluate"]["artifact"]) / "general.json"))
        kept = quality_retained(answers[name], answers["teacher"], metric, groups=groups)
        rows.append([said, str(answers[name].metrics[metric]), str(kept), str(text.metrics[held_out])])
    lines = []
    for other in ("kd", "sft"):
        over = compare(answers["on policy"], answers[other], metric, groups=groups)
        apart = f"{over.difference:+.3f} [{over.low:+.3f}, {over.high:+.3f}] on {over.n} rows; less is better."
        lines.append(f"Distilled on its own answers too minus {SAID[other]}, {metric}: {apart}")
    shown = [
        Paragraph(told(trained, ran.stages["train"].seconds)),
        Table(_HEADER, rows),
        *map(Paragraph, lines),
        Code("python examples/distillation/run.py --on-policy"),
    ]
    return bare_markdown("On-policy distillation", [Paragraph(f"Made on {doctor.machine()}.")], [Section("The student's own answers (on-policy)", shown)])


def told(trained: Path, seconds: float) -> str:
    """How it was trained, what it wrote and what that cost, and whether it came nearer to the teacher on its own text."""
    steps = [json.loads(line) for line in (trained / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    figures = [step["metrics"] for step in steps]
    options = read_json(trained / "report.json")["objective"]["options"]
    wrote, cut = (sum(one[name] for one in figures) for name in ("sampled_tokens", "cut"))
    first, last = (fmean(one["divergence"] for one in part) for part in (figures[:ENDS], figures[-ENDS:]))
    share = fmean(one["on_policy"] for one in figures)
    took = f"training took {seconds:,.0f} s" if seconds else "it was trained before"
    return (
        f"A run of its own, on the same rows and in the same {len(steps)} steps: {share:.0%} of each step's rows are answers that the student writes as it is then, of at most "
        f"{options['max_new_tokens']} tokens, and the teacher, which is in memory, is asked about them; the others are learnt as in distillation. It wrote {wrote:,.0f} tokens, "
        f"and {cut:.0f} answers were cut at that length; {took}. Reverse KL to the teacher on its own answers: {first:.3f} nats a token in the first {ENDS} steps, {last:.3f} in "
        f"the last {ENDS}."
    )


_HEADER = ["student, 24 layers", "perplexity of gold answers", "kept of the teacher", "perplexity of held-out text"]
