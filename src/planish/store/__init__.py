"""Where runs, artifacts and events are kept: one workspace folder with a database and content-addressed folders."""

from __future__ import annotations

import datetime as dt
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

from planish.errors import InputError, Problem, RunFailed
from planish.events import GENESIS, EventType, ReasonCode, RunEvent, body_hash, chain_hash
from planish.store import tables
from planish.store.objects import Objects, disk_error

__all__ = ["Store", "now"]


def now() -> str:
    """The time in UTC, ISO 8601 with microseconds."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="microseconds")


class Store:
    """One workspace. Opening it makes the folder and brings the database to the newest schema."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace.resolve()
        self.workspace.mkdir(parents=True, exist_ok=True)
        self.objects = Objects(self.workspace / "objects")
        self.engine = sa.create_engine(f"sqlite:///{self.workspace / 'records.sqlite'}", connect_args={"timeout": 30})
        sa.event.listen(self.engine, "connect", _durable)
        sa.event.listen(self.engine, "handle_error", _unusable)
        _migrate(self.engine)

    def close(self) -> None:
        """Let go of the database."""
        self.engine.dispose()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the workspace for writing. A second process is refused with exit 2."""
        with (self.workspace / "lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                holder = lock.read().strip() or "unknown"
                why = f"another planish run is using this workspace (process {holder})"
                raise InputError(Problem(str(self.workspace), why, "wait for it, or give another --workspace")) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    # --- events -------------------------------------------------------------------------------------------------------------------

    def event(
        self,
        run_id: str,
        type: EventType,
        subject: str,
        body: dict[str, Any] | None = None,
        *,
        severity: Literal["info", "warning", "error"] = "info",
        reason_code: ReasonCode | None = None,
        actor: str = "user",
    ) -> RunEvent:
        """Append one event to the chain. An error without a reason code is a bug and raises ValueError."""
        if severity == "error" and reason_code is None:
            raise ValueError("an event of severity error needs a reason_code")
        body = body or {}
        with self.engine.begin() as connection:
            last = connection.execute(sa.select(tables.events.c.seq, tables.events.c.hash).order_by(tables.events.c.seq.desc()).limit(1)).first()
            seq, previous = (last.seq + 1, last.hash) if last else (1, GENESIS)
            id, ts, digest = uuid.uuid4().hex, now(), body_hash(body)
            event = RunEvent(
                seq=seq,
                id=id,
                ts=ts,
                run_id=run_id,
                actor=actor,
                type=type,
                subject=subject,
                severity=severity,
                reason_code=reason_code,
                body=body,
                body_sha256=digest,
                hash=chain_hash(previous, seq, id, ts, type, digest),
            )
            connection.execute(sa.insert(tables.events).values(event.model_dump(mode="json")))
        return event

    def events(self, run_id: str | None = None) -> list[RunEvent]:
        """Every event, oldest first, of one run or of all."""
        query = sa.select(tables.events).order_by(tables.events.c.seq)
        if run_id is not None:
            query = query.where(tables.events.c.run_id == run_id)
        with self.engine.connect() as connection:
            return [RunEvent.model_validate(dict(row._mapping)) for row in connection.execute(query)]

    def verify(self) -> int | None:
        """The first event that does not follow from the one before, or None when the whole chain holds (MISSION O2)."""
        previous, expected = GENESIS, 1
        for event in self.events():
            right = event.seq == expected and event.body_sha256 == body_hash(event.body)
            if not right or event.hash != chain_hash(previous, event.seq, event.id, event.ts, event.type, event.body_sha256):
                return expected
            previous, expected = event.hash, expected + 1
        return None

    # --- runs ---------------------------------------------------------------------------------------------------------------------

    def start_run(self, name: str, recipe: dict[str, Any], recipe_sha256: str, code_version: str, parent: str | None) -> str:
        """A new run; gives its id, which sorts by time."""
        run_id = f"run-{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:4]}"
        row = {"id": run_id, "created": now(), "name": name, "recipe": recipe, "recipe_sha256": recipe_sha256, "code_version": code_version}
        with self.engine.begin() as connection:
            connection.execute(sa.insert(tables.runs).values(**row, parent=parent, status="running"))
        return run_id

    def end_run(self, run_id: str, status: str, exit_code: int) -> None:
        """Record how a run ended."""
        with self.engine.begin() as connection:
            connection.execute(sa.update(tables.runs).where(tables.runs.c.id == run_id).values(status=status, exit_code=exit_code))

    def runs(self) -> list[dict[str, Any]]:
        """Every run, newest first."""
        return self._rows(sa.select(tables.runs).order_by(tables.runs.c.id.desc()))

    def run(self, run_id: str) -> dict[str, Any]:
        """One run by id or by the beginning of one, or the newest for "last". Raises InputError when there is none or more than one."""
        known = self.runs()
        found = known[:1] if run_id == "last" else [row for row in known if row["id"].startswith(run_id)]
        if len(found) != 1:
            why = "no run has this id" if not found else f"{len(found)} runs begin so"
            raise InputError(Problem(run_id, why, "see: planish runs"))
        return found[0]

    def stages(self, run_id: str) -> dict[str, dict[str, Any]]:
        """What became of each stage of a run."""
        return {row["stage"]: row for row in self._rows(sa.select(tables.run_stages).where(tables.run_stages.c.run_id == run_id))}

    def record_stage(self, run_id: str, stage: str, status: str, artifact: str | None, reason: str | None, seconds: float) -> None:
        """Record what became of one stage of a run."""
        with self.engine.begin() as connection:
            connection.execute(sa.delete(tables.run_stages).where(tables.run_stages.c.run_id == run_id, tables.run_stages.c.stage == stage))
            row = {"run_id": run_id, "stage": stage, "status": status, "artifact": artifact, "reason": reason, "seconds": seconds}
            connection.execute(sa.insert(tables.run_stages).values(**row))

    # --- artifacts ----------------------------------------------------------------------------------------------------------------

    def made(self, key: str) -> str | None:
        """The artifact a stage made from these very inputs, if it is still there."""
        rows = self._rows(sa.select(tables.stage_results).where(tables.stage_results.c.key == key))
        return str(rows[0]["artifact"]) if rows and self.objects.has(rows[0]["artifact"]) else None

    def make(self, key: str, stage: str, kind: str, fill: Callable[[Path], None], parents: tuple[str, ...]) -> str:
        """Write an artifact and remember that `key` made it."""
        sha256, size = self.objects.write(kind, fill, parents)
        with self.engine.begin() as connection:
            if connection.execute(sa.select(tables.artifacts.c.sha256).where(tables.artifacts.c.sha256 == sha256)).first() is None:
                connection.execute(sa.insert(tables.artifacts).values(sha256=sha256, kind=kind, bytes=size, created=now()))
            known = {row.parent for row in connection.execute(sa.select(tables.lineage.c.parent).where(tables.lineage.c.child == sha256))}
            for parent in sorted(set(parents) - known):
                connection.execute(sa.insert(tables.lineage).values(child=sha256, parent=parent))
            connection.execute(sa.delete(tables.stage_results).where(tables.stage_results.c.key == key))
            connection.execute(sa.insert(tables.stage_results).values(key=key, stage=stage, artifact=sha256, created=now()))
        return sha256

    def path(self, sha256: str) -> Path:
        """The folder of an artifact."""
        return self.objects.path(sha256)

    def work(self, key: str) -> Path:
        """A folder in which a stage keeps what it needs to go on after an interruption; keyed like its result."""
        folder = self._work(key)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def forget_work(self, key: str) -> None:
        """Remove that folder, once the result is there: checkpoints of every weight and its optimizer state are several times the size of what was made."""
        shutil.rmtree(self._work(key), ignore_errors=True)

    def _work(self, key: str) -> Path:
        return self.workspace / "work" / key

    # --- deployments --------------------------------------------------------------------------------------------------------------

    def add_deployment(self, id: str, run_id: str, package: str, folder: Path, unproven: bool) -> None:
        """Record an endpoint that is live."""
        row = {"id": id, "run_id": run_id, "package": package, "folder": str(folder), "created": now(), "state": "live", "unproven": int(unproven)}
        with self.engine.begin() as connection:
            connection.execute(sa.insert(tables.deployments).values(**row))

    def stop_deployment(self, id: str) -> None:
        """Record that an endpoint is no longer live."""
        with self.engine.begin() as connection:
            connection.execute(sa.update(tables.deployments).where(tables.deployments.c.id == id).values(state="stopped"))

    def deployments(self) -> list[dict[str, Any]]:
        """Every deployment, newest first."""
        return self._rows(sa.select(tables.deployments).order_by(tables.deployments.c.created.desc()))

    def _rows(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        with self.engine.connect() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]


def _durable(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _unusable(context: sa.engine.ExceptionContext) -> None:
    """SQLite's words for a full disk, and for a database that may not be written, as errors with a fix."""
    said, where = str(context.original_exception), str(context.engine.url.database) if context.engine else "the workspace"
    if "unable to open database file" in said or "readonly database" in said:
        raise InputError(Problem(where, f"cannot be used: {said}", "check who may read and write in the workspace, or give another --workspace"))
    if "disk I/O error" in said:
        problem = Problem(where, f"cannot be written: {said}", "look at the disk, and at the limit on the size of a file: ulimit -f")
        raise RunFailed(problem) from context.original_exception
    if "disk is full" in said:
        raise disk_error(OSError(errno.ENOSPC, "no space"), Path(where)) from context.original_exception


def _migrate(engine: sa.Engine) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    newest = ScriptDirectory.from_config(config).get_current_head()
    with engine.begin() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        if current == newest:
            return
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if current is not None and current not in known:
            why = f"was written by a newer planish (schema {current}; this one knows {newest})"
            raise InputError(Problem(str(engine.url.database), why, "upgrade planish, or give another --workspace"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
