"""The LM head on scored rows: at least 2x TRL's own kernel and 3x full logits, at 25 % scored, vocabulary 49k and 152k.

Run: python benchmarks/lm_head.py. Forward and backward by the hidden states, the head frozen, as under LoRA. The kernel gets the scored rows only, as it does on a GPU;
on a CPU TRL sends it every position, which is shown beside it and judged by no bar.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import claims
import measure
import torch
import torch.nn.functional as F
from claims import Finding
from torch import Tensor

from planish.model.scored_head import log_probs

SHAPES = {"SmolLM2 49k x 576, 1024 rows": (49152, 576, 1024), "Qwen2.5 152k x 896, 512 rows": (151936, 896, 512)}
SCORED = 0.25
AS_TRAINER = ("log_probs", "entropy", "is_top1")
"""What SFTTrainer asks of its kernel: the last two are for its log."""


def sides(vocabulary: int, width: int, rows: int, dtype: torch.dtype, device: str) -> tuple[dict[str, Any], Tensor, int]:
    """Every side as a function that leaves the gradient in `hidden.grad`; the hidden states; the number of scored rows."""
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE as chunk  # the width SFTTrainer gives its kernel

    draw = torch.Generator().manual_seed(0)
    weight = (torch.randn(vocabulary, width, generator=draw) * 0.02).to(device, dtype)
    hidden = torch.randn(rows, width, generator=draw).to(device, dtype).requires_grad_(True)
    target = torch.randint(0, vocabulary, (rows,), generator=draw).to(device)
    mask = (torch.rand(rows, generator=draw) < SCORED).to(device)
    labels = torch.where(mask, target, -100)
    count = int(mask.sum())

    def fresh() -> None:
        hidden.grad = None

    def ours() -> Tensor:
        fresh()
        loss = -log_probs(hidden[mask], weight, target[mask]).sum() / count
        loss.backward()
        return loss

    def kernel(outputs: tuple[str, ...], every: bool) -> Tensor:
        fresh()
        given = (hidden, target) if every else (hidden[mask], target[mask])
        log_prob = ChunkedLogProbFunction.apply(given[0], weight, None, given[1], 1.0, chunk, None, 1.0, outputs)[0]
        loss: Tensor = -(log_prob.masked_fill(~mask, 0) if every else log_prob).sum() / count
        loss.backward()
        return loss

    def full() -> Tensor:
        fresh()
        loss = F.cross_entropy((hidden @ weight.t()).float(), labels, ignore_index=-100)
        loss.backward()
        return loss

    with_log = functools.partial(kernel, AS_TRAINER, False)
    bare = functools.partial(kernel, ("log_probs",), False)
    shipped = functools.partial(kernel, AS_TRAINER, True)
    products = functools.partial(two_products, hidden.detach()[mask], weight)
    return (
        {"ours": ours, "kernel": with_log, "kernel without its log": bare, "as shipped on a CPU": shipped, "full logits": full, "two products": products},
        hidden,
        count,
    )


def two_products(hidden: Tensor, weight: Tensor) -> Tensor:
    """The limit: logits, and their gradient's product with the head, nothing else."""
    return (hidden @ weight.t()) @ weight


def main() -> int:
    """Both shapes in fp32 and, where the machine gains by it, in bf16."""
    options = claims.arguments(__doc__)
    report = claims.start("lm_head", "LM head, 25 % scored: >= 2x TRL 1.16's kernel, >= 3x full logits", options)
    pairs = measure.QUICK_PAIRS if options.quick else measure.PAIRS
    with measure.Foreign() as foreign:
        for shape, (vocabulary, width, rows) in SHAPES.items():
            for dtype in (torch.float32, torch.bfloat16):
                case = f"{shape}, {'fp32' if dtype == torch.float32 else 'bf16'}"
                one(report, case, sides(vocabulary, width, rows, dtype, options.device), pairs, options.device)
    return claims.finish(report, foreign, options)


def one(report: claims.Report, case: str, made: tuple[dict[str, Any], Tensor, int], pairs: int, device: str) -> None:
    """Parity, counters, times and bars of one shape."""
    runs, hidden, count = made
    losses, grads = {}, {}
    for name in ("ours", "kernel", "full logits"):
        losses[name] = runs[name]().item()
        assert hidden.grad is not None
        grads[name] = hidden.grad.clone()
    distance = {name: float((grads["ours"] - grads[name]).float().norm() / grads[name].float().norm()) for name in ("kernel", "full logits")}
    if "fp32" in case:
        report.same(case, loss=max(abs(losses["ours"] - other) for other in losses.values()), gradient=max(distance.values()))
    else:
        print(f"{case}: gradient by the kernel's {distance['kernel']:.1e}, by full logits' {distance['full logits']:.1e} (bf16 keeps 8 bits: 4e-3)")
        report.parity[case] = {f"bf16 gradient to {name}": value for name, value in distance.items()}
    sent = {"as shipped on a CPU": len(hidden), "full logits": len(hidden)}
    for name, run in runs.items():
        report.counted(case, name, head_rows=sent.get(name, count), GFLOP=measure.flops(run))
    shipped = runs.pop("as shipped on a CPU")
    taken = report.seconds[case] = measure.interleaved(runs, pairs, device)
    slow = measure.interleaved({"ours": runs["ours"], "as shipped": shipped}, 2, device)
    limit = measure.ratio(taken["kernel"], taken["two products"]).median
    whole = measure.ratio(taken["full logits"], taken["two products"]).median
    report.found(
        Finding(case, "TRL 1.16 kernel, scored rows only", "time", 2.0, measure.ratio(taken["kernel"], taken["ours"]), limit, "two bare matrix products")
    )
    report.found(Finding(case, "full logits", "time", 3.0, measure.ratio(taken["full logits"], taken["ours"]), whole, "two bare matrix products"))
    bare = measure.ratio(taken["kernel without its log"], taken["ours"])
    report.notes.append(
        f"{case}, no bar: TRL 1.16 kernel without its log {bare.median:.2f}x [{bare.low:.2f}, {bare.high:.2f}]; "
        f"TRL 1.16 as shipped on a CPU, every position, {measure.ratio(slow['as shipped'], slow['ours']).median:.1f}x (2 pairs)"
    )


if __name__ == "__main__":
    sys.exit(main())
