"""One GGUF file for llama.cpp: F16, Q8_0 or llama.cpp's K-quant mixes, written without a compiler."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import torch
from numpy.typing import NDArray

from planish.errors import Problem, RunFailed
from planish.model.calibration_pass import Calibration
from planish.model.chat import Chat
from planish.model.exported import Exported, FellBack
from planish.model.ggml import GgmlType, quantise, row_bytes
from planish.model.gguf_lora import adapter_beside, checked, write_adapter
from planish.model.gguf_metadata import describe
from planish.model.gguf_types import FILE_TYPES, Choice, Quant, tensor_type
from planish.model.gguf_vocab import add_vocabulary, file_name
from planish.model.gram import Grams
from planish.model.llama_weights import LlamaWeights
from planish.progress import Progress, Silent
from planish.store.objects import disk_error, refuse_full, write_atomic

NAMED_BY = "quant"
"""The key that the file's name says."""
PLAIN = ("F16", "Q8_0")
"""Formats that an importance matrix changes nothing of."""


def export(
    checkpoint: Path,
    folder: Path,
    adapter: Path | None = None,
    calibration: Calibration | None = None,
    progress: Progress | None = None,
    *,
    quant: Literal["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K", "IQ4_NL"] = "Q4_K_M",
    imatrix: bool = True,
    lora: Literal["merged", "apart"] = "merged",
) -> Exported:
    """Write `<folder>/model-<quant>.gguf` from the HF checkpoint folder `checkpoint`, with the PEFT LoRA folder `adapter` merged in fp32, and a Modelfile for Ollama.

    With `lora` apart the file holds the base alone, and `model-<quant>.adapter.gguf` beside it the adapter, for llama.cpp to lay over it: one base, many adapters.

    Below 8 bits `imatrix` weighs the rounding error of each input column by the mean of its squares on the calibration text, where there is such text.

    One tensor at a time is in memory in fp32. The file appears only complete: it is written aside, synced and renamed. Raises InputError for an unsupported
    architecture, tokenizer, rotary scaling or adapter, with all the problems of the weights at once; RunFailed for values that are not finite as stored
    and on a full disk.
    """
    apart = adapter if lora == "apart" else None
    if apart is not None:
        checked(checkpoint, apart)
    weights = LlamaWeights(checkpoint, None if apart else adapter)
    grams = calibration.diagonals if calibration is not None and imatrix and quant not in PLAIN else None
    choices = types(weights, quant, important=grams is not None)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"model-{quant}.gguf"
    beside = adapter_beside(target)
    refuse_full(target, sum(shape_bytes(choices[name].written, shape) for name, shape in weights.shapes.items()))
    aside = folder / f".{target.name}.partial"
    writer = gguf.GGUFWriter(aside, weights.family.architecture)
    try:
        name, said = file_name(checkpoint)
        said += describe(writer, weights, name)
        writer.add_file_type(FILE_TYPES[quant])
        said += add_vocabulary(writer, checkpoint, weights.config["vocab_size"])
        for name, shape in weights.shapes.items():
            kind = choices[name].written
            writer.add_tensor_info(name, shape, np.dtype(np.float32), shape_bytes(kind, shape), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        with (progress or Silent()).bar(f"writing {target.name}", len(weights.shapes)) as advance:
            for name, values in weights.stream():
                writer.write_tensor_data(encode(name, values, choices[name].written, importance(weights, name, grams)))
                advance(1)
        writer.close()
        if apart is not None:
            changed = write_adapter(beside, checkpoint, apart)
            said += (f"{beside.name} holds the adapter: {changed} weights",)
        else:
            beside.unlink(missing_ok=True)  # of an earlier export: it would be laid over weights that hold it already
        publish(aside, target)
        write_atomic(folder / f"Modelfile-{quant}", modelfile(target.name, checkpoint, beside.name if apart else None).encode())
    except BaseException as failed:
        writer.close()
        # numpy says a short write without a number: the file came to the limit of its size, or the disk took no more
        number = errno.EFBIG if aside.exists() and aside.stat().st_size == resource.getrlimit(resource.RLIMIT_FSIZE)[0] else errno.ENOSPC
        aside.unlink(missing_ok=True)
        if isinstance(failed, OSError):
            raise disk_error(failed if failed.errno else OSError(number, str(failed)), target) from failed
        raise
    made = report(target, weights.shapes, choices, (*notes(quant, grams), *said))
    return made if apart is None else made.model_copy(update={"bytes": made.bytes + beside.stat().st_size})


def check(checkpoint: Path) -> None:
    """Raises InputError for a checkpoint that `export` refuses by its configuration, shapes or vocabulary; no weight is read."""
    weights = LlamaWeights(checkpoint, None)
    add_vocabulary(gguf.GGUFWriter(None, weights.family.architecture), checkpoint, weights.config["vocab_size"])


def size(checkpoint: Path, *, quant: Quant = "Q4_K_M", imatrix: bool = True, lora: Literal["merged", "apart"] = "merged") -> int:
    """Bytes of the tensors that `export` would write of a calibrated model, from the shapes alone; the vocabulary before them is as long in every file of a model."""
    weights = LlamaWeights(checkpoint, None)
    choices = types(weights, quant, important=imatrix and quant not in PLAIN)
    return sum(shape_bytes(choices[name].written, shape) for name, shape in weights.shapes.items())


def types(weights: LlamaWeights, quant: Quant, *, important: bool) -> dict[str, Choice]:
    """The type of each tensor."""
    sharing = weights.heads // weights.kv_heads
    return {
        name: tensor_type(name, shape, quant, layers=weights.layers, tied=weights.tied, sharing=sharing, important=important)
        for name, shape in weights.shapes.items()
    }


def importance(weights: LlamaWeights, name: str, grams: Grams | None) -> NDArray[np.float32] | None:
    """(columns,) mean square of each input column of a matrix: the diagonal of its Gram. None for tensors that no calibration text came through, as llama.cpp has none for the
    embedding. Columns that were always 0 count a millionth of the mean, so that a block of them is still rounded to something."""
    layer = weights.source_name(name).removesuffix(".weight") if grams is not None and name not in weights.made else ""
    if grams is None or layer not in grams.inputs:
        return None
    gram = grams.of(layer)
    mean = gram.diagonal / gram.tokens
    found: NDArray[np.float32] = (mean + 1e-6 * mean.mean()).numpy()
    return found


def notes(quant: Quant, grams: Grams | None) -> tuple[str, ...]:
    """What must be said of how the blocks were rounded."""
    if grams is None:
        return () if quant in PLAIN else ("without an importance matrix",)
    said = f"importance matrix of {grams.sequences} training rows, {grams.tokens} tokens"
    return (said, grams.warning) if grams.warning else (said,)


def modelfile(file: str, checkpoint: Path, adapter: str | None = None) -> str:
    """What `ollama create NAME -f Modelfile` reads: the file beside it and the texts that end an answer. The chat template stands in the GGUF file itself."""
    chat = Chat.load(checkpoint)
    stops = chat.tokenizer.convert_ids_to_tokens(sorted(chat.ends))
    head = [f"FROM ./{file}", *([f"ADAPTER ./{adapter}"] if adapter else [])]
    return "\n".join([*head, *(f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops), "PARAMETER temperature 0", ""])


def encode(name: str, values: torch.Tensor, kind: GgmlType, weighed: NDArray[np.float32] | None = None) -> NDArray[Any]:
    """`values` fp32 as `kind`; vectors and F16 or F32 matrices keep their shape."""
    with np.errstate(over="ignore"):
        data = quantise(values.numpy(), kind, weighed)
    if not torch.isfinite(values).all() or (data.dtype == np.float16 and not np.isfinite(data).all()):
        raise RunFailed(Problem(name, f"holds values that are not finite as {kind.name}", "check the checkpoint; F16 ends at 65,504"))
    return data


def shape_bytes(kind: GgmlType, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor of `shape` as `kind`."""
    return int(np.prod(shape[:-1], dtype=np.int64)) * row_bytes(kind, shape[-1])


def publish(aside: Path, target: Path) -> None:
    """Sync `aside` to the disk and give it its name in one step."""
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(aside, target)


def report(target: Path, shapes: dict[str, tuple[int, ...]], choices: dict[str, Choice], said: tuple[str, ...]) -> Exported:
    """Count what the file holds."""
    weights = sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes.values())
    data = sum(shape_bytes(choices[name].written, shape) for name, shape in shapes.items())
    changed: Iterator[tuple[str, Choice]] = ((name, choice) for name, choice in choices.items() if choice.wanted is not choice.written)
    return Exported(
        file=target.name,
        bytes=target.stat().st_size,
        bits_per_weight=8 * data / weights,
        tensor_types=dict(Counter(choice.written.name for choice in choices.values()).most_common()),
        fell_back=tuple(FellBack(tensor=name, wanted=choice.wanted.name, written=choice.written.name) for name, choice in changed),
        notes=said,
    )
