"""Data sets of the hub, read over HTTP from a small server of its interface on this machine.

The hub's client reads HF_ENDPOINT when it is imported, so every reading is made in a process of its own.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from planish import advise, climb
from planish.advise import drafted
from planish.data import hub as reader
from planish.errors import InputError
from planish.evidence.guide import Answers
from planish.recipe import Recipe
from planish.stages import prepare

pytest.importorskip("datasets")
pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

Files = dict[str, bytes]

SUBSETS = {
    "README.md": b"---\nconfigs:\n- config_name: a\n  data_files: a.csv\n- config_name: b\n  data_files:\n  - split: test\n    path: b.csv\n---\n",
    "a.csv": b"text\nof a\n",
    "b.csv": b"text\nof b\n",
}
CARD = b"---\nlicense: mit\n---\n"
TOKEN = "hf_" + "of" * 17
READ = """
import json, sys
from planish.data.formats import read_records
from planish.errors import PlanishError
for path in sys.argv[1:]:
    found = []
    try:
        found += (record.value for record in read_records(path))
        print(json.dumps({"rows": found}))
    except PlanishError as refused:
        (problem,) = refused.problems
        print(json.dumps({"rows": found, "code": refused.exit_code, "where": problem.where, "why": problem.why, "fix": problem.fix}))
"""


class Hub:
    """What the hub answers to a reader: what a set is, which files each commit has, and their bytes. `sets` holds the commits of each by name, the newest last;
    `next_of` what becomes the newest once a set was asked for; `closed` the status with which strangers are turned away; `cut` the files whose sending breaks
    off half way."""

    def __init__(self) -> None:
        self.sets: dict[str, dict[str, Files]] = {}
        self.next_of: dict[str, Files] = {}
        self.closed: dict[str, int] = {}
        self.cut: set[str] = set()
        self.asked: list[tuple[str, str, int]] = []
        self.tokens: set[str | None] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def push(self, name: str, files: Files) -> None:
        """A commit, called by what is in it."""
        digest = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.sets.setdefault(name, {})[digest] = files

    def sent(self, name: str) -> int:
        """Bytes of files of rows that were sent so far."""
        return sum(size for method, path, size in self.asked if method == "GET" and f"{name}/resolve/" in path and not path.endswith(".md"))

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0)).decode()
        url = urlsplit(request.path)
        status, data, headers = self.found(request, unquote(url.path), parse_qs(url.query) | parse_qs(body))
        if request.headers.get("Range") and status == 200:
            first, last = map(int, request.headers["Range"].removeprefix("bytes=").split("-"))
            headers["Content-Range"], status, data = f"bytes {first}-{min(last, len(data) - 1)}/{len(data)}", 206, data[first : last + 1]
        request.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            request.send_header(key, value)
        request.end_headers()
        broken = url.path.rpartition("/")[2] in self.cut
        if request.command != "HEAD":
            request.wfile.write(data[: len(data) // 2] if broken else data)
        request.close_connection = broken
        self.asked.append((request.command, url.path, len(data)))

    def found(self, request: BaseHTTPRequestHandler, path: str, given: dict[str, list[str]]) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers."""
        match = re.fullmatch(r"(?:/api)?/datasets/([^/]+/[^/]+)(?:/(revision|tree|paths-info|resolve)/([^/]+)(?:/(.*))?)?", path)
        if match is None or match[1] not in self.sets:
            return 401, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"}
        name, what, revision, inner = match[1], match[2], match[3], match[4] or ""
        token = request.headers.get("Authorization")
        self.tokens.add(token)
        if name in self.closed and what == "resolve" and token != f"Bearer {TOKEN}":
            return self.closed[name], b'{"error": "restricted"}', {"X-Error-Code": "GatedRepo"}
        commits = self.sets[name]
        if revision not in (None, "main", *commits):
            return 404, b'{"error": "Invalid rev id"}', {"X-Error-Code": "RevisionNotFound"}
        commit = revision if revision in commits else list(commits)[-1]
        files = commits[commit]
        if what in (None, "revision"):
            if what is None and name in self.next_of:
                self.push(name, self.next_of.pop(name))
            return 200, json.dumps({"id": name, "sha": commit, "tags": [], "siblings": [{"rfilename": file} for file in files]}).encode(), {}
        if what == "tree":
            listed = [_entry(file, data) for file, data in sorted(files.items()) if file.rpartition("/")[0] == inner]
            below = {file.split("/")[0] for file in files if "/" in file and not inner}
            listed += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": folder} for folder in sorted(below)]
            return (200, json.dumps(listed).encode(), {}) if listed else (404, b"{}", {"X-Error-Code": "EntryNotFound"})
        if what == "paths-info":
            return 200, json.dumps([_entry(file, files[file]) for file in given["paths"] if file in files]).encode(), {}
        headers = {"X-Repo-Commit": commit}
        if inner not in files:
            return 404, b"Entry not found", headers | {"X-Error-Code": "EntryNotFound"}
        return 200, files[inner], headers | {"ETag": f'"{hashlib.sha1(files[inner]).hexdigest()}"', "Accept-Ranges": "bytes"}


