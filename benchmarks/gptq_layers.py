"""GPTQ in 4 bits, groups of 64: the output error of every linear layer at most 1 % above llmcompressor's, and the whole model's predictions as near to the source.

Run: PLANISH_LLMCOMPRESSOR_PYTHON=<a Python with llmcompressor> python benchmarks/gptq_layers.py. SmolLM2-135M with its real weights, 128 training rows of GSM8K (of the
reviews, where that is absent), 96 tokens at most, to calibrate on, 64 others to compare on; both sides symmetric, 1 % damping, with and without act order. A layer's error is
tr((W' - W) G (W' - W)^T), G = X X^T of its inputs in the original model: what a side minimises that calibrates every layer on the original inputs. llmcompressor does that with
`propagate_error=False`; by default a layer is calibrated on what the quantised layers before it give, which is another aim: then its errors are a note, and its KL has a bar.
Groups of 128 do not divide 576.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

import claims
import measure
import torch
from calibrated import BAR, GROUP, divergences, given, peer_python
from claims import Finding
from safetensors.torch import load_file
from torch import Tensor

from planish.exporters import gptq, rtn
from planish.model.calibration_pass import Calibration
from planish.model.load import load
from planish.model.packed_checkpoint import plain_folder
from planish.model.rtn import output_error

ORDERS = {"in order": ("none", False), "act order": ("static", True)}
Weights = dict[str, Tensor]


def theirs(python: str, checkpoint: Path, given: Path, place: Path, order: str, inputs: str) -> tuple[Weights, dict[str, Any]]:
    """Their weights by layer, and what the process said."""
    target = place / f"peer-{order}-{inputs}.safetensors"
    peer = str(Path(__file__).with_name("gptq_layers_peer.py").resolve())
    done = subprocess.run([python, peer, str(checkpoint), str(given), str(target), order, inputs], cwd=place, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"llmcompressor's side ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return load_file(target), json.loads(done.stdout.splitlines()[-1])


def ours(checkpoint: Path, calibration: Calibration, place: Path, act_order: bool) -> tuple[Path, float]:
    """The plain folder that our file stands for, and seconds of processor time without the calibration pass."""
    began = time.process_time()
    made = gptq.export(checkpoint, place / f"ours-{act_order}", None, calibration, group=GROUP, act_order=act_order)
    seconds = time.process_time() - began
    assert not made.fell_back
    return plain_folder(place / f"ours-{act_order}" / made.file, place / f"plain-{act_order}"), seconds


def as_folder(checkpoint: Path, changed: Weights, target: Path) -> Path:
    """A checkpoint with the peer's matrices."""
    shutil.copytree(checkpoint, target)
    source: Any = load(checkpoint, "fp32")
    with torch.no_grad():
        for name, weight in changed.items():
            source.get_submodule(name).weight.copy_(weight)
    source.save_pretrained(target)
    return target


def errors(original: Weights, changed: Weights, calibration: Calibration) -> dict[str, float]:
    """The output error of each linear layer."""
    return {name: output_error(weight, changed[name], calibration.grams.of(name).matrix) for name, weight in original.items()}


def linear(folder: Path, names: Seq[str]) -> Weights:
    """The matrices of a plain checkpoint, by layer."""
    model: Any = load(folder, "fp32")
    return {name: model.get_submodule(name).weight.detach() for name in names}


def compared(report: claims.Report, case: str, peer: str, mine: dict[str, float], other: dict[str, float]) -> None:
    """The bar on every layer, and where ours is worse."""
    ratios = {name: mine[name] / other[name] for name in mine}
    values, worst = list(ratios.values()), max(ratios, key=lambda name: ratios[name])
    report.found(Finding(case, peer, "output error of a layer, median", BAR, measure.ratio(list(mine.values()), list(other.values())), at_most=True))
    report.found(Finding(case, peer, f"output error of the worst of {len(values)} layers ({worst})", BAR, measure.once(ratios[worst]), at_most=True))
    good = sum(value <= BAR for value in values)
    report.notes.append(f"{case}, against {peer}: {good} of {len(values)} layers not worse; ratios from {min(values):.3f} to {ratios[worst]:.3f}")


def main() -> int:
    """Errors by layer, then KL."""
    options = claims.arguments(__doc__)
    python = peer_python()
    report = claims.start("gptq_layers", "GPTQ, 4 bits, groups of 64: output error per layer not worse than llmcompressor's (1 %)", options)
    with measure.Foreign() as foreign, tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        name, checkpoint, held, calibration = given(place, report, options.quick)
        layers = list(calibration.grams.inputs)
        source, original = load(checkpoint, "fp32"), linear(checkpoint, layers)
        rounded = rtn.export(checkpoint, place / "rtn", None, None, group=GROUP)
        nearest = divergences(source, plain_folder(place / "rtn" / rounded.file, place / "plain-rtn"), held)
        report.counted(name, "rounded to nearest", kl=sum(nearest) / len(nearest))
        for case, (order, act_order) in ORDERS.items():
            mine, seconds = ours(checkpoint, calibration, place, act_order)
            kl = divergences(source, mine, held)
            own = errors(original, linear(mine, layers), calibration)
            report.counted(case, "ours", kl=sum(kl) / len(kl), processor_seconds=seconds)
            for inputs in ("original", "quantised"):
                weights, said = theirs(python, checkpoint, place / "rows.json", place, order, inputs)
                peer = f"llmcompressor {said['llmcompressor']}, {inputs} inputs"
                their_kl = divergences(source, as_folder(checkpoint, weights, place / f"peer-{order}-{inputs}"), held)
                shutil.rmtree(place / f"peer-{order}-{inputs}")
                report.counted(case, peer, kl=sum(their_kl) / len(their_kl), processor_seconds=said["seconds"])
                other = errors(original, weights, calibration)
                if inputs == "original":
                    compared(report, case, peer, own, other)
                else:
                    ratio = measure.ratio(list(own.values()), list(other.values()))
                    report.notes.append(
                        f"{case}, no bar: output error of a layer, median, against {peer}: {ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
                    )
                report.found(Finding(case, peer, "mean KL of a held-out row, median", BAR, measure.ratio(kl, their_kl), at_most=True))
    report.notes.append("the bundled weights were 4-bit (Q4_1, groups of 32) before, on another grid than either side's")
    return claims.finish(report, foreign, options, timed=False)


if __name__ == "__main__":
    sys.exit(main())
