"""Retrieval by hand: what is found, shown, dropped and cited (MISSION B3)."""

import pytest
from tests.solvers.scripted import Scripted, origin, sample

from planish.data.task import make, numbered
from planish.errors import InputError
from planish.rows import QuestionRow, TextRow
from planish.solvers import rag

TASK = make("qa")
DOCUMENTS = ["The ferry to Aran sails at nine.", "The museum opens on Monday. It shows boats.", "Bread is baked before dawn by the baker."]
ROWS = [QuestionRow(id="t0", origin=origin(1), question="x?", answer="y", documents=tuple(DOCUMENTS))]


def ask(questions, targets, asker, train=ROWS, **options):
    texts = list(questions)
    samples = [sample(i, TASK.prompt(text)[0].content, target) for i, (text, target) in enumerate(zip(texts, targets, strict=True))]
    return rag.solve(samples, texts, train, TASK, asker, **options)


def test_b3_found_cited_and_scored():
    """Three questions over three passages, k=1. The first is found and cited ([1] is right); the second is found and cited as [2], which is no passage shown; the third
    asks what no document holds. Recall 2/2; citations: 2 made, 1 right: precision 1/2; 2 right ones were shown: recall 1/2, F1 2/4; two of three answers cite."""
    said = {"ferry": "Nine [1].", "museum": "Monday [2]", "king": "I do not know"}
    asker = Scripted(lambda prompt: next(answer for word, answer in said.items() if word in prompt.rpartition("\n\n")[2]))
    found = ask(["When does the ferry sail?", "When does the museum open?", "Who is king of dawn?"], ["at nine", "Monday", "Nobody"], asker, k=1)
    figures = {name: (metric.value, metric.n) for name, metric in found.metrics.items()}
    assert figures["recall_at_1"] == (1.0, 2)
    assert figures["answerable"] == (pytest.approx(2 / 3), 3)
    assert figures["citation_precision"] == (0.5, 2)
    assert figures["citation_recall"] == (0.5, 2)
    assert figures["citation_f1"][0] == 0.5
    assert figures["cites"] == (pytest.approx(2 / 3), 3)
    assert [answer.text for answer in found.answers] == ["Nine.", "Monday", "I do not know"]
    assert all(metric.low <= metric.value <= metric.high for metric in found.metrics.values())


def test_b3_prompt_bytes():
    """What the model reads: instruction, how to cite, the passages best first on a line each, a blank line, the question."""
    asker = Scripted()
    ask(["Which boats does the museum show?"], ["boats"], asker, k=2)
    assert asker.asked[0][0].content == (
        "Answer the question. Answer in as few words as possible.\n\n"
        "Answer from the numbered passages, and name those you used in brackets, like [1].\n\n"
        "[1] The museum opens on Monday. It shows boats.\n"
        "[2] The ferry to Aran sails at nine.\n\n"
        "Which boats does the museum show?"
    )


def test_recall_counts_passages_not_questions():
    """Two passages hold the answer and one is retrieved: recall@1 is 1/2."""
    rows = [QuestionRow(id="t0", origin=origin(1), question="x?", answer="y", documents=("pears are green fruit", "green is the door", "red is the roof"))]
    assert ask(["what is fruit"], ["green"], Scripted(), rows, k=1).metrics["recall_at_1"].value == 0.5


def test_b3_overflow_drops_the_lowest_rank_and_counts():
    """B3 Bad: the context holds two passages of three; the answer's room of 64 is kept free. Without room for any, the question is asked plainly."""
    question = "When does the ferry sail to the museum at dawn?"
    whole = Scripted()
    ask([question], ["nine"], whole, k=3)
    length = len(whole.asked[0][0].content.split())
    tight = Scripted(context=length + 64 - 1)
    found = ask([question], ["nine"], tight, k=3)
    assert "[3]" in whole.asked[0][0].content
    assert "[2]" in tight.asked[0][0].content
    assert "[3]" not in tight.asked[0][0].content
    assert "1 prompts left no room, 1 passages dropped" in found.details["retrieval"]
    none = Scripted(context=80)
    ask([question], ["nine"], none, k=3)
    assert none.asked[0] == TASK.prompt(question)


def test_the_questions_own_documents_are_searched_and_taken_out_of_the_question():
    asker = Scripted(lambda prompt: "blue [1]")
    text = f"{numbered(['The door is blue.', 'The roof is red.'])}\n\nWhat colour has the door?"
    found = ask([text], ["blue"], asker, [], k=1)
    assert asker.asked[0][0].content.endswith("[1] The door is blue.\n\nWhat colour has the door?")
    assert found.metrics["citation_f1"].value == 1.0
    assert "2 documents" in found.details["retrieval"]


def test_documents_from_a_path(tmp_path):
    (tmp_path / "a.txt").write_text("The lighthouse was built in 1861.", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "Its keeper was Ann."}\n{"text": "The sea is cold."}\n', encoding="utf-8")
    asker = Scripted()
    found = ask(["Who was the keeper?"], ["Ann"], asker, [], path=str(tmp_path))
    assert "[1] Its keeper was Ann." in asker.asked[0][0].content
    assert "3 documents in 3 passages" in found.details["retrieval"]
    assert found.metrics["recall_at_4"].value == 1.0


def test_b3_an_empty_corpus_is_refused(tmp_path):
    """B3 Bad: no documents at all, an empty folder, documents without a word, a row that is no text."""
    no_documents = [TextRow(id="t0", origin=origin(1), text="x")]
    with pytest.raises(InputError, match="no document to search"):
        ask(["x"], ["y"], Scripted(), no_documents)
    with pytest.raises(InputError, match="holds no document"):
        ask(["x"], ["y"], Scripted(), [], path=str(tmp_path))
    (tmp_path / "a.txt").write_text("... !!!", encoding="utf-8")
    with pytest.raises(InputError, match="nothing to search"):
        ask(["x"], ["y"], Scripted(), [], path=str(tmp_path))
    (tmp_path / "b.jsonl").write_text('{"text": ""}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"b\.jsonl:1"):
        ask(["x"], ["y"], Scripted(), [], path=str(tmp_path))
    with pytest.raises(InputError, match="k >= 1"):
        ask(["x"], ["y"], Scripted(), k=0)
