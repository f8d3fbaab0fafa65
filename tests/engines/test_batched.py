"""Answers decoded together are the answers given alone: for every family, with shared beginnings, samples, stop texts and constraints (MISSION K5, E2)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.model.families import FAMILIES, PLAIN, make

from planish.engines.transformers import TransformersEngine, start
from planish.errors import InputError
from planish.model import batched
from planish.model.constraint import Constraint
from planish.model.engine import Decoding
from planish.model.layout import layout_of
from planish.model.load import load

HEAD = list(range(5, 35))
"""30 tokens that every prompt begins with: long enough to be computed once."""


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Iterator[TransformersEngine]:
    started = start(tiny, precision="fp32")
    yield started
    started.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("decoded")


def prompts(count: int, top: int, seed: int = 0) -> list[list[int]]:
    draw = torch.Generator().manual_seed(seed)
    return [HEAD + torch.randint(3, top, (int(torch.randint(1, 12, (1,), generator=draw)),), generator=draw).tolist() for _ in range(count)]


def letters() -> Any:
    """A stand-in for a tokenizer with its template: an id is a letter, and 2 ends a turn."""
    return SimpleNamespace(end=2, decode=lambda ids: "".join(chr(60 + id) for id in ids))


def alone(one: TransformersEngine, prompt: list[int], decoding: Decoding) -> tuple[str, tuple[int, ...], str | None]:
    pieces = list(one.stream(prompt, decoding))
    return "".join(piece.text for piece in pieces), tuple(id for piece in pieces for id in piece.token_ids), pieces[-1].finish


@pytest.mark.parametrize("name", [*FAMILIES, *(name for name in PLAIN if name not in ("mamba", "rwkv"))])
def test_k5_every_family_answers_together_as_alone(folder: Path, name: str) -> None:
    kind, changes, *_ = (FAMILIES | PLAIN)[name]
    one = TransformersEngine(load(make(folder / name, kind, changes), "fp32"), letters(), "fp32")
    asked, decoding = prompts(4, 90), Decoding(max_new_tokens=8)
    for prompt, answer in zip(asked, one.generate(asked, decoding), strict=True):
        assert (answer.text, answer.token_ids, answer.finish) == alone(one, prompt, decoding)
    assert (layout_of(one.model).kind == "tree") == (name in FAMILIES)


@pytest.mark.parametrize("name", ["mamba", "rwkv"])
def test_a_family_without_a_key_value_cache_is_refused(folder: Path, name: str) -> None:
    kind, changes, _ = PLAIN[name]
    one = TransformersEngine(load(make(folder / name, kind, changes), "fp32"), letters(), "fp32")
    with pytest.raises(InputError, match=f"{name} keeps no key-value cache"):
        one.generate([HEAD], Decoding())


SETTINGS = [
    Decoding(max_new_tokens=20),
    Decoding(max_new_tokens=20, temperature=1.5, top_k=80, top_p=0.95, min_p=0.001, repetition_penalty=1.2, seed=11),
    Decoding(max_new_tokens=20, repetition_penalty=1.3, stop=("e", "9")),
    Decoding(max_new_tokens=30, temperature=0.7, constraint=Constraint.regex("[a-f]{2,9}")),
]


@pytest.mark.parametrize("decoding", SETTINGS, ids=["greedy", "sampled", "stopped", "constrained"])
def test_e2_every_setting_answers_together_as_alone(engine: TransformersEngine, decoding: Decoding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batched, "ROWS", 5)
    asked = [*prompts(8, 300, seed=3), HEAD]
    together = engine.generate(asked, decoding)
    assert [(answer.text, answer.token_ids, answer.finish) for answer in together] == [alone(engine, prompt, decoding) for prompt in asked]
    assert {answer.finish for answer in together} <= {"stop", "length"}


def test_an_answer_does_not_depend_on_the_order_of_the_prompts(engine: TransformersEngine) -> None:
    asked, decoding = prompts(12, 300, seed=5), Decoding(max_new_tokens=12, temperature=1, seed=4)
    assert engine.generate(asked[::-1], decoding)[::-1] == engine.generate(asked, decoding)


def test_the_common_beginning_is_computed_once(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """41 prompts of 31 to 41 tokens that share 30: two batches; 30 tokens once, then the rest of each row padded to the longest of its batch."""
    asked = prompts(41, 300, seed=6)
    cells: list[int] = []
    inner = batched.step
    monkeypatch.setattr(batched, "step", lambda *given: (cells.append(given[2].numel()), inner(*given))[1])
    engine.generate(asked, Decoding(max_new_tokens=1))
    rest = sorted((len(prompt) - 30 for prompt in asked), reverse=True)
    assert cells == [30, 32 * rest[0], 9 * rest[32]]


def test_a_long_answer_lowers_the_number_of_rows(engine: TransformersEngine) -> None:
    """32,768 cells: rows of 31 + 8,161 tokens go by fours."""
    rows = [engine._row([*HEAD, index], Decoding(max_new_tokens=8161)) for index in range(3, 12)]
    assert [len(part) for part in batched.batches(rows, 0)] == [4, 4, 1]


def test_bf16_goes_one_by_one_unless_told_otherwise(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr("planish.engines.transformers.decode", lambda _, rows, *more: sizes.append(len(rows)))
    for precision, exact in (("fp32", True), ("bf16", True), ("bf16", False)):
        TransformersEngine(engine.model, engine.chat, precision, exact=exact).generate([[5], [6], [7]], Decoding())  # type: ignore[arg-type]
    assert sizes == [3, 1, 1, 1, 3]


def test_progress_is_told_and_no_prompts_are_no_answers(engine: TransformersEngine) -> None:
    told: list[int] = []
    engine.generate(prompts(40, 300), Decoding(max_new_tokens=2), told.append)
    assert told == [32, 8]
    assert engine.generate([], Decoding()) == []


def test_empty_prompts_are_named(engine: TransformersEngine) -> None:
    with pytest.raises(InputError) as refused:
        engine.generate([[1], [], [2], []], Decoding())
    assert [problem.where for problem in refused.value.problems] == ["prompt 1", "prompt 3"]


@pytest.mark.slow
def test_k5_the_real_model_answers_together_as_alone() -> None:
    """SmolLM2-135M in fp32, 24 prompts with an instruction in common, greedy and sampled, 24 tokens each: the same tokens."""
    from planish.model.bundled import locate
    from planish.rows import Message

    one = start(locate("smollm2-135m-instruct"), precision="fp32")
    says = "Rewrite the sentence in plain words and keep its meaning: "
    things = ["phone", "train", "coat", "room", "meal", "film", "book", "lamp"]
    texts = [f"{word} {thing} was not what I had hoped for" for word in ("The new", "My", "Your old") for thing in things]
    asked = [one.chat.prompt([Message(role="user", content=says + text)]) for text in texts]
    for decoding in (Decoding(max_new_tokens=24), Decoding(max_new_tokens=24, temperature=0.8, top_p=0.95, seed=1)):
        together = one.generate(asked, decoding)
        assert [answer.token_ids for answer in together] == [alone(one, prompt, decoding)[1] for prompt in asked]
