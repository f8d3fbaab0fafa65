"""The compact file of a capture: what it keeps, what it may lose, how small it is, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planish.data.capture_file import CAPTURE, MANIFEST, About, CapturedRow, Said, append, rows_of, write_line
from planish.data.capture_packed import BLOCK, FORMAT, PACKED, Packed, pack
from planish.errors import InputError

VOCABULARY, ROWS, LENGTH, K = 2000, BLOCK + 40, 12, 20


def teacher(random: np.random.Generator, count: int, temperatures: tuple[float, ...], draws: int) -> Said:
    """Some positions of a teacher that speaks of ids of one of five kinds at a time, every seventh of nothing."""
    logits = random.normal(size=(count, VOCABULARY)) * 1.5 - np.log(np.arange(VOCABULARY) % 400 + 1)
    logits += 4.0 * (np.arange(VOCABULARY) // 400 == random.integers(5, size=count)[:, None])
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    order = np.argsort(-log_p, 1)
    counts = np.where(np.arange(count) % 7 == 6, 0, K)
    kept = (np.arange(VOCABULARY) < counts[:, None])[:, :K]
    lse = np.stack([np.log(np.exp(log_p / T).sum(1)) for T in temperatures], 1)
    sampled = order[:, K : K + draws]
    top = order[:, :K]
    return Said(counts, top[kept], np.take_along_axis(log_p, top, 1)[kept], lse * (counts > 0)[:, None], sampled, np.take_along_axis(log_p, sampled, 1))


def captured(folder: Path, draws: int = 0, rows: int = ROWS) -> list[CapturedRow]:
    """A capture whose rows end in a token that does not count, as it is read."""
    about = About(teacher="t", tokenizer="k", template="m", gold="g", answers="rows", temperatures=(1.0, 2.0), k=K, mass=1.0, tail_samples=draws)
    random, made = np.random.default_rng(0), list[CapturedRow]()
    for number in range(rows):
        said = teacher(random, LENGTH, about.temperatures, draws)
        completion = tuple(random.integers(VOCABULARY, size=LENGTH + 1).tolist())
        made.append(CapturedRow(f"r{number}", (1, number), completion, (True,) * LENGTH + (False,), said, "given"))
    folder.mkdir()
    (folder / MANIFEST).write_text(about.model_dump_json(), encoding="utf-8")
    append(folder / CAPTURE, [write_line(row, about) for row in made])
    return list(rows_of(folder))


def sets(said: Any) -> list[set[int]]:
    return [set(part.tolist()) for part in np.split(said.ids, np.cumsum(said.counts)[:-1])]


@pytest.mark.parametrize("draws", [0, 3])
def test_ids_flags_and_draws_are_kept_and_any_row_is_read_alone(draws: int, tmp_path: Path) -> None:
    """Rows of the second block before those of the first; each position's kept part and its tail are 1 at both temperatures."""
    rows = captured(tmp_path / "c", draws)
    pack(tmp_path / "c")
    found = Packed(tmp_path / "c")
    for place in (BLOCK + 3, 0, ROWS - 1, BLOCK - 1):
        row, small = rows[place], found.row(place)
        assert (small.id, small.completion_ids, small.trained) == (row.id, row.completion_ids, row.trained)
        for said in small.said.values():
            assert said.counts.tolist() == row.said.counts.tolist()
            assert sets(said) == sets(row.said)
            assert said.drawn.tolist() == row.said.sampled_ids.tolist()
            whole = np.bincount(np.repeat(np.arange(LENGTH), said.counts), np.exp(said.log_probs), LENGTH) + np.exp(said.tail)
            assert whole[said.counts > 0] == pytest.approx(1, abs=1e-9)
        assert np.abs(small.said[1.0].drawn_at_one - row.said.sampled_log_probs).max(initial=0) <= 1 / 128 + 1e-6


