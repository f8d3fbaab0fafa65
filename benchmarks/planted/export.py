"""A case as another tool reads it: the same rows, one a line, in the nearest format that the tool knows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.planted.case import Case
from benchmarks.planted.rival_checks import Rival
from benchmarks.planted.templates import TEMPLATES, tokenizer

_ROLES = {"human": "user", "gpt": "assistant"}


def export(cases: Sequence[Case], rival: Rival, work: Path) -> list[dict[str, Any]]:
    """Write every case that the rival can read into `work`, and say where: its driver's input."""
    given = []
    for number, case in enumerate(cases):
        folder = work / f"case_{number}"
        folder.mkdir()
        one = _case(case, rival, folder)
        if one is not None:
            given.append(one)
    for name in TEMPLATES:
        tokenizer(name).save_pretrained(work / "tokenizers" / name)
    return given


def _case(case: Case, rival: Rival, folder: Path) -> dict[str, Any] | None:
    suffix = Path(case.file).suffix
    if case.part == "gold files" or suffix not in rival.suffixes:
        return None
    common = {"name": case.name, "gold": None, "template": case.ask.template or "sound", "max_length": case.ask.max_length}
    if suffix != ".jsonl":
        (folder / case.file).write_bytes(_renamed(case.data) if suffix == ".csv" else case.data)
        return common | {"file": str(folder / case.file), "kind": "file", "form": "file", "lines": list(range(1, 2000)), "rows": {}}
    lines = [(number, data) for number, data in enumerate(case.data.split(b"\n"), start=1) if data]
    kind = next((found for _, data in lines if (found := _kind(_value(data)))), "chat")
    form = _form(kind, rival)
    if form is None:
        return None
    split = case.ask.split or {}
    train = [(number, _rewritten(data, kind, form, number, rival)) for number, data in lines if split.get(number, "train") != "gold"]
    gold = [_rewritten(data, kind, form, 100_000 + number, rival) for number, data in lines if split.get(number) == "gold"] + _gold(case, kind, form, rival)
    path = folder / "rows.jsonl"
    path.write_bytes(b"".join(data + b"\n" for _, data in train))
    if gold:
        (folder / "gold.jsonl").write_bytes(b"".join(data + b"\n" for data in gold))
        common["gold"] = str(folder / "gold.jsonl")
    # soup counts parsed rows, and names the lines it could not parse by their place in the file
    parsed = {number: value for number, data in train if isinstance(value := _value(data), dict)}
    return common | {"file": str(path), "kind": kind, "form": form, "lines": list(parsed), "rows": parsed}


def _renamed(table: bytes) -> bytes:
    """A table of texts and labels under the column names of an instruction data set."""
    header, end, rest = table.partition(b"\n")
    return header.replace(b"text", b"instruction").replace(b"label", b"output") + end + rest


def _value(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _kind(row: Any) -> str | None:
    """What kind of row this is, by its keys."""
    if not isinstance(row, dict):
        return None
    for kind, keys in (
        ("preferences", {"chosen", "rejected"}),
        ("stepwise", {"completions", "labels"}),
        ("judged", {"prompt", "completion", "label"}),
        ("prompts", {"prompt", "completion"}),
        ("tools", {"messages", "tools"}),
        ("chat", {"messages"}),
        ("alpaca", {"instruction", "output"}),
        ("sharegpt", {"conversations"}),
        ("labelled", {"text", "label"}),
        ("extraction", {"text", "entities"}),
        ("extraction", {"text", "fields"}),
        ("questions", {"question", "answer"}),
    ):
        if keys <= set(row):
            return kind
    return None


def _form(kind: str, rival: Rival) -> str | None:
    """The format a kind of row is rewritten in, or None when the rival has none for it."""
    if kind in rival.forms:
        return kind
    if kind == "sharegpt" and "chat" in rival.forms:
        return "chat"
    return "alpaca" if kind in ("prompts", "labelled", "questions") and "alpaca" in rival.forms else None


def _rewritten(data: bytes, kind: str, form: str, number: int, rival: Rival) -> bytes:
    """The row in the rival's format, with its line as id where the rival has a field for it. A row that is no plain JSON object stays as it stands."""
    row = _value(data)
    if not isinstance(row, dict) or _plain(row) != data:
        return data
    if kind != form:
        row = _as_chat(row) if form == "chat" else _as_alpaca(row, kind)
    if rival.id_key is not None:
        row = row | {rival.id_key: f"L{number}"}
    return json.dumps(row, ensure_ascii=False).encode()


def _plain(row: dict[str, Any]) -> bytes | None:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        return None


def _as_chat(row: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": _ROLES.get(turn["from"], turn["from"]), "content": turn["value"]} for turn in row["conversations"]]}


def _as_alpaca(row: dict[str, Any], kind: str) -> dict[str, Any]:
    if kind == "prompts":
        return {"instruction": row.get("prompt"), "output": row.get("completion")}
    if kind == "labelled":
        return {"instruction": row.get("text"), "output": row.get("label")}
    return {"instruction": row.get("question"), "input": row.get("context"), "output": row.get("answer")}


def _gold(case: Case, kind: str, form: str, rival: Rival) -> list[bytes]:
    """The rows of a gold file of its own."""
    lines = (case.ask.gold or b"").splitlines()
    return [_rewritten(data, kind, form, 100_000 + number, rival) for number, data in enumerate(lines)]
