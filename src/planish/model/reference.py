"""Reference log-probabilities: what the model that training starts from says of each sequence, computed once and kept by content, never by a second model (MISSION P2).

Called before the first step, so that the model at hand is the reference: with a fresh adapter it is switched off and the base speaks; an adapter that goes on from an earlier
stage, a residual start (PiSSA) or trained base weights are left as they start. A resumed run builds the same start before it loads its checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence as Seq
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from planish.data.tree import Sequence, pack
from planish.model.policy import score
from planish.model.ranks import ALONE, Ranks
from planish.model.residual_start import started

AT_ONCE = 512
"""Sequences computed between two writes to disk: so many are lost at most when a run is killed."""


@dataclass
class StartingModel:
    """Gives the weighted log-probability of sequences under `model` as it is before training. `meaning` names that model: base, adapter to go on from, adapter.

    `path` holds one JSON line per sequence, its key a hash over meaning, precision, ids and weights; a line torn by a kill is computed anew. `computed` counts the
    sequences that were not found there; without a path they are kept in memory alone. Every rank must ask for the same sequences.
    """

    model: nn.Module
    meaning: dict[str, Any]
    path: Path | None
    precision: str
    device: str = "cpu"
    micro_tokens: int = 4096
    ranks: Ranks = ALONE
    continued: bool = False
    computed: int = 0
    _known: dict[str, float] | None = field(default=None, repr=False)

    def __call__(self, sequences: Seq[Sequence]) -> list[float]:
        """One number per sequence, in their order."""
        keys = [self._key(sequence) for sequence in sequences]
        known = self._read()
        missing = {key: sequence for key, sequence in zip(keys, sequences, strict=True) if key not in known}
        waiting = list(missing.items())
        for start in range(0, len(waiting), AT_ONCE):
            part = waiting[start : start + AT_ONCE]
            found = dict(zip([key for key, _ in part], self._computed([sequence for _, sequence in part]), strict=True))
            known.update(found)
            if self.path is not None and self.ranks.first:
                _write(self.path, found)
        self.computed += len(waiting)
        return [known[key] for key in keys]

    def _computed(self, sequences: list[Sequence]) -> list[float]:
        values = [0.0] * len(sequences)
        mine = self.ranks.mine(range(len(sequences)))
        was = self.model.training
        self.model.eval()
        with torch.inference_mode(), _base_alone(self.model, self.continued):
            for members, tree in pack([(sequences[index],) for index in mine], 2 * self.micro_tokens):
                sums = score(self.model, tree, self.precision, self.device).sums().tolist()
                for member, value in zip(members, sums, strict=True):
                    values[mine[member]] = value
        self.model.train(was)
        return self.ranks.total(*values)

    def _key(self, sequence: Sequence) -> str:
        about = json.dumps([self.meaning, self.precision], sort_keys=True).encode()
        return hashlib.sha256(about + np.array(sequence.ids, np.int64).tobytes() + np.array(sequence.weights, np.float64).tobytes()).hexdigest()

    def _read(self) -> dict[str, float]:
        if self._known is None:
            lines = self.path.read_bytes().decode("utf-8").split("\n") if self.path is not None and self.path.is_file() else [""]
            self._known = dict(json.loads(line) for line in lines[:-1])  # what stands behind the last line end was torn by a kill
            self.ranks.wait()  # no rank writes before all have read the same
            if self.path is not None and self.ranks.first and lines[-1]:
                self.path.write_text("".join(line + "\n" for line in lines[:-1]), encoding="utf-8")
        return self._known


def _write(path: Path, found: dict[str, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as out:
        out.write("".join(json.dumps(item) + "\n" for item in found.items()))


def _base_alone(model: nn.Module, continued: bool) -> AbstractContextManager[Any]:
    """The model without its fresh adapter, where it has one that can be switched off without a trace."""
    from peft import PeftModel

    if continued or not isinstance(model, PeftModel) or model.active_peft_config.is_prompt_learning or started(model) is not None:
        return nullcontext()
    return model.disable_adapter()
