"""The drawings of a report, as SVG: no script, no network."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from planish.lazy import require
from planish.report.blocks import Figure
from planish.scores import Metric

BLUE, RED, GREY = "#3b6ea5", "#c1553b", "#8a94a3"


def _spread(figure: Metric) -> list[list[float]]:
    """How far an interval reaches below and above its value. Where every row scores the same, the mean of a resample rounds to the other side of the mean of all: 0 then."""
    low, high = (figure.value if end is None else end for end in (figure.low, figure.high))
    return [[max(0.0, figure.value - low)], [max(0.0, high - figure.value)]]


def ladder(figures: Sequence[tuple[str, Metric]], metric: str, tuned: str, *, in_order: bool = False, bar: float | None = None) -> Figure:
    """Every system's metric with its interval, the best on top, or `in_order` the last; the tuned one, or the one to ship, in red; `bar` is what is to be cleared."""
    ordered = list(figures) if in_order else sorted(figures, key=lambda pair: pair[1].value if pair[1].higher_is_better else -pair[1].value)
    plot, axes = _figure(height=0.4 * len(ordered) + 0.9)
    for place, (system, figure) in enumerate(ordered):
        axes.errorbar(figure.value, place, xerr=_spread(figure), fmt="o", color=RED if system == tuned else BLUE, capsize=3)
    if bar is not None:
        axes.axvline(bar, color=GREY, linewidth=1, linestyle="--")
    axes.set_yticks(range(len(ordered)), [system for system, _ in ordered])
    share = all(0 <= figure.value <= 1 for _, figure in ordered)
    axes.set(xlabel=f"{metric} with 95 % interval", **({"xlim": (0, 1)} if share else {}))
    return _svg(plot, "ladder: " + ", ".join(f"{system} {figure.value:.3f}" for system, figure in ordered))


def curves(steps: Sequence[dict[str, Any]]) -> Figure:
    """Training and validation loss over steps."""
    plot, axes = _figure()
    axes.plot([step["step"] for step in steps], [step["loss"] for step in steps], color=BLUE, linewidth=1.2, label="training")
    checks = [(step["step"], step["validation_loss"]) for step in steps if step["validation_loss"] is not None]
    if checks:
        axes.plot(*zip(*checks, strict=True), color=RED, marker="o", markersize=4, linewidth=1.2, label="validation")
    axes.set(xlabel="step", ylabel="loss per trained token (nats)")
    axes.legend(frameon=False)
    return _svg(plot, f"loss over {len(steps)} steps, from {steps[0]['loss']:.3f} to {steps[-1]['loss']:.3f}")


def confusion(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> Figure:
    """Right labels down, answers across; the last column holds what was no label at all."""
    columns = [*labels, "(none)"]
    plot, axes = _figure(height=0.34 * len(labels) + 1.6, width=min(9.0, 0.34 * len(columns) + 2.6))
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    if len(labels) <= 20:
        for down, row in enumerate(counts):
            for across, count in enumerate(row):
                if count:
                    axes.text(across, down, str(count), ha="center", va="center", fontsize=7, color="white" if shares[down][across] > 0.6 else "#1c2430")
    axes.set(xlabel="answered", ylabel="right")
    return _svg(plot, f"confusion of {len(labels)} labels")


def slices(names: Sequence[tuple[str, Metric, bool]], overall: float) -> Figure:
    """The worst slices with their intervals; grey where there are too few rows to say much."""
    plot, axes = _figure(height=0.32 * len(names) + 0.9)
    for place, (_, figure, thin) in enumerate(reversed(names)):
        axes.errorbar(figure.value, place, xerr=_spread(figure), fmt="o", color=GREY if thin else BLUE, capsize=3)
    axes.axvline(overall, color=RED, linewidth=1)
    axes.set_yticks(range(len(names)), [name for name, _, _ in reversed(names)], fontsize=8)
    axes.set(xlabel="mean score with 95 % interval; the line is the whole gold set", xlim=(0, 1))
    return _svg(plot, "worst slices: " + ", ".join(f"{name} {figure.value:.2f}" for name, figure, _ in names[:5]))


def pareto(files: Sequence[tuple[str, float, Metric, bool]], measure: str) -> Figure:
    """Files by size in bytes and by what they lose; red ones are beaten by no other in both. Their names stand beside the axes, in the order of the loss, tied to their dots."""
    plot, axes = _figure(height=max(3.2, 0.19 * len(files) + 0.6))
    for _, size, lost, front in files:
        axes.errorbar(size / 1e6, lost.value, yerr=_spread(lost), fmt="o", color=RED if front else BLUE, capsize=3)
    axes.set(xlabel="MB", ylabel=f"{measure},\n95 % interval")
    bottom, top = axes.get_ylim()
    in_order = sorted(files, key=lambda file: file[2].value)
    places = _apart([(file[2].value - bottom) / (top - bottom) for file in in_order], 1 / max(12, len(files)))
    for (name, size, lost, _), place in zip(in_order, places, strict=True):
        line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.4, "relpos": (0, 0.5)}
        axes.annotate(name, (size / 1e6, lost.value), xytext=(1.03, place), textcoords="axes fraction", va="center", fontsize=8, arrowprops=line)
    return _svg(plot, "size and loss: " + ", ".join(f"{name} {size / 1e6:.1f} MB {lost.value:.4f}" for name, size, lost, _ in files))


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """Rising places moved up until neighbours are `gap` apart, and down again where that leaves [0, 1]."""
    found = list(places)
    for index in range(1, len(found)):
        found[index] = max(found[index], found[index - 1] + gap)
    for index in reversed(range(len(found))):
        found[index] = min(found[index], 1.0 if index == len(found) - 1 else found[index + 1] - gap)
    return found


def _figure(height: float = 2.8, width: float = 7.2) -> tuple[Any, Any]:
    figure = require("matplotlib.figure", extra="report").Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any, label: str) -> Figure:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return Figure(text[text.index("<svg") :], label)
