"""AWQ in 4 bits, groups of 64: the whole model's predictions at most 1 % farther from the source than with llmcompressor's AWQ, on rows that neither side was calibrated on.

Run: PLANISH_LLMCOMPRESSOR_PYTHON=<a Python with llmcompressor> python benchmarks/awq_closeness.py. SmolLM2-135M with its real weights, 128 training rows of GSM8K (of the reviews,
where that is absent), 96 tokens at most, to calibrate on, 64 others to compare on; symmetric codes, and codes with zero points. Both sides try 20 exponents for the scales of what
reads one input, and leave the output projection unscaled. Theirs takes the weights into the scales and judges them by what the block gives; ours takes the inputs alone, judges by
the layers' outputs, and cuts the range of each group; all as either side does by itself. Scaled weights are no layer's own, so the model as a whole is compared.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import claims
import measure
from calibrated import BAR, GROUP, divergences, given, peer_python
from claims import Finding
from safetensors.torch import load_file

from planish.exporters import awq, rtn
from planish.model.load import load
from planish.model.packed_checkpoint import plain_folder

KINDS = {"symmetric": True, "zero points": False}


def theirs(python: str, checkpoint: Path, given: Path, place: Path, kind: str) -> tuple[Path, dict[str, Any]]:
    """A plain checkpoint with their tensors, and what the process said."""
    target, folder = place / f"peer-{kind}.safetensors", place / f"peer-{kind}"
    peer = str(Path(__file__).with_name("awq_closeness_peer.py").resolve())
    done = subprocess.run([python, peer, str(checkpoint), str(given), str(target), kind], cwd=place, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"llmcompressor's side ended with {done.returncode}:\n{done.stderr[-4000:]}")
    model: Any = load(checkpoint, "fp32")
    absent, unknown = model.load_state_dict(load_file(target), strict=False)
    assert not unknown, unknown
    assert set(absent) <= {"lm_head.weight"}, absent  # tied to the embedding
    model.save_pretrained(folder)
    return folder, json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """KL of held-out rows, both sides and rounding to nearest."""
    options = claims.arguments(__doc__)
    python = peer_python()
    report = claims.start("awq_closeness", "AWQ, 4 bits, groups of 64: predictions as near to the source as with llmcompressor's (1 %)", options)
    with measure.Foreign() as foreign, tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        _, checkpoint, held, calibration = given(place, report, options.quick)
        assert calibration.grams.inputs  # collected before anything is timed
        source = load(checkpoint, "fp32")
        for kind, symmetric in KINDS.items():
            if symmetric:
                rounded = rtn.export(checkpoint, place / "rtn", None, None, group=GROUP)
                nearest = divergences(source, plain_folder(place / "rtn" / rounded.file, place / "plain-rtn"), held)
                report.counted(kind, "rounded to nearest", kl=sum(nearest) / len(nearest))
            began = time.process_time()
            made = awq.export(checkpoint, place / kind, None, calibration, group=GROUP, symmetric=symmetric)
            seconds = time.process_time() - began
            mine = divergences(source, plain_folder(place / kind / made.file, place / f"plain-{kind}"), held)
            report.counted(kind, "ours", kl=sum(mine) / len(mine), processor_seconds=seconds)
            other, said = theirs(python, checkpoint, place / "rows.json", place, kind)
            peer, kl = f"llmcompressor {said['llmcompressor']}", divergences(source, other, held)
            report.counted(kind, peer, kl=sum(kl) / len(kl), processor_seconds=said["seconds"])
            report.found(Finding(kind, peer, "mean KL of a held-out row, median", BAR, measure.ratio(mine, kl), at_most=True))
    report.notes.append("the bundled weights were 4-bit (Q4_1, groups of 32) before, on another grid than either side's")
    return claims.finish(report, foreign, options, timed=False)


if __name__ == "__main__":
    sys.exit(main())
