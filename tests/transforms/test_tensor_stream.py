"""The streaming spine: files that other readers open, pieces as asked, nothing left of an interrupted write, and 400 mutated headers refused by type."""

from __future__ import annotations

import errno
import json
import random
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from planish.errors import InputError, RunFailed
from planish.model import tensor_stream
from planish.model.safetensors_header import BYTES, read_header
from planish.model.tensor_stream import TensorFolder, write_tensors
from planish.store.objects import file_hash, write_folder

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}


def saved(folder: Path) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn((7, 11), generator=draw).to(dtype) for name, dtype in DTYPES.items()}
    tensors["scalar"], tensors["empty"] = torch.tensor(2.5), torch.empty(0, 3)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    return tensors


def test_reads_what_safetensors_wrote(tmp_path: Path) -> None:
    tensors = saved(tmp_path / "a")
    folder = TensorFolder(tmp_path / "a")
    assert {name: entry.shape for name, entry in folder.entries.items()} == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        assert torch.equal(folder.read(name).reshape(tensor.shape), tensor.float())
        if tensor.numel() > 20:
            assert torch.equal(folder.read(name, 5, 20), tensor.float().reshape(-1)[5:20])


def test_a_tensor_of_several_pieces_is_read_whole_and_none_of_it_stays_in_memory(tmp_path: Path) -> None:
    """40 MB in bf16, a stretch across the edges of pieces, then every stretch into one buffer: the process grows by less than an eighth of the file.

    Of a mapped file a seventh stayed, which is why files are read and not mapped.
    """
    tmp_path.joinpath("a").mkdir()
    given = torch.arange(20_000_000, dtype=torch.float32).remainder(251).to(torch.bfloat16)
    save_file({"w": given}, tmp_path / "a" / "model.safetensors")
    folder = TensorFolder(tmp_path / "a")
    edges = 3, 2 * tensor_stream.PIECE + 5
    assert torch.equal(folder.read("w", *edges), given[slice(*edges)].float())
    into, before = torch.empty(2**17), _resident()
    for start in range(0, given.numel() - into.numel(), into.numel()):
        folder.read("w", start, start + into.numel(), into)
    assert torch.equal(into, given[start : start + into.numel()].float())
    assert _resident() - before < 5_000_000


