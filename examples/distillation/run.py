"""A 135M model into its own 24-layer copy: six layers taken out, then distilled from the whole model, against plain fine-tuning on the same rows as the control.

Rows are docstrings of Python's standard library, which every machine has. Works in the folder `distillation`; given again, it goes on where it stopped. About eight minutes
on two cores; `--prepare` only writes the rows. Writes report.md there. Exits 0 when everything ran, whatever the verdict.

`--on-policy` then trains a student that also learns from its own answers, about twenty minutes more, and writes on_policy.md.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import on_policy

from planish import Recipe, capture, doctor, pipeline, prune, retained
from planish.data import dataset
from planish.errors import PlanishError
from planish.evidence.recovered import recovery
from planish.evidence.retained import quality_retained
from planish.model import bundled
from planish.model.chat import Chat
from planish.model.closeness import closeness
from planish.model.load import load
from planish.model.trained import open_trained
from planish.pipeline import RunOutcome
from planish.progress import Progress, Terminal
from planish.recipe_keys import Use
from planish.recipe_yaml import as_yaml
from planish.report.blocks import Code, Paragraph, Section, Table
from planish.report.page import bare_markdown
from planish.scores import EvalReport, Metric
from planish.stages._context import read_json
from planish.stages._prune import Removal

HERE = Path(__file__).parent
TEACHER = "smollm2-135m-instruct"
LAYERS = 6
COMPARED = 100
"""Gold rows whose every token is predicted by a student and by the teacher."""
SHORTEST, LONGEST, OF_A_MODULE = 200, 700, 20
MODULES = """
    argparse ast asyncio base64 bisect calendar cmd codecs collections concurrent.futures configparser contextlib copy csv ctypes datetime decimal
    difflib dis doctest email.message enum filecmp fileinput fractions ftplib functools getopt getpass gettext glob gzip hashlib heapq hmac html
    http.client http.server imaplib importlib.util inspect io ipaddress itertools json linecache locale logging lzma mailbox math mimetypes
    multiprocessing netrc numbers operator optparse os os.path pathlib pdb pickle pickletools platform plistlib poplib pprint profile pstats pyclbr queue
    random re sched secrets select selectors shelve shlex shutil signal smtplib socket socketserver sqlite3 ssl stat statistics string struct subprocess
    symtable sys sysconfig tarfile tempfile textwrap threading time timeit token tokenize trace traceback tracemalloc types typing unicodedata unittest
    unittest.mock urllib.parse urllib.request urllib.robotparser uuid wave weakref webbrowser wsgiref.util xml.dom.minidom xml.etree.ElementTree xml.sax
    xmlrpc.client xmlrpc.server zipapp zipfile zipimport zlib
""".split()  # noqa: SIM905 (a hundred names are read as words)
_STORED = "Bytes are those of the files as they lie: full training leaves fp32, the teacher's file is fp16. At equal precision the student has 113 of 135 million weights, 0.84."
METRIC, HELD_OUT = "perplexity.perplexity", "general.perplexity"


def main() -> int:
    """Rows, a smaller copy, the teacher's word, two students, one page."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--prepare", action="store_true", help="only write the rows")
    given.add_argument("--on-policy", action="store_true", help="also a student that learns from its own answers, on a page of its own")
    asked = given.parse_args()
    folder, progress = Path("distillation"), Terminal()
    folder.mkdir(exist_ok=True)
    workspace = folder / ".planish"
    shutil.copy(HERE / "student.yaml", folder / "student.yaml")
    if not (folder / "rows.jsonl").is_file():
        print(f"{write(folder / 'rows.jsonl')} docstrings")
    if asked.prepare:
        return 0
    student = Recipe.load(folder / "student.yaml")
    names = folder / "runs.json"
    if not names.is_file() or not asked.on_policy:
        page, ran = three(student, folder, workspace, progress)
        names.write_text(json.dumps(ran) + "\n", encoding="utf-8")
        (folder / "report.md").write_text(page, encoding="utf-8")
        print(page)
    if asked.on_policy:
        page = on_policy.page(on_policy.recipe(student, TEACHER), read_json(names), METRIC, HELD_OUT, workspace, progress)
        (folder / "on_policy.md").write_text(page, encoding="utf-8")
        print(page)
    return 0


