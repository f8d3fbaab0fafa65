"""The Dataset artifact, and corrections as its next version (MISSION L5)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planish.data import dataset, gold, task
from planish.data.dataset import Correction, Dataset, feedback_version
from planish.data.divide import divide
from planish.data.feedback import convert
from planish.data.finding import CheckResult, Finding
from planish.data.split import SplitName
from planish.data.table import Table
from planish.data.task import make
from planish.errors import InputError
from planish.recipe_data import TaskShape
from planish.rows import LabelRow, Message, Origin, PreferenceRow, RejectCode, RejectedRow

TRIAGE = task.classification(["bad", "good"])
REJECTED = [RejectedRow(file="f", line=201, row_id=None, code=RejectCode.BAD_JSON, why="w", fix="f", raw="é{")]


def _rows() -> list[LabelRow]:
    return [
        LabelRow(id=str(n), origin=Origin(file="f", line=n + 1, sha256=""), text=f"Text {n}", label=("bad", "good")[n % 2], extra={"n": n}) for n in range(200)
    ]


def _made(folder: Path) -> Dataset:
    rows = _rows()
    split = divide(Table.of(rows))
    held = gold.build([row for row in rows if split.assignment[row.id] == "gold"], TRIAGE)
    warned = (Finding(row_id="1", code=RejectCode.PII, severity="warn", why="w", fix="f"),)
    return dataset.write(
        folder, Table.of(rows), REJECTED, split.assignment, held, TRIAGE, found={"pii": CheckResult(findings=warned, figures={"n": 1})}, parents=("p",)
    )


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    made = _made(tmp_path / "a")
    again = dataset.read(tmp_path / "a")
    assert again == made
    assert list(dataset.every_row(again)) == _rows()
    assert {row.id for row in again.rows("train")} == {row_id for row_id, name in dataset.assignment(again).items() if name == "train"}
    assert [len(list(dataset.every_row(again, name))) for name in ("train", "validation", "gold", "unused")] == [140, 20, 40, 0]
    assert list(dataset.rejected_rows(again)) == REJECTED
    assert again.manifest.counts == {
        "n_in": 201,
        "n_accepted": 200,
        "n_rejected": 1,
        "train": 140,
        "validation": 20,
        "gold": 40,
        "unused": 0,
        "rejected.bad_json": 1,
    }
    assert again.manifest.labels["gold"] == {"bad": 20, "good": 20}
    assert (again.task, again.manifest.parents) == (TRIAGE, ("p",))
    assert gold.read(again.gold_path).sha256 == again.manifest.gold_sha256


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    assert _made(tmp_path / "a").sha256 == _made(tmp_path / "b").sha256
    first, second = ({path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")} for name in "ab")
    assert first == second
    assert {str(path) for path in first} == {
        "rows.jsonl",
        "rejected.jsonl",
        "split.json",
        "gold.json",
        "manifest.json",
        "findings/pii.jsonl",
        "findings/pii.json",
    }


def test_gold_cannot_be_reached_through_a_dataset(tmp_path: Path) -> None:
    made = _made(tmp_path)
    for name in ("gold", "unused"):
        with pytest.raises(InputError, match="not for training"):
            made.rows(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["rows.jsonl", "rejected.jsonl", "split.json", "gold.json", "findings/pii.jsonl"])
def test_a_changed_or_missing_file_is_named(tmp_path: Path, name: str) -> None:
    _made(tmp_path)
    with (tmp_path / name).open("a") as stream:
        stream.write("\n")
    with pytest.raises(InputError, match=f"{name}: was changed"):
        dataset.read(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"{name}: was changed or removed"):
        dataset.read(tmp_path)


def test_a_folder_that_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no data set"):
        dataset.read(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="is no manifest"):
        dataset.read(tmp_path)


def test_a_row_without_a_split_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    rows = _rows()
    placed: dict[str, SplitName] = {row.id: "gold" for row in rows[1:]}
    with pytest.raises(InputError, match="row 0: is in no split"):
        dataset.write(tmp_path / "a", Table.of(rows), [], placed, gold.build(rows, TRIAGE), TRIAGE)
    assert not (tmp_path / "a").exists()


def test_l5_40_corrections_split_in_half_by_hash_reproducibly(tmp_path: Path) -> None:
    """MISSION L5, Ex: 40 corrections, hash < .5: expected 20/20, exact split reproducible.

    The number in gold is binomial(40, 1/2): mean 20, standard deviation sqrt(40/4) = 3.16, so 20 ± 10 is about three of them. No row is in both halves.
    """
    made = _made(tmp_path)
    corrections = [Correction(log_id=f"r{n}", text=f"Served {n}", corrected="bad", author="ann") for n in range(40)]
    grown = feedback_version(made, corrections)
    assert len(grown.rows) == len(grown.assignment) == 40
    assert grown.rejected == ()
    assert set(grown.assignment.values()) == {"train", "gold"}
    assert 10 <= list(grown.assignment.values()).count("gold") <= 30
    again = feedback_version(made, corrections[::-1])
    assert again.assignment == grown.assignment
    assert grown.rows[3].extra == {"log_id": "r3", "author": "ann"}
    assert (grown.rows[3].label, grown.rows[3].origin.line) == ("bad", 4)


def test_l5_what_is_known_contradicted_or_gold_is_refused(tmp_path: Path) -> None:
    made = _made(tmp_path)
    placed = dataset.assignment(made)
    held = next(row for row in _rows() if placed[row.id] == "gold")
    trained = next(row for row in _rows() if placed[row.id] == "train")
    other = {"bad": "good", "good": "bad"}
    cases = [
        (Correction(log_id="1", text=held.text.upper(), corrected=other[held.label]), RejectCode.GOLD_OVERLAP),
        (Correction(log_id="2", text=trained.text, corrected=trained.label), RejectCode.DUPLICATE),
        (Correction(log_id="3", text=trained.text, corrected=other[trained.label]), RejectCode.LABEL_CONFLICT),
        (Correction(log_id="4", text="New", corrected="ugly"), RejectCode.LABEL_UNKNOWN),
        (Correction(log_id="5", text=" ", corrected="bad"), RejectCode.EMPTY_ANSWER),
        (Correction(log_id="6", text="New", corrected="bad"), None),
        (Correction(log_id="7", text="new", corrected="bad"), RejectCode.DUPLICATE),
        (Correction(log_id="8", text="new", corrected="good"), RejectCode.LABEL_CONFLICT),
    ]
    grown = feedback_version(made, [correction for correction, _ in cases])
    assert [row.code for row in grown.rejected] == [code for _, code in cases if code]
    assert [row.extra["log_id"] for row in grown.rows] == ["6"]
    assert json.loads(grown.rejected[0].raw)["log_id"] == "1"


def test_l5_the_next_version_keeps_every_stored_row_where_it_was(tmp_path: Path) -> None:
    made = _made(tmp_path / "v1")
    grown = feedback_version(made, [Correction(log_id=str(n), text=f"Served {n}", corrected="bad") for n in range(40)])
    rows = [*dataset.every_row(made), *grown.rows]
    split = divide(Table.of(rows), existing=dataset.assignment(made) | grown.assignment)
    assert split.findings == ()
    assert split.assignment == dataset.assignment(made) | grown.assignment
    held = gold.build([row for row in rows if split.assignment[row.id] == "gold"], TRIAGE, version=2)
    following = dataset.write(tmp_path / "v2", Table.of(rows), grown.rejected, split.assignment, held, TRIAGE, version=2, parents=(made.sha256,))
    assert (following.manifest.version, following.manifest.parents) == (2, (made.sha256,))


ASKED = (Message(role="user", content="Oslo?"),)
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}


@pytest.mark.parametrize(
    ("shape", "text", "corrected", "target"),
    [
        ("qa", "[1] Ada wrote.\n[2] Bob read.\n\nwho wrote?", "Ada [1]", "Ada [1]"),
        ("qa", "who wrote?", "Ada", "Ada"),
        (
            "extraction",
            "Oslo or Oslo",
            '[{"type": "city", "text": "Oslo"}, {"type": "city", "text": "Oslo"}]',
            '[{"text":"Oslo","type":"city"},{"text":"Oslo","type":"city"}]',
        ),
        ("extraction", "in Oslo", '{"city": "Oslo"}', '{"city":"Oslo"}'),
        ("summarization", "long", "short", "short"),
        ("reasoning", "1 + 1?", "it is 2", "it is 2"),
        ("chat", "Oslo?", "Cold.", "Cold."),
        ("tools", "Oslo?", '[{"name": "weather", "arguments": {"city": "Oslo"}}]', '[{"arguments":{"city":"Oslo"},"name":"weather"}]'),
        ("preference", "Oslo?", "Cold.", "Cold."),
    ],
)
def test_l5_a_correction_becomes_a_row_of_its_task(shape: TaskShape, text: str, corrected: str, target: str) -> None:
    """MISSION L5: the row asks what was served, the instruction aside, and its right answer is the correction; of a preference, a pair against what was served."""
    made = make(shape)
    given = Correction(log_id="1", text=text, corrected=corrected, messages=ASKED, tools=(WEATHER,) if shape == "tools" else (), served="Warm.")
    [row] = convert([], {}, made, [given]).rows
    asked = made.asked(row)
    assert asked.target == target
    assert made.text_of(asked.messages[-1].content) == text
    assert row.extra["log_id"] == "1"
    if isinstance(row, PreferenceRow):
        assert row.rejected == (Message(role="assistant", content="Warm."),)
    again = convert([row], {row.id: "train"}, made, [given])
    assert [refused.code for refused in again.rejected] == [RejectCode.DUPLICATE]


@pytest.mark.parametrize(
    ("shape", "corrected", "code"),
    [
        ("extraction", "no JSON", RejectCode.BAD_JSON),
        ("extraction", '[{"type": "city", "text": "Rome"}]', RejectCode.SPAN_OUT_OF_RANGE),
        ("tools", '[{"name": "clock", "arguments": {}}]', RejectCode.TOOL_UNKNOWN),
        ("preference", "Warm.", RejectCode.CHOSEN_EQUALS_REJECTED),
    ],
)
def test_l5_a_correction_that_is_no_row_is_kept_with_its_reason(shape: TaskShape, corrected: str, code: RejectCode) -> None:
    given = Correction(log_id="1", text="in Oslo", corrected=corrected, messages=ASKED, tools=(WEATHER,), served="Warm.")
    grown = convert([], {}, make(shape), [given])
    assert [refused.code for refused in grown.rejected] == [code]
    assert not grown.rows
