"""General ability of a model: how well it predicts the next token of text that the task never shows (MISSION C4)."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Literal

import numpy as np
import torch
from torch import nn

from planish.data.general import GeneralRow
from planish.data.tree import Sequence, pack
from planish.evidence.intervals import bootstrap
from planish.evidence.statistic import statistic
from planish.model import scored_head
from planish.model.chat import Chat
from planish.model.layout import shares_prefixes
from planish.model.lm_head import head_of
from planish.model.policy import autocast, hidden_states
from planish.rows import content_hash
from planish.scores import EvalReport, Metric, Score


def evaluate(
    model: nn.Module, chat: Chat, rows: Seq[GeneralRow], system: str, precision: Literal["fp32", "bf16"], advance: Callable[[int], None] = lambda _: None
) -> EvalReport:
    """`general.next_token_accuracy` and `general.perplexity` over every scored token of `rows`, each with a bootstrap interval over rows."""
    groups = [[_sequence(row, chat)] for row in rows]
    scores: list[Score | None] = [None] * len(rows)
    for members, tree in pack(groups, 2048, shared=shares_prefixes(model)):
        with torch.inference_mode(), autocast(precision):
            hidden = hidden_states(model, tree)[torch.from_numpy(tree.scored_at)]
            target = torch.from_numpy(tree.target)
            log_prob = scored_head.log_probs(hidden, head_of(model), target).numpy()
            right = (scored_head.predictions(hidden, head_of(model)) == target).numpy()
        for place, index in enumerate(members):
            mine = tree.sequence == place
            tokens, correct = int(mine.sum()), int(right[mine].sum())
            detail = {"tokens": float(tokens), "correct": float(correct), "nll": float(-np.float64(log_prob[mine]).sum())}
            scores[index] = Score(id=rows[index].id, answer=None, parsed=None, target="", value=correct / tokens, detail=detail)
        advance(len(members))
    done = [score for score in scores if score is not None]
    return report(system, content_hash([row.model_dump() for row in rows]), done)


def report(system: str, gold: str, scores: list[Score]) -> EvalReport:
    """The two metrics with their intervals."""
    tokens = sum(score.detail["tokens"] for score in scores)
    values = {
        "general.next_token_accuracy": sum(score.detail["correct"] for score in scores) / tokens,
        "general.perplexity": float(np.exp(sum(score.detail["nll"] for score in scores) / tokens)),
    }
    bare = {name: Metric(name=name, value=value, n=len(scores), higher_is_better=name != "general.perplexity") for name, value in values.items()}
    plain = EvalReport(system=system, gold=gold, metrics=bare, scores=scores)
    metrics = {}
    for name, metric in bare.items():
        low, high = bootstrap(statistic(plain, name), len(scores))
        metrics[name] = metric.model_copy(update={"low": low, "high": high, "method": "bootstrap over rows"})
    return plain.model_copy(update={"metrics": metrics})


def _sequence(row: GeneralRow, chat: Chat) -> Sequence:
    if row.messages:
        return chat.trained(row.messages)
    ids = chat.encode(row.text)
    return Sequence(tuple(ids), tuple([0.0] + [1.0] * (len(ids) - 1)))