def three(student: Recipe, folder: Path, workspace: Path, progress: Progress) -> tuple[str, dict[str, str]]:
    """The teacher, the distilled student and its control; gives the page and the names of their runs."""
    whole = student.model_copy(update={"model": TEACHER, "train": [], "gate": None})
    if not (folder / "pruned").is_dir():
        cut(folder, whole, workspace, progress)
    print(capture.capture(student, capture.How(teacher=TEACHER, k=30, temperatures=(1.0,)), folder / "capture", workspace=workspace, progress=progress).text())
    control = student.model_copy(update={"train": [student.train[0].model_copy(update={"objective": Use(name="sft")})]})
    runs: dict[str, RunOutcome] = {}
    for name, recipe in {"teacher": whole, "kd": student, "sft": control}.items():
        progress.say(f"--- {name}")
        runs[name] = pipeline.run(recipe, workspace=workspace, until="gate" if recipe.train else "baseline", progress=progress)
    return written(folder, workspace, runs, progress), {name: run.run_id for name, run in runs.items()}


def write(path: Path) -> int:
    """Docstrings of the standard library as answers to what they describe, each once; gives their number."""
    rows, seen = [], set[str]()
    for module in MODULES:
        fresh = [(name, said) for name, said in docstrings(module) if said not in seen][:OF_A_MODULE]
        seen |= {said for _, said in fresh}
        for name, said in fresh:
            turns = [{"role": "user", "content": f"What is {name} of Python's standard library?"}, {"role": "assistant", "content": said}]
            rows.append({"messages": turns, "module": module})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return len(rows)


def docstrings(module: str) -> Iterator[tuple[str, str]]:
    """Public classes and functions of a module, and their methods, with what their docstrings say; nothing where this Python was built without it."""
    try:
        found = vars(importlib.import_module(module))
    except ImportError:
        return
    for name in sorted(name for name in found if not name.startswith("_")):
        parts = vars(found[name]) if inspect.isclass(found[name]) else {}
        own = {name: found[name]} | {f"{name}.{part}": parts[part] for part in sorted(parts) if not part.startswith("_")}
        for called, value in own.items():
            said = inspect.getdoc(value) if callable(value) else None
            if said and SHORTEST <= len(said) <= LONGEST:
                yield f"{module}.{called}", said


def cut(folder: Path, whole: Recipe, workspace: Path, progress: Progress) -> None:
    """`pruned`: the model without the six layers that change their input least on the training rows."""
    (folder / "teacher.yaml").write_text(as_yaml(whole), encoding="utf-8")
    model = bundled.locate(TEACHER)
    text = prune.text_of(folder / "teacher.yaml", model, workspace, progress)
    done, agreed, fertility = prune.run(model, folder / "pruned", prune.Request(removal=Removal(layers=LAYERS, by="influence")), text, progress)
    progress.say(prune.text(done, agreed, fertility))


