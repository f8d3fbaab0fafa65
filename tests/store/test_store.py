"""The store: complete or absent, chained, held by one."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from planish.errors import InputError, RunFailed
from planish.events import EventType
from planish.store import Store, objects
from planish.store.objects import MANIFEST, write_atomic, write_folder


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "work")
    yield made
    made.close()


def fill(folder: Path) -> None:
    (folder / "a.txt").write_text("one")
    (folder / "sub").mkdir()
    (folder / "sub" / "b.txt").write_text("two")


def test_equal_content_is_one_artifact(store: Store) -> None:
    first, second = store.make("k1", "prepare", "dataset", fill, ()), store.make("k2", "prepare", "dataset", fill, ())
    assert first == second
    assert store.made("k1") == store.made("k2") == first
    store.objects.verify(first)


def test_a_changed_artifact_is_found(store: Store) -> None:
    sha256 = store.make("k", "prepare", "dataset", fill, ())
    (store.path(sha256) / "a.txt").write_text("other")
    with pytest.raises(InputError, match=r"a\.txt"):
        store.objects.verify(sha256)


def test_a_failed_write_leaves_nothing(store: Store) -> None:
    def half(folder: Path) -> None:
        fill(folder)
        raise RuntimeError("killed in the middle")

    with pytest.raises(RuntimeError):
        store.make("k", "prepare", "dataset", half, ())
    assert store.made("k") is None
    assert [path for path in store.objects.root.rglob("*") if path.is_file()] == []


def test_a_full_disk_is_an_error_with_a_fix_and_the_old_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC at the fsync: the old content is intact, the partial file is gone."""
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFailed, match="no space") as failed:
        write_atomic(path, b"new")
    assert failed.value.reason_code == "disk_full"
    assert path.read_bytes() == b"old"
    with pytest.raises(RunFailed, match="no space"):
        write_folder(tmp_path / "folder", fill)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file"]


def test_what_a_kill_left_aside_is_swept_and_never_read(store: Store) -> None:
    """kill -9 while an artifact is written: another process finds no artifact, and sweeps the rest."""
    code = (
        "import os, sys; from pathlib import Path; from planish.store import Store\n"
        "def fill(folder):\n    (folder / 'a').write_text('x'); os.kill(os.getpid(), 9)\n"
        "Store(Path(sys.argv[1])).make('k', 'prepare', 'dataset', fill, ())"
    )
    assert subprocess.run([sys.executable, "-c", code, str(store.workspace)]).returncode == -9
    assert store.made("k") is None
    assert store.objects.sweep() == 1
    assert not list(store.objects.root.rglob(MANIFEST))


def test_a_kill_before_the_lock_leaves_nothing_that_stays(tmp_path: Path) -> None:
    """kill -9 after a folder was made aside and before its lock is on it: the next write of the same folder sweeps it."""
    code = (
        "import fcntl, os, sys; from pathlib import Path; from planish.store import objects\n"
        "fcntl.flock = lambda *_: os.kill(os.getpid(), 9)\n"
        "objects.write_folder(Path(sys.argv[1]), lambda folder: None)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "folder")]).returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    write_folder(tmp_path / "folder", fill)
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("called", ["open", "flock"])
def test_a_folder_swept_before_its_lock_is_on_it_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, called: str) -> None:
    """Another process writes the same folder and sweeps between the three calls that make one and lock it: both folders come out whole."""
    final, module = tmp_path / "folder", os if called == "open" else fcntl
    real = getattr(module, called)

    def late(*given: object) -> object:
        monkeypatch.setattr(module, called, real)
        objects._sweep(final)
        assert list(tmp_path.iterdir()) == []
        return real(*given)

    monkeypatch.setattr(module, called, late)
    write_folder(final, fill)
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
    assert (final / "sub" / "b.txt").read_text() == "two"


