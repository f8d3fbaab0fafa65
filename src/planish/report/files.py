"""The files of a package side by side: size, what each lost against its source, speed, and which are beaten by no other (MISSION Z6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from planish.report.blocks import Block, Paragraph, Table
from planish.report.plots import pareto
from planish.scores import Metric


def front(files: Sequence[tuple[float, float]]) -> list[bool]:
    """For each (bytes, loss) whether no other file is at most as large and loses at most as much, and is better in one of the two."""
    return [not any(other[0] <= size and other[1] <= lost and other != (size, lost) for other in files) for size, lost in files]


def standing(entry: dict[str, Any]) -> str:
    """Whether a file may ship."""
    return "UNPROVEN" if "unproven" in entry else "passed" if entry["passed"] else "NOT passed"


def unkept(entry: dict[str, Any]) -> str:
    """Why a file has no figure of what it kept."""
    return "not measured" if "unproven" in entry else "undefined"


def blocks(entries: Sequence[dict[str, Any]]) -> list[Block]:
    """The table, the drawing where there are several files, and the smallest file that passed and is beaten by no other."""
    figures = [{name: Metric.model_validate(figure) for name, figure in entry["figures"].items()} for entry in entries]
    compared = [index for index, own in enumerate(figures) if "kl" in own]
    best = dict(zip(compared, front([(entries[index]["bytes"], figures[index]["kl"].value) for index in compared]), strict=True))
    header = [
        "file",
        "MB",
        "bits",
        "quality retained",
        "KL (nats)",
        "same next token",
        "perplexity (source)",
        "load s",
        "tokens/s",
        "memory MB",
        "run by",
        "rules",
    ]
    found: list[Block] = [Table(header, [_row(entry, own) for entry, own in zip(entries, figures, strict=True)])]
    if len(compared) > 1:
        shown = [(entries[index]["file"], float(entries[index]["bytes"]), figures[index]["kl"], best[index]) for index in compared]
        found.append(pareto(shown, "KL to the source in nats"))
    fit = [entries[index] for index in compared if best[index] and entries[index]["passed"]]
    if fit:
        smallest = min(fit, key=lambda entry: float(entry["bytes"]))
        found.append(Paragraph(f"the smallest that passed, and no other is both smaller and nearer to the source: {smallest['file']}"))
    return found


def _row(entry: dict[str, Any], own: dict[str, Metric]) -> list[str]:
    def shown(name: str, form: str, scale: float = 1.0) -> str:
        return format(own[name].value / scale, form) if name in own else "not measured"

    size = [entry["file"], f"{entry['bytes'] / 1e6:.1f}", f"{entry['bits_per_weight']:.2f}"]
    kept = str(own["quality_retained"]) if "quality_retained" in own else unkept(entry)
    near = [
        str(own["kl"]) if "kl" in own else "not measured",
        shown("top1_agreement", ".3f"),
        f"{shown('perplexity', '.3f')} ({shown('source_perplexity', '.3f')})",
    ]
    speed = [shown("load_seconds", ".1f"), shown("tokens_per_second", ".1f"), shown("memory", ".0f", 1e6)]
    return [*size, kept, *near, *speed, entry.get("runtime") or "nothing here", standing(entry)]
