"""kill -9 anywhere: a run that was killed and started again ends with the same weights to the bit, and with every row in its place (MISSION T10).

Run: python benchmarks/kill_points.py [--points 200]. One parent loads a tiny model and forks a child for each point; the child is killed by SIGKILL, and a fresh child
resumes. Two kinds of points, drawn from one seed:

- line: before the n-th line that the loop, the checkpoint or the store's writer executes, anywhere in the run; half are drawn over all lines and half over the lines
  executed while a checkpoint is being saved, so that each of its phases is met;
- torn: during the n-th file of a checkpoint, with only a part of its bytes written.

Checked of each: the weights' hash is the uninterrupted run's, and the rows of the surviving history, step by step, are the plan's: none twice, none lost. Exits 1 on a
failure. No product code knows of this: the child traces its own lines and replaces the library's save function in itself.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "2000")
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from tests.conftest import make_tiny
from tests.model.runs import adapted, digest, examples, plan

from planish.model import checkpoint, loop
from planish.model.example import Example
from planish.model.plan import batch_rows
from planish.objectives import sft
from planish.store import objects

SEED = 42
WATCHED = {str(Path(module.__file__ or "").resolve()) for module in (loop, checkpoint, objects)}
PLAN = plan(24, max_steps=6, validations=3, checkpoints=3, micro_tokens=256, ema=0.9, keep="best", patience=4)
Point = tuple[str, int, float]
"""(kind, which, share of the bytes written)."""


class Rows(list[Example]):
    """Examples that note which of them were asked for."""

    def __init__(self, given: list[Example]) -> None:
        super().__init__(given)
        self.asked: list[int] = []

    def __getitem__(self, index: Any) -> Any:
        self.asked.append(index)
        return super().__getitem__(index)


def train(model: torch.nn.Module, folder: Path) -> str:
    """The run, with its history in `folder/history.jsonl`: a line a step with its rows, cut back at a resume to where the checkpoint stands. Gives the weights' hash."""
    rows, history = Rows(examples()), folder / "history.jsonl"

    def on_start(position: checkpoint.Position) -> None:
        lines = history.read_text(encoding="utf-8").splitlines() if history.is_file() else []
        history.write_text("".join(line + "\n" for line in lines if line.endswith("]") and json.loads(line)[0] <= position.step), encoding="utf-8")

    def on_step(line: loop.Step) -> None:
        with history.open("a", encoding="utf-8") as out:
            out.write(json.dumps([line.step, rows.asked]) + "\n")
        rows.asked = []

    folder.mkdir(parents=True, exist_ok=True)
    loop.train(model, rows, sft.loss, PLAN, folder / "run", meaning={"base": "tiny"}, validation=examples(4), on_start=on_start, on_step=on_step)
    return digest(model)


def forked(work: Callable[[], str]) -> tuple[int, str]:
    """Run in a child. Gives its exit status (minus the signal that ended it) and what it said."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            os.write(writing, work().encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as said:
        text = said.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def die() -> None:
    """kill -9, by this process to itself."""
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def lines(reached: Callable[[int, bool], None]) -> Iterator[None]:
    """Count the lines executed in the watched files; `reached(count, in a save)` is called before each."""
    count, saving = 0, 0

    def line(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count, saving
        if event == "line":
            count += 1
            reached(count, saving > 0)
        elif event == "return" and frame.f_code is checkpoint.save.__code__:
            saving -= 1
        return line

    def call(frame: FrameType, _: str, __: Any) -> Any:
        nonlocal saving
        if frame.f_code is checkpoint.save.__code__:
            saving += 1
        return line if frame.f_code.co_filename in WATCHED else None

    sys.settrace(call)
    try:
        yield
    finally:
        sys.settrace(None)


def count_points(model: torch.nn.Module, folder: Path) -> tuple[list[int], list[int], int]:
    """Of an uninterrupted run: every line's number, those inside a save, and how many tensor files were written."""

    def work() -> str:
        everywhere, inside, files = [], [], 0
        real = checkpoint.save_file

        def counted(tensors: Any, path: Path) -> None:
            nonlocal files
            files += 1
            real(tensors, path)

        checkpoint.save_file = counted  # type: ignore[assignment]
        with lines(lambda number, saving: (inside if saving else everywhere).append(number)):
            train(model, folder)
        return json.dumps([everywhere, inside, files])

    status, said = forked(work)
    if status:
        raise SystemExit("the uninterrupted run failed")
    everywhere, inside, files = json.loads(said)
    return everywhere + inside, inside, files


