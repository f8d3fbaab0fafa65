"""The training process under its limit: who is ended, what its end is taken for, and that a run of its own process is the same run (MISSION T8)."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import make_tiny

from planish import pipeline
from planish.errors import RunFailed
from planish.events import EventType
from planish.model import machine, memory, out_of_memory
from planish.recipe import Recipe
from planish.recipe_train import LaunchSection, TrainSection
from planish.stages import _ranked, _within_memory
from planish.stages._context import read_json
from planish.stages._ready import Job
from planish.stages._within_memory import within_memory

SECTION = {"objective": "sft", "adapter": {"lora": {"r": 4}}, "learning_rate": 1e-2, "max_steps": 4, "batch_size": 16, "validations": 0, "checkpoints": 4}


class Heard:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[tuple[EventType, dict[str, Any]]] = []
        self.steps: list[tuple[int, float]] = []

    def event(self, type: EventType, body: dict[str, Any], severity: str = "info") -> None:
        self.events.append((type, body))

    def say(self, text: str) -> None:
        """Not asked about here."""

    def begin(self, done: int, total: int) -> None:
        """Not asked about here."""

    def step(self, line: Any) -> None:
        self.steps.append((line.step, line.loss))


def job(place: Path, base: str = "", data: str = "", **given: Any) -> Job:
    section = TrainSection.model_validate({**SECTION, "keep": "last", "precision": "fp32", **given}).model_dump(mode="json")
    (place / "out").mkdir(parents=True, exist_ok=True)
    return Job(section, base, None, data, str(place / "work"), str(place / "out"), str(place / "tokens"))


def dying(place: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> Path:
    """Every training process runs `code` at its start; gives the file that counts starts."""
    starts = place / "starts"
    text = f"import os, signal, sys, time\nif 'PLANISH_MEET' in os.environ:\n    open({str(starts)!r}, 'a').write('x')\n"
    (place / "sitecustomize.py").write_text(text + "".join(f"    {line}\n" for line in code.splitlines()), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(place))
    return starts


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "signal 11"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "signal 9"),
        ("sys.stderr.write('ValueError: strange')\nsys.stderr.flush()\nos._exit(1)", "ValueError: strange"),
    ],
    ids=["segfault", "killed while small", "exception"],
)
def test_another_end_is_a_failure_with_its_log_and_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, says: str) -> None:
    """MISSION T8 is for memory alone: a process that dies of anything else would die again."""
    starts = dying(tmp_path, monkeypatch, code)
    with pytest.raises(RunFailed, match=says) as failed:
        _ranked.launch(job(tmp_path), LaunchSection(), Heard(), 2e9)
    assert failed.value.reason_code == "stage_failed"
    assert starts.read_text() == "x"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("held = b'x' * 500_000_000\ntime.sleep(60)", "held 0.[3-5]. GB, and the limit is 0.30 GB"),
        ("held = b'x' * 250_000_000\ntime.sleep(1)\nos.kill(os.getpid(), signal.SIGKILL)", "the kernel ended the training process"),
        ("sys.stderr.write(\"terminate called after throwing an instance of 'std::bad_alloc'\")\nsys.stderr.flush()\nos.abort()", "signal 6"),
    ],
    ids=["over the limit", "killed while large", "an allocator's last words"],
)
def test_what_is_taken_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, says: str) -> None:
    """500 MB against a limit of 300 are ended from here; 250 MB that somebody killed, or an allocator's words in the log, are memory too. One start each: levers come first."""
    starts = dying(tmp_path, monkeypatch, code)
    with pytest.raises(RunFailed, match=says) as failed:
        _ranked.launch(job(tmp_path), LaunchSection(), Heard(), 3e8)
    assert failed.value.reason_code == "out_of_memory"
    assert starts.read_text() == "x"


def test_a_size_is_read_or_refused() -> None:
    def limit(given: object) -> int | None:
        return TrainSection.model_validate({"objective": "sft", "memory_limit": given}).memory_limit

    assert [limit("1.5 GB"), limit(2**30), limit(None)] == [1_500_000_000, 2**30, None]
    for wrong in ("6", "six GB", "0 GB", True):
        with pytest.raises(ValueError, match="a size is a number"):
            limit(wrong)


