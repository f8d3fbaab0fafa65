"""Served unchanged: what is trained here is opened by PEFT's own loader, in a process that never imports planish, and writes the same tokens (MISSION A2, R-7).

The process is this environment's Python; where PLANISH_PEFT_PYTHON names another one that has torch, transformers and peft, that one is asked too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.adapters.shelf_of_adapters import tuned

from planish.engines.transformers import TransformersEngine
from planish.model.chat import Chat
from planish.model.engine import Decoding
from planish.model.load import load
from planish.model.trained import open_trained, save

PROMPTS = ([5, 6, 7, 8], [40, 41, 42], [20, 21, 22, 23, 24, 25])
TOKENS = 12
NAMES = ("lora", "dora", "ia3", "prefix", "prompt", "p_tuning")
LOADER = """
import json, sys
import torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM
asked = json.load(sys.stdin)
torch.set_num_threads(1)
said = {}
for folder in asked["folders"]:
    base = AutoModelForCausalLM.from_pretrained(asked["base"], dtype=torch.float32)
    model = PeftModel.from_pretrained(base, folder, config=PeftConfig.from_pretrained(folder)).eval()
    said[folder] = []
    for prompt in asked["prompts"]:
        ids = list(prompt)
        for _ in range(asked["tokens"]):
            row = torch.tensor([ids])
            with torch.inference_mode():
                logits = model(input_ids=row, attention_mask=torch.ones_like(row), use_cache=False).logits[0, -1]
            token = int(logits.argmax())
            if token == asked["end"]:
                break
            ids.append(token)
        said[folder].append(ids[len(prompt):])
assert "planish" not in sys.modules
json.dump(said, sys.stdout)
"""


def ours(base: Path, folder: Path) -> list[list[int]]:
    """Greedy answers of the reference engine."""
    engine = TransformersEngine(open_trained(base, folder, "fp32"), Chat.load(base), "fp32")
    return [list(each.token_ids) for each in engine.generate(PROMPTS, Decoding(max_new_tokens=TOKENS))]


def theirs(python: str, base: Path, folders: list[Path]) -> dict[str, list[list[int]]]:
    """The same by PEFT alone."""
    asked = {"base": str(base), "folders": [str(folder / "adapter") for folder in folders], "prompts": PROMPTS, "tokens": TOKENS, "end": Chat.load(base).end}
    # PYTHONPATH would bring this environment's packages, and planish, into the other one
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run([python, "-c", LOADER], input=json.dumps(asked), capture_output=True, text=True, check=False, env=clean, cwd=base)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, list[list[int]]] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "python", [sys.executable, *filter(None, [os.environ.get("PLANISH_PEFT_PYTHON")])], ids=lambda path: "own" if path == sys.executable else "other"
)
def test_pefts_own_loader_writes_the_same_tokens(biased: Path, tmp_path: Path, python: str) -> None:
    """Every kind that PEFT knows, moved away from its start: greedy answers of three prompts, token by token, and other ones than the base gives."""
    folders = []
    for name in NAMES:
        model = tuned(biased, name)
        save(model, Chat.load(biased), tmp_path / name, biased)
        folders.append(tmp_path / name)
    said = theirs(python, biased, folders)
    plain: Any = TransformersEngine(load(biased, "fp32"), Chat.load(biased), "fp32")
    base = [list(each.token_ids) for each in plain.generate(PROMPTS, Decoding(max_new_tokens=TOKENS))]
    for folder in folders:
        found = said[str(folder / "adapter")]
        assert found == ours(biased, folder), folder.name
        assert found != base, folder.name
        assert all(found)
