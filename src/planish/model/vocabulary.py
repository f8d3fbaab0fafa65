"""A byte-pair vocabulary cut down to the tokens that a user's text needs, with ids renumbered and the map kept (MISSION Z11).

Text whose tokens are all kept is tokenised as before: every merge that made it is kept in the old order, so at each step the trimmed tokenizer has the same first choice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from planish.errors import InputError, Problem
from planish.model.json_object import read_json
from planish.rows import canonical_json

MAP = "vocabulary_map.json"
ID_KEYS = ("token_id", "token_ids")
"""Ends of the configuration keys that hold ids."""
ID_LISTS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids", "sequence_bias", "forced_decoder_ids")
"""Keys of a generation configuration that hold ids in shapes of their own: refused where they are set."""
POST = {"ByteLevel", "TemplateProcessing", "Sequence"}


class Vocabulary:
    """The vocabulary of a model folder's tokenizer.json. Raises InputError, with every problem, for what is no byte-pair encoding down to bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = read_json(folder / "tokenizer.json")
        where, model = str(folder / "tokenizer.json"), self.file.get("model") or {}
        problems = []
        if model.get("type") != "BPE":
            raise InputError(
                Problem(where, f"is a {model.get('type')} tokenizer, and only byte-pair ones are trimmed", "prune heads, channels or layers instead")
            )
        for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
            if model.get(key):
                problems.append(
                    Problem(f"{where}: model.{key}", f"is {model[key]!r}, which trimming cannot carry over", "prune heads, channels or layers instead")
                )
        self.ids: dict[str, int] = dict(model.get("vocab") or {})
        self.merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ", 1)) for merge in model.get("merges") or []]
        self.bytes = (
            {token for token in self.ids if len(token) == 6 and token.startswith("<0x") and token.endswith(">")} if model.get("byte_fallback") else set()
        )
        if _has(self.file.get("pre_tokenizer"), "ByteLevel"):
            from tokenizers.pre_tokenizers import ByteLevel

            self.bytes |= {letter for letter in ByteLevel.alphabet() if letter in self.ids}
        if not self.bytes:  # a family may lack the bytes that its own text never had; those that it has all stay
            problems.append(Problem(where, "has no tokens for single bytes: other text could not be written", "prune heads, channels or layers instead"))
        odd = sorted(kind for kind in _kinds(self.file.get("post_processor")) if kind not in POST)
        if odd:
            problems.append(Problem(f"{where}: post_processor", f"is {odd[0]}, whose ids planish does not know", "prune heads, channels or layers instead"))
        for name in ("config.json", "generation_config.json"):
            if (folder / name).is_file():
                set_keys = [key for key in ID_LISTS if read_json(folder / name).get(key)]
                problems += [Problem(f"{folder / name}: {key}", "holds ids in a shape of its own", "remove the key first") for key in set_keys]
        if problems:
            raise InputError(*problems)

    @cached_property
    def required(self) -> set[int]:
        """Bytes, added and special tokens, and whatever the configurations name by id."""
        found = {self.ids[token] for token in self.bytes} | {int(token["id"]) for token in self.file.get("added_tokens") or []}
        unknown = self.file["model"].get("unk_token")
        found |= {self.ids[unknown]} if unknown in self.ids else set()
        for name in ("config.json", "generation_config.json"):
            if (self.folder / name).is_file():
                found |= {one for key, value in read_json(self.folder / name).items() if key.endswith(ID_KEYS) for one in _listed(value)}
        return found

    @cached_property
    def _rank(self) -> dict[tuple[str, ...], int]:
        return {merge: rank for rank, merge in enumerate(self.merges)}

    @cached_property
    def _text(self) -> dict[int, str]:
        return {number: token for token, number in self.ids.items()}

    def parts(self, number: int) -> set[int]:
        """A token with everything that is merged on the way to it (its merge closure), found by merging its letters as the tokenizer does; nothing for an id of no token."""
        token = self._text.get(number)
        if number in self.required:
            return {number}
        if token is None:
            return set()
        pieces, found = list(token), {number}
        found |= {self.ids[piece] for piece in pieces if piece in self.ids}
        while len(pieces) > 1:
            rank, at = min((self._rank.get((pieces[i], pieces[i + 1]), len(self.merges)), i) for i in range(len(pieces) - 1))
            if rank == len(self.merges):
                break
            pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
            found.add(self.ids[pieces[at]])
        return found

    def counted(self, texts: Iterable[str], size: int) -> Tensor:
        """(size,) how often each id stands in the texts, special tokens read as such."""
        counts = torch.zeros(size, dtype=torch.long)
        for encoded in _tokenizer(self.file).encode_batch(list(texts), add_special_tokens=False):
            counts += torch.bincount(torch.tensor(encoded.ids, dtype=torch.long), minlength=size)
        return counts

    def trimmed(self, kept: Sequence[int]) -> dict[str, str]:
        """The files that change, by name: tokenizer.json, what names ids in the configurations, and the map. `kept` are old ids in their new order."""
        new = {old: place for place, old in enumerate(kept)}
        vocab = {token: new[number] for token, number in sorted(self.ids.items(), key=lambda item: item[1]) if number in new}
        merges = [list(merge) for merge in self.merges if merge[0] in vocab and merge[1] in vocab and "".join(merge) in vocab]
        file = dict(self.file)
        file["model"] = dict(file["model"]) | {"vocab": vocab, "merges": merges}
        file["added_tokens"] = [dict(token) | {"id": new[token["id"]]} for token in file.get("added_tokens") or []]
        file["post_processor"] = _renumbered(file.get("post_processor"), new)
        if file.get("padding"):
            file["padding"] = dict(file["padding"]) | {"pad_id": new[file["padding"]["pad_id"]]}
        made = {
            "tokenizer.json": json.dumps(file, ensure_ascii=False, indent=1) + "\n",
            MAP: canonical_json({"kept": list(kept), "of": max(self.ids.values()) + 1}) + "\n",
        }
        if (self.folder / "generation_config.json").is_file():
            made["generation_config.json"] = canonical_json(with_new_ids(read_json(self.folder / "generation_config.json"), kept)) + "\n"
        if (self.folder / "tokenizer_config.json").is_file():
            config = read_json(self.folder / "tokenizer_config.json")
            if isinstance(config.get("added_tokens_decoder"), dict):
                config["added_tokens_decoder"] = {str(new[int(old)]): token for old, token in config["added_tokens_decoder"].items() if int(old) in new}
            made["tokenizer_config.json"] = canonical_json(config) + "\n"
        return made


