"""Padding changes nothing: right in a batch that is scored, left in one that generates, and none where the engine reads prompts one by one (MISSION K5)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from planish.engines import transformers as engine
from planish.model.engine import Decoding
from planish.model.policy import base_of

LENGTHS = (3, 5, 8)


@pytest.fixture
def started(tiny: Path) -> Iterator[engine.TransformersEngine]:
    one = engine.start(tiny, precision="fp32")
    base_of(one.model).set_attn_implementation("sdpa")
    yield one
    one.close()


def prompts() -> list[list[int]]:
    draw = torch.Generator().manual_seed(3)
    return [torch.randint(3, 500, (length,), generator=draw).tolist() for length in LENGTHS]


def padded(rows: list[list[int]], pad: int, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) ids and attention, 0 on the padding."""
    width = max(map(len, rows))
    ids = [row + [pad] * (width - len(row)) if side == "right" else [pad] * (width - len(row)) + row for row in rows]
    seen = [[1] * len(row) + [0] * (width - len(row)) if side == "right" else [0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids), torch.tensor(seen)


@torch.inference_mode()
def test_k5_batch_logits_equal_single_row_logits(started: engine.TransformersEngine) -> None:
    rows = prompts()
    ids, seen = padded(rows, started.chat.end, "right")
    batch = started.model(input_ids=ids, attention_mask=seen, use_cache=False).logits
    for row, together in zip(rows, batch, strict=True):
        alone = started.model(input_ids=torch.tensor([row]), use_cache=False).logits[0]
        assert torch.allclose(together[: len(row)], alone, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_k5_left_padded_generation_equals_unpadded(started: engine.TransformersEngine) -> None:
    """transformers' own batched greedy decoding with left padding against our engine, which pads nothing; pad is the end token, which must not end an answer by standing there."""
    rows = prompts()
    ids, seen = padded(rows, started.chat.end, "left")
    wanted = dict(max_new_tokens=12, do_sample=False, pad_token_id=started.chat.end, eos_token_id=started.chat.end)
    together = started.model.generate(input_ids=ids, attention_mask=seen, **wanted)[:, ids.shape[1] :].tolist()
    answers = started.generate(rows, Decoding(max_new_tokens=12, temperature=0))
    for theirs, answer in zip(together, answers, strict=True):
        said = theirs[: theirs.index(started.chat.end)] if started.chat.end in theirs else theirs
        assert said == list(answer.token_ids)
