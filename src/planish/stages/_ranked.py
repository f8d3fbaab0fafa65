"""One entry of the train list on several ranks of this machine: started, listened to, and started again from the newest checkpoint when one is lost (MISSION X6).

The ranks meet at a file and talk over the loopback interface, so nothing is opened to the network. Their environment is torchrun's: `torchrun --nproc-per-node 2 -m
planish.stages._ranked JOB.json` runs the same entry. The first rank writes what happens, a JSON line each, to `told.jsonl`; this process alone records it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from planish.errors import InputError, PlanishError, Problem, RunFailed
from planish.events import EventType
from planish.model.curve import Step
from planish.recipe import LaunchSection
from planish.stages._tuning import Job, Listener, tune

MEET = "PLANISH_MEET"
"""The file at which ranks of one machine meet; torchrun has its own way."""
STARTS = 3
"""A lost rank may be bad luck; after so many starts it is not."""
LOOK_SECONDS = 0.1


class Telling:
    """What the first rank hears, as lines of a file."""

    def __init__(self, path: Path) -> None:
        self._out = path.open("a", encoding="utf-8")

    def _tell(self, kind: str, *values: Any) -> None:
        self._out.write(json.dumps([kind, *values]) + "\n")
        self._out.flush()

    def event(self, type: EventType, body: dict[str, Any], severity: Literal["info", "warning"] = "info") -> None:
        """Something to record."""
        self._tell("event", type, body, severity)

    def say(self, text: str) -> None:
        """Something to show."""
        self._tell("say", text)

    def begin(self, done: int, total: int) -> None:
        """The run is `done` of `total` steps in."""
        self._tell("begin", done, total)

    def step(self, line: Step) -> None:
        """One more step is done."""
        self._tell("step", asdict(line))


class Deaf:
    """What every other rank has in its place."""

    def event(self, type: EventType, body: dict[str, Any], severity: Literal["info", "warning"] = "info") -> None:
        """Nothing: the first rank tells."""

    def say(self, text: str) -> None:
        """Nothing: the first rank tells."""

    def begin(self, done: int, total: int) -> None:
        """Nothing: the first rank tells."""

    def step(self, line: Step) -> None:
        """Nothing: the first rank tells."""


def launch(job: Job, shape: LaunchSection, listener: Listener) -> None:
    """Run the job on `shape.ranks` processes. Raises what they raised, and RunFailed when a rank was lost STARTS times."""
    folder = Path(job.work) / "launch"
    folder.mkdir(parents=True, exist_ok=True)
    told = folder / "told.jsonl"
    (folder / "job.json").write_text(json.dumps(asdict(job)), encoding="utf-8")
    for left in range(STARTS - 1, -1, -1):
        told.write_text("", encoding="utf-8")
        for old in folder.glob("error-*.json"):
            old.unlink()
        lost = _once(folder, shape.ranks, told, listener)
        if lost is None:
            return
        for said in sorted(folder.glob("error-*.json")):
            raise _raised(json.loads(said.read_text(encoding="utf-8")))
        if not left:
            tail = (folder / f"rank-{lost[0]}.log").read_text(encoding="utf-8", errors="replace")[-1500:]
            why = f"rank {lost[0]} was lost {STARTS} times ({lost[1]}):\n{tail}"
            raise RunFailed(Problem("train.launch", why, "give the same command again, with fewer ranks"))
        what = f"rank {lost[0]} was lost ({lost[1]}); all begin again from the newest checkpoint"
        listener.event(EventType.TRAIN_WARNED, {"what": what}, "warning")
        listener.say(f"  note: {what}")


def _once(folder: Path, ranks: int, told: Path, listener: Listener) -> tuple[int, str] | None:
    """Start every rank and wait. Gives the first that was lost, and how, or None when all ended well."""
    meet = folder / f"meet-{uuid.uuid4().hex}"
    threads = str(max(1, (os.cpu_count() or 1) // ranks))
    common = {"WORLD_SIZE": str(ranks), MEET: str(meet), "OMP_NUM_THREADS": threads, "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "planish.stages._ranked", str(folder / "job.json")]
    running: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(ranks):
            with (folder / f"rank-{rank}.log").open("wb") as log:
                environment = {**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                running.append(subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log))
        with told.open(encoding="utf-8") as lines:
            held = ""
            while True:
                states = [process.poll() for process in running]
                *whole, held = (held + lines.read()).split("\n")  # what follows the last line end is still being written
                _hear(whole, listener)
                bad = [(rank, state) for rank, state in enumerate(states) if state]
                if bad:
                    return bad[0][0], f"signal {-bad[0][1]}" if bad[0][1] < 0 else f"exit {bad[0][1]}"
                if all(state == 0 for state in states):
                    return None
                time.sleep(LOOK_SECONDS)
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.communicate()
        meet.unlink(missing_ok=True)


def _hear(lines: list[str], listener: Listener) -> None:
    for line in lines:
        kind, *values = json.loads(line)
        if kind == "event":
            listener.event(EventType(values[0]), *values[1:])
        elif kind == "step":
            listener.step(Step(**values[0]))
        elif kind == "begin":
            listener.begin(*values)
        else:
            listener.say(*values)


def _raised(said: dict[str, Any]) -> PlanishError:
    problems = [Problem(**problem) for problem in said["problems"]]
    return InputError(*problems) if said["input"] else RunFailed(*problems, reason_code=said["reason_code"])


def _end_with_parent() -> None:
    """A rank whose starter is gone must not go on writing to a folder that the next run uses."""

    def wait() -> None:
        os.read(0, 1)  # past the buffered reader, whose lock the interpreter wants at its end
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main(path: Path) -> int:
    """One rank."""
    from planish.model.ranks import join, leave

    job = Job(**json.loads(path.read_text(encoding="utf-8")))
    meet = os.environ.get(MEET)
    if meet is not None:
        _end_with_parent()
    ranks = join(LaunchSection.model_validate(job.section["launch"]).shard, Path(meet) if meet is not None else None)
    try:
        tune(job, Telling(path.with_name("told.jsonl")) if ranks.first else Deaf(), ranks)
    except PlanishError as refused:
        reason = getattr(refused, "reason_code", None)
        said = {"problems": [asdict(problem) for problem in refused.problems], "input": reason is None, "reason_code": reason}
        path.with_name(f"error-{ranks.rank}.json").write_text(json.dumps(said), encoding="utf-8")
        return 1
    leave()
    return 0


if __name__ == "__main__":
    status = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # a rank that fails alone must not wait, at the interpreter's end, for ranks that wait for it
