"""What is asked of a row and what is right: the task fixes the rows, the prompt, the target, the objective and what may judge it (MISSION D11)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, get_args

from planish import rules
from planish.errors import InputError, Problem, did_you_mean
from planish.recipe import Recipe
from planish.recipe_data import TaskShape
from planish.recipe_keys import Use
from planish.rows import (
    ChatRow,
    ExtractionRow,
    LabelRow,
    Message,
    Noun,
    PreferenceRow,
    PromptCompletionRow,
    QuestionRow,
    Row,
    StepsRow,
    SummaryRow,
    UnpairedRow,
    canonical_json,
)


class Kind(NamedTuple):
    """What a task shape fixes. `rows`: the row shapes it reads; `scorers`: those that mean something for it, its own first; `max_new_tokens`: an answer's room."""

    rows: tuple[str, ...]
    objective: str
    scorers: tuple[str, ...]
    baselines: tuple[str, ...]
    max_new_tokens: int
    instruction: str


TRIVIAL = ("majority", "random", "copy_input", "empty")
"""Baselines that ask no model: printed beside every later score (MISSION B1)."""
_WRITTEN = ("copy_input", "empty", "prompt", "few_shot")

KINDS: dict[str, Kind] = {
    "classification": Kind(("label",), "sft", ("label",), ("majority", "random", "prompt", "few_shot", "classifier"), 16, ""),
    "qa": Kind(("question",), "sft", ("exact", "f1", "citation"), (*_WRITTEN, "rag"), 64, "Answer the question. Answer in as few words as possible."),
    "extraction": Kind(("extraction",), "sft", ("extraction", "json_schema"), _WRITTEN, 256, "Extract from the text. Answer with JSON only."),
    "summarization": Kind(("summary",), "sft", ("rouge", "chrf", "judge"), _WRITTEN, 128, "Summarise the document."),
    "chat": Kind(("chat", "prompt_completion"), "sft", ("f1", "rouge", "chrf", "bleu", "judge", "perplexity"), _WRITTEN, 256, ""),
    "tools": Kind(("chat",), "sft", ("tool_call",), _WRITTEN, 128, ""),
    "reasoning": Kind(("prompt_completion", "question", "chat", "steps"), "sft", ("verifier", "exact"), _WRITTEN, 512, ""),
    "preference": Kind(("preference", "unpaired"), "dpo", ("pair_accuracy", "judge", "verifier"), ("prompt", "few_shot"), 256, ""),
}
"""Free text is not scored by exact match: that is noise. Answers are greedy everywhere, so that a score repeats."""

METRICS: dict[str, tuple[str, ...]] = {
    "label": ("macro_f1", "micro_f1", "accuracy", "f1.<label>", "parse_rate"),
    "exact": ("exact", "parse_rate"),
    "f1": ("f1", "parse_rate"),
    "citation": ("f1", "precision", "recall", "quotes_verbatim", "parse_rate"),
    "extraction": ("f1", "precision", "recall", "partial_f1", "exact", "parse_rate"),
    "json_schema": ("schema_valid", "valid", "field_accuracy"),
    "rouge": ("rougeL", "rouge1", "rouge2", "parse_rate"),
    "chrf": ("chrf", "parse_rate"),
    "bleu": ("bleu", "parse_rate"),
    "tool_call": (
        *("accuracy", "valid_tool_call_rate", "argument_match", "match_given_valid", "no_tool_precision", "no_tool_recall", "parse_rate"),
        "error.<class>",
    ),
    "verifier": ("score", "parse_rate", "error.<reason>"),
    "judge": ("win_rate", "wins", "ties", "losses", "failed", "parse_rate", "agreement", "first_place"),
    "perplexity": ("bits_per_byte", "perplexity"),
    "pair_accuracy": ("accuracy", "likelihood_accuracy", "margin", "good_accuracy", "bad_accuracy"),
}
"""What each scorer reports, its primary metric first; a metric is named `scorer.metric`, and <...> stands for any name."""

FINISH = ("finish.length", "finish.failed", "finish.too_long")
"""Reported of every system, whatever scores it: the share of rows whose answer was cut, whose call failed, and whose prompt left no room (MISSION E2, O3)."""
COST = ("cost.prompt_tokens", "cost.answer_tokens")
"""The same where they were counted: mean tokens of a row's prompt and answer."""

