"""`planish capture` killed with signal 9 in the middle and asked again: every row once, and what an uninterrupted capture holds, byte for byte (MISSION S1, S3)."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.conftest import make_tiny

from planish.capture import How, prepared, texts
from planish.data.capture_file import CAPTURE
from planish.errors import InputError
from planish.progress import Silent
from planish.recipe import Recipe

ROWS = 500
CAPTURED = ("--out", "{name}", "--mass", "1", "--temperatures", "1,2")
WRITTEN = ("--text", "{name}.jsonl", "--samples", "3", "--temperature", "1", "--max-new-tokens", "12")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student, a teacher, and 500 rows, prepared: all processes read the same."""
    folder = tmp_path_factory.mktemp("home")
    make_tiny(folder / "model", hidden=32)
    make_tiny(folder / "teacher", hidden=32)
    rows = [{"messages": [{"role": "user", "content": f"the phone {n}"}, {"role": "assistant", "content": f"good sound {n}"}]} for n in range(ROWS)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    head = "recipe: 1\nmodel: model\ndata: {path: rows.jsonl, task: chat, split: {gold: 0.1, validation: 0.1}, checks: []}\n"
    (folder / "recipe.yaml").write_text(head, encoding="utf-8")
    prepared(Recipe.load(folder / "recipe.yaml"), folder / "space")
    return folder


def start(home: Path, name: str, options: tuple[str, ...]) -> subprocess.Popen[str]:
    """A capture of this name in a process of its own."""
    told = [option.format(name=name) for option in options]
    command = [sys.executable, "-m", "planish", "capture", "recipe.yaml", "--teacher", "teacher", "--workspace", "space", *told]
    return subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "growing", "made"), [(CAPTURED, f"killed/{CAPTURE}", f"{{}}/{CAPTURE}"), (WRITTEN, "killed.jsonl.unfinished/answers.jsonl", "{}.jsonl")]
)
def test_s1_s3_kill_9_in_the_middle_and_the_same_command_goes_on(home: Path, options: tuple[str, ...], growing: str, made: str) -> None:
    """S1, S3: once lines stand in the file the process is killed, and half a line is put behind them, as a kill in the middle of a write leaves it. The same command says what it
    mends, asks no whole part again, and ends at the bytes of a capture that nobody killed."""
    first = start(home, "killed", options)
    deadline = time.monotonic() + 300
    while not lines(home / growing):
        assert time.monotonic() < deadline
        assert first.poll() is None, first.communicate()
        time.sleep(0.005)
    first.kill()
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    there = lines(home / growing)
    whole = start(home, "whole", options)
    assert whole.wait(300) == 0
    whole.communicate()
    want = (home / made.format("whole")).read_bytes()
    with (home / growing).open("ab") as stream:
        stream.write(b'{"id": "torn')
    again = start(home, "killed", options)
    _, said = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert "the last line was torn" in said
    assert f"{there} {'rows' if options is CAPTURED else 'answers'} are there already" in said
    assert (home / made.format("killed")).read_bytes() == want
    if options is CAPTURED:
        ids = [json.loads(line)["id"] for line in want.splitlines()]
        assert len(ids) == len(set(ids)) == ROWS - round(0.1 * ROWS) > there
    else:
        assert 0 < there < 3 * ROWS
        assert not list(home.glob("*.unfinished"))


class Half(Silent):
    """Ends the work as Ctrl-C does, after two parts."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def written(home: Path, out: Path, progress: Half, **more: object) -> dict[str, object]:
    recipe = Recipe.load(home / "recipe.yaml")
    how = How(teacher="teacher", max_new_tokens=4, precision="fp32", rows=70)
    given = {"samples": 2, "temperature": 1.0} | more
    return texts.write(recipe, how, out, data=prepared(recipe, home / "space"), progress=progress, **given)  # type: ignore[arg-type]


def test_s3_answers_that_were_begun_are_gone_on_with_and_no_others(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted in the fourth of six parts: of 32, 32 and 6 answers one call had failed for good, so 69 are there. Another temperature is refused and touches nothing; the same
    asks again for the part with the failed one, whole as it was, and for what is left."""
    texts_of, asked, failing = texts.local.LocalTeacher.text, list[int](), [True]

    def counted(teacher: object, rows: list[object], decoding: object) -> object:
        if failing and len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(len(rows))
        told = texts_of(teacher, rows, decoding)  # type: ignore[arg-type]
        return [("", "failed"), *told[1:]] if failing and len(asked) == 1 else told

    whole = written(home, tmp_path / "whole.jsonl", Half())
    monkeypatch.setattr(texts.local.LocalTeacher, "text", counted)
    with pytest.raises(KeyboardInterrupt):
        written(home, tmp_path / "a.jsonl", Half())
    begun = (tmp_path / "a.jsonl.unfinished" / "answers.jsonl").read_bytes()
    assert begun.count(b"\n") == 31 + 32 + 6
    assert not (tmp_path / "a.jsonl").exists()
    asked.clear()
    failing.clear()
    with pytest.raises(InputError, match=r"temperature 1\.0 is now 0\.5"):
        written(home, tmp_path / "a.jsonl", Half(), temperature=0.5)
    assert (tmp_path / "a.jsonl.unfinished" / "answers.jsonl").read_bytes() == begun
    (tmp_path / "a.jsonl.unfinished" / "answers.jsonl").write_bytes(begun + b'{"id":')
    heard = Half()
    told = written(home, tmp_path / "a.jsonl", heard)
    assert asked == [32, 32, 32, 6]
    assert [text for text in heard.said if "torn (6 bytes)" in text]
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert told == whole | {"file": str(tmp_path / "a.jsonl")}
    assert not list(tmp_path.glob("*.unfinished"))


@pytest.mark.parametrize(("line", "why"), [(b"words\n", "answers.jsonl:2: is no answer"), (b'{"id": "x"}\n', "answers.jsonl:2: is no answer")])
def test_a_line_that_is_no_answer_is_named(home: Path, tmp_path: Path, line: bytes, why: str) -> None:
    work = tmp_path / "a.jsonl.unfinished"
    written(home, tmp_path / "whole.jsonl", Half())
    work.mkdir()
    (work / "answers.jsonl").write_bytes(b'{"id": "x", "sample": 0, "text": "a", "finish": "stop"}\n' + line)
    with pytest.raises(InputError, match="does not say what the answers beside it are of"):
        written(home, tmp_path / "a.jsonl", Half())
    (tmp_path / "b.jsonl.unfinished").mkdir()
    about = texts.About(teacher="t", template="t", gold="g", prompts="p", temperature=1.0, max_new_tokens=4)
    (work / "manifest.json").write_text(about.model_dump_json(), encoding="utf-8")
    with pytest.raises(InputError, match="made otherwise"):
        written(home, tmp_path / "a.jsonl", Half())
    with pytest.raises(InputError, match=why):
        texts._begun(work, about, Half())
    (tmp_path / "c.jsonl.unfinished").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="is a file"):
        written(home, tmp_path / "c.jsonl", Half())
