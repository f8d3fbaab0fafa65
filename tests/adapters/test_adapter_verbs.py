"""`planish adapter`: list, merge, combine, swap, adopt; their JSON, and what they refuse (MISSION A12)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.adapters.shelf_of_adapters import attached, moved, said, tuned
from tests.conftest import make_tiny
from typer.testing import CliRunner

from planish.cli import app
from planish.errors import InputError
from planish.model.chat import Chat
from planish.model.load import load
from planish.model.trained import open_trained, output_change, save


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, biased: Path) -> Path:
    """Two LoRAs, one IA3 and a prompt of one base."""
    folder = tmp_path_factory.mktemp("adapters")
    save(tuned(biased, "lora"), Chat.load(biased), folder / "one", biased)
    torch.manual_seed(3)
    other = attached(biased, "lora")
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
    save(other, Chat.load(biased), folder / "other", biased)
    for name in ("ia3", "prompt"):
        save(tuned(biased, name), Chat.load(biased), folder / name, biased)
    return folder


def verb(*words: object) -> Any:
    """What `planish adapter` prints with --json. Errors come through."""
    done = CliRunner().invoke(app, ["adapter", *map(str, words), "--json"], catch_exceptions=False)
    return json.loads(done.stdout)


def test_list(home: Path) -> None:
    found = verb("list", home)
    assert [(Path(one["folder"]).parent.name, one["kind"]) for one in found] == [
        ("ia3", "IA3"),
        ("one", "LORA"),
        ("other", "LORA"),
        ("prompt", "PROMPT_TUNING"),
    ]
    assert "no adapter below" in CliRunner().invoke(app, ["adapter", "list", str(home / "one" / "tokenizer")]).stdout


def test_merge(home: Path, biased: Path, tmp_path: Path) -> None:
    """The folder is a whole model: its answers are the attached adapter's, and base.json says what it was made from."""
    done = verb("merge", home / "one" / "adapter", "--base", biased, "--out", tmp_path / "merged")
    assert done["apart"] < 1e-4
    assert output_change(said(load(tmp_path / "merged", "fp32")), said(open_trained(biased, home / "one", "fp32"))) < 1e-4
    assert json.loads((tmp_path / "merged" / "base.json").read_text(encoding="utf-8"))["base"].startswith("sha256:")
    with pytest.raises(InputError, match="exists already"):
        verb("merge", home / "one" / "adapter", "--base", biased, "--out", tmp_path / "merged")
    with pytest.raises(InputError, match="PROMPT_TUNING cannot be merged"):
        verb("merge", home / "prompt" / "adapter", "--base", biased, "--out", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_combine_and_swap(home: Path, biased: Path, tmp_path: Path) -> None:
    one, other = home / "one" / "adapter", home / "other" / "adapter"
    assert verb("combine", one, other, "--out", tmp_path / "both" / "adapter")["weights"] == [0.5, 0.5]
    assert output_change(said(open_trained(biased, tmp_path / "both", "fp32")), said(load(biased, "fp32"))) > 0
    with pytest.raises(InputError, match="2 adapters and 1 weights"):
        verb("combine", one, other, "--weights", "1", "--out", tmp_path / "none")
    with pytest.raises(InputError, match="no list of numbers"):
        verb("combine", one, other, "--weights", "1;2", "--out", tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert verb("swap", one, other, "--base", biased)["seconds"] > 0
    with pytest.raises(InputError, match="has no place in this model"):
        verb("swap", one, home / "ia3" / "adapter", "--base", biased)


def test_another_base_and_another_architecture_are_refused(home: Path, biased: Path, tmp_path: Path) -> None:
    """Wrong hash, with what differs between the architectures; what fits in no tensor is not adopted, its shapes are named."""
    wider = make_tiny(tmp_path / "wider", hidden=64)
    with pytest.raises(
        InputError, match=r"was trained on the base sha256[\s\S]*another architecture: model_type qwen2 there, llama here, hidden_size 48 there, 64 here"
    ):
        verb("merge", home / "one" / "adapter", "--base", wider, "--out", tmp_path / "none")
    with pytest.raises(InputError, match=r"is \(4, 48\), and the model has \(4, 64\)"):
        verb("adopt", home / "one" / "adapter", "--base", wider, "--out", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_another_tokenizer_is_another_base(home: Path, biased: Path, tmp_path: Path) -> None:
    """The same weights under other token ids: the hash of a base covers its tokenizer and template."""
    import shutil

    other = tmp_path / "other"
    shutil.copytree(biased, other)
    text = (other / "tokenizer.json").read_text(encoding="utf-8")
    (other / "tokenizer.json").write_text(text.replace('"<|im_start|>"', '"<|begin|>"'), encoding="utf-8")
    with pytest.raises(InputError, match="the same architecture with other weights, tokenizer or template"):
        verb("swap", home / "one" / "adapter", home / "other" / "adapter", "--base", other)


def test_adopt(home: Path, biased: Path, tmp_path: Path) -> None:
    """A file that names its base by a path is bound to the base that it fits, and opens there."""
    import shutil

    shutil.copytree(home / "one" / "adapter", tmp_path / "theirs")
    config = json.loads((tmp_path / "theirs" / "adapter_config.json").read_text(encoding="utf-8"))
    (tmp_path / "theirs" / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "somewhere"}), encoding="utf-8")
    verb("adopt", tmp_path / "theirs", "--base", biased, "--out", tmp_path / "mine" / "adapter")
    assert torch.equal(said(open_trained(biased, tmp_path / "mine", "fp32")), said(moved(attached(biased, "lora"))))
