"""What is asked of a row and what is right: the task fixes the prompt, the target and the scorers that mean something for it (MISSION D11)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from planish.errors import InputError, Problem
from planish.rows import ChatRow, LabelRow, Message, Noun, PromptCompletionRow, Row

SCORERS: dict[str, tuple[str, ...]] = {
    "classification": ("label",),
    "chat": ("f1", "rouge", "judge", "perplexity"),
}
"""The scorers that are valid per task shape. Free text is not scored by exact match: that is noise."""

METRICS: dict[str, tuple[str, ...]] = {
    "label": ("macro_f1", "micro_f1", "accuracy", "f1.<label>", "parse_rate"),
    "f1": ("f1",),
    "rouge": ("rouge1", "rouge2", "rougeL"),
    "judge": ("win_rate",),
    "perplexity": ("perplexity",),
}
"""What each scorer reports; a metric is named `scorer.metric`."""

ROW_SHAPES: dict[str, str | None] = {"classification": "label", "chat": None}
"""The row shape a task reads; None: any that holds a prompt and an answer, known by its keys."""


class Asked(NamedTuple):
    """One row as a question: the prompt's messages and the right answer."""

    messages: tuple[Message, ...]
    target: str


class Task(Noun):
    """classification: one of `labels` for a text. chat: the next assistant turn."""

    shape: Literal["classification", "chat"]
    labels: tuple[str, ...] = ()
    instruction: str = ""

    @property
    def row_shape(self) -> str | None:
        """The shape its rows must have, for `contract.read_rows`."""
        return ROW_SHAPES[self.shape]

    def prompt(self, text: str) -> tuple[Message, ...]:
        """What the model is asked about `text`. The instruction stands first, so that all prompts share it as a prefix that is computed once."""
        return (Message(role="user", content=self._head + text),)

    def text_of(self, content: str) -> str:
        """The text inside a user message that `prompt` made; any other message is given back as it is."""
        return content.removeprefix(self._head)

    def asked(self, row: Row) -> Asked:
        """The question and answer of a row. Raises InputError when the row's shape is not the task's."""
        if self.shape == "classification" and isinstance(row, LabelRow):
            return Asked(self.prompt(row.text), row.label)
        if self.shape == "chat" and isinstance(row, ChatRow):
            return Asked(row.messages[:-1], row.messages[-1].content)
        if self.shape == "chat" and isinstance(row, PromptCompletionRow):
            return Asked(self.prompt(row.prompt), row.completion)
        needed = {"classification": "label rows (text, label)", "chat": "chat rows (messages) or prompt_completion rows (prompt, completion)"}
        raise InputError(Problem(f"row {row.id}", f"is a {row.shape} row; the task {self.shape} asks no question of it", f"give {needed[self.shape]}"))

    @property
    def _head(self) -> str:
        return f"{self.instruction}\n\n" if self.instruction else ""


def classification(labels: Sequence[str], instruction: str | None = None) -> Task:
    """The task over these labels, in this order. Raises InputError when there are fewer than two, or one is given twice or is empty."""
    problems = []
    if len(set(labels)) < 2:
        problems.append(Problem("data.labels", f"{len(set(labels))} label: there is nothing to tell apart", "give rows of at least two labels"))
    twice = sorted({label for label in labels if list(labels).count(label) > 1})
    if twice:
        problems.append(Problem("data.labels", f"given twice: {', '.join(twice)}", "name each label once"))
    if any(not label.strip() for label in labels):
        problems.append(Problem("data.labels", "one label is empty", "give every label a name"))
    if problems:
        raise InputError(*problems)
    default = f"Classify the text. Answer with exactly one of: {', '.join(labels)}."
    return Task(shape="classification", labels=tuple(labels), instruction=default if instruction is None else instruction)


def chat(instruction: str | None = None) -> Task:
    """The task of answering in a dialogue. The instruction stands before the prompt of prompt_completion rows; chat rows carry their own."""
    return Task(shape="chat", instruction=instruction or "")


def require_scorer(shape: str, scorer: str) -> None:
    """Raise InputError, naming the valid ones, when a scorer says nothing about this task shape."""
    if scorer not in SCORERS[shape]:
        raise InputError(Problem("evaluate.scorers", f'"{scorer}" is not valid for {shape}', "valid: " + ", ".join(SCORERS[shape])))


def require_metric(shape: str, metric: str) -> None:
    """Raise InputError, naming the valid ones, when `scorer.metric` is no metric of this task shape."""
    scorer, _, name = metric.partition(".")
    known = METRICS.get(scorer, ()) if scorer in SCORERS[shape] else ()
    if name not in known and not (name.startswith("f1.") and "f1.<label>" in known):
        valid = [f"{scorer}.{name}" for scorer in SCORERS[shape] for name in METRICS[scorer]]
        raise InputError(Problem("gate", f'"{metric}" is not valid for {shape}', "valid: " + ", ".join(valid)))
