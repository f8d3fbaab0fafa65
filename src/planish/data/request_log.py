"""The request log: one JSON line per request, redacted before it is written, on disk before the answer is complete (MISSION L1, L3)."""

from __future__ import annotations

import json
import os
import queue
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import TypeAdapter, ValidationError

from planish.data.redact import ERROR, VERSION, Redactor
from planish.errors import InputError, Problem, RunFailed
from planish.rows import Noun

Finish = Literal["stop", "length", "cancelled", "error"]


class Redaction(Noun):
    """By which version of the redactor, and how many of each kind. `counts` {"error": 1}: the content was dropped."""

    version: str
    counts: dict[str, int]


class LogRecord(Noun):
    """One request. `id` is the response's id. `content` is None when it is not kept, else `{"messages": [{role, content}], "stop", "choice", "answer"}`;
    a plain completion has `prompt` in place of `messages`.

    `ts` is UTC in ISO 8601 when the request came; latencies are in milliseconds, `ttft_ms` to the first piece of the answer.
    """

    id: str
    ts: str
    model: str
    template_hash: str
    params: dict[str, Any]
    prompt_tokens: int
    completion_tokens: int
    latency_ms: float
    ttft_ms: float | None
    finish: Finish
    content: dict[str, Any] | None
    redaction: Redaction | None = None
    consent: Literal["default", "opt_out"] = "default"


class Correction(Noun):
    """What the answer of a logged request should have been: a line of the log, or of a corrections.jsonl that a person wrote (`log_id` and `corrected`)."""

    log_id: str
    corrected: str
    ts: str = ""
    redaction: Redaction | None = None


_LINE: TypeAdapter[LogRecord | Correction] = TypeAdapter(LogRecord | Correction)


class RequestLog(Protocol):
    """Where a gateway writes. Both writes return at once; the future is True when the line is on disk, False when it was dropped. They never raise."""

    dropped: int

    def write(self, record: LogRecord) -> Future[bool]:
        """Append a request. The record holds raw content: the log redacts it."""

    def correct(self, correction: Correction) -> Future[bool]:
        """Append a correction; it is redacted too."""

    def find(self, log_id: str) -> LogRecord | None:
        """The record with this id. Blocks while it reads."""

    def close(self) -> None:
        """Write what is queued and close; safe to call twice."""


