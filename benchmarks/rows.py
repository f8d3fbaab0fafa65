"""Token rows that the training benchmarks run on: real ones where their source is on this machine, and drawn ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import platformdirs

from planish.data.reviews import ARCHIVE, LABELS, review_rows
from planish.data.task import Task, classification
from planish.data.tree import Sequence
from planish.model.chat import Chat
from planish.model.example import Example
from planish.objectives import sft
from planish.rows import ChatRow, Message, Origin

CLINC150 = Path(__file__).parents[2] / "shared" / "data" / "clinc150" / "data_full.json"
GSM8K = Path(__file__).parents[2] / "shared" / "data" / "gsm8k" / "train.jsonl"


def reviews(folder: Path, count: int) -> list[Example]:
    """Rows of the demonstration, with its prompt: an instruction that all share, a sentence, one of three labels. Empty where their archive was never fetched."""
    archive = platformdirs.user_cache_path("planish") / ARCHIVE
    rows = review_rows(archive.read_bytes()) if archive.is_file() else []
    return _drawn(folder, [(str(row["text"]), str(row["label"])) for row in rows], classification(list(LABELS)), count)


def clinc150(folder: Path, count: int) -> list[Example]:
    """Short requests and one of 150 intents, under a one-line instruction. Empty where the data set is absent."""
    rows = json.loads(CLINC150.read_text(encoding="utf-8"))["train"] if CLINC150.is_file() else []
    labels = sorted({label for _, label in rows})
    return _drawn(folder, rows, classification(labels, "Name the intent of this message."), count) if rows else []


def _drawn(folder: Path, rows: list[tuple[str, str]], task: Task, count: int) -> list[Example]:
    """`count` rows drawn over all of them, rendered and encoded as in training."""
    if not rows:
        return []
    chat, origin = Chat.load(folder), Origin(file="rows", line=1, sha256="")
    picked = np.random.default_rng(0).choice(len(rows), count, replace=False)
    texts = [rows[int(index)] for index in picked]
    return [sft.encode(ChatRow(id=text, origin=origin, messages=(*task.prompt(text), Message(role="assistant", content=label))), chat) for text, label in texts]


def solutions(count: int) -> list[tuple[str, str]]:
    """Grade-school questions and worked solutions, drawn over all of them. Empty where the data set is absent."""
    rows = [json.loads(line) for line in GSM8K.read_text(encoding="utf-8").splitlines()] if GSM8K.is_file() else []
    picked = np.random.default_rng(0).choice(len(rows), count, replace=False) if rows else []
    return [(rows[int(index)]["question"], rows[int(index)]["answer"]) for index in picked]


def ragged(count: int, vocabulary: int, median: float = 64.0, sigma: float = 0.7, scored: float = 0.25) -> list[Example]:
    """Drawn rows that share nothing: log-normal lengths, the last quarter scored. What is left of a ratio here owes nothing to the prefix tree."""
    draw = np.random.default_rng(0)
    made = []
    for length in np.clip(draw.lognormal(np.log(median), sigma, count).round().astype(int), 8, 1024):
        own = max(1, round(scored * length))
        ids = draw.integers(3, vocabulary, int(length))
        made.append(_example(ids.tolist(), own))
    return made


def under_prefix(prefix: int, count: int, own: int, scored: int, vocabulary: int) -> list[Example]:
    """`count` rows of `own` tokens under one prefix, the last `scored` of each trained."""
    draw = np.random.default_rng(0)
    shared = draw.integers(3, vocabulary, prefix).tolist()
    return [_example(shared + draw.integers(3, vocabulary, own).tolist(), scored) for _ in range(count)]


def _example(ids: list[int], scored: int) -> Example:
    return Example((Sequence(tuple(ids), (*[0.0] * (len(ids) - scored), *[1.0] * scored)),), float(scored))
