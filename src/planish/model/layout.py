"""How a model's rows are laid out for it: on the prefix tree, or, where its layers cannot follow a tree, as plain rows padded to the right. Said aloud, never guessed.

Found out once, when a model is loaded: by what its configuration says of its layers, then by a tiny forward pass on a tree that is compared with the model's own eager
attention on plain rows. A family nobody has heard of is caught by the second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from planish.data.tree import Sequence, build
from planish.errors import InputError, Problem
from planish.model import tree_attention
from planish.model.backbone import backbone, base_of
from planish.model.lm_head import head_of
from planish.model.tree_forward import forward

TREE_LAYERS = {"full_attention", "sliding_attention", "attention"}
"""Kinds of layers that see other tokens only through attention by path position. Recurrent, convolving and chunked ones are not among them."""


@dataclass(frozen=True)
class Layout:
    """`rows` has the reason why the tree is not used; `tree` has none."""

    kind: Literal["tree", "rows"]
    reason: str = ""


def layout_of(model: nn.Module) -> Layout:
    """The layout found when the model was loaded."""
    found: Layout = getattr(base_of(model), "planish_layout", Layout("tree"))
    return found


def shares_prefixes(model: nn.Module) -> bool:
    """Whether the model computes shared prefixes once; one that cannot is given padded rows, and a budget of tokens counts their cells."""
    return layout_of(model).kind == "tree"


def settle(model: Any, where: str) -> Layout:
    """Find the layout, set the model's attention to it and remember it there. Raises InputError where not even plain rows give the model's own logits."""
    reason = unfit(model.config) or _differs(model)
    model.planish_layout = Layout("rows", reason) if reason else Layout("tree")
    use_plain(model)
    use_tree(model)
    if layout_of(model).kind == "rows" and _looks_ahead(model):
        raise InputError(Problem(f"model: {where}", "its layers see tokens that come later, so it predicts nothing", "use a causal model"))
    wrong = _head_differs(model)
    if wrong is not None:
        raise InputError(Problem(f"model: {where}", *wrong))
    return layout_of(model)


def use_tree(model: nn.Module) -> None:
    """Attention for `hidden_states`, which calls this itself. A model that is given plain rows keeps its own."""
    base = base_of(model)
    if layout_of(model).kind == "tree" and base.config._attn_implementation != tree_attention.NAME:
        base.set_attn_implementation(tree_attention.NAME)


def use_plain(model: nn.Module) -> None:
    """The model's own attention, with its own masks and key-value cache, as generation needs it."""
    base = base_of(model)
    if base._can_set_attn_implementation():
        base.set_attn_implementation("sdpa" if base._supports_sdpa else "eager")
    else:
        base.config._attn_implementation = "eager"  # such a model reads this only to choose its masks


def unfit(config: Any) -> str:
    """Why the configuration rules the tree out; empty when it does not."""
    kinds = set(getattr(config, "layer_types", None) or []) | set(getattr(config, "layers_block_type", None) or [])
    odd = sorted(kinds - TREE_LAYERS)
    return f"{config.model_type}: {', '.join(odd)} layers do not follow a prefix tree" if odd else ""


def _differs(model: Any) -> str:
    """Why the tree is not this model's attention, by trying: a branching tree of 8 tokens against both of its rows alone; empty when they agree."""
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = [int(id) for id in torch.linspace(0, vocabulary - 1, 12).long()]
    rows = [(*ids[1:5], *ids[5:9]), (*ids[1:5], *ids[8:12])]
    tree = build([Sequence(row, (0.0, *[1.0] * 7)) for row in rows])
    name, device = model.config.model_type, next(model.parameters()).device
    try:
        with torch.no_grad(), tree_attention.watched() as seen:
            ours = forward(model, tree, device, "siblings" if device.type == "cpu" else "dense")  # nothing is compiled for the sake of a check
    except (ValueError, TypeError, RuntimeError, KeyError, AttributeError, NotImplementedError) as failed:
        return f"{name}: {failed}"
    if not seen.windows:
        return f"{name}: its layers do not use transformers' exchangeable attention"
    windows = {window for window in seen.windows if window is not None}
    if windows != {window for window in seen.masks if window is not None}:
        return f"{name}: its layers ask for the windows {sorted(windows)}, its masks for {sorted({window for window in seen.masks if window is not None})}"
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            alone = backbone(model)(input_ids=torch.tensor([row[:-1] for row in rows], device=device), use_cache=False).last_hidden_state
    finally:
        model.set_attn_implementation(tree_attention.NAME)
    places = [tree.path(leaf) for leaf in tree.leaves]
    off = max(_distance(ours[torch.from_numpy(place)], row) for place, row in zip(places, alone, strict=True))
    return "" if off <= _tolerance(alone) else f"{name}: its hidden states on a tree differ from those of its own attention by {off:.1e}"


def _looks_ahead(model: Any) -> bool:
    """Whether a token's hidden state changes with what follows it."""
    device = next(model.parameters()).device
    with torch.no_grad():
        one, other = backbone(model)(input_ids=torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]], device=device), use_cache=False).last_hidden_state
    return _distance(one[:3], other[:3]) > _tolerance(one)


def _head_differs(model: Any) -> tuple[str, str] | None:
    """Why the logits made by our head are not the model's, and what to do; None when they are."""
    device = next(model.parameters()).device
    tokens = torch.arange(1, 5, device=device)[None]
    extra = {} if layout_of(model).kind == "rows" else {"tree_plan": tree_attention.plan(build([Sequence((1, 2, 3, 4, 1), (0.0,) * 5)]), device, way="dense")}
    with torch.no_grad():
        hidden = backbone(model)(input_ids=tokens, use_cache=False, **extra).last_hidden_state[0]
        theirs = model(input_ids=tokens, use_cache=False, **extra).logits[0]
        off = _distance(head_of(model).logits(hidden), theirs)
    if not torch.isfinite(theirs).all():
        return f"its logits are not finite: its weights hold NaN or infinite numbers, or overflow {theirs.dtype}", "fetch or train this model again"
    if off <= _tolerance(theirs):
        return None
    why = f"its logits are not those of its LM head: they differ by {off:.1e} ({model.config.model_type})"
    return why, "use a family whose logits are a linear head, scaled or soft-capped"


def _distance(ours: Tensor, theirs: Tensor) -> float:
    """Relative distance at the median row: in half precision a single token may be routed to another expert by rounding alone."""
    ours, theirs = ours.float(), theirs.float()
    return float(((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1).clamp_min(1e-12)).median())


def _tolerance(values: Tensor) -> float:
    return 1e-3 if values.dtype in (torch.float32, torch.float64) else 5e-2
