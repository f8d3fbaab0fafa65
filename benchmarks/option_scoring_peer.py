"""lm-eval's side of option_scoring.py, run by a Python that has lm-eval: the log-likelihood of every option by HFLM, one request each, and the tokens that its model was given."""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    model = HFLM(pretrained=asked["model"], device="cpu", dtype="float32", batch_size=asked["batch"])
    counted = {"tokens": 0, "cells": 0}

    def count(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs["input_ids"] if kwargs.get("input_ids") is not None else args[0]
        counted["cells"] += ids.numel()

    model.model.register_forward_pre_hook(count, with_kwargs=True)
    requests = [((str(prompt), str(option)), prompt, option) for prompt in asked["prompts"] for option in asked["options"]]
    began = time.perf_counter()
    scores = [score for score, _ in model._loglikelihood_tokens(requests, disable_tqdm=True)]
    seconds = time.perf_counter() - began
    # what is computed is each context with its option less the last token; a request that differs from another by that token alone shares its pass
    counted["tokens"] = sum(map(len, {(*prompt, *option[:-1]) for _, prompt, option in requests}))
    print(json.dumps({"scores": scores, "seconds": seconds, "lm_eval": version("lm-eval"), **counted}))
