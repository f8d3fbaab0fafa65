"""What the tokens of a tokenizer spell, in bytes: how another machine's tokens become ids here (an endpoint names its tokens by what they spell, never by id)."""

from __future__ import annotations

import json
import re
from typing import Any

from planish.errors import InputError, Problem


def byte_letters() -> dict[str, int]:
    """The letters that a byte-level vocabulary writes bytes with: printable bytes as themselves, the others from U+0100 on in their order (Radford et al. 2019, GPT-2)."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(256 + place): byte for place, byte in enumerate(rest)}


class TokenBytes:
    """Bytes of each id, and the id that spells given bytes. Raises InputError for a tokenizer whose words cannot be read as bytes."""

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            why = f"{type(tokenizer).__name__} is no fast tokenizer, so what its tokens spell is not known"
            raise InputError(Problem("model", why, "use a model with a tokenizer.json"))
        letters = byte_letters() if "ByteLevel" in json.dumps(json.loads(backend.to_str()).get("decoder")) else None
        added = {id: token.content.encode() for id, token in tokenizer.added_tokens_decoder.items()}
        self.of = {id: added.get(id, _spelt(word, letters)) for word, id in tokenizer.get_vocab().items()}
        self.ids: dict[bytes, int] = {}
        for id in sorted(self.of, reverse=True):  # of two that spell alike the lower id, which the merges make
            self.ids[self.of[id]] = id

    def ends(self, ids: list[int]) -> list[int]:
        """Where each token ends, in bytes from the beginning."""
        at, found = 0, []
        for id in ids:
            at += len(self.of[id])
            found.append(at)
        return found


def _spelt(word: str, letters: dict[str, int] | None) -> bytes:
    if letters is not None:
        return bytes(letters[letter] for letter in word) if all(letter in letters for letter in word) else word.encode()
    fallback = re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", word)
    return bytes([int(fallback[1], 16)]) if fallback else word.replace("\u2581", " ").encode()