LOWER_IS_BETTER = frozenset({"perplexity"})
NO_TEXT = frozenset({"perplexity", "pair_accuracy"})
"""Scorers that read what a model says of given answers, which a baseline without a model cannot tell."""
BY_NAME_ONLY = frozenset({"rag"})
"""Baselines that a recipe must ask for by name: they need keys of their own."""

FORGETTING = "general.next_token_accuracy >= base.general.next_token_accuracy - 0.03"


class Asked(NamedTuple):
    """One row as a question: the prompt's messages, the right answer, and the tools on offer."""

    messages: tuple[Message, ...]
    target: str
    tools: tuple[dict[str, Any], ...] = ()


class Task(Noun):
    """What the rows are for. `labels` is the declared set of a classification; `instruction` stands before every text that is asked about."""

    shape: TaskShape
    labels: tuple[str, ...] = ()
    instruction: str = ""

    @property
    def kind(self) -> Kind:
        """What this shape fixes."""
        return KINDS[self.shape]

    @property
    def row_shape(self) -> str | None:
        """The shape its rows must have, for `reading.read_rows`; None where it reads several, known by their keys."""
        return row_shape(self.shape)

    def prompt(self, text: str) -> tuple[Message, ...]:
        """What the model is asked about `text`. The instruction stands first, so that all prompts share it as a prefix that is computed once."""
        return (Message(role="user", content=self._head + text),)

    def text_of(self, content: str) -> str:
        """The text inside a user message that `prompt` made; any other message is given back as it is."""
        return content.removeprefix(self._head)

    def asked(self, row: Row) -> Asked:
        """The question and answer of a row. Raises InputError when the row's shape is not the task's."""
        if row.shape not in self.kind.rows:
            needed = " or ".join(self.kind.rows)
            raise InputError(Problem(f"row {row.id}", f"is a {row.shape} row; the task {self.shape} asks no question of it", f"give {needed} rows"))
        match row:
            case LabelRow():
                return Asked(self.prompt(row.text), row.label)
            case ChatRow():
                return Asked(row.messages[:-1], said(row.messages[-1]), row.tools)
            case PromptCompletionRow():
                return Asked(self.prompt(row.prompt), row.completion)
            case QuestionRow():
                return Asked(self.prompt("\n\n".join(part for part in (numbered(row.documents), row.question) if part)), row.answer)
            case ExtractionRow():
                return Asked(self.prompt(row.text), extracted(row))
            case SummaryRow():
                return Asked(self.prompt(row.document), row.summary)
            case StepsRow():
                return Asked(self.prompt(row.prompt), "\n".join(row.completions))
            case PreferenceRow():
                return Asked(row.prompt, said(row.chosen[-1]), row.tools)
            case UnpairedRow():
                return Asked(row.prompt, said(row.completion[-1]))
        raise AssertionError(f"{row.shape} is in no kind's rows")

    def conversation(self, row: Row) -> ChatRow:
        """A row as the dialogue it is trained as: the very prompt that evaluation and serving send, and the right answer. Raises InputError as `asked` does."""
        asked = self.asked(row)
        if isinstance(row, ChatRow):
            return row
        if isinstance(row, PreferenceRow | UnpairedRow):  # the answer may be of several turns
            answer, tools = (row.chosen, row.tools) if isinstance(row, PreferenceRow) else (row.completion, ())
            return ChatRow(id=row.id, origin=row.origin, group=row.group, messages=(*row.prompt, *answer), tools=tools)
        messages = (*asked.messages, Message(role="assistant", content=asked.target))
        return ChatRow(id=row.id, origin=row.origin, group=row.group, messages=messages, tools=asked.tools)

    @property
    def _head(self) -> str:
        return f"{self.instruction}\n\n" if self.instruction else ""


def said(message: Message) -> str:
    """What a turn says: its text, or the calls it makes as JSON."""
    if message.tool_calls:
        return canonical_json([{"name": call.name, "arguments": call.arguments} for call in message.tool_calls])
    return message.content


def numbered(documents: Iterable[str]) -> str:
    """Documents as the passages of a prompt, [1] at the head of the first: what an answer cites, and what the scorer `citation` reads."""
    return "\n".join(f"[{number}] {document.strip()}" for number, document in enumerate(documents, start=1))


