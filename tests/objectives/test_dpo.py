"""DPO by hand: MISSION P2's numbers, its other losses, what is scored, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.objectives.answers import PAIRS, answers, pair, said, scored

from planish.errors import InputError
from planish.model.chat import Chat
from planish.model.load import load
from planish.model.template import Refused
from planish.objectives import dpo


def test_p2_example_of_two_answers() -> None:
    """P2: -10 against a reference of -11 and -14 against -13: log-ratios +1 and -1, margin .1 * 2 = .2, loss -ln sigma(.2) = ln(1 + e^-.2) = .5981.

    The figures are those of the pair: kl = (1 + 1) / 4 = .5; the answers have 2 and 1 tokens.
    """
    found = dpo.loss(answers((-4.0, -6.0), (-14.0,), given=[(-11.0,), (-13.0,)]))
    assert found.total.item() == pytest.approx(0.5981, abs=5e-5)
    want = {"margin": 0.2, "accuracy": 1, "chosen_log_ratio": 1, "rejected_log_ratio": -1, "kl": 0.5, "chosen_tokens": 2, "rejected_tokens": 1}
    assert found.metrics == pytest.approx(want)


def test_p2_equal_margins_cost_ln_2() -> None:
    """P2: log-ratios of .5 and .5: -ln sigma(0) = ln 2 = .6931; a tie is not counted as right."""
    found = dpo.loss(answers((-1.0,), (-2.0,), given=[(-1.5,), (-2.5,)]))
    assert found.total.item() == pytest.approx(0.6931, abs=5e-5)
    assert found.metrics["accuracy"] == 0


def test_the_sum_is_over_pairs() -> None:
    """Two pairs, the second with margin -.2 and loss ln(1 + e^.2) = .7981: .5981 + .7981."""
    found = dpo.loss(answers((-10.0,), (-14.0,), (-14.0,), (-10.0,), given=[(-11.0,), (-13.0,), (-13.0,), (-11.0,)]))
    assert found.total.item() == pytest.approx(0.5981 + 0.7981, abs=1e-4)
    assert found.metrics["accuracy"] == 1


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({"label_smoothing": 0.1}, 0.9 * 0.598139 + 0.1 * 0.798139),
        ({"loss": "robust", "label_smoothing": 0.1}, (0.9 * 0.598139 - 0.1 * 0.798139) / 0.8),
        ({"loss": "robust"}, 0.598139),
        ({"loss": "ipo"}, (0.5 + 1.0 - 5.0) ** 2),
        ({"loss": "ipo", "beta": 0.5}, (0.5 + 1.0 - 1.0) ** 2),
    ],
)
def test_the_other_losses(options: dict[str, float], want: float) -> None:
    """Of P2's pair: with smoothing .1 the turned pair costs ln(1 + e^.2) = .7981. ipo takes log-ratios per token: 1/2 and -1/1, less 1/(2 beta)."""
    found = dpo.loss(answers((-4.0, -6.0), (-14.0,), given=[(-11.0,), (-13.0,)]), **options)  # type: ignore[arg-type]
    assert found.total.item() == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("options", [{"beta": 0.0}, {"label_smoothing": 0.5}, {"label_smoothing": -0.1}, {"loss": "ipo", "label_smoothing": 0.1}])
def test_options_without_meaning_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"objective\.dpo"):
        dpo.loss(answers((-1.0,), (-2.0,), given=[(-1.0,), (-2.0,)]), **options)  # type: ignore[arg-type]


def test_only_the_continuations_are_scored(tiny: Path) -> None:
    """An answer that stands in the prompt is read and not scored; both sequences begin with the prompt's tokens, which the tree then holds once."""
    chat = Chat.load(tiny)
    row = pair(0, "", "good", "bad").model_copy(update={"prompt": said(("user", "a"), ("assistant", "the sound"), ("user", "b"))})
    chosen, rejected = dpo.encode(row, chat).sequences
    prompt = chat.prompt(row.prompt)
    for sequence, text in ((chosen, "good"), (rejected, "bad")):
        assert list(sequence.ids[: len(prompt)]) == prompt
        assert chat.tokenizer.decode([id for id, weight in zip(sequence.ids, sequence.weights, strict=True) if weight]) == f"{text}<|im_end|>"


def test_shared_prompts_are_computed_once(tiny: Path) -> None:
    """A pair's tree has the prompt's tokens and both continuations less their last tokens, which are only targets."""
    from planish.data.tree import build

    chat = Chat.load(tiny)
    example = dpo.encode(PAIRS[3], chat)
    prompt = len(chat.prompt(PAIRS[3].prompt))
    assert len(build(example.sequences).ids) == prompt + sum(len(sequence.ids) - prompt - 1 for sequence in example.sequences)


def test_a_pair_the_template_writes_alike_is_refused(tiny: Path) -> None:
    """White space that this template cuts off tells no answers apart."""
    chat = Chat.load(tiny)
    chat.tokenizer.chat_template = chat.tokenizer.chat_template.replace("m['content']", "m['content'] | trim")
    with pytest.raises(Refused) as refused:
        dpo.encode(pair(0, "why", "good", "good "), chat)
    assert refused.value.code == "chosen_equals_rejected"


def test_at_the_reference_every_pair_costs_ln_2(tiny: Path) -> None:
    """With the model's own sums as reference all log-ratios are 0, whatever the answers, and the gradient is not."""
    model, chat = load(tiny, "fp32", trained=True), Chat.load(tiny)

    def reference(sequences: object) -> list[float]:
        from planish.data.tree import build
        from planish.model.policy import score

        return [score(model, build([sequence]), "fp32").sums().item() for sequence in sequences]  # type: ignore[attr-defined]

    examples = dpo.prepare([dpo.encode(row, chat) for row in PAIRS], reference)
    assert all(len(sequence.given) == 1 for example in examples for sequence in example.sequences)
    found = dpo.loss(scored(model, examples))
    assert found.total.item() / len(PAIRS) == pytest.approx(math.log(2), abs=1e-5)
    found.total.backward()
    assert max(p.grad.abs().max() for p in model.parameters() if p.grad is not None) > torch.tensor(1e-3)
