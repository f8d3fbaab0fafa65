"""The learning-rate range test for people: a short table, a suggestion, and its curve as a picture (MISSION T4)."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planish.lazy import require
from planish.recipe import Recipe
from planish.store.objects import write_atomic

if TYPE_CHECKING:
    from planish.model.lr_range import RangeTest

LINES = 12


def as_json(found: RangeTest) -> dict[str, Any]:
    """`{lr, loss, smoothed, steepest, diverges, suggested, why}`."""
    return dict(vars(found))


def text(found: RangeTest) -> str:
    """At most a dozen rates with their smoothed losses, and what follows from them."""
    stride = max(1, -(-len(found.lr) // LINES))
    lines = [f"{'learning rate':>13}  loss", *(f"{rate:>13.2e}  {loss:.3f}" for rate, loss in zip(found.lr[::stride], found.smoothed[::stride], strict=True))]
    if found.steepest is not None:
        lines.append(
            f"falls steepest at {found.steepest:.2e}; " + (f"diverges from {found.diverges:.2e} on" if found.diverges else "does not diverge up to here")
        )
    lines.append(f"suggested: learning_rate: {found.suggested:.1e}" if found.suggested is not None else f"no suggestion: {found.why}")
    return "\n".join([*lines, f"measured on {len(found.lr)} steps; a short test misleads on little data"])


def write(found: RangeTest, workspace: Path, recipe: Recipe) -> Path:
    """`lr_tests/<recipe>.json` and `.svg` in the workspace; gives the picture."""
    folder = workspace / "lr_tests"
    place = folder / (recipe.source.stem if recipe.source is not None else recipe.fingerprint[:12])
    write_atomic(place.with_suffix(".json"), (json.dumps(as_json(found), indent=1) + "\n").encode())
    figure = require("matplotlib.figure", extra="report").Figure(figsize=(7.2, 2.8), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.plot(found.lr, found.loss, color="#3b6ea5", linewidth=0.8, alpha=0.5, label="loss")
    axes.plot(found.lr, found.smoothed, color="#3b6ea5", linewidth=1.6, label="smoothed")
    for name, rate, style in (("suggested", found.suggested, "-"), ("diverges", found.diverges, ":")):
        if rate is not None:
            axes.axvline(rate, color="#c1553b", linestyle=style, linewidth=1.2, label=f"{name} {rate:.1e}")
    axes.set(xlabel="learning rate", ylabel="loss per trained token (nats)", xscale="log")
    axes.legend(frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    picture = place.with_suffix(".svg")
    write_atomic(picture, out.getvalue())
    return picture
