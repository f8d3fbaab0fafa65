"""Runs the gateway: the port is checked before anything is loaded, loopback unless there are keys, and SIGTERM drains."""

from __future__ import annotations

import errno
import socket
import time
from types import FrameType
from typing import TYPE_CHECKING

from planish.errors import InputError, Problem
from planish.lazy import require
from planish.server.loopback import is_loopback

if TYPE_CHECKING:
    from fastapi import FastAPI

DRAIN_S = 30.0


def ensure_port_free(host: str, port: int) -> None:
    """Bind the port and let go of it. Raises InputError when it is taken or is not ours to take; call it before a model is loaded."""
    _bound(host, port).close()


def serve(app: FastAPI, *, host: str = "127.0.0.1", port: int, drain: float = DRAIN_S) -> None:
    """Serve until SIGTERM or SIGINT, then drain: not ready at once, no new answers, up to `drain` seconds for those in flight. A second signal ends it.

    Returns when drained; closing the engine and the log is the caller's. Raises InputError for a taken port, or a host that is not loopback without keys.
    """
    if not is_loopback(host) and (app.state.keys is None or not app.state.keys.keys):
        raise InputError(Problem(f"serve.host {host}", "other machines could use the model without a key", "make a key first, or serve on 127.0.0.1"))
    uvicorn = require("uvicorn", extra="serve")
    listening = _bound(host, port)
    gateway = app.state.gateway
    # Neither uvicorn's access log nor its tracebacks: they would hold paths, addresses and text that nothing has redacted.
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, lifespan="off", timeout_graceful_shutdown=2, timeout_keep_alive=30)
    server = uvicorn.Server(config)
    tick = server.on_tick
    asked_at: list[float] = []

    def handle_exit(number: int, frame: FrameType | None) -> None:
        gateway.draining = True
        if asked_at:
            server.should_exit = True
        asked_at.append(time.monotonic())

    async def on_tick(counter: int) -> bool:
        if asked_at and (gateway.inside == 0 or time.monotonic() - asked_at[0] >= drain):
            return True
        return bool(await tick(counter))

    # uvicorn closes its sockets at the first signal, so that "not ready" could never be seen; these two are its documented places to differ.
    server.handle_exit = handle_exit
    server.on_tick = on_tick
    try:
        server.run(sockets=[listening])
    finally:
        listening.close()


def _bound(host: str, port: int) -> socket.socket:
    where = f"serve.port {port} on {host}"
    if not 0 <= port <= 65535:
        raise InputError(Problem(where, "is not a port number", "choose one between 1 and 65535"))
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as unknown:
        raise InputError(Problem(f"serve.host {host}", "is not an address of this machine", "use 127.0.0.1")) from unknown
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(512)
    except OSError as refused:
        listening.close()
        if refused.errno == errno.EADDRINUSE:
            raise InputError(Problem(where, "another program uses this port", "stop it, or choose another port (serve: {port: ...})")) from refused
        fix = "choose a port above 1023" if refused.errno == errno.EACCES else "use 127.0.0.1"
        raise InputError(Problem(where, f"cannot be used: {refused.strerror}", fix)) from refused
    return listening
