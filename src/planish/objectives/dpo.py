"""Direct preference optimisation: the better answer gains on the worse one, measured against the model that training starts from.

L = - ln sigma(beta * (log-ratio of the chosen - log-ratio of the rejected)), log-ratio = ln p(answer) - ln p_ref(answer)        (MISSION P2)

Sources: Rafailov et al. 2023, arXiv 2305.18290; label smoothing: Mitchell 2023, "A note on DPO with noisy preferences"; ipo: Azar et al. 2023, arXiv 2310.12036, with
log-ratios per token as its authors compute them; robust: Chowdhury et al. 2024, arXiv 2403.00409.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from planish.errors import InputError, Problem
from planish.model import preference
from planish.model.chat import Chat
from planish.model.example import Example, Loss
from planish.model.policy import Scored
from planish.model.preference_lengths import learnt_length
from planish.model.preference_state import State, states
from planish.rows import PreferenceRow

ROW = PreferenceRow
LEARNING_RATE = 5e-6


def encode(row: PreferenceRow, chat: Chat) -> Example:
    """Two sequences that share their prompt; one pair is one part of the step. Raises planish.model.chat.Refused."""
    return preference.pair(row, chat)


def refusals(base: Path, *, beta: float = 0.1, loss: Literal["sigmoid", "ipo", "robust"] = "sigmoid", label_smoothing: float = 0.0) -> list[Problem]:
    """Options without a meaning, whatever the model: known before anything runs."""
    found, where = [], "train.objective.dpo"
    if not 0 < beta < math.inf:
        found.append(Problem(f"{where}.beta", f"is {beta}", "give a number above 0, such as 0.1"))
    if not 0 <= label_smoothing < 0.5:
        why = f"is {label_smoothing}: of so many wrong pairs nothing can be learned"
        found.append(Problem(f"{where}.label_smoothing", why, "give a share from 0 to below 0.5"))
    if loss == "ipo" and label_smoothing:
        found.append(Problem(f"{where}.label_smoothing", "has no place in ipo", "leave it out, or use sigmoid or robust"))
    return found


def prepare(examples: Seq[Example], reference: preference.Reference) -> list[Example]:
    """Each sequence gets its reference log-probability, once for the whole run."""
    return preference.with_reference(examples, reference)


def loss(policy: Scored, *, beta: float = 0.1, loss: Literal["sigmoid", "ipo", "robust"] = "sigmoid", label_smoothing: float = 0.0) -> Loss:
    """The sum over pairs. `label_smoothing` is the share of pairs whose order may be wrong: it pulls `sigmoid` towards them, `robust` takes their effect out on average.

    Figures per pair: margin = beta times the difference of log-ratios, accuracy = margin > 0, both log-ratios, lengths in tokens, and `kl`, half the mean square of the
    log-ratios: how far the policy went on these answers. Over pairs, of either side: the correlation of its reward (the log-ratio; per token in `ipo`) with its length.
    Raises InputError for a beta or a smoothing that has no meaning.
    """
    if wrong := refusals(Path(), beta=beta, loss=loss, label_smoothing=label_smoothing):
        raise InputError(*wrong)
    log_ratio = policy.sums() - policy.given[:, 0]
    chosen, rejected = preference.sides(log_ratio)
    lengths = policy.lengths()
    margin = beta * (chosen - rejected)
    figures = {
        "margin": margin,
        "accuracy": margin > 0,
        "chosen_log_ratio": chosen,
        "rejected_log_ratio": rejected,
        "kl": (chosen.square() + rejected.square()) / 4,
        "chosen_tokens": lengths[0::2],
        "rejected_tokens": lengths[1::2],
    }
    reward = log_ratio / lengths if loss == "ipo" else log_ratio
    total = _losses(margin, log_ratio / lengths, beta, loss, label_smoothing).sum()
    return Loss(total, preference.summed(figures), relations=preference.with_length(reward, lengths))


def diagnose(history: Seq[dict[str, float]], checks: Seq[dict[str, float]] = ()) -> list[State]:
    """What a finished run's figures say: both answers falling, stuck at ln 2, or length learnt for merit. `history` has `loss` and the figures of each step, `checks` those of
    each validation with its `step`."""
    found = states(history)
    if found[0].state == "stuck_at_ln2":  # nothing was learnt, length neither
        return found
    fix = "try simpo, whose reward is a mean over tokens, or pairs of like length: planish check (preferences) counts those that are"
    biased = learnt_length(history, checks, fix=fix)
    return [*(state for state in found if state.state != "healthy"), *biased] if biased else found


def _losses(margin: Tensor, per_token: Tensor, beta: float, loss: str, smoothing: float) -> Tensor:
    """(N,) for each pair."""
    right, wrong = -logsigmoid(margin), -logsigmoid(-margin)
    if loss == "sigmoid":
        return (1 - smoothing) * right + smoothing * wrong
    if loss == "robust":
        return ((1 - smoothing) * right - smoothing * wrong) / (1 - 2 * smoothing)
    chosen, rejected = preference.sides(per_token)
    return (chosen - rejected - 1 / (2 * beta)).square()