@pytest.mark.parametrize(("steps", "most"), [(1, 0.2), (4, 0.03), (64, 1.2e-4), (4096, 4e-8)])
def test_the_error_falls_with_the_square_of_the_steps(steps: int, most: float, tmp_path: Path) -> None:
    """KL between what was captured and what is given back, kept tokens and tail as classes, in nats at T=1, mean over positions: half the variance of a step, (w / steps)^2 / 24.
    At a probability of .03 a step is w = e^(.4 x 3.5) = 4: .028 at 4 steps, 16^2 times less at 64, and again 64^2 times less at 4096."""
    rows = captured(tmp_path / "c", rows=20)
    pack(tmp_path / "c", steps=steps)
    found, total = Packed(tmp_path / "c"), []
    for place, row in enumerate(rows):
        said, at = found.row(place).said[1.0], 0
        for position, count in enumerate(row.said.counts.tolist()):
            if count:
                part = slice(at, at + count)
                order, other = np.argsort(said.ids[part]), np.argsort(row.said.ids[part])
                p, q = row.said.log_probs[part][other], said.log_probs[part][order]
                left = 1 - np.exp(p).sum()
                total.append((np.exp(p) * (p - q)).sum() + left * (np.log(left) - said.tail[position]))
            at += count
    assert 0 <= np.mean(total) < most


def test_fewer_tokens_are_kept_where_it_is_asked(tmp_path: Path) -> None:
    """By number, by mass and by the least probability; the likeliest stays."""
    rows = captured(tmp_path / "c", rows=3)
    for settings, right in (
        ({"k": 5}, lambda p: 5),
        ({"mass": 0.4}, lambda p: int((np.cumsum(p) < 0.4).sum()) + 1),
        ({"least": 0.01}, lambda p: max(1, int((p >= 0.01).sum()))),
        ({"least": 0.99}, lambda p: 1),
    ):
        pack(tmp_path / "c", **settings)
        for place, row in enumerate(rows):
            counts = Packed(tmp_path / "c").row(place).said[2.0].counts
            parts = np.split(np.exp(row.said.log_probs), np.cumsum(row.said.counts)[:-1])
            assert counts.tolist() == [right(np.sort(part)[::-1]) if len(part) else 0 for part in parts]


def test_it_is_smaller_than_the_ids_alone(tmp_path: Path) -> None:
    """S1: 20 ids of 2000 in order are 20 x 10.97 bits, 27.4 bytes of a position with a teacher; ids, logarithms, words and tables together are fewer."""
    rows = captured(tmp_path / "c", rows=BLOCK)
    spoken = sum(int((row.said.counts > 0).sum()) for row in rows)
    assert pack(tmp_path / "c").stat().st_size / spoken < 20 * np.log2(VOCABULARY) / 8


def test_the_same_capture_is_the_same_file(tmp_path: Path) -> None:
    captured(tmp_path / "c", rows=5)
    assert pack(tmp_path / "c").read_bytes() == pack(tmp_path / "c").read_bytes()


def test_a_capture_without_rows_and_one_without_a_teacher(tmp_path: Path) -> None:
    """Positions that the teacher says nothing of, in a row of their own."""
    rows = captured(tmp_path / "c", rows=2)
    about = About.model_validate_json((tmp_path / "c" / MANIFEST).read_bytes())
    none = Said(np.zeros(2, np.int64), *(np.zeros(0),) * 2, np.zeros((2, 2)), np.zeros((2, 0), np.int64), np.zeros((2, 0)))
    silent = CapturedRow("silent", (1,), (5, 6), (True, True), none, "stop")
    for lines in ([], [silent], [silent, rows[0]]):
        (tmp_path / "c" / CAPTURE).write_text("".join(write_line(row, about) + "\n" for row in lines), encoding="utf-8")
        pack(tmp_path / "c")
        found = Packed(tmp_path / "c")
        assert [found.row(place).said[1.0].counts.tolist() for place in range(len(lines))] == [row.said.counts.tolist() for row in lines]
        assert [found.row(place).completion_ids for place in range(len(lines))] == [row.completion_ids for row in lines]


