"""The compress section of a recipe: files to export, smaller models to cut, models to merge with, and the bar that each must clear."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from planish.recipe_keys import Exporter, Rule, Section
from planish.recipe_train import TrainSection


class PruneEntry(Section):
    """A smaller model cut from the tuned one: counts of units, a `target` (80%, 110M) or a `latency` (20 ms, 60 tokens/s) reached by taking out `take`. What goes, goes in `steps`,
    each made good by `recover`, whose objective may be `{kd: {capture: unpruned}}`. Its files are those of `export`, or of compress itself (MISSION Z9, Z10)."""

    layers: Annotated[int, Field(ge=0)] = 0
    heads: Annotated[int, Field(ge=0)] = 0
    channels: Annotated[int, Field(ge=0)] = 0
    vocabulary: Annotated[int, Field(ge=1)] | None = None
    target: str | None = None
    latency: str | None = None
    take: Literal["layers", "heads", "channels"] = "channels"
    by: Literal["magnitude", "gradient", "hessian", "obs", "activation", "influence", "ablation"] = "magnitude"
    rows: Annotated[int, Field(ge=1)] = 128
    steps: Annotated[int, Field(ge=1)] = 1
    recover: TrainSection | None = None
    export: list[Exporter] = []

    @model_validator(mode="after")
    def _asks_for_something(self) -> PruneEntry:
        if self.target is not None and self.latency is not None:
            raise ValueError("target and latency both given: keep one")
        if not (self.layers or self.heads or self.channels or self.vocabulary or self.target or self.latency):
            raise ValueError("nothing would be removed\nsay what: layers, heads, channels, vocabulary, target or latency")
        return self


class MergeEntry(Section):
    """The tuned model merged with others of its base, by path from the recipe: folders of models or of adapters, or the mappings that `planish merge` reads. `weight` and
    `density` are the tuned model's own; the base is that of the recipe unless it is named. Its files are those of `export`, or of compress itself (MISSION W6)."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    models: Annotated[list[str | dict[str, Any]], Field(min_length=1)]
    method: str = "ties"
    base: str | None = None
    weight: Any = None
    density: Any = None
    lambda_: Annotated[Any, Field(alias="lambda")] = None
    t: Any = None
    normalize: bool | None = None
    seed: int | None = None
    export: list[Exporter] = []


Into = Literal["original", "dequantised"]
WORD, LIST = "<word>", "<list>"
"""The two shapes of compress.merge; no part of a place in the file."""


def _word_or_list(given: Any) -> str:
    return LIST if isinstance(given, list) else WORD


class CompressSection(Section):
    """What is made of the model that passed, each scored again on the same gold: files by `export`, smaller models by `prune`, models merged with others by `merge`.

    `merge` as a word is where an adapter trained on a base in 4 bits goes: into the original 16-bit base, or into what the 4-bit one stands for (MISSION A5).
    """

    merge: Annotated[Annotated[Into, Tag(WORD)] | Annotated[list[MergeEntry], Tag(LIST)], Discriminator(_word_or_list)] = "original"
    prune: list[PruneEntry] = []
    export: list[Exporter] = []
    gate: list[Rule] = ["quality_retained >= 0.97"]

    @property
    def into(self) -> Into:
        """Where an adapter goes."""
        return "original" if isinstance(self.merge, list) else self.merge

    @property
    def merges(self) -> list[MergeEntry]:
        """What the tuned model is merged with."""
        return self.merge if isinstance(self.merge, list) else []
