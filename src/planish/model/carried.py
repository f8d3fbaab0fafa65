"""What goes beside the weights of a checkpoint when it is written anew: the tokenizer as it is, and generation settings, made where the source has none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from planish.model.cut_folder import CARRIED
from planish.model.json_object import read_json

GENERATION = "generation_config.json"
TOLD = ("bos_token_id", "eos_token_id", "pad_token_id")


def carry(checkpoint: Path, folder: Path) -> None:
    """Copy tokenizer, chat template and generation settings of `checkpoint` into the existing `folder`. Without settings of its own, they are the special ids of config.json,
    which is what transformers would take for them."""
    for name in CARRIED:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, folder / name)
    if not (folder / GENERATION).exists():
        config = read_json(checkpoint / "config.json")
        ids = {key: config[key] for key in TOLD if config.get(key) is not None}
        (folder / GENERATION).write_text(json.dumps(ids, indent=2, sort_keys=True) + "\n", encoding="utf-8")
