"""One calibration pass for importance matrix, GPTQ, AWQ, Wanda and pruning scores: at least 3x less than the sum of a pass for each, in tokens forwarded and in time.

Run: python benchmarks/calibrate_once.py. SmolLM2-135M with its real weights in fp32, training rows of the reviews joined to sequences of 256 tokens. A pass of its own collects
no more than its user reads: column squares for importance matrix and Wanda, the whole Gram for GPTQ and AWQ, the Grams of what heads and channels give for pruning. Solving,
rounding and AWQ's search are left out on both sides: with the Gram none of them forwards a token. (Peers' AWQ forwards each layer's text again for each of 20 exponents.)

Then rows of the reviews as they are, which begin alike: the pass on prefix trees, with whole matrices and with diagonals alone, against the same pass row by row.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Literal

import claims
import measure
import rows
import torch
from claims import Finding
from torch import Tensor, nn

from planish.model import gram_pass
from planish.model.backbone import backbone, base_of
from planish.model.bundled import locate
from planish.model.gram import Grams
from planish.model.layout import Layout, use_plain
from planish.model.load import load

LENGTH, SEQUENCES, ROWS = 256, 3, 60
BAR = 3.0
READ_BY_UNITS = ("self_attn.o_proj", "mlp.down_proj")


def text(folder: Path, count: int) -> list[tuple[int, ...]]:
    """Token ids of rows, joined and cut to equal lengths."""
    made = rows.reviews(folder, 40 * count) or rows.ragged(40 * count, 49152)
    ids = [token for example in made for sequence in example.sequences for token in sequence.ids]
    return [tuple(ids[start : start + LENGTH]) for start in range(0, LENGTH * count, LENGTH)]


@torch.no_grad()
def squares(model: nn.Module, sequences: Seq[Seq[int]]) -> dict[str, Tensor]:
    """(D,) sum of squares of each input column of each linear layer, and nothing else: what a pass for an importance matrix or for Wanda alone would collect."""
    found: dict[str, Tensor] = {}
    hooks = []
    for name, module in backbone(model).named_modules():
        if isinstance(module, nn.Linear):

            def seen(_: nn.Module, given: tuple[Tensor, ...], name: str = name) -> None:
                sums = given[0].reshape(-1, given[0].shape[-1]).square().sum(0)
                found[name] = sums + found[name] if name in found else sums

            hooks.append(module.register_forward_pre_hook(seen))
    use_plain(model)
    for ids in sequences:
        backbone(model)(input_ids=torch.tensor([list(ids)]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return found


def apart(model: nn.Module, sequences: Seq[Seq[int]], once: Grams) -> dict[str, float]:
    """Largest relative distance of what the passes of their own give from what the shared one holds."""
    own = squares(model, sequences)
    inner = next(name for name, module in model.named_modules() if module is backbone(model))
    diagonal = max(distance(found, once.of(f"{inner}.{name}").diagonal) for name, found in own.items())
    units = gram_pass.collect(model, sequences, only=lambda name: name.endswith(READ_BY_UNITS))
    whole = max(distance(found.matrix, once.of(name).matrix) for name, found in units.matrices.items())
    return {"diagonal": diagonal, "gram": whole}


def alike(report: claims.Report, model: nn.Module, sequences: Seq[Seq[int]], pairs: int) -> None:
    """Rows of one task: what they share is computed once."""
    case = f"{len(sequences)} review rows"

    def collect(kind: Literal["tree", "rows"], matrices: bool = True) -> Grams:
        base_of(model).planish_layout = Layout(kind)
        return gram_pass.collect(model, sequences, matrices=matrices)

    sides: dict[str, Callable[[], object]] = {
        "tree": lambda: collect("tree"),
        "tree, diagonals": lambda: collect("tree", False),
        "row by row": lambda: collect("rows"),
    }
    one, less, other = collect("tree"), collect("tree", False), collect("rows")
    report.same(
        case,
        gram=max(distance(found.matrix, other.matrices[name].matrix) for name, found in one.matrices.items()),
        diagonal=max(distance(found.diagonal, other.matrices[name].diagonal) for name, found in less.matrices.items()),
    )
    tokens = {"tree": gram_pass.tree_tokens(sequences), "row by row": sum(map(len, sequences))}
    for side, run in sides.items():
        report.counted(case, side, tokens=tokens.get(side, tokens["tree"]), GFLOP=measure.flops(run))
    report.found(Finding(case, "row by row", "tokens forwarded", 1.0, measure.once(tokens["row by row"] / tokens["tree"])))
    taken = measure.interleaved(sides, pairs, "cpu")
    report.seconds[case] = taken
    work = report.work[case]
    for side in ("tree", "tree, diagonals"):
        limit = work["row by row"]["GFLOP"] / work[side]["GFLOP"]
        ratio = measure.ratio(taken["row by row"], taken[side])
        report.found(Finding(f"{case}, {side}", "row by row, with matrices", "time", 1.0, ratio, limit, "FLOPs of the two sides"))


def distance(one: Tensor, other: Tensor) -> float:
    """Relative to the length of the second."""
    return float(torch.linalg.vector_norm(one - other) / torch.linalg.vector_norm(other))


def main() -> int:
    """Counts, parity, times."""
    options = claims.arguments(__doc__)
    report = claims.start("calibrate_once", "one calibration pass: >= 3x less than the passes of its five users", options)
    folder = locate("smollm2-135m-instruct")
    model, sequences = load(folder, "fp32"), text(folder, 1 if options.quick else SEQUENCES)

    def collect(only: Seq[str] = ("",)) -> Grams:
        return gram_pass.collect(model, sequences, only=lambda name: name.endswith(tuple(only)))

    users: dict[str, Callable[[], object]] = {
        "importance matrix": lambda: squares(model, sequences),
        "GPTQ": collect,
        "AWQ": collect,
        "Wanda": lambda: squares(model, sequences),
        "pruning scores": lambda: collect(READ_BY_UNITS),
    }

    def each() -> None:
        for run in users.values():
            run()

    tokens = sum(map(len, sequences))
    with measure.Foreign() as foreign:
        report.same("SmolLM2-135M", **apart(model, sequences, collect()))
        report.counted("SmolLM2-135M", "once", tokens=tokens, GFLOP=measure.flops(collect))
        report.counted("SmolLM2-135M", "each", tokens=len(users) * tokens, GFLOP=measure.flops(each))
        work = report.work["SmolLM2-135M"]
        report.found(Finding("SmolLM2-135M", "a pass for each user", "tokens forwarded", BAR, measure.once(work["each"]["tokens"] / work["once"]["tokens"])))
        taken = measure.interleaved({"once": collect, "each": each}, measure.QUICK_PAIRS if options.quick else measure.PAIRS, "cpu")
        report.seconds["SmolLM2-135M"] = taken
        limit = work["each"]["GFLOP"] / work["once"]["GFLOP"]
        report.found(Finding("SmolLM2-135M", "a pass for each user", "time", BAR, measure.ratio(taken["each"], taken["once"]), limit, "FLOPs of the two sides"))
        made = rows.reviews(folder, 12 if options.quick else ROWS)
        if made:
            alike(report, model, [sequence.ids for example in made for sequence in example.sequences], measure.QUICK_PAIRS if options.quick else measure.PAIRS)
    return claims.finish(report, foreign, options)


if __name__ == "__main__":
    sys.exit(main())
