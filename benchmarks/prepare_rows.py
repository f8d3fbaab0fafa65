"""Rows in: raw JSONL to tokenised and packed, every row checked, at 15,000 short chat rows a second on two cores in less than 1 GB; 3 times TRL with semhash.

Run: python benchmarks/prepare_rows.py. Ours: contract, exact and near duplicates, conflicts, split, leakage, lengths, template and mask, token store, packing. The peer's:
datasets reads the file, semhash (a static encoder of the model's own embeddings) takes out near duplicates, SFTTrainer renders, tokenises and packs, on two processes.
Checks that presidio and detect-secrets make are timed apart: they are theirs.
"""

from __future__ import annotations

import json
import logging
import random
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import claims
import measure
from claims import Finding

from planish.data.bins import packed
from planish.data.reading import read_rows
from planish.data.task import make
from planish.model import tokenise
from planish.model.bundled import locate
from planish.model.chat import Chat
from planish.recipe_data import SplitSection
from planish.recipe_keys import Use
from planish.stages._examined import Places, examine

ROWS, PAIRED_ROWS = 100_000, 20_000
CHECKS = ("duplicates", "near_duplicates", "label_conflicts", "lengths", "leakage")
"""What the token store refuses by itself (template, mask, cut answers) is checked there, in the one pass that renders a row."""
CONTEXT = 1024


