"""Training checkpoints: complete or absent, safetensors and JSON only, and enough in them that a resumed CPU run is bit-identical (MISSION T10).

A checkpoint holds whole tensors whatever number of ranks wrote it, so that a run saved by two ranks goes on in one process, and back (MISSION X6).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from planish.errors import InputError, Problem
from planish.model.ema import Average
from planish.model.optimizer import read_state, write_state
from planish.model.optimizer import trainable as trainable
from planish.model.ranks import ALONE, Ranks, placed, whole
from planish.store.objects import file_hash, write_folder

MANIFEST = "manifest.json"
KEEP = 2
"""So many of the newest are kept, and the best."""
SHOWN = 3
"""Of tensors that do not fit, so many are named."""
_ABSENT = "nothing"


@dataclass(frozen=True)
class Position:
    """How far a run has come: the next step, tokens seen, the best validation loss and the step of its weights, validations since then, and whether it stopped early.

    `bad` holds the rows of the last steps in a row whose loss was not finite.
    """

    step: int
    tokens: int
    best: float | None = None
    best_step: int | None = None
    waited: int = 0
    stopped: bool = False
    bad: tuple[tuple[int, ...], ...] = ()


@dataclass
class State:
    """Everything of a run that changes while it runs. `scaler` is the fp16 loss scale (disabled in other formats)."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: Average | None
    position: Position


def save(folder: Path, state: State, meaning: dict[str, Any], ranks: Ranks = ALONE) -> Path:
    """Write `folder/step-N`; keep the last two and the best. `meaning` is what the run is (base, data, options). Every rank must call; the first one writes."""
    parameters = trainable(state.model)
    moments, counters = read_state(state.optimizer, parameters)
    tensors = {
        "weights": _whole(dict(parameters)),
        "optimizer": _whole(moments),
        "random": {f"cpu.{rank}": held for rank, held in enumerate(ranks.gather(torch.get_rng_state()))},
    }
    if state.average is not None:
        tensors["average"] = _whole(state.average.tensors)
    if torch.device(ranks.device).type == "cuda":
        tensors["random"] |= {f"cuda.{rank}": held for rank, held in enumerate(ranks.gather(torch.cuda.get_rng_state(ranks.device)))}
    final = folder / f"step-{state.position.step:08d}"

    def fill(partial: Path) -> None:
        for name, held in tensors.items():
            save_file(held, partial / f"{name}.safetensors")
        files = {path.name: file_hash(path) for path in sorted(partial.iterdir())}
        manifest = {"position": asdict(state.position), "meaning": meaning, "counters": counters, "scaler": state.scaler.state_dict(), "files": files}
        (partial / MANIFEST).write_text(json.dumps(manifest, sort_keys=True), encoding="utf-8")

    if ranks.first:
        write_folder(final, fill)
        kept = {state.position.best_step, *(step_of(path) for path in _all(folder)[-KEEP:])}
        for old in _all(folder):
            if step_of(old) not in kept:
                shutil.rmtree(old)
    ranks.wait()
    return final


def newest(folder: Path, on_damaged: Callable[[Path], None] = lambda _: None, ranks: Ranks = ALONE) -> Path | None:
    """The newest checkpoint whose files are all there and unchanged. A damaged one is set aside as `damaged-step-N`, said, and the one before is taken."""
    for candidate in reversed(_all(folder)):
        if sound(candidate):
            return candidate
        ranks.wait()
        if ranks.first:
            aside = candidate.with_name(f"damaged-{candidate.name}")
            shutil.rmtree(aside, ignore_errors=True)
            candidate.rename(aside)
            on_damaged(aside)
        ranks.wait()
    return None


