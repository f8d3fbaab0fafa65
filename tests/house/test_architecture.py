"""The house: imports go down, never up; no cycle; shelf files do not know each other; what is written about the tree is true."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from planish import shelf
from planish.events import STAGES

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "planish"

FLOORS: list[list[str]] = [
    [
        "errors",
        "lazy",
        "rows",
        "events",
        "scores",
        "rules",
        "python_source",
        "shelf",
        "recipe_keys",
        "recipe_data",
        "recipe_train",
        "recipe_evaluate",
        "recipe_compress",
        "recipe_serve",
        "recipe_file",
        "recipe_problems",
        "recipe",
        "recipe_yaml",
    ],
    ["progress", "store"],
    ["evidence", "data", "model"],
    list(shelf.SHELVES),
    ["server", "stages"],
    [
        "pipeline",
        "check",
        "gold_page",
        "blind",
        "decode_sweep",
        "merge_greedy",
        "merge_tasks",
        "merge",
        "prune",
        "retained",
        "report",
        "doctor",
        "plan_probe",
        "plan",
        "compress",
        "diagnose",
        "advise",
        "climb",
        "probe",
        "capture",
        "cli",
        "__main__",
    ],
]
"""Nouns, contracts, substrate, shelves, stages, faces. A file imports from floors below and from earlier names on its own floor. `server` is the gateway that the
serve stage starts; its entry point, `server/__main__`, is a face."""

FACES = {"planish.server.__main__": "faces"}


def modules() -> dict[str, Path]:
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of planish that this one imports while it loads or later; type-only imports count too, except in the package root, which is lazy."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in known else node.module for alias in node.names}
    return {target for target in found if target in known and target != name}


def place(module: str) -> tuple[int, int]:
    """(floor, place on the floor) of a module."""
    if module in FACES:
        return (len(FLOORS) - 1, 99)
    top = module.split(".")[1]
    for floor, names in enumerate(FLOORS):
        if top in names:
            return (floor, names.index(top))
    raise AssertionError(f"{module} has no floor")


def test_imports_go_down() -> None:
    known = modules()
    wrong = []
    for name, path in known.items():
        if name == "planish" or "migrations" in name:
            continue
        for target in imports(name, path, known) - {"planish"}:
            if name.split(".")[1] == target.split(".")[1] and name not in FACES:
                continue  # within one package; the cycle test holds it
            if place(target) >= place(name):
                wrong.append(f"{name} imports {target}")
    assert not wrong


def test_no_cycle() -> None:
    known = modules()
    graph = {name: imports(name, path, known) - {"planish"} for name, path in known.items() if name != "planish"}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way, name])
        if name not in done:
            for target in graph[name]:
                visit(target, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_shelf_files_do_not_know_each_other() -> None:
    known = modules()
    for name in shelf.SHELVES:
        for module in (m for m in known if m.startswith(f"planish.{name}.")):
            assert not {t for t in imports(module, known[module], known) if t.startswith(f"planish.{name}.")}, module


def test_every_stage_has_its_file() -> None:
    assert sorted(path.stem for path in (SOURCE / "stages").glob("[a-z]*.py")) == sorted(STAGES)


@pytest.mark.parametrize("name", [f"{shelf_name}/{technique}" for shelf_name in shelf.SHELVES for technique in shelf.shelf(shelf_name)])
def test_every_technique_reads_as_its_schema(name: str) -> None:
    """One line says what it is; its functions are there; every recipe key is typed and has a vetted default unless it cannot; options round-trip."""
    shelf_name, _, technique_name = name.partition("/")
    technique = shelf.find(shelf_name, technique_name)
    assert 20 <= len(technique.summary) <= 180
    assert technique.summary.endswith((".", ")"))
    defined = {node.name for node in ast.parse(technique.path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}
    assert set(shelf.SHELVES[shelf_name]) <= defined
    required = {key: "x" for key, (_, default) in technique.keys.items() if default is ...}
    assert technique.options(required).keys() == technique.keys.keys()


def test_importing_a_recipe_brings_nothing_heavy() -> None:
    """`planish check` works on a base install: no torch, no transformers, no database, no web framework."""
    code = "import sys, planish.recipe, planish.cli; print(sorted({'torch', 'transformers', 'peft', 'sklearn', 'scipy', 'sqlalchemy', 'fastapi'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "[]"


def test_public_names() -> None:
    import planish

    assert planish.__all__ == sorted(planish.__all__)
    assert all(getattr(planish, name) is not None for name in planish.__all__)
    with pytest.raises(AttributeError):
        planish.nothing  # noqa: B018


def test_readme_tree_is_the_tree() -> None:
    """Every file of src/planish stands in README's tree with its first docstring line, and nothing else does."""
    from tests.house.tree import tree

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert tree(SOURCE) in text, "write README's tree anew: python -m tests.house.tree"


@pytest.mark.parametrize("name", [f"{shelf_name}/{technique}" for shelf_name in shelf.SHELVES for technique in shelf.shelf(shelf_name)])
def test_every_technique_has_its_page(name: str, tmp_path: Path) -> None:
    """Six headings, the Keys block as the signature says, and a recipe line that the recipe loader takes."""
    from tests.house.pages import HEADINGS, page, with_keys

    from planish.recipe import Recipe

    technique = shelf.find(*name.split("/"))
    text = page(technique).read_text(encoding="utf-8")
    assert [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")] == list(HEADINGS)
    assert with_keys(text, technique) == text, "write the Keys blocks anew: python -m tests.house.pages"
    assert technique.summary in text
    if "```yaml\n" in text:
        line = text.partition("```yaml\n")[2].partition("```")[0]
        (tmp_path / "recipe.yaml").write_text("recipe: 1\nmodel: m\n" + ("" if line.startswith("data:") else "data: {path: rows.jsonl}\n"), encoding="utf-8")
        with (tmp_path / "recipe.yaml").open("a", encoding="utf-8") as out:
            out.write(line.replace("data: {", "data: {path: rows.jsonl, ") if line.startswith("data:") else line)
        Recipe.load(tmp_path / "recipe.yaml")
