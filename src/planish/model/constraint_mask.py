"""Constraints as token masks: at every step only the tokens with which the answer can still take its form (MISSION E3). The parsing is llguidance's."""

from __future__ import annotations

from copy import copy
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from planish.errors import InputError, Problem, RunFailed
from planish.lazy import require
from planish.model.constraint import Constraint


class Masks:
    """The masks of one tokenizer. `end` is the id that ends an answer, allowed only where the form is complete; `size` is the length of a row of logits."""

    def __init__(self, tokenizer: Any, end: int, size: int) -> None:
        self._tokenizer, self._end, self._size = tokenizer, end, size

    def of(self, constraint: Constraint) -> TokenMask:
        """The mask of one answer, at its first token."""
        return TokenMask(self._vocabulary, constraint, self._size)

    @cached_property
    def _vocabulary(self) -> Any:
        """llguidance's view of the tokenizer; takes about a second for 50,000 tokens. Raises InputError for a tokenizer that is not backed by the tokenizers library."""
        module = require("llguidance", extra="constrained")
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            why = f"{type(self._tokenizer).__name__} is no fast tokenizer, so what its tokens spell is not known"
            raise InputError(Problem("decoding.constraint", why, "use a model with a tokenizer.json"))
        plain = copy(backend)
        plain.no_padding()
        plain.no_truncation()
        try:
            return module.LLTokenizer(plain.to_str(), eos_token=self._end)
        except ValueError as refused:
            why = f"this model's tokenizer is of a kind that llguidance does not read: {refused}"
            raise InputError(Problem("decoding.constraint", why, "answer freely, or choose among labels")) from refused


class TokenMask:
    """One answer's way through its grammar."""

    def __init__(self, vocabulary: Any, constraint: Constraint, size: int) -> None:
        self._matcher = require("llguidance", extra="constrained").LLMatcher(vocabulary, constraint.lark, log_level=0)
        self._size = size
        self._hold()

    @property
    def complete(self) -> bool:
        """Whether the answer may end here."""
        return bool(self._matcher.is_accepting())

    def allowed(self) -> Tensor:
        """(size,) bool. Behind a complete answer that nothing can follow, only the end."""
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little").astype(bool)
        self._hold()
        found = np.zeros(self._size, bool)
        found[: len(bits)] = bits[: self._size]
        return torch.from_numpy(found)

    def take(self, token: int) -> None:
        """The answer went on with `token`. Raises RunFailed for one that was not allowed."""
        self._matcher.consume_token(token)
        self._hold()

    def _hold(self) -> None:
        if self._matcher.is_error():
            raise RunFailed(Problem("decoding.constraint", str(self._matcher.get_error())[:300], "simplify the schema or the grammar"))
