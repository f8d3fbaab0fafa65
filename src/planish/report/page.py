"""The report as one page: HTML that opens offline and prints, and the same sections as Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from planish.recipe import Recipe
from planish.recipe_yaml import as_yaml
from planish.report import package, sections
from planish.report.blocks import Block, Code, Figure, Paragraph, Section, Table
from planish.report.findings import Findings


def content(found: Findings) -> list[Section]:
    """Every section in the order of what a reader wants to know."""
    parts = [
        sections.ladder(found),
        sections.gate(found),
        sections.pretraining(found),
        sections.general(found),
        sections.losses(found),
        sections.slices(found),
        sections.confusion(found),
        sections.constrained(found),
        sections.metrics(found),
        sections.costs(found),
        sections.training(found),
        package.package(found),
        package.endpoint(found),
        sections.purpose(found),
        sections.data(found),
        sections.limits(found),
        sections.stages(found),
        _again(found),
    ]
    return [part for part in parts if part is not None]


def _again(found: Findings) -> Section:
    """The recipe, the versions, and the command that makes it all again."""
    said = Paragraph(f"recipe {found.run['recipe_sha256'][:16]}, planish {found.run['code_version']}; save it as recipe.yaml and give:")
    return Section("Recipe", [said, Code("planish run recipe.yaml"), Code(as_yaml(Recipe.model_validate(found.run["recipe"])))])


def html_page(found: Findings) -> str:
    """One file: no network, no script."""
    return bare_html(_title(found), sections.headline(found), content(found))


def markdown_page(found: Findings) -> str:
    """The same for a repository or a model card; a figure is its description."""
    return bare_markdown(_title(found), sections.headline(found), content(found))


def bare_html(title: str, head: Sequence[Block], parts: Sequence[Section]) -> str:
    """Any sections under a title."""
    named = html.escape(title)
    body = "".join(map(_html, head))
    body += "".join(f"<section><h2>{html.escape(part.title)}</h2>{''.join(map(_html, part.blocks))}</section>" for part in parts)
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{named}</title><style>{_STYLE}</style><main><h1>{named}</h1>{body}</main></html>'


def bare_markdown(title: str, head: Sequence[Block], parts: Sequence[Section]) -> str:
    """The same as Markdown."""
    shown = [f"# {_plain(title)}", *map(_markdown, head)]
    for part in parts:
        shown += [f"## {_plain(part.title)}", *map(_markdown, part.blocks)]
    return "\n\n".join(shown) + "\n"


def _title(found: Findings) -> str:
    return f"{found.run['name']}: {found.run['id']}"


def _html(block: Block) -> str:
    e = html.escape
    match block:
        case Paragraph(text, kind):
            return f'<p class="{kind}">{e(text)}</p>' if kind != "plain" else f"<p>{e(text)}</p>"
        case Table(header, rows):
            head = "".join(f"<th>{e(cell)}</th>" for cell in header)
            body = "".join("<tr>" + "".join(f"<td>{e(cell)}</td>" for cell in row) + "</tr>" for row in rows)
            return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        case Figure(svg, label):
            return f'<figure role="img" aria-label="{e(label)}">{svg}</figure>'
        case Code(text):
            return f"<pre><code>{e(text)}</code></pre>"


def _markdown(block: Block) -> str:
    match block:
        case Paragraph(text, kind):
            said = _plain(text)
            return f"**{said}**" if kind in ("verdict", "warning") else f"_{said}_" if kind == "missing" else said
        case Table(header, rows):
            head, rule = "| " + " | ".join(map(_cell, header)) + " |", "|" + "---|" * len(header)
            return "\n".join([head, rule, *("| " + " | ".join(map(_cell, row)) + " |" for row in rows)])
        case Figure(_, label):
            return f"Figure: {_plain(label)}"
        case Code(text):
            return "\n".join("    " + line for line in text.splitlines())


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: answers and labels are untrusted."""
    line = " ".join(text.split())
    line = re.sub(r"([\\`*<|~]|(?<!\w)_|_(?!\w)|\](?=[(\[:]))", r"\\\1", line)
    return re.sub(r"^([#+-]+(?=\s)|>|\d+(?=[.)]\s))", r"\\\1", line)


def _cell(text: str) -> str:
    return _plain(text) or " "


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:0;color:#1c2430;background:#fff}main{max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem;border-bottom:1px solid #d5dbe3}p{margin:.4rem 0}.verdict{font-size:1.15rem;font-weight:600}"
    ".warning{background:#fbe9e4;border-left:4px solid #c1553b;padding:.5rem 1rem}.missing{color:#6b7686;font-style:italic}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums;display:block;overflow-x:auto}"
    "th,td{text-align:left;vertical-align:top;padding:.25rem .8rem .25rem 0;border-bottom:1px solid #e6eaf0}td{overflow-wrap:break-word;max-width:28rem}"
    "pre{background:#f4f6f9;padding:.6rem .8rem;overflow-x:auto;font-size:.85rem}figure{margin:1rem 0}svg{max-width:100%;height:auto}"
    "@media print{main{max-width:none;margin:0}section,figure,tr{break-inside:avoid}pre{white-space:pre-wrap}}"
    "@media(prefers-color-scheme:dark){body{background:#14181f;color:#dfe5ee}figure{background:#fff;border-radius:4px}.warning{background:#43241c}"
    "th,td{border-color:#2a323d}pre{background:#1d242e}}"
)
