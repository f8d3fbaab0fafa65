"""Rows tokenised once: the store reads back what the chat gives, knows its key, and exists only complete (MISSION K5, K6)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.model.chat_families import chat, row, turns

from planish.data.table import Table
from planish.data.tree import Sequence
from planish.model import tokenise
from planish.model.chat import Chat, Refused
from planish.model.example import Example
from planish.model.fit import fit, histogram, suggested
from planish.model.mask import Dialogue, Masked
from planish.model.token_store import TokenStore
from planish.model.tokenise import How, build
from planish.objectives import sft
from planish.rows import ChatRow

ROWS = [row(turns(("user", f"the weather {'is ' * (n % 7)}{n}?"), ("assistant", "sunny " * (1 + n % 3) + str(n))), id=f"r{n}") for n in range(40)]
LONG = turns(
    ("system", "Be brief."),
    *[turn for n in range(4) for turn in (("user", f"{'what is the weather ' * 3}{n}?"), ("assistant", f"sunny {n}"))],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer's folder."""
    place = tmp_path_factory.mktemp("chatml")
    chat("chatml").save(place)
    return place


def two(given: ChatRow, one: Chat) -> Example:
    """An objective of two sequences a row, of which the second has a fractional and a negative weight."""
    first = one.trained(given.messages)
    return Example((first, Sequence(first.ids, (0.0, 0.5, *first.weights[2:-1], -1.0))), 2.0)


def test_k6_the_store_gives_back_what_the_chat_gives(folder: Path, tmp_path: Path) -> None:
    refused = row(turns(("user", "no answer")), id="bad")
    store = build([*ROWS[:5], refused, *ROWS[5:]], How(folder), tmp_path)
    one = Chat.load(folder)
    assert len(store) == len(ROWS)
    assert store.row_ids == [given.id for given in ROWS]
    for index, given in enumerate(ROWS):
        assert store.example(index) == sft.encode(given, one)
    assert store.lengths.tolist() == [len(one.trained(given.messages).ids) for given in ROWS]
    assert store.scored.tolist() == [sum(weight > 0 for weight in one.trained(given.messages).weights) for given in ROWS]
    assert [(fault.row, str(fault.code)) for fault in store.faults] == [("bad", "no_scored_tokens")]
    counts = store.manifest["counts"]
    assert counts == {"rows": 40, "sequences": 40, "tokens": int(store.lengths.sum()), "scored": int(store.scored.sum()), "faults": 1}


def test_any_objective_of_several_sequences(folder: Path, tmp_path: Path) -> None:
    store = build(ROWS, How(folder, encode=two, meaning=(("objective", "two"),)), tmp_path)
    one = Chat.load(folder)
    for index, given in enumerate(ROWS):
        assert store.example(index) == two(given, one)
    assert len(store.lengths) == 2 * len(ROWS)


