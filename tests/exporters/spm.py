"""A small SentencePiece vocabulary, trained on the spot, as Gemma, Phi 3 or Llama 2 would carry it."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

WORDS = [
    "the",
    "phone",
    "is",
    "good",
    "and",
    "sound",
    "was",
    "bad",
    "review",
    "sentence",
    "negative",
    "positive",
    "neutral",
    "what",
    "do",
    "you",
    "think",
    "of",
    "this",
    "café",
    "naïve",
    "city",
    "weather",
    "model",
    "answers",
]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + m['role'] + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def train(folder: Path, *, prefixed: bool = False, size: int = 480) -> Any:
    """Write `tokenizer.model` and the transformers tokenizer of it to `folder`; gives the latter."""
    import sentencepiece
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    draw = random.Random(0)
    text = [" ".join(draw.choices(WORDS, k=12)) + draw.choice([".", "!", "?", "  ok", "\n\nso"]) for _ in range(600)]
    stored = io.BytesIO()
    turns = ["<start_of_turn>", "<end_of_turn>"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_writer=stored,
        model_type="bpe",
        vocab_size=size,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=prefixed,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        control_symbols=turns,
        minloglevel=2,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(stored.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=stored.getvalue())
    vocabulary = {pieces.IdToPiece(index): index for index in range(pieces.GetPieceSize())}
    normal = [index for index in range(len(vocabulary)) if not (pieces.IsControl(index) or pieces.IsUnknown(index) or pieces.IsByte(index))]
    made = sorted(normal, key=lambda index: -pieces.GetScore(index))
    merges = []
    for index in made:
        piece = pieces.IdToPiece(index)
        merges += [(piece[:at], piece[at:]) for at in range(1, len(piece)) if piece[:at] in vocabulary and piece[at:] in vocabulary]
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = [normalizers.Prepend("▁")] if prefixed else []
    raw.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>", additional_special_tokens=turns, chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def dialogues(count: int) -> list[list[dict[str, str]]]:
    """Random conversations that wait for an answer: words, digits, runs of spaces, letters that the vocabulary has no piece for."""
    draw = random.Random(1)
    odd = ["  ", "   \t", "日本", "🙂👩‍🚀", "12,345.67", "\n\n", "x=[1,2]", "Ünïcødé", "it's", "ABC"]

    def said() -> str:
        return draw.choice(WORDS) + "".join(draw.choice([" ", " ", " ", ""]) + draw.choice(WORDS + odd) for _ in range(draw.randrange(1, 14)))

    roles = ("user", "assistant")
    return [[{"role": roles[turn % 2], "content": said()} for turn in range(draw.choice([1, 3, 5]))] for _ in range(count)]
