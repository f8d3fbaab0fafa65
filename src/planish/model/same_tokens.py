"""Whether two models write a conversation in the same tokens: what one stage of training learnt, the next one must read (MISSION C3)."""

from __future__ import annotations

from pathlib import Path

from planish.errors import InputError, Problem
from planish.model.chat import Chat
from planish.rows import Message

ASKED = (Message(role="user", content="What is asked?"), Message(role="assistant", content="What is answered."))


def require(before: Path, after: Path, where: str) -> None:
    """Raises InputError, with everything that differs, where the folder `after` renders, splits or ends a conversation otherwise than `before`."""
    one, other = Chat.load(before), Chat.load(after)
    problems = []
    fix = "give every stage the tokenizer and the template of the first; extend the vocabulary before the first, as the model of the recipe"
    if one.template_hash != other.template_hash:
        problems.append(Problem(where, f"the chat template changed: {one.template_hash[:12]} before, {other.template_hash[:12]} now", fix))
    if one.ends != other.ends:
        problems.append(Problem(where, f"the tokens that end a turn changed: {sorted(one.ends)} before, {sorted(other.ends)} now", fix))
    told, now = one.tokenizer.special_tokens_map, other.tokenizer.special_tokens_map
    changed = sorted(name for name in told.keys() | now.keys() if told.get(name) != now.get(name))
    if changed:
        problems.append(Problem(where, f"special tokens changed: {', '.join(f'{name} {told.get(name)!r} -> {now.get(name)!r}' for name in changed)}", fix))
    if not problems and one.encode(one.text(ASKED, prompt=False)) != other.encode(other.text(ASKED, prompt=False)):
        problems.append(Problem(where, "the same conversation is split into other ids", fix))
    if problems:
        raise InputError(*problems)
