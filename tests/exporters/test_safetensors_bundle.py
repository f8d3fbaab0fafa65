"""The safetensors bundle and what goes with every artifact (MISSION Z5)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import make_tiny
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaForCausalLM

from planish.errors import InputError
from planish.exporters.safetensors import export
from planish.model.chat import Chat
from planish.model.exported import Exported
from planish.model.papers import Lineage, licence, write_papers

LINEAGE = Lineage(
    run="r1",
    recipe_hash="sha256:aa",
    base="owner/base",
    revision="c0ffee",
    base_hash="sha256:bb",
    made={"safetensors": {"dtype": "bf16"}},
    data={"train": "sha256:cc"},
)


def outputs(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(torch.arange(3, 60)[None]).logits
    return found


def test_z5_a_bundle_in_several_files_is_the_checkpoint(tiny: Path, tmp_path: Path) -> None:
    """transformers loads the same weights, ids, template and generation settings; files stay below the limit (100,000 bytes here; no tensor alone is above it)."""
    made = export(tiny, tmp_path, shard_gb=1e-4)
    folder = tmp_path / made.file
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) > 1
    assert made.notes == (f"{len(files)} files",)
    assert all(path.stat().st_size < 100_000 + 4096 for path in files)
    assert made.bytes == sum(path.stat().st_size for path in files)
    assert torch.equal(outputs(folder), outputs(tiny))
    ours, theirs = Chat.load(folder), Chat.load(tiny)
    assert (ours.tokenizer_hash, ours.template_hash, ours.ends) == (theirs.tokenizer_hash, theirs.template_hash, theirs.ends)
    assert GenerationConfig.from_pretrained(folder).eos_token_id == 2


def test_z5_another_dtype_and_no_generation_settings_in_the_source(tiny: Path, tmp_path: Path) -> None:
    """bf16 is the fp32 weight rounded once; config.json says so; settings are made of config.json's special ids."""
    source = tmp_path / "source"
    source.mkdir()
    for path in tiny.iterdir():
        if path.name != "generation_config.json":
            (source / path.name).write_bytes(path.read_bytes())
    made = export(source, tmp_path, dtype="bf16")
    folder = tmp_path / made.file
    assert made.bits_per_weight == 16
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    plain = LlamaForCausalLM.from_pretrained(tiny, dtype=torch.float32).state_dict()
    for name, values in LlamaForCausalLM.from_pretrained(folder, dtype="auto").state_dict().items():
        assert torch.equal(values, plain[name].bfloat16()), name
    settings = GenerationConfig.from_pretrained(folder)
    assert (settings.bos_token_id, settings.eos_token_id) == (1, 2)


def test_z5_an_adapter_is_merged_as_peft_merges_it(tiny: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(LlamaForCausalLM.from_pretrained(tiny), LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "down_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "adapter")
    made = export(tiny, tmp_path, tmp_path / "adapter")
    with torch.no_grad():
        expected = model.merge_and_unload()(torch.arange(3, 60)[None]).logits
    assert torch.allclose(outputs(tmp_path / made.file), expected, atol=1e-4)


def test_an_interrupted_bundle_leaves_nothing(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from planish.exporters import safetensors as exporter

    def broken(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(exporter, "carry", broken)
    with pytest.raises(KeyboardInterrupt):
        export(tiny, tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="shard_gb"):
        export(tiny, tmp_path, shard_gb=0)


@pytest.mark.parametrize("whole", [True, False], ids=["folder", "file"])
def test_z5_papers_of_a_folder_and_of_a_file(tiny: Path, tmp_path: Path, whole: bool) -> None:
    """Card, licence, lineage; and hashes that sha256sum checks, of every file; one changed byte is found."""
    base = tmp_path / "base"
    make_tiny(base)
    (base / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Base\n")
    (base / "LICENSE").write_text("Apache License")
    out = tmp_path / "out"
    if whole:
        made = export(tiny, out)
    else:
        out.mkdir()
        (out / "model-Q8_0.gguf").write_bytes(b"GGUF")
        made = Exported(file="model-Q8_0.gguf", bytes=4, bits_per_weight=8.5, tensor_types={"Q8_0": 1}, fell_back=(), notes=("a note",))
    artifact = out / made.file
    papers = write_papers(artifact, made, LINEAGE, base, {"label.accuracy": "0.900 [0.86, 0.93] (n=400)"}, task="classification", use="planish serve")
    told = papers[0].read_text()
    assert told.startswith("---\nlicense: apache-2.0\nbase_model: owner/base\n")
    assert all(part in told for part in ("revision c0ffee", "0.900 [0.86, 0.93] (n=400)", "planish serve", "for classification", "`sha256:bb`"))
    assert json.loads(papers[1].read_text())["data"] == {"train": "sha256:cc"}
    assert papers[2].read_text() == "Apache License"
    check = ["sha256sum", "--check", "--strict", papers[-1].name]
    assert subprocess.run(check, cwd=papers[-1].parent, capture_output=True, check=False).returncode == 0
    named = {line.split("  ")[1] for line in papers[-1].read_text().splitlines()}
    held = {path.name for path in (artifact.iterdir() if whole else out.iterdir())}
    assert named == held - {papers[-1].name}
    damaged = artifact / "model.safetensors" if whole else artifact
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x01")
    assert subprocess.run(check, cwd=papers[-1].parent, capture_output=True, check=False).returncode == 1


def test_a_base_that_names_no_licence_is_said_to(tiny: Path, tmp_path: Path) -> None:
    assert licence(tiny).name == "unknown"
    made = export(tiny, tmp_path)
    [card, *_] = write_papers(tmp_path / made.file, made, LINEAGE.model_copy(update={"unproven": True}), tiny, {})
    assert "names no licence" in card.read_text()
    assert "**UNPROVEN**" in card.read_text()
    assert AutoTokenizer.from_pretrained(tmp_path / made.file) is not None
    with pytest.raises(InputError, match="is not there"):
        write_papers(tmp_path / "none", made, LINEAGE, tiny, {})
