"""The reference engine against plain transformers on the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from planish.engines.transformers import TransformersEngine, start
from planish.model.choice import probabilities
from planish.model.engine import Decoding

PROMPTS = [[1, 20, 21, 22], [1, 20, 21, 30, 31], [40, 41]]
OPTIONS = [[50, 2], [50, 51, 2], [60, 2]]


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Iterator[TransformersEngine]:
    started = start(tiny, precision="fp32")
    yield started
    started.close()


def logits(engine: TransformersEngine, ids: list[int]) -> torch.Tensor:
    engine.model.set_attn_implementation("eager")
    with torch.inference_mode():
        found: torch.Tensor = engine.model(input_ids=torch.tensor([ids])).logits[0, -1]
    return found


def test_choose_is_constrained_decoding(engine: TransformersEngine) -> None:
    """Two nodes: {50, 60} after the prompt, {51, 2} after 50. Each option's probability is the product over its nodes, from transformers' full logits."""
    table = engine.choose(PROMPTS, OPTIONS)
    for prompt, row in zip(PROMPTS, table, strict=True):
        root, deep = logits(engine, prompt), logits(engine, [*prompt, 50])
        wanted = probabilities(OPTIONS, {(): {t: root[t].item() for t in (50, 60)}, (50,): {t: deep[t].item() for t in (51, 2)}})
        assert row == pytest.approx(wanted, abs=1e-5)
        assert sum(row) == pytest.approx(1)


def test_e3_worked_number() -> None:
    """MISSION E3: labels {yes, no} with mass .2 and .1: yes is .2 / (.2 + .1) = .667."""
    assert probabilities([[7], [8]], {(): {7: torch.tensor(0.2).log().item(), 8: torch.tensor(0.1).log().item()}})[0] == pytest.approx(0.667, abs=5e-4)


def test_an_answer_does_not_depend_on_its_neighbours(engine: TransformersEngine) -> None:
    together = engine.choose(PROMPTS, OPTIONS)
    for prompt, row in zip(PROMPTS, together, strict=True):
        assert engine.choose([prompt], OPTIONS)[0] == pytest.approx(row, abs=1e-6)


def test_greedy_text_equals_transformers_generate(engine: TransformersEngine) -> None:
    for prompt, answer in zip(PROMPTS, engine.generate(PROMPTS, Decoding(max_new_tokens=12)), strict=True):
        engine.model.set_attn_implementation("sdpa")
        ids = torch.tensor([prompt])
        whole = engine.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=2, eos_token_id=2)
        theirs = [id for id in whole[0, len(prompt) :].tolist() if id != 2]
        assert list(answer.token_ids) == theirs
        assert answer.text == engine.chat.decode(theirs)


def test_stream_is_generate_in_pieces_and_stops_where_told(engine: TransformersEngine) -> None:
    [whole] = engine.generate([PROMPTS[0]], Decoding(max_new_tokens=12))
    assert "".join(piece.text for piece in engine.stream(PROMPTS[0], Decoding(max_new_tokens=12))) == whole.text
    stop = whole.text[3:5]
    [cut] = engine.generate([PROMPTS[0]], Decoding(max_new_tokens=12, stop=(stop,)))
    assert cut.finish == "stop"
    assert cut.text == whole.text[: whole.text.index(stop)]


def test_a_seed_gives_the_same_sample(engine: TransformersEngine) -> None:
    settings = Decoding(max_new_tokens=12, temperature=1.0, top_p=0.9, top_k=50, seed=3)
    assert engine.generate([PROMPTS[0]], settings) == engine.generate([PROMPTS[0]], settings)
