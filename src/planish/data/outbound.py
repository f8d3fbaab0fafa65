"""Calls to an address that a recipe names: checked before anything is sent, pinned to what was checked, never redirected, and bounded in size.

This machine's own addresses may be called in the clear; any other needs TLS; private, link-local and reserved ones (a cloud's metadata service among them) are
refused unless allowed. The name is resolved once, and the call goes to that very address: a name that changes its mind between the check and the call gains
nothing (MISSION R-9)."""

from __future__ import annotations

import ipaddress
import json
import socket
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from planish.errors import InputError, Problem, RunFailed
from planish.lazy import require

MAX_BYTES = 10_000_000
ATTEMPTS = 3
AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_BACKOFF_S = 0.5

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Place(NamedTuple):
    """A checked address: where the call really goes, and the name it goes by."""

    url: str
    host: str
    name: str


def check(url: str, *, allow_private: bool = False, where: str = "url") -> Place:
    """Resolve and judge an address. Raises InputError at `where`, without the path or anything secret in it."""

    def refuse(why: str, fix: str) -> InputError:
        return InputError(Problem(where, why, fix))

    try:
        parts = urlsplit(url)
        name, port = parts.hostname, parts.port
    except ValueError:
        name, port, parts = None, None, urlsplit("")
    if parts.scheme not in ("http", "https") or not name or parts.username or parts.password or parts.query or parts.fragment:
        raise refuse("is no http(s) address without credentials, query or fragment", "for example http://127.0.0.1:8000/v1")
    try:
        found = {_plain(ipaddress.ip_address(str(each[4][0]).partition("%")[0])) for each in socket.getaddrinfo(name, port or 443, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as unknown:
        raise refuse(f"{name} cannot be resolved", "check the name") from unknown
    local = all(address.is_loopback for address in found)
    inside = sorted(str(address) for address in found if not address.is_global and not address.is_loopback)
    mixed = not local and any(address.is_loopback for address in found)
    if mixed or (inside and not allow_private):
        raise refuse(f"{name} is at {', '.join(inside) or 'this machine and elsewhere'}: not a public address", "set allow_private if it is meant")
    if any(address.is_link_local or address.is_multicast or address.is_unspecified for address in found):
        raise refuse(f"{name} is at a link-local, multicast or unspecified address", "give the address of the endpoint itself")
    if parts.scheme == "http" and not local:
        raise refuse(f"plain http to {name} leaves this machine", "use https")
    host = min(found, key=lambda address: (address.version, str(address)))
    pinned = f"[{host}]" if host.version == 6 else str(host)
    return Place(f"{parts.scheme}://{pinned}{f':{port}' if port else ''}{parts.path.rstrip('/')}", name + (f":{port}" if port else ""), name)


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def _plain(address: Address) -> Address:
    """An IPv4 address that is written as, or reached through, IPv6 is what it stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None
    return address.ipv4_mapped or address.sixtofour or inner or address


class Caller:
    """Posts JSON to one checked place. A call that fails after ATTEMPTS tries raises RunFailed "endpoint_failed"."""

    def __init__(self, place: Place, *, secret: str = "", timeout: float = 60.0, sleep: Callable[[float], None] = time.sleep) -> None:
        httpx = require("httpx", extra="serve")
        headers = {"host": place.host, "x-planish-opt-out": "1"} | ({"authorization": f"Bearer {secret}"} if secret else {})
        # No proxy from the environment: it would see people's text, and it would resolve the name anew.
        self._client = httpx.Client(headers=headers, timeout=timeout, follow_redirects=False, trust_env=False)
        self._errors: Any = (httpx.HTTPError, ValueError)
        self._place, self._sleep = place, sleep

    def post(self, path: str, body: Any) -> Any:
        """The JSON that answers. `path` is taken below the place's own."""
        reason = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                self._sleep(_BACKOFF_S * 2 ** (attempt - 1))
            try:
                status, content = self._once(path, body)
                if status == 200:
                    return json.loads(content)
                reason = f"HTTP {status}"
                if status not in AGAIN:
                    break
            except self._errors as broken:
                reason = f"no answer: {type(broken).__name__}"
        raise RunFailed(Problem(f"endpoint {self._place.name}", reason, "check that it is up and serves this model"), reason_code="endpoint_failed")

    def _once(self, path: str, body: Any) -> tuple[int, bytes]:
        content = bytearray()
        more = {"sni_hostname": self._place.name}  # the certificate is the name's, whatever the address
        with self._client.stream("POST", f"{self._place.url}/{path}", json=body, extensions=more) as response:
            for part in response.iter_bytes():
                content += part
                if len(content) > MAX_BYTES:
                    raise ValueError("the answer is too large")
            return response.status_code, bytes(content)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
