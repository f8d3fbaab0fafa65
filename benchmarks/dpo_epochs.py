"""DPO with LoRA over three epochs, its reference log-probabilities included: at least 2.5x TRL's defaults, 1.5x TRL with its own precomputed ones.

Run: python benchmarks/dpo_epochs.py [--case turns]. SmolLM2-135M with its real weights, LoRA r 16 on every linear layer, three epochs by each side's own training call;
tokenising and loading are outside the clock. Pairs of real questions: the worse answer is the solution of another question. In `turns` three earlier questions and their solutions
stand before each question, so that a prompt has about four tokens for each of an answer; no two pairs share a prompt. In `questions` a
prompt is the question alone. On our side nothing is known of the reference at the start of a run: its cache over runs is a note below, not part of the figure.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import claims
import measure
import peer
import rows
from claims import Finding

from planish.data.tree import pack
from planish.model import loop
from planish.model.bundled import locate
from planish.model.chat import Chat
from planish.model.example import Example, Loss
from planish.model.policy import Scored, base_of, score
from planish.model.precision import choose
from planish.model.reference import StartingModel
from planish.objectives import dpo
from planish.rows import Message, Origin, PreferenceRow

CASES = ("turns", "questions")
EPOCHS, PAIRS, EARLIER = 3, 2, 3
"""Pairs of a step, and one step an epoch; the exchanges before the question in `turns`."""
SOLUTION_CHARACTERS = (120, 260)
"""Solutions of a middling length, so that a prompt with three of them in it is about four times an answer."""
DEFAULTS: dict[str, Any] = {}
"""TRL's own: bf16 autocast, activations checkpointed, the reference computed anew in every step. PAIRS are fewer than its 8 a device: one micro-batch."""
_FAST: dict[str, Any] = {"precompute_ref_log_probs": True, "gradient_checkpointing": False}
BEST: dict[str, dict[str, Any]] = {
    "precompute, no checkpointing": _FAST,
    "precompute, no checkpointing, bf16 weights": {**_FAST, "dtype": "bfloat16"},
    "precompute, no checkpointing, bf16 weights, 1 x 2": {**_FAST, "dtype": "bfloat16", "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2},
}
"""What makes TRL fast on a CPU. Its padding_free is out of order in 1.16, as it says itself."""
PRECOMPUTED = "precompute, otherwise defaults"
SIDES = {"defaults": DEFAULTS, PRECOMPUTED: {"precompute_ref_log_probs": True}, **BEST}


def examples_of(case: str, folder: Path) -> list[Example]:
    """The pairs of a case. Empty where the data set is absent."""
    chat, origin = Chat.load(folder), Origin(file="rows", line=1, sha256="")
    low, high = SOLUTION_CHARACTERS
    drawn = [one for one in rows.solutions(400) if low <= len(one[1]) <= high and low <= len(one[0]) <= high]
    made = []
    for index in range(0, (EARLIER + 2) * PAIRS if drawn else 0, EARLIER + 2):
        *earlier, asked, other = drawn[index : index + EARLIER + 2]
        turns = earlier if case == "turns" else []
        before = [Message(role=role, content=text) for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True)]
        prompt = (*before, Message(role="user", content=asked[0]))
        answers = [(Message(role="assistant", content=text),) for text in (asked[1], other[1])]
        made.append(dpo.encode(PreferenceRow(id=asked[0], origin=origin, prompt=prompt, chosen=answers[0], rejected=answers[1]), chat))
    return made