def sound(checkpoint: Path) -> bool:
    """Whether every file of a checkpoint is there and has the bytes that were written."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        return all(file_hash(checkpoint / name) == digest for name, digest in manifest["files"].items())
    except (OSError, ValueError, KeyError):
        return False


def load(checkpoint: Path, state: State, meaning: dict[str, Any], ranks: Ranks = ALONE, *, may_differ: Collection[str] = ()) -> None:
    """Put a checkpoint into model, optimizer, average, scaler and random state. Raises InputError with every difference when it is another run's.

    `may_differ` are dotted keys of the meaning that are allowed to: what a lever against running out of memory has changed, and nothing else.
    """
    manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    weights = load_file(checkpoint / "weights.safetensors")
    parameters = trainable(state.model)
    other = [(key, why) for key, why in _differences(manifest["meaning"], json.loads(json.dumps(meaning))) if key not in may_differ]
    differences = [*other, *_misfits(weights, parameters)]
    if differences:
        fix = f"give back what it was begun with, or delete {checkpoint.parent} to start afresh"
        raise InputError(*(Problem(f"{checkpoint}: {key}", why, fix) for key, why in differences))
    moments = {key: _like(value, parameters[key.rpartition("|")[0]]) for key, value in load_file(checkpoint / "optimizer.safetensors").items()}
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(placed(weights[name], parameter))
    write_state(state.optimizer, parameters, moments, manifest["counters"])
    if state.average is not None:
        average = load_file(checkpoint / "average.safetensors")
        state.average.tensors = {name: placed(average[name], parameter).clone() for name, parameter in parameters.items()}
    state.scaler.load_state_dict(manifest["scaler"])
    position = manifest["position"]
    state.position = Position(**position | {"bad": tuple(tuple(rows) for rows in position["bad"])})
    _set_random(load_file(checkpoint / "random.safetensors"), state.position.step, ranks)


def load_weights(checkpoint: Path, model: nn.Module) -> None:
    """Put a checkpoint's trained weights into the model: the averaged ones where it has them."""
    average = checkpoint / "average.safetensors"
    weights = load_file(average if average.is_file() else checkpoint / "weights.safetensors")
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            parameter.copy_(placed(weights[name], parameter))


def sweep(folder: Path) -> None:
    """Remove what a kill left half written."""
    for partial in folder.glob(".step-*.partial"):
        shutil.rmtree(partial)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written, from its name."""
    return int(checkpoint.name.rpartition("-")[2])


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _whole(tensors: dict[str, Any]) -> dict[str, Tensor]:
    return {name: whole(value.detach()).contiguous() for name, value in tensors.items()}


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """A moment lies as its parameter does; a step counter, or a block's scale, is a plain tensor."""
    return placed(value, parameter) if value.shape == parameter.shape else value if value.ndim == 0 else value.to(parameter.device)


def _differences(then: Any, now: Any, key: str = "") -> list[tuple[str, str]]:
    """Every leaf in which two JSON values differ, with its dotted key."""
    if isinstance(then, dict) and isinstance(now, dict):
        return [pair for name in sorted(then.keys() | now.keys()) for pair in _differences(then.get(name, _ABSENT), now.get(name, _ABSENT), f"{key}.{name}")]
    return [] if then == now else [(key.lstrip("."), f"the checkpoint was made with {json.dumps(then)}, this run has {json.dumps(now)}")]


def _misfits(weights: dict[str, Tensor], parameters: dict[str, nn.Parameter]) -> list[tuple[str, str]]:
    """Trained tensors of another name or shape: another rank, or other targets."""
    found = [f"{name} is in the checkpoint only" for name in sorted(weights.keys() - parameters.keys())]
    found += [f"{name} is in this run only" for name in sorted(parameters.keys() - weights.keys())]
    shapes = [(name, tuple(weights[name].shape), tuple(parameters[name].shape)) for name in sorted(weights.keys() & parameters.keys())]
    found += [f"{name} is {then} in the checkpoint and {now} in this run" for name, then, now in shapes if then != now]
    more = f", and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return [("trained tensors", "; ".join(found[:SHOWN]) + more)] if found else []


def _set_random(states: dict[str, Tensor], step: int, ranks: Ranks) -> None:
    """This rank's random state; a rank that the checkpoint did not know begins one of its own."""
    if f"cpu.{ranks.rank}" in states:
        torch.set_rng_state(states[f"cpu.{ranks.rank}"])
        if f"cuda.{ranks.rank}" in states and torch.cuda.is_available():
            torch.cuda.set_rng_state(states[f"cuda.{ranks.rank}"], ranks.device)
    else:
        torch.manual_seed(step * 1_000_003 + ranks.rank)
