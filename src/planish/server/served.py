"""What a gateway serves: one model behind one engine, with the functions that turn words into its token ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from planish.model.engine import Decoding, Engine
from planish.rows import Message

Tools = tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Served:
    """One served model.

    `render` is the one template function (messages and the tools on offer to prompt ids, R-5) and `encode` turns text into ids without a template; both may raise PlanishError,
    which a client sees as a 400. `end` is the id that ends a turn: a label of a choice is its ids and the end, as in evaluation.
    `decoding` holds what a request leaves out: the settings the model was evaluated with, not OpenAI's defaults.
    `context_length` and `vocab_size` are in tokens. `unproven` marks every answer: the gate said no, or was not asked.
    """

    name: str
    engine: Engine
    render: Callable[[Sequence[Message], Tools], list[int]]
    encode: Callable[[str], list[int]]
    end: int
    context_length: int
    vocab_size: int
    decoding: Decoding = field(default_factory=Decoding)
    unproven: bool = False
    template_hash: str = ""
    package_hash: str = ""
    gold_hash: str = ""
    created: int = 0  # Unix seconds, shown in the model list