def our_run(folder: Path, examples: Sequence[Example], precision: str, device: str, counters: peer.Counters) -> Callable[[], object]:
    """The references, then EPOCHS epochs through planish's own loop."""
    model = peer.our_model(folder, precision, device)
    rest: dict[str, Any] = dict(max_steps=None, warmup=0.0, validations=0, checkpoints=0, schedule="constant", learning_rate=1e-6, weight_decay=0.0)
    plan = loop.make_plan(len(examples), batch_size=PAIRS, epochs=EPOCHS, micro_tokens=peer.MICRO_TOKENS, clip=1.0, precision=precision, seed=0, **rest)
    base_of(model).model.register_forward_pre_hook(peer.count(counters), with_kwargs=True)

    def counted(policy: Scored) -> Loss:
        counters.head += len(policy.log_prob)
        return dpo.loss(policy)

    def run() -> None:
        start = StartingModel(model, {}, None, precision, device, peer.MICRO_TOKENS)
        ready = dpo.prepare(examples, start)
        counters.head += sum(len(sequence.scored) for example in examples for sequence in example.sequences)
        with tempfile.TemporaryDirectory() as scratch:
            loop.train(model, ready, counted, plan, Path(scratch), meaning={}, device=device)

    return run


def trainer(folder: Path, examples: Sequence[Example], device: str, *, dtype: str = "float32", **options: Any) -> Any:
    """DPOTrainer over the same tokens. `options` are DPOConfig's; what is not given stays TRL's default, but for logging to a service, saving, and the progress bar."""
    settings = peer.quiet(device)
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    class Tokenised(DPOTrainer):  # type: ignore[misc]
        """Takes rows that are token ids already."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    given: dict[str, Any] = {
        "per_device_train_batch_size": PAIRS,
        "num_train_epochs": EPOCHS,
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant",
        **options,
    }
    return Tokenised(
        model=str(folder),
        args=DPOConfig(output_dir=tempfile.mkdtemp(), model_init_kwargs={"dtype": dtype, "attn_implementation": "sdpa"}, **settings, **given),
        train_dataset=Dataset.from_list([_ids(example) for example in examples]),
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=peer.lora_config(),
    )


def _ids(example: Example) -> dict[str, list[int]]:
    chosen, rejected = example.sequences
    first = int(chosen.scored[0])
    assert chosen.ids[:first] == rejected.ids[:first]
    return {"prompt_ids": list(chosen.ids[:first]), "chosen_ids": list(chosen.ids[first:]), "rejected_ids": list(rejected.ids[first:])}


def peer_run(made: Any, counters: peer.Counters, device: str) -> Callable[[], object]:
    """EPOCHS epochs by DPOTrainer.train; with precompute, its own pass over all pairs before them, which the trainer otherwise makes when it is built."""
    from transformers import PrinterCallback

    peer.draw_adapters(made.model)
    made.remove_callback(PrinterCallback)
    base_of(made.model).model.register_forward_pre_hook(peer.count(counters, device == "cpu"), with_kwargs=True)
    bare = made.train_dataset.remove_columns([name for name in made.train_dataset.column_names if name.startswith("ref_")])

    def run() -> None:
        assert made.accelerator.mixed_precision == ("bf16" if made.args.bf16 else "no")  # the state is one for all trainers of a process
        if made.args.precompute_ref_log_probs:
            made._precompute_model_hash = uuid.uuid4().hex  # or it finds what the run before has computed
            made.train_dataset = made._precompute_ref_logps(bare, "train", made.args.per_device_train_batch_size)
        made.train()

    return run


def build(side: str, examples: list[Example], folder: Path, device: str, counters: peer.Counters) -> Callable[[], object]:
    """A side by its name: "ours", or one of SIDES."""
    if side == "ours":
        return our_run(folder, examples, choose("auto", device), device, counters)
    return peer_run(trainer(folder, examples, device, **SIDES[side]), counters, device)


def distances(folder: Path, examples: list[Example], device: str) -> dict[str, float]:
    """Loss and gradient of the first step in fp32 by TRL's compute_loss and by ours, references and all: their distances."""
    made = trainer(folder, examples, device, bf16=False, gradient_checkpointing=False)
    peer.draw_adapters(made.model)
    batch = made.data_collator([made.train_dataset[index] for index in range(len(examples))])
    made.model.train()
    theirs = made.compute_loss(made.model, {name: value.to(device) for name, value in batch.items()})
    theirs.backward()
    right = peer.gradient(made.model)
    model = peer.our_model(folder, "fp32", device).train()
    ready, total = dpo.prepare(examples, StartingModel(model, {}, None, "fp32", device)), 0.0
    for _, tree in pack([example.sequences for example in ready], peer.MICRO_TOKENS):
        part = dpo.loss(score(model, tree, "fp32", device)).total / len(ready)
        part.backward()
        total += part.item()
    return {"loss": abs(total - theirs.item()), "gradient": peer.apart(peer.gradient(model), right)}


