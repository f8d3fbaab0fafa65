"""README's tree, made from the files themselves. `python -m tests.house.tree` writes it into README.md between its two markers."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
WIDTH = 118


def line_of(path: Path) -> str:
    """The first docstring line of a module."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def tree(source: Path) -> str:
    """One line a file: its path and what it is for."""
    lines = []
    for path in sorted(source.rglob("*.py"), key=lambda path: (len(path.relative_to(source).parts) > 1, str(path))):
        if not path.read_text(encoding="utf-8").strip():
            continue
        name = str(path.relative_to(source))
        text = f"{name:<34} {line_of(path)}"
        lines.append(text if len(text) <= WIDTH else text[: WIDTH - 1] + "…")
    return "```\n" + "\n".join(lines) + "\n```"


if __name__ == "__main__":
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition("<!-- tree -->\n")
    _, _, after = rest.partition("<!-- /tree -->")
    readme.write_text(f"{before}<!-- tree -->\n{tree(ROOT / 'src' / 'planish')}\n<!-- /tree -->{after}", encoding="utf-8")
