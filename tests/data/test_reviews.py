"""The demonstration rows."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from planish.checks import duplicates, label_conflicts, leakage
from planish.data import reviews
from planish.data.divide import divide
from planish.data.reading import read_rows
from planish.errors import InputError


def _archive(text: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as inner:
        member = tarfile.TarInfo(reviews.MEMBER)
        member.size = len(text.encode())
        inner.addfile(member, io.BytesIO(text.encode()))
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr(reviews.INNER, packed.getvalue())
    return outer.getvalue()


def test_ratings_become_labels_and_reviews_become_groups() -> None:
    rows = reviews.review_rows(_archive("12_1\t-0.55\tno picture .\r\n12_2\t-0.5\t check out !\r\n13_1\t0.5\ta\u2028b\r\n13_2\t0.55\tgreat\r\n"))
    assert rows[0] == {"id": "12_1", "text": "no picture .", "label": "negative", "rating": -0.55, "review_id": "12"}
    assert [row["label"] for row in rows] == ["negative", "neutral", "neutral", "positive"]
    assert [row["text"] for row in rows[1:3]] == ["check out !", "a\u2028b"]


def test_offline_is_a_clear_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*command: Any, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "WARNING: retrying\nERROR: No matching distribution found\n[notice] x\n")

    monkeypatch.setattr(subprocess, "run", refused)
    with pytest.raises(InputError, match="could not be downloaded: ERROR: No matching distribution found") as failed:
        reviews.write_reviews(tmp_path / "reviews.jsonl", cache=tmp_path / "cache")
    assert failed.value.exit_code == 2
    assert "bring your own rows" in failed.value.problems[0].fix
    assert list(tmp_path.rglob("*")) == []


def test_no_answer_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*command: Any, **options: Any) -> None:
        raise subprocess.TimeoutExpired("pip", 300)

    monkeypatch.setattr(subprocess, "run", silent)
    with pytest.raises(InputError, match="no answer within 300 s"):
        reviews.write_reviews(tmp_path / "reviews.jsonl", cache=tmp_path / "cache")


@pytest.mark.slow
def test_the_real_reviews(tmp_path: Path) -> None:
    """3,708 sentences of 300 reviews, the largest of 70; 11 repeat an earlier text: 10 with its label, and "!" with another one (2 rows set aside)."""
    path = tmp_path / "reviews.jsonl"
    (tmp_path / reviews.ARCHIVE).write_bytes(b"not the archive")
    counts = reviews.write_reviews(path, cache=tmp_path)
    assert counts == {"negative": 1218, "neutral": 765, "positive": 1725}
    values = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    groups = Counter(value["review_id"] for value in values)
    assert (len(values), len(groups), max(groups.values()), len(values) - len({value["text"] for value in values})) == (3708, 300, 70, 11)
    reading = read_rows(path, shape="label", labels=reviews.LABELS, group_by=reviews.GROUP_BY)
    reading = reading.set_aside(duplicates.check(reading.accepted).findings)
    reading = reading.set_aside(label_conflicts.check(reading.accepted).findings)
    assert reading.counts == {"n_in": 3708, "n_accepted": 3696, "n_rejected": 12, "duplicate": 10, "label_conflict": 2}
    split = divide(reading.accepted, gold_max=400)
    assert sum(split.counts["gold"].values()) == 400
    assert abs(split.shares["gold"] + split.shares["unused"] - 0.2) < 0.02
    assert leakage.check(reading.accepted, split.assignment).figures["evaluation_rows"]["gold"] == 400
    sides = {(row.group, split.assignment[row.id].replace("unused", "gold")) for row in reading.accepted}
    assert len(sides) == len({row.group for row in reading.accepted})
