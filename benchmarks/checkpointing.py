"""Activation checkpointing only when memory asks for it: at least 1.2x a step that always checkpoints, as TRL does by default; and what switching and merging an adapter take.

Run: python benchmarks/checkpointing.py. SmolLM2-135M with its real weights, LoRA r 16 on every linear layer, 32 rows of the reviews, one epoch through planish's own loop: the same
model, rows, batches and head on both sides, checkpointing on or off. (TRL itself, with everything else it does otherwise, is timed by sft_step.py.)
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import claims
import measure
import peer
import rows
from claims import Finding

from planish.model import merge, trained
from planish.model.bundled import locate
from planish.model.chat import Chat
from planish.model.precision import choose
from planish.model.recompute import checkpoint_activations

SWITCHES = 5


def main() -> int:
    """Times, memory, switch and merge."""
    options = claims.arguments(__doc__, alone=dict(default=None, help="one side only, for its memory"))
    folder, device = locate("smollm2-135m-instruct"), options.device
    examples = rows.reviews(folder, 32)
    precision = choose("auto", device)

    def build(side: str) -> measure.Run:
        model = peer.our_model(folder, precision, device)
        if side == "always":
            checkpoint_activations(model)
        return peer.our_run(model, examples, precision, device, peer.Counters())

    if options.alone:
        return measure.alone(lambda: build(options.alone), device)
    report = claims.start("checkpointing", "checkpointing only when needed: >= 1.2x a step that always checkpoints", options)
    with measure.Foreign() as foreign:
        sides = {name: build(name) for name in ("always", "when needed")}
        for name, run in sides.items():
            report.counted("reviews", name, GFLOP=measure.flops(run))
        taken = report.seconds["reviews"] = measure.interleaved(sides, measure.QUICK_PAIRS if options.quick else measure.PAIRS, device)
        limit = report.work["reviews"]["always"]["GFLOP"] / report.work["reviews"]["when needed"]["GFLOP"]
        report.found(
            Finding("reviews", "always, TRL's default", "time", 1.2, measure.ratio(taken["always"], taken["when needed"]), limit, "FLOPs of the two sides")
        )
        for name in sides:
            report.counted("reviews", name, **measure.peak_of("--alone", name, "--device", device))
        adapters(report, folder)
    return claims.finish(report, foreign, options)


def adapters(report: claims.Report, folder: Path) -> None:
    """Seconds to exchange one LoRA for another on a resident base, and to write the base with one merged into it and checked."""
    with tempfile.TemporaryDirectory() as place:
        made = []
        for name in ("one", "other"):
            trained.save(peer.our_model(folder, "fp32", "cpu"), Chat.load(folder), Path(place) / name, folder)
            made.append(Path(place) / name / "adapter")
        switched = [merge.swap_seconds(folder, *made) for _ in range(SWITCHES)]
        began = time.perf_counter()
        apart = trained.write_merged(folder, made[0], Path(place) / "merged", "original")
        report.counted(
            "adapter r 16, all linear", "switch", median_ms=1000 * statistics.median(switched), least_ms=1000 * min(switched), most_ms=1000 * max(switched)
        )
        report.counted("adapter r 16, all linear", "merge, checked and written", seconds=time.perf_counter() - began, apart=apart)


if __name__ == "__main__":
    sys.exit(main())
