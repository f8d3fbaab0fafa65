"""A teacher that is asked at every step, about tokens that nobody has captured: the student's own, or its hidden layers' states (MISSION S4).

It reads the very tree that the student read, so that a shared prompt is computed once for it as well, and its logits exist a chunk of rows at a time beside the student's.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from planish.errors import InputError, Problem
from planish.model import bundled
from planish.model.backbone import base_of, layers
from planish.model.chat import Chat
from planish.model.head_terms import of_classes
from planish.model.layer_states import Kept, kept_of, watch
from planish.model.layout import layout_of
from planish.model.lm_head import Head, head_of
from planish.model.load import load
from planish.model.policy import Place, Scored, autocast, hidden_states

OTHERWISE = "or let it write the answers and train on them as text: planish capture --text"


@dataclass(frozen=True)
class LiveDivergence:
    """The divergence from a teacher over the whole vocabulary, at the temperature T of both (Agarwal et al., arXiv 2306.13649; `direction` and `mix` as in head_terms).

    hidden: (R, H_t) the teacher's last hidden states at these rows, `head` its LM head, `precision` the format of its matrix product.
    """

    hidden: Tensor
    head: Head
    precision: str
    temperature: float = 1.0
    direction: Literal["forward", "reverse", "jsd"] = "reverse"
    mix: float = 0.5

    def __call__(self, logits: Tensor, rows: slice, *, gradient: bool, spare: bool) -> tuple[Tensor, Tensor | None]:
        T = self.temperature
        with autocast(self.precision, logits.device):
            theirs = self.head.logits(self.hidden[rows])
        log_q = theirs.to(logits.dtype).div_(T).log_softmax(1)
        log_p = (logits / T).log_softmax(1)
        p, q = log_p.exp(), log_q.exp()
        value, factor = of_classes(self.direction, self.mix, log_p, log_q, p, q)
        if not gradient:
            return value, None
        # forward: p times its factor is p - q, without the quotient q / p, which overflows where the student is certain of another token
        return value, (p - q if self.direction == "forward" else p * factor).div_(T)


class LiveTeacher:
    """A frozen model beside the student. `kept` are its layers that are compared, `pairs` (student's, teacher's) numbers of layers."""

    def __init__(self, model: nn.Module, precision: str, device: str = "cpu", pairs: Seq[tuple[int, int]] = ()) -> None:
        self.model, self.precision, self.device, self.pairs = model.eval().requires_grad_(False), precision, device, tuple(pairs)
        self.head = head_of(model)
        self.kept: Kept | None = watch(model, [theirs for _, theirs in pairs]) if pairs else None

    def divergence(self, policy: Scored, direction: Literal["forward", "reverse", "jsd"], mix: float, temperature: float = 1.0) -> LiveDivergence:
        """The term that compares every row of `policy` with what the teacher says there."""
        return LiveDivergence(self._hidden(policy.place), self.head, self.precision, temperature, direction, mix)

    @torch.no_grad()
    def _hidden(self, place: Place) -> Tensor:
        """(R, H_t) last hidden states at the rows; only the paths that lead to them are computed."""
        own = place.restricted()
        with autocast(self.precision, self.device):
            return hidden_states(self.model, own.tree, self.device).index_select(0, torch.from_numpy(own.at).to(self.device))

    def layer_distance(self, policy: Scored, kind: Literal["cosine", "mse"]) -> Tensor:
        """(R,) how far the student's hidden states are from the teacher's, the mean over the pairs of layers: 1 - cosine, or the mean square over the width. Differentiable."""
        place = policy.place
        assert place.kept is not None
        assert self.kept is not None
        mine = place.kept.taken(torch.from_numpy(place.at).to(self.device))
        with torch.no_grad(), autocast(self.precision, self.device):
            hidden_states(self.model, place.tree, self.device)
        theirs = self.kept.taken(torch.from_numpy(place.at).to(self.device))
        found = [_apart(mine[own].float(), theirs[other].float(), kind) for own, other in self.pairs]
        return torch.stack(found).mean(0)


def _apart(mine: Tensor, theirs: Tensor, kind: str) -> Tensor:
    return 1 - cosine_similarity(mine, theirs, dim=1) if kind == "cosine" else (mine - theirs).square().mean(1)


def refusals(teacher: str, base: Path, where: str) -> list[Problem]:
    """Why a teacher cannot score a student's tokens: an address, another tokenizer, another size of the vocabulary. `base` is the student's folder."""
    if "://" in teacher:
        why = "an endpoint tells of the tokens that it writes, not of given ones, and the student's text is what must be scored"
        fix = "name a model of this machine; or capture what the endpoint writes (planish capture --answers teacher) and use kd, " + OTHERWISE
        return [Problem(f"{where}.teacher", why, fix)]
    try:
        folder = bundled.locate(teacher)
    except InputError as missing:
        return [Problem(f"{where}.teacher", problem.why, problem.fix) for problem in missing.problems]
    if Chat.load(folder).tokenizer_hash != Chat.load(base).tokenizer_hash:
        why = f"{teacher} has another tokenizer than the student, so the student's tokens are none of its own"
        fix = (
            "take a teacher of the student's family; let this one read the rows where both write the same tokens (planish capture --align) and use kd; "
            + OTHERWISE
        )
        return [Problem(f"{where}.teacher", why, fix)]
    sizes = [int(config_of(place).vocab_size) for place in (base, folder)]
    if sizes[0] != sizes[1]:
        why = f"its logits are of {sizes[1]:,} tokens, the student's of {sizes[0]:,}: one of them is padded, and what the padding holds cannot be compared"
        return [Problem(f"{where}.teacher", why, "capture it (planish capture), which keeps tokens alone, and use kd")]
    return []


def layer_refusals(teacher: str, base: Path, pairs: Seq[Seq[int]], where: str) -> list[Problem]:
    """Why the hidden states of two folders cannot be compared, known before either is loaded: layers that are not there, other widths. `base` is the student's folder."""
    mine, theirs = config_of(base), config_of(bundled.locate(teacher))
    return _unlike_sizes((mine.num_hidden_layers, theirs.num_hidden_layers), (mine.hidden_size, theirs.hidden_size), pairs, where)