def extracted(row: ExtractionRow) -> str:
    """The right answer of an extraction as JSON: its fields, or its entities by type and text."""
    if row.fields is not None:
        return canonical_json(row.fields)
    return canonical_json([{"type": entity.type, "text": row.text[entity.start : entity.end]} for entity in row.entities or ()])


def row_shape(shape: str) -> str | None:
    """The one row shape of a task shape; None where it reads several."""
    kind = KINDS[shape]
    return kind.rows[0] if len(kind.rows) == 1 else None


def infer(shapes: Iterable[str], *, tools: bool) -> TaskShape:
    """The task that rows of these shapes are for. Raises InputError where they leave it open."""
    found = sorted(set(shapes))
    if found == ["chat"]:
        return "tools" if tools else "chat"
    fits: list[TaskShape] = [shape for shape in get_args(TaskShape) if set(found) <= set(KINDS[shape].rows)]
    if not found or not fits:
        known = "; ".join(f"{name}: {' or '.join(kind.rows)}" for name, kind in KINDS.items())
        raise InputError(Problem("data.task", f"{', '.join(found) or 'no'} rows fit no task", f"give rows of one task ({known})"))
    return fits[0]


def make(shape: TaskShape, labels: Sequence[str] = (), instruction: str | None = None) -> Task:
    """The task of a shape with its default instruction. Labels are a classification's alone."""
    if shape == "classification":
        return classification(labels, instruction)
    return Task(shape=shape, instruction=KINDS[shape].instruction if instruction is None else instruction)


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


def filled(recipe: Recipe, shape: TaskShape) -> Recipe:
    """The recipe with what it leaves to the task: its first scorer, its baselines, and a gate on that scorer's primary metric and on what was forgotten."""
    kind = KINDS[shape]
    scorers = recipe.evaluate.scorers or [Use(name=kind.scorers[0])]
    unread = TRIVIAL if {scorer.name for scorer in scorers} <= NO_TEXT else ()
    baselines = recipe.baseline or [Use(name=name) for name in kind.baselines if name not in BY_NAME_ONLY and name not in unread]
    gate = recipe.gate
    if gate is None:
        metric, side = f"{scorers[0].name}.{METRICS[scorers[0].name][0]}", "<" if scorers[0].name in LOWER_IS_BETTER else ">"
        gate = [f"{metric} {side} best_baseline.{metric}", *([FORGETTING] if recipe.evaluate.general else [])]
    return recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"scorers": scorers}), "baseline": baselines, "gate": gate})


def require_recipe(recipe: Recipe, shape: TaskShape) -> None:
    """Raise InputError naming every scorer, baseline and gate rule of the recipe that says nothing about this task shape, with the valid ones."""
    problems: list[Problem] = []
    known = {name for kind in KINDS.values() for name in kind.baselines}
    for solver in recipe.baseline:
        if solver.name in known and solver.name not in KINDS[shape].baselines:
            problems.append(Problem("baseline", f'"{solver.name}" is not valid for {shape}', "valid: " + ", ".join(KINDS[shape].baselines)))
    named = [metric for rule in recipe.gate or () if (metric := rules.parse(rule).metric).partition(".")[0] in METRICS]
    checks = [partial(require_scorer, shape, use.name) for use in recipe.evaluate.scorers] + [partial(require_metric, shape, metric) for metric in named]
    for check in checks:
        try:
            check()
        except InputError as refused:
            problems += refused.problems
    if problems:
        raise InputError(*problems)


def require_scorer(shape: str, scorer: str) -> None:
    """Raise InputError, naming the valid ones, when a scorer says nothing about this task shape."""
    valid = KINDS[shape].scorers
    if scorer not in valid:
        raise InputError(Problem("evaluate.scorers", f'"{scorer}" is not valid for {shape}', f"valid: {', '.join(valid)}; {did_you_mean(scorer, valid)}"))


def require_metric(shape: str, metric: str) -> None:
    """Raise InputError, naming the valid ones, when `scorer.metric` is no metric of this task shape."""
    scorer, _, name = metric.partition(".")
    scorers = KINDS[shape].scorers
    known = METRICS.get(scorer, ()) if scorer in scorers else ()
    if name not in known and not any(family.endswith(">") and name.startswith(family.partition("<")[0]) for family in known):
        valid = [f"{scorer}.{name}" for scorer in scorers for name in METRICS[scorer]]
        raise InputError(Problem("gate", f'"{metric}" is not valid for {shape}', "valid: " + ", ".join(valid)))
