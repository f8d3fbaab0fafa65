"""The loop's loss and gradient against TRL 1.16's own `compute_loss`: same weights, same rows, 20 saved states of a run (issue 4, Proof).

Losses are compared on fixed batches, never by training curves. TRL's labels come from its own tokenisation with a template that has generation markers: the stock one
has none, so that TRL refuses it for assistant-only training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from planish.adapters import full, lora
from planish.data.tree import pack
from planish.model import loop
from planish.model.chat import Chat
from planish.model.checkpoint import trainable
from planish.model.example import Example
from planish.model.load import load
from planish.model.policy import base_of, score
from planish.objectives import sft
from planish.rows import ChatRow, Message, Origin

pytestmark = [
    pytest.mark.slow,  # the import of trl alone takes longer than the fast suite allows one file
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),  # the peer's, in each release others
]

STATES, ROWS = 20, 8
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ m['content'] + '<|im_end|>' + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The tiny model's template, with markers around what the assistant says: same text."""

SINGLE = [
    [("user", f"review {'the phone is good ' * n}{n}"), ("assistant", label)] for n, label in enumerate(["negative", "neutral", "positive the end", "bad"] * 2)
]
TURNS = [[turn for k in range(1 + n % 3) for turn in (("user", f"the sound {'is ' * (n + k)}"), ("assistant", f"{'good ' * (1 + k)}{n}"))] for n in range(ROWS)]


def chat_rows(conversations: list[list[tuple[str, str]]]) -> list[ChatRow]:
    """Conversations as rows."""
    origin = Origin(file="x", line=1, sha256="")
    return [
        ChatRow(id=str(n), origin=origin, messages=tuple(Message(role=role, content=text) for role, text in turns))  # type: ignore[arg-type]
        for n, turns in enumerate(conversations)
    ]


def encoded(tiny: Path, conversations: list[list[tuple[str, str]]]) -> list[Example]:
    """What our objective makes of them."""
    chat = Chat.load(tiny)
    return [sft.encode(row, chat) for row in chat_rows(conversations)]


def ours(tiny: Path, adapter: str) -> nn.Module:
    """The model as planish trains it, adapters drawn so that no gradient is zero at the start."""
    model = lora.attach(load(tiny, "fp32"), r=4) if adapter == "lora" else full.attach(load(tiny, "fp32", trained=True))
    torch.manual_seed(5)
    for name, parameter in trainable(model).items():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture(scope="module")
def states(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Tensor]]]:
    """The trained tensors after each of 20 steps, with LoRA and with all weights."""
    saved: dict[str, list[dict[str, Tensor]]] = {}
    for adapter in ("lora", "full"):
        model, examples = ours(tiny, adapter), encoded(tiny, SINGLE + TURNS)
        kept = saved.setdefault(adapter, [])

        def keep(_: loop.Step, model: nn.Module = model, kept: list[dict[str, Tensor]] = kept) -> None:
            kept.append({name: p.detach().clone() for name, p in trainable(model).items()})

        given: dict[str, Any] = dict(epochs=None, max_steps=STATES, warmup=0.0, validations=0, checkpoints=0, micro_tokens=512, schedule="constant")
        rate = 2e-3 if adapter == "lora" else 2e-4
        plan = loop.make_plan(2 * ROWS, batch_size=8, learning_rate=rate, weight_decay=0.0, clip=1.0, precision="fp32", seed=1, **given)
        loop.train(model, examples, sft.loss, plan, tmp_path_factory.mktemp(adapter), meaning={}, on_step=keep)
        assert len(kept) == STATES
    return saved


