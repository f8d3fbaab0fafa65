"""A model of this process made ready to be asked what the recipe's scorers read: its answers, and what it says of the reference answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

from planish.engines import transformers
from planish.model import precision as number_format
from planish.model.answer_log_probs import Reads, Shown
from planish.model.asker import Asker
from planish.model.chat import Chat
from planish.model.engine import Engine
from planish.model.precision import Asked
from planish.recipe_evaluate import EvaluateSection
from planish.recipe_keys import Use
from planish.stages._gold import Gold
from planish.stages._scoring import BasePairs, reads


def format_for(shape: str, asked: Asked = "auto") -> Literal["fp32", "bf16"]:
    """The number format in which a model of this process answers. What is written token by token is fp32: only there is a row of a batch, to the bit, the row alone."""
    return number_format.choose(asked if shape == "classification" else "fp32")


def asking_options(evaluate: EvaluateSection) -> dict[str, Any]:
    """What the answers of a system and their scores depend on, beside the system itself."""
    return {"scorers": [scorer.model_dump() for scorer in evaluate.scorers], "decoding": evaluate.decoding.model_dump(), "screen": evaluate.screen}


def asker_of(engine: Engine, model: Any, chat: Chat, precision: Literal["fp32", "bf16"], evaluate: EvaluateSection) -> Asker:
    """The one way to ask it: no text is generated where no scorer reads it."""
    wanted = {reads(use) for use in evaluate.scorers}
    context = int(model.config.max_position_embeddings)
    shown = Shown(model, chat, precision, context, frozenset(cast(set[Reads], wanted - {"text"}))) if wanted - {"text"} else None
    return Asker(engine, chat, context, references=shown, text="text" in wanted, told=evaluate.decoding)


def base_pairs(base: Path, gold: Gold, scorers: Sequence[Use], precision: Literal["fp32", "bf16"]) -> BasePairs | None:
    """What the base model says of the pairs of a gold set, where a scorer measures against it; else None. It is let go of before this returns.

    `precision` must be that of the model it is measured against: the rounding of another one would look like something learned."""
    if all(reads(use) != "pair_log_probabilities" for use in scorers):
        return None
    engine = transformers.start(base, precision=precision)
    context = int(engine.model.config.max_position_embeddings)
    said = Shown(engine.model, engine.chat, engine.precision, context, frozenset({"pair_log_probabilities"}))(gold.samples)
    engine.close()
    return [one.pair for one in said if one.pair is not None]
