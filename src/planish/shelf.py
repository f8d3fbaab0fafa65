"""How a technique is found: one file, whose name, signature and first docstring line are its name, its recipe keys and its line in `planish ls`.

Files are read with `ast`, never imported, so that a recipe is checked without torch. Outside packages add to a shelf by the entry-point group `planish.<shelf>`.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from planish.errors import InputError, Problem, did_you_mean
from planish.python_source import parsed

SHELVES: dict[str, tuple[str, ...]] = {
    "checks": ("check",),
    "builders": ("build",),
    "objectives": ("encode", "loss"),
    "adapters": ("attach",),
    "solvers": ("solve",),
    "scorers": ("score",),
    "transforms": ("transform",),
    "exporters": ("export",),
    "engines": ("start",),
    "detectors": ("detect",),
}
"""Each shelf and the functions whose keyword-only parameters are the technique's recipe keys."""

OPTIONAL: dict[str, tuple[str, ...]] = {"objectives": ("frozen", "rollout")}
"""Functions whose parameters are keys too, where a technique has them: the models beside the trained one, and rows that the trained one writes itself."""

_ANNOTATIONS: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict, "Literal": Literal, "None": None}


@dataclass(frozen=True)
class Technique:
    """A technique as read from its file."""

    shelf: str
    name: str
    module: str
    path: Path
    summary: str
    keys: dict[str, tuple[Any, Any]]  # recipe key -> (type, default)
    taken: dict[str, frozenset[str]]  # function -> its keyword-only parameters
    entry: dict[str, Any] = field(default_factory=dict)  # of an objective: what an entry of the train list has where the recipe does not say
    refused: dict[str, str] = field(default_factory=dict)  # key of another tool -> what to write instead

    def options(self, given: dict[str, Any]) -> dict[str, Any]:
        """The full options: defaults with `given` over them. Raises pydantic.ValidationError on an unknown key or a wrong type."""
        return self.schema(**given).model_dump(by_alias=True)

    @cached_property
    def schema(self) -> type[BaseModel]:
        """The pydantic model of the recipe keys; unknown keys are refused."""
        # By alias, so that a key may be called `schema` or `copy`, as methods of every pydantic model are.
        fields: dict[str, Any] = {f"key_{name}": (kind, Field(default, alias=name)) for name, (kind, default) in self.keys.items()}
        return create_model(self.name, __config__=ConfigDict(extra="forbid", strict=False), **fields)

    def load(self) -> ModuleType:
        """Import the technique's file."""
        return importlib.import_module(self.module)


@cache
def shelf(name: str) -> dict[str, Technique]:
    """Every technique of a shelf by name, from what is on disk and from entry points."""
    folder = Path(__file__).parent / name
    files = {path.stem: (f"planish.{name}.{path.stem}", path) for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")}
    for entry in importlib.metadata.entry_points(group=f"planish.{name}"):
        spec = importlib.util.find_spec(entry.module)
        if spec is not None and spec.origin is not None:
            files.setdefault(entry.name, (entry.module, Path(spec.origin)))
    return {technique: _read(name, technique, module, path) for technique, (module, path) in files.items()}


def find(shelf_name: str, name: str) -> Technique:
    """The technique, or InputError with the nearest name."""
    techniques = shelf(shelf_name)
    if name not in techniques:
        raise InputError(Problem(shelf_name, f'unknown {shelf_name.rstrip("s")} "{name}"', did_you_mean(name, techniques)))
    return techniques[name]


def call(shelf_name: str, name: str, function: str, options: dict[str, Any]) -> Callable[..., Any]:
    """The technique's function with its recipe keys bound; positional arguments are the shelf's own."""
    technique = find(shelf_name, name)
    bound = getattr(technique.load(), function)
    mine = {key: value for key, value in technique.options(options).items() if key in technique.taken.get(function, ())}
    return lambda *inputs, **more: bound(*inputs, **{**mine, **more})


def _read(shelf_name: str, name: str, module: str, path: Path) -> Technique:
    tree = parsed(path.read_text(encoding="utf-8"), str(path))
    assert isinstance(tree, ast.Module)
    keys: dict[str, tuple[Any, Any]] = {}
    for function in _functions(tree):
        if function.name in (*SHELVES[shelf_name], *OPTIONAL.get(shelf_name, ())):
            for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
                kind = eval(compile(ast.Expression(_checked(argument.annotation, path)), str(path), "eval"), {"__builtins__": {}}, _ANNOTATIONS)
                keys[argument.arg] = (kind, ... if default is None else ast.literal_eval(default))
    docstring = ast.get_docstring(tree) or ""
    taken = {function.name: frozenset(argument.arg for argument in function.args.kwonlyargs) for function in _functions(tree)}
    return Technique(shelf_name, name, module, path, docstring.partition("\n")[0], keys, taken, _literal(tree, "ENTRY"), _literal(tree, "REFUSED"))


def _literal(tree: ast.Module, name: str) -> dict[str, Any]:
    """The literal that a file assigns to a name, if it does."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and [target.id for target in node.targets if isinstance(target, ast.Name)] == [name]:
            return dict(ast.literal_eval(node.value))
    return {}


def _functions(tree: ast.Module) -> list[ast.FunctionDef]:
    return [node for node in tree.body if isinstance(node, ast.FunctionDef)]


def _checked(annotation: ast.expr | None, path: Path) -> ast.expr:
    """Only a handful of type names may stand in a recipe key's annotation, so that evaluating it can do nothing else."""
    if annotation is None:
        raise TypeError(f"{path}: every recipe key needs a type")
    allowed = (ast.Name, ast.Subscript, ast.Constant, ast.Tuple, ast.BinOp, ast.BitOr, ast.Load)
    for node in ast.walk(annotation):
        if not isinstance(node, allowed) or (isinstance(node, ast.Name) and node.id not in _ANNOTATIONS):
            raise TypeError(f"{path}: {ast.unparse(annotation)} is not a type a recipe key may have")
    return annotation
