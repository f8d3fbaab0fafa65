"""Spaces beside special tokens: tokenizer.json says which tokens take them away; llama.cpp knows one such rule, Phi 3's, and goes by the name in the file."""

from __future__ import annotations

import re
from typing import Any

NAMED = re.compile(r"phi-?3", re.IGNORECASE)
"""What llama.cpp looks for in the model's name. It ends where the name says so and the vocabulary lacks one of the tokens that the rule speaks of."""
KEEPS = frozenset({"<unk>", "<s>", "<|endoftext|>"})
ENDS = "</s>"


def model_name(name: str, spec: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """`name` with or without "phi-3" in it, as the tokens of tokenizer.json need it, and what must be said where llama.cpp strips otherwise than they do."""
    added = {token["content"]: token for token in spec.get("added_tokens", [])}
    right = {text for text, token in added.items() if token.get("rstrip")}
    left = {text for text, token in added.items() if token.get("lstrip")}
    by_rule = ({*added, ENDS} - KEEPS) if {ENDS, *KEEPS} <= {*spec["model"]["vocab"], *added} else set()
    ruled = bool(right) and right <= by_rule
    named = name if NAMED.search(name) else f"phi-3 {name}"
    written = named if ruled else NAMED.sub("phi", name)
    apart = sorted(left | (right ^ by_rule if ruled else right))
    if not apart:
        return written, ()
    return written, (f"llama.cpp treats spaces beside {', '.join(apart[:4])} otherwise than the tokenizer: texts with spaces there get other ids",)