class JsonlRequestLog:
    """The log as one file, corrections among the requests. Without a redactor no content is kept and no correction is taken.

    A thread redacts, appends and fsyncs; lines that come together share an fsync. When a write fails, or `capacity` records wait, the record is dropped and
    counted in `dropped`, and serving goes on. The file is readable by its owner only.
    """

    def __init__(self, path: Path, redactor: Redactor | None, *, capacity: int = 1024) -> None:
        self.path = path
        self.dropped = 0
        self._redactor = redactor
        self._queue: queue.Queue[tuple[LogRecord | Correction, Future[bool]] | None] = queue.Queue(capacity)
        self._lock = threading.Lock()
        self._closed = False
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _Appender(path)
        self._thread = threading.Thread(target=self._run, name="planish-request-log", daemon=True)
        self._thread.start()

    def write(self, record: LogRecord) -> Future[bool]:
        """See RequestLog."""
        return self._enqueue(record)

    def correct(self, correction: Correction) -> Future[bool]:
        """See RequestLog."""
        return self._enqueue(correction)

    def find(self, log_id: str) -> LogRecord | None:
        """See RequestLog. Reads the file through: corrections are rare."""
        start = f'{{"id":{json.dumps(log_id)},'.encode()
        try:
            with self.path.open("rb") as lines:
                for line in lines:
                    if line.startswith(start) and isinstance(record := _line(line), LogRecord):
                        return record
        except OSError:
            return None
        return None

    def close(self) -> None:
        """See RequestLog."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._queue.put(None)
        self._thread.join()
        self._file.close()

    def _enqueue(self, item: LogRecord | Correction) -> Future[bool]:
        written: Future[bool] = Future()
        with self._lock:
            try:
                if self._closed:
                    raise queue.Full
                self._queue.put_nowait((item, written))
            except queue.Full:
                self.dropped += 1
                written.set_result(False)
        return written

    def _run(self) -> None:
        ended = False
        while not ended:
            batch = [self._queue.get()]
            while not self._queue.empty() and len(batch) < 64:
                batch.append(self._queue.get())
            ended = None in batch
            self._write([entry for entry in batch if entry is not None])

    def _write(self, batch: list[tuple[LogRecord | Correction, Future[bool]]]) -> None:
        outcomes: list[bool] = []
        for item, _ in batch:
            try:
                clean = self._redacted(item)
                if clean is not None:
                    self._file.append(clean.model_dump_json().encode() + b"\n")
                outcomes.append(clean is not None)
            except Exception:  # disk full, file gone, text that is no UTF-8: serving goes on
                outcomes.append(False)
        try:
            self._file.sync()
        except OSError:
            outcomes = [False] * len(batch)
        with self._lock:
            self.dropped += outcomes.count(False)
        for (_, written), outcome in zip(batch, outcomes, strict=True):
            # A request that was cancelled while it waited has cancelled this future: nobody is told.
            if written.set_running_or_notify_cancel():
                written.set_result(outcome)

    def _redacted(self, item: LogRecord | Correction) -> LogRecord | Correction | None:
        """The item as it may be written; None for a correction that could not be redacted: nothing would be left of it."""
        if isinstance(item, Correction):
            text, counts = (None, {ERROR: 1}) if self._redactor is None else self._redactor.text(item.corrected)
            return None if text is None else item.model_copy(update={"corrected": text, "redaction": Redaction(version=VERSION, counts=counts)})
        if item.content is None or item.consent == "opt_out" or self._redactor is None:
            return item.model_copy(update={"content": None})
        content, counts = self._redactor.value(item.content)
        return item.model_copy(update={"content": content, "redaction": Redaction(version=VERSION, counts=counts)})


class _Appender:
    """A file that lines are appended to. A torn line (a crash, a full disk) is closed off by a line end before the next."""

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
        except OSError as refused:
            raise RunFailed(Problem(str(path), f"cannot be written: {refused.strerror}", "choose another folder for the request log")) from refused
        size = os.fstat(self._descriptor).st_size
        self._torn = size > 0 and os.pread(self._descriptor, 1, size - 1) != b"\n"
        self._unsynced = False
        self._open = True

    def append(self, line: bytes) -> None:
        whole = b"\n" + line if self._torn else line
        written = os.write(self._descriptor, whole)
        self._unsynced = True
        self._torn = written < len(whole)
        if self._torn:
            raise OSError("a line was cut short")

    def sync(self) -> None:
        if self._unsynced:
            self._unsynced = False
            os.fsync(self._descriptor)

    def close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._descriptor)


def read_log(path: Path) -> tuple[list[LogRecord], int]:
    """The requests of a log in order, and how many lines were skipped because they are torn. Raises InputError when the file cannot be read."""
    lines, torn = _lines(path)
    return [line for line in lines if isinstance(line, LogRecord)], torn


def read_corrections(path: Path) -> tuple[list[Correction], int]:
    """The corrections in a request log or in a corrections.jsonl, in order, and how many lines are neither. Raises InputError when the file cannot be read."""
    lines, torn = _lines(path)
    return [line for line in lines if isinstance(line, Correction)], torn


def _lines(path: Path) -> tuple[list[LogRecord | Correction], int]:
    parsed: list[LogRecord | Correction] = []
    torn = 0
    try:
        with path.open("rb") as lines:
            for line in filter(bytes.strip, lines):
                one = _line(line)
                if one is None:
                    torn += 1
                else:
                    parsed.append(one)
    except OSError as absent:
        raise InputError(Problem(str(path), f"cannot be read: {absent.strerror}", "serve a model first: requests are logged there")) from absent
    return parsed, torn


def _line(line: bytes) -> LogRecord | Correction | None:
    try:
        return _LINE.validate_json(line)
    except ValidationError:
        return None
