"""2,000 mutated safetensors and GGUF files: no crash, no wrong load, errors of one type, memory bounded; and what a full disk does to every writer."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import make_tiny
from tests.model.mutations import bytewise, header_of, structural, with_header

from planish.errors import InputError, RunFailed
from planish.exporters import gguf as gguf_exporter
from planish.model import adapter_folder, gguf_plain
from planish.model.bundled import identity
from planish.model.gguf_header import GgufTensor, read_tensors
from planish.model.llama_weights import LlamaWeights
from planish.model.load import load
from planish.model.lora_folder import LoraFolder
from planish.model.merge_sources import Checkpoint
from planish.model.weight_names import shapes
from planish.store.objects import Objects

CHECKPOINTS, ADAPTERS, GGUFS = 900, 300, 800


@contextmanager
def bounded(megabytes: int) -> Iterator[None]:
    """Fails where Python and numpy held more than so much at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < megabytes * 2**20
    finally:
        tracemalloc.stop()


def link(source: Path, folder: Path, *but: str) -> Path:
    """The files of a folder without those named."""
    folder.mkdir()
    for path in source.iterdir():
        if path.name not in but:
            shutil.copyfile(path, folder / path.name)
    return folder


def test_900_mutated_checkpoints_are_refused_or_read_bit_for_bit(tiny: Path, tmp_path: Path) -> None:
    """Half are changed byte by byte, half have another header that is whole. What is accepted gives every weight the bits it had; the names and shapes too."""
    folder = link(tiny, tmp_path / "hostile", "model.safetensors")
    sound, draw, refused = (tiny / "model.safetensors").read_bytes(), random.Random(1), 0
    end = len(sound) - len(header_of(sound)[1])
    right = dict(LlamaWeights(tiny).stream())
    with bounded(32):
        for number in range(CHECKPOINTS):
            (folder / "model.safetensors").write_bytes(structural(sound, draw) if number % 2 else bytewise(sound, draw, 0, end))
            try:
                shapes(folder)
                found = LlamaWeights(folder)
                read = dict(found.stream()) if found.shapes == LlamaWeights(tiny).shapes else {}
            except InputError:
                refused += 1
                continue
            assert read.keys() == right.keys()
            assert all(torch.equal(read[name], right[name]) for name in right), number
    assert refused > 0.9 * CHECKPOINTS


def test_24_mutated_checkpoints_are_never_loaded_with_weights_drawn_at_random(tiny: Path, tmp_path: Path) -> None:
    """transformers by itself draws what the files lack and goes on. Only headers that are whole reach it here."""
    folder = link(tiny, tmp_path / "hostile", "model.safetensors")
    sound, draw, refused = (tiny / "model.safetensors").read_bytes(), random.Random(2), 0
    right = load(tiny, "fp32").state_dict()
    for _ in range(24):
        (folder / "model.safetensors").write_bytes(structural(sound, draw))
        try:
            read = load(folder, "fp32").state_dict()
        except InputError:
            refused += 1
            continue
        assert all(torch.equal(read[name], right[name]) for name in right)
    assert refused > 12


@pytest.mark.parametrize("how", ["a missing tensor", "another shape"])
def test_a_weight_that_is_not_in_the_files_is_named(how: str, tiny: Path, tmp_path: Path) -> None:
    folder = link(tiny, tmp_path / "hostile", "model.safetensors")
    weights = load_file(tiny / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    held = weights.pop(name)
    if how == "another shape":
        weights[name] = held[:-1].contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"layers\.1\.mlp\.up_proj\.weight"):
        load(folder, "fp32")


def test_300_mutated_adapters_are_refused_or_read_bit_for_bit(tmp_path: Path) -> None:
    draw, folder, refused = random.Random(3), tmp_path / "adapter", 0
    folder.mkdir()
    config = '{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}'
    (folder / "adapter_config.json").write_text(config, encoding="utf-8")
    stem = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    pairs = {stem.format(layer, side): torch.randn(shape) for layer in (0, 1) for side, shape in (("A", (4, 48)), ("B", (48, 4)))}
    save_file(pairs, folder / "adapter_model.safetensors")
    sound = (folder / "adapter_model.safetensors").read_bytes()
    right = {f"model.layers.{layer}.self_attn.q_proj": [pairs[stem.format(layer, side)] for side in "AB"] for layer in (0, 1)}
    for number in range(ADAPTERS):
        data = structural(sound, draw) if number % 2 else bytewise(sound, draw, 0, len(sound) - len(header_of(sound)[1]))
        (folder / "adapter_model.safetensors").write_bytes(data)
        try:
            adapter_folder.read_config(folder)
            found = LoraFolder(folder)
        except InputError:
            refused += 1
            continue
        # an adapter for other weights is one; the base that lacks them refuses it
        known = [module for module in right if f"{module}.weight" in found.weights]
        assert all(torch.equal(a, b) for module in known for a, b in zip(found.pair(module), right[module], strict=True)), number
    assert refused > 0.8 * ADAPTERS


