"""Continued pretraining on the Python documentation, judged: domain and general loss, and a task on pages that were never trained, with and without it.

The sources come from the Debian package python3.11-doc (`apt-get install python3.11-doc`), or from --sources. Works in the folder `python_docs`; given again, it goes on where
it stopped. About an hour on two cores; `--prepare` only writes rows and documents. Exits 0 when all stages up to the gate ran, whatever the verdict.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

from planish import Recipe, pipeline
from planish.errors import PlanishError
from planish.progress import Terminal

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
    print(write(pages, asked.sources, folder))
    shutil.copy(HERE / "recipe.yaml", folder / "recipe.yaml")
    if asked.prepare:
        return 0
    try:
        done = pipeline.run(Recipe.load(folder / "recipe.yaml"), workspace=folder / ".planish", until="gate", progress=Terminal())
    except PlanishError as refused:
        print(refused, file=sys.stderr)
        return refused.exit_code
    made = done.stages["gate"].folder
    assert made is not None  # the gate ran, or an error was raised
    print(json.loads((made / "stage_report.json").read_text(encoding="utf-8"))["sentence"])
    return 0


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
