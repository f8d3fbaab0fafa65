"""Recording events and figures: at most 0.5 % of a training step.

Run: python benchmarks/recording.py. A step of 16 rows of the reviews (drawn rows where they are absent) with SmolLM2-135M and LoRA, and the whole of what a run writes for it:
a line of figures and, as a bound from above, a durable event in the store for every step, where a run writes one per change of state.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import claims
import measure
import peer
import rows
from claims import Finding

from planish.events import EventType
from planish.model.bundled import locate
from planish.model.loop import Step
from planish.model.precision import choose
from planish.store import Store

BAR = 0.005
RECORDS = 40
"""Records of one timing: alone they are too short for a clock."""


def main() -> int:
    """The step and its records in turn."""
    options = claims.arguments(__doc__)
    report = claims.start("recording", f"event and metric recording: <= {BAR:.1%} of the step", options)
    pairs, device, precision = (measure.QUICK_PAIRS if options.quick else measure.PAIRS), options.device, choose("auto", options.device)
    folder = locate("smollm2-135m-instruct")
    examples = rows.reviews(folder, peer.BATCH) or rows.ragged(peer.BATCH, 49152)
    seen: list[Step] = []
    with measure.Foreign() as foreign, tempfile.TemporaryDirectory() as scratch:
        step = peer.our_run(peer.our_model(folder, precision, device), examples, precision, device, peer.Counters(), on_step=seen.append)
        step()
        store, figures = Store(Path(scratch)), Path(scratch) / "metrics.jsonl"
        run_id = store.start_run("bench", {}, "0" * 64, "0", None)

        def record() -> None:
            for _ in range(RECORDS):
                with figures.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(asdict(seen[0])) + "\n")
                store.event(run_id, EventType.TRAIN_CHECKPOINT, "train", asdict(seen[0]))

        taken = report.seconds["step"] = measure.interleaved({"step": step, "records": record}, pairs, device)
        began = time.perf_counter()
        assert store.verify() is None  # what was written holds as a chain
        report.notes.append(f"{(pairs + 1) * RECORDS} events verified in {time.perf_counter() - began:.2f} s")
        store.close()
    each = [seconds / RECORDS for seconds in taken["records"]]
    report.counted("step", "ours", records=1, microseconds=1e6 * min(each), step_seconds=min(taken["step"]))
    report.found(Finding("step", "the step", "recording, share of the step", BAR, measure.ratio(each, taken["step"]), 0.0, "nothing recorded", at_most=True))
    return claims.finish(report, foreign, options)


if __name__ == "__main__":
    sys.exit(main())
