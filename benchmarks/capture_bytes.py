"""Bytes of a captured token: at most 40 at no more error than DistillKit's budget format, which takes 114, and against plain JSON lines.

Run: python benchmarks/capture_bytes.py. Teacher: SmolLM2-135M on real rows. The error is the KL divergence from the teacher's whole distribution to the one that a record
gives back, at T=1 and T=2, nats per scored token; what a record keeps no token of is spread evenly over the others, on both sides. How unlikely a token ours must keep is
found on one half of the rows; bytes and error are measured on the other half, from the file as it is read back. Bytes are the whole file over its scored tokens, with the
tables that it is read by, which a larger capture shares among more tokens.

DistillKit's budget format (its README, repository arcee-ai/DistillKit at a61c2e7): the 50 likeliest ids at 16 bits each, the first log-probability in bf16, the others by a
fit a + b i + c sqrt(i) in fp32: 100 + 2 + 12 bytes. Its own decoder rounds the fit to bf16, which is left out here. It keeps no T, so at T=2 its tail is either tempered
token by token or as one class, as its loss does; the better one counts.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import claims
import measure
import numpy as np
import rows
import torch
from claims import Finding
from numpy.typing import NDArray

from planish.data import general
from planish.data.capture_file import CAPTURE, MANIFEST, About, CapturedRow, append, write_line
from planish.data.capture_packed import STEPS, Packed, pack
from planish.data.capture_rounding import levels_of, log_probs_of, rests_of, scaled
from planish.data.tree import Sequence
from planish.data.tree import pack as trees
from planish.evidence.intervals import bootstrap
from planish.model.bundled import locate
from planish.model.chat import Chat
from planish.model.load import load
from planish.model.policy import autocast, head_of, hidden_states
from planish.model.precision import choose
from planish.model.teacher import ROWS_AT_ONCE, Wanted, joined, of_logits
from planish.rows import Message

TEMPERATURES = (1.0, 2.0)
MOST = 192
"""Tokens of a position that are looked at: more than any setting below keeps."""
GRID = tuple(2.0 ** (-step / 8) for step in range(64, 96))
"""The least probability of a token that is kept: 1/256 to 1/4096."""
SPARE = 0.97
"""Of the other's error: what ours may have on the rows where its setting is found, so that it holds on others."""
BUDGET_K, BUDGET_BYTES, ID_BYTES = 50, 114, 2
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """N positions of the teacher. log_p: (N, MOST) at T=1, largest first; entropy: (N,) and log_z: (N,) ln sum p^(1/T), by T; row: (N,) which row each is of."""

    log_p: Values
    ids: NDArray[np.int64]
    entropy: dict[float, Values]
    log_z: dict[float, Values]
    row: NDArray[np.int64]
    vocabulary: int

    def of(self, half: NDArray[np.bool_]) -> Truth:
        """Some of the positions."""
        by_T = ({T: values[half] for T, values in kind.items()} for kind in (self.entropy, self.log_z))
        return Truth(self.log_p[half], self.ids[half], *by_T, self.row[half], self.vocabulary)

    def kl(self, T: float, given: Values, counts: NDArray[np.int64], tail: Values) -> Values:
        """(N,) from the teacher at T to a record: given (N, K) log-probabilities of the first `counts` tokens of each position, tail (N,) ln of what it leaves."""
        true = np.exp(self.log_p[:, : given.shape[1]] / T - self.log_z[T][:, None])
        kept = np.arange(given.shape[1]) < counts[:, None]
        cross = np.where(kept, true * given, 0).sum(1)
        rest = np.maximum(1 - np.where(kept, true, 0).sum(1), 0)
        return -self.entropy[T] - cross - rest * (tail - np.log(self.vocabulary - counts))


class Read(NamedTuple):
    """What the teacher says of a case's rows, as rows to keep and as the truth to compare with."""

    rows: list[CapturedRow]
    truth: Truth


def sequences_of(case: str, count: int, chat: Chat) -> list[Sequence]:
    """The rows of a case, whose answers are scored."""
    asked = "Write a paragraph of the language reference."
    pairs = rows.solutions(count) if case == "solutions" else [(asked, row.text) for row in general.rows(["held_out_text"])[:count]]
    return [chat.trained((Message(role="user", content=ask), Message(role="assistant", content=text))) for ask, text in pairs]


