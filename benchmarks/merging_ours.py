"""Our side of merging.py, in a process that imports nothing else: merges one YAML file and says seconds (imports left out), peak memory, and how much of it is no file's."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from planish.merge import load, merge_models

if __name__ == "__main__":
    config = Path(sys.argv[1])
    began = time.perf_counter()
    spec, _ = load(config)
    report = merge_models(spec, Path(sys.argv[2]), relative_to=config.parent)
    seconds = time.perf_counter() - began
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    anonymous = float(next(line.split()[1] for line in lines if line.startswith("RssAnon"))) / 1024
    print(json.dumps({"seconds": seconds, "peak_MiB": report.peak / 2**20, "anonymous_MiB": anonymous}))
