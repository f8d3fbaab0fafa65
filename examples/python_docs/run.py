"""Continued pretraining on the Python documentation, judged: domain and general loss, and a task on pages that were never trained, with and without it.

The sources come from the Debian package python3.11-doc (`apt-get install python3.11-doc`), or from --sources. Works in the folder `python_docs`; given again, it goes on where
it stopped. About nine minutes on two cores; `--prepare` only writes rows and documents. Writes report.md there. Exits 0 when all stages up to the gate ran, whatever the verdict.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

from planish import Recipe, doctor, pipeline
from planish.errors import PlanishError
from planish.evidence import cpt_verdict
from planish.evidence.forgetting import Forgetting
from planish.pipeline import RunOutcome
from planish.progress import Terminal
from planish.report.blocks import Code, Paragraph, Section, Table
from planish.report.page import bare_markdown
from planish.stages._context import read_json, read_reports

HERE = Path(__file__).parent
PACKAGED = Path("/usr/share/doc/python3.11/html/_sources")
KINDS = ("c-api", "howto", "library", "tutorial", "whatsnew")
ROWS_OF_A_PAGE, ROWS_OF_A_KIND = 40, 300
SHORTEST, LONGEST = 150, 600
REPEATED = 8


def main() -> int:
    """Write rows and documents, then run the recipe to its gate."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--sources", type=Path, default=PACKAGED, help="the folder with the pages' .rst.txt")
    given.add_argument("--prepare", action="store_true", help="only write rows and documents")
    asked = given.parse_args()
    pages = sorted(asked.sources.rglob("*.rst.txt"))
    if not pages:
        print(f"{asked.sources}: no *.rst.txt; apt-get install python3.11-doc, or give --sources", file=sys.stderr)
        return 2
    folder = Path("python_docs")
    rows = write(pages, asked.sources, folder)
    print(rows)
    shutil.copy(HERE / "recipe.yaml", folder / "recipe.yaml")
    if asked.prepare:
        return 0
    try:
        done = pipeline.run(Recipe.load(folder / "recipe.yaml"), workspace=folder / ".planish", until="gate", progress=Terminal())
    except PlanishError as refused:
        print(refused, file=sys.stderr)
        return refused.exit_code
    page = written(done, rows)
    (folder / "report.md").write_text(page, encoding="utf-8")
    print(page)
    return 0


def written(done: RunOutcome, rows: str) -> str:
    """The page: what the documents did to the domain's loss, to general ability and to the task, and what the gate says."""
    at = {stage: outcome.folder for stage, outcome in done.stages.items() if outcome.folder is not None}
    found = cpt_verdict.StageReport.model_validate(read_json(at["gate"] / "stage_report.json"))
    kept = Forgetting.model_validate(read_json(at["gate"] / "forgetting.json"))
    verdict = read_json(at["gate"] / "verdict.json")
    trained = read_json(at["train"] / "entries" / "0" / "report.json")
    names = list(dict.fromkeys(("base", *found.stages)))
    table = [[SAID.get(name, name), str(found.domain.get(name, "")), str(found.task.get(name, ""))] for name in names]
    table[0][2] = str(read_reports(at["baseline"])["prompt"].metrics[found.ci.metric])
    change, ci = found.domain_change, found.ci
    general = [f"{one.metric}: {one.difference:+.3f} [{one.low:+.3f}, {one.high:+.3f}] on {one.n} rows" for one in kept.suites]
    steps = [json.loads(line) for line in (at["train"] / "entries" / "0" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    moved = (
        ""
        if change is None
        else f"Domain loss after the documents, minus before, in nats a token: {change.difference:+.3f} [{change.low:+.3f}, {change.high:+.3f}]."
    )
    last = read_json(at["train"] / "report.json")["steps_done"]
    made = (
        f"{rows}; no page is both, and rows that repeat eight words of a document are left out. The first entry read {sum(step['tokens_in'] for step in steps):,} tokens of "
        f"documents and replay ({trained['replay']['loss_share']:.0%} of the loss), far under the million that is advised: {len(steps)} steps, then {last} over the task."
    )
    return bare_markdown(
        "Continued pretraining on the Python documentation",
        [
            Paragraph(found.sentence, "verdict"),
            Paragraph(f"Made by python examples/python_docs/run.py with SmolLM2-135M-Instruct on {doctor.machine()}."),
            Paragraph(made),
        ],
        [
            Section(
                "Domain and task",
                [
                    Table(["system", "perplexity of pages never trained", f"task, {ci.metric}"], table),
                    *([Paragraph(moved)] if moved else []),
                    Paragraph(_READING),
                ],
            ),
            Section("General ability against the base, after both entries", [Paragraph(kept.sentence), *map(Paragraph, general)]),
            Section("What the gate says", [Paragraph(verdict["sentence"]), *(Paragraph(f"{rule['rule']}: {rule['why']}") for rule in verdict["rules"])]),
            Section("Again", [Code("apt-get install python3.11-doc\npython examples/python_docs/run.py")]),
        ],
    )


SAID = {"base": "base, prompted", "1-cpt": "after documents", "without_cpt": "the task alone (control)", "lora": "documents, then the task"}
_READING = "Values with their 95 % intervals. The task: which part of the documentation a paragraph is from, one of five. One training seed."


def write(pages: list[Path], sources: Path, folder: Path) -> str:
    """Half of the pages, by the hash of their names, are documents; paragraphs of the other half are rows of the task. No page is both."""
    documents = folder / "documents"
    documents.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, str]]] = {kind: [] for kind in KINDS}
    named = {page.relative_to(sources).as_posix(): page for page in pages}
    trained = {name for name in named if int(hashlib.sha256(name.encode()).hexdigest(), 16) % 2}
    seen: set[tuple[str, ...]] = set()
    for name in sorted(trained):
        shutil.copy(named[name], documents / name.replace("/", "-"))
        seen |= runs(named[name].read_text(encoding="utf-8"))
    for name in sorted(named.keys() - trained):
        kind = name.partition("/")[0]
        for text in paragraphs(named[name].read_text(encoding="utf-8")) if kind in KINDS else []:
            if not runs(text) & seen:
                rows[kind].append({"text": text, "label": kind, "page": name})
                seen |= runs(text)
    chosen = [row for kind in KINDS for row in rows[kind][:ROWS_OF_A_KIND]]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen), encoding="utf-8")
    return f"{len(trained)} documents; rows: " + ", ".join(f"{kind} {len(rows[kind][:ROWS_OF_A_KIND])}" for kind in KINDS)


def runs(text: str) -> set[tuple[str, ...]]:
    """Every run of REPEATED words: pages repeat one another, and what stands in a document or in an earlier row is no question."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[at : at + REPEATED]) for at in range(len(words) - REPEATED + 1)}


def paragraphs(text: str) -> list[str]:
    """Plain prose of a page: blocks that begin at the margin with a letter and are no directive, on one line."""
    found = [" ".join(block.split()) for block in text.split("\n\n") if block[:1].isalpha() and "\n " not in block and "::" not in block and "===" not in block]
    return [block for block in found if SHORTEST <= len(block) <= LONGEST][:ROWS_OF_A_PAGE]


if __name__ == "__main__":
    sys.exit(main())
