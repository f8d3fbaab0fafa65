"""What is kept of a request: redacted, on disk before the answer ends, and never in the way of serving."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_gateway import FakeEngine, Running, StillRedactor, running

from planish.data.redact import Redactor
from planish.data.request_log import Correction, JsonlRequestLog, LogRecord, read_corrections, read_log
from planish.errors import InputError

MESSAGES: list[Any] = [{"role": "user", "content": "I am bob@example.com, card 4111 1111 1111 1111"}]


def record(number: int, **more: Any) -> LogRecord:
    plain = {
        "id": f"chatcmpl-{number:024x}", "ts": "2026-01-01T00:00:00+00:00", "model": "m", "template_hash": "", "params": {}, "prompt_tokens": 1,
        "completion_tokens": 1,
        "latency_ms": 1.0, "ttft_ms": None, "finish": "stop", "content": {"messages": [], "answer": "a"},
    }  # fmt: skip
    return LogRecord.model_validate(plain | more)


def test_the_log_holds_the_answer_redacted_under_the_responses_id(tmp_path: Path) -> None:
    with running(tmp_path, FakeEngine(words=["Mail ", "bob@example.com", " or ", "al@example.org"]), redactor=Redactor()) as gateway:
        reply = gateway.client.chat.completions.create(model="tiny", messages=MESSAGES, stop=["bob@example.com"])
        [line], skipped = read_log(gateway.log.path)  # before the gateway is closed: the line was there before the answer was complete
        assert skipped == 0
        assert (line.id, line.finish, line.prompt_tokens, line.completion_tokens) == (reply.id, "stop", len("<user>" + MESSAGES[0]["content"]), 4)
        assert line.content is not None
        assert line.content["messages"] == [{"role": "user", "content": "I am <EMAIL_1>, card <CARD_1>"}]
        assert line.content["answer"] == "Mail <EMAIL_1> or <EMAIL_2>"
        assert line.redaction is not None
        assert line.redaction.counts == {"EMAIL": 4, "CARD": 1}
        assert reply.choices[0].message.content == "Mail bob@example.com or al@example.org"
        raw = gateway.log.path.read_bytes()
        assert b"bob@" not in raw
        assert b"4111" not in raw
        assert gateway.key.encode() not in raw
        assert stat.S_IMODE(os.stat(gateway.log.path).st_mode) == 0o600


def test_a_stream_is_logged_before_done(gateway: Running) -> None:
    body = {"model": "tiny", "messages": MESSAGES, "stream": True}
    with httpx.stream("POST", f"{gateway.root}/v1/chat/completions", json=body, headers=gateway.headers()) as response:
        for line in response.iter_lines():
            if line == "data: [DONE]":
                assert len(read_log(gateway.log.path)[0]) == 1
                break


def test_opting_out_leaves_a_row_without_text(gateway: Running) -> None:
    """MISSION L1: opt-out request -> metadata row, no text."""
    more: Any = {"extra_headers": {"x-planish-opt-out": "1"}, "stop": ["secret-stop"], "extra_body": {"structured_outputs": {"choice": ["label-a", "label-b"]}}}
    gateway.client.chat.completions.create(model="tiny", messages=MESSAGES, **more)
    [line], _ = read_log(gateway.log.path)
    assert (line.content, line.consent) == (None, "opt_out")
    raw = gateway.log.path.read_text()
    assert not [text for text in ("bob", "label-", "secret-stop") if text in raw]


def test_a_correction_names_the_request_and_is_redacted(tmp_path: Path) -> None:
    with running(tmp_path, redactor=Redactor()) as gateway:
        reply = gateway.client.chat.completions.create(model="tiny", messages=MESSAGES)
        hidden = gateway.client.chat.completions.create(model="tiny", messages=MESSAGES, extra_headers={"x-planish-opt-out": "1"})

        def correct(log_id: str) -> httpx.Response:
            return httpx.post(f"{gateway.root}/v1/feedback", json={"log_id": log_id, "corrected": "ask al@example.org"}, headers=gateway.headers())

        assert correct(reply.id).json() == {"object": "feedback", "log_id": reply.id, "status": "stored"}
        assert correct("chatcmpl-" + "0" * 24).status_code == 404
        assert correct(hidden.id).status_code == 409
        assert correct("../etc/passwd").status_code == 400
        [correction], _ = read_corrections(gateway.log.path)
        assert (correction.log_id, correction.corrected) == (reply.id, "ask <EMAIL_1>")
        assert len(read_log(gateway.log.path)[0]) == 2


def test_a_persons_corrections_file_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "corrections.jsonl"
    path.write_text('{"log_id": "chatcmpl-1", "corrected": "positive"}\n\nnonsense\n')
    corrections, skipped = read_corrections(path)
    assert [(each.log_id, each.corrected) for each in corrections] == [("chatcmpl-1", "positive")]
    assert skipped == 1
    with pytest.raises(InputError, match="cannot be read"):
        read_log(tmp_path / "absent.jsonl")


def test_a_torn_line_is_skipped_and_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    for number in range(2):
        log = JsonlRequestLog(path, StillRedactor())
        assert log.write(record(number)).result(5)
        log.close()
        with path.open("ab") as file:
            file.write(b'{"id":"chatcmpl-torn","ts":"20')
    records, skipped = read_log(path)
    assert [each.id for each in records] == [record(0).id, record(1).id]
    assert skipped == 2


def test_a_full_disk_drops_and_counts_and_serving_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path) as gateway:
        write, full = os.write, [True]

        def limited(descriptor: int, data: bytes) -> int:
            if full[0] and data.lstrip().startswith(b'{"id"'):
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(descriptor, data)

        monkeypatch.setattr(os, "write", limited)
        for _ in range(2):
            assert gateway.client.chat.completions.create(model="tiny", messages=MESSAGES).choices
        assert gateway.log.dropped == 2
        assert "planish_log_dropped_total 2" in httpx.get(f"{gateway.root}/metrics", headers=gateway.headers()).text
        full[0] = False
        gateway.client.chat.completions.create(model="tiny", messages=MESSAGES)
        assert len(read_log(gateway.log.path)[0]) == 1


def test_a_short_write_is_dropped_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = JsonlRequestLog(tmp_path / "requests.jsonl", StillRedactor())
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:20]))
    assert log.write(record(1)).result(5) is False
    monkeypatch.setattr(os, "write", write)
    assert log.write(record(2)).result(5) is True
    log.close()
    records, skipped = read_log(log.path)
    assert ([each.id for each in records], skipped, log.dropped) == ([record(2).id], 1, 1)
    assert log.write(record(3)).result(5) is False


class BrokenRedactor(StillRedactor):
    def value(self, value: Any, seen: dict[str, str] | None = None) -> tuple[Any, dict[str, int]]:
        return None, {"error": 1}


def test_what_cannot_be_redacted_is_not_written(tmp_path: Path) -> None:
    """MISSION L3: redactor error -> content dropped; without a redactor nothing is kept either."""
    for number, redactor in enumerate((BrokenRedactor(), None)):
        log = JsonlRequestLog(tmp_path / f"{number}.jsonl", redactor)
        assert log.write(record(1, content={"messages": [], "answer": "private"})).result(5)
        assert log.correct(Correction(log_id="chatcmpl-1", corrected="private")).result(5) is False
        log.close()
        [line], _ = read_log(log.path)
        assert line.content is None
        assert "private" not in log.path.read_text()
        assert (line.redaction is not None and line.redaction.counts) == ({"error": 1} if redactor else False)


KILLED = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_request_log import record
from fake_gateway import StillRedactor
from planish.data.request_log import JsonlRequestLog
log = JsonlRequestLog(Path(sys.argv[2]), StillRedactor())
written = []
def acknowledged(done, number):
    if done.result():
        os.write(1, b"%d\\n" % number)
        written.append(number)
    if len(written) == 500:
        os.kill(os.getpid(), 9)
for number in range(1_000_000):
    log.write(record(number)).add_done_callback(lambda done, number=number: acknowledged(done, number))
"""


def test_a_kill_under_load_loses_no_acknowledged_row(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    done = subprocess.run([sys.executable, "-c", KILLED, str(Path(__file__).parent), str(path)], capture_output=True, check=False)
    assert done.returncode == -9, done.stderr
    acknowledged = {f"chatcmpl-{int(number):024x}" for number in done.stdout.split()}
    assert len(acknowledged) == 500
    assert acknowledged <= {json.loads(line)["id"] for line in path.read_bytes().split(b"\n")[:-1] if line}
