"""A local teacher read at the scored tokens of given sequences: its likeliest tokens, what is left beside them, and draws from that (MISSION S1)."""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor, nn

from planish.data.capture_file import Said
from planish.data.tree import Sequence, pack
from planish.errors import InputError, Problem
from planish.model.policy import autocast, head_of, hidden_states
from planish.rows import content_hash

ROWS_AT_ONCE = 256
"""Positions whose logits exist at one time: at a vocabulary of 152,000, 160 MB."""


@dataclass(frozen=True)
class Wanted:
    """What is kept of a position: at most `k` tokens, or as few as hold `mass` of the probability; ln sum exp at each temperature; `tail_samples` draws from the rest.

    Ids from `vocabulary` on are none of the student's, such as the padding of a wider head: they are left in the tail, and never drawn."""

    k: int = 50
    mass: float = 0.999
    temperatures: tuple[float, ...] = (1.0, 2.0)
    tail_samples: int = 0
    seed: int = 0
    vocabulary: int | None = None

    def __post_init__(self) -> None:
        right = {
            "k": (self.k >= 1, "is below 1", "give the most tokens to keep of a position, such as 50"),
            "mass": (0 < self.mass <= 1, "is not above 0 and up to 1", "0.999 keeps what matters; 1 keeps k tokens always"),
            "temperatures": (
                bool(self.temperatures) and all(0 < T < math.inf for T in self.temperatures),
                "holds none, or one that is not above 0",
                "give 1,2",
            ),
            "tail_samples": (self.tail_samples >= 0, "is below 0", "give 0, or how many draws to keep of the tail"),
        }
        problems = [Problem(f"capture.{name}", f"{getattr(self, name)} {why}", fix) for name, (holds, why, fix) in right.items() if not holds]
        if problems:
            raise InputError(*problems)


@torch.inference_mode()
def read(model: nn.Module, sequences: Seq[Sequence], wanted: Wanted, precision: str, device: str = "cpu", budget: int = 4096) -> list[Said]:
    """The model's word at every scored token of each sequence. The draws of a sequence depend on its tokens and the seed alone."""
    head, found = head_of(model), dict[int, Said]()
    for members, tree in pack([(sequence,) for sequence in sequences], budget):
        with autocast(precision, device):
            hidden = hidden_states(model, tree, device).index_select(0, torch.from_numpy(tree.scored_at).to(device))
            at = 0
            for member, count in zip(members, np.bincount(tree.sequence, minlength=tree.sequences).tolist(), strict=True):
                generator = _generator(sequences[member], wanted.seed)
                found[member] = joined([of_logits(head.logits(part), wanted, generator) for part in hidden[at : at + count].split(ROWS_AT_ONCE)])
                at += count
    return [found[index] for index in range(len(sequences))]


def of_logits(logits: Tensor, wanted: Wanted, generator: torch.Generator | None = None) -> Said:
    """logits (N, V) -> what is kept of each position."""
    log_p = logits.float().log_softmax(1)
    known = log_p[:, : wanted.vocabulary]
    values, ids = known.topk(min(wanted.k, known.size(1)), 1)
    held = values.double().exp().cumsum(1)
    counts = (held < wanted.mass).sum(1).add(1).clamp(max=values.size(1)) if wanted.mass < 1 else torch.full((len(log_p),), values.size(1))
    kept = torch.arange(values.size(1), device=values.device)[None] < counts.to(values.device)[:, None]
    lse = torch.stack([(log_p / T).double().logsumexp(1) for T in wanted.temperatures], 1)
    drawn, drawn_lps = _draws(known, ids, kept, wanted.tail_samples, generator)
    return Said(
        counts.cpu().numpy().astype(np.int64),
        ids[kept].cpu().numpy(),
        values[kept].double().cpu().numpy(),
        lse.cpu().numpy(),
        drawn.cpu().numpy(),
        drawn_lps.double().cpu().numpy(),
    )


def joined(parts: Seq[Said]) -> Said:
    """Several runs of positions as one."""
    return parts[0] if len(parts) == 1 else Said(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Said)))


def _draws(log_p: Tensor, ids: Tensor, kept: Tensor, count: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """(N, count) tokens drawn from what is not kept, by their probability, -1 where nothing is left, and their log-probabilities."""
    rest = log_p.exp()
    at, places = kept.nonzero(as_tuple=True)
    rest[at, ids[at, places]] = 0.0
    if not count:
        return ids.new_empty(len(ids), 0), rest.new_empty(len(ids), 0)
    empty = rest.sum(1) <= 0
    rest[empty] = 1.0
    drawn = torch.multinomial(rest.cpu(), count, replacement=True, generator=generator).to(ids.device)
    lps = log_p.gather(1, drawn)
    return drawn.masked_fill(empty[:, None], -1), lps.masked_fill(empty[:, None], 0.0)


def _generator(sequence: Sequence, seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(content_hash([seed, list(sequence.ids)])[:15], 16))
