"""One GGUF file for llama.cpp: F16, Q8_0 or llama.cpp's K-quant mixes, written without a compiler."""

from __future__ import annotations

import json
import os
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
from planish.model.gguf_types import FILE_TYPES, Choice, Quant, tensor_type
from planish.model.gguf_vocab import add_vocabulary
from planish.model.gram import Grams
from planish.model.llama_weights import ROPE_FREQS, LlamaWeights
from planish.store.objects import write_atomic

PLAIN = ("F16", "Q8_0")
"""Formats that an importance matrix changes nothing of."""


def export(
    checkpoint: Path,
    folder: Path,
    adapter: Path | None = None,
    calibration: Calibration | None = None,
    *,
    quant: Literal["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K", "IQ4_NL"] = "Q4_K_M",
    imatrix: bool = True,
) -> Exported:
    """Write `<folder>/model-<quant>.gguf` from the HF checkpoint folder `checkpoint`, with the PEFT LoRA folder `adapter` merged in fp32, and a Modelfile for Ollama.

    Below 8 bits `imatrix` weighs the rounding error of each input column by the mean of its squares on the calibration text, where there is such text.

    One tensor at a time is in memory in fp32. The file appears only complete: it is written aside, synced and renamed. Raises InputError for an unsupported
    architecture, tokenizer, rotary scaling or adapter, with all the problems of the weights at once; RunFailed for values that are not finite as stored.
    """
    weights = LlamaWeights(checkpoint, adapter)
    grams = calibration.grams if calibration is not None and imatrix and quant not in PLAIN else None
    sharing = weights.heads // weights.kv_heads
    choices = {
        name: tensor_type(name, shape, quant, layers=weights.layers, tied=weights.tied, sharing=sharing, important=grams is not None)
        for name, shape in weights.shapes.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"model-{quant}.gguf"
    aside = folder / f".{target.name}.partial"
    writer = gguf.GGUFWriter(aside, weights.architecture)
    try:
        describe(writer, weights, checkpoint, quant)
        for name, shape in weights.shapes.items():
            kind = choices[name].written
            writer.add_tensor_info(name, shape, np.dtype(np.float32), shape_bytes(kind, shape), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, values in weights.stream():
            writer.write_tensor_data(encode(name, values, choices[name].written, importance(weights, name, grams)))
        writer.close()
        publish(aside, target)
        write_atomic(folder / f"Modelfile-{quant}", modelfile(target.name, checkpoint).encode())
    except BaseException:
        writer.close()
        aside.unlink(missing_ok=True)
        raise
    return report(target, weights.shapes, choices, notes(quant, grams))


def importance(weights: LlamaWeights, name: str, grams: Grams | None) -> NDArray[np.float32] | None:
    """(columns,) mean square of each input column of a matrix: the diagonal of its Gram. None for tensors that no calibration text came through, as llama.cpp has none for the
    embedding. Columns that were always 0 count a millionth of the mean, so that a block of them is still rounded to something."""
    layer = weights.source_name(name).removesuffix(".weight") if grams is not None and name != ROPE_FREQS else ""
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


def modelfile(file: str, checkpoint: Path) -> str:
    """What `ollama create NAME -f Modelfile` reads: the file beside it and the texts that end an answer. The chat template stands in the GGUF file itself."""
    chat = Chat.load(checkpoint)
    stops = chat.tokenizer.convert_ids_to_tokens(sorted(chat.ends))
    return "\n".join([f"FROM ./{file}", *(f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops), "PARAMETER temperature 0", ""])


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


def describe(writer: gguf.GGUFWriter, weights: LlamaWeights, checkpoint: Path, quant: Quant) -> None:
    """The file's metadata: what a loader needs of config.json, the tokenizer and the template."""
    config = weights.config
    parameters = sum(int(np.prod(shape, dtype=np.int64)) for shape in weights.shapes.values())
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(checkpoint.resolve().name)
    writer.add_size_label(gguf.size_label(parameters, parameters, 0, 0))
    writer.add_block_count(weights.layers)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(weights.heads)
    writer.add_head_count_kv(weights.kv_heads)
    writer.add_rope_freq_base(weights.rope["rope_theta"])
    if weights.rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(weights.rope["factor"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_key_length(weights.head_width)
    writer.add_value_length(weights.head_width)
    writer.add_file_type(FILE_TYPES[quant])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_rope_dimension_count(weights.head_width)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_vocabulary(writer, checkpoint, config["vocab_size"])


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
