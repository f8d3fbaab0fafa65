"""The memory model of `planish plan` against measured peaks: within 10 % for at least twelve combinations of method, precision, checkpointing and length.

Run: python benchmarks/memory_model.py. SmolLM2-135M with its real weights; every measurement is two real training steps in a process of its own (`plan_probe`). A kind is a
method with its precision and checkpointing. One probe of a kind, on a micro-batch of PROBED tokens, gives the factor that `planish plan --measure` keeps; the figures are
predictions of OTHER micro-batches of that kind, longer and shorter, that no probe has seen. The error without any probe stands beside.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import claims
import measure
from claims import Finding

from planish import plan, plan_probe
from planish.model import memory, memory_shape, oom_ladder
from planish.model.bundled import locate
from planish.model.memory_setup import Precision, Setup

PROBED = (8, 128)
SIZES = ((4, 128), (4, 384), (16, 128))
"""(rows, tokens a row) of a micro-batch: half the probe's, one and a half of it, twice."""
KINDS: tuple[tuple[str, str, dict[str, Any], Precision, bool], ...] = (
    ("lora", "lora", {}, "fp32", False),
    ("lora", "lora", {}, "fp32", True),
    ("lora", "lora", {}, "bf16", False),
    ("full", "full", {}, "fp32", False),
    ("full", "full", {}, "bf16", True),
    ("dora", "dora", {}, "fp32", False),
    ("ia3", "ia3", {}, "fp32", False),
    ("qlora", "lora", {}, "bf16", False),
)
"""(technique of the model, adapter, its options, precision, activations checkpointed)."""
BAR = 0.10


def setup_of(kind: tuple[str, str, dict[str, Any], Precision, bool], folder: Path, micro: int, length: int) -> Setup:
    """What is trained, as `planish plan` would state it."""
    technique, adapter, options, precision, checkpointed = kind
    own = memory_shape.trained(memory_shape.read(folder)[1], adapter, options)
    rank = oom_ladder.LORA_RANK if adapter in ("lora", "dora") else None
    return Setup(technique, own.count, micro, length, length // 4, precision=precision, checkpointed=checkpointed, trained_layers=own.layers, rank=rank)


def main() -> int:
    """Every kind: a probe, then the sizes that it has not seen."""
    options = claims.arguments(__doc__)
    report = claims.start("memory_model", "predicted peak memory within 10 % of the measured one", options)
    folder = locate("smollm2-135m-instruct")
    shape = memory_shape.read(folder)[0]
    with measure.Foreign() as foreign:
        for kind in KINDS[:1] if options.quick else KINDS:
            technique, adapter, settings, precision, checkpointed = kind
            name = f"{technique} {precision}{' checkpointed' if checkpointed else ''}"
            probe = setup_of(kind, folder, *PROBED)
            factor = plan.factor_of(shape, probe, plan_probe.measure(folder, adapter, settings, probe))
            for micro, length in SIZES[:1] if options.quick else SIZES:
                asked = replace(probe, micro=micro, length=length, scored=length // 4)
                peak = plan_probe.measure(folder, adapter, settings, asked)
                errors = {}
                for side, known in (("no probe", None), ("probed", factor)):
                    found = memory.estimate(shape, asked, factor=known)
                    predicted = found.total - found.bytes("process") + peak.process
                    errors[side] = abs(predicted / peak.steps - 1)
                    report.counted(f"{name}, {micro} x {length}", side, predicted_MB=predicted / 1e6, measured_MB=peak.steps / 1e6, error=errors[side])
                case = f"{name}, {micro} x {length}"
                report.found(Finding(case, "the measured peak", "error of the prediction", BAR, measure.once(errors["probed"]), at_most=True))
    within = sum(finding.reached for finding in report.findings)
    report.notes.append(
        f"{within} of {len(report.findings)} combinations within {BAR:.0%}; one measurement each; the factor of each kind comes from one probe of {PROBED[0]} x {PROBED[1]} tokens"
    )
    return claims.finish(report, foreign, options, timed=False)


if __name__ == "__main__":
    sys.exit(main())
