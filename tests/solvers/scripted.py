"""A stand-in for the model: it answers by a function of the prompt and counts words for tokens, so that what a solver asks can be looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from planish.data.task import Task
from planish.model.asker import Answer
from planish.rows import LabelRow, Message, Origin, Sample


@dataclass
class Scripted:
    """Takes the place of an Asker. `asked` holds every conversation that was asked, in order; a prompt of more than `context` words, with the answer's, does not fit."""

    say: Callable[[str], str] = lambda prompt: ""
    context: int = 10**6
    advance: Callable[[int], None] = lambda _: None
    asked: list[tuple[Message, ...]] = field(default_factory=list)

    def answer(self, samples: Sequence[Sample], task: Task, decoding: Any = None) -> list[Answer]:
        self.asked += [sample.messages for sample in samples]
        self.advance(len(samples))
        return [Answer(self.say("\n".join(turn.content for turn in sample.messages))) for sample in samples]

    def fits(self, conversation: Sequence[Message], tools: Any = (), room: int = 1) -> bool:
        return sum(len(turn.content.split()) for turn in conversation) + room <= self.context


def origin(line: int) -> Origin:
    return Origin(file="t.jsonl", line=line, sha256="")


def sample(number: int, content: str, target: str) -> Sample:
    return Sample(id=f"g{number}", messages=(Message(role="user", content=content),), target=target)


def labelled(number: int, text: str, label: str) -> LabelRow:
    return LabelRow(id=f"t{number}", origin=origin(number + 1), text=text, label=label)