@pytest.mark.parametrize(
    "config",
    ["{", "[]", '{"peft_type": "LORA", "r": 0, "lora_alpha": 8}', '{"peft_type": "LORA", "r": 4, "lora_alpha": NaN}', '{"peft_type": "LORA", "r": true}'],
)
def test_a_wrong_adapter_configuration_is_refused(config: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(config, encoding="utf-8")
    save_file(
        {"base_model.model.w.lora_A.weight": torch.ones(4, 2), "base_model.model.w.lora_B.weight": torch.ones(2, 4)}, tmp_path / "adapter_model.safetensors"
    )
    with pytest.raises(InputError, match="adapter_config"):
        LoraFolder(tmp_path)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint and the GGUF file made of it."""
    folder = tmp_path_factory.mktemp("exported")
    checkpoint = make_tiny(folder / "model", hidden=64)
    return checkpoint, folder / gguf_exporter.export(checkpoint, folder, quant="Q8_0").file


def regions(file: Path) -> tuple[int, int]:
    """Where the tensors' entries begin, roughly, and where the data begin."""
    begin = min(tensor.start for tensor in read_tensors(file).values())
    return max(24, begin - 72 * len(read_tensors(file))), begin


def test_800_mutated_gguf_files_are_refused_or_hold_the_same_tensors(exported: tuple[Path, Path], tmp_path: Path) -> None:
    """A third each: magic and counts, metadata, the tensors' entries. What is accepted holds every tensor's bytes as they were, or is refused as not the checkpoint's: then
    only the metadata differ, which the hash of the package finds."""
    checkpoint, whole = exported
    sound, draw, refused, path = whole.read_bytes(), random.Random(4), 0, tmp_path / "hostile.gguf"
    entries, begin = regions(whole)
    right, names = read_tensors(whole), LlamaWeights(checkpoint)
    with bounded(32):
        for number in range(GGUFS):
            data = bytewise(sound, draw, *((0, 24), (24, entries), (entries, begin))[number % 3])
            path.write_bytes(data)
            try:
                found = read_tensors(path)
                gguf_plain.refuse_others(path, names, found)
                for name, tensor in found.items():
                    gguf_plain.refuse_type(path, name, tensor)
            except InputError:
                refused += 1
                continue
            assert all(same(right[name], sound, tensor, data) for name, tensor in found.items()), number
    assert refused > 0.5 * GGUFS


def same(one: GgufTensor, of: bytes, other: GgufTensor, held: bytes) -> bool:
    """Two tensors of the same type and shape with the same bytes."""
    return (one.kind, one.shape) == (other.kind, other.shape) and of[one.start :][: one.bytes] == held[other.start :][: other.bytes]


def test_a_sound_gguf_file_is_read_as_gguf_reads_it(exported: tuple[Path, Path]) -> None:
    import gguf

    oracle = {one.name: one for one in gguf.GGUFReader(exported[1]).tensors}
    found = read_tensors(exported[1])
    assert found.keys() == oracle.keys()
    for name, tensor in found.items():
        assert tensor.shape == tuple(int(size) for size in oracle[name].shape)[::-1]
        assert (tensor.kind, tensor.start, tensor.bytes) == (oracle[name].tensor_type, int(oracle[name].data_offset), int(oracle[name].n_bytes))
        values = torch.from_numpy(gguf.quants.dequantize(oracle[name].data, oracle[name].tensor_type).copy())
        assert torch.equal(gguf_plain.dequantised(exported[1], name, tensor), values.reshape(tensor.shape).float())


def test_a_gguf_file_of_another_checkpoint_is_refused(exported: tuple[Path, Path], tmp_path: Path) -> None:
    other = make_tiny(tmp_path / "other", hidden=64, layers=1)
    with pytest.raises(InputError, match="give the checkpoint that this file was made of"):
        gguf_plain.plain_folder(exported[1], other, tmp_path / "plain")


@pytest.mark.slow
def test_mutated_gguf_files_end_llama_cpps_worker_and_nothing_else(exported: tuple[Path, Path], tmp_path: Path) -> None:
    """Twelve files whose header is sound and whose metadata are not: the worker dies with its log, or answers within its memory; this process lives."""
    from planish.engines.llamacpp import start

    sound, draw, path, tried = exported[1].read_bytes(), random.Random(5), tmp_path / "hostile.gguf", 0
    entries, ended = regions(exported[1])[0], list[str]()
    while tried < 12:
        path.write_bytes(bytewise(sound, draw, 24, min(entries, 1200)))
        try:
            engine = start(path, context=64, slots=1, threads=1)
        except InputError:
            continue
        except RunFailed as died:
            ended.append(died.reason_code)
        else:
            held = engine.memory()
            engine.close()
            assert held is None or held < 2**30
        tried += 1
    assert {*ended} <= {"engine_died"}


def test_what_a_header_cannot_show_is_found_by_the_hash(tiny: Path, tmp_path: Path) -> None:
    """Two weights of one shape that have changed places make a sound file of another model: its identity is another, and a stored package with it is refused."""
    folder = link(tiny, tmp_path / "hostile", "model.safetensors")
    header, data = header_of((tiny / "model.safetensors").read_bytes())
    one, other = (f"model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up"))
    header[one]["data_offsets"], header[other]["data_offsets"] = header[other]["data_offsets"], header[one]["data_offsets"]
    swapped = with_header(header, data)
    (folder / "model.safetensors").write_bytes(swapped)
    assert identity(folder) != identity(tiny)
    store = Objects(tmp_path / "objects")
    sha256, _ = store.write("package", lambda aside: shutil.copyfile(tiny / "model.safetensors", aside / "model.safetensors"))
    store.verify(sha256)
    (store.path(sha256) / "model.safetensors").write_bytes(swapped)
    with pytest.raises(InputError, match="was changed"):
        store.verify(sha256)