def _entry(path: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "oid": hashlib.sha1(data).hexdigest(), "size": len(data), "path": path}


def _rows(count: int, word: str) -> list[dict[str, str]]:
    return [{"text": f"{word} number {row} of the reviews", "label": ("good", "bad")[row % 2]} for row in range(count)]


def _parquet(rows: list[dict[str, str]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def _lines(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub with one set of Parquet files, train and test."""
    made = Hub()
    made.push(
        "owner/name",
        {"README.md": CARD, "data/train-00000-of-00001.parquet": _parquet(_rows(40, "train")), "data/test-00000-of-00001.parquet": _parquet(_rows(5, "test"))},
    )
    thread = threading.Thread(target=made.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def _child(folder: Path, address: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """A Python process in `folder` that knows this hub alone."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING")) and not key.lower().endswith("_proxy")}
    environment |= {"HF_ENDPOINT": address, "HF_HOME": str(folder / "home"), "NO_PROXY": "127.0.0.1"} | more
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=240)


def _read(folder: Path, address: str, *paths: str, **more: str) -> list[dict[str, Any]]:
    """What became of each path, read one after the other in one process, in which datasets need not load torch."""
    done = _child(folder, address, "-c", READ, *paths, USE_TORCH="0", **more)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def _refused(found: dict[str, Any], where: str, why: str, fix: str) -> None:
    """An error in the three parts of every error, with none of its rows read."""
    assert (found["rows"], found["code"], found["where"]) == ([], 2, where)
    assert re.search(why, found["why"])
    assert "\n" not in found["why"]
    assert re.search(fix, found["fix"])


def test_a_split_is_read_and_every_request_is_of_one_commit(hub: Hub, tmp_path: Path) -> None:
    """`train` unless named; Parquet, JSON, CSV and text. The set changes on the hub once it was asked for: the second reading is of the same rows."""
    hub.next_of["owner/name"] = {"data/train.parquet": _parquet(_rows(3, "later"))}
    hub.push("owner/lines", {"train.jsonl": _lines(_rows(3, "train")), "test.jsonl": _lines(_rows(2, "test"))})
    hub.push("owner/table", {"train.csv": b"text,label\na b,x\n"})
    hub.push("owner/text", {"train.txt": b"a b\nc d\n"})
    paths = ["hub:owner/name", "hub:owner/name", "hub:owner/name:test", "hub:owner/lines:test", "hub:owner/table", "hub:owner/text"]
    first, again, test, *others = _read(tmp_path, hub.address, *paths)
    assert first == again == {"rows": _rows(40, "train")}
    assert test == {"rows": _rows(5, "test")}
    assert [found["rows"] for found in others] == [_rows(2, "test"), [{"text": "a b", "label": "x"}], [{"text": "a b"}, {"text": "c d"}]]
    (old, new) = hub.sets["owner/name"]
    assert not [path for _, path, _ in hub.asked if "name/resolve/" in path and f"/resolve/{old}/" not in path]
    assert not [path for _, path, _ in hub.asked if new in path or "/main" in path]
    assert sum(path == "/api/datasets/owner/name" for _, path, _ in hub.asked) == 1
    assert _read(tmp_path, hub.address, "hub:owner/name") == [{"rows": _rows(3, "later")}]  # a later process


