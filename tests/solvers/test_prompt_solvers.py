"""Prompts and few-shot prompts byte by byte, what they are drawn from, and what is refused (MISSION B2)."""

import hashlib

import pytest
from tests.solvers.scripted import Scripted, labelled, sample

from planish.data.task import classification, make
from planish.errors import InputError
from planish.evidence.seeds import over_seeds
from planish.rows import Message
from planish.solvers import few_shot, prompt

TASK = classification(("good", "bad"))
TRAIN = [
    labelled(0, "the screen is bright", "good"),
    labelled(1, "the battery died", "bad"),
    labelled(2, "lovely sound from the speaker", "good"),
    labelled(3, "the speaker broke", "bad"),
    labelled(4, "cheap and cheerful", "good"),
    labelled(5, "never again", "bad"),
]
GOLD = ["the speaker is loud", "zebra"]


def gold(texts=GOLD):
    return [sample(number, TASK.prompt(text)[0].content, "good") for number, text in enumerate(texts)]


def shots(asked):
    return [turn.content for turn in asked if turn.role == "assistant"]


def test_b2_prompt_bytes_snapshot():
    """B2 Proof: the bytes that are asked, and their hash. Whoever changes them changes every score that was made with them."""
    asker = Scripted(lambda _: "good")
    found = prompt.solve(gold(), GOLD, TRAIN, TASK, asker)
    text = "Classify the text. Answer with exactly one of: good, bad.\n\nthe speaker is loud"
    assert [turn.content for turn in asker.asked[0]] == [text]
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "78320d135cc43c6f"
    assert found.details == {"prompt": prompt._version(TASK.instruction)}
    assert [answer.text for answer in found.answers] == ["good", "good"]


def test_b2_few_shot_prompt_bytes_snapshot():
    """B2 Proof: two labels in turn, shuffled by the seed; each example is a turn of the user and its answer, then the question."""
    asker = Scripted()
    few_shot.solve(gold(), GOLD, TRAIN, TASK, asker, k=2, seed=0)
    head = "Classify the text. Answer with exactly one of: good, bad.\n\n"
    roles = [turn.role for turn in asker.asked[0]]
    assert roles == ["user", "assistant", "user", "assistant", "user"]
    texts = {head + row.text: row.label for row in TRAIN}
    for question, answer in zip(asker.asked[0][0:4:2], asker.asked[0][1:4:2], strict=True):
        assert texts[question.content] == answer.content
    assert sorted(shots(asker.asked[0])) == ["bad", "good"]
    assert asker.asked[0][:4] == asker.asked[1][:4]  # one prefix for every question
    assert asker.asked[0][-1].content == head + "the speaker is loud"


def test_b2_defaults():
    """B2 Def k=0 and 5, 3 seeds: k=0 is the solver `prompt`."""
    asker = Scripted()
    few_shot.solve(gold(), GOLD, TRAIN, TASK, asker)
    assert len(shots(asker.asked[0])) == 5
    assert few_shot.SEEDS == 3
    none = Scripted()
    few_shot.solve(gold(), GOLD, TRAIN, TASK, none, k=0)
    plain = Scripted()
    prompt.solve(gold(), GOLD, TRAIN, TASK, plain)
    assert none.asked == plain.asked


def test_b2_seeds_are_averaged_and_their_range_is_shown():
    """B2 Ex: seeds .70, .74, .72 -> mean (.70 + .74 + .72) / 3 = .72, range .70 to .74."""
    found = over_seeds("label.macro_f1", [0.70, 0.74, 0.72])
    assert found.value == pytest.approx(0.72)
    assert (found.low, found.high, found.n, found.method) == (0.70, 0.74, 3, "range of 3 seeds")
    assert str(found) == "0.720 [0.700, 0.740] (n=3)"
    with pytest.raises(InputError, match="no seed"):
        over_seeds("x", [])


def test_seeds_draw_other_examples_and_one_seed_the_same():
    first, again, other = Scripted(), Scripted(), Scripted()
    for asker, seed in ((first, 0), (again, 0), (other, 1)):
        few_shot.solve(gold(), GOLD, TRAIN, TASK, asker, k=4, seed=seed)
    assert first.asked == again.asked
    assert first.asked != other.asked


