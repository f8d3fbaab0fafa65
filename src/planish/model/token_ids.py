"""Text to token ids, in batches, exactly as the tokenizer gives them; a word or a fixed turn that has been seen is not tokenised again.

Special tokens stand in the text and are never added. Where the tokenizer is a byte-level BPE of a known family, a text falls into parts that cannot touch each other:
at special tokens, and before a blank with an ASCII letter behind it, where a match of every pre-tokeniser pattern of those families begins, whatever stands before it (a
merge never leaves its match). Then the ids of the text are the ids of its parts, one after the other, and the parts are remembered. Any other tokenizer is given whole texts.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq
from functools import cached_property
from itertools import chain
from typing import Any

_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PATTERNS = frozenset({_LETTERS + r"\p{N}" + _REST, _LETTERS + r"\p{N}{1,3}" + _REST})
"""The pre-tokeniser patterns of Qwen 2 and 3, and of Llama 3 and GPT-4. As in GPT-2's, only white space is matched together with a blank behind it, and it leaves that
blank to a letter that follows."""
BEFORE_WORD = re.compile(r" (?=[A-Za-z])")
"""Where a part is cut. The blank belongs to the word behind it."""
_AROUND_LETTERS = re.compile(r"(?<=[A-Za-z])(?=[!-/:-@\[-`{-~\n])|(?<=[!-~]\n)(?=[A-Za-z])")
"""Between letters and a mark or a line break behind them, as nothing but letters is matched after letters; and behind a single line break."""
KNOWN_WORDS, KNOWN_PARTS = 1 << 16, 1 << 13
"""Kept in memory: the words of a language that matter, and the turns that many rows repeat."""
_TRIAL = "system\nBe brief, don't ramble. 12345 ab  cd\n\n ef 你好 it's é\u0301 x y\tz IT'S We're \r\n end"


# new words are few, so that the tokenizer's own threads bring nothing; where they have run, a forked process would wait for them forever
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class TokenIds:
    """The ids of many texts, by one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._parts = _Learnt(self._part)
        self._begins = _Learnt(self._text)  # what a part begins with
        self._words = _Learnt(self.behind)  # what follows a blank; the blank is in the ids, not in the key
        self._pieces = _Learnt(self._piece)  # what the two are made of: letters, and what is not

    def of(self, texts: Seq[str]) -> list[list[int]]:
        """Ids of each text, equal to `tokenizer(text, add_special_tokens=False)`."""
        if not self.in_parts:
            return self.whole(texts)
        for known, most in ((self._parts, KNOWN_PARTS), (self._begins, KNOWN_WORDS), (self._words, KNOWN_WORDS), (self._pieces, KNOWN_WORDS)):
            if len(known) > most:
                known.clear()
        self._parts.update(self._own)  # what was added to the vocabulary is never divided
        return [_joined(self._parts, parts) for parts in map(self.at_added, texts)]

    def whole(self, texts: Seq[str]) -> list[list[int]]:
        """The tokenizer's own answer for whole texts."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None or backend.truncation is not None or backend.padding is not None:
            return [list(ids) for ids in self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]] if texts else []
        return [one.ids for one in backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def special_in(self, text: str) -> str | None:
        """The first special token that this text spells out, if any. Tokens that are added but not special, as those of a thought, are the model's own words."""
        found = self._special.search(text) if self._special else None
        return found.group() if found else None

    def begin(self, text: str) -> list[int]:
        """Ids of a part up to its first `BEFORE_WORD`."""
        return self._text(text)

    def behind(self, word: str) -> list[int]:
        """Ids of what stands between two cuts at `BEFORE_WORD`, with the blank before it, which the word is given without."""
        if word.isascii() and word.isalpha():
            return self._letters(f"{self._blank}{word}")
        return self._text(f" {word}")

    def _part(self, part: str) -> list[int]:
        begin, *words = BEFORE_WORD.split(part)
        return self._begins[begin] + _joined(self._words, words)

    def _text(self, text: str) -> list[int]:
        """Ids of a text with at most one word: of its letters, and of the marks around it."""
        return _joined(self._pieces, _AROUND_LETTERS.split(text))

    def _piece(self, piece: str) -> list[int]:
        """Letters alone are one match, so the merges can be given them as they are: three times as fast as with all that is around the merges."""
        if piece.isascii() and piece.removeprefix(" ").isalpha():
            return self._letters(piece.replace(" ", self._blank))
        return self.whole([piece])[0]

    def _letters(self, letters: str) -> list[int]:
        return [token.id for token in self._model.tokenize(letters)]

    @cached_property
    def _own(self) -> dict[str, list[int]]:
        return {token: [id] for token, id in self.tokenizer.get_added_vocab().items()} | {"": []}

    @cached_property
    def _model(self) -> Any:
        return self.tokenizer.backend_tokenizer.model

    @cached_property
    def _blank(self) -> str:
        """How the pre-tokeniser writes a blank."""
        ((written, _),) = self.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(" ")
        return str(written)

    @cached_property
    def _special(self) -> re.Pattern[str] | None:
        decoder = self.tokenizer.added_tokens_decoder.values()
        return _any_of({str(token) for token in decoder if token.special} | set(self.tokenizer.all_special_tokens))

    @cached_property
    def _added(self) -> re.Pattern[str] | None:
        return _any_of(self.tokenizer.get_added_vocab())

    @property
    def at_added(self) -> Callable[[str], list[str]]:
        """Cuts a text before and behind each added token."""
        return self._added.split if self._added else lambda text: [text]

    @cached_property
    def in_parts(self) -> bool:
        """Whether the parts of a text can be encoded apart: known by the tokenizer's make, and tried on one text."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None or type(backend.model).__name__ != "BPE" or backend.model.dropout or not _cuts_at_blanks(backend.pre_tokenizer):
            return False
        if backend.model.continuing_subword_prefix or backend.model.end_of_word_suffix:
            return False
        if backend.normalizer is not None and json.loads(backend.normalizer.__getstate__())["type"] != "NFC":
            return False
        added = backend.get_added_tokens_decoder().values()
        if any(token.lstrip or token.rstrip or token.single_word or (token.normalized and backend.normalizer is not None) for token in added):
            return False
        trial = _TRIAL.join(["", *self.tokenizer.get_added_vocab(), ""])
        pieces = [piece for part in self.at_added(trial) for piece in ([part] if part in self._own else _pieces(part))]
        return list(chain.from_iterable(self.whole(pieces))) == self.whole([trial])[0]


class _Learnt(dict[str, list[int]]):
    """Ids of texts, each made when it is first asked for."""

    def __init__(self, make: Callable[[str], list[int]]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, text: str) -> list[int]:
        ids = self[text] = self._make(text)
        return ids


def _joined(known: _Learnt, texts: Iterable[str]) -> list[int]:
    """Ids of the texts one after another."""
    return list(chain.from_iterable(map(known.__getitem__, texts)))


def _pieces(part: str) -> list[str]:
    begin, *rest = BEFORE_WORD.split(part)
    return [piece for word in (begin, *(f" {word}" for word in rest)) for piece in _AROUND_LETTERS.split(word)]


def _any_of(tokens: Iterable[str]) -> re.Pattern[str] | None:
    """Any of these, the longest first, as the tokenizer itself looks for them."""
    ordered = sorted(tokens, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, ordered)) + ")") if ordered else None


def _cuts_at_blanks(pre_tokenizer: Any) -> bool:
    """Whether a blank between two letters always begins a new match: GPT-2's own pattern, digits apart or not, or one of the listed patterns."""
    if pre_tokenizer is None:
        return False
    state = json.loads(pre_tokenizer.__getstate__())
    steps = state["pretokenizers"] if state["type"] == "Sequence" else [state]
    cuts = False
    for step in steps:
        match step:
            case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": bool(regex)}:
                cuts = cuts or regex
            case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False} if pattern in _PATTERNS:
                cuts = True
            case {"type": "Digits"}:
                pass
            case _:
                return False
    return cuts
