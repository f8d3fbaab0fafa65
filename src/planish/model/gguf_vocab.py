"""The tokenizer of a checkpoint folder as GGUF metadata: byte-level BPE or SentencePiece, its special ids and its chat template."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import gguf
from tokenizers import Tokenizer

from planish.errors import InputError, Problem
from planish.model.gguf_spm import ABSENT_SCORE, ADDED_SCORE, FIX, SPACE, is_sentencepiece, pieces
from planish.model.gguf_stripping import model_name
from planish.model.json_object import read_json

PROBE = (
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶‍🌫️ (multiple emojis concatenated) "
    "✅ 🦙🦙 3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 "
    "កាន់តែពិសេសអាច😁 ?"
    "我想在apple工作1314151天～ ------======= нещо на Български ''''''```````\"\"\"\"......!!!!!!?????? "
    "I've been 'told he's there, 'RE you sure? "
    "'M not sure I'll make it, 'D you like some tea? We'Ve a'lL"
)
"""llama.cpp names a pre-tokenizer by the hash of this text's token ids (convert_hf_to_gguf.py, get_vocab_base_pre)."""

KNOWN = {
    "0fe1cf6eda062318a1af7270f3331a85c539a01778ff948e24388e949c5282f4": "gpt-2",
    "3ce83efda5659b07b1ad37ca97ca5797ea4285d9b9ab0dc679e4a720c9da7454": "gpt-2",
    "0ef9807a4087ebef797fc749390439009c3b9eda9ad1a097abbe738f486c01e5": "llama-bpe",
    "049ecf7629871e3041641907f3de7c733e4dbfdc736f57d882ba0b0845599754": "deepseek-llm",
    "347715f544604f9118bb75ed199f68779f423cabb20db6de6f31b908d04d7821": "deepseek-coder",
    "35d91631860c815f952d711435f48d356ebac988362536bed955d43bfa436e34": "starcoder",
    "6221ad2852e85ce96f791f476e0b390cf9b474c9e3d1362f53a24a06dc8220ff": "refact",
    "63b97e4253352e6f357cc59ea5b583e3a680eaeaf2632188c2b952de2588485e": "tekken",
    "855059429035d75a914d1eda9f10a876752e281a054a7a3d421ef0533e5b6249": "smollm",
    "9d032fcbd5501f4a38150912590928bfb36091efb5df11b8e2124b0390e3fb1e": "falcon3",
    "a8594e3edff7c29c003940395316294b2c623e09894deebbc65f33f1515df79e": "dbrx",
    "ccc2ef013c104be7bae2965776d611e1d7a8a2a9c547dd93a682c9a9fc80352e": "gpt-4o",
    "a1e163ecab2e718a4c829d1148b6e86824ec36163bb71941c3dca9cd5ac25756": "mellum",
    "c136ed14d01c2745d4f60a9596ae66800e2b61fa45643e72436041855ad4089d": "smaug-bpe",
    "d4540891389ea895b53b399da6ac824becc30f2fba0e9ddbb98f92e55ca0e97c": "qwen2",
    "d5f1dd6f980fec569fb218a81a7658ac45fc56b38c5a0adeb1c232fbe04ef5ec": "seed-coder",
    "e636dc30a262dcc0d8c323492e32ae2b70728f4df7dfe9737d9f920a282b8aea": "qwen2",
}

BYTE = re.compile("<0x[0-9A-F]{2}>")

WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|" + WORDS % r"\p{N}{1,3}": "llama-bpe",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|" + WORDS % r"\p{N}": "qwen2",
}


def pre_tokenizer(tokenizer: Tokenizer, spec: dict[str, Any]) -> str:
    """llama.cpp's name of the pre-tokenizer: by the probe's hash, and by its structure where the vocabulary was changed. Raises InputError."""
    digest = sha256(str(tokenizer.encode(PROBE).ids).encode()).hexdigest()
    name = KNOWN.get(digest) or by_structure(spec.get("pre_tokenizer") or {})
    if name is None:
        raise InputError(Problem("tokenizer.json", "its pre-tokenizer has no name in llama.cpp that planish knows", f"known: {sorted({*KNOWN.values()})}"))
    return name


