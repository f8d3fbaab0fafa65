"""Reference log-probabilities: what the model that training starts from says of each sequence, computed once and kept by content, never by a second model (MISSION P2).

Called before the first step, so that the model at hand is the reference: with a fresh adapter it is switched off and the base speaks; an adapter that goes on from an earlier
stage, a start that is not zero (PiSSA, LoftQ) or trained base weights are left as they start. A resumed run builds the same start before it loads its checkpoint.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence as Seq
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from planish.data.tree import Sequence, pack
from planish.errors import Problem, RunFailed
from planish.model.policy import score
from planish.model.ranks import ALONE, Ranks
from planish.model.reference_store import ReferenceStore
from planish.model.residual_start import moves
from planish.rows import content_hash

AT_ONCE = 512
"""Sequences computed between two writes to disk: so many are lost at most when a run is killed."""


@dataclass
class StartingModel:
    """Gives the weighted log-probability of sequences under `model` as it is before training.

    `base` names that model as it lies below its adapter: weights, and the adapter to go on from, if any. `adapter` is what its start depends on besides, and counts only where
    the adapter cannot be switched off: so a run with another rank, rate or seed finds what an earlier one computed. `folder` keeps the values
    (planish.model.reference_store), in memory alone where it is None; a sequence's key is a hash of its ids and weights, which the template and the tokenizer made.
    `computed` counts the sequences that were not found, `tokens` what was sent through the model for them. Every rank must ask for the same sequences.
    """

    model: nn.Module
    base: dict[str, Any]
    folder: Path | None
    precision: str
    device: str = "cpu"
    micro_tokens: int = 4096
    ranks: Ranks = ALONE
    continued: bool = False
    adapter: dict[str, Any] = field(default_factory=dict)
    asked: int = 0
    computed: int = 0
    tokens: int = 0
    _known: dict[str, float] | None = field(default=None, repr=False)

    def __call__(self, sequences: Seq[Sequence]) -> list[float]:
        """One number per sequence, in their order. Raises RunFailed where the model gives none."""
        keys = [_key(sequence) for sequence in sequences]
        known = self._read()
        missing = {key: sequence for key, sequence in zip(keys, sequences, strict=True) if key not in known}
        waiting = list(missing.items())
        for start in range(0, len(waiting), AT_ONCE):
            part = waiting[start : start + AT_ONCE]
            found = dict(zip([key for key, _ in part], self._computed([sequence for _, sequence in part]), strict=True))
            if not all(map(math.isfinite, found.values())):
                why = "gives an answer no finite log-probability, before any training"
                raise RunFailed(Problem("the model that training starts from", why, "train it in fp32, or take the weights that were meant"))
            known.update(found)
            if self.ranks.first:
                self._store.add(found)
        self.asked, self.computed = self.asked + len(set(keys)), self.computed + len(waiting)
        return [known[key] for key in keys]

    @property
    def figures(self) -> dict[str, int]:
        """What was asked, what of it was not known, the tokens computed for it, and files of the cache that were found spoilt."""
        return {"sequences": self.asked, "computed": self.computed, "tokens": self.tokens, "spoilt": self._store.spoilt}

    def _computed(self, sequences: list[Sequence]) -> list[float]:
        values, tokens = [0.0] * len(sequences), 0
        mine = self.ranks.mine(range(len(sequences)))
        was = self.model.training
        self.model.eval()
        with torch.inference_mode(), self.model.disable_adapter() if self._base_alone else nullcontext():  # type: ignore[operator]
            for members, tree in pack([(sequences[index],) for index in mine], 2 * self.micro_tokens):
                sums = score(self.model, tree, self.precision, self.device).sums().tolist()
                tokens += len(tree.ids)
                for member, value in zip(members, sums, strict=True):
                    values[mine[member]] = value
        self.model.train(was)
        *values, spent = self.ranks.total(*values, tokens)
        self.tokens += int(spent)
        return values

    def _read(self) -> dict[str, float]:
        if self._known is None:
            self._known = self._store.read()
            self.ranks.wait()  # no rank writes before all have read the same
        return self._known

    @cached_property
    def _store(self) -> ReferenceStore:
        about = [self.base, self.precision, torch.device(self.device).type, None if self._base_alone else [self.continued, self.adapter]]
        return ReferenceStore(self.folder, content_hash(about)[:32])

    @cached_property
    def _base_alone(self) -> bool:
        """Whether the model has a fresh adapter that can be switched off without a trace."""
        from peft import PeftModel

        if self.continued or not isinstance(self.model, PeftModel) or self.model.active_peft_config.is_prompt_learning:
            return False
        return not moves(self.model)


def _key(sequence: Sequence) -> str:
    return hashlib.sha256(np.array(sequence.ids, np.int64).tobytes() + np.array(sequence.weights, np.float64).tobytes()).hexdigest()[:32]