def test_a_file_of_an_older_format_says_what_to_do(tmp_path: Path) -> None:
    """It is made again from the lines where they are there; where they are not, only a new capture helps."""
    from safetensors.numpy import save

    folder = tmp_path / "c"
    captured(folder, rows=2)
    made = Packed(folder).made | {"format": FORMAT - 1}
    (folder / PACKED).write_bytes(save({"0.words": np.zeros(1, np.uint8)}, {"capture": json.dumps(made)}))
    with pytest.raises(InputError, match="delete it; it is made again"):
        Packed(folder)
    (folder / PACKED).unlink()
    assert Packed(folder).names[0][0] == "r0"
    (folder / PACKED).write_bytes(save({"0.words": np.zeros(1, np.uint8)}, {"capture": json.dumps(made)}))
    (folder / CAPTURE).unlink()
    with pytest.raises(InputError, match=r"(?s)format 1.*capture again"):
        Packed(folder)


def test_tables_learned_from_some_of_the_rows_hold_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 rows at most two positions' worth is learned from, and only a row that is left out has more tokens, other ids and smaller logarithms."""
    from planish.data import capture_blocks

    rows = captured(tmp_path / "c", rows=40)
    about = About.model_validate_json((tmp_path / "c" / MANIFEST).read_bytes())
    wide = Said(np.array([25]), np.arange(9000, 9025), np.linspace(-0.5, -30, 25), np.array([[0.0, 1.0]]), np.zeros((1, 0), np.int64), np.zeros((1, 0)))
    append(tmp_path / "c" / CAPTURE, [write_line(CapturedRow("wide", (1,), (77,), (True,), wide, "given"), about)])
    monkeypatch.setattr(capture_blocks, "SAMPLE", 2 * K)
    pack(tmp_path / "c", k=25)
    found = Packed(tmp_path / "c")
    assert sets(found.row(40).said[1.0]) == [set(range(9000, 9025))]
    assert all(sets(found.row(place).said[1.0]) == sets(row.said) for place, row in enumerate(rows))


def test_a_damaged_block_is_refused(tmp_path: Path) -> None:
    """One byte in the middle of the file, which a range coder alone would read as other tokens."""
    captured(tmp_path / "c", rows=BLOCK)
    path = pack(tmp_path / "c")
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"damaged.*not those that were written"):
        Packed(tmp_path / "c").row(0)


def test_a_damaged_list_of_rows_is_refused(tmp_path: Path) -> None:
    """One byte of the compressed names, which stand behind the blocks as the tensor `rows`."""
    captured(tmp_path / "c", rows=BLOCK)
    path = pack(tmp_path / "c")
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8 : 8 + size])["rows"]["data_offsets"]
    data[8 + size + (begin + end) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="is damaged"):
        Packed(tmp_path / "c").row(0)


@pytest.mark.parametrize("settings", [{"k": 4}, {"mass": 0.5}, {"least": 0.01}])
def test_draws_are_of_the_tail_that_was_captured(settings: dict[str, Any], tmp_path: Path) -> None:
    captured(tmp_path / "c", draws=2, rows=2)
    with pytest.raises(InputError, match="tail_samples"):
        pack(tmp_path / "c", **settings)


def test_a_killed_pack_leaves_the_file_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is written whole or not at all: what stops in the middle of a block leaves the old one, which is then said to be older than the lines."""
    from planish.data import capture_packed

    folder = tmp_path / "c"
    captured(folder, rows=2)
    before = pack(folder).read_bytes()
    first = (folder / CAPTURE).read_text(encoding="utf-8").partition("\n")[0]
    append(folder / CAPTURE, [first.replace('"r0"', '"r9"')])
    monkeypatch.setattr(capture_packed, "block_of", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pack(folder)
    assert (folder / PACKED).read_bytes() == before
    with pytest.raises(InputError, match="older than"):
        Packed(folder)
    monkeypatch.undo()
    pack(folder)
    assert [row.id for row in rows_of(folder)] == [Packed(folder).row(place).id for place in range(3)]
