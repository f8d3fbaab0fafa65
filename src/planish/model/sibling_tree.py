"""Tree attention on a CPU: one long flat row is slow there whatever its mask, so what hangs below one node is computed together, against that node's path.

The tree is cut into units: a segment with much below it stands alone, a small subtree is one unit with its own little mask. Units with one parent and about one length
are siblings, padded to the longest and attended to in one go.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from planish.data.tree import Tree
from planish.model.merged_attention import merged_attention, merging_pays

UNIT = 128
"""Subtrees of at most this many tokens are not cut further: a few masked-out products cost less than many small calls."""


@dataclass(frozen=True)
class Siblings:
    """Units with one parent, padded to the longest. N units of up to L tokens, A ancestors, which stand at the positions 0 to A - 1.

    query: (N, L) flat index, 0 on padding. position: (N, L). ancestors: (A,) flat index. own: (N, 1, L, L) bool, or None where every unit is plainly causal inside.
    """

    query: Tensor
    position: Tensor
    ancestors: Tensor
    own: Tensor | None
    masks: dict[int | None, Tensor] = field(default_factory=dict)

    def mask(self, window: int | None) -> Tensor:
        """(N or 1, 1, L, A + L) bool: every ancestor and what stands before in the unit, as far as the window reaches. Made once for all layers."""
        if window not in self.masks:
            longest, count = self.query.size(1), len(self.ancestors)
            own = torch.ones(1, 1, longest, longest, dtype=torch.bool, device=self.query.device).tril() if self.own is None else self.own
            seen = torch.cat([own.new_ones(len(own), 1, longest, count), own], 3)
            if window is not None:
                place = self.position[: len(own)]  # causal units under one parent all stand at the same places
                at = torch.cat([torch.arange(count, device=place.device).expand(len(own), -1), place], 1)
                seen = seen & (place[:, :, None] - at[:, None] < window)[:, None]
            self.masks[window] = seen
        return self.masks[window]


@dataclass(frozen=True)
class SiblingPlan:
    """What every layer needs to know of a tree. gather: (T,) where each flat token lies in the groups' outputs laid end to end. depth: the longest path."""

    groups: tuple[Siblings, ...]
    gather: Tensor
    depth: int

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float, window: int | None, softcap: float | None) -> Tensor:
        """query (1, heads, T, d), key and value (1, kv heads, T, d) -> (1, T, heads, d)."""
        window = window if window is not None and window < self.depth else None
        q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # (T, heads, d)
        pieces = [_attend(group, q, k, v, scaling, dropout, window, softcap) for group in self.groups]
        flat = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        return _take(flat, self.gather)[None]


def plan(tree: Tree, device: torch.device | str = "cpu", size: int | None = None) -> SiblingPlan:
    """Cut the tree into units and index them once for all layers. `size` counts filler tokens behind the tree's own too; nobody attends to them."""
    families: dict[tuple[int, int], list[tuple[int, int, bool]]] = {}
    for parent, start, length, plain in _units(tree):
        # roots share nothing, but are padded together like siblings; lengths are bucketed by powers of two so that one long unit does not pad many short ones
        families.setdefault((parent, length.bit_length()), []).append((start, length, plain))
    groups, gather, offset = [], np.zeros(size or len(tree.ids), np.int64), 0
    for (parent, _), members in families.items():
        starts, lengths = np.array([start for start, _, _ in members]), np.array([length for _, length, _ in members])
        steps = np.arange(int(lengths.max()))
        inside = steps[None] < lengths[:, None]
        query = np.where(inside, starts[:, None] + steps[None], 0)
        gather[query[inside]] = offset + np.flatnonzero(inside)
        offset += query.size
        ancestors = tree.path(parent)
        position = np.where(inside, tree.positions[query], len(ancestors) + steps[None])
        own = None if all(plain for _, _, plain in members) else _own(tree, query, inside)
        at, place, before = (torch.from_numpy(array).to(device) for array in (query, position, ancestors))
        groups.append(Siblings(at, place, before, None if own is None else torch.from_numpy(own).to(device)))
    return SiblingPlan(tuple(groups), torch.from_numpy(gather).to(device), int(tree.positions.max()) + 1)


def _units(tree: Tree) -> list[tuple[int, int, int, bool]]:
    """(parent segment or -1, first flat index, tokens, whether it is one segment) of each unit. A subtree is contiguous in the flat order."""
    units: list[tuple[int, int, int, bool]] = []
    covered = 0
    for segment in tree.segments:
        if segment.start < covered:
            continue  # within the unit before
        whole = int(tree.ends[segment.start]) - segment.start
        length = whole if whole <= UNIT else segment.length
        units.append((segment.parent, segment.start, length, length == segment.length))
        covered = segment.start + length
    return units


def _own(tree: Tree, query: NDArray[np.int64], inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Who sees whom within each unit. Padding sees itself, so that no softmax is empty."""
    rows, columns = query[:, :, None], query[:, None, :]
    seen = (columns <= rows) & (rows < tree.ends[columns]) & inside[:, :, None] & inside[:, None, :]
    return (seen | np.eye(query.shape[1], dtype=bool))[:, None]


def _attend(group: Siblings, q: Tensor, k: Tensor, v: Tensor, scaling: float | None, dropout: float, window: int | None, softcap: float | None) -> Tensor:
    """One group: (T, heads, d) in, (N * L, heads, d) out."""
    members, longest = group.query.shape
    own_q, own_k, own_v = (_take(tensor, group.query).transpose(1, 2) for tensor in (q, k, v))  # (N, heads, L, d)
    repeat = q.size(1) // k.size(1)
    exact = window is None and softcap is None and dropout == 0
    if exact and merging_pays(members, longest, len(group.ancestors)):
        before_k, before_v = (_take(tensor, group.ancestors).transpose(0, 1) for tensor in (k, v))  # (kv heads, A, d)
        out = merged_attention(own_q, before_k, before_v, own_k.repeat_interleave(repeat, 1), own_v.repeat_interleave(repeat, 1), group.own, scaling)
    else:
        if len(group.ancestors):
            own_k, own_v = (
                torch.cat([_take(tensor, group.ancestors).transpose(0, 1).expand(members, -1, -1, -1), own], 2) for tensor, own in ((k, own_k), (v, own_v))
            )
        own_k, own_v = (tensor.repeat_interleave(repeat, 1) for tensor in (own_k, own_v))
        plain = window is None and group.own is None and not len(group.ancestors)
        mask = None if plain and softcap is None else group.mask(window)
        if softcap is not None:
            out = soft_capped(own_q, own_k, own_v, mask, scaling, dropout, softcap)
        else:
            out = F.scaled_dot_product_attention(own_q, own_k, own_v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None and longest > 1, scale=scaling)
    return out.transpose(1, 2).reshape(members * longest, q.size(1), -1)


def soft_capped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float | None, dropout: float, softcap: float) -> Tensor:
    """Attention whose logits are bounded, cap tanh(z / cap) (Gemma 2, arXiv 2408.00118). torch's own call has no place for it. q, k, v: (N, heads, L, d)."""
    logits = softcap * torch.tanh(q @ k.transpose(2, 3) * (q.size(-1) ** -0.5 if scaling is None else scaling) / softcap)
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    weights = logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32)).to(v.dtype)
    return F.dropout(weights, dropout) @ v


def _take(rows: Tensor, index: Tensor) -> Tensor:
    """rows (T, ...), index of any shape -> index.shape + (...). By index_select, whose backward adds rows instead of sorting indices."""
    return rows.index_select(0, index.flatten()).view(*index.shape, *rows.shape[1:])