def written(folder: Path, workspace: Path, runs: dict[str, RunOutcome], progress: Progress) -> str:
    """The page: what the cut broke, what each student won back, and whether the distilled one should ship."""
    at = {name: {stage: done.folder for stage, done in run.stages.items() if done.folder is not None} for name, run in runs.items()}
    names = {name: run.run_id for name, run in runs.items()}
    asked = {"teacher": f"{names['teacher']}:prompt", "pruned": f"{names['kd']}:prompt", "sft": names["sft"], "kd": names["kd"]}
    found = {name: retained.answered(one, workspace) for name, one in asked.items()}
    answers, gold = {name: one.report for name, one in found.items()}, found["teacher"].gold
    groups = None if gold is None else gold.groups
    general = {"teacher": ("teacher", "baseline"), "pruned": ("kd", "baseline"), "sft": ("sft", "evaluate"), "kd": ("kd", "evaluate")}
    text = {name: EvalReport.model_validate(read_json(at[run][stage] / "general.json")) for name, (run, stage) in general.items()}
    near = agreement(folder, at, progress)
    damage = 1 - near["pruned"].value
    rows = []
    for name, report in answers.items():
        same = near.get(name)
        rows.append(
            [
                SAID[name],
                str(report.metrics[METRIC]),
                "" if same is None else str(quality_retained(report, answers["teacher"], METRIC, groups=groups)),
                "" if same is None else str(same),
                f"{1 - (1 - same.value) / damage:.0%}" if same is not None and name != "pruned" else "",
                str(text[name].metrics[HELD_OUT]),
                "" if same is None else str(quality_retained(text[name], text["teacher"], HELD_OUT)),
            ]
        )
    judged = retained.judge(asked["kd"], asked["teacher"], asked["sft"], METRIC, workspace=workspace)
    over = judged.over_control
    won = [f"{SAID[name]}: {recovery(answers['teacher'], answers['pruned'], answers[name], METRIC, groups=groups).sentence}" for name in ("sft", "kd")]
    won.append(f"distilled minus fine-tuned, {METRIC}: {over.difference:+.3f} [{over.low:+.3f}, {over.high:+.3f}] on {over.n} rows; less is better")
    header = [
        "system",
        "perplexity of gold answers",
        "kept of the teacher",
        "same next token as the teacher",
        "won back",
        "perplexity of held-out text",
        "kept of the teacher",
    ]
    trained = read_json(at["kd"]["train"] / "report.json")
    made = (
        f"Rows are docstrings of Python's standard library; {len(answers['kd'].scores)} of modules that were not trained are gold. {LAYERS} of 30 layers were taken out by "
        f"influence. Both students train all their weights on the same {trained['rows']} rows ({trained['trained_tokens']:,} scored tokens), one epoch, one seed."
    )
    verdict = Section(
        "Should the student ship",
        [*(Paragraph(line, "verdict" if place == 0 else "plain") for place, line in enumerate(retained.text(judged).splitlines())), Paragraph(_STORED)],
    )
    return bare_markdown(
        "Distillation into a 24-layer copy",
        [Paragraph(f"Made by python examples/distillation/run.py with SmolLM2-135M-Instruct on {doctor.machine()}."), Paragraph(made)],
        [
            Section("What the cut broke and what came back", [Table(header, rows), Paragraph(_READING), *map(Paragraph, won)]),
            verdict,
            Section("Again", [Code("python examples/distillation/run.py")]),
        ],
    )


SAID = {"teacher": "teacher, 30 layers", "pruned": "cut to 24 layers", "sft": "fine-tuned, 24 layers (control)", "kd": "distilled, 24 layers"}
_READING = (
    "Values with their 95 % intervals, over rows. Kept: teacher's perplexity over the student's, paired. Same next token: of every token of "
    f"{COMPARED} gold dialogues; won back: the share of the cut's damage to it. Held-out text: paragraphs of the language reference, of which no row was made."
)


def agreement(folder: Path, at: dict[str, dict[str, Path]], progress: Progress) -> dict[str, Metric]:
    """How often each student would say the teacher's next token, in dialogues that it was not trained on."""
    data = dataset.read(at["teacher"]["prepare"])
    chat = Chat.load(bundled.locate(TEACHER))
    held = [row for row in dataset.every_row(data, "gold")][:COMPARED]
    sequences = [chat.trained(turns.messages, turns.tools).ids for turns in map(data.task.conversation, held)]
    teacher = load(bundled.locate(TEACHER), "fp32")
    found = {}
    for name in ("pruned", "sft", "kd"):
        model: Any = load(folder / "pruned", "fp32") if name == "pruned" else open_trained(folder / "pruned", at[name]["train"], "fp32")
        with progress.bar(f"next tokens, {name}", len(sequences)) as advance:
            found[name] = closeness(teacher, model, sequences, advance)["top1_agreement"]
    return found


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PlanishError as refused:
        print(refused, file=sys.stderr)
        sys.exit(refused.exit_code)
