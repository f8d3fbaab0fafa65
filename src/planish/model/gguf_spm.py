"""A SentencePiece vocabulary (Gemma, Phi 3, Llama 2) as llama.cpp reads one: pieces with scores, from the ordered merges that tokenizer.json keeps of them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

from planish.errors import InputError, Problem

SPACE = "\u2581"
"""What SentencePiece writes for a space."""
ADDED_SCORE, ABSENT_SCORE = -1000.0, -10000.0
"""llama.cpp's converter gives added tokens and ids without a token these."""
FIX = "only byte-level BPE and SentencePiece BPE with bytes for the rest can be exported to GGUF"


class Pieces(NamedTuple):
    """`scores` by id; `prefixed`: a space is put before a text; `notes` are what must be said."""

    scores: dict[int, float]
    prefixed: bool
    notes: tuple[str, ...]


def is_sentencepiece(spec: dict[str, Any]) -> bool:
    """Whether a tokenizer.json is BPE over pieces with bytes for what they do not cover."""
    model = spec["model"]
    return model.get("type") == "BPE" and bool(model.get("byte_fallback"))


def pieces(spec: dict[str, Any]) -> Pieces:
    """Scores that make llama.cpp merge what tokenizer.json merges. Raises InputError where no scores would."""
    prefix = _prefix(spec)
    vocabulary: dict[str, int] = spec["model"]["vocab"]
    absent = [f"<0x{byte:02X}>" for byte in range(256) if f"<0x{byte:02X}>" not in vocabulary]
    if absent:
        raise InputError(Problem("tokenizer.json", f"has no piece for {len(absent)} of the 256 bytes, {absent[0]} among them", FIX))
    said: tuple[str, ...] = ()
    if prefix == "first":
        said = (
            "llama.cpp cannot put a space before the first word of a text alone: rendered dialogues are cut as by transformers, plain text that begins with a word is not",
        )
    return Pieces(_scores(spec, vocabulary), prefix == "always", said)


def _prefix(spec: dict[str, Any]) -> str:
    """ "never", "first" or "always": where a space is put before text. Raises InputError for what llama.cpp does not do to a text before it is cut."""
    normalizer, pre = spec.get("normalizer") or {}, spec.get("pre_tokenizer") or {}
    steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
    found = "never"
    for step in steps:
        if step.get("type") == "Prepend" and step.get("prepend") == SPACE:
            found = "always"
        elif step.get("type") != "Replace" or step.get("pattern") != {"String": " "} or step.get("content") != SPACE:
            raise InputError(Problem("tokenizer.json: normalizer", f"{step.get('type')} is nothing that llama.cpp does", FIX))
    replaced = any(step.get("type") == "Replace" for step in steps)
    if pre.get("type") == "Metaspace" and pre.get("replacement") == SPACE and not pre.get("split", True):
        return str(pre.get("prepend_scheme", "always")) if found == "never" else found
    harmless = pre.get("type") == "Split" and pre.get("pattern") == {"String": " "} and replaced  # no space is left that it could cut at
    if not replaced or (pre and not harmless):
        raise InputError(Problem("tokenizer.json: pre_tokenizer", f"{pre.get('type')} is nothing that llama.cpp does to pieces", FIX))
    return found


def _scores(spec: dict[str, Any], vocabulary: dict[str, int]) -> dict[int, float]:
    """By id: minus the place of the piece among what the merges make, in their order. SentencePiece scores a piece, not a pair: all merges that make it must stand together,
    and every cut of it into two pieces must be one of them."""
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in spec["model"].get("merges", [])]
    added = {token["content"] for token in spec.get("added_tokens", [])}
    places: dict[str, list[int]] = {}
    for place, (left, right) in enumerate(merges):
        places.setdefault(left + right, []).append(place)
    scattered = [piece for piece, found in places.items() if piece not in added and any(later != earlier + 1 for earlier, later in pairwise(found))]
    listed = set(merges)
    open_pieces = [
        piece
        for piece in vocabulary
        if piece not in added
        and not (piece.startswith("<0x") and len(piece) == 6)
        and any(piece[:at] in vocabulary and piece[at:] in vocabulary and (piece[:at], piece[at:]) not in listed for at in range(1, len(piece)))
    ]
    if scattered or open_pieces:
        piece = (scattered or open_pieces)[0]
        why = f"its merges are not those of a SentencePiece vocabulary: {len(scattered) + len(open_pieces)} pieces, {piece!r} among them, are not made by score"
        raise InputError(Problem("tokenizer.json", why, FIX))
    return {vocabulary[piece]: -float(order) for order, piece in enumerate(places) if piece in vocabulary}
