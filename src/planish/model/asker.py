"""One way to ask: a gold set's samples in, answers out, for every task shape; with an engine behind the chat template, or with an endpoint that is asked in messages."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol

from planish.data.task import Task
from planish.errors import InputError, Problem, RunFailed
from planish.model.chat import Chat, Refused, Tools
from planish.model.constraint import constraint_of
from planish.model.engine import Decoding, Engine, Generation
from planish.recipe_evaluate import DecodingSection
from planish.rows import Message, Sample

Conversation = Seq[Message]
Finish = Literal["stop", "length", "failed", "too_long"]
"""How an answer ended: by itself, cut at max_new_tokens, its call failed, or its prompt left no room in the context. The last two have no text."""

CHOICES_AT_ONCE, ANSWERS_AT_ONCE = 64, 32
"""Samples between two reports of progress."""


class References(NamedTuple):
    """What a model says of a sample's own reference answers. `log_probs`: ln p of each token of its target, the end of the turn with them.

    `pair`: ln p of its better and of its worse continuation, or of the one that was judged, summed over tokens; of a reward model `rewards`, what its head says of both.
    """

    log_probs: tuple[float, ...] | None = None
    pair: tuple[float, ...] | None = None
    rewards: tuple[float, float] | None = None


class Answer(NamedTuple):
    """What a system said of one sample. `text` None is no answer: it is wrong, and `finish` says why there is none. `references` where a scorer reads them.

    `tokens`: of the prompt and of the answer, where they were counted."""

    text: str | None
    finish: Finish = "stop"
    references: References = References()
    tokens: tuple[int, int] | None = None


@dataclass(frozen=True)
class Asker:
    """`context` is the longest prompt, in tokens, that the engine can hold with an answer; `advance` hears of every sample that is done.

    `references` is asked what the model says of the reference answers, where a scorer reads that (planish.model.answer_log_probs); `text` False asks for nothing else.
    """

    engine: Engine
    chat: Chat
    context: int = 2048
    advance: Callable[[int], None] = lambda _: None
    references: Callable[[Seq[Sample]], list[References]] | None = None
    text: bool = True
    told: DecodingSection = field(default_factory=DecodingSection)

    def answer(self, samples: Seq[Sample], task: Task, decoding: Decoding | None = None) -> list[Answer]:
        """One answer per sample: the most probable label of a classification (MISSION E3), any other shape's as it is generated, greedily unless told otherwise, from the
        chat template with the sample's tools.

        Raises InputError naming every sample that the template cannot write, before anything is asked.
        """
        prompts = self._prompts(samples)
        told = self.references(samples) if self.references is not None else [References()] * len(samples)
        if not self.text:
            self.advance(len(samples))
            return [Answer(None, references=said) for said in told]
        found = self._chosen(prompts, task.labels) if task.shape == "classification" else self._generated(prompts, decoding or decoding_of(task, self.told))
        return [answer._replace(references=said) for answer, said in zip(found, told, strict=True)]

    def choose(self, conversations: Seq[Conversation], labels: Seq[str]) -> list[str]:
        """The most probable label for each conversation by constrained decoding (MISSION E3); ties go to the earlier label."""
        prompts = [self.chat.prompt(conversation) for conversation in conversations]
        return _best(self.engine.choose(prompts, options(self.chat, labels)), labels)

    def fits(self, conversation: Conversation, tools: Tools = (), room: int = 1) -> bool:
        """Whether the prompt leaves room for an answer of so many tokens."""
        return len(self.chat.prompt(conversation, tools)) + room <= self.context

    def _prompts(self, samples: Seq[Sample]) -> list[list[int]]:
        prompts: list[list[int]] = []
        problems: list[Problem] = []
        for sample in samples:
            try:
                prompts.append(self.chat.prompt(sample.messages, sample.tools))
            except Refused as refused:
                problems.append(
                    Problem(sample.id, f"cannot be asked: {refused.why}", "choose a model whose chat template has a place for it, or take the row out")
                )
        offered = next((sample for sample in samples if sample.tools), None)
        if not problems and offered is not None and self.chat.prompt(offered.messages, offered.tools) == self.chat.prompt(offered.messages):
            fix = "choose a model whose template writes tools, or put such a chat_template.jinja into its folder"
            problems.append(Problem("model", "its chat template leaves the tools out, so it would be asked to call what it cannot see", fix))
        if problems:
            raise InputError(*problems)
        return prompts

    def _chosen(self, prompts: Seq[Seq[int]], labels: Seq[str]) -> list[Answer]:
        ways = options(self.chat, labels)
        longest = max(map(len, ways))
        found = [Answer(None, "too_long")] * len(prompts)
        for start in range(0, len(prompts), CHOICES_AT_ONCE):
            part = range(start, min(start + CHOICES_AT_ONCE, len(prompts)))
            fitting = [place for place in part if len(prompts[place]) + longest <= self.context]
            if fitting:
                for place, label in zip(fitting, _best(self.engine.choose([prompts[place] for place in fitting], ways), labels), strict=True):
                    found[place] = Answer(label, tokens=(len(prompts[place]), len(ways[labels.index(label)])))
            self.advance(len(part))
        return found

    def _generated(self, prompts: Seq[Seq[int]], decoding: Decoding) -> list[Answer]:
        """An answer near the end of the context may take what is left of it, and is cut there."""
        rooms = [min(decoding.max_new_tokens, self.context - len(prompt)) for prompt in prompts]
        found = [Answer(None, "too_long")] * len(prompts)
        for start in range(0, len(prompts), ANSWERS_AT_ONCE):
            part = range(start, min(start + ANSWERS_AT_ONCE, len(prompts)))
            for room in sorted({rooms[place] for place in part if rooms[place] > 0}):
                alike = [place for place in part if rooms[place] == room]
                said = self.engine.generate([prompts[place] for place in alike], replace(decoding, max_new_tokens=room))
                for place, one in zip(alike, said, strict=True):
                    found[place] = Answer(one.text, one.finish, tokens=(len(prompts[place]), len(one.token_ids)))
            self.advance(len(part))
        return found


class Correspondent(Protocol):
    """An engine that is asked in messages: the other end of a wire renders them."""

    def chat(self, messages: Seq[Message], decoding: Decoding, choice: Seq[str] | None = None, tools: Tools = ()) -> Generation:
        """The answer to a conversation; with `choice`, one of the labels. Raises RunFailed when the call failed for good."""


@dataclass(frozen=True)
class EndpointAsker:
    """The same question asked of an endpoint, a call per sample. A call that failed for good is an answer that is not there, and no wrong one: its finish says so."""

    engine: Correspondent
    told: DecodingSection = field(default_factory=DecodingSection)

    def answer(self, samples: Seq[Sample], task: Task, decoding: Decoding | None = None) -> list[Answer]:
        """One answer per sample."""
        return [self._one(sample, task, decoding or decoding_of(task, self.told)) for sample in samples]

    def _one(self, sample: Sample, task: Task, decoding: Decoding) -> Answer:
        try:
            said = self.engine.chat(sample.messages, decoding, task.labels or None, sample.tools)
        except RunFailed:
            return Answer(None, "failed")
        return Answer(said.text, said.finish)


def decoding_of(task: Task, told: DecodingSection = DecodingSection()) -> Decoding:  # noqa: B008 (frozen)
    """How answers of a task are made: as the recipe's `evaluate.decoding` says, and where it says nothing greedily, so that a score repeats, with the room of the task's shape.

    Raises InputError for a constraint that cannot be held, naming the keyword.
    """
    if told.constraint is not None and task.shape == "classification":
        raise InputError(Problem("evaluate.decoding.constraint", "a classification's answer is one of its labels already", "leave it out"))
    given = told.model_dump(exclude_none=True, exclude={"constraint", "stop"})
    form = None if told.constraint is None else constraint_of(**told.constraint.model_dump(exclude_none=True))
    return Decoding(**{"max_new_tokens": task.kind.max_new_tokens, **given}, stop=tuple(told.stop or ()), constraint=form)


def told_of(task: Task, told: DecodingSection) -> dict[str, Any]:
    """How answers of a task are made, every setting by name, for a report to carry."""
    if task.shape == "classification":
        return {"choice": "the most probable label"}
    settings = asdict(replace(decoding_of(task, told), constraint=None)) | {"stop": list(told.stop or ())}
    return settings | {"constraint": None if told.constraint is None else told.constraint.model_dump(mode="json", exclude_none=True)}


def options(chat: Chat, labels: Seq[str]) -> list[tuple[int, ...]]:
    """Each label as an answer: its tokens and the end of the turn, so that no label begins another."""
    return [(*chat.encode(label), chat.end) for label in labels]


def _best(table: Seq[Seq[float]], labels: Seq[str]) -> list[str]:
    return [labels[max(range(len(labels)), key=row.__getitem__)] for row in table]
