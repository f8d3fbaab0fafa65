"""Scoring every option of a question by its log-likelihood: at least 3x fewer tokens through the trunk than lm-eval's one request per option, with the same scores.

Run: PLANISH_LM_EVAL_PYTHON=<a Python with lm-eval and torch> python benchmarks/option_scoring.py. SmolLM2-135M in fp32; the options are the labels with the end of the turn behind
them. lm-eval runs in a process of its own because it needs its own environment, by its own HFLM with its own batching and its cache of equal contexts. Its tokens are counted
without padding, ours with everything; times leave the imports and the loading out, on both sides.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence as Seq
from pathlib import Path

import claims
import measure
import rows
import torch
from claims import Finding
from peer import apart

from planish.data.reviews import LABELS
from planish.data.tree import Sequence, pack
from planish.model.asker import options as option_ids
from planish.model.bundled import locate
from planish.model.chat import Chat
from planish.model.example import Example
from planish.model.load import load
from planish.model.policy import score

MODEL = "smollm2-135m-instruct"
BAR = 3.0
BATCH = 32
"""Requests in one of lm-eval's batches."""
TREE_TOKENS = 4096
QUESTIONS, QUICK_QUESTIONS = {"reviews": 48, "CLINC150": 6}, {"reviews": 6, "CLINC150": 1}


def cases(folder: Path, counts: dict[str, int]) -> dict[str, tuple[list[list[int]], list[tuple[int, ...]]]]:
    """Prompts and options, as ids, of every data set that is on this machine: 3 labels under an instruction, 150 intents under a line."""
    chat = Chat.load(folder)
    found = {}
    intents = sorted({label for _, label in json.loads(rows.CLINC150.read_text(encoding="utf-8"))["train"]}) if rows.CLINC150.is_file() else []
    for name, draw, labels in (("reviews", rows.reviews, list(LABELS)), ("CLINC150", rows.clinc150, intents)):
        drawn = draw(folder, counts[name])
        if drawn:
            found[name] = ([prompt_of(example) for example in drawn], option_ids(chat, labels))
    return found


def prompt_of(example: Example) -> list[int]:
    """The ids before the first scored one."""
    [sequence] = example.sequences
    return list(sequence.ids[: next(at for at, weight in enumerate(sequence.weights) if weight)])


@torch.inference_mode()
def ours(model: torch.nn.Module, prompts: Seq[Seq[int]], options: Seq[Seq[int]]) -> tuple[list[float], int]:
    """ln p of every option of every prompt, and the unique tokens that the trunk was given."""
    groups = [[Sequence((*prompt, *option), (*[0.0] * len(prompt), *[1.0] * len(option))) for option in options] for prompt in prompts]
    scores: list[list[float]] = [[] for _ in prompts]
    tokens = 0
    for members, tree in pack(groups, TREE_TOKENS):
        tokens += len(tree.ids)
        sums = score(model, tree, "fp32").sums().tolist()
        for place, index in enumerate(members):
            scores[index] = sums[place * len(options) : (place + 1) * len(options)]
    return [value for each in scores for value in each], tokens


def theirs(scratch: Path, folder: Path, prompts: Seq[Seq[int]], options: Seq[Seq[int]]) -> dict[str, object]:
    """One run of lm-eval."""
    asked = scratch / "asked.json"
    asked.write_text(json.dumps({"model": str(folder), "batch": BATCH, "prompts": prompts, "options": options}), encoding="utf-8")
    command = [os.environ["PLANISH_LM_EVAL_PYTHON"], str(Path(__file__).parent.resolve() / "option_scoring_peer.py"), str(asked)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> int:
    """Every data set that is here."""
    options = claims.arguments(__doc__)
    if "PLANISH_LM_EVAL_PYTHON" not in os.environ:
        print("PLANISH_LM_EVAL_PYTHON names no Python with lm-eval: make an environment of its own and install lm-eval and torch there", file=sys.stderr)
        return 2
    report = claims.start("option_scoring", "label scoring on the prefix tree: >= 3x fewer tokens than lm-eval's one request per option, same scores", options)
    folder = locate(MODEL)
    with measure.Foreign() as foreign, tempfile.TemporaryDirectory() as scratch:
        model = load(folder, "fp32")
        for name, (prompts, ways) in cases(folder, QUICK_QUESTIONS if options.quick else QUESTIONS).items():
            said = theirs(Path(scratch), folder, prompts, ways)
            began = time.perf_counter()
            scores, tokens = ours(model, prompts, ways)
            seconds = time.perf_counter() - began
            report.same(name, scores=apart(torch.tensor(scores), torch.tensor(said["scores"])))
            report.counted(name, "ours", questions=len(prompts), options=len(ways), trunk_tokens=tokens)
            report.counted(name, f"lm-eval {said['lm_eval']}", trunk_tokens=said["tokens"], with_padding=said["cells"])  # type: ignore[arg-type]
            fewer = float(said["tokens"]) / tokens  # type: ignore[arg-type]
            report.found(Finding(name, f"lm-eval {said['lm_eval']}, HFLM", "trunk tokens", BAR, measure.once(fewer)))
            report.notes.append(f"{name}: one run each took {seconds:.1f} s, lm-eval {said['seconds']:.1f} s")
    return claims.finish(report, foreign, options)


if __name__ == "__main__":
    sys.exit(main())