def drawn(points: int, everywhere: list[int], inside: list[int], files: int) -> list[Point]:
    """The kill points: of ten, four over all lines, four inside saves, two in torn files."""
    draw = random.Random(SEED)
    kinds = [("line", everywhere)] * 4 + [("save", inside)] * 4 + [("torn", list(range(1, files + 1)))] * 2
    return [(kind, draw.choice(pool), draw.random()) for kind, pool in (kinds[index % len(kinds)] for index in range(points))]


def killed(model: torch.nn.Module, folder: Path, point: Point) -> str:
    """Run until the point, and die there."""
    kind, which, share = point
    if kind != "torn":
        with lines(lambda number, _: die() if number == which else None):
            return train(model, folder)
    real, written = checkpoint.save_file, 0

    def torn(tensors: Any, path: Path) -> None:
        nonlocal written
        written += 1
        real(tensors, path)
        if written == which:
            os.truncate(path, int(share * path.stat().st_size))
            die()

    checkpoint.save_file = torn  # type: ignore[assignment]
    return train(model, folder)


def wrong(model: torch.nn.Module, folder: Path, point: Point, whole: str) -> str | None:
    """Kill at the point and resume. What is wrong, or None."""
    status, _ = forked(lambda: killed(model, folder, point))
    if status != -signal.SIGKILL:
        return f"{point}: was not killed (status {status})"
    status, said = forked(lambda: train(model, folder))
    if status:
        return f"{point}: the resumed run failed"
    if said != whole:
        return f"{point}: other weights"
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [json.loads(line)["step"] for line in (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    planned = [[step + 1, batch_rows(PLAN, step)] for step in range(len(steps))]
    seen, wanted = (Counter(row for _, rows in side for row in rows) for side in (history, planned))
    if history != planned or seen != wanted or steps != list(range(1, len(steps) + 1)):
        return f"{point}: the surviving history is not the plan"
    return None


def measure(points: int, folder: Path, progress: Callable[[str], None] = lambda _: None) -> tuple[Counter[str], list[str], str]:
    """Kill and resume at `points` points. Gives points per kind, what went wrong, and a line of facts."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a forked child has only the thread that forked
    try:
        model = adapted(make_tiny(folder / "model", hidden=16, heads=2, kv_heads=1))
        status, whole = forked(lambda: train(model, folder / "whole"))
        if status:
            raise SystemExit("the uninterrupted run failed")
        everywhere, inside, files = count_points(model, folder / "counted")
        kinds: Counter[str] = Counter()
        failures = []
        for index, point in enumerate(drawn(points, everywhere, inside, files)):
            place = folder / f"point-{index}"
            failure = wrong(model, place, point, whole)
            kinds[point[0]] += 1
            failures += [failure] if failure else []
            shutil.rmtree(place, ignore_errors=True)
            if (index + 1) % 20 == 0:
                progress(f"{index + 1} points, {len(failures)} failures")
    finally:
        torch.set_num_threads(threads)
    steps = len((folder / "whole" / "history.jsonl").read_text(encoding="utf-8").splitlines())
    return kinds, failures, f"{len(everywhere)} lines in {steps} steps, {len(inside)} of them inside saves, {files} tensor files"


def main() -> int:
    """Print the figure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--points", type=int, default=200)
    points = parser.parse_args().points
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        kinds, failures, facts = measure(points, Path(folder), lambda text: print(text, file=sys.stderr))
    for failure in failures:
        print(failure)
    print(json.dumps({"points": points, "kinds": kinds, "failures": len(failures), "seconds": round(time.perf_counter() - began, 1)}))
    print(f"seed {SEED}; {facts}; torch {torch.__version__}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
