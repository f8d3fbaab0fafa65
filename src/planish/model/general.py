"""General ability of a model: how well it predicts text that the task never shows, and how often it prefers the right answer to wrong ones (MISSION C4)."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from planish.data.general import GeneralRow
from planish.data.tree import Sequence, pack
from planish.errors import InputError, Problem
from planish.evidence.intervals import bootstrap, wilson
from planish.evidence.statistic import measured, statistic
from planish.model import lm_eval_tasks, scored_head
from planish.model.chat import Chat
from planish.model.layout import shares_prefixes
from planish.model.lm_head import head_of
from planish.model.policy import autocast, hidden_states
from planish.rows import content_hash
from planish.scores import EvalReport, Metric, Score

TREE_TOKENS = 2048
LOWER_IS_BETTER = ("perplexity", "loss")


def evaluate(
    model: Any,
    chat: Chat,
    rows: Seq[GeneralRow],
    system: str,
    precision: Literal["fp32", "bf16"],
    advance: Callable[[int], None] = lambda _: None,
    *,
    tasks: Seq[str] = (),
) -> EvalReport:
    """Each suite's own figures, and over every predicted token of all of them `general.next_token_accuracy` and `general.perplexity`; each with an interval over rows.

    `general.<suite>.next_token_accuracy` and `.loss` (nats a token) where tokens are predicted; `.accuracy` and `.probability` (of the right answer, given that it is one
    of the options) where an option is chosen. `tasks` are lm-eval's. Raises InputError naming rows that are longer than the model's context.
    """
    groups = [_sequences(row, chat) for row in rows]
    _refuse_long(rows, groups, getattr(model.config, "max_position_embeddings", None))
    scores: list[Score | None] = [None] * len(rows)
    for members, tree in pack(groups, TREE_TOKENS, shared=shares_prefixes(model)):
        with torch.inference_mode(), autocast(precision):
            hidden = hidden_states(model, tree)[torch.from_numpy(tree.scored_at)]
            target = torch.from_numpy(tree.target)
            log_prob = scored_head.log_probs(hidden, head_of(model), target).numpy()
            right = (scored_head.predictions(hidden, head_of(model)) == target).numpy()
        first = 0
        for index in members:
            mine = [tree.sequence == first + place for place in range(len(groups[index]))]
            first += len(mine)
            row = rows[index]
            scores[index] = (
                _choice(row, [float(log_prob[own].astype(np.float64).sum()) for own in mine])
                if row.options
                else _tokens(row, log_prob[mine[0]], right[mine[0]])
            )
        advance(len(members))
    more = lm_eval_tasks.measure(model, chat, tasks) if tasks else []
    asked = [*(row.model_dump(mode="json") for row in rows), *([score.id, score.target] for score in more)]
    return report(system, content_hash(asked), [*(score for score in scores if score is not None), *more])


def report(system: str, gold: str, scores: list[Score]) -> EvalReport:
    """Every metric that the rows' details hold, over the rows that hold it, with its interval."""
    tokens = [score for score in scores if "tokens" in score.detail]
    values: dict[str, float] = {}
    if tokens:
        count = sum(score.detail["tokens"] for score in tokens)
        values["general.next_token_accuracy"] = sum(score.detail["correct"] for score in tokens) / count
        values["general.perplexity"] = float(np.exp(sum(score.detail["nll"] for score in tokens) / count))
    for name in dict.fromkeys(
        key.removesuffix(".part") for score in scores for key in score.detail if key.startswith("general.") and not key.endswith(".whole")
    ):
        having = [score.detail for score in scores if {name, f"{name}.part"} & score.detail.keys()]
        values[name] = sum(detail.get(f"{name}.part", detail.get(name, 0.0)) for detail in having) / sum(detail.get(f"{name}.whole", 1.0) for detail in having)
    bare = {name: Metric(name=name, value=value, n=0, higher_is_better=not name.endswith(LOWER_IS_BETTER)) for name, value in values.items()}
    plain = EvalReport(system=system, gold=gold, metrics=bare, scores=scores)
    return plain.model_copy(update={"metrics": {name: _with_interval(plain, name) for name in bare}})


def _with_interval(plain: EvalReport, name: str) -> Metric:
    part, metric = measured(plain, name), plain.metrics[name]
    n = len(part.scores)
    share = name.endswith(".accuracy")
    low, high = wilson(round(metric.value * n), n) if share else bootstrap(statistic(part, name), n)
    return metric.model_copy(update={"n": n, "low": low, "high": high, "method": "wilson" if share else "bootstrap over rows"})


def _tokens(row: GeneralRow, log_prob: NDArray[np.float32], right: NDArray[np.bool_]) -> Score:
    tokens, correct, nll = float(len(right)), float(right.sum()), float(-log_prob.astype(np.float64).sum())
    named = {"next_token_accuracy": correct, "loss": nll}
    own = {f"general.{row.source}.{name}.{side}": value for name, part in named.items() for side, value in (("part", part), ("whole", tokens))}
    return Score(id=row.id, answer=None, parsed=None, target="", value=correct / tokens, detail={"tokens": tokens, "correct": correct, "nll": nll} | own)


def _choice(row: GeneralRow, log_probs: Seq[float]) -> Score:
    """The option of the highest log-probability, less that which it has after `unasked` where the row has one; of equals the first."""
    sums = np.array(log_probs[: len(row.options)])
    if row.unasked:
        sums = sums - np.array(log_probs[len(row.options) :])
    shares = np.exp(sums - sums.max())
    chosen = int(sums.argmax())
    figures = {"accuracy": float(chosen == row.right), "probability": float(shares[row.right] / shares.sum())}
    detail = {f"general.{row.source}.{name}": value for name, value in figures.items()}
    return Score(id=row.id, answer=row.options[chosen], parsed=row.options[chosen], target=row.options[row.right], value=figures["accuracy"], detail=detail)


def _sequences(row: GeneralRow, chat: Chat) -> list[Sequence]:
    if row.options:
        answers = [(*chat.encode(option), chat.end) for option in row.options]
        prompts = [chat.prompt(messages, row.tools) for messages in (row.messages, row.unasked) if messages]
        return [Sequence((*asked, *answer), (*[0.0] * len(asked), *[1.0] * len(answer))) for asked in prompts for answer in answers]
    if row.messages:
        return [chat.trained(row.messages, row.tools, "last")]
    ids = chat.encode(row.text)
    return [Sequence(tuple(ids), tuple([0.0] + [1.0] * (len(ids) - 1)))]


def _refuse_long(rows: Seq[GeneralRow], groups: Seq[Seq[Sequence]], context: int | None) -> None:
    lengths = [max(len(sequence.ids) for sequence in group) for group in groups]
    problems = [
        Problem(f"general row {row.id}", f"{length} tokens, and the model reads {context}", "shorten it, or take it out: a cut row is another row")
        for row, length in zip(rows, lengths, strict=True)
        if context is not None and length > context + 1
    ]
    if problems:
        raise InputError(*problems)
