"""Task shapes (MISSION D11)."""

from __future__ import annotations

import pytest

from planish.data import task
from planish.data.citations import passages
from planish.errors import InputError
from planish.recipe import Recipe
from planish.recipe_evaluate import EvaluateSection
from planish.rows import (
    ChatRow,
    Entity,
    ExtractionRow,
    LabelRow,
    Message,
    Origin,
    PreferenceRow,
    PromptCompletionRow,
    QuestionRow,
    Row,
    StepsRow,
    SummaryRow,
    TextRow,
    ToolCall,
    UnpairedRow,
)

WHERE = Origin(file="f", line=1, sha256="")


def test_classification_prompts_share_the_instruction_as_a_prefix() -> None:
    triage = task.classification(["bad", "good"])
    (message,) = triage.prompt("it broke")
    assert message == Message(role="user", content="Classify the text. Answer with exactly one of: bad, good.\n\nit broke")
    assert triage.text_of(message.content) == "it broke"
    assert triage.text_of("something else") == "something else"
    row = LabelRow(id="1", origin=WHERE, text="it broke", label="bad")
    assert triage.asked(row) == (triage.prompt("it broke"), "bad", ())
    assert triage.row_shape == "label"
    assert task.classification(["a", "b"], "Sort.").prompt("x")[0].content == "Sort.\n\nx"
    assert task.classification(["a", "b"], "").prompt("x")[0].content == "x"


def test_chat_asks_for_the_last_turn() -> None:
    user, answer = Message(role="user", content="2+2?"), Message(role="assistant", content="4")
    assert task.make("chat").asked(ChatRow(id="1", origin=WHERE, messages=(user, answer, user, answer))) == ((user, answer, user), "4", ())
    assert task.make("chat", (), "Add.").asked(PromptCompletionRow(id="1", origin=WHERE, prompt="2+2?", completion="4")) == (
        (Message(role="user", content="Add.\n\n2+2?"),),
        "4",
        (),
    )


def test_a_row_of_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match="row 1: is a text row; the task classification asks no question of it"):
        task.classification(["a", "b"]).asked(TextRow(id="1", origin=WHERE, text="x"))
    with pytest.raises(InputError, match="row 1: is a label row"):
        task.make("chat").asked(LabelRow(id="1", origin=WHERE, text="x", label="a"))


@pytest.mark.parametrize(("labels", "why"), [([], "0 label"), (["a", "a"], "given twice: a"), (["a", ""], "one label is empty")])
def test_bad_labels_are_refused(labels: list[str], why: str) -> None:
    with pytest.raises(InputError, match=why):
        task.classification(labels)


@pytest.mark.parametrize(
    ("shape", "metric", "valid"),
    [
        ("classification", "label.macro_f1", True),
        ("classification", "label.f1.negative", True),
        ("classification", "rouge.rougeL", False),
        ("classification", "label.macro_f2", False),
        ("classification", "accuracy", False),
        ("chat", "rouge.rougeL", True),
        ("chat", "label.macro_f1", False),
        ("chat", "exact.accuracy", False),
    ],
)
def test_d11_a_metric_that_is_not_valid_for_the_shape_is_refused_by_name(shape: str, metric: str, valid: bool) -> None:
    """MISSION D11, Proof: table test shape x metric. Ex: classification -> macro-F1."""
    if valid:
        task.require_metric(shape, metric)
        task.require_scorer(shape, metric.partition(".")[0])
    else:
        with pytest.raises(InputError, match=f"not valid for {shape}") as refused:
            task.require_metric(shape, metric)
        assert refused.value.problems[0].fix.startswith("valid: ")


def test_a_scorer_that_is_not_valid_for_the_shape_is_refused() -> None:
    with pytest.raises(InputError, match="valid: label"):
        task.require_scorer("classification", "rouge")


EXTRACT = "Extract from the text. Answer with JSON only.\n\n"
QA = "Answer the question. Answer in as few words as possible.\n\n"
USER, ANSWER = Message(role="user", content="q"), Message(role="assistant", content="a")
CALL = Message(role="assistant", content="", tool_calls=(ToolCall(name="weather", arguments={"city": "Oslo"}, id="1"),))


@pytest.mark.parametrize(
    ("shape", "row", "prompt", "target"),
    [
        (
            "qa",
            QuestionRow(id="1", origin=WHERE, question="who?", answer="Ada", documents=("d1", "d2")),
            QA + "[1] d1\n[2] d2\n\nwho?",
            "Ada",
        ),
        (
            "extraction",
            ExtractionRow(id="1", origin=WHERE, text="in Oslo", entities=(Entity(type="city", start=3, end=7),)),
            EXTRACT + "in Oslo",
            '[{"text":"Oslo","type":"city"}]',
        ),
        (
            "extraction",
            ExtractionRow(id="1", origin=WHERE, text="in Oslo", fields={"city": "Oslo"}),
            EXTRACT + "in Oslo",
            '{"city":"Oslo"}',
        ),
        ("summarization", SummaryRow(id="1", origin=WHERE, document="long", summary="short"), "Summarise the document.\n\nlong", "short"),
        ("reasoning", StepsRow(id="1", origin=WHERE, prompt="p", completions=("one", "two"), labels=(True, False)), "p", "one\ntwo"),
        ("tools", ChatRow(id="1", origin=WHERE, messages=(USER, CALL)), "q", '[{"arguments":{"city":"Oslo"},"name":"weather"}]'),
        ("preference", PreferenceRow(id="1", origin=WHERE, prompt=(USER,), chosen=(ANSWER,), rejected=(CALL,)), "q", "a"),
        ("preference", UnpairedRow(id="1", origin=WHERE, prompt=(USER,), completion=(ANSWER,), label=True), "q", "a"),
    ],
)
def test_d11_what_each_shape_asks(shape: str, row: Row, prompt: str, target: str) -> None:
    """MISSION D11: the prompt and the target of every shape, and the dialogue it is trained as; Ex: extraction -> the spans as JSON."""
    made = task.make(shape)  # type: ignore[arg-type]
    asked = made.asked(row)
    assert (asked.messages[-1].content, asked.target) == (prompt, target)
    dialogue = made.conversation(row)
    assert task.said(dialogue.messages[-1]) == target
    assert dialogue.messages[:-1] == asked.messages


