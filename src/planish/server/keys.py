"""Keys to the gateway: 256 random bits each, of which only the SHA-256 is kept. There is no default key."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

from pydantic import TypeAdapter, ValidationError

from planish.errors import InputError, Problem, did_you_mean
from planish.rows import Noun

Scope = Literal["infer", "feedback", "admin", "read"]
"""infer: ask the model; feedback: correct an answer; read: models and metrics; admin: reserved. A key holds exactly the scopes it was given."""

SCOPES: frozenset[Scope] = frozenset(get_args(Scope))


class Key(Noun):
    """What is kept of a key. `sha256` is of the whole secret in hex; a fast hash is enough because the secret is 256 random bits."""

    name: str
    sha256: str
    scopes: frozenset[Scope]


class KeyRing:
    """The keys of one gateway. A ring without keys lets nobody in."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self.keys = tuple(keys)

    @classmethod
    def load(cls, path: Path) -> KeyRing:
        """Read a ring that `save` wrote. Raises InputError when the file is missing or is no ring."""
        try:
            return cls(TypeAdapter(tuple[Key, ...]).validate_json(path.read_bytes()))
        except OSError as absent:
            raise InputError(Problem(str(path), f"cannot be read: {absent.strerror}", "make a key first")) from absent
        except ValidationError as wrong:
            raise InputError(Problem(str(path), f"is not a key file: {wrong.error_count()} entries are wrong", "make the keys again")) from wrong

    def save(self, path: Path) -> None:
        """Write the hashes and scopes, readable by the owner only, in one step."""
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        entries = [{"name": key.name, "sha256": key.sha256, "scopes": sorted(key.scopes)} for key in self.keys]
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(entries, file, indent=2)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)

    def create(self, name: str, scopes: Iterable[str]) -> str:
        """Add a key and return its secret: shown once, kept nowhere. Raises InputError for an unknown scope or a name in use."""
        wanted = frozenset(scopes)
        problems = [Problem(f"key {name}: scopes", f'"{scope}" is not a scope', did_you_mean(scope, SCOPES)) for scope in sorted(wanted - SCOPES)]
        if not wanted:
            problems.append(Problem(f"key {name}: scopes", "a key without a scope opens nothing", "choose from " + ", ".join(sorted(SCOPES))))
        if any(key.name == name for key in self.keys):
            problems.append(Problem(f"key {name}", "the name is in use", "choose another name"))
        if problems:
            raise InputError(*problems)
        secret = "planish-" + secrets.token_urlsafe(32)
        self.keys = (*self.keys, Key(name=name, sha256=_sha256(secret), scopes=frozenset(scope for scope in SCOPES if scope in wanted)))
        return secret

    def scopes(self, secret: str) -> frozenset[Scope] | None:
        """What a secret may do; None when it is no key of this ring. Every entry is compared in constant time, so timing tells nothing."""
        digest = _sha256(secret)
        held: frozenset[Scope] | None = None
        for key in self.keys:
            if hmac.compare_digest(key.sha256, digest):
                held = key.scopes
        return held


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
