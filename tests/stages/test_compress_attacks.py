"""`planish compress` attacked: killed in the middle, a disk that is full or may not be written, keys and weights that are wrong, a recipe that asks for nothing."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tests.conftest import make_tiny
from tests.model.test_hostile_files import link
from typer.testing import CliRunner

from planish import pipeline
from planish.cli import app
from planish.errors import InputError, RunFailed
from planish.exporters import gguf, gptq, nf4, onnx, rtn, safetensors
from planish.model.layout import use_plain
from planish.model.load import load
from planish.recipe import Recipe
from planish.stages import compress
from planish.stages._context import read_json
from planish.store import Store, objects

RECIPE = """\
recipe: 1
model: model
data: {path: rows.jsonl, labels: [good, bad], split: {gold: 0.3}}
baseline: [majority]
train:
  - {objective: sft, adapter: {lora: {r: 4}}, learning_rate: 1e-2, max_steps: 2, batch_size: 8, validations: 0, checkpoints: 0, precision: fp32}
evaluate: {scorers: [label], general: []}
gate: ["label.accuracy >= 0"]
"""
COMPRESS = 'compress: {export: [EXPORT], gate: ["size_ratio < 9"]}\n'


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows and a model."""
    folder = tmp_path_factory.mktemp("attacked")
    make_tiny(folder / "model", hidden=64)
    make_tiny(folder / "large", hidden=256, layers=6)
    words = [hashlib.sha256(str(index).encode()).hexdigest()[:12] for index in range(120)]
    rows = [{"text": f"phone {word} is {('good', 'bad')[index % 2]}", "label": ("good", "bad")[index % 2]} for index, word in enumerate(words)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def recipe_of(home: Path, export: str) -> Recipe:
    (home / "recipe.yaml").write_text(RECIPE + COMPRESS.replace("EXPORT", export), encoding="utf-8")
    return Recipe.load(home / "recipe.yaml")


@pytest.mark.parametrize("stage", ["compress", "serve", "observe", "feedback"])
def test_a_stage_that_was_named_and_that_the_recipe_does_not_ask_for_is_refused(home: Path, stage: str, tmp_path: Path) -> None:
    """Skipping it with status 0 would look like having done it. Nothing is run; the example in the fix is a recipe's."""
    (home / "none.yaml").write_text(RECIPE, encoding="utf-8")
    with pytest.raises(InputError, match=f"none.yaml: {stage}: the recipe has none, so {stage} has nothing to do") as refused:
        CliRunner().invoke(app, [stage, str(home / "none.yaml"), "--workspace", str(tmp_path / "work")], catch_exceptions=False)
    assert not (tmp_path / "work").exists()
    example = refused.value.problems[0].fix.removeprefix("add one, as: ")
    (home / "asked.yaml").write_text(f"{RECIPE}{example}\n", encoding="utf-8")
    pipeline.refuse_unasked(Recipe.load(home / "asked.yaml"), stage)


def test_a_line_without_training_has_nothing_to_gate_and_says_what_to_add(home: Path) -> None:
    (home / "none.yaml").write_text("\n".join(RECIPE.splitlines()[:4]) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"train: the recipe has none, so gate has nothing to do\n  fix: add one, as: train:"):
        pipeline.refuse_unasked(Recipe.load(home / "none.yaml"), "gate")


@pytest.mark.parametrize(
    ("export", "why"),
    [
        ("{gptq: {group: 0}}", r"export\[0\]: gptq: group: is 0, must be 1 column or more"),
        ("{rtn: {group: -1}}", "group: is -1, must be"),
        ("{awq: {group: -64}}", "group: is -64, must be"),
        ("{gptq: {damping: -1}}", r"damping: is -1\.0, must be a number above 0"),
        ("{gptq: {damping: .nan}}", "damping: is nan"),
        ("{safetensors: {shard_gb: .inf}}", "shard_gb: is inf, must be above 0 and finite"),
    ],
)
def test_z2_z4_numbers_that_no_exporter_can_take_are_refused_before_training(home: Path, export: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=why):
        compress.preflight(recipe_of(home, export), Store(tmp_path / "work"))


def test_z2_gptq_refuses_a_damping_that_lifts_nothing_by_itself_too(home: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="damping: is 0"):
        gptq.export(home / "model", tmp_path, damping=0.0)


def test_one_problem_is_said_once_although_several_stages_meet_it(home: Path, tmp_path: Path) -> None:
    recipe = recipe_of(home, "gguf").model_copy(update={"model": str(link(home / "model", tmp_path / "weightless", "model.safetensors"))})
    with pytest.raises(InputError, match=r"has no \*\.safetensors weights") as refused:
        pipeline.run(recipe, workspace=tmp_path / "work", until="compress")
    assert len(refused.value.problems) == len({*refused.value.problems})


def test_nan_weights_are_called_so_and_not_a_strange_family(home: Path, tmp_path: Path) -> None:
    folder = link(home / "model", tmp_path / "broken", "model.safetensors")
    weights = load_file(home / "model" / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 3] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="not finite: its weights hold NaN or infinite numbers"), torch.no_grad():
        use_plain(load(folder, "fp32"))


def test_a_workspace_whose_records_cannot_be_written_is_named(tmp_path: Path) -> None:
    """As SQLite says it of a read-only file system; a root user may write to a folder without the right to."""
    (tmp_path / "records.sqlite").mkdir()
    with pytest.raises(InputError, match=r"records\.sqlite: cannot be used: unable to open database file"):
        Store(tmp_path)


