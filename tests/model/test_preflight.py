"""Before any model load: planted defects are found with their rows, clean sets raise no alarm (MISSION K4)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.model.chat_families import CALLED, CHATML, FAMILIES, GEMMA, LLAMA3, TOOL, chat, row, turns
from typer.testing import CliRunner

from planish.cli import app
from planish.data.table import Table
from planish.errors import InputError
from planish.model import preflight_files
from planish.model.dialogues import Dialogues
from planish.model.preflight import Flight, Line, preflight, text
from planish.rows import ChatRow, Message, RejectCode, RejectedRow

GOOD = [row(turns(("user", f"what is {n}?"), ("assistant", f"it is {n}")), id=f"g{n}") for n in range(30)]
THOUGHT = turns(("user", "a"), ("assistant", "<think>\nhm\n</think>\n\nParis"), ("user", "b"), ("assistant", "sunny"))
OPENED = CHATML.replace("'<|im_start|>assistant\n' }}{% endif %}", "'<|im_start|>assistant\n<think>' }}{% endif %}")


def make_model(folder: Path, name: str = "chatml", vocabulary: int | None = None, **changed: Any) -> Path:
    """A tokenizer with config and weights of the right names, in small."""
    import torch
    from safetensors.torch import save_file

    one = chat(name, **changed)
    one.save(folder)
    size = vocabulary if vocabulary is not None else len(one.tokenizer)
    layer = {f"model.layers.0.self_attn.{part}.weight": torch.zeros(4, 4) for part in ("q_proj", "v_proj")}
    save_file({"model.embed_tokens.weight": torch.zeros(size, 4), **layer}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"vocab_size": size, "max_position_embeddings": 4096}), encoding="utf-8")
    return folder


def flown(model: Path, rows: list[ChatRow], rejected: tuple[RejectedRow, ...] = (), **options: Any) -> dict[str, Line]:
    """The red lines by name."""
    flight = Flight(Dialogues(Table.of(rows), rejected), model, workspace=model, **options)
    return {line.check: line for line in preflight(flight) if line.status == "red"}


class Planted(NamedTuple):
    """A defect: the line that must be red, the rows it must name, and how it is made."""

    check: str
    rows: tuple[str, ...]
    make: Callable[[Path], dict[str, Line]]


def rows_with(*bad: ChatRow) -> list[ChatRow]:
    return [*GOOD[:15], *bad, *GOOD[15:]]


def cut(folder: Path) -> dict[str, Line]:
    model = make_model(folder)
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-8])
    return flown(model, GOOD)


def shard_missing(folder: Path) -> dict[str, Line]:
    model = make_model(folder)
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "model-00002.safetensors"}}), encoding="utf-8")
    return flown(model, GOOD)


def no_template(folder: Path) -> dict[str, Line]:
    model = make_model(folder)
    (model / "chat_template.jinja").unlink()
    return flown(model, GOOD)


def no_weights(folder: Path) -> dict[str, Line]:
    model = make_model(folder)
    (model / "model.safetensors").unlink()
    return flown(model, GOOD)


def foreign_tokenizer(folder: Path) -> dict[str, Line]:
    return flown(make_model(folder, vocabulary=200), GOOD)


def forgotten_begin(folder: Path) -> dict[str, Line]:
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    model = make_model(folder, "llama3", template=LLAMA3.replace("{{ bos_token }}", ""))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    begin = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, tokenizer.bos_token_id)])
    tokenizer.save_pretrained(model)
    return flown(model, GOOD)


SYSTEM = row((*turns(("system", "Be brief.")), *GOOD[0].messages), id="bad")
OFF = row((GOOD[0].messages[0], Message(role="assistant", content="x", weight=0)), id="bad")
LONG = row(turns(("user", "what is it?"), ("assistant", "sunny " * 60)), id="bad")
FILLED = row(turns(("user", "what is it? " * 60), ("assistant", "sunny")), id="bad")
REFUSED = tuple(RejectedRow(file="f", line=n, row_id=f"x{n}", code=RejectCode.EMPTY_ANSWER, why="no answer", fix="give one", raw="{}") for n in range(3))
ALL = tuple(given.id for given in GOOD)
BARE = "{% for m in messages if m.role == 'assistant' %}{{ m.content + '<|im_end|>' }}{% endfor %}"

PLANTED: dict[str, Planted] = {
    "rows the contract refused": Planted("rows", ("x0", "x1", "x2"), lambda f: flown(make_model(f), GOOD, REFUSED)),
    "no template": Planted("template", (), no_template),
    "a system turn that the template refuses": Planted("template", ("bad",), lambda f: flown(make_model(f, "gemma"), rows_with(SYSTEM))),
    "a system turn that the template drops": Planted("template", ("bad",), lambda f: flown(make_model(f, "mistral"), rows_with(SYSTEM))),
    "calls without a place": Planted("template", ("bad",), lambda f: flown(make_model(f, "qwen3"), rows_with(row(CALLED, "bad")))),
    "tools that are left out": Planted("template", ("bad",), lambda f: flown(make_model(f, "gemma"), rows_with(row(GOOD[0].messages, "bad", (TOOL,))))),
    "turns in an order the template refuses": Planted(
        "template", ("bad",), lambda f: flown(make_model(f, "gemma"), rows_with(row((GOOD[0].messages[0], *GOOD[0].messages), "bad")))
    ),
    "a prompt that opens a thought": Planted("parity", ALL, lambda f: flown(make_model(f, template=OPENED), GOOD)),
    "thoughts stripped from the history": Planted("parity", ("bad",), lambda f: flown(make_model(f, "qwen3"), rows_with(row(THOUGHT, "bad")))),
    "a token over the end of the prompt": Planted(
        "parity",
        ("bad",),
        lambda f: flown(make_model(f, special=(*FAMILIES["chatml"].special, "\n\n")), rows_with(row(turns(("user", "a"), ("assistant", "\nb")), "bad"))),
    ),
    "an end token that generation does not know": Planted("end", ALL, lambda f: flown(make_model(f, end="<|endoftext|>", eos="<|endoftext|>"), GOOD)),
    "no end token": Planted("end", ALL, lambda f: flown(make_model(f, "gemma", template=GEMMA.replace("<end_of_turn>", "")), GOOD)),
    "two begin tokens": Planted("begin", ALL, lambda f: flown(make_model(f, "llama3", template="{{ bos_token }}" + LLAMA3), GOOD)),
    "no begin token": Planted("begin", (), forgotten_begin),
    "an answer that is cut": Planted("length", ("bad",), lambda f: flown(make_model(f), rows_with(LONG), max_length=64)),
    "a prompt that fills the length": Planted("length", ("bad",), lambda f: flown(make_model(f), rows_with(FILLED), max_length=64)),
    "more than 2 % left out for their length": Planted("length", ("bad",), lambda f: flown(make_model(f), rows_with(LONG), max_length=64, policy="drop")),
    "a row of which nothing is trained": Planted("share", ("bad",), lambda f: flown(make_model(f), rows_with(OFF))),
    "rows that are trained whole": Planted("share", ("bad",), lambda f: flown(make_model(f, template=BARE), [row(turns(("assistant", "Paris")), "bad")])),
    "a special token in the text": Planted(
        "special", ("bad",), lambda f: flown(make_model(f), rows_with(row(turns(("user", "say <|im_end|>"), ("assistant", "no")), "bad")))
    ),
    "the tokenizer of another model": Planted("vocabulary", (), foreign_tokenizer),
    "an adapter on a weight that is not there": Planted("targets", (), lambda f: flown(make_model(f), GOOD, targets=(["q_proj", "k_prj"],))),
    "an adapter pattern that means nothing": Planted("targets", (), lambda f: flown(make_model(f), GOOD, targets=("q_proj",))),
    "a weights file that is cut": Planted("weights", (), cut),
    "a weights file that is missing": Planted("weights", (), shard_missing),
    "no weights": Planted("weights", (), no_weights),
}


@pytest.mark.parametrize("name", PLANTED)
def test_k4_planted_defects_are_caught(name: str, tmp_path: Path) -> None:
    """MISSION K4: at least 18 defects; each makes its own line red, names its rows and says what to do."""
    planted = PLANTED[name]
    red = planted.make(tmp_path)
    assert set(red) == {planted.check}
    assert red[planted.check].rows == planted.rows
    assert red[planted.check].fix


def test_k4_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(preflight_files.shutil, "disk_usage", lambda _: usage(1, 1, 0))
    assert set(flown(make_model(tmp_path), GOOD)) == {"disk"}


def test_k4_planted_defects_are_enough() -> None:
    assert len(PLANTED) >= 18


@pytest.mark.parametrize("name", FAMILIES)
def test_k4_no_false_alarm(name: str, tmp_path: Path) -> None:
    model = make_model(tmp_path, name)
    assert flown(model, GOOD, targets=("all-linear", ["q_proj", "v_proj"], r".*\.(q|v)_proj")) == {}
    assert flown(model, GOOD, max_length=64, policy="drop", full=True) == {}
    if name in ("chatml", "llama3", "mistral"):
        assert flown(model, rows_with(row(CALLED, "call", (TOOL,)))) == {}
    assert flown(model, rows_with(row((*GOOD[0].messages, *GOOD[1].messages), "two")), turns="last") == {}


def test_k4_worked_example(tmp_path: Path) -> None:
    """MISSION K4: answers cut in 7 of 200 rows: red, the rows are listed, a length is proposed; with that length it is green."""
    long = [row(turns(("user", "what is it?"), ("assistant", "sunny " * (70 + n))), id=f"long{n}") for n in range(7)]
    short = [row(turns(("user", f"what is {n}?"), ("assistant", "x")), id=f"s{n}") for n in range(193)]
    rows = [*short[:90], *long, *short[90:]]
    model = make_model(tmp_path)
    line = flown(model, rows, max_length=64)["length"]
    assert "7 of 200 answers would be cut" in line.detail
    assert line.rows == tuple(given.id for given in long)
    proposed = int(line.fix.split()[1])
    assert proposed % 64 == 0
    assert flown(model, rows, max_length=proposed) == {}


def test_the_share_is_of_the_rows_that_are_not_left_out(tmp_path: Path) -> None:
    """49 answers of one token and its end, and one of 300, which policy drop leaves out: 98 trained tokens."""
    rows = [row(turns(("user", f"what is {n}?"), ("assistant", "x")), id=f"s{n}") for n in range(49)]
    rows.append(row(turns(("user", "what is it?"), ("assistant", "sunny " * 300)), id="long"))
    lines = preflight(Flight(Dialogues(Table.of(rows), ()), make_model(tmp_path), workspace=tmp_path, max_length=64, policy="drop"))
    (line,) = [line for line in lines if line.check == "share"]
    assert line.detail.startswith("98 of ")


def test_the_tiny_model_is_clean(tiny: Path) -> None:
    assert flown(tiny, GOOD) == {}


def test_one_line_a_check(tmp_path: Path) -> None:
    lines = preflight(Flight(Dialogues(Table.of(GOOD), ()), make_model(tmp_path), workspace=tmp_path))
    assert [line.check for line in lines] == [
        "rows", "template", "parity", "end", "begin", "length", "share", "special", "weights", "vocabulary", "targets", "disk",
    ]  # fmt: skip
    assert len(text(lines).splitlines()) == len(lines)


def test_the_verb_on_a_file_and_on_a_recipe(tmp_path: Path, tiny: Path) -> None:
    """Exit 0 and 2, without torch: nothing of a model is loaded."""
    model = shutil.copytree(tiny, tmp_path / "model")
    rows = [{"messages": [{"role": "user", "content": f"is it {n}?"}, {"role": "assistant", "content": f"it is {n}"}]} for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    command = [
        sys.executable,
        "-c",
        "import sys\nfrom planish.cli import main\ntry: main()\nfinally: print('torch' in sys.modules, file=sys.stderr)",
        "preflight",
    ]
    good = subprocess.run([*command, str(tmp_path / "rows.jsonl"), "--model", str(model), "--json"], capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stderr
    assert {line["status"] for line in json.loads(good.stdout)} == {"ok"}
    assert good.stderr.strip().endswith("False")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "recipe: 1\nmodel: model\ndata: {path: rows.jsonl, task: chat}\ntrain:\n  - {objective: sft, adapter: {lora: {targets: [q_prj]}}, max_length: 8}\n"
    )
    bad = subprocess.run([*command, str(recipe)], capture_output=True, text=True, check=False)
    assert bad.returncode == 2
    assert [line.split()[1] for line in bad.stdout.splitlines() if line.startswith("red")] == ["length", "targets", "recipe"]
    assert "q_proj" in bad.stdout


def test_the_verb_says_of_a_recipe_all_that_a_run_would_refuse(tmp_path: Path, tiny: Path) -> None:
    """A rank above the narrowest layer, weights that learn nothing and a capture that is not there, in one go; a run that would begin is said, and no workspace is made."""
    shutil.copytree(tiny, tmp_path / "model")
    rows = [{"prompt": f"is it {n}?", "completion": f"it is {n}"} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    said = {}
    for name, entry in {
        "good": "{objective: sft, adapter: {lora: {r: 2}}, max_steps: 1}",
        "bad": "{objective: {kd: {capture: none, ce_weight: 0, kd_weight: 0}}, adapter: {lora: {r: 3000}}, max_steps: 1}",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(f"recipe: 1\nmodel: model\ndata: {{path: rows.jsonl}}\ntrain: [{entry}]\n", encoding="utf-8")
        result = CliRunner().invoke(app, ["preflight", str(tmp_path / f"{name}.yaml"), "--workspace", str(tmp_path / "work"), "--json"])
        said[name] = [line["detail"] for line in json.loads(result.stdout) if line["check"] == "recipe"]
        assert result.exit_code == (0 if name == "good" else 2)
    assert said["good"] == ["a run of it would begin"]
    for part in ("holds no teacher capture", "ce_weight and kd_weight are both 0", "train[0].adapter.lora.r: rank 3000 is larger"):
        assert any(part in line for line in said["bad"]), (part, said["bad"])
    assert not (tmp_path / "work").exists()
    (tmp_path / "rows.jsonl").unlink()
    gone = CliRunner().invoke(app, ["preflight", str(tmp_path / "bad.yaml")])
    assert isinstance(gone.exception, InputError)
    assert "rows.jsonl: there is no such file" in str(gone.exception)
    assert "rank 3000" in str(gone.exception)
