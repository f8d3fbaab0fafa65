"""Activations of a frozen trunk on disk, under a budget of bytes: blocks of 16 tokens, each named by everything that stands before it on its path.

One file of equal slots. A slot is written in one go and carries a checksum over its key and content, so that after a kill it is complete or absent; a foreign or damaged file
is begun anew. When all slots are taken the least recently used one is given away. Nothing in the file is ever executed (no pickle).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from planish.errors import InputError, Problem

BLOCK = 16
"""Tokens per slot: rows that share a prefix share its whole blocks, and a row's last block may be partly empty."""

_HEAD = struct.Struct("<32sII")  # key, tokens, checksum of key, tokens and content


class ActivationCache:
    """Blocks of up to 16 vectors of `width` numbers of `dtype`. `meaning` says whose activations they are: another meaning finds an empty cache.

    One process at a time. `hits`, `misses` and `evicted` count blocks; `full_disk` is set when the disk had no room, after which nothing more is stored.
    Raises InputError when the budget holds no block or the file is in use.
    """

    def __init__(self, path: Path, budget: int, width: int, dtype: torch.dtype, meaning: str) -> None:
        self.width, self.dtype = width, dtype
        self.slot_bytes = _HEAD.size + BLOCK * width * dtype.itemsize
        self.slots = budget // self.slot_bytes - 1  # the first slot says what the file is
        self.root = hashlib.sha256(f"{meaning}|{width}|{dtype}|{BLOCK}".encode()).digest()
        self.hits = self.misses = self.evicted = 0
        self.full_disk = False
        if self.slots < 1:
            raise InputError(Problem(str(path), f"a budget of {budget} bytes holds no block", f"give at least {2 * self.slot_bytes} bytes"))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise InputError(Problem(str(path), "is in use by another process", "give each process its own file")) from None
        self._places: OrderedDict[bytes, int] = OrderedDict()  # key -> slot, least recently used first
        self._used = 0  # slots ever written
        self._open()

    def _open(self) -> None:
        """Learn what is there. Contents are checked when they are read."""
        if os.pread(self._file, 32, 0) != self.root:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, self.root, 0)
            return
        self._used = min(max(0, os.fstat(self._file).st_size - 1) // self.slot_bytes, self.slots)
        os.ftruncate(self._file, (self._used + 1) * self.slot_bytes)  # a smaller budget than last time
        for slot in range(1, self._used + 1):
            head = os.pread(self._file, _HEAD.size, slot * self.slot_bytes)
            if len(head) == _HEAD.size:
                self._places[_HEAD.unpack(head)[0]] = slot

    def keys(self, ids: NDArray[np.int64]) -> list[bytes]:
        """The name of each block of a path, root first; a name covers every token up to the block's end."""
        found, key = [], self.root
        for start in range(0, len(ids), BLOCK):
            key = hashlib.sha256(key + ids[start : start + BLOCK].tobytes()).digest()
            found.append(key)
        return found

    def get(self, key: bytes) -> Tensor | None:
        """The block's vectors (tokens, width), or None when it is not there whole."""
        slot = self._places.get(key)
        if slot is None:
            self.misses += 1
            return None
        raw = os.pread(self._file, self.slot_bytes, slot * self.slot_bytes)
        name, tokens, checksum = _HEAD.unpack(raw[: _HEAD.size])
        content = raw[_HEAD.size : _HEAD.size + tokens * self.width * self.dtype.itemsize]
        if name != key or checksum != _checksum(key, tokens, content):
            del self._places[key]  # torn by a kill or damaged; its slot is given away like any other when its turn comes
            self.misses += 1
            return None
        self._places.move_to_end(key)
        self.hits += 1
        return torch.frombuffer(bytearray(content), dtype=self.dtype).view(tokens, self.width)

    def put(self, key: bytes, values: Tensor) -> None:
        """Keep a block (tokens, width); one that is there already is left alone."""
        if key in self._places or self.full_disk:
            return
        content = values.detach().to("cpu", self.dtype).contiguous().view(torch.uint8).numpy().tobytes()
        slot = self._used + 1 if self._used < self.slots else self._oldest()
        head = _HEAD.pack(key, len(values), _checksum(key, len(values), content))
        try:
            os.pwrite(self._file, (head + content).ljust(self.slot_bytes, b"\0"), slot * self.slot_bytes)
        except OSError as failed:
            if failed.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self.full_disk = True  # a cache may be incomplete; the run goes on without it
            return
        self._used = max(self._used, slot)
        self._places[key] = slot

    def _oldest(self) -> int:
        """A slot to write over."""
        taken = set(self._places.values()) if len(self._places) < self._used else None
        if taken is not None:  # a damaged block left its slot free
            return next(slot for slot in range(1, self._used + 1) if slot not in taken)
        self.evicted += 1
        return self._places.popitem(last=False)[1]

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


def _checksum(key: bytes, tokens: int, content: bytes) -> int:
    return zlib.crc32(content, zlib.crc32(key + tokens.to_bytes(4, "little")))
