"""What a model's files and the disk say before anything is loaded: weights, vocabulary, adapter targets, room (MISSION K4)."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from planish.errors import InputError, did_you_mean
from planish.model.chat import Chat
from planish.model.weight_names import shapes


class Line(NamedTuple):
    """One check: `red` stops the run; `rows` are the ids it is about."""

    check: str
    status: Literal["ok", "red"]
    detail: str
    fix: str = ""
    rows: tuple[str, ...] = ()


def files(model: Path, chat: Chat | None, targets: Sequence[str | list[str]], workspace: Path, *, full: bool) -> Iterator[Line]:
    """What the model's files and the disk say. `targets` are those of the adapters; `full`: every weight is trained."""
    try:
        found = shapes(model)
    except InputError as refused:
        yield from (Line("weights", "red", f"{problem.where} {problem.why}", problem.fix) for problem in refused.problems)
        return
    yield _weights(found)
    if chat is not None:
        yield _vocabulary(model, chat, found)
    yield _targets(targets, found)
    yield _disk(workspace, found, full=full)


def _weights(found: Mapping[str, tuple[int, ...]]) -> Line:
    if not found:
        return Line("weights", "red", "there is no *.safetensors file", "save the model as safetensors; pickled weights are never read")
    return Line("weights", "ok", f"{len(found)} tensors, {_numbers(found):,} numbers")


def _vocabulary(model: Path, chat: Chat, found: Mapping[str, tuple[int, ...]]) -> Line:
    rows = {name: shape[0] for name, shape in found.items() if re.search(r"(embed_tokens|wte|word_embeddings|lm_head)\.weight$", name)}
    stated = config(model).get("vocab_size")
    most = min([*rows.values(), *([int(stated)] if stated is not None else [])], default=None)
    need = max(chat.tokenizer.get_vocab().values()) + 1
    if most is not None and need > most:
        beyond = next(token for token, id in chat.tokenizer.get_vocab().items() if id == need - 1)
        why = f"the tokenizer knows {need} tokens (the last is {beyond}), the model {most}"
        return Line("vocabulary", "red", why, "use the tokenizer that belongs to the model, or enlarge its embeddings")
    outside = sorted(id for id in chat.ends if id >= need)
    if outside:
        return Line(
            "vocabulary", "red", f"the end token {outside[0]} is beyond the tokenizer's {need} tokens", "set eos_token_id in generation_config.json right"
        )
    return Line("vocabulary", "ok", f"{need} tokens, the model has room for {most if most is not None else 'an unstated number'}")


def _targets(targets: Sequence[str | list[str]], found: Mapping[str, tuple[int, ...]]) -> Line:
    linear = [name.removesuffix(".weight") for name, shape in found.items() if len(shape) == 2 and not re.search(r"(embed|wte|wpe|lm_head)", name)]
    leaves = sorted({name.rpartition(".")[2] for name in linear})
    matched = 0
    for target in targets:
        for name in [target] if isinstance(target, str) else target:
            hits = _hits(name, linear, pattern=isinstance(target, str))
            if not hits:
                return Line("targets", "red", f"no weight of the model is called {name}, so its adapter would do nothing", did_you_mean(name, leaves))
            matched += hits
    return Line("targets", "ok", f"{matched} weights get an adapter" if targets else "no entry names targets: an adapter takes its own")


def _hits(name: str, linear: list[str], *, pattern: bool) -> int:
    """How many weights a target means: PEFT takes a text for a pattern of whole names, and list entries for the ends of names."""
    if name == "all-linear":
        return len(linear)
    if pattern:
        return sum(re.fullmatch(name, one) is not None for one in linear)
    return sum(one == name or one.endswith(f".{name}") for one in linear)


def _disk(workspace: Path, found: Mapping[str, tuple[int, ...]], *, full: bool) -> Line:
    # two checkpoints of what is trained with its optimizer (12 bytes a number); an adapter is far below a tenth of the model
    numbers = _numbers(found)
    need = 2 * 12 * numbers + 4 * numbers if full else 2 * 12 * numbers // 10
    place = next(folder for folder in (workspace, *workspace.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    detail = f"{free / 1e9:.1f} GB free, {need / 1e9:.1f} GB needed (estimated)"
    return Line("disk", "ok" if free >= need else "red", detail, "free some space, or put the workspace on another disk")


def _numbers(found: Mapping[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in found.values())


def config(model: Path) -> dict[str, Any]:
    """The model's config.json; of a model that reads more than text, its part about text."""
    path = model / "config.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    part: dict[str, Any] = found.get("text_config", found)
    return part
