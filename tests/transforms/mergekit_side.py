"""Runs under a Python that has mergekit 0.1.5: a whole merge by mergekit, its arithmetic in fp32. Arguments: a YAML file, a folder to write, and for DARE our dropped differences.

DARE's masks are random, so the same dropped and scaled differences are given to both sides: mergekit's drop is replaced by reading them, and everything else is mergekit's own
code.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.merge_methods import generalized_task_arithmetic
from mergekit.options import MergeOptions
from safetensors.torch import load_file

if __name__ == "__main__":
    if len(sys.argv) > 3:
        held = load_file(sys.argv[3])
        known = {tuple(tensor.shape): [] for tensor in held.values()}
        for name, tensor in held.items():
            if name.startswith("delta|"):
                known[tuple(tensor.shape)].append((tensor, held["dropped|" + name.removeprefix("delta|")]))

        def sparsify(delta, **_):
            """The dropped difference that belongs to this one."""
            apart, dropped = min((float((delta - own).abs().max()), index) for index, (own, _) in enumerate(known[tuple(delta.shape)]))
            assert apart < 1e-6, apart
            return known[tuple(delta.shape)][dropped][1].clone()

        generalized_task_arithmetic.sparsify = sparsify
    config = MergeConfiguration.model_validate(yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8")))
    run_merge(config, sys.argv[2], options=MergeOptions(cuda=False, copy_tokenizer=False, write_model_card=False))
