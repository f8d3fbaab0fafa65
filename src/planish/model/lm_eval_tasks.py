"""Tasks of lm-eval as general suites, where a hub is reachable (MISSION C4). Written against lm-eval 0.4.13; the conversion is tested, a run of its tasks is not."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from typing import Any

from planish.errors import InputError, Problem
from planish.lazy import require
from planish.model.chat import Chat
from planish.model.layout import use_plain
from planish.scores import Score

ROWS = 200
"""The first documents of each task."""
SHARES = ("acc", "exact_match")
"""Per-document metrics that are right or wrong, in the order in which they are looked for."""


def measure(model: Any, chat: Chat, tasks: Seq[str]) -> list[Score]:
    """The model's answers to the first 200 documents of each task, right or wrong. Raises InputError when lm-eval is absent or a task cannot be read."""
    lm_eval, huggingface = require("lm_eval", extra="lm-eval"), require("lm_eval.models.huggingface", extra="lm-eval")
    use_plain(model)
    try:
        found = lm_eval.simple_evaluate(
            model=huggingface.HFLM(pretrained=model, tokenizer=chat.tokenizer, batch_size=1),
            tasks=list(tasks),
            limit=ROWS,
            bootstrap_iters=0,
            log_samples=True,
        )
    except (OSError, KeyError, ValueError) as why:  # its ways of saying that a task is unknown or a hub is out of reach
        raise InputError(
            Problem(f"evaluate.general_tasks: {', '.join(tasks)}", f"lm-eval cannot run them: {why}", "check the names, and that a hub is reachable")
        ) from why
    return scores_of(found["samples"])


def scores_of(samples: Mapping[str, Seq[Mapping[str, Any]]]) -> list[Score]:
    """A score for each document of each task, from what `simple_evaluate` logs; of several filters the first counts.

    Raises InputError for a task whose documents are not right or wrong (perplexities).
    """
    scores: list[Score] = []
    for task, logged in samples.items():
        metric = next((name for name in SHARES if logged and name in logged[0]), None)
        if metric is None:
            known = ", ".join(logged[0].get("metrics", ())) if logged else "no document"
            raise InputError(
                Problem(f"evaluate.general_tasks: {task}", f"says of no document that it is right or wrong ({known})", "choose a task with acc or exact_match")
            )
        for sample in logged:
            if sample["filter"] == logged[0]["filter"]:
                value = float(sample[metric])
                detail = {f"general.{task}.accuracy": value}
                scores.append(Score(id=f"{task}-{sample['doc_id']}", answer=None, parsed=None, target=str(sample["target"]), value=value, detail=detail))
    return scores
