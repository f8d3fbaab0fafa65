"""A climb for people: a table in the terminal, one HTML page and the same in Markdown, the sentence to act on first."""

from __future__ import annotations

from pathlib import Path

from planish import rules
from planish.climb import Climbed
from planish.evidence.ladder import Rung
from planish.report import plots
from planish.report.blocks import Block, Code, Paragraph, Section, Table, cut
from planish.report.page import bare_html, bare_markdown
from planish.store.objects import write_atomic

WORDS = {"clears": "clears", "undecided": "undecided", "misses": "misses", "screened_out": "ruled out", "failed": "failed"}


def show(found: Climbed) -> None:
    """Print the ladder and what to ship."""
    from rich.console import Console
    from rich.table import Table as Drawn

    out = Console(highlight=False, markup=False)
    table = Drawn(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(_HEADER[:4]):
        table.add_column(column, justify="right" if index == 2 else "left", no_wrap=True)
    for rung in found.climb.rungs:
        table.add_row(*_row(rung)[:4])
    out.print(f"\ngoal: {found.climb.goal}, {found.climb.gold_rows} gold rows")
    out.print(table)
    out.print(f"\n{found.climb.reason}")


def write(found: Climbed) -> Path:
    """`climb.html` and `climb.md` beside `climb.json`. Gives the path of the page."""
    path = found.folder / "climb.html"
    title, parts = f"Climb to {found.climb.goal}", _sections(found)
    head: list[Block] = [Paragraph(found.climb.reason, "verdict")]
    write_atomic(path, bare_html(title, head, parts).encode())
    write_atomic(path.with_suffix(".md"), bare_markdown(title, head, parts).encode())
    return path


_HEADER = ("rung", "", "value", "95 % interval", "over the best below", "gold rows")
_MEASURED = "times are of all draws of a rung together, with what it fits before it answers; all measured"
_COSTS = ("rung", "time a row", "tokens a row", "training", "peak memory", "kept beside the base", "to undo")


def _row(rung: Rung) -> list[str]:
    metric, gain = rung.metric, rung.gain
    interval = f"[{metric.low:.3f}, {metric.high:.3f}]" if metric is not None and metric.low is not None and metric.high is not None else ""
    over = "" if gain is None else f"{gain.difference:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]" + ("" if rung.earned else ", not earned")
    return [rung.name, WORDS[rung.outcome], "" if metric is None else f"{metric.value:.3f}", interval, over, str(rung.rows)]


def _cost(rung: Rung) -> list[str]:
    """What the rung took, measured; nothing where it was not."""
    cost = rung.cost
    return [
        rung.name,
        "" if cost.seconds_per_answer is None else f"{1000 * cost.seconds_per_answer:.0f} ms",
        "" if cost.tokens_per_answer is None else f"{cost.tokens_per_answer:.0f}",
        "" if cost.train_seconds is None else f"{cost.train_seconds:.0f} s",
        "" if cost.peak_bytes is None else f"{cost.peak_bytes / 1e9:.2f} GB",
        "" if cost.artifact_bytes is None else f"{cost.artifact_bytes / 1e6:.3g} MB",
        cost.undo,
    ]


def _sections(found: Climbed) -> list[Section]:
    rungs = found.climb.rungs
    figures = [(rung.name, rung.metric) for rung in rungs if rung.metric is not None]
    metric = found.climb.goal.split()[0]
    drawn: list[Block] = [plots.ladder(figures, metric, found.climb.ship, in_order=True, bar=rules.parse(found.climb.goal).offset)] if figures else []
    why = Table(["rung", "decided on"], [[rung.name, cut(rung.why, 300)] for rung in rungs])
    skipped = [Paragraph("not tried, as a cheaper rung clears the goal: " + ", ".join(found.climb.skipped))] if found.climb.skipped else []
    limits = [
        f"{found.climb.gold_rows} gold rows; each rung is held against the goal at 5 %: were all {len(rungs)} below it, "
        f"one would pass by luck at most {min(100, 5 * len(rungs))} times of 100",
        "a rung that was ruled out was asked fewer rows: its value is no estimate of the whole set",
        "a dearer rung is shipped only if it gains at least what was asked over the best below it, with an interval above 0",
        "one training seed; times and memory are those of this machine (measured)",
    ]
    runs = Code("\n".join(f"planish show {run}  # {name}" for name, run in found.runs.items()))
    return [
        Section("Rungs, from cheap to dear", [Table(_HEADER, [_row(rung) for rung in rungs]), *drawn, *skipped]),
        Section("Why", [why]),
        Section(
            "What each took",
            [
                Table(_COSTS, [_cost(rung) for rung in rungs]),
                Paragraph("times are of all draws of a rung together, with what it fits before it answers; measured"),
            ],
        ),
        Section("Limits", [Paragraph(text) for text in limits]),
        Section("Go on", [*([Code("planish run recipe.yaml")] if found.climb.ship else []), runs]),
    ]
