"""A distillation step from a sparse capture: at least 1.5x dense logits, at least 20x less memory for the loss.

Run: python benchmarks/kd_step.py. Student: SmolLM2-135M's first 24 of 30 layers with its real weights, LoRA r 16 on every linear layer; teacher: all 30; worked solutions
of real questions, ROWS a step, one step by each side's own training call. Ours reads a capture of k = 50, which is made before the clock starts. Against it:
- dense logits, offline: the same capture and the same loss on a full logits tensor, as offline trainers have it (DistillKit), in a plain loop without checkpointing;
- TRL 1.16 GKDTrainer on the rows as they are (lmbda 0, beta 0: forward KL), its teacher live: its defaults, and without checkpointing with weights in bf16. Its loss is
  over the whole vocabulary at T=1, so its parity is with our divergence from a teacher of all tokens.
Memory is that of the loss alone, from the last hidden states to their gradient, teacher included as each side is given it: the most bytes of tensors that exist at one
time, counted exactly (measure.live_bytes) at 8,192 positions, a quarter scored, a vocabulary of 151,936 and a width of 896, in fp32.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import claims
import kd_peer
import measure
import peer
import rows
import torch
from claims import Finding
from kd_peer import T

from planish.data.capture_file import CAPTURE, MANIFEST, About, CapturedRow, append, write_line
from planish.data.capture_packed import pack
from planish.data.tree import pack as trees
from planish.model import loop, scored_head, teacher
from planish.model.bundled import locate
from planish.model.chat import Chat
from planish.model.example import Example, Loss
from planish.model.head_terms import Divergence, Entropy, LogProb, Teacher, Watched
from planish.model.lm_head import Head
from planish.model.load import load
from planish.model.policy import Scored, base_of, score
from planish.model.precision import choose
from planish.objectives import kd
from planish.rows import ChatRow, Message, Origin

ROWS, LAYERS, K = 8, 24, 50
GKD: dict[str, dict[str, Any]] = {"GKD, defaults": {}, "GKD, no checkpointing, bf16 weights": {"gradient_checkpointing": False, "dtype": "bfloat16"}}
OFFLINE = "dense logits, offline"
SHAPE = {"positions": 8192, "scored": 2048, "vocabulary": 151_936, "width": 896}


def student_of(folder: Path, out: Path) -> Path:
    """The first layers of the teacher, with its embeddings and tokenizer. transformers tells of the layers that are left out."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    AutoModelForCausalLM.from_pretrained(folder, num_hidden_layers=LAYERS, dtype=torch.float32).save_pretrained(out)
    AutoTokenizer.from_pretrained(folder).save_pretrained(out)
    return out


def captured(folder: Path, out: Path, count: int, device: str) -> list[Example]:
    """The rows, read by the teacher into a capture at `out`, as `kd` encodes them. Empty where the data set is absent."""
    chat, origin = Chat.load(folder), Origin(file="rows", line=1, sha256="")
    made = [
        ChatRow(id=asked, origin=origin, messages=(Message(role="user", content=asked), Message(role="assistant", content=said)))
        for asked, said in rows.solutions(count)
    ]
    about = About(teacher="t", tokenizer=chat.tokenizer_hash, template=chat.template_hash, gold="g", answers="rows", temperatures=(1.0, T), k=K, mass=1.0)
    sequences = [chat.trained(row.messages) for row in made]
    said = teacher.read(load(folder, "fp32", device=device), sequences, teacher.Wanted(K, 1.0, (1.0, T)), "fp32", device)
    lines = []
    for row, sequence, word in zip(made, sequences, said, strict=True):
        first = int(sequence.scored[0])
        lines.append(
            write_line(CapturedRow(row.id, sequence.ids[:first], sequence.ids[first:], tuple(map(bool, sequence.weights[first:])), word, "given"), about)
        )
    out.mkdir()
    (out / MANIFEST).write_text(about.model_dump_json(), encoding="utf-8")
    append(out / CAPTURE, lines)
    pack(out)
    return [kd.encode(row, chat, capture=str(out)) for row in made]


def our_run(folder: Path, examples: Sequence[Example], capture: Path, device: str, counters: peer.Counters) -> Callable[[], object]:
    """One step through planish's own loop."""
    precision = choose("auto", device)
    model = peer.our_model(folder, precision, device)
    rest: dict[str, Any] = dict(max_steps=None, warmup=0.0, validations=0, checkpoints=0, schedule="constant", learning_rate=1e-6, weight_decay=0.0)
    plan = loop.make_plan(len(examples), batch_size=len(examples), epochs=1, micro_tokens=peer.MICRO_TOKENS, clip=1.0, precision=precision, seed=0, **rest)
    base_of(model).model.register_forward_pre_hook(peer.count(counters), with_kwargs=True)

    def counted(policy: Scored) -> Loss:
        counters.head += len(policy.weight)
        return kd.loss(policy, capture=str(capture), temperature=T)

    def run() -> None:
        with tempfile.TemporaryDirectory() as scratch:
            loop.train(model, examples, counted, plan, Path(scratch), meaning={}, device=device)

    return run


