"""What a model says of answers it is shown: ln p of every scored token, prompts that several of them share computed once; of a reward model its reward (MISSION E1, P4)."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from planish.data.tree import Sequence, pack
from planish.errors import InputError, Problem
from planish.model.asker import References
from planish.model.chat import Chat, Refused
from planish.model.head_engine import classify, rates
from planish.model.layout import shares_prefixes
from planish.model.policy import score
from planish.model.preference import continuations
from planish.rows import Message, Sample

TREE_TOKENS = 4096

Reads = Literal["log_probabilities", "pair_log_probabilities"]
"""What a scorer may read besides the answer: of the target, or of the better and the worse answer of a pair, or of the answer that was judged."""


@dataclass(frozen=True)
class Shown:
    """Asks a model for the reference answers of samples, written by the template after the very prompt that is asked. `context` is in tokens."""

    model: nn.Module
    chat: Chat
    precision: Literal["fp32", "bf16"]
    context: int
    reads: frozenset[Reads]

    def __call__(self, samples: Seq[Sample]) -> list[References]:
        """One for each sample. Raises InputError naming every sample that the template cannot write, or the context cannot hold, before the model is asked."""
        wanted = [self._answers(sample) for sample in samples]
        rows = self._sequences(samples, wanted)
        if rates(self.model):
            return self._rated(samples, rows)
        said = iter(log_probs(self.model, [row for each in rows for row in each], self.precision))
        return [self._told([next(said) for _ in each]) for each in rows]

    def _rated(self, samples: Seq[Sample], rows: Seq[list[Sequence]]) -> list[References]:
        """Of a model whose head was trained and whose text is the base's: its word on both answers of a pair, each read to its end. It tells nothing else."""
        paired = [place for place, sample in enumerate(samples) if sample.pair is not None and "pair_log_probabilities" in self.reads]
        found = [References()] * len(rows)
        if not paired:
            return found
        answers = [row.ids for place in paired for row in rows[place][-2:]]
        said = classify(self.model, answers, self.precision, next(self.model.parameters()).device)[:, 0].tolist()
        for place, better, worse in zip(paired, said[0::2], said[1::2], strict=True):
            found[place] = References(rewards=(better, worse))
        return found

    def _answers(self, sample: Sample) -> list[tuple[Message, ...]]:
        target = [(Message(role="assistant", content=sample.target),)] if "log_probabilities" in self.reads else []
        given = sample.pair or (sample.judged[:1] if sample.judged is not None else ())
        return target + list(given if "pair_log_probabilities" in self.reads else ())

    def _sequences(self, samples: Seq[Sample], wanted: Seq[list[tuple[Message, ...]]]) -> list[list[Sequence]]:
        found: list[list[Sequence]] = []
        problems = []
        for sample, answers in zip(samples, wanted, strict=True):
            try:
                rows = continuations(sample.messages, answers, self.chat, sample.tools)
            except Refused as refused:
                problems.append(Problem(sample.id, f"its reference cannot be scored: {refused.why}", "mend the row, or take it out of the gold set"))
                continue
            if (size := max((len(row.ids) for row in rows), default=0)) > self.context:
                why = f"{size} tokens of prompt and reference do not fit the context of {self.context}"
                problems.append(Problem(sample.id, why, "shorten the row, or take it out of the gold set"))
            found.append(rows)
        if problems:
            raise InputError(*problems)
        return found

    def _told(self, said: list[tuple[float, ...]]) -> References:
        target = said.pop(0) if "log_probabilities" in self.reads else None
        return References(target, tuple(map(sum, said)) or None)


@torch.inference_mode()
def log_probs(model: nn.Module, sequences: Seq[Sequence], precision: Literal["fp32", "bf16"]) -> list[tuple[float, ...]]:
    """ln p of the tokens of weight above 0 of each sequence, given all before them. Oracle: torch's log-softmax of each sequence by itself."""
    model.eval()
    found: list[tuple[float, ...]] = [()] * len(sequences)
    device = next(model.parameters()).device
    for members, tree in pack([(sequence,) for sequence in sequences], TREE_TOKENS, shared=shares_prefixes(model)):
        said = score(model, tree, precision, device).log_prob.float().cpu().numpy()
        for place, index in enumerate(members):
            found[index] = tuple(min(0.0, float(one)) for one in said[tree.sequence == place])
    return found