def test_subsets_and_revisions_are_named(hub: Hub, tmp_path: Path) -> None:
    """hub:owner/name/subset@revision:split. A commit needs no asking where it stands; a branch or a tag is asked for."""
    hub.push("owner/subsets", SUBSETS)
    (old,) = hub.sets["owner/name"]
    hub.push("owner/name", {"data/train.parquet": _parquet(_rows(3, "later"))})
    paths = ["hub:owner/subsets/a", "hub:owner/subsets/b:test", f"hub:owner/name@{old}:test", "hub:owner/name@main"]
    a, b, before, newest = _read(tmp_path, hub.address, *paths)
    assert (a["rows"], b["rows"]) == ([{"text": "of a"}], [{"text": "of b"}])
    assert before["rows"] == _rows(5, "test")
    assert newest["rows"] == _rows(3, "later")
    asked = {path for _, path, _ in hub.asked}
    assert "/api/datasets/owner/name/revision/main" in asked
    assert "/api/datasets/owner/name" not in asked


def test_a_path_has_its_parts_in_one_order() -> None:
    assert reader.place("hub:openai/gsm8k/main@v1:test") == ("openai/gsm8k", "main", "v1", "test")
    assert reader.place("hub:o/n@refs/convert/parquet") == ("o/n", None, "refs/convert/parquet", "train")
    for wrong in ("hub:name", "hub:o/n/a/b", "hub:o/n:", "hub:o/n@", "hub:/n", "hub:"):
        with pytest.raises(InputError, match="names no data set on the hub"):
            reader.place(wrong)


def test_what_cannot_be_opened_is_an_error_with_its_fix(hub: Hub, tmp_path: Path) -> None:
    """Absent, without such a split, in subsets, without data, and no name at all."""
    hub.push("owner/subsets", SUBSETS)
    hub.push("owner/empty", {"README.md": CARD})
    paths = ["hub:owner/absent", "hub:owner/name:gold", "hub:owner/subsets", "hub:owner/empty", "hub:name", "hub:owner/subsets/c", "hub:owner/name@v9"]
    absent, split, subsets, empty, name, subset, revision = _read(tmp_path, hub.address, *paths)
    _refused(absent, paths[0], "no such data set on the hub, or it is private", "check the name.*HF_TOKEN")
    _refused(split, paths[1], r"Bad split: gold\. Available splits: \['train', 'test'\]", "hub:owner/name:split")
    _refused(subsets, paths[2], r"\['a', 'b'\]", "hub:owner/name/subset")
    _refused(subset, paths[5], r"'c' not found. Available: \['a', 'b'\]", "hub:owner/name/subset")
    _refused(revision, paths[6], "no such branch, tag or commit", "history")
    _refused(empty, paths[3], "any data files", "only sets of data files")
    _refused(name, paths[4], "names no data set", "hub:owner/name")


def test_no_script_of_a_set_is_run_and_no_kind_that_may_hold_code_is_decoded(hub: Hub, tmp_path: Path) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo("0.pth")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"code"))
    ran = tmp_path / "ran"
    hub.push("owner/scripted", {"scripted.py": f"open({str(ran)!r}, 'w')".encode(), "train.jsonl": _lines(_rows(2, "train"))})
    hub.push("owner/archive", {"train.tar": archive.getvalue()})
    scripted, decoded = _read(tmp_path, hub.address, "hub:owner/scripted", "hub:owner/archive")
    _refused(scripted, "hub:owner/scripted", "scripts are no longer supported", "no script is run")
    _refused(decoded, "hub:owner/archive", "files of the kind webdataset", "known: parquet, arrow, json, csv, text")
    assert not ran.exists()
    assert not hub.sent("owner/archive")