def test_numbered_documents_are_the_passages_that_citation_reads() -> None:
    """MISSION B3: what the prompt numbers is what an answer cites, and a question without documents is asked alone."""
    row = QuestionRow(id="1", origin=WHERE, question="who?", answer="Ada", documents=("Ada wrote.", "Bob read.\nTwice."))
    assert passages([task.make("qa").asked(row).messages[0].content]) == {1: "Ada wrote.", 2: "Bob read.\nTwice."}
    assert task.make("qa", (), "").asked(row.model_copy(update={"documents": ()})).messages[0].content == "who?"


RECIPE = Recipe.model_validate({"recipe": 1, "model": "m", "data": {"path": "x"}})


def test_d11_what_a_recipe_leaves_out_is_its_tasks() -> None:
    """MISSION D11: scorer, baselines and gate follow the shape; perplexity is better when lower; a gate that was emptied stays empty."""
    qa, pairs = task.filled(RECIPE, "qa"), task.filled(RECIPE, "preference")
    assert [use.name for use in qa.evaluate.scorers] == ["exact"]
    assert {"prompt", "few_shot"} <= {use.name for use in qa.baseline} <= set(task.KINDS["qa"].baselines) - task.BY_NAME_ONLY
    assert qa.gate == ["exact.exact > best_baseline.exact.exact", task.FORGETTING]
    assert pairs.gate is not None
    assert pairs.gate[0] == "pair_accuracy.accuracy > best_baseline.pair_accuracy.accuracy"
    labels = task.filled(RECIPE, "classification")
    assert {"majority", "prompt", "few_shot", "classifier"} <= {use.name for use in labels.baseline}
    own = RECIPE.model_copy(update={"evaluate": EvaluateSection.model_validate({"scorers": ["perplexity"], "general": []}), "gate": None})
    assert task.filled(own, "chat").gate == ["perplexity.bits_per_byte < best_baseline.perplexity.bits_per_byte"]
    assert task.filled(RECIPE.model_copy(update={"gate": []}), "chat").gate == []


def test_d11_everything_in_a_recipe_that_says_nothing_about_the_shape_is_named_at_once() -> None:
    """MISSION D11 Bad, R-1: a scorer, a baseline and a rule of another shape, each with the valid ones."""
    given = {"baseline": ["majority", "prompt"], "evaluate": {"scorers": ["label"]}, "gate": ["exact.macro_f1 >= 0.5", "worst_slice(topic).exact.exact >= 0.5"]}
    with pytest.raises(InputError) as refused:
        task.require_recipe(Recipe.model_validate({"recipe": 1, "model": "m", "data": {"path": "x"}, **given}), "qa")
    assert [problem.where for problem in refused.value.problems] == ["baseline", "evaluate.scorers", "gate"]
    assert all(problem.fix.startswith("valid: ") for problem in refused.value.problems)


def test_d11_the_table_of_shapes() -> None:
    """MISSION D11: every shape fixes rows, objective, scorers whose metrics are known, baselines and the room of an answer."""
    for shape, kind in task.KINDS.items():
        assert kind.rows, shape
        assert kind.objective in ("sft", "dpo")
        assert kind.scorers
        assert all(task.METRICS[scorer] for scorer in kind.scorers)
        assert min(len(kind.baselines), kind.max_new_tokens) > 0
    assert task.KINDS["classification"].scorers == ("label",)
    assert "exact" not in task.KINDS["summarization"].scorers + task.KINDS["chat"].scorers


@pytest.mark.parametrize(
    ("shapes", "tools", "shape"),
    [
        (["label"], False, "classification"),
        (["chat"], False, "chat"),
        (["chat"], True, "tools"),
        (["question"], False, "qa"),
        (["summary"], False, "summarization"),
        (["steps"], False, "reasoning"),
        (["preference", "unpaired"], False, "preference"),
        (["chat", "prompt_completion"], False, "chat"),
    ],
)
def test_d11_the_task_is_inferred_from_the_rows(shapes: list[str], tools: bool, shape: str) -> None:
    assert task.infer(shapes, tools=tools) == shape


@pytest.mark.parametrize("shapes", [["text"], ["label", "chat"], []])
def test_d11_rows_that_fit_no_task_are_refused(shapes: list[str]) -> None:
    with pytest.raises(InputError, match="rows fit no task"):
        task.infer(shapes, tools=False)
