"""TRL's SFTTrainer on the same token rows, and the check that both sides compute the same: what every training benchmark shares."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from planish.adapters import lora
from planish.data.tree import pack
from planish.model import loop
from planish.model.checkpoint import trainable
from planish.model.example import Example, Loss
from planish.model.load import load
from planish.model.policy import Scored, base_of, score
from planish.objectives import sft

BATCH = 16
"""Rows of an optimizer step, on both sides."""
MICRO_TOKENS = 4096
"""Unique tokens of one of our micro-batches."""
R = 16


@dataclass
class Counters:
    """What one run sent through the trunk and the head."""

    trunk: int = 0
    head: int = 0

    def clear(self) -> None:
        """Start anew."""
        self.trunk = self.head = 0


def draw_adapters(model: nn.Module) -> nn.Module:
    """Both LoRA matrices drawn by name, alike on both sides: at B = 0 half of the gradient would be zero."""
    for index, (name, parameter) in enumerate(sorted(trainable(model).items())):
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.02, generator=torch.Generator(parameter.device).manual_seed(index))
    return model


def our_model(folder: Path, precision: str, device: str, attach: Callable[[nn.Module], nn.Module] | None = None) -> nn.Module:
    """Base as planish loads it, LoRA r 16 on every linear layer unless `attach` says otherwise."""
    base = load(folder, precision, device=device)  # type: ignore[arg-type]
    return draw_adapters((attach or _attach)(base))


def _attach(base: nn.Module) -> nn.Module:
    return lora.attach(base, r=R)


def our_run(model: nn.Module, examples: Sequence[Example], precision: str, device: str, counters: Counters, **more: Any) -> Callable[[], object]:
    """One epoch through planish's own loop, batches of 16 rows, no checkpoint and no validation; the peer makes none either."""
    rest: dict[str, Any] = dict(max_steps=None, warmup=0.0, validations=0, checkpoints=0, schedule="constant", learning_rate=1e-4, weight_decay=0.0)
    plan = loop.make_plan(len(examples), batch_size=BATCH, epochs=1, micro_tokens=MICRO_TOKENS, clip=1.0, precision=precision, seed=0, **rest)
    base_of(model).model.register_forward_pre_hook(count(counters), with_kwargs=True)

    def counted(policy: Scored) -> Loss:
        counters.head += len(policy.log_prob)
        return sft.loss(policy)

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            loop.train(model, examples, counted, plan, Path(folder), meaning={}, device=device, **more)

    return run


def count(counters: Counters, every_position: bool = False) -> Callable[..., None]:
    """A hook before a trunk that adds its tokens, and the head's rows where it is sent every position but the last of a row."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs["input_ids"] if kwargs.get("input_ids") is not None else args[0]
        counters.trunk += ids.numel()
        counters.head += ids.numel() - len(ids) if every_position else 0

    return hook


def trainer(folder: Path, examples: Sequence[Example], device: str, *, dtype: str = "float32", peft: dict[str, Any] | None = None, **options: Any) -> Any:
    """SFTTrainer over tokenised rows. `options` are SFTConfig's; what is not given stays TRL's default, but for logging to a service, saving, and the progress bar."""
    settings = quiet(device)
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    rows = [{"input_ids": list(s.ids), "labels": [i if w else -100 for i, w in zip(s.ids, s.weights, strict=True)]} for e in examples for s in e.sequences]
    same: dict[str, Any] = dict(num_train_epochs=1, learning_rate=1e-4, lr_scheduler_type="constant")
    return SFTTrainer(
        model=str(folder),
        args=SFTConfig(output_dir=tempfile.mkdtemp(), model_init_kwargs={"dtype": dtype, "attn_implementation": "sdpa"}, **settings, **same, **options),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=lora_config(**(peft or {})),
    )


def quiet(device: str) -> dict[str, Any]:
    """Settings of a trainer that neither logs to a service nor saves nor draws bars; its packages say nothing either."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    from datasets import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    disable_progress_bars()
    transformers_logging.disable_progress_bar()
    return dict(use_cpu=device == "cpu", report_to="none", save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False)


