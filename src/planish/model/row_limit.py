"""How many tokens a row that is trained on may have: what the recipe says, else what the model was made for."""

from __future__ import annotations

from pathlib import Path

from planish import shelf
from planish.model.json_object import read_json
from planish.recipe_train import TrainSection
from planish.rows import TextRow


def row_limit(section: TrainSection, base: Path) -> int | None:
    """Tokens of a row at most: what the entry says, else the model's context, as nothing taught it the positions beyond; None where its configuration names none, and for
    documents, which go on in the next block."""
    if section.max_length is not None or shelf.find("objectives", section.objective.name).load().ROW is TextRow:
        return section.max_length
    config = read_json(base / "config.json")
    inner = config.get("text_config")
    context = (inner if isinstance(inner, dict) else config).get("max_position_embeddings")
    return context if isinstance(context, int) else None
