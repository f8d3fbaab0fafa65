"""`planish check, map, convert, gold` on what users give them: refused in a sentence, never with a traceback and never in silence."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.conftest import make_tiny
from typer.testing import CliRunner

from planish import gold_page
from planish.check import check_rows, text
from planish.cli import app, preflight_recipe
from planish.errors import InputError
from planish.model import dialogues
from planish.plan import machine
from planish.recipe import Recipe
from planish.recipe_keys import Use

PLANISH = [sys.executable, "-c", "from planish.cli import main; main()"]


def _rows(path: Path, n: int, first: int = 0) -> Path:
    rows = ({"prompt": f"Who lives in house {number} of the long road?", "completion": f"Family {number}."} for number in range(first, first + n))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_gold_in_a_folder_is_refused_because_its_rows_would_be_trained_on(tmp_path: Path) -> None:
    """A row is known as gold by the name of its file; those of a folder's files have other names than the folder."""
    rows = _rows(tmp_path / "rows.jsonl", 3)
    (tmp_path / "gold").mkdir()
    _rows(tmp_path / "gold" / "rows-of-gold.jsonl", 3, 5)
    with pytest.raises(InputError, match=r"--gold .*gold: is a folder"):
        check_rows(rows, gold=tmp_path / "gold")
    with pytest.raises(InputError, match="has the name of the file of rows"):
        check_rows(tmp_path / "gold", gold=_rows(tmp_path / "rows-of-gold.jsonl", 2, 9))


def test_the_gold_page_tells_of_refused_rows(tmp_path: Path) -> None:
    path = _rows(tmp_path / "gold.jsonl", 40)
    path.write_text(path.read_text(encoding="utf-8") + '{"prompt": "x"}\n', encoding="utf-8")
    page = gold_page.of(path)
    assert (page.rows, page.refused) == (40, 1)
    assert "1 more rows are refused" in gold_page.text(page)


@pytest.mark.parametrize("discordance", [0.0, -1.0, 2.0, float("nan")])
def test_a_discordance_that_is_no_share_is_refused(tmp_path: Path, discordance: float) -> None:
    with pytest.raises(InputError, match="is no share of rows"):
        gold_page.of(_rows(tmp_path / "gold.jsonl", 40), discordance)


def test_a_model_that_is_not_there_is_refused_and_its_checks_are_not_left_out(tmp_path: Path) -> None:
    path = _rows(tmp_path / "rows.jsonl", 3)
    refused = CliRunner().invoke(app, ["check", str(path), "--model", "smolm2-135m-instruct"])
    assert isinstance(refused.exception, InputError)
    assert 'did you mean "smollm2-135m-instruct"?' in str(refused.exception)


