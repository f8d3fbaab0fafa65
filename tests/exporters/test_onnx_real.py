"""SmolLM2-135M in onnxruntime against transformers: logits, greedy answers and a gold score (MISSION Z5)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from planish.exporters.onnx import export
from planish.model.onnx_decoder import read_decoder

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

THINGS = ("rain", "the moon", "bread", "a violin", "winter")


@pytest.mark.slow
def test_z5_logits_and_greedy_ids_of_the_real_model_equal_transformers(tmp_path: Path) -> None:
    """Z5 proof: SmolLM2-135M in fp32, logits within 1e-3 and 64 greedy tokens equal on 20 prompts. Writing 538 MB of weights takes less than 150 MB more than was there before."""
    import resource

    from planish.engines import onnx as engines
    from planish.model.bundled import locate
    from planish.model.chat import Chat
    from planish.model.engine import Decoding
    from planish.rows import Message

    folder = locate("smollm2-135m-instruct")
    read_decoder(folder)  # imports what export does
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    made = export(folder, tmp_path, precision="fp32")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000  # KiB
    chat, started = Chat.load(folder), engines.start(tmp_path / made.file)
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    asked = [f"{verb} {thing}." for verb in ("Write a sentence about", "Explain in one line", "Give three facts on", "List words for") for thing in THINGS]
    prompts = [chat.prompt((Message(role="user", content=text),)) for text in asked]
    assert len(prompts) == 20
    answers = started.generate(prompts, Decoding(max_new_tokens=64))
    for prompt, answer in zip(prompts, answers, strict=True):
        whole = torch.tensor([[*prompt, *answer.token_ids]])
        with torch.inference_mode():
            logits = reference(input_ids=whole, use_cache=False).logits[0]
        assert (started.logits(whole[0].tolist()) - logits).abs().max() < 1e-3
        greedy = logits[len(prompt) - 1 :].argmax(-1).tolist()  # what transformers says after each of the same tokens: by induction its own greedy answer
        assert greedy[: len(answer.token_ids)] == list(answer.token_ids)
        assert answer.finish == "length" or greedy[len(answer.token_ids)] == chat.end
    assert sum(len(answer.token_ids) for answer in answers) > 400


@pytest.mark.slow
def test_z5_ex_the_gold_score_is_that_of_the_source_within_one_row_of_200(tmp_path: Path) -> None:
    """Z5 Ex: labels of 200 customer reviews chosen by log-likelihood in transformers and in onnxruntime: in fp32 at most one more or one fewer is right (all 200 alike). What
    8 and 4 bits cost is bounded: 8 bits at most 6 rows of 200."""
    from planish.data.reviews import LABELS, write_reviews
    from planish.engines import onnx as engines
    from planish.engines import transformers
    from planish.model.asker import Asker
    from planish.model.bundled import locate
    from planish.model.chat import Chat
    from planish.rows import Message

    write_reviews(tmp_path / "reviews.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "reviews.jsonl").read_text().splitlines()][::18][:200]
    assert len(rows) == 200
    folder = locate("smollm2-135m-instruct")
    chat = Chat.load(folder)
    conversations = [(Message(role="user", content=f"Is this review negative, neutral or positive? Answer with one word.\n\n{row['text']}"),) for row in rows]
    right, chosen = {}, {}
    for precision in ("source", "fp32", "int8"):
        engine: Any = (
            transformers.start(folder, precision="fp32")
            if precision == "source"
            else engines.start(tmp_path / export(folder, tmp_path, precision=precision).file)
        )
        chosen[precision] = Asker(engine, chat).choose(conversations, LABELS)
        right[precision] = sum(one == row["label"] for one, row in zip(chosen[precision], rows, strict=True))
        engine.close()
    assert abs(right["fp32"] - right["source"]) <= 1
    assert chosen["fp32"] == chosen["source"]
    assert abs(right["int8"] - right["source"]) <= 6
