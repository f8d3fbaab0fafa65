"""What the comparisons with llmcompressor share: its Python, a model, rows to calibrate on, others to compare on, and how far a folder's predictions are from the model's."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any, NamedTuple

import claims
import rows

from planish.model.bundled import locate
from planish.model.calibration_pass import Calibration
from planish.model.chat import Chat
from planish.model.closeness import closeness
from planish.model.cut_folder import Source, write_cut
from planish.model.load import load
from planish.model.units import whole, without_layers
from planish.rows import Message

GROUP = 64
CALIBRATED, COMPARED = 128, 64
LONGEST = 96
"""Tokens of a row; what is behind them is left out."""
QUICK = 12
"""Rows of each kind, and the first two layers alone, where it is only shown that it runs."""
BAR = 1.01


class Given(NamedTuple):
    """The rows' origin, the model, rows that neither side sees before, and our pass over the others, which stand in `rows.json` for the peer."""

    name: str
    checkpoint: Path
    held: list[tuple[int, ...]]
    calibration: Calibration


def peer_python() -> str:
    """The Python that has llmcompressor. Exits with 2 where none is named."""
    named = os.environ.get("PLANISH_LLMCOMPRESSOR_PYTHON")
    if named is None:
        print(
            "PLANISH_LLMCOMPRESSOR_PYTHON names no Python with llmcompressor: make an environment of its own and install llmcompressor==0.14.0.1 there",
            file=sys.stderr,
        )
        raise SystemExit(2)
    return named


def given(place: Path, report: claims.Report, quick: bool) -> Given:
    """What both sides get, counted in the report; `quick` is few rows and two layers."""
    folder = locate("smollm2-135m-instruct")
    name, calibrated, held = texts(folder, *((QUICK, QUICK) if quick else (CALIBRATED, COMPARED)))
    checkpoint = small(folder, place / "small") if quick else folder
    (place / "rows.json").write_text(json.dumps(calibrated), encoding="utf-8")
    report.counted(name, "text", rows=len(calibrated), tokens=sum(map(len, calibrated)), held_rows=len(held), held_tokens=sum(map(len, held)))
    return Given(name, checkpoint, held, Calibration(checkpoint, None, calibrated, place / "grams"))


def texts(folder: Path, calibrated: int, compared: int) -> tuple[str, list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Where rows are from; those to calibrate on and others to compare on, rendered as in training."""
    chat, solved = Chat.load(folder), rows.solutions(calibrated + compared)
    if solved:
        said = [(Message(role="user", content=question), Message(role="assistant", content=answer)) for question, answer in solved]
        found, name = [tuple(chat.trained(messages).ids) for messages in said], "GSM8K"
    else:
        found, name = [tuple(one.sequences[0].ids) for one in rows.reviews(folder, calibrated + compared)], "reviews"
    if not found:
        raise SystemExit("neither GSM8K nor the reviews are on this machine: run the demonstration once, which fetches the reviews")
    cut = [ids[:LONGEST] for ids in found]
    return name, cut[:calibrated], cut[calibrated:]


def small(checkpoint: Path, place: Path) -> Path:
    """Its first two layers."""
    source = Source(checkpoint)
    place.mkdir()
    write_cut(source, without_layers(whole(source.units), (0, 1)), place, lambda _: None)
    return place


def divergences(source: Any, folder: Path, held: Seq[Seq[int]]) -> list[float]:
    """Mean KL of each row, nats a token."""
    other = load(folder, "fp32")
    return [closeness(source, other, [ids])["kl"].value for ids in held]
