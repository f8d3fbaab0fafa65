"""The tuned model as plain weights, for whatever reads no adapter: merged into the base that the recipe names, and held against the adapter beside its base (MISSION A5, A12)."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from planish import shelf
from planish.data import dataset
from planish.data.tree import Sequence
from planish.errors import InputError, Problem
from planish.model import adapter_folder, trained
from planish.model.chat import Chat, Refused
from planish.model.merge import STAYS
from planish.recipe import Recipe
from planish.store.objects import write_folder

ASKED = 4
"""Training rows that the merged model and the attached adapter are both asked."""


class Plain(NamedTuple):
    """A checkpoint folder, and the LoRA folder that is still to be merged as it is read, tensor by tensor. `apart`: nats between merged and attached answers, where it was
    merged."""

    checkpoint: Path
    adapter: Path | None
    apart: float | None = None


def refusals(recipe: Recipe) -> list[Problem]:
    """What cannot be made plain weights of: an adapter that stays beside its base, and a 4-bit base that there was none of."""
    assert recipe.compress is not None
    if not recipe.train:
        return []
    last, found = recipe.train[-1], []
    if (recipe.compress.export or recipe.compress.prune or recipe.compress.merges) and not shelf.find("adapters", last.adapter.name).load().MERGES:
        kind, reason = next((kind, reason) for kind, reason in STAYS.items() if kind.startswith(last.adapter.name.upper()))
        found.append(Problem("compress.export", f"{kind} cannot be merged: {reason}", "leave compress out, or train lora"))
    if recipe.compress.into == "dequantised":
        if not last.four_bit:
            found.append(Problem("compress.merge", "dequantised is for a base in 4 bits, and train has none", "set four_bit: true there, or merge: original"))
        if any(entry.adapter != last.adapter for entry in recipe.train):
            fix = "merge: original, or give every entry the same adapter"
            found.append(Problem("compress.merge", "entries with different adapters are merged into the original base between them", fix))
    return found


def plain(recipe: Recipe, base: Path, tuned: Path, prepared: Path, work: Path) -> Plain:
    """What exporters read. A plain LoRA for the original base is left to them, so that no more than a tensor is in memory; anything else is merged whole into `work`.

    Raises RunFailed where the merged weights answer otherwise than the adapter beside its base.
    """
    assert recipe.compress is not None
    if (tuned / "model").is_dir():
        return Plain(tuned / "model", None)
    into, config = recipe.compress.into, adapter_folder.read_config(tuned / "adapter")
    if into == "original" and config.get("peft_type") == "LORA" and not config.get("use_dora"):
        return Plain(base, tuned / "adapter")
    apart: list[float] = []

    def fill(folder: Path) -> None:
        merged: Any
        merged, off = trained.merged_and_checked(base, tuned, _rows(prepared, Chat.load(base)), into)
        merged.save_pretrained(folder, safe_serialization=True)
        Chat.load(base).save(folder)
        apart.append(off)

    return Plain(write_folder(work / f"merged-{into}", fill), None, *apart)


def _rows(prepared: Path, chat: Chat) -> list[Sequence]:
    """A few training rows as dialogues."""
    data = dataset.read(prepared)
    found = []
    for row in islice(data.rows("train"), 10 * ASKED):
        try:
            found.append(chat.trained(data.task.conversation(row).messages))
        except (Refused, InputError):  # said by the train stage
            continue
    return found[:ASKED]
