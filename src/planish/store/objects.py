"""Artifacts: folders that exist only complete, named by the hash of what is in them.

A folder is written aside, every file is fsynced and hashed, the manifest is written last, and one rename makes it visible (DESIGN, The training core 8).
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import resource
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from planish.errors import InputError, Problem, RunFailed
from planish.rows import canonical_json, content_hash

MANIFEST = "artifact.json"


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomic(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Put `data` (or its pieces, as they come) at `path` whole or not at all: written beside it, fsynced, renamed, and the folder fsynced.

    Raises RunFailed on a full disk.
    """
    with _aside(path) as partial, partial.open("wb") as stream:
        stream.writelines([data] if isinstance(data, bytes) else data)


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to for as long as it takes, else as `write_atomic`. What a kill left of an earlier try at `path` is removed first.

    Raises RunFailed on a full disk.
    """
    _sweep(path)
    with _aside(path) as partial:
        yield partial


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    partial, lock = _locked(path, Path.touch)
    try:
        yield partial
        os.fsync(lock)
        partial.replace(path)
        _sync_folder(path.parent)
    except OSError as failed:
        if (said := disk_error(failed, path)) is failed:
            raise
        raise said from failed
    finally:
        partial.unlink(missing_ok=True)
        os.close(lock)


def write_folder(final: Path, fill: Callable[[Path], None], *, replace: bool = True) -> Path:
    """Make the folder `final` by `fill(partial)`; it appears complete or not at all. What a kill left of an earlier try at this folder is removed first.

    An existing `final` is replaced; without `replace` raises InputError where there is one by then, as another process may have made it.
    """
    _sweep(final)
    partial, lock = _locked(final, Path.mkdir)
    try:
        fill(partial)
        _sync_tree(partial)
        if replace and final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        _sync_folder(final.parent)
    except Exception as failed:
        if isinstance(failed, OSError) and failed.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) and not replace and final.exists():
            raise InputError(Problem(str(final), "exists by now: another process has made it", "give a new folder")) from failed
        if (said := disk_error(failed, final)) is failed:
            raise
        raise said from failed
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(lock)
    return final


def _locked(final: Path, make: Callable[[Path], None]) -> tuple[Path, int]:
    """A new file or folder beside `final`, with the lock that keeps others from sweeping it. One that was swept before the lock was on it is made anew."""
    while True:
        partial = final.with_name(f".{final.name}.{uuid.uuid4().hex}.partial")
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            make(partial)
        except OSError as failed:
            if (said := disk_error(failed, final)) is failed:
                raise
            raise said from failed
        try:
            lock = os.open(partial, os.O_RDONLY)
        except FileNotFoundError:
            continue
        with suppress(OSError):  # a file system without locks: then nothing is swept there either
            fcntl.flock(lock, fcntl.LOCK_EX)  # waits for nobody but a sweeper that is removing it
        if partial.exists():
            return partial, lock
        os.close(lock)


def _sweep(final: Path) -> None:
    """Remove what is half-written of `final` and nobody writes any more: a lock goes with its process, however that ends."""
    for stale in final.parent.glob(f".{glob.escape(final.name)}.{'[0-9a-f]' * 32}.partial"):
        try:
            handle = os.open(stale, os.O_RDONLY)
        except OSError:  # gone by now
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if stale.is_dir():
                shutil.rmtree(stale, ignore_errors=True)
            else:
                stale.unlink(missing_ok=True)
        except OSError:  # somebody is writing it
            continue
        finally:
            os.close(handle)


def refuse_full(path: Path, needed: int) -> None:
    """Before a byte of `path` is written. Raises RunFailed where fewer than the `needed` bytes are free on its disk."""
    if shutil.disk_usage(path.parent).free < needed:
        raise _full(path, needed)


def disk_error(failed: Exception, path: Path) -> Exception:
    """A full disk, or a file larger than the file system or a limit allows, said in words, whether Python or safetensors' writer met it; any other error unchanged."""
    found = re.search(r"\(os error (\d+)\)", str(failed)) if type(failed).__name__ == "SafetensorError" else None
    number = failed.errno if isinstance(failed, OSError) else int(found[1]) if found else None
    if number in (errno.ENOSPC, errno.EDQUOT):
        return _full(path)
    if number == errno.EFBIG:
        most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        limit = "this file system has" if most == resource.RLIM_INFINITY else f"of {most:,} bytes"
        why = f"a file may not be larger here than a limit {limit}; what was being written has been removed"
        return RunFailed(Problem(_shown(path), why, "write to another disk, or raise the limit"), reason_code="disk_full")
    return failed