@pytest.mark.parametrize("stem", ["made.jsonl", "made"])
def test_a_large_file_that_a_kill_left_half_written_is_swept_by_the_next_try_alone(tmp_path: Path, stem: str) -> None:
    """kill -9 in the middle of a file: the next try at it removes the rest; that of a process that still writes, and other names, stay."""
    code = (
        "import os, sys; from pathlib import Path; from planish.store import objects\n"
        "with objects.written_aside(Path(sys.argv[1])) as aside:\n    aside.write_text('half'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / stem)]).returncode == -9
    other = tmp_path / f".{stem}.gguf.partial"
    other.touch()
    with objects.written_aside(tmp_path / stem) as first:
        assert sorted(tmp_path.iterdir()) == sorted([first, other])
        with objects.written_aside(tmp_path / stem) as second:
            second.write_text("two")
        assert first.exists()
        first.write_text("one")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([other.name, stem])
    assert (tmp_path / stem).read_text() == "one"


def test_a_disk_too_full_for_a_folder_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC at mkdir already, of the folder itself or of the one above it."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    for write in (lambda: write_folder(tmp_path / "new" / "folder", fill), lambda: write_atomic(tmp_path / "new" / "file", b"x")):
        with pytest.raises(RunFailed, match=f"{tmp_path}.*no space") as failed:
            write()
        assert failed.value.reason_code == "disk_full"


def test_one_process_holds_the_workspace(store: Store) -> None:
    code = "import sys; from pathlib import Path; from planish.store import Store\nwith Store(Path(sys.argv[1])).held(): pass"
    with store.held():
        second = subprocess.run([sys.executable, "-c", code, str(store.workspace)], capture_output=True, text=True)
    assert "another planish run is using this workspace" in second.stderr
    assert str(os.getpid()) in second.stderr
    assert subprocess.run([sys.executable, "-c", code, str(store.workspace)]).returncode == 0


def chained(store: Store, count: int) -> None:
    for index in range(count):
        store.event("run", EventType.STAGE_STARTED, f"s{index}", {"index": index})


def test_events_refuse_to_be_changed(store: Store) -> None:
    chained(store, 2)
    with pytest.raises(sa.exc.IntegrityError, match="append-only"), store.engine.begin() as connection:
        connection.execute(sa.text("UPDATE events SET subject = 'x'"))
    with pytest.raises(sa.exc.IntegrityError, match="append-only"), store.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM events"))


def test_o2_worked_example(store: Store) -> None:
    """MISSION O2, smaller: one byte changed in the body of event 50 of 60: the first bad event is 50. A dropped and a swapped event are found too."""
    chained(store, 60)
    assert store.verify() is None
    database = sqlite3.connect(store.workspace / "records.sqlite")
    database.execute("DROP TRIGGER events_no_update")
    database.execute("DROP TRIGGER events_no_delete")
    rows = database.execute("SELECT seq, body FROM events").fetchall()
    draw = random.Random(0)
    for _ in range(20):
        seq = draw.randrange(1, 61)
        database.execute("UPDATE events SET body = ? WHERE seq = ?", ('{"index": 999}', seq))
        database.commit()
        assert store.verify() == seq
        database.execute("UPDATE events SET body = ? WHERE seq = ?", (dict(rows)[seq], seq))
        database.commit()
        assert store.verify() is None
    database.execute("DELETE FROM events WHERE seq = 50")
    database.commit()
    assert store.verify() == 50
    database.close()


def test_an_error_needs_a_reason(store: Store) -> None:
    with pytest.raises(ValueError, match="reason_code"):
        store.event("run", EventType.RUN_FAILED, "run", severity="error")


def test_a_newer_workspace_is_refused(store: Store) -> None:
    with store.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(InputError, match="newer planish"):
        Store(store.workspace)


def test_the_migrations_make_the_tables_the_code_uses(store: Store) -> None:
    """Column by column: a table changed in the code without a migration fails here."""
    from planish.store.tables import metadata

    found = sa.inspect(store.engine)
    for table in metadata.sorted_tables:
        columns = {column["name"]: str(column["type"]) for column in found.get_columns(table.name)}
        assert columns == {column.name: column.type.compile(store.engine.dialect) for column in table.columns}


def test_what_a_kill_left_of_a_folder_is_removed_by_the_next_try_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    """A process is killed in the middle of `model`: its half lies beside it. One that still writes holds its half; the next try takes away the dead one's alone, and
    nothing of another folder."""
    code = "import os, sys; from pathlib import Path; from planish.store.objects import write_folder; "
    code += "write_folder(Path(sys.argv[1]), lambda half: ((half / 'weights').write_bytes(b'x'), os.kill(os.getpid(), 9)))"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "model")], check=False).returncode == -9
    [dead] = tmp_path.iterdir()
    assert (dead / "weights").is_file()
    (tmp_path / ".models.1.partial").mkdir()
    seen: list[set[str]] = []

    def inner(half: Path) -> None:
        (half / "weights").write_bytes(b"y")
        write_folder(tmp_path / "model", lambda other: (other / "weights").write_bytes(b"z"))
        seen.append({path.name for path in tmp_path.iterdir()})

    write_folder(tmp_path / "model", inner)
    assert dead.name not in seen[0]
    assert sum(name.startswith(".model.") for name in seen[0]) == 1  # the outer one's, which was being written
    assert {path.name for path in tmp_path.iterdir()} == {"model", ".models.1.partial"}
    assert (tmp_path / "model" / "weights").read_bytes() == b"y"


def test_a_folder_that_another_process_made_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    def other(half: Path) -> None:
        (half / "weights").write_bytes(b"mine")
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "weights").write_bytes(b"theirs")

    with pytest.raises(InputError, match="another process has made it"):
        write_folder(tmp_path / "model", other, replace=False)
    assert (tmp_path / "model" / "weights").read_bytes() == b"theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