def with_new_ids(config: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """A configuration whose ids are those of the trimmed vocabulary."""
    new = {old: place for place, old in enumerate(kept)}

    def moved(value: Any) -> Any:
        return [moved(one) for one in value] if isinstance(value, list) else new[value] if type(value) is int else value

    return {key: moved(value) if key.endswith(ID_KEYS) else value for key, value in config.items()}


class Fertility(dict[str, float]):
    """`before` and `after`: tokens of the same texts; `rise`: after / before - 1; `same`: texts whose tokens are all kept; `texts`: all."""


def fertility(before: Vocabulary, trimmed_file: str, kept: Sequence[int], texts: Sequence[str]) -> Fertility:
    """How many more tokens the texts take. Raises InputError where a text of kept tokens alone is tokenised otherwise, which no sound tokenizer does, and without any text."""
    new = {old: place for place, old in enumerate(kept)}
    one, other = _tokenizer(before.file), _tokenizer(json.loads(trimmed_file))
    first, second = (tokenizer.encode_batch(list(texts), add_special_tokens=False) for tokenizer in (one, other))
    same = 0
    for text, old, made in zip(texts, first, second, strict=True):
        if all(number in new for number in old.ids):
            same += 1
            if [new[number] for number in old.ids] != made.ids:
                raise InputError(
                    Problem(str(before.folder / "tokenizer.json"), f"{text[:40]!r} would get other tokens", "prune heads, channels or layers instead")
                )
    tokens = sum(len(old.ids) for old in first)
    if not tokens:
        raise InputError(Problem("vocabulary", "there is no text to measure on", "give rows"))
    after = sum(len(made.ids) for made in second)
    return Fertility(before=tokens, after=after, rise=after / tokens - 1, same=same, texts=len(texts))


def _tokenizer(file: Mapping[str, Any]) -> Any:
    from tokenizers import Tokenizer

    opened = Tokenizer.from_str(json.dumps(file))
    opened.no_truncation()
    opened.no_padding()
    return opened


def _has(part: Any, kind: str) -> bool:
    return kind in _kinds(part)


def _kinds(part: Any) -> set[str]:
    """Types of a part of tokenizer.json and of everything in its sequences."""
    if not isinstance(part, dict):
        return set()
    inside = [*(part.get("pretokenizers") or []), *(part.get("processors") or [])]
    return {str(part.get("type"))}.union(*(_kinds(one) for one in inside))


def _renumbered(part: Any, new: Mapping[int, int]) -> Any:
    if not isinstance(part, dict):
        return part
    found = dict(part)
    if isinstance(found.get("processors"), list):
        found["processors"] = [_renumbered(one, new) for one in found["processors"]]
    if isinstance(found.get("special_tokens"), dict):
        found["special_tokens"] = {name: dict(token) | {"ids": [new[one] for one in token["ids"]]} for name, token in found["special_tokens"].items()}
    return found


def _listed(value: Any) -> list[int]:
    return [one for part in value for one in _listed(part)] if isinstance(value, list) else [value] if type(value) is int else []