def lora_config(**more: Any) -> Any:
    """The adapters of `our_model` in PEFT's words."""
    from peft import LoraConfig

    return LoraConfig(**{"r": R, "lora_alpha": 2 * R, "target_modules": "all-linear", "bias": "none", "task_type": "CAUSAL_LM", **more})


def peer_run(made: Any, counters: Counters, device: str) -> Callable[[], object]:
    """One epoch by SFTTrainer.train. The head's rows are counted on a CPU, where TRL sends it every position; where it has Triton they are the scored ones."""
    from transformers import PrinterCallback

    draw_adapters(made.model)
    made.remove_callback(PrinterCallback)
    base_of(made.model).model.register_forward_pre_hook(count(counters, device == "cpu"), with_kwargs=True)

    def run() -> None:
        assert made.accelerator.mixed_precision == ("bf16" if made.args.bf16 else "no")  # the state is one for all trainers of a process
        made.train()

    return run


def distances(folder: Path, examples: Sequence[Example], device: str, attach: Callable[[nn.Module], nn.Module] | None = None, **peft: Any) -> dict[str, float]:
    """Loss and gradient of one fixed batch in fp32 by TRL's compute_loss and by ours: their distances."""
    theirs, right = _their_gradient(folder, examples, device, "float32", peft)
    ours, left = our_gradient(our_model(folder, "fp32", device, attach).train(), examples, "fp32", device)
    return {"loss": abs(ours - theirs), "gradient": apart(left, right)}


def rounding(folder: Path, examples: Sequence[Example], device: str) -> dict[str, float]:
    """How far each side's gradient in bf16, as it is timed, is from the fp32 gradient."""
    _, exact = our_gradient(our_model(folder, "fp32", device).train(), examples, "fp32", device)
    _, ours = our_gradient(our_model(folder, "bf16", device).train(), examples, "bf16", device)
    found = {"bf16 gradient of ours to fp32": apart(ours, exact)}
    for dtype in ("float32", "bfloat16"):
        with torch.autocast(device, dtype=torch.bfloat16):
            _, theirs = _their_gradient(folder, examples, device, dtype, {})
        found[f"bf16 gradient of TRL to fp32, {dtype} weights"] = apart(theirs, exact)
    return found


def _their_gradient(folder: Path, examples: Sequence[Example], device: str, dtype: str, peft: dict[str, Any]) -> tuple[float, Tensor]:
    """By TRL's compute_loss, all rows in one padded batch."""
    given: dict[str, Any] = dict(bf16=False, gradient_checkpointing=False, per_device_train_batch_size=len(examples), max_length=None)
    made = trainer(folder, examples, device, dtype=dtype, peft=peft, **given)
    draw_adapters(made.model)
    batches, count = made.get_batch_samples(iter(made.get_train_dataloader()), 1, torch.device(device))
    made.model.train()
    loss = made.compute_loss(made.model, dict(batches[0]), num_items_in_batch=count)
    loss.backward()
    return loss.item(), gradient(made.model)


def apart(left: Tensor, right: Tensor) -> float:
    """Relative distance of two gradients."""
    return float((left - right).norm() / right.norm())


def our_gradient(model: nn.Module, examples: Sequence[Example], precision: str, device: str, **more: Any) -> tuple[float, Tensor]:
    """Loss and gradient of one effective batch by ours."""
    return backward(model, examples, precision, device, **more), gradient(model)


def backward(model: nn.Module, examples: Sequence[Example], precision: str, device: str, **more: Any) -> float:
    """Forward and backward of one effective batch by ours; `more` is for `score`. Gives the loss."""
    share, total = sum(example.share for example in examples), 0.0
    for _, tree in pack([example.sequences for example in examples], MICRO_TOKENS):
        part = sft.loss(score(model, tree, precision, device, **more)).total / share
        part.backward()
        total += part.item()
    return total


def gradient(model: nn.Module) -> Tensor:
    named = sorted((name, p.grad) for name, p in trainable(model).items() if p.grad is not None)
    flat = torch.cat([gradient.float().flatten() for _, gradient in named])
    model.zero_grad(set_to_none=True)
    return flat