def test_b2_similar_takes_what_shares_rare_words():
    """B2 BM25: both rows about a speaker come to the question about one, the shorter (which scores higher) next to it; a question that shares nothing gets drawn ones."""
    asker, texts = Scripted(), ["speaker?", "zebra"]
    few_shot.solve(gold(texts), texts, TRAIN, TASK, asker, k=2, pick="similar")
    asked = [turn.content.rpartition("\n")[2] for turn in asker.asked[0] if turn.role == "user"]
    assert asked == ["lovely sound from the speaker", "the speaker broke", "speaker?"]
    assert len(shots(asker.asked[1])) == 2
    assert asker.asked[0][:4] != asker.asked[1][:4]


def test_b2_an_example_from_gold_is_refused():
    """B2 Bad: by its id, and by what it asks."""
    same_id = labelled(9, "another text", "good").model_copy(update={"id": "g1"})
    same_text = labelled(9, "zebra", "good")
    for row, named in ((same_id, "g1"), (same_text, "t9")):
        for pick in ("balanced", "random", "similar"):
            with pytest.raises(InputError, match="asked in the gold set") as refused:
                few_shot.solve(gold(), GOLD, [*TRAIN, row], TASK, Scripted(), pick=pick)
            assert [problem.where for problem in refused.value.problems] == [f"row {named}"]


@pytest.mark.parametrize("pick", ["random", "similar"])
def test_b2_a_prompt_over_the_context_shows_fewer_and_says_so(pick):
    """B2 Bad: the room of the answer, 16 tokens, is kept free."""
    whole = Scripted()
    few_shot.solve(gold(), GOLD, TRAIN, TASK, whole, k=4, pick=pick)
    words = [sum(len(turn.content.split()) for turn in asked) for asked in whole.asked]
    tight = Scripted(context=min(words) + 16 - 1)
    found = few_shot.solve(gold(), GOLD, TRAIN, TASK, tight, k=4, pick=pick)
    assert max(len(shots(asked)) for asked in tight.asked) < 4
    assert "4 of 4" not in found.details["shots"]
    assert "of 4 examples before" in found.details["shots"]
    assert all(sum(len(turn.content.split()) for turn in asked) + 16 <= tight.context for asked in tight.asked)
    none = few_shot.solve(gold(), GOLD, TRAIN, TASK, Scripted(context=1), k=4, pick=pick)
    assert none.details == {"shots": "0 of 4 examples before 2 questions"}


def test_b2_prompts_are_searched_on_validation_and_never_on_gold():
    """Three wordings; on 4 validation rows the second is right 3 times, the third 4 times. Gold is asked with the third alone."""

    def say(text):
        right = "bad" if "broke" in text else "good"
        if text.startswith("Best"):
            return right
        return right if text.startswith("Better") and "never" not in text else "neither"

    held = [labelled(10 + number, text, "bad" if "broke" in text else "good") for number, text in enumerate(["a", "b broke", "c", "never"])]
    asker = Scripted(say)
    told = []
    asker.advance = told.append
    found = prompt.solve(gold(), GOLD, TRAIN, TASK, asker, held, prompts=["Better:", "Best:"])
    assert [asked[0].content for asked in asker.asked if any(text in asked[0].content for text in GOLD)] == ["Best:\n\nthe speaker is loud", "Best:\n\nzebra"]
    assert found.details["prompt"].endswith(": Best:")
    versions = [prompt._version(wording) for wording in (TASK.instruction, "Better:", "Best:")]
    assert found.details["prompts"] == f"on 4 validation rows: {versions[0]} 0.000; {versions[1]} 0.750; {versions[2]} 1.000"
    assert told == [2]  # only gold rows count as progress
    with pytest.raises(InputError, match="no validation row"):
        prompt.solve(gold(), GOLD, TRAIN, TASK, Scripted(), prompts=["x"])
    with pytest.raises(InputError, match="one of them is empty"):
        prompt.solve(gold(), GOLD, TRAIN, TASK, Scripted(), held, prompts=[" "])


def test_wordings_of_generated_tasks_are_compared_by_token_f1():
    """`the red door` against `red`: 2 x 1 / (2 + 1) = .667 without the article."""
    task = make("qa")
    asked = sample(0, "x", "red")
    assert prompt._agreement(asked, "the red door", task) == pytest.approx(2 / 3)
    assert prompt._agreement(asked, None, task) == 0.0


def test_a_wording_of_a_dialogue_that_ends_otherwise_is_a_system_turn():
    ending = sample(0, "x", "y").model_copy(update={"messages": (Message(role="user", content="a"), Message(role="tool", content="b"))})
    assert [turn.role for turn in prompt._worded(ending, make("tools"), "Call tools.").messages] == ["system", "user", "tool"]
