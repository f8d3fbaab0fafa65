"""mergekit's side of merging.py, run by a Python that has mergekit 0.1.5: merges one YAML file and says seconds (imports left out) and peak memory."""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

if __name__ == "__main__":
    config = MergeConfiguration.model_validate(yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8")))
    options = MergeOptions(cuda=False, copy_tokenizer=False, write_model_card=False, quiet=True)
    began = time.perf_counter()
    run_merge(config, sys.argv[2], options=options)
    seconds = time.perf_counter() - began
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    peak = float(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024
    print(json.dumps({"seconds": seconds, "peak_MiB": peak, "mergekit": version("mergekit")}))
