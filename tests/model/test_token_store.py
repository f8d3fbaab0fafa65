"""Rows tokenised once: the store reads back what the chat gives, knows its key, and exists only complete (MISSION K5, K6)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.model.chat_families import chat, row, turns

from planish.data import parallel
from planish.data.table import Table
from planish.data.task import classification
from planish.data.tree import Sequence
from planish.model import tokenise
from planish.model.chat import Chat, Refused
from planish.model.example import Example
from planish.model.fit import fit, histogram, suggested
from planish.model.mask import Dialogue, Masked
from planish.model.token_store import TokenStore
from planish.model.tokenise import How, build
from planish.objectives import sft
from planish.rows import ChatRow, LabelRow

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
    assert counts == {"rows": 40, "sequences": 40, "tokens": int(store.lengths.sum()), "scored": int(store.scored.sum()), "given": 0, "faults": 1}


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


def test_a_tokenizer_written_anew_at_the_same_place_is_read_anew(folder: Path, tmp_path: Path) -> None:
    """One process, two tokenizers, one after the other, in one folder: a process that stays up must not tokenise with the first."""
    place = tmp_path / "tokenizer"
    shutil.copytree(folder, place)
    before = build(ROWS, How(place), tmp_path)
    one = Chat.load(place)
    one.tokenizer.chat_template = one.tokenizer.chat_template.replace("<|im_start|>", "<|im_start|> ")
    one.save(place)
    after = build(ROWS, How(place), tmp_path)
    assert [after.example(index) for index in range(len(ROWS))] == [sft.encode(given, Chat.load(place)) for given in ROWS]
    assert after.example(0) != before.example(0)


def test_rows_that_are_no_dialogues_are_asked_as_their_task_asks(folder: Path, tmp_path: Path) -> None:
    """The instruction is part of what is tokenised, so another one is another store; an objective must say what it is for the same reason."""
    labels = [LabelRow(id=str(n), origin=ROWS[0].origin, text=f"it is {n}", label=label) for n, label in enumerate(["sunny", "Paris"] * 3)]
    task, other = classification(["Paris", "sunny"]), classification(["Paris", "sunny"], "what is it?")
    store = build(labels, How(folder, task=task), tmp_path)
    assert store.example(0) == sft.encode(task.conversation(labels[0]), Chat.load(folder))
    assert build(labels, How(folder, task=other), tmp_path).folder != store.folder
    with pytest.raises(ValueError, match="meaning"):
        How(folder, encode=two)


def test_an_interrupted_store_is_absent(folder: Path, tmp_path: Path) -> None:
    def failing(given: ChatRow, one: Chat) -> Example:
        if given.id == "r30":
            raise KeyboardInterrupt
        return two(given, one)

    with pytest.raises(KeyboardInterrupt):
        build(ROWS, How(folder, encode=failing, meaning=(("objective", "failing"),)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_many_chunks_are_one_store(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = build(ROWS, How(folder), tmp_path / "whole")
    monkeypatch.setattr(tokenise, "CHUNK", 7)
    parts = build(ROWS, How(folder), tmp_path / "parts")
    for file in sorted(path.name for path in whole.folder.iterdir()):
        assert (whole.folder / file).read_bytes() == (parts.folder / file).read_bytes()


FORKED = """
import sys
from pathlib import Path
from planish.data import parallel
from planish.data.table import Table
from planish.model import measured, tokenise
from planish.model.chat import Chat
from planish.rows import ChatRow, LabelRow
pools = []
start = parallel.ProcessPoolExecutor
parallel.ProcessPoolExecutor = lambda *given, **more: pools.append(1) or start(*given, **more)
rows = Table.of(ChatRow.model_validate_json(line) for line in open(sys.argv[1]))
tokenise.CHUNK = measured.CHUNK = 7
print(tokenise.build(rows, tokenise.How(Path(sys.argv[2])), Path(sys.argv[3])).folder)
print(measured.measure(rows, Chat.load(Path(sys.argv[2]))).lengths.tolist(), len(pools))
"""


@pytest.mark.skipif(parallel.cores() < 2 or sys.platform != "linux", reason="processes are forked on Linux, where there is more than one core")
def test_forked_processes_make_the_same_store(folder: Path, tmp_path: Path) -> None:
    """Where torch is not loaded the rows go to as many processes as there are cores: the same bytes, and the same lengths."""
    here = build(ROWS, How(folder), tmp_path / "here")
    (tmp_path / "rows.jsonl").write_text("\n".join(given.model_dump_json() for given in ROWS), encoding="utf-8")
    given = [str(tmp_path / "rows.jsonl"), str(folder), str(tmp_path / "there")]
    done = subprocess.run([sys.executable, "-c", FORKED, *given], capture_output=True, text=True, check=True)
    there, said = done.stdout.splitlines()
    assert said == f"{here.lengths.tolist()} 2"
    assert done.stderr == ""
    assert Path(there).name == here.folder.name
    for file in sorted(path.name for path in here.folder.iterdir()):
        assert (here.folder / file).read_bytes() == (Path(there) / file).read_bytes()


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
