"""General ability of a model: each figure against one made without the tree, and the rows that a metric is over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from planish.data.general import GeneralRow
from planish.errors import InputError
from planish.evidence.facts import ReportFacts
from planish.evidence.paired import compare
from planish.model.engine import Decoding
from planish.model.general import evaluate
from planish.rows import Message
from planish.scores import EvalReport

ASKED = (Message(role="user", content="is the phone good"),)
ROWS = [
    GeneralRow(id="text-0", source="held_out_text", text="the phone is good and the sound is bad"),
    GeneralRow(id="chat-0", source="chat_exchanges", messages=(*ASKED, Message(role="assistant", content="good"))),
    *(GeneralRow(id=f"reasoning-{place}", source="reasoning", messages=ASKED, options=("good", "bad", "the sound"), right=place % 3) for place in range(6)),
]


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Any:
    from planish.engines import transformers

    return transformers.start(tiny, precision="fp32")


@pytest.fixture(scope="module")
def measured(engine: Any) -> EvalReport:
    """Measured right after an answer was written, which leaves the model's own attention: every figure below is wrong where that is not put back."""
    engine.generate([engine.chat.prompt(ASKED)], Decoding(max_new_tokens=2))
    return evaluate(engine.model, engine.chat, ROWS, "base", "fp32")


def test_a_choice_is_the_option_of_the_highest_likelihood(engine: Any, measured: EvalReport) -> None:
    """Each option run alone through the plain model: sum of log p over its tokens and the end of the turn; its share of the three, and the argmax."""
    import torch

    from planish.model.layout import use_plain

    use_plain(engine.model)
    prompt = engine.chat.prompt(ASKED)
    sums = []
    for option in ROWS[2].options:
        answer = [*engine.chat.encode(option), engine.chat.end]
        with torch.inference_mode():
            logits = engine.model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        sums.append(sum(float(logits[len(prompt) + place - 1, token]) for place, token in enumerate(answer)))
    shares = torch.tensor(sums).softmax(0).tolist()
    scores = {score.id: score for score in measured.scores}
    for place in range(3):
        assert scores[f"reasoning-{place}"].detail["general.reasoning.probability"] == pytest.approx(shares[place], rel=1e-4)
        assert scores[f"reasoning-{place}"].answer == ROWS[2].options[sums.index(max(sums))]
    assert measured.metrics["general.reasoning.accuracy"].value == pytest.approx(2 / 6)  # each option is right twice


def test_every_suite_has_its_own_figures_over_its_own_rows(measured: EvalReport) -> None:
    assert {name: metric.n for name, metric in measured.metrics.items()} == {
        "general.next_token_accuracy": 2,
        "general.perplexity": 2,
        "general.held_out_text.next_token_accuracy": 1,
        "general.held_out_text.loss": 1,
        "general.chat_exchanges.next_token_accuracy": 1,
        "general.chat_exchanges.loss": 1,
        "general.reasoning.accuracy": 6,
        "general.reasoning.probability": 6,
    }
    assert not measured.metrics["general.held_out_text.loss"].higher_is_better
    parts = [score.detail for score in measured.scores[:2]]
    assert measured.metrics["general.next_token_accuracy"].value == sum(part["correct"] for part in parts) / sum(part["tokens"] for part in parts)


def test_a_suites_metric_is_paired_and_gated_on_its_own_rows(measured: EvalReport) -> None:
    """The n of the difference is that of the suite, and so is the bound of a rule against a constant."""
    other = measured.model_copy(update={"system": "tuned"})
    for name, n in (("general.reasoning.accuracy", 6), ("general.next_token_accuracy", 2), ("general.held_out_text.loss", 1)):
        assert compare(other, measured, name).n == n
    facts = ReportFacts([other], base=[measured])
    assert facts.comparison("general.reasoning.probability", "base.general.reasoning.probability").n == 6
    assert 0 < facts.bound("general.reasoning.probability", "lower") < measured.metrics["general.reasoning.probability"].value


def test_a_row_that_the_model_cannot_read_whole_is_refused(engine: Any) -> None:
    """512 places, and a text of more tokens."""
    with pytest.raises(InputError, match=r"general row own-1: .* tokens, and the model reads 512"):
        evaluate(engine.model, engine.chat, [GeneralRow(id="own-1", source="own", text="zq " * 600)], "base", "fp32")


def test_lm_eval_samples_become_scores() -> None:
    """Samples as `simple_evaluate(log_samples=True)` of lm-eval 0.4.13 logs them: the second filter of a document is not a second document."""
    from planish.model.lm_eval_tasks import scores_of

    logged = [{"doc_id": place, "target": "A", "filter": name, "acc": float(place), "metrics": ["acc"]} for place in (0, 1) for name in ("none", "strict")]
    scores = scores_of({"arc_easy": logged})
    assert [(score.id, score.value, score.detail) for score in scores] == [
        ("arc_easy-0", 0.0, {"general.arc_easy.accuracy": 0.0}),
        ("arc_easy-1", 1.0, {"general.arc_easy.accuracy": 1.0}),
    ]
    with pytest.raises(InputError, match=r"wikitext.*word_perplexity"):
        scores_of({"wikitext": [{"doc_id": 0, "target": "", "filter": "none", "word_perplexity": 20.0, "metrics": ["word_perplexity"]}]})
