"""The llama.cpp engine: the protocol's promises on a tiny random file, and agreement with transformers on the real one."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from tests.conftest import make_tiny
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from planish.engines import llamacpp
from planish.engines.llamacpp import LlamaCppEngine, Slot, start
from planish.errors import InputError, RunFailed
from planish.exporters.gguf import export
from planish.model.bundled import locate
from planish.model.choice import branches, probabilities
from planish.model.constraint import Constraint
from planish.model.engine import Decoding

PROMPTS = [[1, 20 + index % 3, *range(30, 40 + 3 * index)] for index in range(6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = make_tiny(tmp_path_factory.mktemp("llamacpp") / "model", hidden=64)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1200}))
    return model


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    return folder.parent / export(folder, folder.parent, quant="Q4_K_M").file


@pytest.fixture(scope="module")
def engine(file: Path) -> Iterator[LlamaCppEngine]:
    started = start(file, context=1200, threads=1)
    yield started
    started.close()
    started.close()


def test_answers_do_not_depend_on_the_rest_of_the_call(engine: LlamaCppEngine) -> None:
    decoding = Decoding(max_new_tokens=12)
    together = engine.generate(PROMPTS, decoding)
    assert engine.generate(PROMPTS[::-1], decoding)[::-1] == together
    assert [engine.generate([prompt], decoding)[0] for prompt in PROMPTS for _ in range(2)][::2] == together
    assert len({answer.token_ids for answer in together}) > 1


def test_probabilities_are_bit_equal_whatever_the_cache_holds(engine: LlamaCppEngine) -> None:
    options = [[7], [8, 9], [8, 10]]
    long = [1, *[50 + index % 90 for index in range(700)]]
    prompts = [*PROMPTS, long, [*long, 5, 6], long[:513], long[:514], [*long[:300], 4]]
    first = engine.choose(prompts, options)
    assert engine.choose(prompts[::-1], options)[::-1] == first
    assert all(sum(row) == pytest.approx(1, abs=1e-6) for row in first)


def test_choose_agrees_with_transformers(engine: LlamaCppEngine, folder: Path, file: Path) -> None:
    plain = start(folder.parent / export(folder, folder.parent, quant="F16").file, context=256, threads=1)
    try:
        options = [[7], [8, 9], [8, 10], [300]]
        got = plain.choose(PROMPTS, options)
    finally:
        plain.close()
    for row, expected in zip(got, by_transformers(LlamaForCausalLM.from_pretrained(folder), PROMPTS, options), strict=True):
        assert row == pytest.approx(expected, abs=1e-2)


def by_transformers(model: LlamaForCausalLM, prompts: list[list[int]], options: list[list[int]]) -> list[list[float]]:
    rows = []
    with torch.inference_mode():
        for prompt in prompts:
            found = {}
            for path, allowed in branches(options).items():
                logits = model(torch.tensor([[*prompt, *path]])).logits[0, -1].double()
                found[path] = {token: float(logits[token]) for token in allowed}
            rows.append(probabilities(options, found))
    return rows


def test_a_stream_is_the_answer_in_pieces(engine: LlamaCppEngine, folder: Path) -> None:
    tokenizer, decoding = AutoTokenizer.from_pretrained(folder), Decoding(max_new_tokens=4)
    prompts = [[1, 20 + index, 30] for index in range(20)]
    answers = dict(enumerate(engine.generate(prompts, decoding)))
    readable = {index: answer for index, answer in answers.items() if "\ufffd" not in tokenizer.decode(answer.token_ids)}  # not bytes that are no text
    assert len(readable) > 2
    for index, whole in readable.items():
        pieces = list(engine.stream(prompts[index], decoding))
        assert "".join(piece.text for piece in pieces) == whole.text
        assert tuple(id for piece in pieces for id in piece.token_ids) == whole.token_ids
        assert [piece.finish for piece in pieces if piece.finish] == [whole.finish]
    assert all(len(answer.token_ids) == 4 for answer in answers.values() if answer.finish == "length")


def test_closing_a_stream_frees_the_slot(engine: LlamaCppEngine) -> None:
    stream = engine.stream(PROMPTS[0], Decoding(max_new_tokens=1000))
    next(stream)
    stream.close()
    begun = time.monotonic()
    assert engine.generate([PROMPTS[1]], Decoding(max_new_tokens=2))
    assert time.monotonic() - begun < 5


def test_stop_strings_are_cut_off(engine: LlamaCppEngine) -> None:
    [whole] = engine.generate([PROMPTS[2]], Decoding(max_new_tokens=16))
    stop = whole.text[len(whole.text) // 2 :][:3]
    [cut] = engine.generate([PROMPTS[2]], Decoding(max_new_tokens=16, stop=(stop,)))
    assert cut.finish == "stop"
    assert cut.text == whole.text[: whole.text.index(stop)]


def test_e2_the_repetition_penalty_counts_the_whole_context(engine: LlamaCppEngine, folder: Path) -> None:
    """Every setting reaches llama.cpp: with a penalty of 1e9 no token of the prompt or the answer comes again, and min_p 1 leaves only the likeliest token."""
    [answer] = engine.generate([PROMPTS[5]], Decoding(max_new_tokens=60, repetition_penalty=1e9))
    assert len(set(answer.token_ids)) == len(answer.token_ids)
    assert not set(answer.token_ids) & set(PROMPTS[5])
    assert engine.generate([PROMPTS[1]], Decoding(max_new_tokens=8, temperature=2.0, min_p=1.0)) == engine.generate([PROMPTS[1]], Decoding(max_new_tokens=8))


def test_e3_constrained_answers_keep_their_form(engine: LlamaCppEngine) -> None:
    """MISSION E3: regex, JSON Schema, labels and a grammar, each sampled from a random model: valid every time."""
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "k": {"enum": ["x", "y"]}}}
    schema |= {"required": ["n", "k"], "additionalProperties": False}
    for seed, prompt in enumerate(PROMPTS):

        def said(constraint: Constraint, prompt: list[int] = prompt, seed: int = seed) -> str:
            [answer] = engine.generate([prompt], Decoding(max_new_tokens=64, temperature=1.5, seed=seed, constraint=constraint))
            assert answer.finish == "stop"
            return answer.text

        assert re.fullmatch("[a-f]{2,9}/x", said(Constraint.regex("[a-f]{2,9}/x")))
        assert set(json.loads(said(Constraint.json_schema(schema)))) == {"n", "k"}
        assert said(Constraint.choice(["good", "goods", '"bad"\n'])) in {"good", "goods", '"bad"\n'}
        assert re.fullmatch(r"(\([ab]\)){1,3}", said(Constraint.grammar('start: pair{1,3}\npair: "(" /[ab]/ ")"')))


def test_sampling_is_repeatable_by_seed(engine: LlamaCppEngine) -> None:
    def sample(seed: int) -> tuple[int, ...]:
        return engine.generate([PROMPTS[3]], Decoding(max_new_tokens=8, temperature=2.0, top_k=50, top_p=0.95, seed=seed))[0].token_ids

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(4)}) > 1
    assert len(sample(2**32 - 1)) == 8


def test_concurrent_requests_keep_their_order(file: Path) -> None:
    quick = start(file, context=256, threads=1, exact=False)
    try:
        answers = quick.generate(PROMPTS, Decoding(max_new_tokens=4))
        assert [len(answer.token_ids) for answer in answers] == [4] * len(PROMPTS)
        assert len(quick.choose(PROMPTS, [[7], [8]])) == len(PROMPTS)
    finally:
        quick.close()


def test_what_does_not_fit_is_refused_at_once(engine: LlamaCppEngine, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        engine.generate([[1] * 1190, [], [1]], Decoding(max_new_tokens=20))
    assert [problem.where for problem in refused.value.problems] == ["prompt 0", "prompt 1"]
    with pytest.raises(InputError, match="begins with another"):
        engine.choose([[1]], [[1], [1, 2]])
    with pytest.raises(InputError, match="is no file"):
        start(tmp_path / "absent.gguf")


def test_a_broken_file_is_an_error_with_the_log(tmp_path: Path) -> None:
    """A header that is not sound never reaches the worker; one that is sound and names no model ends it."""
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + b"\0" * 64)
    with pytest.raises(InputError, match="no whole GGUF file"):
        start(tmp_path / "broken.gguf")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    with pytest.raises(RunFailed, match="died while starting") as failed:
        start(tmp_path / "broken.gguf")
    assert failed.value.reason_code == "engine_died"
    assert "load" in str(failed.value)


def test_a_worker_that_dies_ends_the_request(file: Path) -> None:
    doomed = start(file, context=256, threads=1)
    pid = doomed._worker.process.pid
    os.kill(pid, signal.SIGSTOP)  # or on a busy machine it would be done before it is killed
    killer = threading.Timer(0.5, os.kill, (pid, signal.SIGKILL))
    killer.start()
    with pytest.raises(RunFailed, match="died while it answered") as failed:
        list(doomed.stream(PROMPTS[0], Decoding(max_new_tokens=100)))
    killer.join()
    assert failed.value.reason_code == "engine_died"
    with pytest.raises(RunFailed):
        doomed.generate([PROMPTS[0]], Decoding(max_new_tokens=2))
    doomed.close()


def test_the_listener_asks_for_the_key_which_no_command_line_shows(engine: LlamaCppEngine) -> None:
    address, key = engine._worker.ready["address"], engine._client.headers["authorization"].removeprefix("Bearer ")
    assert address.startswith("http://127.0.0.1:")
    assert httpx.post(f"{address}/completion", json={"prompt": [1]}, trust_env=False).status_code == 401
    assert key not in Path(f"/proc/{engine._worker.process.pid}/cmdline").read_text()


def test_the_worker_goes_with_its_parent(file: Path) -> None:
    program = f"""