@torch.inference_mode()
def read(folder: Path, sequences: list[Sequence], device: str) -> Read:
    """One pass of the teacher, its whole distributions summed up and let go."""
    precision = choose("auto", device)
    model, wanted = load(folder, precision, device=device), Wanted(MOST, 1.0, TEMPERATURES)  # type: ignore[arg-type]
    head, made, sums, owner = head_of(model), list[CapturedRow](), {T: (list[Values](), list[Values]()) for T in TEMPERATURES}, list[int]()
    for index, sequence in enumerate(sequences):
        ((_, tree),) = trees([(sequence,)], len(sequence.ids))
        with autocast(precision, device):
            hidden = hidden_states(model, tree, device).index_select(0, torch.from_numpy(tree.scored_at).to(device))
        parts = []
        for chunk in hidden.split(ROWS_AT_ONCE):
            log_p = head.logits(chunk).float().log_softmax(1)
            parts.append(of_logits(log_p, wanted))
            for T, (entropies, log_zs) in sums.items():
                log_z = (log_p / T).logsumexp(1)
                at_T = log_p / T - log_z[:, None]
                entropies.append(-(at_T.exp() * at_T).sum(1).double().cpu().numpy())
                log_zs.append(log_z.double().cpu().numpy())
        first = int(sequence.scored[0])
        trained = tuple(weight > 0 for weight in sequence.weights[first:])
        made.append(CapturedRow(str(index), sequence.ids[:first], sequence.ids[first:], trained, joined(parts), "given"))
        owner += [index] * len(hidden)
    log_p, ids = (np.concatenate([getattr(row.said, name).reshape(-1, MOST) for row in made]) for name in ("log_probs", "ids"))
    entropy, log_z = ({T: np.concatenate(sums[T][place]) for T in TEMPERATURES} for place in (0, 1))
    return Read(made, Truth(log_p, ids, entropy, log_z, np.array(owner), head.weight.size(0)))


def budget(truth: Truth) -> tuple[dict[float, Values], bytes]:
    """The error of DistillKit's budget format, and its bytes."""
    exact = torch.from_numpy(truth.log_p[:, :1]).to(torch.bfloat16)
    place = np.arange(BUDGET_K - 1.0)
    terms = np.stack([np.ones_like(place), place, np.sqrt(place)], 1)
    fitted = np.linalg.lstsq(terms, truth.log_p[:, 1:BUDGET_K].T, rcond=None)[0].T
    fitted = np.ascontiguousarray(fitted, np.float32)
    said = np.concatenate([exact.double().numpy(), fitted.astype(np.float64) @ terms.T], 1)
    counts = np.full(len(said), BUDGET_K)
    left = np.maximum(1 - np.exp(said).sum(1), 1e-8 * (truth.vocabulary - BUDGET_K))  # its floor for what a fit above 1 leaves
    errors = {}
    for T in TEMPERATURES:
        apart = np.log(left) / T + (1 - 1 / T) * math.log(truth.vocabulary - BUDGET_K)
        tried = []
        for tail in (apart, np.log(left) / T):
            log_z = np.logaddexp(np.log(np.exp(said / T).sum(1)), tail)
            tried.append(truth.kl(T, said / T - log_z[:, None], counts, tail - log_z))
        errors[T] = min(tried, key=lambda error: float(error.mean()))
    record = np.concatenate([np.ascontiguousarray(truth.ids[:, :BUDGET_K], "<u2").view(np.uint8), exact.view(torch.uint8).numpy(), fitted.view(np.uint8)], 1)
    assert record.shape[1] == BUDGET_BYTES
    return errors, record.tobytes()


def cut(truth: Truth, least: float, most: int = MOST) -> tuple[dict[float, Values], float]:
    """The error of ours with this setting, rounding and all, before anything is written; and the tokens kept of a position."""
    counts = np.minimum(np.maximum((np.exp(truth.log_p) >= least).sum(1), 1), most)
    kept = np.arange(MOST) < counts[:, None]
    log_probs = log_probs_of(levels_of(truth.log_p[kept], STEPS), STEPS)
    errors = {}
    for T in TEMPERATURES:
        true = np.where(kept, np.exp(truth.log_p / T - truth.log_z[T][:, None]), 0).sum(1)
        given, tail, _ = scaled(counts, log_probs, rests_of(1 - true, STEPS), STEPS, T)
        wide = np.zeros(kept.shape)
        wide[kept] = given
        errors[T] = truth.kl(T, wide, counts, tail)
    return errors, float(counts.mean())


def enough(truth: Truth, most: dict[float, Values]) -> float | None:
    """The largest `least` with at most SPARE of the error `most`, at every T."""
    return next((least for least in GRID if all(cut(truth, least)[0][T].mean() <= SPARE * most[T].mean() for T in TEMPERATURES)), None)