def _resident() -> int:
    """Bytes of this process in memory, mapped files among them."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * 4096


def test_a_file_that_is_cut_short_while_it_is_read_is_refused(tmp_path: Path) -> None:
    """The header was sound when the folder was opened; a mapped file would end the process with SIGBUS here."""
    saved(tmp_path / "a")
    folder, path = TensorFolder(tmp_path / "a"), tmp_path / "a" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-200])
    last = max(folder.entries, key=lambda name: folder.entries[name].start)
    with pytest.raises(InputError, match="cut short"):
        folder.read(last)


def test_reading_never_changes_a_file(tmp_path: Path) -> None:
    saved(tmp_path / "a")
    before = file_hash(tmp_path / "a" / "model.safetensors")
    folder = TensorFolder(tmp_path / "a")
    for name in folder.entries:
        folder.read(name).zero_()
    assert file_hash(tmp_path / "a" / "model.safetensors") == before
    assert bool(folder.read("F32").any())


@pytest.mark.parametrize("shard", [10**9, 700])
def test_writes_what_safetensors_reads(tmp_path: Path, shard: int) -> None:
    """In one file, or in shards of 700 bytes at most: 77 values are 154, 154, 308 and 616 bytes, so 616 and 616 + 4; the round trip is exact."""
    tensors = saved(tmp_path / "a")
    source = TensorFolder(tmp_path / "a")
    layout = {name: (entry.dtype, entry.shape) for name, entry in source.entries.items()}

    def values(name: str) -> Iterator[Tensor]:
        size = source.entries[name].size
        yield from (source.read(name, start, min(size, start + 10)) for start in range(0, size, 10))

    (tmp_path / "b").mkdir()
    total = write_tensors(tmp_path / "b", layout, values, shard)
    files = sorted((tmp_path / "b").glob("*.safetensors"))
    assert len(files) == (1 if shard > 1000 else 2)
    read = {name: tensor for path in files for name, tensor in load_file(path).items()}
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in tensors.items())
    assert total == sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert TensorFolder(tmp_path / "b").entries.keys() == tensors.keys()


@pytest.mark.parametrize("shard", [10**9, 48])
def test_tensors_written_side_by_side_are_the_same_files(shard: int, tmp_path: Path) -> None:
    """Each on a thread of its own, the largest first; afterwards torch computes on as many threads as before."""
    tensors = {f"t{index}": torch.randn(index % 5 + 1, 3) for index in range(40)}
    layout = {name: ("F32", tuple(tensor.shape)) for name, tensor in tensors.items()}
    threads = torch.get_num_threads()
    for folder, workers in (("one", 1), ("four", 4)):
        (tmp_path / folder).mkdir()
        write_tensors(tmp_path / folder, layout, lambda name: iter(tensors[name].reshape(-1).split(2)), shard, workers)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "four").iterdir())
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "four" / name).read_bytes() for name in names)
    assert torch.get_num_threads() == threads


def test_what_one_of_several_threads_raises_is_raised(tmp_path: Path) -> None:
    def values(name: str) -> Iterator[Tensor]:
        if name == "b":
            raise KeyboardInterrupt
        yield torch.ones(3)

    with pytest.raises(KeyboardInterrupt):
        write_tensors(tmp_path, {name: ("F32", (3,)) for name in "abc"}, values, workers=2)


def test_a_full_disk_in_the_middle_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, data: object, at: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tensor_stream.os, "pwrite", full)
    with pytest.raises(RunFailed, match="no space is left"):
        write_folder(tmp_path / "out", lambda partial: write_tensors(partial, {"a": ("F32", (3,))}, lambda _: iter([torch.ones(3)])) and None)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(_: str) -> Iterator[Tensor]:
        yield torch.ones(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "out", lambda partial: write_tensors(partial, {"a": ("F32", (3,))}, interrupted) and None)
    assert not list(tmp_path.iterdir())


def test_a_value_the_dtype_cannot_hold_is_refused(tmp_path: Path) -> None:
    """1e6 is past 65,504, where F16 ends."""
    with pytest.raises(RunFailed, match="a: holds values that are not finite as F16"):
        write_tensors(tmp_path, {"a": ("F16", (1,))}, lambda _: iter([torch.tensor([1e6])]))


def raw(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(**changed: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changed}


PLANTED = {
    "empty": b"",
    "short": b"\x01\x02",
    "huge length": raw({}, length=2**63),
    "longer than the file": raw({}, length=50),
    "not json": raw(b"{not json"),
    "not utf-8": raw(b'{"\xff": 1}'),
    "deep": raw(b"[" * 200_000),
    "a list": raw([]),
    "nan": raw(b'{"__metadata__": NaN}'),
    "name twice": raw(b'{"a": 1, "a": 1}'),
    "no dtype": raw({"a": {"shape": [2], "data_offsets": [0, 8]}}, b"\0" * 8),
    "unknown dtype": raw({"a": tensor(dtype="F31")}, b"\0" * 8),
    "dtype no text": raw({"a": tensor(dtype=["F32"])}, b"\0" * 8),
    "negative shape": raw({"a": tensor(shape=[-2])}, b"\0" * 8),
    "bool shape": raw({"a": tensor(shape=[True, 2])}, b"\0" * 8),
    "float offset": raw({"a": tensor(data_offsets=[0, 8.0])}, b"\0" * 8),
    "three offsets": raw({"a": tensor(data_offsets=[0, 8, 8])}, b"\0" * 8),
    "wrong size": raw({"a": tensor(shape=[3])}, b"\0" * 8),
    "past the end": raw({"a": tensor()}, b"\0" * 4),
    "bytes left over": raw({"a": tensor()}, b"\0" * 12),
    "overlap": raw({"a": tensor(), "b": tensor(data_offsets=[4, 12])}, b"\0" * 12),
    "hole": raw({"a": tensor(), "b": tensor(data_offsets=[12, 20])}, b"\0" * 20),
    "metadata no text": raw({"__metadata__": {"a": 1}}),
    "overflow": raw({"a": tensor(shape=[2**47, 2**47])}, b"\0" * 8),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_header_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(PLANTED[name])
    with pytest.raises(InputError, match="no whole safetensors file"):
        TensorFolder(tmp_path)


def test_400_mutated_files_are_refused_or_read_whole(tmp_path: Path) -> None:
    """Bytes of header and length changed, cut, doubled or removed: a typed error, or a header whose every byte is accounted for; never more than 32 MiB of memory."""
    saved(tmp_path / "a")
    path = tmp_path / "a" / "model.safetensors"
    sound, draw = path.read_bytes(), random.Random(0)
    end = 8 + struct.unpack("<Q", sound[:8])[0]
    refused = 0
    tracemalloc.start()
    for _ in range(400):
        data = bytearray(sound)
        for _ in range(draw.randint(1, 4)):
            at, kind = draw.randrange(end), draw.randrange(4)
            if kind == 0:
                data[at] = draw.randrange(256)
            elif kind == 1:
                del data[at : at + draw.randint(1, 9)]
            elif kind == 2:
                data[at:at] = data[at : at + draw.randint(1, 9)]
            else:
                data[at] ^= 1 << draw.randrange(8)
        path.write_bytes(bytes(data))
        try:
            entries = read_header(path)
        except InputError:
            refused += 1
        else:
            assert 8 + struct.unpack("<Q", data[:8])[0] + sum(one.size * BYTES[one.dtype] for one in entries.values()) == len(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused > 300
    assert peak < 32 * 2**20


def test_a_long_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """17 MiB of spaces are a header by the format and more than any model needs."""
    (tmp_path / "model.safetensors").write_bytes(raw(b"{}" + b" " * (17 * 2**20)))
    tracemalloc.start()
    with pytest.raises(InputError, match="claims"):
        read_header(tmp_path / "model.safetensors")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "index", ["[1]", "{", '{"weight_map": 3}', '{"weight_map": {"a": "../other.safetensors"}}', '{"weight_map": {"a": "absent.safetensors"}}']
)
def test_a_wrong_index_is_refused(tmp_path: Path, index: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    with pytest.raises(InputError):
        TensorFolder(tmp_path)


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file({"w": torch.ones(2)}, tmp_path / f"{name}.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}', encoding="utf-8")
    with pytest.raises(InputError, match="two files"):
        TensorFolder(tmp_path)
