"""Python text read as a tree, by one thread at a time."""

from __future__ import annotations

import ast
import threading
from typing import Literal

_ALONE = threading.RLock()
"""CPython 3.11 counts the depth of the tree it builds once for all threads: two that parse at once end in SystemError, "recursion depth mismatch" (gh-106905).
A thread may enter twice, as the collector can run another's finaliser while it parses."""


def parsed(text: str | bytes, name: str = "<text>", mode: Literal["exec", "eval"] = "exec") -> ast.AST:
    """`ast.parse`, safe to call from any thread. Raises what that raises: SyntaxError, ValueError, RecursionError and MemoryError."""
    with _ALONE:
        return ast.parse(text, filename=name, mode=mode)