def written(path: Path, count: int) -> Path:
    """Short dialogues in the tokenizer's own words, drawn as often as words of their rank are (Zipf); of 100 rows one repeats another, and one but for a word."""
    vocabulary = json.loads((locate("smollm2-135m-instruct") / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    words = [token[1:] for token in sorted(vocabulary, key=vocabulary.__getitem__) if token.startswith("Ġ") and token[1:].isalpha() and token[1:].isascii()]
    often = list(accumulate(1 / (rank + 3) for rank in range(len(words))))
    draw = random.Random(0)

    def said(least: int, most: int) -> str:
        return " ".join(draw.choices(words, cum_weights=often, k=draw.randint(least, most)))

    held: list[tuple[str, str]] = []
    with path.open("w", encoding="utf-8") as out:
        for number in range(count):
            question, answer = f"{said(6, 16)}?", f"{said(8, 25)}."
            if number % 100 == 50:
                question, answer = held[number // 2]
            elif number % 100 == 51:
                question, answer = held[number // 2][0] + " again", held[number // 2][1]
            held.append((question, answer))
            out.write(json.dumps({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}) + "\n")
    return path


@cache
def chat(folder: Path) -> Chat:
    """Tokenizer and template, loaded once: the peer's are too."""
    return Chat.load(folder)


def ours(path: Path, checks: tuple[str, ...] = CHECKS) -> dict[str, float]:
    """The whole way of the prepare stage, into a folder that is new each time."""
    folder, task = locate("smollm2-135m-instruct"), make("chat")
    with tempfile.TemporaryDirectory() as scratch:
        examined = examine(read_rows(path), task, [Use(name=name) for name in checks], Places(SplitSection()), lambda: chat(folder))
        store = tokenise.build(examined.reading.accepted, tokenise.How(folder, max_length=CONTEXT), Path(scratch))
        lengths = store.lengths.tolist()
        filled = packed(lengths, CONTEXT)
        counts = {"rows": len(store), "refused": sum(1 for _ in store.faults)}
        return counts | {"tokens": sum(lengths), "trained": int(store.scored.sum()), "blocks": filled.cells // CONTEXT, "full": filled.share}


def peer(path: Path) -> Callable[[], dict[str, float]]:
    """What is loaded once (encoder, tokenizer, a small model that the trainer asks for) stays outside the clock."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    import datasets
    import torch
    from huggingface_hub import constants
    from model2vec import StaticModel
    from safetensors import safe_open
    from semhash import SemHash
    from tokenizers import Tokenizer
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    constants.HF_HUB_DISABLE_TELEMETRY = True  # the trainer would send word of itself from a thread, and beside a working thread we start no process
    datasets.disable_progress_bars()
    datasets.disable_caching()
    folder = locate("smollm2-135m-instruct")
    with safe_open(folder / "model.safetensors", "np") as weights:
        vectors = weights.get_tensor("model.embed_tokens.weight").astype("float32")[:, :256]
    encoder = StaticModel(vectors, Tokenizer.from_file(str(folder / "tokenizer.json")), normalize=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = AutoConfig.from_pretrained(
        folder, num_hidden_layers=1, hidden_size=64, intermediate_size=64, num_attention_heads=1, num_key_value_heads=1, head_dim=64
    )
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)

    def run() -> dict[str, float]:
        with tempfile.TemporaryDirectory() as scratch:
            rows = datasets.Dataset.from_json(str(path), cache_dir=scratch)
            texts = [f"{turns[0]['content']}\n{turns[1]['content']}" for turns in rows["messages"]]
            kept = SemHash.from_records([{"text": text} for text in texts], columns=["text"], model=encoder).self_deduplicate(threshold=0.98)
            wanted = {row["text"] for row in kept.selected}
            rows = rows.select([index for index, text in enumerate(texts) if text in wanted])
            options: dict[str, Any] = dict(use_cpu=True, bf16=False, report_to="none", save_strategy="no", disable_tqdm=True)
            args = SFTConfig(output_dir=scratch, packing=True, max_length=CONTEXT, dataset_num_proc=2, **options)
            made = SFTTrainer(model=model, args=args, train_dataset=rows, processing_class=tokenizer).train_dataset
            lengths = [len(ids) for ids in made["input_ids"]]
            return {"rows": len(rows), "tokens": sum(lengths), "blocks": len(lengths), "full": sum(lengths) / (len(lengths) * CONTEXT)}

    return run


def main() -> int:
    """Ours alone on 100,000 rows, memory in a process of its own, then both sides in turn on 20,000."""
    options = claims.arguments(__doc__, alone={"default": None, "type": Path})
    if options.alone is not None:
        ours(options.alone)
        held = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
        print(json.dumps({"peak_MiB": held}))
        return 0
    report = claims.start(
        "prepare_rows", "raw JSONL to tokenised and packed, all checks on: >= 15,000 rows/s on 2 cores, < 1 GB, >= 3x TRL with semhash", options
    )
    count, paired = (5_000, 2_000) if options.quick else (ROWS, PAIRED_ROWS)
    pairs = measure.QUICK_PAIRS if options.quick else measure.PAIRS
    with measure.Foreign() as foreign, tempfile.TemporaryDirectory() as scratch:
        many, few = written(Path(scratch) / "rows.jsonl", count), written(Path(scratch) / "few.jsonl", paired)
        report.counted(f"{count:,} rows", "ours", **ours(many))
        seconds = report.seconds["ours"] = measure.interleaved({"ours": lambda: ours(many)}, pairs, options.device)
        rates = [count / each for each in seconds["ours"]]
        report.found(Finding(f"{count:,} rows", "the clock", "rows a second", 15_000, measure.ratio(rates, [1.0] * len(rates))))
        peak = measure.peak_of("--alone", str(many))["peak_MiB"]
        report.found(Finding(f"{count:,} rows", "1 GiB", "peak memory, share of it", 1.0, measure.once(peak / 1024), at_most=True))
        theirs = peer(few)
        report.counted(f"{paired:,} rows", "ours", **ours(few))
        report.counted(f"{paired:,} rows", "TRL with semhash", **theirs())
        taken = report.seconds["paired"] = measure.interleaved({"ours": lambda: ours(few), "TRL": theirs}, pairs, options.device)
        report.found(Finding(f"{paired:,} rows", "TRL with semhash", "time, theirs over ours", 3.0, measure.ratio(taken["TRL"], taken["ours"])))
        report.notes.append(_apart(few, paired))
    report.notes.append("TRL trains on every token here and checks neither contract, conflicts, leakage nor mask; its rows are those semhash leaves")
    return claims.finish(report, foreign, options)


def _apart(path: Path, count: int) -> str:
    """The two checks that stand on other people's recognisers."""
    said = []
    for name in ("pii", "secrets"):
        began = time.perf_counter()
        examine(read_rows(path), make("chat"), [Use(name=name, options={"action": "warn"})], Places(SplitSection()), lambda: None)
        said.append(f"{name} {count / (time.perf_counter() - began):,.0f} rows/s")
    return "timed apart: " + ", ".join(said)


if __name__ == "__main__":
    sys.exit(main())
