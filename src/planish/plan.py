"""`planish plan`: what a recipe's training takes in memory, term by term, whether it fits a machine, and the cheapest change that makes it fit (MISSION T7, T8)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planish import plan_probe
from planish.errors import InputError, Problem, did_you_mean
from planish.model import memory, memory_activations, memory_objective, oom_ladder
from planish.model.calibration import remember, remembered
from planish.model.machine import USABLE, Machine
from planish.model.machine import here as this_machine
from planish.model.memory_estimate import GB, Estimate, describe
from planish.model.memory_setup import Setup, Shape
from planish.recipe import Recipe
from planish.recipe_keys import bytes_of
from planish.recipe_train import TrainSection
from planish.stages import _files

DEVICES = {
    "RTX 3060": 12, "RTX 3090": 24, "RTX 4060": 8, "RTX 4070": 12, "RTX 4080": 16, "RTX 4090": 24, "RTX 5090": 32,
    "T4": 16, "L4": 24, "A10": 24, "L40S": 48, "A100 40GB": 40, "A100 80GB": 80, "H100": 80, "H200": 141,
}  # fmt: skip
"""Memory of common devices in GB, as their makers state it."""


@dataclass(frozen=True)
class Planned:
    """One training entry: its sizes, what is trained, the estimate, and the way to fit. `factor` is what a probe on this machine measured; None where none has run."""

    entry: int
    shape: Shape
    setup: Setup
    formula: str
    estimate: Estimate
    descent: oom_ladder.Descent
    machine: Machine
    factor: float | None

    @property
    def fits(self) -> bool:
        """Whether the upper end of the error bar is within the machine's memory."""
        return self.estimate.high <= self.machine.bytes


def machine(device: str | None, size: str | None) -> Machine:
    """The named device, a size such as 24GB, or this machine. Raises InputError for a device that is not in the table and for a size that is none."""
    if device is not None and size is not None:
        raise InputError(Problem("--device and --memory", "both given", "keep one"))
    if device is not None:
        asked = device.lower().replace(" ", "").removeprefix("nvidia").removeprefix("geforce")
        found = next((name for name in DEVICES if name.lower().replace(" ", "") == asked), None)
        if found is None:
            raise InputError(Problem("--device", f'"{device}" is not in the table', did_you_mean(device, DEVICES) + "; or give --memory 24GB"))
        return Machine(found, "cuda", DEVICES[found] * GB * USABLE)
    this = this_machine()
    if size is None:
        return this
    try:
        return Machine(f"{size.strip()} of memory", this.kind, float(bytes_of(size)))
    except ValueError:
        raise InputError(Problem("--memory", f'"{size}" is no size', "write 24GB, or 512MB")) from None


def plan(recipe: Recipe, where: Machine) -> list[Planned]:
    """Every training entry of the recipe. Raises InputError where it trains nothing, for an unknown architecture, and where no row can be trained on."""
    if not recipe.train:
        raise InputError(Problem("train", "the recipe trains nothing", "add a train entry"))
    from planish.model import bundled

    folder = bundled.locate(recipe.model, recipe.source.parent if recipe.source else None)
    return [_entry(number, recipe, section, folder, where) for number, section in enumerate(recipe.train)]


def _entry(number: int, recipe: Recipe, section: TrainSection, folder: Path, where: Machine) -> Planned:
    from planish.model import entry_memory, planned_rows

    found = entry_memory.sized(section, folder, recipe.data.labels)
    rows = planned_rows.of(recipe, section, folder)
    setup = entry_memory.brought(entry_memory.setup_of(section, found.trained, rows.micro, where.kind), _files.placed(recipe, section), rows.longest)
    factor = remembered(setup)
    estimate = memory.estimate(found.shape, setup, factor=factor)
    descent = oom_ladder.descend(found.shape, setup, where.bytes, factor=factor)
    return Planned(number, found.shape, setup, found.trained.formula, estimate, descent, where, factor)


def micro_batch(recipe: Recipe, section: TrainSection, folder: Path) -> tuple[int, int, int]:
    """(rows, tokens a row, trained tokens a row) of a full micro-batch. Raises InputError where no row can be trained on."""
    from planish.model import planned_rows

    return planned_rows.of(recipe, section, folder).micro


def text(planned: list[Planned]) -> str:
    """The table of terms, the verdict, and what to change, in 100 columns and plain words."""
    return "\n\n".join(_text(one) for one in planned)


def _text(one: Planned) -> str:
    setup, found = one.setup, one.estimate
    lines = [
        f"train[{one.entry}] {setup.technique}, {setup.precision}, {setup.optimizer}: {setup.trainable:,} parameters trained; "
        f"a micro-batch of {setup.micro} x {setup.length} tokens, {setup.rows} rows a step"
    ]
    lines += [f"  {term.name:<12} {size(term.bytes):>9}  {term.formula}" for term in found.terms]
    basis = "corrected by a probe here" if one.factor else "no probe has run here: --measure"
    lines.append(f"  {'peak':<12} {size(found.total):>9}  estimated, up to {size(found.high)} ({basis})")
    lines.append(
        f"  {found.dominant.name} is the largest part; all logits at once would be {size(found.naive_logits)}, our head keeps {size(found.bytes('logits'))}"
    )
    if one.fits:
        return "\n".join([*lines, f"  fits {one.machine.name}: {size(one.machine.bytes)} usable"])
    lines.append(f"  does not fit {one.machine.name}: {size(one.machine.bytes)} usable")
    lines.append(
        "  the cheapest change that fits:" if one.descent.fits else f"  nothing makes it fit; the smallest takes {size(one.descent.estimate.high)}, with:"
    )
    for lever in last_of_each(one.descent.levers):
        leave = "by itself" if lever.kind in oom_ladder.AUTOMATIC else "asks you: it is another experiment"
        lines.append(f"    lever {lever.number} {lever.name} ({leave}): {lever.change}")
    if one.descent.fits:
        lines.append(f"  then the peak is {size(one.descent.estimate.total)}, up to {size(one.descent.estimate.high)} (estimated)")
    return "\n".join(lines)