def by_structure(pre: dict[str, Any]) -> str | None:
    """The name that the pre-tokenizer's parts stand for; None when it is not one of the common ones."""
    parts = pre.get("pretokenizers", [pre])
    kinds = [part.get("type") for part in parts]
    if kinds == ["ByteLevel"] and parts[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits") and parts[1].get("use_regex", True):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not parts[1].get("use_regex", True):
        return PATTERNS.get(parts[0].get("pattern", {}).get("Regex", ""))
    return None


def file_name(checkpoint: Path) -> tuple[str, tuple[str, ...]]:
    """The model's name as the file may say it, and what must be said of its tokenizer. Raises InputError where there is no tokenizer.json."""
    return model_name(checkpoint.resolve().name, read_json(checkpoint / "tokenizer.json"))


def add_vocabulary(writer: gguf.GGUFWriter, checkpoint: Path, vocab_size: int) -> tuple[str, ...]:
    """Write tokens, token types, merges or scores, special ids and the chat template of `checkpoint` into `writer`; gives what must be said of them.

    Raises InputError when there is no tokenizer.json, when it is of another kind, or when it holds more tokens than `vocab_size` embedding rows.
    """
    path = checkpoint / "tokenizer.json"
    if not path.is_file():
        raise InputError(Problem(str(path), "is missing", "save the tokenizer beside the weights"))
    spec = read_json(path)
    model, added = spec["model"], {token["id"]: token for token in spec.get("added_tokens", [])}
    scored = is_sentencepiece(spec)
    if model.get("type") != "BPE" or not (scored or "ByteLevel" in json.dumps(spec.get("pre_tokenizer"))):
        raise InputError(Problem("tokenizer.json", f"is not byte-level BPE (type {model.get('type')})", FIX))
    content = {index: token for token, index in model["vocab"].items()} | {index: token["content"] for index, token in added.items()}
    if max(content) >= vocab_size:
        raise InputError(Problem("tokenizer.json", f"token id {max(content)} has no row among the {vocab_size} of the embedding", "resize the embedding"))

    types = [token_type(index, content, added, model.get("unk_token") if scored else None) for index in range(vocab_size)]
    said = add_pieces(writer, spec, added, vocab_size) if scored else add_merged(writer, path, spec)
    if scored:  # llama.cpp finds added tokens in the text as it was written, before spaces are replaced
        content |= {index: content[index].replace(SPACE, " ") for index in content if types[index] == gguf.TokenType.USER_DEFINED}
    writer.add_token_list([content.get(index, f"[PAD{index}]") for index in range(vocab_size)])
    writer.add_token_types(types)
    special = gguf.SpecialVocab(checkpoint, load_merges=not scored, n_vocab=vocab_size)
    # Said outright: a reader that finds no word on it falls back to a default of the pre-tokenizer's name, which for some is to add one.
    special.add_special_token.setdefault("bos", False)
    special.add_to_gguf(writer, quiet=True)
    for kind, index in zip(("eot", "eom"), more_stop_ids(checkpoint, special.special_token_ids.get("eos")), strict=False):
        if kind not in special.special_token_ids:
            getattr(writer, f"add_{kind}_token_id")(index)
    return said


def add_merged(writer: gguf.GGUFWriter, path: Path, spec: dict[str, Any]) -> tuple[str, ...]:
    """What llama.cpp cuts by byte-level BPE with; nothing to be said."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer(Tokenizer.from_file(str(path)), spec))
    return ()


def add_pieces(writer: gguf.GGUFWriter, spec: dict[str, Any], added: dict[int, dict[str, Any]], vocab_size: int) -> tuple[str, ...]:
    """What llama.cpp cuts by a SentencePiece vocabulary with; gives what it does otherwise."""
    found = pieces(spec)
    last = -float(len(found.scores))  # of pieces that no merge makes: single characters and bytes, whose score is never compared
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    known = set(spec["model"]["vocab"].values())
    scores = [ADDED_SCORE if index in added else found.scores.get(index, last) if index in known else ABSENT_SCORE for index in range(vocab_size)]
    writer.add_token_scores(scores)
    writer.add_add_space_prefix(found.prefixed)
    return found.notes


def token_type(index: int, content: dict[int, str], added: dict[int, dict[str, Any]], unknown: str | None = None) -> int:
    """CONTROL for special tokens (and those that look it), USER_DEFINED for other added ones, UNUSED for ids no token has; of a SentencePiece vocabulary, whose `unknown`
    piece is named, UNKNOWN for that and BYTE for the pieces of bytes."""
    if index not in content:
        return int(gguf.TokenType.UNUSED)
    if unknown is not None and BYTE.fullmatch(content[index]):
        return int(gguf.TokenType.BYTE)
    if index not in added:
        return int(gguf.TokenType.UNKNOWN if content[index] == unknown else gguf.TokenType.NORMAL)
    text = content[index]
    looks_special = text.startswith("<|") and text.endswith("|>")
    return int(gguf.TokenType.CONTROL if added[index].get("special") or looks_special else gguf.TokenType.USER_DEFINED)


def more_stop_ids(checkpoint: Path, eos: int | None) -> list[int]:
    """The end ids that generation_config.json names besides the tokenizer's `eos`."""
    path = checkpoint / "generation_config.json"
    named = read_json(path).get("eos_token_id") if path.is_file() else None
    return [index for index in (named if isinstance(named, list) else [named]) if isinstance(index, int) and index != eos]
