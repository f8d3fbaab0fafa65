"""What every engine can do: generate, and choose among options. Prompts are token ids: templates are rendered once, by us, before an engine sees them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from planish.errors import InputError, Problem
from planish.model.constraint import Constraint


@dataclass(frozen=True)
class Decoding:
    """How an answer is sampled (MISSION E2): penalty, temperature, top-k, top-p, min-p, in that order. `temperature` 0 is greedy.

    top_k 0, top_p 1, min_p 0 and repetition_penalty 1 do nothing. `stop` texts end an answer and are not part of it. `constraint` leaves only the tokens that keep the answer
    in its form (MISSION E3). Raises InputError naming every setting that is out of range.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    constraint: Constraint | None = None

    def __post_init__(self) -> None:
        right = {
            "max_new_tokens": (self.max_new_tokens >= 1, "is below 1", "give the most tokens that an answer may have"),
            "temperature": (0 <= self.temperature < math.inf, "is below 0 or no number", "0 is greedy, 1 samples from the model's own distribution"),
            "top_p": (0 < self.top_p <= 1, "is not above 0 and up to 1", "1 keeps every token, 0.9 those that hold 90 % of the probability"),
            "top_k": (self.top_k >= 0, "is below 0", "0 keeps every token"),
            "min_p": (0 <= self.min_p <= 1, "is not between 0 and 1", "0 keeps every token, 0.05 those at least a twentieth as likely as the likeliest"),
            "repetition_penalty": (0 < self.repetition_penalty < math.inf, "is not above 0", "1 changes nothing, 1.1 makes repeating less likely"),
            "seed": (0 <= self.seed < 2**63, "is not a whole number from 0 to 2^63-1", "give another seed"),
            "stop": (all(self.stop), "holds an empty text, which would end every answer at once", "leave it out"),
        }
        problems = [Problem(f"decoding.{name}", f"{getattr(self, name)!r} {why}", fix) for name, (holds, why, fix) in right.items() if not holds]
        if problems:
            raise InputError(*problems)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken each time: no draw, no seed."""
        return self.temperature == 0


@dataclass(frozen=True)
class Generation:
    """One answer. `finish` "length" means it was cut at max_new_tokens."""

    text: str
    token_ids: tuple[int, ...]
    finish: Literal["stop", "length"]


@dataclass(frozen=True)
class Delta:
    """A piece of a streamed answer; the last one carries `finish`."""

    text: str
    token_ids: tuple[int, ...] = ()
    finish: Literal["stop", "length"] | None = None


class Engine(Protocol):
    """Generation behind one protocol. An engine answers the same for one prompt whatever else is in the call."""

    name: str

    def generate(self, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[Generation]:
        """One answer per prompt of token ids."""

    def stream(self, prompt: Sequence[int], decoding: Decoding) -> Iterator[Delta]:
        """One answer in pieces; closing the iterator frees the slot. The concatenated text equals `generate`'s."""

    def choose(self, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[int]]) -> list[list[float]]:
        """(N, options) probabilities that sum to 1 over the options: the product of the next-token probabilities renormalised
        over the tokens allowed at each node of the options' token trie (MISSION E3). Every option must be non-empty and none a prefix of another."""

    def close(self) -> None:
        """Free what the engine holds; safe to call twice."""
