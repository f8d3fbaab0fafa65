"""Ports, hosts and draining, with a real process."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from fake_gateway import running, wait_for

from planish.errors import InputError
from planish.server.keys import KeyRing
from planish.server.run import ensure_port_free, serve

SERVE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from fake_gateway import FakeEngine, StillRedactor, render
from planish.data.request_log import JsonlRequestLog
from planish.server.app import create_app
from planish.server.run import serve
from planish.server.served import Served
engine = FakeEngine(words=["word "] * 40, latency=0.05)
served = Served(name="tiny", engine=engine, render=render, encode=lambda text: list(text.encode()), end=0, context_length=2000, vocab_size=256)
log = JsonlRequestLog(Path(sys.argv[2]) / "requests.jsonl", StillRedactor())
serve(create_app(served, log=log, keys=None), port=int(sys.argv[3]), drain=float(sys.argv[4]))
log.close()
print("closed")
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_port_in_use_says_where_why_and_the_fix() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InputError) as refused:
            ensure_port_free("127.0.0.1", port)
    [problem] = refused.value.problems
    assert str(port) in problem.where
    assert "uses this port" in problem.why
    assert "another port" in problem.fix
    ensure_port_free("127.0.0.1", port)


def test_what_is_no_port_or_no_host_is_refused() -> None:
    with pytest.raises(InputError, match="not a port number"):
        ensure_port_free("127.0.0.1", 70000)
    with pytest.raises(InputError):
        ensure_port_free("192.0.2.1", free_port())  # TEST-NET: never an address of this machine


def test_other_machines_need_a_key(tmp_path: Path) -> None:
    for keys in (None, KeyRing()):
        with running(tmp_path, keys=keys) as gateway, pytest.raises(InputError, match="without a key"):
            serve(gateway.app, host="0.0.0.0", port=free_port())


def test_sigterm_drains(tmp_path: Path) -> None:
    """The answer in flight (2 s) ends whole; meanwhile the gateway is live, not ready, and takes no new work; then it leaves with status 0."""
    port = free_port()
    root = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(Path(__file__).parent), str(tmp_path), str(port), "30"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
    try:

        def up() -> bool:
            try:
                return httpx.get(f"{root}/health/ready").status_code == 200
            except httpx.TransportError:
                return False

        assert wait_for(up, 30), process.stdout and process.stdout.read()
        with ThreadPoolExecutor(1) as pool:
            flight = pool.submit(httpx.post, f"{root}/v1/chat/completions", json=body, timeout=20)
            time.sleep(0.4)
            process.send_signal(signal.SIGTERM)
            assert wait_for(lambda: httpx.get(f"{root}/health/ready").status_code == 503)
            assert httpx.get(f"{root}/health/live").status_code == 200
            late = httpx.post(f"{root}/v1/chat/completions", json=body)
            assert (late.status_code, late.json()["error"]["code"]) == (503, "draining")
            assert flight.result().json()["choices"][0]["message"]["content"] == "word " * 40
        output, _ = process.communicate(timeout=10)
        assert process.returncode == 0, output
        assert output.strip() == "closed"
    finally:
        process.kill()
        process.communicate()
