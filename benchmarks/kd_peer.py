"""The other sides of a distillation step: a plain loop over dense logits with the same sparse capture, and TRL's GKDTrainer with its teacher live."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import measure
import peer
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from planish.adapters import lora
from planish.model import capture_batch
from planish.model.example import Example
from planish.model.head_terms import Teacher
from planish.model.policy import base_of
from planish.model.precision import choose

T = 2.0


def padded(examples: Sequence[Example], device: str) -> dict[str, Tensor]:
    """The rows side by side, as every padding collator has them."""
    both = [(sequence.ids, sequence.weights) for example in examples for sequence in example.sequences]
    width = max(len(ids) for ids, _ in both)
    ids = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids, _ in both], device=device)
    seen = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in both], device=device)
    scored = torch.tensor([[bool(w) for w in weights] + [False] * (width - len(weights)) for _, weights in both], device=device)
    return {"input_ids": ids, "attention_mask": seen, "labels": torch.where(scored, ids, -100)}


def dense_loss(logits: Tensor, labels: Tensor, places: Tensor, said: Teacher) -> Tensor:
    """The sum over scored tokens of half the cross-entropy and half T^2 times the divergence from the kept tokens and the tail. logits (N, V), labels (N,), places (R,)."""
    assert said.valid is not None
    assert said.tail is not None
    ce = F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
    scaled = logits[places] / T
    mine = scaled.gather(1, said.ids) - scaled.logsumexp(1, keepdim=True)
    rest = torch.log1p(-(mine.double().exp() * said.valid).sum(1).clamp(max=1 - 1e-12)).to(mine.dtype)
    q, tail = said.log_probs.exp() * said.valid, said.tail.exp()
    kl = (q * (said.log_probs - mine)).sum() + (tail * (said.tail - rest)).sum()
    return 0.5 * ce + 0.5 * T**2 * kl


def dense_model(folder: Path, device: str) -> nn.Module:
    """The student under transformers' own SDPA, with the same adapters."""
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    return peer.draw_adapters(lora.attach(base.to(device), r=peer.R)).train()


def dense_step(model: nn.Module, examples: Sequence[Example], capture: Path, precision: str, device: str) -> Tensor:
    """Loss of one step, its gradient left on the adapters."""
    batch = padded(examples, device)
    labels = batch.pop("labels")[:, 1:].reshape(-1)
    scored = (labels != -100).nonzero()[:, 0]
    target = labels[scored]
    places = [int(sequence.given[0]) for example in examples for sequence in example.sequences]
    counts = [len(sequence.scored) for example in examples for sequence in example.sequences]
    said = capture_batch.batch(capture_batch.opened(str(capture)), places, counts, target, T).teacher
    with measure.autocast(precision, device):
        logits = model(**batch).logits[:, :-1].flatten(0, 1)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss = dense_loss(logits, labels, scored, said) / len(target)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def dense_run(folder: Path, examples: Sequence[Example], capture: Path, device: str, counters: peer.Counters) -> Callable[[], object]:
    """One step of the plain loop."""
    model, precision = dense_model(folder, device), choose("auto", device)
    base_of(model).model.register_forward_pre_hook(peer.count(counters, True), with_kwargs=True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6)

    def run() -> None:
        dense_step(model, examples, capture, precision, device)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def gkd(folder: Path, student: Path, examples: Sequence[Example], device: str, *, dtype: str = "float32", **options: Any) -> Any:
    """GKDTrainer over the same tokens. `options` are GKDConfig's; what is not given stays TRL's default, but for what makes it learn from the rows as they are."""
    settings = peer.quiet(device)
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    given: dict[str, Any] = {"lmbda": 0.0, "beta": 0.0, "num_train_epochs": 1, "learning_rate": 1e-6, "lr_scheduler_type": "constant", **options}
    kept: dict[str, Any] = {"dtype": dtype, "attn_implementation": "sdpa"}
    return GKDTrainer(
        model=str(student),
        teacher_model=str(folder),
        args=GKDConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=len(examples),
            model_init_kwargs=kept,
            teacher_model_init_kwargs=dict(kept),
            **settings,
            **given,
        ),
        data_collator=lambda picked: padded([examples[one["place"]] for one in picked], "cpu"),
        train_dataset=Dataset.from_list([{"place": place} for place in range(len(examples))]),
        processing_class=AutoTokenizer.from_pretrained(student),
        peft_config=peer.lora_config(),
    )


def gkd_run(made: Any, counters: peer.Counters) -> Callable[[], object]:
    """One step by its own train(). Both of its models are counted."""
    from transformers import PrinterCallback

    peer.draw_adapters(made.model)
    made.remove_callback(PrinterCallback)
    for model in (base_of(made.model), made.teacher_model):
        model.model.register_forward_pre_hook(peer.count(counters, True), with_kwargs=True)

    def run() -> None:
        assert made.accelerator.mixed_precision == ("bf16" if made.args.bf16 else "no")
        made.train()

    return run