def opened(teacher: str, student: nn.Module, precision: str, device: str, pairs: Seq[tuple[int, int]] | None, where: str) -> LiveTeacher:
    """The teacher in the student's number format. The layers of `pairs` are compared from here on, all of the student's where it is None, none where it is empty.

    Raises InputError for layers that cannot be compared.
    """
    model = load(bundled.locate(teacher), "bf16" if precision == "bf16" else "fp32", device=device)
    pairs = spread(len(layers(student)), len(layers(model))) if pairs is None else pairs
    if pairs:
        if problems := _unlike(student, model, pairs, where):
            raise InputError(*problems)
        watch(student, [own for own, _ in pairs])
    return LiveTeacher(model, precision, device, pairs)


def spread(student: int, teacher: int) -> list[tuple[int, int]]:
    """Each of the student's layers with the teacher's at the same share of its depth. Ex: 3 of 6: (1, 2), (2, 4), (3, 6)."""
    return [(number, max(1, round(number * teacher / student))) for number in range(1, student + 1)]


def _unlike(student: nn.Module, teacher: nn.Module, pairs: Seq[tuple[int, int]], where: str) -> list[Problem]:
    counts, widths = zip(*((len(layers(model)), base_of(model).config.get_text_config().hidden_size) for model in (student, teacher)), strict=True)
    found = _unlike_sizes(counts, widths, pairs, where)
    reason = next((layout_of(model).reason for model in (student, teacher) if layout_of(model).kind == "rows"), "")
    if reason or getattr(base_of(student), "virtual", None) is not None:
        why = f"hidden states are compared on the prefix tree: {reason or 'learned tokens stand above it'}"
        found.append(Problem(f"{where}.hidden_weight", why, "leave it at 0"))
    if kept_of(student) is not None:
        found.append(Problem(f"{where}.hidden_weight", "something looks at the student's layers already", "give each run a model of its own"))
    return found


def _unlike_sizes(counts: Seq[int], widths: Seq[int], pairs: Seq[Seq[int]], where: str) -> list[Problem]:
    found = []
    wrong = [list(pair) for pair in pairs if not all(1 <= number <= count for number, count in zip(pair, counts, strict=True))]
    if wrong:
        why = f"{wrong[0]} names a layer that is not there: the student has {counts[0]}, the teacher {counts[1]}, counted from 1"
        found.append(Problem(f"{where}.hidden_layers", why, "give pairs [student's, teacher's], or leave it out: layers at the same share of the depth meet"))
    if widths[0] != widths[1]:
        why = f"the student's hidden states have {widths[0]} values, the teacher's {widths[1]}: they cannot be compared without a map that would have to be learnt"
        found.append(Problem(f"{where}.hidden_weight", why, "leave it at 0, or make the student of the teacher by taking layers out (planish prune)"))
    return found


def config_of(folder: Path) -> Any:
    """The sizes of the text model in a folder, read without its weights."""
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return config.get_text_config()
