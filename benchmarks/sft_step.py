"""Supervised fine-tuning with LoRA on ragged rows, end to end: at least 2.5x TRL's defaults, 1.5x its best settings, at most 0.6x of its peak memory.

Run: python benchmarks/sft_step.py [--case reviews]. SmolLM2-135M with its real weights, LoRA r 16 on every linear layer, 16 rows a step, one epoch by each side's own
training call: `loop.train` and `SFTTrainer.train`. Tokenising is outside the clock on both sides. TRL's best is found anew by each report, among what `BEST` lists.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import claims
import measure
import peer
import rows
from claims import Finding

from planish.model.bundled import locate
from planish.model.example import Example
from planish.model.precision import choose

CASES = ("reviews", "clinc150", "ragged")
DEFAULTS: dict[str, Any] = dict(per_device_train_batch_size=8, gradient_accumulation_steps=2)
"""TRL's own, and two micro-batches of its default 8 for the 16 rows of a step. It computes in bf16 autocast and checkpoints activations."""
_GROUPED: dict[str, Any] = dict(gradient_checkpointing=False, train_sampling_strategy="group_by_length")
BEST: dict[str, dict[str, Any]] = {
    "grouped, 2 x 8": {**_GROUPED, **DEFAULTS},
    "grouped, 2 x 8, bf16 weights": {**_GROUPED, **DEFAULTS, "dtype": "bfloat16"},
    "grouped, 16, bf16 weights": {**_GROUPED, "per_device_train_batch_size": 16, "dtype": "bfloat16"},
    "packed, bf16 weights": {"gradient_checkpointing": False, "packing": True, "per_device_train_batch_size": 1, "dtype": "bfloat16"},
}
"""What makes TRL fast on a CPU: no activation checkpointing, rows of like length together or packed without padding, frozen weights kept in bf16. Not among them:
"wrapped" packing, which lets rows read each other, and torch.compile, which compiles anew for every ragged shape."""


def examples_of(case: str, folder: Path) -> list[Example]:
    """The rows of a case: two steps of real ones, one step of drawn ones, which are longer. Empty where their source is absent."""
    return {"reviews": lambda: rows.reviews(folder, 32), "clinc150": lambda: rows.clinc150(folder, 32), "ragged": lambda: rows.ragged(16, 49152)}[case]()


def build(side: str, examples: list[Example], folder: Path, device: str, counters: peer.Counters) -> Callable[[], object]:
    """A side by its name: "ours", "defaults", or one of BEST."""
    if side == "ours":
        precision = choose("auto", device)
        return peer.our_run(peer.our_model(folder, precision, device), examples, precision, device, counters)
    settings = DEFAULTS if side == "defaults" else dict(BEST[side])
    if settings.get("packing"):  # as many packs as the other sides make steps
        longest, steps = max(example.tokens for example in examples) + 1, -(-len(examples) // peer.BATCH)
        settings["max_length"] = max(longest, round(1.02 * sum(example.tokens + 1 for example in examples) / steps))
    return peer.peer_run(peer.trainer(folder, examples, device, **settings), counters, device)


def main() -> int:
    """Every case, or the one asked for."""
    options = claims.arguments(__doc__, case=dict(choices=CASES, default=None), alone=dict(default=None, help="one side only, for its memory"))
    folder = locate("smollm2-135m-instruct")
    if options.alone:
        return measure.alone(lambda: build(options.alone, examples_of(options.case, folder), folder, options.device, peer.Counters()), options.device)
    name = f"sft_step_{options.case}" if options.case else "sft_step"
    report = claims.start(name, "SFT with LoRA, ragged rows, end to end: >= 2.5x TRL 1.16 defaults, >= 1.5x its best, peak memory <= 0.6x", options)
    with measure.Foreign() as foreign:
        for case in [options.case] if options.case else CASES:
            examples = examples_of(case, folder)
            if examples:
                one(report, case, examples, folder, options)
            else:
                report.notes.append(f"{case}: skipped, its rows are not on this machine")
    return claims.finish(report, foreign, options)


def one(report: claims.Report, case: str, examples: list[Example], folder: Path, options: argparse.Namespace) -> None:
    """Parity, TRL's best, counters, times, memory."""
    device, pairs = options.device, measure.QUICK_PAIRS if options.quick else measure.PAIRS
    report.same(f"{case}, fp32", **peer.distances(folder, examples[:6], device))
    if choose("auto", device) == "bf16":
        report.parity[f"{case}, bf16"] = peer.rounding(folder, examples[:6], device)
        print(f"{case}: {report.parity[f'{case}, bf16']}")
    counters = {name: peer.Counters() for name in ("ours", "defaults", *BEST)}
    candidates = {name: build(name, examples, folder, device, counters[name]) for name in BEST}
    tried = {name: times[0] for name, times in measure.interleaved(candidates, 1, device).items()}
    best = min(tried, key=tried.__getitem__)
    report.notes.append(f"{case}: TRL's best of " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in tried.items()) + f": {best}")
    sides = {name: build(name, examples, folder, device, counters[name]) for name in ("defaults", "ours")} | {best: candidates.pop(best)}
    candidates.clear()
    count(report, case, {name: (run, counters[name]) for name, run in sides.items()})
    limit = report.work[case][best]["trunk_tokens"] / report.work[case]["ours"]["trunk_tokens"]
    taken = report.seconds[case] = measure.interleaved(sides, pairs, device)
    most = report.work[case]["defaults"]["GFLOP"] / report.work[case]["ours"]["GFLOP"]
    report.found(Finding(case, "TRL 1.16 SFTTrainer, defaults", "time", 2.5, measure.ratio(taken["defaults"], taken["ours"]), most, "FLOPs of the two sides"))
    least = report.work[case][best]["GFLOP"] / report.work[case]["ours"]["GFLOP"]
    why = f"FLOPs of the two sides; trunk tokens {limit:.2f}"
    report.found(Finding(case, f"TRL 1.16 SFTTrainer, best ({best})", "time", 1.5, measure.ratio(taken[best], taken["ours"]), least, why))
    memory = {name: measure.peak_of("--alone", name, "--case", case, "--device", device) for name in sides}
    for name, held in memory.items():
        report.counted(case, name, **held)
    for name in ("defaults", best):
        peaks = measure.once(memory["ours"]["peak_MiB"] / memory[name]["peak_MiB"])
        report.found(Finding(case, f"TRL 1.16 SFTTrainer, {name}", "peak memory of the process", 0.6, peaks, at_most=True))


def count(report: claims.Report, case: str, sides: dict[str, tuple[Callable[[], object], peer.Counters]]) -> None:
    """Counters of one epoch of each side."""
    for name, (run, counters) in sides.items():
        counters.clear()
        operations = measure.flops(run)
        report.counted(case, name, trunk_tokens=counters.trunk, head_rows=counters.head, GFLOP=operations)


if __name__ == "__main__":
    sys.exit(main())
