"""How many rows, and of how many tokens, a recipe's training takes at once, told from its rows before anything is loaded; rows are as long as a rollout may make them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from planish import shelf
from planish.errors import InputError, Problem
from planish.model import dialogues
from planish.model.chat import Chat
from planish.model.entry_memory import sampled
from planish.model.measured import Measure, measure
from planish.model.row_limit import row_limit
from planish.recipe import Recipe
from planish.recipe_train import TrainSection


class PlannedRows(NamedTuple):
    """`micro`: (rows, tokens a row, trained tokens a row) of a full micro-batch; `longest`: tokens of the longest row."""

    micro: tuple[int, int, int]
    longest: int


def of(recipe: Recipe, section: TrainSection, folder: Path) -> PlannedRows:
    """Mean rows, as many as `micro_tokens` holds, or the longest row alone where it is larger. Raises InputError where no row can be trained on."""
    if section.documents is not None:
        block = int(shelf.find("objectives", section.objective.name).options(section.objective.options)["block"])
        return PlannedRows((max(1, min(section.batch_size, section.micro_tokens // block)), block, block), block)
    _, answer = sampled(section)
    rows = [row for row in measure(dialogues.of_recipe(recipe).table, Chat.load(folder)).rows if row.fault is None]
    limit = row_limit(section, folder)
    sizes = [_grown(row, answer) for row in rows if limit is None or row.length <= limit]
    if not sizes:
        raise InputError(Problem("data", f"no row can be trained on within {limit} tokens", "planish preflight says why of each"))
    lengths = [length for length, _ in sizes]
    length, longest = math.ceil(sum(lengths) / len(lengths)), max(lengths)
    micro = max(1, min(section.batch_size, section.micro_tokens // length))
    if longest > micro * length:
        micro, length = 1, longest
    share = sum(scored for _, scored in sizes) / sum(length for length, _ in sizes)
    return PlannedRows((micro, length, max(1, math.ceil(length * share))), longest)


def _grown(row: Measure, answer: int) -> tuple[int, int]:
    """(tokens, trained tokens) of a row whose last answer may be one of `answer` tokens. Of several answers it is not known where the last begins: the whole row counts."""
    prompt = row.first if row.first + row.scored == row.length else row.length
    return (row.length, row.scored) if prompt + answer <= row.length else (prompt + answer, answer)