def test_a_gated_set_asks_for_a_token_which_is_sent_and_written_nowhere(hub: Hub, tmp_path: Path) -> None:
    files = hub.sets["owner/name"]
    for name, status in (("owner/gated", 401), ("owner/refused", 403)):
        hub.sets[name], hub.closed[name] = files, status
    for found in _read(tmp_path, hub.address, "hub:owner/gated", "hub:owner/refused"):
        _refused(found, found["where"], "is a gated dataset", "ask to be let in on its page, and set HF_TOKEN")
    assert hub.tokens == {None}
    (let_in,) = _read(tmp_path, hub.address, "hub:owner/gated", HF_TOKEN=TOKEN)
    assert let_in["rows"] == _rows(40, "train")
    assert f"Bearer {TOKEN}" in hub.tokens
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def test_a_folder_of_the_same_name_is_not_read_in_place_of_the_set(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "owner" / "name" / "train.jsonl").write_bytes(_lines(_rows(2, "local")))
    (found,) = _read(tmp_path, hub.address, "hub:owner/name")
    _refused(found, "hub:owner/name", "is also a folder here", "without hub:")


def test_a_hub_that_is_not_there_is_an_error_at_once(tmp_path: Path) -> None:
    """One question, no rounds of asking again."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"  # bound, and nobody listens
        done = _child(tmp_path, address, "-c", READ, "hub:owner/name")
    _refused(json.loads(done.stdout), "hub:owner/name", "the hub does not answer: .*refused", "check the network, and HF_ENDPOINT")
    assert "Retrying" not in done.stderr


def test_a_changed_set_is_another_input_of_the_prepare_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commit is part of what the stage is known by: of the rows, and of a gold set of their own."""
    (tmp_path / "r.yaml").write_text("recipe: 1\nmodel: smollm2-135m-instruct\ndata: {path: 'hub:owner/name', gold: 'hub:owner/name:test'}\n")
    recipe = Recipe.load(tmp_path / "r.yaml")
    monkeypatch.setattr(reader, "commit", lambda path: "one")
    before = prepare.options(recipe)
    assert prepare.options(recipe) == before
    monkeypatch.setattr(reader, "commit", lambda path: "other")
    after = prepare.options(recipe)
    assert {key for key in after if after[key] != before[key]} == {"data.path", "data.gold"}