def main() -> int:
    """Every case, or the one asked for."""
    os.environ["TQDM_DISABLE"] = "1"
    options = claims.arguments(__doc__, case=dict(choices=CASES, default=None))
    folder = locate("smollm2-135m-instruct")
    name = f"dpo_epochs_{options.case}" if options.case else "dpo_epochs"
    report = claims.start(name, "DPO with LoRA over three epochs: >= 2.5x TRL 1.16 defaults, >= 1.5x TRL with its precomputed references", options)
    with measure.Foreign() as foreign:
        for case in [options.case] if options.case else CASES:
            examples = examples_of(case, folder)
            if examples:
                one(report, case, examples, folder, options)
            else:
                report.notes.append(f"{case}: skipped, its rows are not on this machine")
    return claims.finish(report, foreign, options)


def one(report: claims.Report, case: str, examples: list[Example], folder: Path, options: argparse.Namespace) -> None:
    """Parity, TRL's best, counters, times."""
    device, pairs = options.device, measure.QUICK_PAIRS if options.quick else measure.PAIRS
    lengths = [(len(sequence.ids) - len(sequence.scored), len(sequence.scored)) for example in examples for sequence in example.sequences]
    prompt, answer = (sum(column) / len(lengths) for column in zip(*lengths, strict=True))
    report.notes.append(f"{case}: {len(examples)} pairs, prompts of {prompt:.0f} tokens and answers of {answer:.0f} on average, {EPOCHS} epochs of one step")
    report.same(f"{case}, fp32", **distances(folder, examples, device))
    counters = {name: peer.Counters() for name in ("ours", *SIDES)}
    runs = {name: build(name, examples, folder, device, counters[name]) for name in ("ours", *SIDES)}
    tried = {name: times[0] for name, times in measure.interleaved({name: runs[name] for name in BEST}, 1, device).items()}
    best = min(tried, key=tried.__getitem__)
    report.notes.append(f"{case}: TRL's best of " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in tried.items()) + f": {best}")
    sides = {name: runs[name] for name in ("defaults", PRECOMPUTED, best, "ours")}
    runs.clear()
    for name, run in sides.items():
        counters[name].clear()
        operations = measure.flops(run)
        report.counted(case, name, trunk_tokens=counters[name].trunk, head_rows=counters[name].head, GFLOP=operations)
    taken = report.seconds[case] = measure.interleaved(sides, pairs, device)
    work = report.work[case]
    for name, bar in (("defaults", 2.5), (PRECOMPUTED, 1.5), (best, 1.5)):
        limit, tokens = (work[name][what] / work["ours"][what] for what in ("GFLOP", "trunk_tokens"))
        why = f"FLOPs of the two sides; trunk tokens {tokens:.2f}"
        report.found(Finding(case, f"TRL 1.16 DPOTrainer, {name}", "time", bar, measure.ratio(taken[name], taken["ours"]), limit, why))
    report.notes.append(f"{case}: {_again(folder, examples, device)}")


def _again(folder: Path, examples: list[Example], device: str) -> str:
    """What a second run over the same rows computes of the references."""
    model, precision = peer.our_model(folder, choose("auto", device), device), choose("auto", device)
    with tempfile.TemporaryDirectory() as scratch:
        runs = [StartingModel(model, {}, Path(scratch), precision, device) for _ in range(2)]
        for start in runs:
            dpo.prepare(examples, start)
    return f"reference tokens computed by a first run {runs[0].tokens}, by a second over the same rows {runs[1].tokens}"


if __name__ == "__main__":
    sys.exit(main())
