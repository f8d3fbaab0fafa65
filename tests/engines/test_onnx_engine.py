"""The onnxruntime engine: the protocol's promises on a tiny random graph, and every folder refused that is not the graph of its own configuration (MISSION Z5)."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.conftest import make_tiny
from transformers import AutoModelForCausalLM

from planish.engines import transformers
from planish.engines.onnx import OnnxEngine, start
from planish.errors import InputError
from planish.exporters.onnx import export
from planish.model.constraint import constraint_of
from planish.model.engine import Decoding
from planish.model.onnx_session import GRAPH
from planish.model.onnx_weights import DATA

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

PROMPTS = [[1, 20, 21, 22], [1, 20, 21, 30, 31], [40, 41], [1, *range(100, 160)]]
OPTIONS = [[50, 2], [50, 51, 52, 2], [50, 51, 53, 2], [60, 2]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("onnx-engine") / "model", hidden=64)


@pytest.fixture(scope="module", params=["fp32", "int8", "int4"])
def engine(request: pytest.FixtureRequest, model: Path) -> Iterator[OnnxEngine]:
    started = start(model.parent / export(model, model.parent, precision=request.param).file, threads=1)
    yield started
    started.close()
    started.close()


@pytest.fixture(scope="module")
def plain(model: Path) -> Iterator[OnnxEngine]:
    started = start(model.parent / "plain" / export(model, model.parent / "plain", precision="fp32").file, threads=1)
    yield started
    started.close()


def test_an_answer_does_not_depend_on_its_neighbours(engine: OnnxEngine) -> None:
    decoding = Decoding(max_new_tokens=10)
    together, table = engine.generate(PROMPTS, decoding), engine.choose(PROMPTS, OPTIONS)
    assert engine.generate(PROMPTS[::-1], decoding)[::-1] == together
    assert engine.choose(PROMPTS[::-1], OPTIONS)[::-1] == table
    assert [engine.generate([prompt], decoding)[0] for prompt in PROMPTS] == together
    assert len({answer.token_ids for answer in together}) > 1
    assert all(sum(row) == pytest.approx(1) for row in table)


def test_greedy_ids_and_choices_equal_transformers(plain: OnnxEngine, model: Path) -> None:
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    for prompt, answer in zip(PROMPTS, plain.generate(PROMPTS, Decoding(max_new_tokens=24)), strict=True):
        ids = torch.tensor([prompt])
        whole = reference.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, pad_token_id=2, eos_token_id=2)
        assert list(answer.token_ids) == [id for id in whole[0, len(prompt) :].tolist() if id != 2]
    other = transformers.start(model, precision="fp32")
    for row, expected in zip(plain.choose(PROMPTS, OPTIONS), other.choose(PROMPTS, OPTIONS), strict=True):
        assert row == pytest.approx(expected, abs=1e-5)
    sampled = Decoding(max_new_tokens=12, temperature=1.0, top_p=0.9, seed=3, repetition_penalty=1.1)
    assert plain.generate(PROMPTS, sampled) == other.generate(PROMPTS, sampled)


def test_stream_is_generate_in_pieces_and_stops_where_told(engine: OnnxEngine) -> None:
    [whole] = engine.generate([PROMPTS[0]], Decoding(max_new_tokens=12))
    assert "".join(piece.text for piece in engine.stream(PROMPTS[0], Decoding(max_new_tokens=12))) == whole.text
    stop = whole.text[2:4]
    [cut] = engine.generate([PROMPTS[0]], Decoding(max_new_tokens=12, stop=(stop,)))
    assert (cut.finish, cut.text) == ("stop", whole.text[: whole.text.index(stop)])


def test_a_constraint_holds(plain: OnnxEngine) -> None:
    [answer] = plain.generate([PROMPTS[0]], Decoding(max_new_tokens=8, constraint=constraint_of(choice=["good", "bad"])))
    assert answer.text in ("good", "bad")


def test_what_cannot_be_asked_is_refused_all_at_once(plain: OnnxEngine) -> None:
    with pytest.raises(InputError, match=r"(?s)prompt 0: has no tokens.*prompt 2: 510 tokens and 8 new ones do not fit the context of 512"):
        plain.generate([[], [1], [1] * 510], Decoding(max_new_tokens=8))
    with pytest.raises(InputError, match="an option begins with another option"):
        plain.choose(PROMPTS, [[50], [50, 51]])


def test_a_closed_engine_says_so(model: Path, tmp_path: Path) -> None:
    started = start(tmp_path / export(model, tmp_path).file, threads=1)
    assert started.generate([[1, 20]], Decoding(max_new_tokens=2))[0].token_ids
    memory = started.memory()
    assert memory is None or memory > 0
    started.close()
    with pytest.raises(InputError, match="is closed"):
        started.generate([[1, 20]], Decoding(max_new_tokens=2))


def test_z5_bad_what_is_no_graph_of_this_model_is_refused(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Z5 bad: a label without conversion is impossible. The weights under another name, another model's configuration, cut data, data that lies elsewhere."""
    made = tmp_path / export(model, tmp_path, precision="int8").file
    narrow = export(make_tiny(tmp_path / "other", layers=1), tmp_path / "narrow", precision="fp32", block=16)

    def copy(name: str) -> Path:
        return Path(shutil.copytree(made, tmp_path / name))

    renamed = copy("renamed")
    shutil.copyfile(model / "model.safetensors", renamed / GRAPH)
    other = copy("config of another")
    shutil.copyfile(tmp_path / "narrow" / narrow.file / "config.json", other / "config.json")
    cut = copy("cut")
    (cut / DATA).write_bytes((cut / DATA).read_bytes()[:-5000])
    alone = copy("alone")
    (alone / DATA).unlink()
    elsewhere, empty, broken = copy("elsewhere"), copy("empty"), copy("broken")
    graph = onnx.load(str(elsewhere / GRAPH), load_external_data=False)
    next(one for one in graph.graph.initializer if one.external_data).external_data[0].value = "../model/model.safetensors"
    (elsewhere / GRAPH).write_bytes(graph.SerializeToString())
    (empty / GRAPH).unlink()
    graph = onnx.load(str(broken / GRAPH), load_external_data=False)
    graph.graph.node[-1].op_type = "NoSuchOperator"
    (broken / GRAPH).write_bytes(graph.SerializeToString())
    for folder, said in [
        (renamed, "is no ONNX graph|refused|nothing of this name"),
        (other, r"(?s)logits|past_key_values\.0\.key.*keep graph and config\.json of one export together"),
        (cut, r"ends at byte \d+, model\.onnx\.data has \d+"),
        (alone, r"model\.onnx\.data has 0"),
        (elsewhere, r"lies in '\.\./model/model\.safetensors'"),
        (empty, r"model\.onnx: is missing"),
        (broken, "is refused by onnxruntime"),
    ]:
        with pytest.raises(InputError, match=said):
            start(folder, threads=1)
    assert capfd.readouterr().out == ""  # what is wrong is in the error alone
    told = json.loads((made / "config.json").read_text()) | {"vocab_size": 500}
    (other / "config.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match=r"logits: config\.json speaks of \[500\], the graph of \[512\]"):
        start(other, threads=1)


def test_a_mutated_graph_is_opened_or_refused_and_never_worse(model: Path, tmp_path: Path) -> None:
    """100 graphs with a few bytes changed or the end cut: each is refused as input or still a graph of this shape."""
    folder = tmp_path / export(model, tmp_path, precision="int4").file
    whole, draw, refused = (folder / GRAPH).read_bytes(), random.Random(0), 0
    for _ in range(100):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 4, 30))):
            data[draw.randrange(len(data))] = draw.randrange(256)
        (folder / GRAPH).write_bytes(data[: draw.randrange(len(data))] if draw.random() < 0.2 else data)
        try:
            start(folder, threads=1).close()
        except InputError:
            refused += 1
    assert refused > 80
