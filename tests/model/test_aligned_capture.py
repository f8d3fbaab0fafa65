"""A teacher of another vocabulary: it speaks where both tokenizers write the same token, is silent and counted elsewhere, and is refused under 95 % (MISSION S1)."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import make_tiny

from planish import capture as capturing
from planish.capture import How
from planish.capture.aligned import alike
from planish.data import dataset
from planish.data.capture_file import rows_of
from planish.data.tree import Sequence
from planish.errors import InputError
from planish.model.chat import Chat
from planish.model.token_bytes import TokenBytes
from planish.objectives import kd
from planish.recipe import Recipe

ROWS = [{"messages": [{"role": "user", "content": f"the phone {n}"}, {"role": "assistant", "content": f"good sound {n} is bad and good"}]} for n in range(70)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher; a student with the same words under other ids; one that lacks " sound" as a word; one that has single bytes alone."""
    folder = tmp_path_factory.mktemp("home")
    make_tiny(folder / "teacher", hidden=32)
    told = json.loads((folder / "teacher" / "tokenizer.json").read_text(encoding="utf-8"))
    merges = told["model"]["merges"]
    words = [word for word in told["model"]["vocab"] if not word.startswith("<|")]
    kept = {name: told["model"]["vocab"][name] for name in told["model"]["vocab"] if name.startswith("<|")}
    without = [merge for merge in merges if "".join(merge) != "Ġsound"]
    lacking = [word for word in words if word != "Ġsound"]
    single = [word for word in words if len(word) == 1]
    for name, order, some in (("renamed", words[::-1], merges), ("split", lacking, without), ("bytes", single, [])):
        shutil.copytree(folder / "teacher", folder / name)
        made = kept | {word: len(kept) + place for place, word in enumerate(order)}
        changed = told | {"model": told["model"] | {"vocab": made, "merges": some}}
        (folder / name / "tokenizer.json").write_text(json.dumps(changed), encoding="utf-8")
        text = f"recipe: 1\nmodel: {name}\ndata: {{path: rows.jsonl, task: chat, split: {{gold: 0.6, validation: 0.1}}, checks: []}}\n"
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return folder


@cache
def data_of(home: Path) -> dataset.Dataset:
    return capturing.prepared(Recipe.load(home / "renamed.yaml"), home / "space")


def taken(home: Path, name: str, out: Path, **more: Any) -> capturing.Captured:
    given = {"teacher": "teacher", "precision": "fp32", "mass": 1.0, "k": 20, "align": True} | more
    return capturing.capture(Recipe.load(home / f"{name}.yaml"), How(**given), out, workspace=home / "space", data=data_of(home))


def plain(home: Path, out: Path) -> list[Any]:
    """What the teacher says of the same rows in its own tokens."""
    (home / "own.yaml").write_text((home / "renamed.yaml").read_text(encoding="utf-8").replace("renamed", "teacher"), encoding="utf-8")
    taken(home, "own", out, align=False)
    return list(rows_of(out))


def spelt(home: Path, name: str) -> TokenBytes:
    return TokenBytes(Chat.load(home / name).tokenizer)


def test_the_same_words_under_other_ids_are_all_mapped(home: Path, tmp_path: Path) -> None:
    """Every position has its teacher, with the very log-probabilities that it gives in its own tokens, under the ids of the words that spell the same; kd takes the capture."""
    want = plain(home, tmp_path / "plain")
    found = taken(home, "renamed", tmp_path / "c")
    mine, theirs = spelt(home, "renamed"), spelt(home, "teacher")
    assert found.covered == 1
    for row, other in zip(rows_of(tmp_path / "c"), want, strict=True):
        assert [mine.of[id] for id in row.completion_ids] == [theirs.of[id] for id in other.completion_ids]
        assert row.completion_ids != other.completion_ids
        real = [id in theirs.of for id in other.said.ids.tolist()]  # the model's vocabulary is padded: what is no word stays in the tail
        assert [mine.of[id] for id in row.said.ids.tolist()] == [theirs.of[id] for id in other.said.ids[real].tolist()]
        assert row.said.log_probs.tolist() == other.said.log_probs[real].tolist()
        assert row.said.lse.tolist() == other.said.lse.tolist()
    chat = Chat.load(home / "renamed")
    example = kd.encode(capturing.dialogues(data_of(home))[0], chat, capture=str(tmp_path / "c"))
    assert example.sequences[0].given != (kd.NONE,)


