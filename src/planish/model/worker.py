"""A supervised worker process: configured over its standard input, ready when it says so, gone when its parent is."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

from planish.errors import Problem, RunFailed

LOG_TAIL = 2000  # bytes of the worker's log that an error shows
CLOSE_S = 5.0
_PDEATHSIG = 1  # prctl's PR_SET_PDEATHSIG


class Worker:
    """`python -m <module>`, given `config` as one line of JSON on standard input. `ready` is the line of JSON it answered with.

    The configuration may hold secrets: it is never on the command line. The pipe stays open; its end is the worker's order to leave.
    Raises RunFailed, with the end of the worker's log, when it dies or says nothing for `timeout` seconds.
    """

    def __init__(self, module: str, config: dict[str, Any], *, timeout: float) -> None:
        self.module = module
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        self.process = subprocess.Popen([sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, start_new_session=True)
        try:
            self.ready: dict[str, Any] = self._await_ready(config, timeout)
        except BaseException:
            self.close()
            raise

    def _await_ready(self, config: dict[str, Any], timeout: float) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(config).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self.failure("died while starting") from None
        deadline, said = time.monotonic() + timeout, b""
        while not said.endswith(b"\n"):
            readable, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                raise self.failure(f"was not ready within {timeout:g} s")
            piece = os.read(self.process.stdout.fileno(), 65536)
            if not piece:
                self.process.wait(CLOSE_S)
                raise self.failure("died while starting")
            said += piece
        answer: dict[str, Any] = json.loads(said)
        return answer

    @property
    def alive(self) -> bool:
        """Whether the process is still there."""
        return self.process.poll() is None

    def died(self, within: float = 1.0) -> bool:
        """Whether the process ended, given `within` seconds to do so: a broken connection is seen before the exit."""
        try:
            self.process.wait(within)
        except subprocess.TimeoutExpired:
            return False
        return True

    def failure(self, what: str) -> RunFailed:
        """An error that carries the end of the worker's log."""
        status = self.process.poll()
        why = what + (f" (exit status {status})" if status is not None else "")
        return RunFailed(Problem(self.module, f"{why}; the end of its log:\n{self.log_tail()}", "start it again"), reason_code="engine_died")

    def log_tail(self) -> str:
        """The last lines that the worker wrote to its standard error."""
        if self._log.closed:
            return ""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), LOG_TAIL, max(0, size - LOG_TAIL)).decode(errors="replace").strip() or "(empty)"

    def close(self) -> None:
        """End the process and wait for it; safe to call twice."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None and not pipe.closed:
                with contextlib.suppress(BrokenPipeError):  # it was gone already
                    pipe.close()
        if not self.died(CLOSE_S):
            self.process.kill()
            self.process.wait()
        self._log.close()


def begin() -> tuple[dict[str, Any], int]:
    """For the worker's side: (configuration, descriptor for the ready line). From here on, whatever is printed goes to the log."""
    answer = os.dup(1)
    os.dup2(2, 1)
    leave_with_parent()
    return json.loads(sys.stdin.readline()), answer


def leave_with_parent() -> None:
    """Ask the kernel (Linux) for a signal when the parent ends. It comes too when only the parent's *thread* ends that started us, so it is checked."""
    parent = os.getppid()

    def look(number: int, frame: Any) -> None:
        if os.getppid() != parent:
            os._exit(0)

    if sys.platform == "linux":
        signal.signal(signal.SIGUSR1, look)
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGUSR1)


def serve(answer: int, ready: dict[str, Any]) -> None:
    """For the worker's side: say `ready`, stay until standard input ends, and leave without unwinding native threads."""
    with os.fdopen(answer, "w") as pipe:
        pipe.write(json.dumps(ready) + "\n")
    sys.stdin.read()
    os._exit(0)