@pytest.mark.parametrize(
    ("listed", "files", "left"),
    [
        ("0::/box\n", {"box/memory.max": "1000", "box/memory.current": "700", "box/memory.stat": "anon 600\ninactive_file 50\n"}, 350),
        ("0::/\n", {"memory.max": "900", "memory.current": "700", "memory.stat": "inactive_file 0\n"}, 200),
        ("0::/box\n", {"box/memory.max": "max", "box/memory.current": "700", "box/memory.stat": "inactive_file 0\n"}, 4096 * 1024),
        (
            "4:memory:/a\n",
            {"memory/a/memory.limit_in_bytes": "500", "memory/a/memory.usage_in_bytes": "450", "memory/a/memory.stat": "total_inactive_file 40\n"},
            90,
        ),
    ],
    ids=["version 2", "its own root", "no limit", "version 1"],
)
def test_free_memory_is_the_least_of_machine_and_groups(tmp_path: Path, listed: str, files: dict[str, str], left: float) -> None:
    """Limit - usage + what the kernel takes back by itself: 1000 - 700 + 50 = 350; 900 - 700 = 200; none: the machine's 4096 kB; 500 - 450 + 40 = 90."""
    for name, text in {
        "proc/meminfo": "MemAvailable:    4096 kB\n",
        "proc/self/cgroup": listed,
        **{f"groups/{name}": text for name, text in files.items()},
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="ascii")
    assert machine.free(tmp_path / "groups", tmp_path / "proc") == left


def test_what_a_process_holds_is_what_it_wrote_to() -> None:
    """100 MB that are touched count, and nothing is said of a process that is not there."""
    before = out_of_memory.held(os.getpid())
    block = bytearray(os.urandom(1000) * 100_000)
    after = out_of_memory.held(os.getpid())
    assert before is not None
    assert after is not None
    assert after - before == pytest.approx(len(block), rel=0.1)
    assert out_of_memory.held(2**22 + 1) is None


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA error: out of memory"), OSError(12, "Cannot allocate memory")])
def test_words_for_no_memory(error: Exception) -> None:
    assert out_of_memory.is_out_of_memory(error)
    assert not out_of_memory.is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not out_of_memory.is_out_of_memory(KeyError("out of memory"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and prepared rows of about 300 tokens."""
    folder = tmp_path_factory.mktemp("home")
    make_tiny(folder / "model", hidden=64, layers=4)
    rows = [{"prompt": f"{chr(33 + n)}0" + " phone" * 300, "completion": "good"} for n in range(90)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    head = "recipe: 1\nmodel: model\ndata: {path: rows.jsonl, checks: [], split: {gold: 0.4, validation: 0.1}}\nbaseline: [prompt]\n"
    (folder / "recipe.yaml").write_text(head + "train:\n  - {objective: sft}\nevaluate: {scorers: [f1]}\n", encoding="utf-8")
    prepared = pipeline.run(Recipe.load(folder / "recipe.yaml"), workspace=folder / "space", until="prepare").stages["prepare"].folder
    assert prepared is not None
    (folder / "prepared").symlink_to(prepared)
    return folder


@pytest.mark.slow
def test_t8_a_real_limit_is_held_and_the_ladder_goes_down_to_where_it_fits(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MISSION T8: the process is ended at a limit that lies between one row a micro-batch and all sixteen at once; levers are pulled until it fits, and the losses are those of
    the run without a limit (1e-4). Its own process or this one: the same losses to the bit."""
    base, data = str(home / "model"), str((home / "prepared").resolve())
    own, there, limited = Heard(), Heard(), Heard()
    within_memory(job(tmp_path / "own", base, data, micro_tokens=6000), own)
    monkeypatch.setattr(_within_memory, "NEAR", 0.0)
    within_memory(job(tmp_path / "there", base, data, micro_tokens=6000), there)
    assert there.steps == own.steps
    monkeypatch.setattr(memory, "PROCESS", {"cpu": 0.0, "cuda": 0.0})  # so that it is the limit that shows, not the prediction
    peaks = {}
    for tokens in (300, 6000):
        peaks[tokens] = most_held(job(tmp_path / f"peak-{tokens}", base, data, micro_tokens=tokens), monkeypatch)
    assert peaks[6000] > 1.1 * peaks[300]
    limit = int((peaks[300] + peaks[6000]) / 2)
    within_memory(job(tmp_path / "limited", base, data, micro_tokens=6000, memory_limit=limit), limited)
    pulled = [body for type, body in limited.events if type is EventType.TRAIN_OOM_RETRY]
    assert pulled
    assert all(body["kind"] == "halve_micro" for body in pulled)
    assert any(f"and the limit is {limit / 1e9:.2f} GB" in body["why"] for body in pulled)
    assert [loss for _, loss in limited.steps] == pytest.approx([loss for _, loss in own.steps], rel=1e-4)
    report = read_json(tmp_path / "limited" / "out" / "report.json")
    assert report["memory"]["limit"] == limit
    assert report["section"]["micro_tokens"] == pulled[-1]["recipe"]["micro_tokens"]


def most_held(asked: Job, monkeypatch: pytest.MonkeyPatch) -> int:
    """What the training process holds at most, as the one who watches it sees it."""
    seen = [0]
    with monkeypatch.context() as watching:

        def held(process: int) -> int | None:
            found: int | None = out_of_memory.held(process)
            seen.append(found or 0)
            return found

        watching.setattr(_ranked, "held", held)
        _ranked.launch(Job(**asdict(asked)), LaunchSection(), Heard(), 1e12)
    return max(seen)
