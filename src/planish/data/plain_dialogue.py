"""Dialogues of turns that hold a role and a text and nothing else, which most rows of most files are: their id, their stored line and their keys, straight from the texts.

The same to the byte as those of the row they are; no row is made on the way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from json.encoder import encode_basestring
from typing import Any

from pydantic_core import to_json

from planish.data.normalise import SIZE, normalised

Value = dict[str, Any]


def is_plain(shape: str, fields: Value) -> bool:
    """Whether the fields of a row are those of such a dialogue."""
    return shape == "chat" and len(fields) == 1 and all(len(message) == 2 for message in fields["messages"])


def canonical(messages: Sequence[Value]) -> str:
    """The canonical JSON of shape and turns."""
    turns = [f'{{"content":{encode_basestring(message["content"])},"role":"{message["role"]}"}}' for message in messages]
    return f'{{"messages":[{",".join(turns)}],"shape":"chat"}}'


def line(id: str, file: str, number: int, sha256: str, group: str | None, extra: Value, messages: Sequence[Value]) -> bytes:
    """The row as one line of JSON, as `table.line_of` writes it."""
    turns = ",".join(
        [
            f'{{"role":"{message["role"]}","content":{encode_basestring(message["content"])},"weight":null,"tool_calls":[],"tool_call_id":null,"name":null}}'
            for message in messages
        ]
    )
    others = to_json(extra).decode() if extra else "{}"
    origin = f'{{"file":{encode_basestring(file)},"line":{number},"sha256":"{sha256}"}}'
    named = "null" if group is None else encode_basestring(group)
    return f'{{"id":{encode_basestring(id)},"origin":{origin},"group":{named},"extra":{others},"shape":"chat","messages":[{turns}],"tools":[]}}\n'.encode()


def digests(messages: Sequence[Value]) -> tuple[bytes, bytes]:
    """Those of question and answer, as `table.keys_of` makes them."""
    *asked, last = [f"{message['role']}\x1f{normalised(message['content'])}" for message in messages]
    return _digest("\x1f".join(["chat", *asked])), _digest(f"chat\x1f{last}")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:SIZE]
