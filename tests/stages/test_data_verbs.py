"""`planish check, map, convert, gold` on what users give them: refused in a sentence, never with a traceback and never in silence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from planish import gold_page
from planish.check import check_rows
from planish.cli import app
from planish.errors import InputError

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
    """200,000 rows take some seconds. Ctrl-C: exit code 130 and not a file more than before; killed: no file under the name that was asked for."""
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
