"""Parts of a text encoded apart are the whole text's ids, for every pre-tokeniser pattern that is listed (MISSION K1, K6)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model.chat_families import chat

from planish.model import token_ids
from planish.model.token_ids import TokenIds

PIECES = (
    *("what", " is", " the", "It", "S", "'s", "'ll", " '", "n't", ".", ". ", "?\n", ", and", "\n", "\n\n", " \n ", "\r\n", "\t", "  ", " ", "1", "23", " 4"),
    *("é", " ü", "e\u0301", "你好", "🙂", "_", "-", "(", "<|im_end|>", "<|im_start|>"),
)
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(st.sampled_from("aZ \n\r\t'.!?5é\u0301\u00a0你"), max_size=6)), max_size=14).map("".join)


def _tokens(kind: str) -> TokenIds:
    """The tiny tokenizer with another pre-tokeniser, as its families have it."""
    from tokenizers import Regex, normalizers, pre_tokenizers

    tokenizer: Any = chat("chatml").tokenizer
    backend = tokenizer.backend_tokenizer
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if kind in ("qwen", "llama3"):
        pattern = sorted(token_ids._PATTERNS, key=len)[kind == "llama3"]
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), level])
    elif kind == "digits":
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    if kind == "qwen":
        backend.normalizer = normalizers.NFC()
    return TokenIds(tokenizer)


@pytest.mark.parametrize("kind", ["gpt2", "digits", "qwen", "llama3"])
def test_parts_are_the_whole(kind: str) -> None:
    tokens = _tokens(kind)
    assert tokens.in_parts

    @settings(max_examples=400, deadline=None)
    @given(st.lists(TEXTS, max_size=3))
    def equal(texts: list[str]) -> None:
        assert tokens.of(texts) == tokens.whole(texts)

    equal()


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_ids, "KNOWN_WORDS", 20)
    monkeypatch.setattr(token_ids, "KNOWN_PARTS", 10)
    tokens = _tokens("gpt2")
    texts = [f"what is {chr(97 + n % 26)}{chr(97 + n // 26)} and{n}<|im_end|>" for n in range(200)]
    for text in texts * 2:
        assert tokens.of([text]) == tokens.whole([text])
    assert max(map(len, (tokens._begins, tokens._words, tokens._pieces))) <= 20 + 8
    assert len(tokens._parts) <= 10 + len(tokens._own) + 2
