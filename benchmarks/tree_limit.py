"""Tree attention against its own limit: at least 0.85 of sum of tokens / unique tokens, 8 rows of 64 tokens under a prefix of 512.

Run: python benchmarks/tree_limit.py. Forward and backward of the layers over the same rows, as 8 plain rows of 576 tokens through transformers' SDPA and as one tree of 1,024;
LoRA r 16. The head is left out: it sees the same scored rows on both sides. SmolLM2's widths with 8 of its 30 layers (--layers 30 for all): every layer costs the same.
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
import shape
import torch
from claims import Finding
from torch import Tensor, nn

from planish.data.tree import build
from planish.model.example import Example
from planish.model.policy import base_of, hidden_states

BAR = 0.85
PREFIX, ROWS, OWN, SCORED = 512, 8, 64, 32


def flat_side(model: nn.Module, examples: list[Example], direction: Tensor, precision: str, device: str) -> Callable[[], Tensor]:
    """The rows side by side, none padded."""
    ids = torch.tensor([example.sequences[0].ids for example in examples], device=device)

    def run() -> Tensor:
        with measure.autocast(precision, device):
            hidden = base_of(model).model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state[:, -SCORED:]
        loss = (hidden.reshape(-1, hidden.size(-1)).float() * direction).sum() / len(direction)
        loss.backward()
        return loss

    return run


def tree_side(model: nn.Module, examples: list[Example], direction: Tensor, precision: str, device: str) -> Callable[[], Tensor]:
    """The same rows as one tree, which is built anew each time, as in training."""
    sequences = [sequence for example in examples for sequence in example.sequences]

    def run() -> Tensor:
        tree = build(sequences)
        with measure.autocast(precision, device):
            hidden = hidden_states(model, tree, device)[torch.from_numpy(tree.scored_at).to(device)]
        loss = (hidden.float() * direction).sum() / len(direction)
        loss.backward()
        return loss

    return run


def main() -> int:
    """Both number formats."""
    options = claims.arguments(__doc__, layers=dict(type=int, default=8))
    report = claims.start("tree_limit", f"tree attention: >= {BAR} of sum of tokens / unique tokens at {PREFIX}+{OWN} x {ROWS}", options)
    pairs, device = (measure.QUICK_PAIRS if options.quick else 9), options.device
    examples = rows.under_prefix(PREFIX, ROWS, OWN + 1, SCORED, 49152)
    tree = build([sequence for example in examples for sequence in example.sequences])
    limit = tree.tokens_in / len(tree.ids)
    report.notes.append(f"{options.layers} of SmolLM2-135M's 30 layers")
    direction = torch.randn(ROWS * SCORED, 576, generator=torch.Generator().manual_seed(0)).to(device) / 576
    with measure.Foreign() as foreign, tempfile.TemporaryDirectory() as scratch:
        folder = shape.write(Path(scratch) / "model", layers=options.layers)
        for precision in ("fp32", "bf16"):
            ours, theirs = peer.our_model(folder, precision, device).train(), shape.plain(folder, precision, device)
            sides = {"flat": flat_side(theirs, examples, direction, precision, device), "tree": tree_side(ours, examples, direction, precision, device)}
            loss, left = sides["tree"]().item(), peer.gradient(ours)
            other, right = sides["flat"]().item(), peer.gradient(theirs)
            distance = {"loss": abs(loss - other), "gradient": peer.apart(left, right)}
            if precision == "fp32":
                report.same(precision, **distance)
            else:
                report.parity[precision] = {f"bf16 {name}": value for name, value in distance.items()}
                print(f"bf16: distances {distance}")
            for name, run in sides.items():
                report.counted(precision, name, trunk_tokens=tree.tokens_in if name == "flat" else len(tree.ids), GFLOP=measure.flops(run))
            taken = report.seconds[precision] = measure.interleaved(sides, pairs, device)
            reached = measure.ratio(taken["flat"], taken["tree"])
            share = measure.Ratio(*(value / limit for value in reached[:3]), reached.pairs)
            report.found(Finding(precision, f"its limit {limit:.2f}", "share of the limit", BAR, share, 1.0, f"{tree.tokens_in} / {len(tree.ids)} tokens"))
            report.notes.append(f"{precision}: {reached.median:.2f}x [{reached.low:.2f}, {reached.high:.2f}] of {limit:.2f}x, building the tree included")
    return claims.finish(report, foreign, options)


if __name__ == "__main__":
    sys.exit(main())
