"""A folder that is added to until everything is asked, whatever ends the process: held by one at a time, described once, mended where a kill tore it, never written over."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection, Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from planish.data.capture_file import MANIFEST, mend
from planish.errors import InputError, Problem
from planish.progress import Progress
from planish.rows import ChatRow, Noun
from planish.store.objects import write_atomic

AT_ONCE = 32
"""Rows between two writes: so many are lost at most when it is killed."""


def torn(path: Path) -> bool:
    """Whether it is a file that a kill left half written, under the name it is written aside by."""
    return path.name.startswith(".") and path.name.endswith(".partial")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the folder, so that no two processes append to it: the lock is the folder's own and goes with the process, however it ends. A killed one's torn files are removed."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(Problem(str(folder), "another process is capturing into it", "wait for it, or give another --out or --text")) from None
        for path in folder.iterdir():
            if torn(path):
                path.unlink()
        yield
    finally:
        os.close(handle)


def begun(folder: Path, name: str, about: Noun, there: Noun | None, progress: Progress) -> bool:
    """Whether lines in `folder / name` are to be gone on with; where there are none, what they will be of is written down. `there` is what the folder says of them.

    A torn last line is cut off, and that is said. Raises InputError where they are of something else.
    """
    if there is None:
        write_atomic(folder / MANIFEST, (json.dumps(about.model_dump(mode="json"), indent=1) + "\n").encode())
        return False
    fields = type(about).model_fields
    other = [
        f"{field} {getattr(there, field)!s:.20} is now {getattr(about, field)!s:.20}" for field in fields if getattr(there, field) != getattr(about, field)
    ]
    if other:
        why = f"holds a capture that was made otherwise: {'; '.join(other)}"
        raise InputError(Problem(str(folder), why, "give a new folder or file, or ask as before; a capture is never written over"))
    if cut := mend(folder / name):
        progress.say(f"  the last line was torn ({cut} bytes): its row is captured again")
    return True


def parts(rows: Seq[ChatRow], done: Collection[str], teacher: Any) -> Iterator[tuple[Seq[ChatRow], Seq[ChatRow]]]:
    """Rows by AT_ONCE, and those of them that the teacher is asked: none of a part that is done; of one begun only what is left, but all where it `batched`: a model of this
    machine rounds by what stands in its batch, and so answers as without an interruption."""
    for start in range(0, len(rows), AT_ONCE):
        part = rows[start : start + AT_ONCE]
        left = [row for row in part if row.id not in done]
        yield part, part if left and teacher.batched else left
