"""What training leaves: an adapter in PEFT's layout or whole weights, opened again for evaluation, merged for export; and whether it did anything."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from planish.data.tree import Sequence, build
from planish.errors import Problem, RunFailed
from planish.model import adapter_folder, merge
from planish.model.backbone import base_of
from planish.model.chat import Chat
from planish.model.class_head import class_logits
from planish.model.load import load
from planish.model.optimizer import trainable
from planish.model.policy import score
from planish.store.objects import file_hash

ASKED = "What is merged must answer as the adapter beside its base does; every token of this sentence is asked of both."
MERGE_TOLERANCE = 1e-4
"""Of the largest log-probability: what the rounding of fp32 leaves between a merged and an attached adapter, and no more."""


def changed(model: nn.Module, start: Mapping[str, Tensor]) -> float:
    """Norm of the change of the trained weights over their norm at the start; 0 means that training did nothing."""
    moved = sum(float((parameter.detach() - start[name]).float().pow(2).sum()) for name, parameter in trainable(model).items())
    before = sum(float(tensor.float().pow(2).sum()) for tensor in start.values())
    return float((moved / max(before, 1e-12)) ** 0.5)


@torch.no_grad()
def outputs(model: nn.Module, rows: Seq[Sequence], precision: str, device: torch.device | str = "cpu") -> Tensor:
    """What the model says to a few rows: the log-probabilities of their scored tokens, (R,), and behind them a head's logits where it has one.

    Asked before and after training: weights may move and change no answer (an adapter on layers that nothing reads, a B that stayed zero).
    """
    was = model.training
    model.eval()
    try:
        said = score(model, build(rows), precision, device).log_prob
        if getattr(base_of(model), "class_head", None) is None:
            return said
        classes = class_logits(model, [row.ids[:-1] for row in rows], precision, device)  # the last token is a target and never read
        return torch.cat([said, classes.flatten().to(said.dtype)])
    finally:
        model.train(was)


def output_change(before: Tensor, after: Tensor) -> float:
    """The largest change of an output, in nats or in a head's logits; 0 means that the adapter does nothing."""
    return float((after.float() - before.float()).abs().max())


def save(model: Any, chat: Chat, folder: Path, base: Path) -> None:
    """`adapter/` for an adapter, `model/` for full weights, each with the tokenizer and with base.json, which names the base by hash and not by a path of this machine."""
    if adapter_folder.is_adapter(model):
        adapter_folder.write(model, folder / "adapter", base)
    else:
        model.save_pretrained(folder / "model", safe_serialization=True)
        name_base(folder / "model", base)
        chat.save(folder / "model")  # a whole model: exporters and other tools open it by itself
    chat.save(folder / "tokenizer")


def name_base(model: Path, base: Path) -> None:
    """Write into a folder of whole weights which base they were trained from."""
    adapter_folder.write_base(model, base)


def open_trained(base: Path, trained: Path, precision: Literal["fp32", "bf16"], *, four_bit: bool = False) -> nn.Module:
    """The base with the adapter on it, or the full weights, ready to score. Weights are read from safetensors only. `four_bit` scores on an NF4 base, as QLoRA trains.

    Raises InputError when the adapter was trained on another base.
    """
    if (trained / "model").is_dir():
        return load(trained / "model", precision)
    adapter_folder.check_base(trained / "adapter", base)
    return adapter_folder.put(load(base, precision, four_bit=four_bit), trained / "adapter").eval()


def load_adapter(model: nn.Module, adapter: Path) -> None:
    """Put an adapter's weights, from safetensors, into a model that has an adapter of the same kind. Raises InputError for a tensor without a place."""
    adapter_folder.load(model, adapter)


def weights_hash(trained: Path) -> str:
    """What the trained weights are, by content."""
    where = trained / "adapter" / "adapter_model.safetensors"
    return file_hash(where if where.is_file() else next((trained / "model").glob("*.safetensors")))


def merged(base: Path, trained: Path, into: merge.Into = "original") -> nn.Module:
    """The tuned weights in fp32 with no adapter left (MISSION A12): in the original base also after QLoRA, or with `dequantised` in what its NF4 copy stands for."""
    if (trained / "model").is_dir():
        return load(trained / "model", "fp32")
    return merge.merged(base, trained / "adapter", into)


def merged_and_checked(base: Path, trained: Path, rows: Seq[Sequence], into: merge.Into = "original") -> tuple[nn.Module, float]:
    """The merged weights of a training result and how far their answers to a few rows are from those of the adapter beside its base, in nats. Raises as `checked` does."""
    return checked(base, trained / "adapter", rows, into)


def checked(base: Path, adapter: Path, rows: Seq[Sequence], into: merge.Into) -> tuple[nn.Module, float]:
    """An adapter merged, and how far its answers are from those of the adapter beside its base, in nats.

    Raises RunFailed beyond 1e-4 of the largest log-probability: then what was trained is not what would be served.
    """
    adapter_folder.check_base(adapter, base)
    merge.refuse_kind(adapter)
    attached = adapter_folder.put(load(base, "fp32", four_bit=into == "dequantised"), adapter).eval()
    beside = outputs(attached, rows, "fp32")
    del attached
    model = merge.merged(base, adapter, into)
    off = output_change(beside, outputs(model, rows, "fp32"))
    if off > MERGE_TOLERANCE * max(1.0, float(beside.abs().max())):
        why = f"merged, it answers {off:.1e} nats apart from the adapter beside its base"
        raise RunFailed(Problem(str(adapter), why, "serve the adapter beside its base and report this"))
    return model, off


def write_merged(base: Path, adapter: Path, out: Path, into: merge.Into = "original") -> float:
    """A folder of the base's weights with the adapter in them, tokenizer and base.json beside them; how far its answers are from the attached adapter's, in nats."""
    chat = Chat.load(base)
    ids = tuple(chat.encode(ASKED))
    model: Any
    model, off = checked(base, adapter, [Sequence(ids, (0.0, *[1.0] * (len(ids) - 1)))], into)
    model.save_pretrained(out, safe_serialization=True)
    name_base(out, base)
    chat.save(out)
    return off
