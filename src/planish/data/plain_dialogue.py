"""Dialogues of turns that hold a role and a text and nothing else, which most rows of most files are: their id, their stored line and their keys, from the texts, and back.

The same to the byte as those of the row they are; no row is made on the way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from json.encoder import encode_basestring
from typing import Any

from pydantic_core import from_json, to_json

from planish.data.normalise import SIZE, normalised

Value = dict[str, Any]
Talk = tuple[tuple[str, ...], Sequence[str]]
"""Roles and contents."""

_BEGIN, _END = b'"shape":"chat","messages":[', b'],"tools":[]}\n'
_NOTHING_ELSE = b',"weight":null,"tool_calls":[],"tool_call_id":null,"name":null'


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


def talk(line: bytes) -> Talk | None:
    """Roles and contents of a row that `line` wrote; None of any other, and of one in which a tool speaks.

    What is looked for holds quotation marks, which stand in no text of the line without a backslash before them.
    """
    _, begun, rest = line.rpartition(_BEGIN)
    if not begun or not rest.endswith(_END):
        return None
    try:
        turns = from_json(b"[%b]" % rest[: -len(_END)].replace(_NOTHING_ELSE, b""))
    except ValueError:  # it began within another column, which is still open
        return None
    roles = tuple([turn["role"] for turn in turns])
    if "tool" in roles or any([len(turn) > 2 for turn in turns]):
        return None
    return roles, [turn["content"] for turn in turns]


def folded(messages: Sequence[Value]) -> list[str]:
    """The normalised contents."""
    return [normalised(message["content"]) for message in messages]


def digests(messages: Sequence[Value], folded: Sequence[str]) -> tuple[bytes, bytes]:
    """Those of question and answer, as `table.keys_of` makes them, from the turns and their normalised contents."""
    *asked, last = [f"{message['role']}\x1f{text}" for message, text in zip(messages, folded, strict=True)]
    return _digest("\x1f".join(["chat", *asked])), _digest(f"chat\x1f{last}")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:SIZE]