def _full(path: Path, needed: int | None = None) -> RunFailed:
    """How much is missing where it is known, else how much is free."""
    place = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    wanted = f"no space is left on this disk, {free / 1e6:,.1f} MB are free"
    if needed is not None:
        wanted = f"it takes {needed / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free on this disk: {(needed - free) / 1e6:,.1f} MB are missing"
    why = f"{wanted}; what was being written has been removed"
    return RunFailed(Problem(_shown(path), why, "free some space and give the same command again"), reason_code="disk_full")


def _shown(path: Path) -> str:
    """The path as it would be called once it is there: `.name.<id>.partial` is `name`, and `.<id>.partial` is nothing that anybody asked for."""
    parts = [(re.fullmatch(r"\.(?:(.+?)\.)??(?:[0-9a-f]{32}\.)?partial", part), part) for part in path.parts]
    return str(Path(*(part if aside is None else aside[1] for aside, part in parts if aside is None or aside[1])))


class Objects:
    """The content-addressed folders under one root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, sha256: str) -> Path:
        """Where an artifact lies, whether or not it is there."""
        return self.root / sha256[:2] / sha256

    def has(self, sha256: str) -> bool:
        """Whether the artifact is there, complete."""
        return (self.path(sha256) / MANIFEST).is_file()

    def write(self, kind: str, fill: Callable[[Path], None], parents: tuple[str, ...] = ()) -> tuple[str, int]:
        """Fill a new folder and give its hash and size in bytes. Equal content gives the equal hash and is kept once."""
        aside = self.root / f".{uuid.uuid4().hex}.partial"
        aside.mkdir(parents=True)
        try:
            fill(aside)
            files = {str(path.relative_to(aside)): file_hash(path) for path in sorted(aside.rglob("*")) if path.is_file()}
            size = sum((aside / name).stat().st_size for name in files)
            sha256 = content_hash({"kind": kind, "files": files})
            manifest = {"kind": kind, "files": files, "bytes": size, "parents": list(parents)}
            (aside / MANIFEST).write_text(canonical_json(manifest), encoding="utf-8")
            _sync_tree(aside)
            final = self.path(sha256)
            if not self.has(sha256):
                final.parent.mkdir(parents=True, exist_ok=True)
                aside.rename(final)
                _sync_folder(final.parent)
            return sha256, size
        except Exception as failed:
            if (said := disk_error(failed, aside)) is failed:
                raise
            raise said from failed
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def verify(self, sha256: str) -> None:
        """Raise InputError naming every file that is not what the manifest says."""
        folder = self.path(sha256)
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        changed = [name for name, digest in manifest["files"].items() if not (folder / name).is_file() or file_hash(folder / name) != digest]
        if changed or content_hash({"kind": manifest["kind"], "files": manifest["files"]}) != sha256:
            problems = [
                Problem(str(folder / name), "was changed or removed after it was stored", "delete the folder; the stage is made again") for name in changed
            ]
            raise InputError(*(problems or [Problem(str(folder / MANIFEST), "was changed after it was stored", "delete the folder; the stage is made again")]))

    def sweep(self) -> int:
        """Remove what interrupted writes left aside; gives how many. Call only while holding the workspace."""
        stale = list(self.root.glob(".*.partial"))
        for folder in stale:
            shutil.rmtree(folder, ignore_errors=True)
        return len(stale)


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        else:
            _sync_folder(path)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