def test_a_word_that_one_of_them_splits_leaves_the_kd_term(home: Path, tmp_path: Path) -> None:
    """The student writes " sound" in pieces: they have no teacher, every other position has its own, and the share is told. Under 95 % nothing is captured."""
    with pytest.raises(InputError, match=r"(?s)at least 95%.*--text"):
        taken(home, "split", tmp_path / "refused")
    with pytest.raises(InputError, match="at least 95%"):  # asked again, the rows that are there are judged as they were
        taken(home, "split", tmp_path / "refused")
    mine = spelt(home, "split")
    from planish.capture import aligned

    recipe = Recipe.load(home / "split.yaml")
    chat = Chat.load(capturing.student(recipe))
    teacher: Any = aligned.teacher(How(teacher="teacher", precision="fp32", mass=1.0, align=True), chat, home)
    row = capturing.dialogues(data_of(home))[0]
    (found,) = teacher.captured([row])
    known = [mine.of[id] for id, flag in zip(found.completion_ids, found.said.known.tolist(), strict=True) if flag]
    silent = b"".join(mine.of[id] for id, flag in zip(found.completion_ids, found.said.known.tolist(), strict=True) if not flag)
    assert silent == b" sound"
    assert known[-1] == b"<|im_end|>"
    assert found.mapped == (len(found.completion_ids), len(known))


def test_a_vocabulary_of_bytes_is_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="are the same for teacher and student: at least 95%"):
        taken(home, "bytes", tmp_path / "c")


def test_without_being_asked_no_other_vocabulary_is_taken(home: Path, tmp_path: Path) -> None:
    """S1: another tokenizer is refused; the alignment is named beside the teacher's text."""
    with pytest.raises(InputError, match=r"(?s)another tokenizer.*--align.*--text"):
        taken(home, "renamed", tmp_path / "c", align=False)


@pytest.mark.parametrize(("more", "why"), [({"answers": "teacher"}, "reads the rows' answers"), ({"tail_samples": 2}, "tail")])
def test_what_an_aligned_teacher_cannot_do(home: Path, tmp_path: Path, more: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        taken(home, "renamed", tmp_path / "c", **more)


def test_a_teacher_of_the_same_tokens_needs_no_alignment(home: Path, tmp_path: Path) -> None:
    want = plain(home, tmp_path / "plain")
    taken(home, "own", tmp_path / "c", align=True)
    found = list(rows_of(tmp_path / "c"))
    assert [(row.id, row.completion_ids) for row in found] == [(row.id, row.completion_ids) for row in want]
    assert all(np.array_equal(row.said.log_probs, other.said.log_probs) for row, other in zip(found, want, strict=True))


def spelling(words: dict[int, str]) -> TokenBytes:
    made = object.__new__(TokenBytes)
    made.of = {id: word.encode() for id, word in words.items()}
    return made


def sequence(*ids: int, scored: tuple[bool, ...]) -> Sequence:
    return Sequence(ids, tuple(map(float, scored)))


def test_tokens_meet_where_both_ends_meet() -> None:
    """By hand. Student un|happy| day|<e>, teacher unhappy| day|</s>: " day" stands at bytes 7 to 11 in both and is the teacher's second scored token; the ends are spelt
    otherwise. A second answer "no|<e>" against "no|</s>" meets in "no", the teacher's fourth."""
    mine = spelling({1: "un", 2: "happy", 3: " day", 4: "<e>", 5: "no", 6: "?"})
    theirs = spelling({1: "unhappy", 2: " day", 3: "</s>", 4: "no", 5: "?", 6: "na"})
    one = sequence(6, 1, 2, 3, 4, 6, 5, 4, scored=(False, True, True, True, True, False, True, True))
    other = sequence(5, 1, 2, 3, 5, 4, 3, scored=(False, True, True, True, False, True, True))
    assert alike(one, other, mine, theirs) == [None, None, 1, None, 3, None]
    changed = sequence(5, 1, 2, 3, 5, 6, 3, scored=(False, True, True, True, False, True, True))
    assert alike(one, changed, mine, theirs) == [None, None, 1, None, None, None]
    shorter = sequence(5, 1, 2, 3, scored=(False, True, True, True))
    assert alike(one, shorter, mine, theirs) == [None] * 6
