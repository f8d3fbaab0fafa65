"""Every preference objective against TRL 1.16's own `compute_loss`: same weights, same token rows, loss to 1e-5 and gradient to 1e-5 relative (issue 7, Proof).

The rows are TRL's own batch, token by token, so that only the objective is compared; adapters are drawn away from zero after the reference was taken.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.objectives.answers import scored
from torch import Tensor, nn

from planish.adapters import head, lora
from planish.data.tree import Sequence
from planish.model.backbone import base_of
from planish.model.checkpoint import trainable
from planish.model.example import Example, Loss
from planish.model.load import load
from planish.model.policy import Scored
from planish.model.reference import StartingModel
from planish.objectives import dpo, kto, orpo, reward, simpo

pytestmark = [
    pytest.mark.slow,  # the import of trl alone takes longer than the fast suite allows one file
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),  # the peer's, in each release others
]

QUIET: dict[str, Any] = {"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "gradient_checkpointing": False}
PAIRS = [
    {
        "prompt": [{"role": "user", "content": f"review {n}: the sound {'is ' * n}"}],
        "chosen": [{"role": "assistant", "content": f"good {'good ' * (n % 3)}"}],
        "rejected": [{"role": "assistant", "content": f"bad {'the ' * (n % 4)}phone"}],
    }
    for n in range(8)
]


def base(tiny: Path) -> Any:
    """The base as TRL takes it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32, attn_implementation="sdpa")


def common(tiny: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What all of TRL's trainers are given."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer

    adapter = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", bias="none", task_type="CAUSAL_LM")
    return {"model": base(tiny), "train_dataset": Dataset.from_list(rows), "processing_class": AutoTokenizer.from_pretrained(tiny), "peft_config": adapter}


def batch_of(trainer: Any) -> dict[str, Any]:
    """All its rows, in their order, as its collator makes them."""
    return dict(trainer.data_collator([trainer.train_dataset[index] for index in range(len(trainer.train_dataset))]))


def sequences(ids: Tensor, attended: Tensor, answer: Tensor, *given: float) -> list[Sequence]:
    """The rows of a padded batch."""
    return [
        Sequence(tuple(row[mask.bool()].tolist()), tuple(float(value) for value in own[mask.bool()].tolist()), given)
        for row, mask, own in zip(ids, attended, answer, strict=True)
    ]


def pairs(chosen: list[Sequence], rejected: list[Sequence]) -> list[Example]:
    return [Example(both, 1.0) for both in zip(chosen, rejected, strict=True)]


def drawn(*models: nn.Module) -> None:
    """The same adapters in all, away from zero."""
    for model in models:
        torch.manual_seed(5)
        for name, parameter in sorted(trainable(model).items()):
            if "lora_" in name:
                nn.init.normal_(parameter, std=0.1)


def compare(trainer: Any, batch: dict[str, Any], model: nn.Module, examples: list[Example], loss: Callable[[Scored], Loss]) -> float:
    """Assert that loss and gradient are the same; give the loss."""
    drawn(model, trainer.model)
    trainer.model.train()
    theirs = trainer.compute_loss(trainer.model, dict(batch))
    theirs.backward()
    ours = loss(scored(model.train(), examples)).total / len(examples)
    ours.backward()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    left, right = ({name: p.grad for name, p in trainable(side).items()} for side in (model, trainer.model))
    assert left.keys() == right.keys()
    mine, other = (torch.cat([side[name].flatten() for name in sorted(side)]) for side in (left, right))  # type: ignore[union-attr]
    assert float(other.norm()) > 1e-4
    assert float((mine - other).norm() / other.norm()) <= 1e-5
    return theirs.item()


def dpo_peer(tiny: Path, out: Path, **options: Any) -> tuple[Any, dict[str, Any], list[Example]]:
    """TRL's trainer, its batch, and our examples of it."""
    from trl import DPOConfig, DPOTrainer

    trainer = DPOTrainer(args=DPOConfig(output_dir=str(out), **QUIET, **options), **common(tiny, PAIRS))
    batch = batch_of(trainer)
    rows = sequences(batch["input_ids"], batch["attention_mask"], batch["completion_mask"])
    return trainer, batch, pairs(rows[: len(PAIRS)], rows[len(PAIRS) :])


def start(model: nn.Module, out: Path) -> StartingModel:
    return StartingModel(model, {}, out / "references", "fp32")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"loss_type": "sigmoid", "beta": 0.1}, {"beta": 0.1}),
        ({"loss_type": "sigmoid", "beta": 0.5}, {"beta": 0.5}),
        ({"loss_type": "ipo", "beta": 0.1}, {"loss": "ipo"}),
        ({"loss_type": "robust", "label_smoothing": 0.1}, {"loss": "robust", "label_smoothing": 0.1}),
        # its sigmoid takes no smoothing, but from its robust loss R and its sigmoid loss A that of the turned pairs follows: B = ((1 - e) A - (1 - 2e) R) / e, and
        # the smoothed loss (1 - e) A + e B = 2 (1 - e) A - (1 - 2e) R, which its weights of several losses can say
        ({"loss_type": ["sigmoid", "robust"], "loss_weights": [1.8, -0.8], "label_smoothing": 0.1}, {"label_smoothing": 0.1}),
    ],
)
def test_p2_dpo_is_trls(theirs: dict[str, Any], ours: dict[str, Any], tiny: Path, tmp_path: Path) -> None:
    """P2: log-ratios against the base with the adapter off, on both sides."""
    trainer, batch, examples = dpo_peer(tiny, tmp_path, **theirs)
    model = lora.attach(load(tiny, "fp32"), r=4)
    examples = dpo.prepare(examples, start(model, tmp_path))
    compare(trainer, batch, model, examples, lambda policy: dpo.loss(policy, **ours))


