"""One entry of the train list in processes of their own on this machine: started, listened to, held to a memory limit (MISSION T8), and, where they are several ranks,
started again from the newest checkpoint when one is lost (MISSION X6).

The ranks meet at a file and talk over the loopback interface, so nothing is opened to the network. Their environment is torchrun's: `torchrun --nproc-per-node 2 -m
planish.stages._ranked JOB.json` runs the same entry. The first rank writes what happens, a JSON line each, to `told.jsonl`; this process alone records it.

The limit is of memory that is really held, read from /proc every LOOK_SECONDS, and whoever passes it is ended from here: the kernel ends a process without an exception, an
address-space limit (RLIMIT_DATA) counts mapped weights and stacks that are never touched and makes libraries abort where they do not check, and a control group of one's own
needs rights that are seldom given. Looking that often, a process that takes memory as fast as it can was ended at most 1.5 % above its limit.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from planish.errors import InputError, PlanishError, Problem, RunFailed
from planish.events import EventType
from planish.model.curve import Step
from planish.model.out_of_memory import held, is_out_of_memory, kernel_kills, offer_as_victim, says_so
from planish.recipe_train import LaunchSection
from planish.stages._ready import Job
from planish.stages._tuning import Listener, tune

MEET = "PLANISH_MEET"
"""The file at which ranks of one machine meet; torchrun has its own way."""
STARTS = 3
"""A lost rank may be bad luck; after so many starts it is not. One that is alone and fails would fail again."""
LOOK_SECONDS = 0.02
LOG_TAIL = 1500
NEAR = 0.5
"""A kill that nobody owns up to is laid to memory where the processes held such a share of their limit."""


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


@dataclass(frozen=True)
class Lost:
    """A rank that ended badly, how, and whether memory ran out."""

    rank: int
    how: str
    memory: bool


def launch(job: Job, shape: LaunchSection, listener: Listener, limit: float | None = None) -> None:
    """Run the job on `shape.ranks` processes, which hold `limit` bytes together at most.

    Raises what they raised; RunFailed out_of_memory when they passed the limit, or one ran out of memory before; and RunFailed when a rank was lost STARTS times, or the only
    one ended in another way.
    """
    folder = Path(job.work) / "launch"
    folder.mkdir(parents=True, exist_ok=True)
    told = folder / "told.jsonl"
    (folder / "job.json").write_text(json.dumps(asdict(job)), encoding="utf-8")
    for left in range(STARTS - 1 if shape.ranks > 1 else 0, -1, -1):
        told.write_text("", encoding="utf-8")
        for old in folder.glob("error-*.json"):
            old.unlink()
        lost = _once(folder, shape.ranks, told, listener, limit)
        if lost is None:
            return
        if not lost.memory:
            for said in sorted(folder.glob("error-*.json")):
                raise _raised(json.loads(said.read_text(encoding="utf-8")))
        tail = _log(folder, lost.rank)
        if lost.memory or says_so(tail):
            raise RunFailed(Problem("train", f"out of memory: {lost.how}", "lower train.micro_tokens"), reason_code="out_of_memory")
        if shape.ranks == 1:
            why = f"the training process ended ({lost.how}):\n{tail}"
            raise RunFailed(Problem("train", why, "what it wrote last says why; the same command goes on from the newest checkpoint"))
        if not left:
            why = f"rank {lost.rank} was lost {STARTS} times ({lost.how}):\n{tail}"
            raise RunFailed(Problem("train.launch", why, "give the same command again, with fewer ranks"))
        what = f"rank {lost.rank} was lost ({lost.how}); all begin again from the newest checkpoint"
        listener.event(EventType.TRAIN_WARNED, {"what": what}, "warning")
        listener.say(f"  note: {what}")


def _once(folder: Path, ranks: int, told: Path, listener: Listener, limit: float | None) -> Lost | None:
    """Start every rank and wait. Gives the first that was lost, or None when all ended well."""
    meet = folder / f"meet-{uuid.uuid4().hex}"
    running: list[subprocess.Popen[bytes]] = []
    kills = kernel_kills()
    try:
        for rank in range(ranks):
            with (folder / f"rank-{rank}.log").open("wb") as log:
                command = [sys.executable, "-m", "planish.stages._ranked", str(folder / "job.json")]
                environment = {**os.environ, **_world(ranks), MEET: str(meet), "RANK": str(rank), "LOCAL_RANK": str(rank)}
                running.append(subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log))
        with told.open(encoding="utf-8") as lines:
            rest, most = "", 0
            while True:
                states = [process.poll() for process in running]
                taken = sum(held(process.pid) or 0 for process in running)
                most = max(most, taken)
                if limit is not None and taken > limit:
                    return Lost(0, f"the training process held {taken / 1e9:.2f} GB, and the limit is {limit / 1e9:.2f} GB", True)
                *whole, rest = (rest + lines.read()).split("\n")  # what follows the last line end is still being written
                _hear(whole, listener)
                bad = [(rank, state) for rank, state in enumerate(states) if state]
                if bad:
                    rank, state = bad[0]
                    killed = state == -signal.SIGKILL and _by_memory(kills, most, limit)
                    how = f"signal {-state}" if state < 0 else f"exit {state}"
                    return Lost(rank, f"the kernel ended the training process, which held {most / 1e9:.2f} GB" if killed else how, killed)
                if all(state == 0 for state in states):
                    return None
                time.sleep(LOOK_SECONDS)
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.communicate()
        meet.unlink(missing_ok=True)


def _world(ranks: int) -> dict[str, str]:
    """What every rank is told of the others. One alone has as many threads as it would have here, so that it computes the same bits."""
    import torch

    threads = max(1, (os.cpu_count() or 1) // ranks) if ranks > 1 else torch.get_num_threads()
    return {"WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": str(threads), "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}


def _by_memory(before: int | None, most: float, limit: float | None) -> bool:
    """Whether a SIGKILL was for memory: the kernel has counted one more such kill, or it looks like one, as services that watch a machine's memory kill too."""
    now = kernel_kills()
    return (now is not None and before is not None and now > before) or (limit is not None and most > NEAR * limit)


def _log(folder: Path, rank: int) -> str:
    """The end of what a rank wrote to its standard error."""
    return (folder / f"rank-{rank}.log").read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:]


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
    from planish.model.ranks import ALONE, join, leave

    job = Job(**json.loads(path.read_text(encoding="utf-8")))
    meet = os.environ.get(MEET)
    if meet is not None:
        _end_with_parent()
        offer_as_victim()
    shape = LaunchSection.model_validate(job.section["launch"])
    ranks = join(shape.shard, Path(meet) if meet is not None else None) if shape.ranks > 1 else ALONE
    try:
        tune(job, Telling(path.with_name("told.jsonl")) if ranks.first else Deaf(), ranks)
    except PlanishError as refused:
        reason = getattr(refused, "reason_code", None)
        _tell_error(path, ranks.rank, refused.problems, reason)
        return 1
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        _tell_error(path, ranks.rank, (Problem("train", f"out of memory: {error}"),), "out_of_memory")
        return 1
    if shape.ranks > 1:
        leave()
    return 0


def _tell_error(path: Path, rank: int, problems: tuple[Problem, ...], reason: str | None) -> None:
    said = {"problems": [asdict(problem) for problem in problems], "input": reason is None, "reason_code": reason}
    path.with_name(f"error-{rank}.json").write_text(json.dumps(said), encoding="utf-8")


if __name__ == "__main__":
    try:
        status = main(Path(sys.argv[1]))
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # a rank that fails alone must not wait, at the interpreter's end, for ranks that wait for it
