"""What the papers and the report say of a file whose model is not the tuned one: what was cut out of it or merged into it stands beside the file, not in the run alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from planish.model.exported import Exported
from planish.model.papers import Lineage, write_papers
from planish.report.package import chosen_by
from planish.stages._papers import told

NONE = {"layers": 0, "heads": 0, "channels": 0, "vocabulary": None}


def steps(*removals: dict[str, Any]) -> list[dict[str, Any]]:
    """Each takes 100 of 1,000 parameters."""
    return [{"removal": NONE | one, "before": 1000 - 100 * at, "after": 900 - 100 * at} for at, one in enumerate(removals)]


PRUNED = {"kind": "pruned", "by": "gradient", "steps": steps({"channels": 8, "vocabulary": 300}, {"channels": 9, "heads": 1}), "recovery": {}}
MERGED = {"kind": "merged", "method": "ties", "parents": ["refunds", "billing"]}


@pytest.mark.parametrize(
    ("story", "said"),
    [
        ({}, []),
        (
            PRUNED,
            [
                "The tuned model cut down from 1,000 to 800 parameters; taken out: 1 groups of heads of every layer by gradient, 17 channels of every layer by gradient, "
                "all but 300 tokens by how often they stand in the training rows. Then trained again."
            ],
        ),
        (MERGED, ["The tuned model merged by ties with `refunds`, `billing`. The licences of these hold too; they are not read here."]),
    ],
)
def test_a_file_says_what_it_was_made_of(story: dict[str, Any], said: list[str], tiny: Path, tmp_path: Path) -> None:
    """Two steps of 8 and 9 channels are 17; the lineage and the card beside the file have the sentence, and those of the tuned model's own files none."""
    assert told(story) == said
    made = Exported(file="model.gguf", bytes=1, bits_per_weight=4.0, tensor_types={"F16": 1}, fell_back=())
    (tmp_path / "model.gguf").write_bytes(b"x")
    lineage = Lineage(run="r", recipe_hash="h", base="base", revision=None, base_hash="b", made={"name": "gguf"}, variant=told(story))
    card, kept, *_ = write_papers(tmp_path / "model.gguf", made, lineage, tiny, {})
    assert [line for line in card.read_text(encoding="utf-8").splitlines() if line.startswith("The tuned model")] == said
    assert Lineage.model_validate_json(kept.read_bytes()).variant == said


@pytest.mark.parametrize(
    ("removal", "said"),
    [
        ({"channels": 8}, ", chosen by gradient"),
        ({"vocabulary": 300}, ", tokens by how often they occur"),
        ({"layers": 1, "vocabulary": 300}, ", chosen by gradient, tokens by how often they occur"),
    ],
)
def test_tokens_are_not_said_to_go_by_importance(removal: dict[str, Any], said: str) -> None:
    assert chosen_by({"by": "gradient", "steps": steps(removal)}) == said