def last_of_each(levers: tuple[oom_ladder.Lever, ...]) -> list[oom_ladder.Lever]:
    """A lever that was pulled several times, as it stands in the end."""
    return list({lever.kind: lever for lever in levers}.values())


def as_json(planned: list[Planned]) -> list[dict[str, Any]]:
    """The same for a program."""
    return [
        {
            "entry": one.entry,
            "label": one.estimate.label,
            "setup": vars(one.setup) | {"tokens": one.setup.tokens},
            "trained": {"parameters": one.setup.trainable, "formula": one.formula},
            "terms": describe(one.estimate.terms),
            "total": one.estimate.total,
            "high": one.estimate.high,
            "dominant": one.estimate.dominant.name,
            "naive_logits": one.estimate.naive_logits,
            "machine": vars(one.machine),
            "factor": one.factor,
            "fits": one.fits,
            "change": {
                "fits": one.descent.fits,
                "asks": one.descent.asks,
                "total": one.descent.estimate.total,
                "levers": [lever.event() | {"automatic": lever.kind in oom_ladder.AUTOMATIC, "recipe": lever.change} for lever in one.descent.levers],
            },
        }
        for one in planned
    ]


def size(bytes: float) -> str:
    """Bytes for people."""
    return f"{bytes / GB:.2f} GB" if bytes >= GB else f"{bytes / 1e6:.1f} MB"


@dataclass(frozen=True)
class Probed:
    """One entry as it was predicted and as two real steps took it, in bytes, without a teacher and a rollout. `factor` is measured over predicted for what is not weights and
    their state; None, and kept nowhere, where that is too small a part to be told from the process's own noise, or where nothing could be predicted."""

    entry: int
    predicted: float | None
    peak: plan_probe.Peak
    factor: float | None


TELLING = 0.1
"""Share of the predicted peak that activations, logits and temporaries must have for a probe to say anything of them."""


def measure(recipe: Recipe, here: Machine) -> list[Probed]:
    """Two steps of every entry in a process of its own on this machine; what was measured corrects later plans of the same kind.

    Raises InputError for another machine than this one, and RunFailed where it does not fit.
    """
    if here.name != this_machine().name:
        raise InputError(Problem("--measure", f"runs on this machine, not on {here.name}", "leave out --device and --memory"))
    from planish.model import bundled

    folder = bundled.locate(recipe.model, recipe.source.parent if recipe.source else None)
    found = []
    for number, section in enumerate(recipe.train):
        planned = _known(number, recipe, section, folder, here)
        setup = planned.setup if planned else _unknown(recipe, section, folder, here)
        peak = plan_probe.measure(folder, section.adapter.name, section.adapter.options, setup)
        found.append(compared(number, planned, peak))
    return found


def _known(number: int, recipe: Recipe, section: TrainSection, folder: Path, here: Machine) -> Planned | None:
    """The plan; None for an architecture or a technique of which nothing is known."""
    from planish.model import memory_shape

    try:
        memory_activations.check_technique(section.adapter.name)
        memory_shape.read(folder)
    except InputError:
        return None
    return _entry(number, recipe, section, folder, here)


def _unknown(recipe: Recipe, section: TrainSection, folder: Path, here: Machine) -> Setup:
    """What a probe needs to know of an entry whose sizes cannot be planned."""
    from planish.model import entry_memory

    return entry_memory.setup_of(section, None, micro_batch(recipe, section, folder), here.kind)


def compared(number: int, planned: Planned | None, peak: plan_probe.Peak) -> Probed:
    """Predicted against measured; the factor between them is kept in the user's cache where it tells something."""
    if planned is None:
        return Probed(number, None, peak, None)
    setup = memory_objective.alone(planned.setup)  # the probe's steps ask no teacher and write no rows
    found = memory.estimate(planned.shape, setup)
    predicted = memory.estimate(planned.shape, setup, factor=planned.factor).total - found.bytes("process") + peak.process
    factor = factor_of(planned.shape, setup, peak)
    if factor is None or _fluid(found) < TELLING * predicted:
        return Probed(number, predicted, peak, None)
    remember(planned.setup, factor, measured=peak.steps, predicted=predicted)
    return Probed(number, predicted, peak, factor)


def factor_of(shape: Shape, setup: Setup, peak: plan_probe.Peak) -> float | None:
    """Measured over predicted of activations, logits and temporaries; None where the weights and their state alone were predicted higher than the peak."""
    found = memory.estimate(shape, setup)
    fluid = _fluid(found)
    measured = peak.steps - peak.process - (found.total - found.bytes("process") - fluid)
    return measured / fluid if measured > 0 and fluid else None


def _fluid(found: Estimate) -> float:
    return sum(found.bytes(name) for name in memory.FLUID)


def probed_text(probed: list[Probed]) -> str:
    """Predicted against measured, a line an entry."""
    lines = []
    for one in probed:
        said = f"predicted {size(one.predicted)} (estimated), " if one.predicted is not None else "nothing can be predicted of this model, "
        kept = f"; activations, logits and temporaries take {one.factor:.2f} times the plain formula here: kept for later plans" if one.factor else ""
        lines.append(f"train[{one.entry}] {said}measured {size(one.peak.steps)} (two steps; {size(one.peak.process)} of it before them){kept}")
    return "\n".join(lines)
