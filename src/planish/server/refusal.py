"""A refused request, in OpenAI's error shape."""

from __future__ import annotations

from typing import Any


class Refusal(Exception):
    """Why a request is not served. `param` names the request field, `code` is stable; `retry_after` is in seconds."""

    def __init__(self, status: int, message: str, *, code: str, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.body: dict[str, Any] = {"error": {"message": message, "type": _type(status), "param": param, "code": code}}
        self.headers = {} if retry_after is None else {"retry-after": str(retry_after)}
        if status == 401:
            self.headers["www-authenticate"] = "Bearer"


def _type(status: int) -> str:
    if status >= 500:
        return "server_error"
    return {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(status, "invalid_request_error")
