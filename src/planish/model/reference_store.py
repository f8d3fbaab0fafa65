"""Reference log-probabilities on disk, by content: what one run computed, every later run of the workspace reads (DESIGN, The training core 4).

A folder holds one folder per starting model, and in it files of values by key, each named by the hash of its own bytes. A file appears whole or not at all, and is never
changed, so that runs side by side need no lock; one whose bytes are not those of its name was spoilt on the disk: it is taken away and what it held is computed again.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from planish.rows import canonical_json
from planish.store.objects import write_atomic


class ReferenceStore:
    """The values of one starting model. `model` is the hash of everything that its numbers depend on; `folder` None keeps them in memory alone.

    `spoilt` counts files that were taken away.
    """

    def __init__(self, folder: Path | None, model: str) -> None:
        self.place = folder / model if folder is not None else None
        self.spoilt = 0

    def read(self) -> dict[str, float]:
        """Everything that is kept: key to value."""
        found: dict[str, float] = {}
        for path in sorted(self.place.glob("*.json")) if self.place is not None else []:
            try:
                data = path.read_bytes()
            except FileNotFoundError:  # another rank has taken it away
                continue
            if _name(data) == path.name:
                found.update(json.loads(data))
            else:
                self.spoilt += 1
                path.unlink(missing_ok=True)
        return found

    def add(self, values: dict[str, float]) -> None:
        """Keep these as well. Raises RunFailed on a full disk."""
        if self.place is not None and values:
            data = canonical_json(values).encode()
            write_atomic(self.place / _name(data), data)


def _name(data: bytes) -> str:
    return f"{sha256(data).hexdigest()[:32]}.json"
