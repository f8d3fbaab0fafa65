"""A live endpoint as a folder of the workspace: its configuration, its key, its request log, its process."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from planish.errors import Problem, RunFailed
from planish.stages._context import read_json
from planish.store import Store

READY_SECONDS = 120.0
DRAIN_SECONDS = 40.0


@dataclass(frozen=True)
class Deployment:
    """One endpoint. `config` is what the gateway process was started with."""

    folder: Path
    config: dict[str, Any]

    @property
    def id(self) -> str:
        """The deployment's id, which is its folder's name."""
        return self.folder.name

    @property
    def url(self) -> str:
        """The base URL for an OpenAI client."""
        return f"http://{self.config['host']}:{self.config['port']}/v1"

    @property
    def key(self) -> str:
        """The secret, from a file that only its owner may read."""
        return (self.folder / "key").read_text(encoding="utf-8").strip()

    @property
    def log(self) -> Path:
        """The request log."""
        return self.folder / "requests.jsonl"

    @property
    def pid(self) -> int | None:
        """The gateway's process, while it runs."""
        try:
            pid = int((self.folder / "pid").read_text(encoding="utf-8"))
            os.kill(pid, 0)
        except (OSError, ValueError):
            return None
        # a process id may have been given to another program since
        command = Path(f"/proc/{pid}/cmdline")
        return pid if not command.exists() or self.id.encode() in command.read_bytes() else None

    def ready(self) -> bool:
        """Whether it answers."""
        try:
            return httpx.get(self.url.removesuffix("/v1") + "/health/ready", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def start(self) -> None:
        """Start the gateway as a process of its own and wait until it answers. Raises RunFailed with the end of its log."""
        log = os.open(self.folder / "gateway.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        # a spawn rather than a Popen: the gateway is meant to outlive this process, and nobody waits for it
        files = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
        pid = os.posix_spawn(sys.executable, [sys.executable, "-m", "planish.server", str(self.folder)], os.environ, file_actions=files, setsid=True)
        os.close(log)
        (self.folder / "pid").write_text(str(pid), encoding="utf-8")
        deadline = time.monotonic() + READY_SECONDS
        while not self.ready():
            ended = not self._alive(pid)
            if ended or time.monotonic() > deadline:
                if not ended:
                    os.kill(pid, signal.SIGKILL)
                tail = (self.folder / "gateway.log").read_text(encoding="utf-8", errors="replace")[-1500:]
                raise RunFailed(
                    Problem(str(self.folder / "gateway.log"), f"the endpoint did not come up:\n{tail}", "see the log"), reason_code="endpoint_failed"
                )
            time.sleep(0.2)

    def stop(self) -> bool:
        """Drain and end it; False when it was not running."""
        pid = self.pid
        if pid is None:
            return False
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + DRAIN_SECONDS
        while self._alive(pid):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        return True

    @staticmethod
    def _alive(pid: int) -> bool:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)  # a child of this very process would otherwise stay as a zombie
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True


def open_deployment(folder: Path) -> Deployment:
    """The deployment in a folder."""
    return Deployment(folder, read_json(folder / "config.json"))


def live(store: Store) -> list[Deployment]:
    """Every endpoint of the workspace whose process runs; records of dead ones are corrected on the way."""
    found = []
    for row in store.deployments():
        if row["state"] != "live":
            continue
        deployment = open_deployment(Path(row["folder"])) if (Path(row["folder"]) / "config.json").is_file() else None
        if deployment is not None and deployment.pid is not None:
            found.append(deployment)
        else:
            store.stop_deployment(row["id"])
    return found
