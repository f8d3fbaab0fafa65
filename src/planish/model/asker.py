"""An engine with the chat template in front of it: messages in, an answer out. The one way in which every solver, score and endpoint check asks a model."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

from planish.model.chat import Chat
from planish.model.engine import Engine
from planish.rows import Message

Conversation = Seq[Message]


@dataclass(frozen=True)
class Asker:
    """`context` is the longest prompt, in tokens, that the engine can hold with an answer."""

    engine: Engine
    chat: Chat
    context: int = 2048

    def choose(self, conversations: Seq[Conversation], labels: Seq[str]) -> list[str]:
        """The most probable label for each conversation by constrained decoding (MISSION E3); ties go to the earlier label."""
        prompts = [self.chat.prompt(conversation) for conversation in conversations]
        table = self.engine.choose(prompts, options(self.chat, labels))
        return [labels[max(range(len(labels)), key=row.__getitem__)] for row in table]

    def fits(self, conversation: Conversation) -> bool:
        """Whether the prompt leaves room for an answer."""
        return len(self.chat.prompt(conversation)) < self.context


def options(chat: Chat, labels: Seq[str]) -> list[tuple[int, ...]]:
    """Each label as an answer: its tokens and the end of the turn, so that no label begins another."""
    return [(*chat.encode(label), chat.end) for label in labels]