def test_tokenised_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows, tokenizer, template and options are not tokenised again; another of any is another store."""
    made = build(Table.of(ROWS), How(folder), tmp_path)
    monkeypatch.setattr(tokenise, "_write", lambda *_: pytest.fail("tokenised again"))
    assert build(ROWS, How(folder), tmp_path).folder == made.folder  # a list of the same rows is the same content
    monkeypatch.undo()
    template = Chat.load(folder).tokenizer.chat_template
    others = [How(folder, turns="last"), How(folder, max_length=64), How(folder, max_length=64, policy="drop"), How(folder, template=template + " ")]
    assert len({build(ROWS, how, tmp_path).folder for how in others} | {made.folder, build(ROWS[1:], How(folder), tmp_path).folder}) == 6


def test_an_interrupted_store_is_absent(folder: Path, tmp_path: Path) -> None:
    def failing(given: ChatRow, one: Chat) -> Example:
        if given.id == "r30":
            raise KeyboardInterrupt
        return two(given, one)

    with pytest.raises(KeyboardInterrupt):
        build(ROWS, How(folder, encode=failing), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_many_chunks_are_one_store(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = build(ROWS, How(folder), tmp_path / "whole")
    monkeypatch.setattr(tokenise, "CHUNK", 7)
    parts = build(ROWS, How(folder), tmp_path / "parts")
    for file in sorted(path.name for path in whole.folder.iterdir()):
        assert (whole.folder / file).read_bytes() == (parts.folder / file).read_bytes()


def test_no_pickle(folder: Path, tmp_path: Path) -> None:
    store = build(ROWS[:2], How(folder), tmp_path)
    assert {path.suffix for path in store.folder.iterdir()} == {".bin", ".txt", ".jsonl", ".json"}
    json.loads((store.folder / "tokens.json").read_text(encoding="utf-8"))


def test_an_empty_store(folder: Path, tmp_path: Path) -> None:
    store = build([row(turns(("user", "a")), id="x")], How(folder), tmp_path)
    assert len(store) == 0
    assert store.lengths.tolist() == store.scored.tolist() == []
    assert TokenStore(store.folder).ids.tolist() == []


def test_k5_suggested_length_and_histogram() -> None:
    """Of 200 rows, 1 to 200 tokens long, the 198th is p99 = 198, rounded up to 256; 64 of them fit 64, 8 need more than 192."""
    lengths = list(range(1, 201))
    assert suggested(lengths) == 256
    assert suggested([5] * 100) == 64
    assert histogram(lengths) == {64: 64, 128: 64, 192: 64, 256: 8}


def masked(dialogue: Dialogue, **options: str) -> Masked:
    found = chat("chatml").masks([dialogue], **options)[0]  # type: ignore[arg-type]
    assert isinstance(found, Masked)
    return found


def test_k5_an_answer_is_never_cut() -> None:
    one, dialogue = chat("chatml"), Dialogue(LONG)
    whole = masked(dialogue)
    assert fit(one, dialogue, whole, len(whole.ids)) == [whole]
    with pytest.raises(Refused) as refused:
        fit(one, dialogue, whole, len(whole.ids) - 1)
    assert refused.value.code == "answer_truncated"
    with pytest.raises(Refused) as refused:
        fit(one, dialogue, whole, whole.spans[0].start, "drop")
    assert refused.value.code == "too_long"


def test_k5_the_prompt_is_cut_from_the_left() -> None:
    """The system turn and the answer stay whole; what goes first are old exchanges that are not trained, then the beginning of the question."""
    one, dialogue = chat("chatml"), Dialogue(LONG)
    whole = masked(dialogue, turns="last")
    (kept,) = fit(one, dialogue, whole, len(whole.ids) - 1, "cut_prompt_left", "last")
    text = one.tokenizer.decode(kept.ids)
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>")
    assert text.endswith("sunny 3<|im_end|>")
    assert "weather 0" not in text
    assert "weather 1?" in text
    alone = masked(Dialogue((LONG[0], *LONG[-2:])))
    (cut,) = fit(one, dialogue, whole, len(alone.ids) - 4, "cut_prompt_left", "last")
    assert len(cut.ids) <= len(alone.ids) - 4
    assert one.tokenizer.decode(cut.ids).endswith("weather 3?<|im_end|>\n<|im_start|>assistant\nsunny 3<|im_end|>")
    with pytest.raises(Refused) as refused:  # MISSION K5: system + answer > max_length -> too_long
        fit(one, dialogue, whole, 12, "cut_prompt_left", "last")
    assert refused.value.code == "too_long"


def test_k5_split_trains_every_answer_once() -> None:
    one, dialogue = chat("chatml"), Dialogue(LONG)
    whole = masked(dialogue)
    exchange = len(masked(Dialogue(LONG[:3])).ids)
    parts = fit(one, dialogue, whole, 2 * exchange, "split")
    assert all(len(part.ids) <= 2 * exchange for part in parts)
    assert len(parts) > 1
    said = "".join(one.tokenizer.decode(part.ids[span.start : span.stop]) for part in parts for span in part.spans)
    assert said == "".join(f"sunny {n}<|im_end|>" for n in range(4))
    assert all(one.tokenizer.decode(part.ids).startswith("<|im_start|>system\nBe brief.") for part in parts)
    with pytest.raises(Refused) as refused:
        fit(one, dialogue, whole, exchange - 3, "split")
    assert refused.value.code == "too_long"
    (last,) = fit(one, dialogue, masked(dialogue, turns="last"), 2 * exchange, "split", "last")
    assert len(last.spans) == 1


def test_the_store_applies_the_policy(folder: Path, tmp_path: Path) -> None:
    rows = [*ROWS[:3], row(LONG, id="long")]
    exchange = len(masked(Dialogue(LONG[:3])).ids)
    refused = build(rows, How(folder, max_length=2 * exchange), tmp_path)
    assert [(fault.row, str(fault.code)) for fault in refused.faults] == [("long", "answer_truncated")]
    divided = build(rows, How(folder, max_length=2 * exchange, policy="split"), tmp_path)
    assert divided.row_ids == [given.id for given in rows]
    assert len(divided.sequences(3)) > 1
    assert divided.example(3).share == float(sum(divided.scored[3:]))
