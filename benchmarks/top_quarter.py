"""Adapters on the top quarter of the layers: at least 2x TRL + PEFT in the first epoch, at least 3.3x after, when the frozen trunk is read instead of computed.

Run: python benchmarks/top_quarter.py. SmolLM2-135M, LoRA r 16 on every linear layer of the last 8 of 30 layers, one epoch of 16 drawn rows of 128 tokens that share nothing, a
quarter of each scored, none padded on either side: what is gained here is gained by the backward pass that stops and the cache, not by the prefix tree.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import claims
import measure
import peer
import rows
import torch
from claims import Finding
from torch import nn

from planish.adapters import lora
from planish.model.bundled import locate
from planish.model.checkpoint import trainable
from planish.model.example import Example
from planish.model.precision import choose
from planish.model.trunk import Trunk

LAYERS, TOP = 30, 8
ROWS, TOKENS, SCORED = 16, 128, 32
BUDGET = 2**30
TARGETS = [
    f"{layer}.{part}" for layer in range(LAYERS - TOP, LAYERS) for part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
]
TARGETS += [f"{layer}.mlp.{part}" for layer in range(LAYERS - TOP, LAYERS) for part in ("gate_proj", "up_proj", "down_proj")]
PEERS = {
    "defaults": dict(per_device_train_batch_size=8, gradient_accumulation_steps=2),
    "no checkpointing, bf16 weights": dict(per_device_train_batch_size=16, gradient_checkpointing=False, dtype="bfloat16"),
}
"""With its defaults TRL asks the embeddings for a gradient, so that the backward pass runs through all layers; without checkpointing it stops where ours does."""


def attach(base: nn.Module) -> nn.Module:
    """LoRA on the top quarter."""
    return lora.attach(base, r=peer.R, targets=list(TARGETS))


def epoch(model: nn.Module, examples: list[Example], precision: str, device: str, trunk: Callable[[], Trunk]) -> Callable[[], object]:
    """One step of 16 rows: trunk or cache, layers above, head, backward, AdamW."""
    optimizer = torch.optim.AdamW(trainable(model).values(), lr=1e-4)

    def run() -> None:
        model.train()
        peer.backward(model, examples, precision, device, trunk=trunk())
        torch.nn.utils.clip_grad_norm_(trainable(model).values(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def main() -> int:
    """First epoch and later ones."""
    options = claims.arguments(__doc__)
    report = claims.start("top_quarter", "adapters on the top quarter of the layers: >= 2x TRL 1.16 + PEFT in the first epoch, >= 3.3x after", options)
    pairs, device, precision = (measure.QUICK_PAIRS if options.quick else measure.PAIRS), options.device, choose("auto", options.device)
    folder = locate("smollm2-135m-instruct")
    examples = rows.under_prefix(0, ROWS, TOKENS + 1, SCORED, 49152)
    with measure.Foreign() as foreign, tempfile.TemporaryDirectory() as scratch:
        parity(report, folder, examples[:4], device, Path(scratch))
        model, made = peer.our_model(folder, precision, device, attach), [0]

        def empty() -> Trunk:
            made[0] += 1
            return Trunk(model, Path(scratch) / f"trunk-{made[0]}.bin", BUDGET, precision, device)

        kept, fresh = empty(), [empty() for _ in range(pairs + 2)]  # made outside the clock: a run hashes its frozen weights once, not once an epoch
        assert not kept.reason, kept.reason
        counters = {name: peer.Counters() for name in PEERS}
        sides = {
            name: peer.peer_run(peer.trainer(folder, examples, device, peft={"target_modules": TARGETS}, **settings), counters[name], device)
            for name, settings in PEERS.items()
        }
        sides["first epoch"] = epoch(model, examples, precision, device, fresh.pop)
        sides["later epochs"] = epoch(model, examples, precision, device, lambda: kept)
        sides["later epochs"]()
        for name, run in sides.items():
            report.counted("epoch", name, GFLOP=measure.flops(run))
        taken = report.seconds["epoch"] = measure.interleaved(sides, pairs, device)
        work = report.work["epoch"]
        for name in PEERS:
            for ours, bar in (("first epoch", 2.0), ("later epochs", 3.3)):
                limit = work[name]["GFLOP"] / work[ours]["GFLOP"]
                report.found(Finding(ours, f"TRL 1.16 + PEFT, {name}", "time", bar, measure.ratio(taken[name], taken[ours]), limit, "FLOPs of the two sides"))
    return claims.finish(report, foreign, options)


def parity(report: claims.Report, folder: Path, examples: list[Example], device: str, scratch: Path) -> None:
    """Against TRL without a cache, and the cache against no cache: written, then read."""
    report.same("fp32, no cache", **peer.distances(folder, examples, device, attach, target_modules=TARGETS))
    model = peer.our_model(folder, "fp32", device, attach).train()
    trunk = Trunk(model, scratch / "parity.bin", BUDGET, "fp32", device)
    right, plain = peer.our_gradient(model, examples, "fp32", device)
    for when in ("written", "read"):
        loss, gradient = peer.our_gradient(model, examples, "fp32", device, trunk=trunk)
        report.same(f"fp32, cache {when}", loss=abs(loss - right), gradient=peer.apart(gradient, plain))
    trunk.close()


if __name__ == "__main__":
    sys.exit(main())