def peer(tiny: Path, out: Path, adapter: str, conversations: list[list[tuple[str, str]]], **options: Any) -> Any:
    """TRL's trainer on the same base, with the same adapters, rows in their order. Options are SFTConfig's own: an unknown one raises."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = MARKED
    quiet: dict[str, Any] = dict(use_cpu=True, bf16=False, report_to="none", save_strategy="no", disable_tqdm=True, train_sampling_strategy="sequential")
    settings = {"gradient_checkpointing": False, "per_device_train_batch_size": ROWS, "max_length": 512, "assistant_only_loss": True, **options}
    rows = [{"messages": [{"role": role, "content": text} for role, text in turns]} for turns in conversations]
    return SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32, attn_implementation="sdpa"),
        args=SFTConfig(output_dir=str(out), **quiet, **settings),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", bias="none", task_type="CAUSAL_LM") if adapter == "lora" else None,
    )


def their_batches(trainer: Any, accumulation: int) -> tuple[list[dict[str, Any]], Any]:
    """The micro-batches of the first step and the divisor that TRL's own count gives."""
    batches, count = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), accumulation, torch.device("cpu"))
    assert len(batches) == accumulation
    return batches, count


def gradient(model: nn.Module) -> dict[str, Tensor]:
    """Gradients by name, cleared."""
    grads = {name: p.grad.clone() for name, p in trainable(model).items() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return grads


def put(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Copy a saved state into a model."""
    named = trainable(model)
    assert named.keys() == state.keys()
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(state[name])


def their_step(trainer: Any, batches: list[dict[str, Any]], count: Any) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradient of one effective batch by TRL's compute_loss."""
    trainer.model.train()
    total = 0.0
    for batch in batches:
        loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=count)
        loss.backward()
        total += loss.item()
    return total, gradient(trainer.model)


def our_step(model: nn.Module, examples: list[Example], accumulation: int) -> tuple[float, dict[str, Tensor]]:
    """The same by ours: as many micro-batches, one divisor."""
    model.train()
    share, total, size = sum(example.share for example in examples), 0.0, len(examples) // accumulation
    for start in range(0, len(examples), size):
        for _, tree in pack([example.sequences for example in examples[start : start + size]], 4096):
            part = sft.loss(score(model, tree, "fp32")).total / share
            part.backward()
            total += part.item()
    return total, gradient(model)


def far(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Relative distance of two gradients taken as one vector."""
    assert a.keys() == b.keys()
    left, right = (torch.cat([side[name].flatten() for name in sorted(side)]) for side in (a, b))
    return float((left - right).norm() / right.norm())


LAYOUTS: dict[str, tuple[str, list[list[tuple[str, str]]], int, dict[str, Any]]] = {
    "padded": ("lora", SINGLE, 1, {}),
    "padded, all weights": ("full", SINGLE, 1, {}),
    "packed": ("lora", SINGLE, 1, {"packing": True, "packing_strategy": "bfd", "max_length": 512}),
    "packed, all weights": ("full", TURNS, 1, {"packing": True, "packing_strategy": "bfd", "max_length": 512}),
    "padding-free": ("lora", TURNS, 1, {"padding_free": True, "max_length": None}),
    "multi-turn": ("lora", TURNS, 1, {}),
    "accumulation 2": ("lora", TURNS, 2, {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}),
    "accumulation 4": ("lora", TURNS, 4, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}),
    "checkpointing": ("lora", SINGLE, 1, {"gradient_checkpointing": True}),
    "checkpointing, accumulation 4": ("lora", TURNS, 4, {"gradient_checkpointing": True, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_loss_and_gradient_are_trls(layout: str, tiny: Path, tmp_path: Path, states: dict[str, list[dict[str, Tensor]]]) -> None:
    """At each of 20 states: loss within 1e-5, gradient within 1e-5 relative, fp32; both sides checkpoint where the layout says so."""
    adapter, conversations, accumulation, options = LAYOUTS[layout]
    trainer, model = peer(tiny, tmp_path, adapter, conversations, **options), ours(tiny, adapter)
    if options.get("gradient_checkpointing"):
        base_of(model).gradient_checkpointing_enable()
    examples = encoded(tiny, conversations)
    batches, count = their_batches(trainer, accumulation)
    assert int(count) == sum(example.share for example in examples)  # every row once, the same tokens scored
    for state in states[adapter]:
        put(trainer.model, state)
        put(model, state)
        their_loss, their_gradient = their_step(trainer, batches, count)
        our_loss, our_gradient = our_step(model, examples, accumulation)
        assert our_loss == pytest.approx(their_loss, abs=1e-5)
        assert far(our_gradient, their_gradient) <= 1e-5


def test_the_peer_is_the_version_the_claims_name() -> None:
    assert version("trl") == "1.16.0"


def labels_of(trainer: Any) -> Iterator[tuple[list[int], list[int]]]:
    """Token ids and scored target ids of each prepared row."""
    for row in trainer.train_dataset:
        yield list(row["input_ids"]), [label for label in row["labels"] if label != -100]


def test_assistant_only_labels_are_ours(tiny: Path, tmp_path: Path) -> None:
    """TRL's markers and our spans score the same tokens of every turn; ours ends the sequence at the last scored one, as nothing behind it is ever needed."""
    for (ids, scored), example in zip(labels_of(peer(tiny, tmp_path, "lora", TURNS)), encoded(tiny, TURNS), strict=True):
        (sequence,) = example.sequences
        assert tuple(ids[: len(sequence.ids)]) == sequence.ids
        assert scored == [id for id, weight in zip(sequence.ids, sequence.weights, strict=True) if weight]


def test_trl_refuses_a_template_without_markers(tiny: Path) -> None:
    """Ours needs no markers, because its spans come from rendering; TRL knows only templates it has a patch for. So its side was given one above."""
    from transformers import AutoTokenizer
    from trl.chat_template_utils import get_training_chat_template

    with pytest.raises(ValueError, match="generation"):
        get_training_chat_template(AutoTokenizer.from_pretrained(tiny))


def from_prompts(tiny: Path, out: Path) -> Any:
    """TRL's trainer on prompt-completion rows."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    parts = [{"prompt": [{"role": "user", "content": q}], "completion": [{"role": "assistant", "content": a}]} for (_, q), (_, a) in SINGLE]
    return SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32),
        args=SFTConfig(output_dir=str(out), use_cpu=True, bf16=False, report_to="none", save_strategy="no", disable_tqdm=True),
        train_dataset=Dataset.from_list(parts),
        processing_class=AutoTokenizer.from_pretrained(tiny),
    )


def test_trl_also_trains_what_the_template_writes_after_the_answer(tiny: Path, tmp_path: Path) -> None:
    """From prompt-completion rows TRL scores the newline after <|im_end|>, which no server ever asks the model for: one token a row more than ours (MISSION K2)."""
    newline = Chat.load(tiny).encode("\n")
    for (_, scored), example in zip(labels_of(from_prompts(tiny, tmp_path)), encoded(tiny, SINGLE), strict=True):
        (sequence,) = example.sequences
        assert scored == [id for id, weight in zip(sequence.ids, sequence.weights, strict=True) if weight] + newline


def test_trl_wrapped_packing_reads_across_rows(tiny: Path, tmp_path: Path, states: dict[str, list[dict[str, Tensor]]]) -> None:
    """Its "wrapped" strategy lets a row attend to the rows before it and cuts rows at the block's end: another loss than the rows have. Why "packed" above is bfd."""
    trainer = peer(tiny, tmp_path, "lora", SINGLE, packing=True, packing_strategy="wrapped", max_length=128)
    apart = peer(tiny, tmp_path, "lora", SINGLE)
    losses = []
    for side in (trainer, apart):
        put(side.model, states["lora"][-1])
        batches, count = their_batches(side, 1)
        losses.append(their_step(side, batches, count)[0])
    assert abs(losses[0] - losses[1]) > 1e-2


def test_trl_on_a_cpu_sends_every_position_to_the_head(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its fused head skips unscored positions on devices with Triton only; what benchmarks call "as shipped" is this. Ours sends the scored rows."""
    from trl.trainer import utils

    trainer, seen = peer(tiny, tmp_path, "lora", SINGLE), list[int]()
    real: Callable[..., Any] = utils._ChunkedLogProbFunction.apply  # the seam TRL has: its public call hides the row count

    class Watched:
        @staticmethod
        def apply(hidden: Tensor, *rest: Any) -> Any:
            seen.append(len(hidden))
            return real(hidden, *rest)

    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", Watched)
    batches, count = their_batches(trainer, 1)
    their_step(trainer, batches, count)
    rows, width = batches[0]["input_ids"].shape
    assert seen == [rows * (width - 1)]
    assert seen[0] > 5 * int(count)
