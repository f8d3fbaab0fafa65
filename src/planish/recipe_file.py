"""A recipe's file as a tree that knows its lines: YAML to containers, to plain values, and to the place of any key in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from planish.errors import InputError, Problem


def parsed(path: Path) -> Any:
    """The tree of a YAML file, each part with its line. Raises InputError, with the line, for a file that cannot be read or is not YAML."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(Problem(str(path), "there is no such file", "give the path of a recipe; README has one to begin with")) from None
    except (OSError, UnicodeDecodeError) as unreadable:
        raise InputError(Problem(str(path), f"cannot be read: {unreadable}", "give a UTF-8 YAML file")) from None
    try:
        return YAML(typ="rt").load(text)
    except MarkedYAMLError as broken:
        line = broken.problem_mark.line + 1 if broken.problem_mark else 1
        raise InputError(Problem(f"{path}:{line}", f"is not YAML: {broken.problem}", "check the indentation and the brackets of this line")) from None
    except YAMLError as broken:
        raise InputError(Problem(f"{path}:1", f"is not YAML: {broken}", "check the file")) from None


def plain(value: Any) -> Any:
    """Round-trip containers and scalars to plain ones; the round-trip tree is kept for its line numbers only."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def place(path: Path, tree: Any, loc: tuple[int | str, ...], line_of: tuple[int | str, ...] | None = None) -> str:
    """`FILE:LINE KEY` of a key; the line is that of the key itself, or of `line_of`."""
    return f"{path}:{_line(tree, loc if line_of is None else line_of)} {_dotted(loc)}"


def _line(tree: Any, loc: tuple[int | str, ...]) -> int:
    """1-based line of the deepest part of `loc` that stands in the file."""
    line = 0
    for key in loc:
        try:
            line = (tree.lc.key(key) if hasattr(tree, "keys") else tree.lc.item(key))[0]
            tree = tree[key]
        except (AttributeError, KeyError, IndexError, TypeError):
            continue
    return line + 1


def _dotted(loc: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")
