"""What every engine can do: generate, and choose among options. Prompts are token ids: templates are rendered once, by us, before an engine sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True)
class Decoding:
    """How an answer is sampled. `temperature` 0 is greedy."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()


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