@pytest.mark.parametrize(
    ("verb", "out"),
    [
        (["convert", "rows.jsonl", "--to", "prompt_completion", "--out"], "rows.jsonl/made.jsonl"),
        (["convert", "rows.jsonl", "--to", "prompt_completion", "--out"], "/proc/made.jsonl"),
        (["check", "rows.jsonl", "--checks", "duplicates", "--out"], "rows.jsonl"),
        (["map", "rows.jsonl", "--out"], "/proc/made.yaml"),
        (["map", "rows.jsonl", "--out"], "folder"),
    ],
)
def test_a_place_that_cannot_be_written_is_said_in_a_sentence(tmp_path: Path, verb: list[str], out: str) -> None:
    """A file where a folder is wanted, and a file system in which nothing can be made (also for root)."""
    _rows(tmp_path / "rows.jsonl", 30)
    (tmp_path / "folder").mkdir()
    done = subprocess.run([*PLANISH, *verb, out], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{out}: cannot be used" in done.stderr or f"{Path(out).parent}: cannot be used" in done.stderr
    assert "Traceback" not in done.stderr
    assert ".part" not in done.stderr


def test_output_that_nobody_reads_on_is_no_error(tmp_path: Path) -> None:
    """`planish check --json | head -1`: the pipe is closed before all is written."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"foo": 1}\n' * 3000, encoding="utf-8")
    process = subprocess.Popen([*PLANISH, "check", str(path), "--json", "--checks", "duplicates"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    process.wait()
    assert "Traceback" not in said
    assert "BrokenPipe" not in said


def _in_the_middle(process: subprocess.Popen[Any]) -> None:
    """Until it has forked processes that read for it, or computed for a second, which is more than starting takes: however fast or busy the machine is."""
    command = psutil.Process(process.pid)
    for _ in range(1200):
        if command.children() or command.cpu_times().user > 1:
            return
        time.sleep(0.05)
    raise AssertionError("it never began")


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_an_ended_convert_leaves_nothing_half_written(tmp_path: Path, ending: signal.Signals) -> None:
    """200,000 rows take some seconds. Ctrl-C: exit code 130 and not a file more than before; killed: no file under the name that was asked for, and the next
    convert to it leaves none beside it."""
    _rows(tmp_path / "rows.jsonl", 200_000)
    command = [*PLANISH, "convert", "rows.jsonl", "--to", "alpaca", "--out", "made.jsonl"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        _in_the_middle(process)
        os.kill(process.pid, ending)
        _, said = process.communicate(timeout=60)
    assert not (tmp_path / "made.jsonl").exists()
    assert "Traceback" not in said
    if ending == signal.SIGINT:
        assert process.returncode == 130
        assert os.listdir(tmp_path) == ["rows.jsonl"]
    _rows(tmp_path / "rows.jsonl", 10)
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert sorted(os.listdir(tmp_path)) == ["made.jsonl", "rows.jsonl"]


@pytest.mark.slow
def test_a_killed_check_leaves_no_process_behind(tmp_path: Path) -> None:
    """Rows are read by forked processes; whoever waits for work from a parent that is gone would wait for ever."""
    path = _rows(tmp_path / "rows.jsonl", 300_000)
    with subprocess.Popen([*PLANISH, "check", str(path), "--checks", "duplicates"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _in_the_middle(process)
        process.kill()
    time.sleep(1)
    commands = [each.read_bytes() for each in Path("/proc").glob("[0-9]*/cmdline") if each.exists()]
    assert not [command for command in commands if str(path).encode() in command]


def test_preflight_reads_the_rows_as_the_recipe_says(tmp_path: Path) -> None:
    """Columns whose names say nothing: the recipe's mapping says what they are, and its `clean` tidies prompts as prepare will."""
    lines = ["colA,colB", *(f"Who lives in house {number}\u200b?,Family {number}" for number in range(30))]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = "{path: rows.csv, task: chat, mapping: {colA: prompt, colB: completion}, clean: [control]}"
    (tmp_path / "recipe.yaml").write_text(f"recipe: 1\nmodel: some/model\ndata: {data}\n", encoding="utf-8")
    found = dialogues.of_recipe(Recipe.load(tmp_path / "recipe.yaml"))
    assert len(found.table) == 30
    assert [message.content for message in found.row("2").messages] == ["Who lives in house 0?", "Family 0"]


def test_check_says_which_columns_it_took_for_what_and_in_which_file_a_row_stands(tmp_path: Path) -> None:
    """Two tables with columns of other names; the warning about a row of the second names that file."""
    for name, label in (("a", "good"), ("b", "bad")):
        said = [f"{name} {number} of the long road,{label}" for number in range(30)]
        said[3] = f"as it was said caf\u00c3\u00a9 {name},{label}" if name == "b" else said[3]
        (tmp_path / f"{name}.csv").write_text("\n".join(["Review,Sentiment", *said]) + "\n", encoding="utf-8")
    told = text(check_rows(tmp_path, checks=[Use(name="text")]))
    assert "columns read as: Review → text, Sentiment → label" in told
    assert re.search(r"mojibake: 1\n    b\.csv:5 ", told)


def test_columns_that_are_not_sure_are_taken_by_a_command_that_there_is(tmp_path: Path) -> None:
    """`--force` is the verb map's alone, so the refusal of every other verb names the whole command."""
    rows = [f"{number} of the long road,the answer is {number}" for number in range(10)]
    (tmp_path / "odd.csv").write_text("\n".join(["instruction,reply", *rows]) + "\n", encoding="utf-8")
    with pytest.raises(InputError) as refused:
        check_rows(tmp_path / "odd.csv")
    assert f"planish map {tmp_path / 'odd.csv'} --force" in str(refused.value)


@pytest.mark.parametrize(
    ("memory", "allowed", "status", "said"),
    [
        ("8GB", "[]", "ok", "of 8.00 GB"),
        ("3MB", "[]", "red", "train"),
        ("1MB", "[lora, qlora, adamw_8bit, lower_rank, drop_rows]", "red", "nothing makes it fit"),
    ],
)
def test_k4_memory_is_held_against_the_machine(tmp_path: Path, memory: str, allowed: str, status: str, said: str) -> None:
    """A tiny model trained whole: it fits 8 GB, not 3 MB as it is written, and 1 MB whatever is done."""
    make_tiny(tmp_path / "model", hidden=64)
    _rows(tmp_path / "rows.jsonl", 60)
    entry = f"{{objective: sft, adapter: full, max_steps: 2, batch_size: 8, on_out_of_memory: {allowed}}}"
    (tmp_path / "recipe.yaml").write_text(f"recipe: 1\nmodel: model\ndata: {{path: rows.jsonl}}\ntrain: [{entry}]\n", encoding="utf-8")
    (line,) = preflight_recipe.memory(Recipe.load(tmp_path / "recipe.yaml"), machine(None, memory))
    assert (line.check, line.status) == ("memory", status), line
    assert said in line.detail + line.fix