def packed(captured: list[CapturedRow], least: float, truth: Truth) -> tuple[dict[float, Values], int, NDArray[np.int64], float]:
    """The error of the compact file as it is read back; its bytes; the tokens kept of each position; processor seconds of decoding."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        about = About(teacher="t", tokenizer="k", template="m", gold="g", answers="rows", temperatures=TEMPERATURES, k=MOST, mass=1.0)
        (folder / MANIFEST).write_text(about.model_dump_json(), encoding="utf-8")
        append(folder / CAPTURE, (write_line(row, about) for row in captured))
        size = pack(folder, least=least).stat().st_size
        found = Packed(folder)
        began = time.process_time()
        said = [found.row(place).said for place in range(len(captured))]
        seconds = time.process_time() - began
    counts = np.concatenate([one[1.0].counts for one in said])
    owner = np.repeat(np.arange(len(counts)), counts)
    ids = np.concatenate([one[1.0].ids for one in said])
    # tokens of one level are in no order: every id's place among the teacher's own
    kept = np.arange(MOST) < counts[:, None]
    order, wanted = np.lexsort((ids, owner)), np.lexsort((truth.ids[kept], owner))
    assert (ids[order] == truth.ids[kept][wanted]).all()
    errors = {}
    for T in TEMPERATURES:
        given, tail = (np.concatenate([getattr(one[T], name) for one in said]) for name in ("log_probs", "tail"))
        flat, wide = np.zeros(len(ids)), np.zeros(kept.shape)
        flat[wanted] = given[order]
        wide[kept] = flat
        errors[T] = truth.kl(T, wide, counts, tail)
    return errors, size, counts, seconds


def json_bytes(truth: Truth, counts: NDArray[np.int64]) -> int:
    """Every position as an array of pairs of id and logarithm, the first `counts` of them: the leanest JSON there is."""
    positions = zip(truth.ids.tolist(), truth.log_p.round(4).tolist(), counts.tolist(), strict=True)
    return sum(len(json.dumps(list(zip(ids[:count], lps[:count], strict=True)), separators=(",", ":"))) + 1 for ids, lps, count in positions)


def by_row(ours: Values, theirs: Values, row: NDArray[np.int64]) -> measure.Ratio:
    """Ours over theirs, both means over tokens, with the bootstrap interval over rows."""
    _, place = np.unique(row, return_inverse=True)
    above, below = np.bincount(place, ours), np.bincount(place, theirs)
    interval = bootstrap(lambda weights: (weights @ above) / (weights @ below), len(above))
    return measure.Ratio(float(above.sum() / below.sum()), interval.low, interval.high, len(above))


def main() -> int:
    """Both kinds of rows."""
    options = claims.arguments(__doc__, rows=dict(type=int, default=160, help="rows of a case"))
    report = claims.start("capture_bytes", "bytes of a captured token: <= 40 at no more KL than DistillKit's budget format of 114", options)
    folder = locate("smollm2-135m-instruct")
    chat = Chat.load(folder)
    with measure.Foreign() as foreign:
        for case in ("solutions", "language reference"):
            sequences = sequences_of(case, 8 if options.quick else options.rows, chat)
            if sequences:
                one(report, case, read(folder, sequences, options.device))
            else:
                report.notes.append(f"{case}: skipped, its rows are not on this machine")
    return claims.finish(report, foreign, options, timed=False)


def one(report: claims.Report, case: str, found: Read) -> None:
    """Settings from the even rows, everything else on the odd ones."""
    even = found.truth.row % 2 == 0
    held, first = found.truth.of(~even), found.truth.of(even)
    theirs, record = budget(held)
    least = enough(first, budget(first)[0])
    assert least is not None, "no setting of ours is as near to the teacher as DistillKit's budget format"
    ours, size, counts, seconds = packed(found.rows[1::2], least, held)
    same, fifty = json_bytes(held, counts), json_bytes(held, np.full(len(counts), BUDGET_K))
    tokens = len(held.row)
    report.counted(
        case,
        "ours",
        bytes=size / tokens,
        least=least,
        kept=float(counts.mean()),
        tokens=tokens,
        decoded_per_second=tokens / seconds,
        **{f"KL_T{T:g}": float(ours[T].mean()) for T in TEMPERATURES},
    )
    report.counted(
        case, "budget", bytes=BUDGET_BYTES, deflated=len(zlib.compress(record, 9)) / tokens, **{f"KL_T{T:g}": float(theirs[T].mean()) for T in TEMPERATURES}
    )
    report.counted(case, "JSON lines", same_tokens=same / tokens, top_50=fifty / tokens)
    for T in TEMPERATURES:
        report.found(
            Finding(case, "DistillKit's budget format", f"KL to the teacher at T={T:g}, ours / theirs", 1.0, by_row(ours[T], theirs[T], held.row), at_most=True)
        )
    report.found(Finding(case, f"{tokens} scored tokens", "bytes of a token", 40.0, measure.once(size / tokens), at_most=True))
    report.found(Finding(case, "DistillKit's budget format", "bytes, theirs / ours", 114 / 40, measure.once(BUDGET_BYTES * tokens / size)))
    exact, kept = cut(held, 0.0, BUDGET_K)
    report.notes.append(
        f"{case}: no bar: the same tokens as JSON arrays of id and 4 decimals {same / size:.1f}x our bytes, 50 tokens of each position {fifty / size:.1f}x; "
        f"{kept:.0f} tokens of each position by ours would have a KL of {exact[1.0].mean():.3f} at T=1 and {exact[2.0].mean():.3f} at T=2"
    )


if __name__ == "__main__":
    sys.exit(main())
