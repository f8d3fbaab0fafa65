"""Task shapes (MISSION D11)."""

from __future__ import annotations

import pytest

from planish.data import task
from planish.errors import InputError
from planish.rows import ChatRow, LabelRow, Message, Origin, PromptCompletionRow, TextRow

WHERE = Origin(file="f", line=1, sha256="")


def test_classification_prompts_share_the_instruction_as_a_prefix() -> None:
    triage = task.classification(["bad", "good"])
    (message,) = triage.prompt("it broke")
    assert message == Message(role="user", content="Classify the text. Answer with exactly one of: bad, good.\n\nit broke")
    assert triage.text_of(message.content) == "it broke"
    assert triage.text_of("something else") == "something else"
    row = LabelRow(id="1", origin=WHERE, text="it broke", label="bad")
    assert triage.asked(row) == (triage.prompt("it broke"), "bad")
    assert triage.row_shape == "label"
    assert task.classification(["a", "b"], "Sort.").prompt("x")[0].content == "Sort.\n\nx"
    assert task.classification(["a", "b"], "").prompt("x")[0].content == "x"


def test_chat_asks_for_the_last_turn() -> None:
    user, answer = Message(role="user", content="2+2?"), Message(role="assistant", content="4")
    assert task.chat().asked(ChatRow(id="1", origin=WHERE, messages=(user, answer, user, answer))) == ((user, answer, user), "4")
    assert task.chat("Add.").asked(PromptCompletionRow(id="1", origin=WHERE, prompt="2+2?", completion="4")) == (
        (Message(role="user", content="Add.\n\n2+2?"),),
        "4",
    )


def test_a_row_of_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match="row 1: is a text row; the task classification asks no question of it"):
        task.classification(["a", "b"]).asked(TextRow(id="1", origin=WHERE, text="x"))
    with pytest.raises(InputError, match="row 1: is a label row"):
        task.chat().asked(LabelRow(id="1", origin=WHERE, text="x", label="a"))


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