import os, pathlib, threading
from planish.engines.llamacpp import start
found = []
thread = threading.Thread(target=lambda: found.append(start(pathlib.Path({str(file)!r}), context=256, threads=1)))
thread.start(); thread.join()  # the thread that started it ends: the worker must not
from planish.model.engine import Decoding
assert found[0].generate([[1, 2, 3]], Decoding(max_new_tokens=2))
print(found[0]._worker.process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=False)
    worker = Path(f"/proc/{int(done.stdout)}/stat")
    for _ in range(100):
        if not worker.exists() or worker.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the worker outlived its parent")


def test_which_prefixes_are_reused() -> None:
    held = Slot(0, tuple(range(100)), after=7)
    more = tuple(range(200, 216))
    assert held.reusable((*range(90), *more))
    assert not held.reusable((*range(90), *more[1:]))  # few tokens are computed by other kernels
    assert not held.reusable(tuple(range(100)))
    assert not held.reusable((*range(100), 7, *more))  # its cache goes on with what was generated one by one
    assert held.reusable((*range(100), 8, *more))
    assert not Slot(0, tuple(range(100))).reusable((*range(100), 8, *more))  # a cut stream: nobody knows what follows
    assert not held.reusable((*range(90), *range(513 - 90)))  # 513 in all: computed from nothing, the last one is alone
    assert not Slot(0, (1, 2, 3), after=-1).reusable((1, 2, 3, *more))
    assert llamacpp.available_cores() >= 1