def test_advice_and_a_climb_begin_with_a_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name stays what it is in the recipes that they draft, wherever those lie."""
    monkeypatch.setattr(reader, "rows", lambda path: ((line, json.dumps(row).encode(), row) for line, row in enumerate(_rows(200, path[-4:]), 1)))
    recipe, facts = climb.start(Path("hub:owner/name"), model="smollm2-135m-instruct", gold=Path("hub:owner/name:test"))
    assert (str(recipe.data.path), str(recipe.data.gold)) == ("hub:owner/name", "hub:owner/name:test")
    assert facts.good_rows == 200
    counsel = advise.of("hub:owner/name", Answers())
    assert counsel.recipe is not None
    drafted.write(tmp_path / "below.yaml", counsel.recipe, counsel.why)
    assert str(Recipe.load(tmp_path / "below.yaml").data.path) == "hub:owner/name"


def _planish(folder: Path, hub: Hub, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    done = _child(folder, hub.address, "-m", "planish", *arguments, HF_TOKEN=TOKEN, **more)
    assert "Traceback" not in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_a_recipe_runs_on_a_hub_set_and_again_only_when_it_has_changed(hub: Hub, tmp_path: Path) -> None:
    """With the test split as its gold set. No row is asked for again where nothing has changed, and the token stands in nothing that was written.
    A recipe that names the commit needs no hub for rows that it has."""
    hub.push("owner/name", {"train.jsonl": _lines(_rows(200, "train")), "test.jsonl": _lines(_rows(40, "test"))})
    data = "{path: 'hub:owner/name', gold: 'hub:owner/name:test', checks: [duplicates]}"
    (tmp_path / "r.yaml").write_text(f"recipe: 1\nmodel: smollm2-135m-instruct\ndata: {data}\n")
    first = _planish(tmp_path, hub, "prepare", "r.yaml")
    assert first.returncode == 0, first.stderr
    assert "240 rows read, 240 accepted" in first.stderr
    assert "draft" not in first.stderr
    sent = hub.sent("owner/name")
    assert "prepare: unchanged" in _planish(tmp_path, hub, "prepare", "r.yaml").stderr
    assert hub.sent("owner/name") == sent
    hub.push("owner/name", {"train.jsonl": _lines(_rows(210, "train")), "test.jsonl": _lines(_rows(40, "test"))})
    assert "250 rows read, 250 accepted" in _planish(tmp_path, hub, "prepare", "r.yaml").stderr
    assert _planish(tmp_path, hub, "prepare", "r.yaml", HF_HUB_OFFLINE="1").returncode == 2
    _, commit, _ = hub.sets["owner/name"]
    pinned = data.replace("owner/name:test", f"owner/name@{commit}:test").replace("'hub:owner/name'", f"'hub:owner/name@{commit}'")
    (tmp_path / "pinned.yaml").write_text(f"recipe: 1\nmodel: smollm2-135m-instruct\ndata: {pinned}\n")
    assert "240 rows read, 240 accepted" in _planish(tmp_path, hub, "prepare", "pinned.yaml").stderr
    assert "prepare: unchanged" in _planish(tmp_path, hub, "prepare", "pinned.yaml", HF_HUB_OFFLINE="1").stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


@pytest.mark.slow
def test_a_long_set_is_sent_about_once_however_often_it_is_looked_at(hub: Hub, tmp_path: Path) -> None:
    """It is looked at twice: at its first 200 rows, to tell what the columns are, and to its end; each time its beginning is also read for the types. That is
    10 MiB of JSON and the 5 MiB which the client reads ahead: at most 64 + 3 * 15 MiB of a file of 64."""
    data = _lines([{"text": "a b c d " * 4096, "label": "x"}]) * 2048
    hub.push("owner/long", {"train.jsonl": data})
    done = _planish(tmp_path, hub, "check", "hub:owner/long", "--checks", "balance")
    assert "2048 rows read" in done.stdout
    assert len(data) <= hub.sent("owner/long") <= len(data) + (45 << 20)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["owner/cut", "owner/late"])
def test_a_connection_that_breaks_off_is_an_error_within_a_minute_and_leaves_nothing(hub: Hub, tmp_path: Path, name: str) -> None:
    """In the first file, which is opened to tell the types, and in the second, after rows of the first. The client says that it asks again, five times."""
    hub.push("owner/cut", {"train-0.jsonl": _lines(_rows(40, "a")), "train-1.jsonl": _lines(_rows(40, "b"))})
    hub.sets["owner/late"] = hub.sets["owner/cut"]
    hub.cut = {"train-0.jsonl" if name == "owner/cut" else "train-1.jsonl"}
    began = time.monotonic()
    done = _planish(tmp_path, hub, "convert", f"hub:{name}", "--to", "sharegpt", "--out", "out.jsonl")
    assert time.monotonic() - began < 60
    assert done.returncode == 2
    assert re.search(rf"hub:{name}: cannot be (opened|read to its end): Server Disconnected: peer closed connection", done.stderr)
    assert "fix: give the same command again" in done.stderr
    assert "Retrying in 8s [Retry 5/5]" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.slow
def test_a_hub_that_never_answers_is_given_up_after_ten_seconds(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        (found,) = _read(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}", "hub:owner/name")
        assert 10 <= time.monotonic() - began < 60
    _refused(found, "hub:owner/name", "the hub does not answer: .*timed out", "check the network")


@pytest.mark.slow
def test_offline_the_hub_is_not_asked_and_that_is_said(hub: Hub, tmp_path: Path) -> None:
    (found,) = _read(tmp_path, hub.address, "hub:owner/name", HF_HUB_OFFLINE="1")
    _refused(found, "hub:owner/name", "offline mode is enabled", "HF_HUB_OFFLINE")
    assert not hub.asked
