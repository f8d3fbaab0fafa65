"""Rows under one tool catalogue: at least 5x TRL, 16 rows of 100 tokens a step under a shared 1,000.

Run: python benchmarks/tool_catalogue.py. LoRA r 16, one step by each side's own training call. SmolLM2's widths with 6 of its 30 layers and 6/30 of its vocabulary, so that the
head keeps its share of the work (--layers 30 for all); random weights and ids. TRL has no prefix sharing: it computes the catalogue 16 times.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import claims
import measure
import peer
import rows
import shape
from claims import Finding

from planish.model.precision import choose

LAYERS, VOCABULARY = 30, 49152
CATALOGUE, ROWS, OWN, SCORED = 1000, 16, 100, 25
PEERS = {
    "defaults": dict(per_device_train_batch_size=8, gradient_accumulation_steps=2, max_length=2048),
    "best: 4 x 4": dict(per_device_train_batch_size=4, gradient_accumulation_steps=4, max_length=2048, gradient_checkpointing=False, dtype="bfloat16"),
    "best: 16 x 1": dict(per_device_train_batch_size=1, gradient_accumulation_steps=16, max_length=2048, gradient_checkpointing=False, dtype="bfloat16"),
}
"""max_length: the default 1,024 would cut the answers off. Rows are of one length, so grouping and packing gain nothing; without checkpointing 8 full rows do not fit 24 GB."""


def main() -> int:
    """One case: the step."""
    options = claims.arguments(__doc__, layers=dict(type=int, default=6))
    report = claims.start("tool_catalogue", f"{ROWS} rows of {OWN} under one {CATALOGUE}-token catalogue: >= 5x TRL 1.16 SFTTrainer", options)
    pairs, device, precision = (measure.QUICK_PAIRS if options.quick else measure.PAIRS), options.device, choose("auto", options.device)
    vocabulary = VOCABULARY * options.layers // LAYERS
    examples = rows.under_prefix(CATALOGUE, ROWS, OWN + 1, SCORED, vocabulary)
    report.notes.append(f"{options.layers} of {LAYERS} layers, vocabulary {vocabulary} of {VOCABULARY}")
    with measure.Foreign() as foreign, tempfile.TemporaryDirectory() as scratch:
        folder = shape.write(Path(scratch) / "model", layers=options.layers, vocabulary=vocabulary)
        report.same("fp32", **peer.distances(folder, examples[:2], device))
        counters = {name: peer.Counters() for name in ("ours", *PEERS)}
        sides = {name: peer.peer_run(peer.trainer(folder, examples, device, **settings), counters[name], device) for name, settings in PEERS.items()}
        sides["ours"] = peer.our_run(peer.our_model(folder, precision, device), examples, precision, device, counters["ours"])
        for name, run in sides.items():
            operations = measure.flops(run)
            report.counted("step", name, trunk_tokens=counters[name].trunk, head_rows=counters[name].head, GFLOP=operations)
        taken = report.seconds["step"] = measure.interleaved(sides, pairs, device)
        best = min((name for name in PEERS if name != "defaults"), key=lambda name: sum(taken[name]))
        work = report.work["step"]
        for name in ("defaults", best):
            limit, tokens = (work[name][what] / work["ours"][what] for what in ("GFLOP", "trunk_tokens"))
            why = f"FLOPs of the two sides; trunk tokens {tokens:.2f}"
            report.found(Finding("step", f"TRL 1.16 SFTTrainer, {name}", "time", 5.0, measure.ratio(taken[name], taken["ours"]), limit, why))
    return claims.finish(report, foreign, options)


if __name__ == "__main__":
    sys.exit(main())