def test_p6_kto_is_trls(tiny: Path, tmp_path: Path) -> None:
    """P6: eight single answers, z0 from its own mismatched pairs, which are ours too."""
    from trl import KTOConfig, KTOTrainer

    rows = [{"prompt": row["prompt"], "completion": row["chosen"] if n % 2 else row["rejected"], "label": bool(n % 2)} for n, row in enumerate(PAIRS)]
    options = {**QUIET, "per_device_train_batch_size": 8, "desirable_weight": 1.5, "undesirable_weight": 0.5, "loss_type": "kto"}
    trainer = KTOTrainer(args=KTOConfig(output_dir=str(tmp_path), **options), **common(tiny, rows))
    batch = batch_of(trainer)
    own = sequences(batch["input_ids"], batch["attention_mask"], batch["completion_mask"])
    marked = [Example((Sequence(one.ids, one.weights, (float(row["label"]),)),), 1.0) for one, row in zip(own, rows, strict=True)]
    mismatched = sequences(batch["KL_input_ids"], batch["KL_attention_mask"], batch["KL_completion_mask"])
    model = lora.attach(load(tiny, "fp32"), r=4)
    theirs = [
        Example((example.sequences[0], Sequence(k.ids, k.weights, example.sequences[0].given)), 1.0) for example, k in zip(marked, mismatched, strict=True)
    ]
    values = start(model, tmp_path)
    prepared = kto.prepare(marked, values)
    assert sum(ours.sequences[1].ids == other.sequences[1].ids for ours, other in zip(prepared, theirs, strict=True)) >= 6  # all that fit behind their prompt
    examples = dpo.prepare(theirs, values)
    compare(trainer, batch, model, examples, lambda policy: kto.loss(policy, good_weight=1.5, bad_weight=0.5))


TEXT = [{"prompt": "<|im_start|>", "chosen": f"good is the {word}", "rejected": f"bad {word} and the sound"} for word in ("sound", "phone", "review")]


def experimental(tiny: Path, trainer: type, config: Any) -> tuple[Any, dict[str, Any], list[Example]]:
    """An experimental trainer that splits text rows into prompt and answer itself."""
    given = common(tiny, TEXT)
    peer = trainer(args=config, **given)
    batch = batch_of(peer)
    rows = [sequences(batch[f"{side}_input_ids"], batch[f"{side}_attention_mask"], batch[f"{side}_labels"] != -100) for side in ("chosen", "rejected")]
    return peer, batch, pairs(*rows)


@pytest.mark.parametrize("weight", [0.1, 1.0])
def test_p3_orpo_is_trls(weight: float, tiny: Path, tmp_path: Path) -> None:
    """P3. Its likelihood is the mean over all tokens of all rows, prompts included; ours is per pair, over answers. One-token prompts and chosen answers of one length
    make the two one number: nothing predicts the first token, and the mean of means is the mean."""
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    config = ORPOConfig(output_dir=str(tmp_path), beta=weight, max_length=64, **QUIET)
    trainer, batch, examples = experimental(tiny, ORPOTrainer, config)
    assert len({sum(example.sequences[0].weights) for example in examples}) == 1
    assert all(example.sequences[0].weights[1:].count(0.0) == 0 for example in examples)
    compare(trainer, batch, lora.attach(load(tiny, "fp32"), r=4), examples, lambda policy: orpo.loss(policy, lambda_or=weight))


def test_simpo_is_trls(tiny: Path, tmp_path: Path) -> None:
    """Its CPO trainer's SimPO loss, without the likelihood term."""
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    config = CPOConfig(output_dir=str(tmp_path), loss_type="simpo", cpo_alpha=0.0, beta=2.0, simpo_gamma=1.0, max_length=64, **QUIET)
    trainer, batch, examples = experimental(tiny, CPOTrainer, config)
    compare(trainer, batch, lora.attach(load(tiny, "fp32"), r=4), examples, lambda policy: simpo.loss(policy, beta=2.0, gamma=1.0))


@pytest.mark.parametrize("margin", [None, 0.7])
def test_p4_reward_is_trls(margin: float | None, tiny: Path, tmp_path: Path) -> None:
    """P4: all layers trained and the head drawn, rewards read at the last token of TRL's own rows. Its embeddings are trained too and ours are not: they are left out."""
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    peer = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1, dtype=torch.float32, pad_token_id=tokenizer.pad_token_id)
    rows = [row if margin is None else {**row, "margin": margin} for row in PAIRS]
    config = RewardConfig(output_dir=str(tmp_path), **QUIET)
    trainer = RewardTrainer(model=peer, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    batch = batch_of(trainer)
    read = [
        Sequence((*ids[mask.bool()].tolist(), 0), (*[0.0] * int(mask.sum()), 1.0))
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    model = head.attach(load(tiny, "fp32"), kind="reward", unfreeze=2)
    scalar = base_of(model).class_head.linear
    with torch.no_grad():
        scalar.weight.copy_(peer.score.weight)
    theirs = trainer.compute_loss(peer.train(), dict(batch))
    theirs.backward()
    ours = reward.loss(scored(model.train(), pairs(read[: len(rows)], read[len(rows) :])), margin=margin or 0.0).total / len(rows)
    ours.backward()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    other = {name: p.grad for name, p in peer.named_parameters() if "layers" in name}
    mine = {name: p.grad for name, p in model.named_parameters() if "layers" in name}
    assert mine.keys() == other.keys()
    left, right = (torch.cat([grads[name].flatten() for name in sorted(grads)]) for grads in (mine, other))  # type: ignore[union-attr]
    assert float((left - right).norm() / right.norm()) <= 1e-5
    assert float((scalar.weight.grad - peer.score.weight.grad).norm() / peer.score.weight.grad.norm()) <= 1e-5