@pytest.mark.slow
def test_real_model_agrees_with_transformers_on_50_prompts(tmp_path: Path) -> None:
    checkpoint = locate("smollm2-135m-instruct")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    reviews = ["The battery is {}.", "I think the sound was {}!", "Support: {}, honestly.", "It arrived {} and I use it daily.", "{} value for the price"]
    words = ["great", "awful", "fine", "slow", "cheap", "broken", "lovely", "okay", "late", "useless"]
    texts = [review.format(word) for review in reviews for word in words]
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": f"Is this review negative, neutral or positive?\n{text}"}], add_generation_prompt=True, return_dict=False
        )
        for text in texts
    ]
    options = [tokenizer.encode(label) for label in ("negative", "neutral", "positive", "Negative", "Positive")]
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    expected = by_transformers(model, prompts, options)
    engine = start(tmp_path / export(checkpoint, tmp_path, quant="F16").file, context=512, threads=1)
    try:
        got = engine.choose(prompts, options)
        again = engine.choose(prompts[::-1], options)[::-1]
        answers = engine.generate(prompts[:10], Decoding(max_new_tokens=24))
        assert engine.generate(prompts[:10][::-1], Decoding(max_new_tokens=24))[::-1] == answers
    finally:
        engine.close()
    small = start(tmp_path / export(checkpoint, tmp_path, quant="Q4_K_M").file, context=512, threads=1)
    try:
        assert small.choose(prompts[::-1], options)[::-1] == small.choose(prompts, options)
    finally:
        small.close()
    assert got == again
    worst = max(abs(a - b) for row, other in zip(got, expected, strict=True) for a, b in zip(row, other, strict=True))
    same = sum(row.index(max(row)) == other.index(max(other)) for row, other in zip(got, expected, strict=True))
    print(json.dumps({"worst": worst, "same": same}))  # noqa: T201
    assert worst < 1e-2
    assert same >= 49