def distances(folder: Path, student: Path, examples: Sequence[Example], capture: Path, device: str) -> dict[str, float]:
    """Loss and gradient: ours to the dense loss of the same capture, and our divergence from a teacher of all tokens to GKDTrainer's. In fp64: these gradients are small
    differences of a student and a teacher that are alike, and in fp32 each side alone is 1e-5 from the exact one."""
    dense = kd_peer.dense_model(student, device).double()
    theirs = kd_peer.dense_step(dense, examples, capture, "fp32", device).item()
    right = peer.gradient(dense)
    model = peer.our_model(student, "fp32", device).double().train()
    share, tree = sum(example.share for example in examples), next(trees([example.sequences for example in examples], 10**9))[1]
    loss = kd.loss(score(model, tree, "fp32", device), capture=str(capture), temperature=T).total / share
    loss.backward()  # type: ignore[no-untyped-call]
    found = {"loss": abs(loss.item() - theirs), "gradient": peer.apart(peer.gradient(model), right)}
    made = kd_peer.gkd(folder, student, examples, device, bf16=False, gradient_checkpointing=False)
    peer.draw_adapters(made.model).double()
    made.teacher_model.double()
    batch = {name: value.to(device) for name, value in kd_peer.padded(examples, device).items()}
    made.model.train()
    whole = made.compute_loss(made.model, batch, num_items_in_batch=int(share))
    whole.backward()
    with torch.no_grad():
        rows_of = score(load(folder, "fp32", device=device).double(), tree, "fp32", device).rows
        log_p = rows_of.head.logits(rows_of.hidden).log_softmax(1)
    every = Teacher(torch.arange(log_p.size(1), device=device).expand_as(log_p), log_p)
    mine = score(model, tree, "fp32", device).rows.divergence(every).sum() / share
    mine.backward()
    return {**found, "GKD loss": abs(mine.item() - whole.item()), "GKD gradient": peer.apart(peer.gradient(model), peer.gradient(made.model))}


def loss_bytes(shape: dict[str, int], device: str) -> dict[str, int]:
    """Bytes of each side's loss, from hidden states to their gradient."""
    from trl.experimental.gkd import GKDTrainer

    n, scored, width = shape["positions"], shape["scored"], shape["width"]
    weight = torch.empty(shape["vocabulary"], width, device=device)
    hidden, target = torch.empty(n, width, device=device), torch.zeros(scored, dtype=torch.long, device=device)
    kept = torch.empty(scored, K, device=device)
    said = Teacher(
        torch.zeros(scored, K, dtype=torch.long, device=device), kept, T, kept > 0, torch.empty(scored, device=device), torch.ones(scored, device=device)
    )
    labels, places = torch.zeros(n, dtype=torch.long, device=device), torch.zeros(scored, dtype=torch.long, device=device)

    def ours() -> None:
        rows_hidden = hidden[:scored].detach().requires_grad_()
        terms = [Watched(Entropy()), Divergence(said), LogProb(target)]
        scored_head.blend(rows_hidden, Head(weight), terms, [0.0, 0.5 * T**2, -0.5])[0].sum().backward()  # type: ignore[no-untyped-call]

    def offline() -> None:
        kd_peer.dense_loss(hidden.detach().requires_grad_() @ weight.t(), labels, places, said).backward()  # type: ignore[no-untyped-call]

    def live() -> None:  # without labels, whose mask has no shape on the meta device: it would copy the scored part once more
        logits, other = (hidden.detach().requires_grad_() @ weight.t())[None], (hidden @ weight.t())[None]
        GKDTrainer.generalized_jsd_loss(logits, other, beta=0.0, num_items_in_batch=scored).backward()

    return {name: measure.live_bytes(run) for name, run in (("ours", ours), (OFFLINE, offline), ("GKD", live))}


def main() -> int:
    """Parity, counters, times, bytes."""
    options = claims.arguments(__doc__)
    report = claims.start("kd_step", "a distillation step from a sparse capture: >= 1.5x dense logits, >= 20x less memory for the loss", options)
    device, pairs = options.device, measure.QUICK_PAIRS if options.quick else measure.PAIRS
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    folder, case = locate("smollm2-135m-instruct"), "step"
    with measure.Foreign() as foreign, tempfile.TemporaryDirectory() as scratch:
        student, capture = student_of(folder, Path(scratch) / "student"), Path(scratch) / "capture"
        examples = captured(folder, capture, ROWS, device)
        if not examples:
            report.notes.append("skipped: the rows are not on this machine")
            return claims.finish(report, foreign, options)
        report.same("fp64", **distances(folder, student, examples[:2], capture, device))
        small = {"positions": 64, "scored": 16, "vocabulary": 1000, "width": 32}
        assert loss_bytes(small, "cpu") == loss_bytes(small, "meta")
        counters = {name: peer.Counters() for name in ("ours", OFFLINE, *GKD)}
        sides = {"ours": our_run(student, examples, capture, device, counters["ours"])}
        sides[OFFLINE] = kd_peer.dense_run(student, examples, capture, device, counters[OFFLINE])
        sides |= {name: kd_peer.gkd_run(kd_peer.gkd(folder, student, examples, device, **given), counters[name]) for name, given in GKD.items()}
        for name, run in sides.items():
            counters[name].clear()
            operations = measure.flops(run)
            report.counted(case, name, trunk_tokens=counters[name].trunk, head_rows=counters[name].head, GFLOP=operations)
        taken, work = report.seconds.setdefault(case, measure.interleaved(sides, pairs, device)), report.work[case]
        for name in (OFFLINE, *GKD):
            limit = work[name]["GFLOP"] / work["ours"]["GFLOP"]
            against = name if name == OFFLINE else f"TRL 1.16 {name}"
            report.found(Finding(case, against, "time", 1.5, measure.ratio(taken[name], taken["ours"]), limit, "FLOPs of the two sides"))
        held = loss_bytes(SHAPE, "meta")
        report.counted("loss", "peak MiB", **{name: size / 2**20 for name, size in held.items()})
        for name in (OFFLINE, "GKD"):
            against = name if name == OFFLINE else "TRL 1.16 GKD loss, live teacher"
            report.found(
                Finding("loss, 8192 positions x 152k, 25 % scored", against, "peak bytes, theirs / ours", 20.0, measure.once(held[name] / held["ours"]))
            )
    return claims.finish(report, foreign, options)


if __name__ == "__main__":
    sys.exit(main())
