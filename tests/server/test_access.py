"""Who may do what: keys, scopes, hosts, and the kept hashes."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import httpx
import pytest
from fake_gateway import Running, running
from fastapi.routing import APIRoute

from planish.errors import InputError
from planish.server.guard import ROUTE_SCOPES
from planish.server.keys import SCOPES, KeyRing

BODIES = {
    "/v1/chat/completions": {"model": "tiny", "messages": [{"role": "user", "content": "x"}]},
    "/v1/completions": {"model": "tiny", "prompt": "x"},
    "/v1/feedback": {"log_id": "chatcmpl-" + "0" * 24, "corrected": "x"},
}


def call(gateway: Running, route: str, headers: dict[str, str]) -> httpx.Response:
    url = gateway.root + route.replace("{name:path}", "tiny")
    return httpx.post(url, json=BODIES[route], headers=headers) if route in BODIES else httpx.get(url, headers=headers)


def test_every_route_against_every_scope(tmp_path: Path) -> None:
    ring = KeyRing()
    secrets = {scope: ring.create(scope, [scope]) for scope in sorted(SCOPES)}
    with running(tmp_path, keys=ring) as gateway:
        for route, scopes in ROUTE_SCOPES.items():
            for scope, secret in secrets.items():
                status = call(gateway, route, gateway.headers(secret)).status_code
                assert (status == 403) == (scopes is not None and scope not in scopes), (route, scope, status)
            for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": secrets["infer"]}, {"authorization": "Bearer"}):
                answer = call(gateway, route, headers)
                assert (answer.status_code == 401) == (scopes is not None), (route, headers)
                if scopes is not None:
                    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_every_route_of_the_application_has_its_scopes_written_down(shared: Running) -> None:
    assert {route.path for route in shared.app.routes if isinstance(route, APIRoute)} == set(ROUTE_SCOPES)
    assert len(shared.app.routes) == len(ROUTE_SCOPES)


def test_an_empty_ring_lets_nobody_in_and_none_asks_nobody(tmp_path: Path) -> None:
    with running(tmp_path / "a", keys=KeyRing()) as gateway:
        assert call(gateway, "/v1/models", gateway.headers()).status_code == 401
    with running(tmp_path / "b", keys=None) as gateway:
        assert call(gateway, "/v1/models", {}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "169.254.169.254", "[::1", "localhost@evil.example"])
def test_a_foreign_host_header_is_refused(shared: Running, host: str) -> None:
    answer = httpx.get(f"{shared.root}/v1/models", headers={**shared.headers(), "host": host})
    assert answer.status_code == 400
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:80", "LOCALHOST"])
def test_loopback_names_are_served(shared: Running, host: str) -> None:
    assert httpx.get(f"{shared.root}/v1/models", headers={**shared.headers(), "host": host}).status_code == 200


def test_configured_hosts_are_served_and_other_origins_are_not(tmp_path: Path) -> None:
    with running(tmp_path, hosts=["models.example"]) as gateway:
        assert httpx.get(f"{gateway.root}/v1/models", headers={**gateway.headers(), "host": "models.example:8000"}).status_code == 200
        assert httpx.get(f"{gateway.root}/v1/models", headers={**gateway.headers(), "origin": "https://evil.example"}).status_code == 403
        assert httpx.get(f"{gateway.root}/v1/models", headers={**gateway.headers(), "origin": "null"}).status_code == 403


def test_a_ring_keeps_hashes_only(tmp_path: Path) -> None:
    ring = KeyRing()
    secret = ring.create("ci", ["infer"])
    path = tmp_path / "keys.json"
    ring.save(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert secret not in path.read_text()
    assert secret.removeprefix("planish-") not in path.read_text()
    assert len(secret.removeprefix("planish-")) == 43  # 256 bits in base64
    read = KeyRing.load(path)
    assert read.scopes(secret) == {"infer"}
    assert read.scopes(secret + "x") is None
    assert [entry.name for entry in tmp_path.iterdir()] == ["keys.json"]


def test_bad_keys_are_named(tmp_path: Path) -> None:
    ring = KeyRing()
    ring.create("one", ["read"])
    with pytest.raises(InputError, match='"infr" is not a scope') as wrong:
        ring.create("one", ["infr"])
    assert len(wrong.value.problems) == 2
    (tmp_path / "keys.json").write_text(json.dumps([{"name": "x"}]))
    with pytest.raises(InputError, match="not a key file"):
        KeyRing.load(tmp_path / "keys.json")
    with pytest.raises(InputError, match="cannot be read"):
        KeyRing.load(tmp_path / "absent.json")
