"""The pages of the techniques: what of them is made from the code. `python -m tests.house.pages` writes the Keys blocks anew."""

from __future__ import annotations

from pathlib import Path

from planish.shelf import SHELVES, Technique, shelf

DOCS = Path(__file__).parents[2] / "docs" / "techniques"
HEADINGS = ("Solves", "When not to", "Formula", "Keys", "Recipe", "Proof")


def page(technique: Technique) -> Path:
    """Where a technique's page lies."""
    return DOCS / technique.shelf / f"{technique.name}.md"


def keys(technique: Technique) -> str:
    """The recipe keys as a table, read from the signature."""
    if not technique.keys:
        return "None."
    rows = ["| key | type | default |", "|---|---|---|"]
    for name, (kind, default) in technique.keys.items():
        shown = kind.__name__ if type(kind) is type else str(kind).replace("typing.", "").replace("|", "\\|")
        rows.append(f"| `{name}` | `{shown}` | {'required' if default is ... else f'`{default!r}`'} |")
    return "\n".join(rows)


def with_keys(text: str, technique: Technique) -> str:
    """A page with its Keys block made anew."""
    before, _, rest = text.partition("## Keys\n")
    _, _, after = rest.partition("## Recipe\n")
    return f"{before}## Keys\n\n{keys(technique)}\n\n## Recipe\n{after}"


if __name__ == "__main__":
    for name in SHELVES:
        for one in shelf(name).values():
            page(one).write_text(with_keys(page(one).read_text(encoding="utf-8"), one), encoding="utf-8")