def test_a_second_output_matrix_beside_tied_embeddings_is_refused_everywhere(tiny: Path, tmp_path: Path) -> None:
    """Tied embeddings with a stale lm_head.weight in the file: transformers would take it and others not. The embedding once more is no second matrix."""
    weights = load_file(tiny / "model.safetensors")
    for name, head in {"stale": torch.full((512, 48), 9.0), "same": weights["model.embed_tokens.weight"].clone()}.items():
        folder = link(tiny, tmp_path / name, "model.safetensors")
        save_file(weights | {"lm_head.weight": head}, folder / "model.safetensors", metadata={"format": "pt"})
        readers: list[Callable[[Path], object]] = [LlamaWeights, Checkpoint, lambda folder: load(folder, "fp32")]
        for read in readers:
            if name == "stale":
                with pytest.raises(InputError, match="tie_word_embeddings to false"):
                    read(folder)
            else:
                read(folder)
    assert Checkpoint(tmp_path / "same").entries.keys() == Checkpoint(tiny).entries.keys()
    assert LlamaWeights(tmp_path / "same").shapes == LlamaWeights(tiny).shapes


def test_a_gguf_file_of_nan_weights_is_refused_and_nothing_is_left(tiny: Path, tmp_path: Path) -> None:
    folder = link(tiny, tmp_path / "hostile", "model.safetensors")
    weights = load_file(tiny / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 3] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunFailed, match=r"blk\.1\.ffn_up\.weight: holds values that are not finite"):
        gguf_exporter.export(folder, tmp_path / "out", quant="Q8_0")
    assert not list((tmp_path / "out").iterdir())


FULL = """
import resource, sys, torch
from pathlib import Path
from planish.errors import RunFailed
home, out = Path(sys.argv[1]), Path(sys.argv[2])
from planish.exporters import gguf, rtn
from planish.merge import merge_models
from planish.model.merging import read_spec
from planish.prune import Request, Text, run
from planish.stages._prune import Removal
from planish.progress import Silent
spec = read_spec({"method": "linear", "models": [{"path": str(home / "a")}, {"path": str(home / "b")}]})
writers = {
    "merge": lambda: merge_models(spec, out / "merge", relative_to=home),
    "gguf": lambda: gguf.export(home / "a", out / "gguf", quant="F16"),
    "rtn": lambda: rtn.export(home / "a", out, group=64),
    "prune": lambda: run(home / "a", out / "prune", Request(removal=Removal(layers=1)), Text(), Silent()),
}
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for name, write in writers.items():
    try:
        write()
        print(name, "wrote")
    except RunFailed as failed:
        print(name, failed.reason_code)
"""


def test_no_file_may_grow_and_nothing_is_left_of_any_writer(tmp_path: Path) -> None:
    """A child process whose files end at 100,000 bytes, in the middle of every output: each writer says so by type and leaves nothing, not even the part that fitted."""
    for name in "ab":
        make_tiny(tmp_path / "home" / name, hidden=64)
    weights = load_file(tmp_path / "home" / "b" / "model.safetensors")
    save_file({name: tensor + 0.01 for name, tensor in weights.items()}, tmp_path / "home" / "b" / "model.safetensors", metadata={"format": "pt"})
    out = tmp_path / "out"
    out.mkdir()
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path / "home"), str(out)], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split("\n")[:-1] == [f"{name} disk_full" for name in ("merge", "gguf", "rtn", "prune")], done.stderr[-2000:]
    assert [path for path in out.rglob("*") if path.is_file()] == []