@pytest.mark.parametrize("export", [gguf.export, onnx.export, safetensors.export, rtn.export, nf4.export])
def test_z1_z5_a_disk_with_too_little_room_is_met_before_a_byte_is_written_and_says_how_much_is_missing(
    home: Path, export: Callable[[Path, Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """50,000 bytes are free: less than any file of the model. What is missing is what it takes less what is free, each in MB."""
    monkeypatch.setattr(objects.shutil, "disk_usage", lambda _: SimpleNamespace(free=50_000))
    with pytest.raises(RunFailed, match="are missing") as failed:
        export(home / "model", tmp_path)
    said = failed.value.problems[0]
    found = re.search(r"it takes ([\d.]+) MB and 0\.1 MB are free on this disk: ([\d.]+) MB are missing", said.why)
    assert found, said.why
    assert float(found[1]) - 0.05 == pytest.approx(float(found[2]), abs=0.11)
    assert failed.value.reason_code == "disk_full"
    assert ".partial" not in said.where
    assert Path(said.where).relative_to(tmp_path).parts[0].startswith("model-")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_met_by_safetensors_writer_is_said_like_any_other(tmp_path: Path) -> None:
    """Its error is none of the operating system's kind; the number stands in its words. Another error of it stays what it is."""

    def write(number: int) -> None:
        def fill(folder: Path) -> None:
            (folder / "half").write_bytes(b"x")
            raise SafetensorError(f"Error while serializing: I/O error: in words (os error {number})")

        objects.write_folder(tmp_path / "grams", fill)

    with pytest.raises(RunFailed, match=r"no space is left on this disk, .* MB are free"):
        write(errno.ENOSPC)
    with pytest.raises(SafetensorError):
        write(errno.EIO)
    assert list(tmp_path.iterdir()) == []


FULL = """
import resource, sys
from pathlib import Path
from planish import pipeline
from planish.errors import RunFailed
from planish.recipe import Recipe
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    pipeline.run(Recipe.load(sys.argv[1]), workspace=Path(sys.argv[2]), until="compress", unproven=True)
except RunFailed as failed:
    print(failed.reason_code, failed)
"""


@pytest.mark.slow
@pytest.mark.parametrize("export", ["gptq", "{gguf: {quant: F16}}", "onnx"])
def test_z1_z2_a_file_that_may_not_grow_ends_the_run_in_words_and_nothing_is_left(home: Path, export: str, tmp_path: Path) -> None:
    """The Gram matrices are written by safetensors' own writer, whose error is none of the operating system's kind: it was a traceback. 5,000,000 bytes are more than
    the records take and less than each of the three writers' files. With the limit gone the same command goes on."""
    (home / "recipe.yaml").write_text((RECIPE + COMPRESS).replace("EXPORT", export).replace("model: model", "model: large"), encoding="utf-8")
    recipe = Recipe.load(home / "recipe.yaml")
    pipeline.run(recipe, workspace=tmp_path, until="gate", unproven=True)
    found = subprocess.run(
        [sys.executable, "-c", FULL, str(home / "recipe.yaml"), str(tmp_path), "5000000"], capture_output=True, text=True, timeout=300, check=False
    )
    assert found.stdout.startswith("disk_full"), found.stderr[-2000:]
    assert "of 5,000,000 bytes" in found.stdout
    assert ".partial" not in found.stdout
    assert [path for path in tmp_path.rglob(".*") if "partial" in path.name] == []
    assert pipeline.run(recipe, workspace=tmp_path, until="compress", unproven=True).stages["compress"].status == "done"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("export", "half_written"), [("rtn", "objects/.*/.model-RTN*/model.safetensors"), ("gptq", "grams/.*"), ("gguf", "objects/.*/.*.gguf.partial")]
)
def test_z6_a_kill_in_the_middle_of_a_writer_leaves_nothing_that_counts_and_the_next_run_says_so(
    home: Path, export: str, half_written: str, tmp_path: Path
) -> None:
    """kill -9 of the process as soon as the half-written file is there. The next run names the one that was interrupted, sweeps, and makes the very bytes of a run that was not."""
    recipe, heard = recipe_of(home, export), Heard()
    pipeline.run(recipe, workspace=tmp_path / "work", until="gate", unproven=True)
    code = "import sys; from planish.cli import main; sys.argv[0] = 'planish'; main()"
    command = [sys.executable, "-c", code, "compress", str(home / "recipe.yaml"), "--workspace", str(tmp_path / "work"), "--unproven"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while running.poll() is None and not any((tmp_path / "work").glob(half_written)) and time.monotonic() < until:
        time.sleep(0.001)
    running.kill()
    assert running.wait() == -9
    assert not [path for path in (tmp_path / "work").glob("objects/??/*/artifact.json") if read_json(path)["kind"] == "compress"]
    again = pipeline.run(recipe, workspace=tmp_path / "work", until="compress", unproven=True, progress=heard)
    assert re.search(r"run-\S+ was interrupted: .* half-written artifacts removed: [01]", "\n".join(heard.lines))
    assert [path for path in (tmp_path / "work").rglob(".*") if "partial" in path.name] == []
    whole = pipeline.run(recipe, workspace=tmp_path / "other", until="compress", unproven=True)
    one, other = (read_json(run.stages["compress"].folder / "artifact.json")["files"] for run in (again, whole))  # type: ignore[operator]
    weights = {name for name in one if name.endswith((".gguf", ".safetensors"))}
    assert weights
    assert {name: one[name] for name in weights} == {name: other[name] for name in weights}


class Heard:
    """Keeps what is said."""

    def __init__(self) -> None:
        from planish.progress import Silent

        self.lines: list[str] = []
        self.bar = Silent().bar

    def say(self, text: str) -> None:
        """Keep it."""
        self.lines.append(text)
