"""The text that compression is calibrated on: training or validation rows as the model was trained on them, never gold (MISSION Z1, R-4)."""

from __future__ import annotations

import hashlib
import heapq
from typing import Literal, NamedTuple

from planish.data.dataset import Dataset
from planish.errors import InputError
from planish.model.chat import Chat, Refused

MOST = 512
"""Sequences. GPTQ's paper takes 128 of 2,048 tokens; rows of a task are shorter."""
LONGEST = 2048
"""Tokens of a sequence; what is behind them is left out, and the sequence counted as cut."""


class CalibrationText(NamedTuple):
    """Token ids. `refused` counts rows that the template cannot write, `cut` those longer than is read; `said` are the tokens, among those read, that the model is to say."""

    sequences: list[tuple[int, ...]]
    refused: int
    cut: int
    said: int


def sequences(data: Dataset, chat: Chat, *, split: Literal["train", "validation"] = "train", most: int = MOST, longest: int = LONGEST) -> CalibrationText:
    """At most `most` rows of a split, chosen by the hash of their ids so that the order of the file moves nothing. Raises InputError for gold, which is out of reach."""
    chosen = heapq.nsmallest(most, ((hashlib.sha256(row.id.encode()).hexdigest(), row.id, row) for row in data.rows(split)), key=lambda item: item[:2])
    found: list[tuple[int, ...]] = []
    refused = cut = said = 0
    for _, _, row in chosen:
        try:
            shown = data.task.conversation(row)
            trained = chat.trained(shown.messages, shown.tools)
        except (Refused, InputError):
            refused += 1
            continue
        cut += len(trained.ids) > longest
        found.append(trained.ids[:longest])
        said += sum(weight > 0 for weight in trained.weights[:longest])
    return CalibrationText(found, refused, cut, said)
