"""Merging three models of 0.5 billion parameters: TIES at least 5x mergekit 0.1.5 and at most 0.4 GB resident, linear at least 1.5x.

Run: PLANISH_MERGEKIT_PYTHON=<a Python with mergekit 0.1.5> python benchmarks/merging.py. Random bf16 weights in the shape of Qwen2.5-0.5B (SHAPE), from disk to disk: seven
pairs of linear at that size and one of TIES, for which mergekit takes two minutes; seven of each with its widths, 3 layers and 40,000 words (PAIRED). Each run is
a process of its own, because mergekit needs its own environment and because peak memory is a process's; seconds leave the imports out, on both sides. mergekit computes in
bf16 here, which is its fast way; ours is always fp32. Our time holds checking the parents and syncing the result to disk, which mergekit does not do; their hashes are
kept from an untimed round on.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import claims
import measure
import torch
from claims import Finding
from safetensors.torch import load_file, save_file

SHAPE = dict(hidden=896, ffn=4864, layers=24, kv=128, vocab=151936)
PAIRED = SHAPE | dict(layers=3, vocab=40000)
SMALL = dict(hidden=256, ffn=1024, layers=3, kv=64, vocab=8192)
TINY = dict(hidden=64, ffn=128, layers=2, kv=64, vocab=512)
"""For parity: few enough values that no two differences on TIES' edge are of equal magnitude, where the sides may choose another of the two."""
BARS = {"ties": 5.0, "linear": 1.5}
RESIDENT = 0.4
"""GB (10^9 bytes)."""
MODELS = [{"model": name, "parameters": {"weight": weight}} for name, weight in (("a", 0.5), ("b", 0.3), ("c", 0.2))]


def write_model(folder: Path, seed: int, dtype: torch.dtype, shape: dict[str, int]) -> None:
    """A llama of random weights: the same base for every seed, and a fifth of its spread on top for seeds from 1 on."""
    hidden, ffn, kv = shape["hidden"], shape["ffn"], shape["kv"]
    shapes = {"model.embed_tokens.weight": (shape["vocab"], hidden), "model.norm.weight": (hidden,)}
    for layer in range(shape["layers"]):
        parts = {"self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden), "self_attn.o_proj": (hidden, hidden)}
        parts |= {"mlp.gate_proj": (ffn, hidden), "mlp.up_proj": (ffn, hidden), "mlp.down_proj": (hidden, ffn)}
        parts |= {"input_layernorm": (hidden,), "post_attention_layernorm": (hidden,)}
        shapes |= {f"model.layers.{layer}.{name}.weight": part for name, part in parts.items()}
    base, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    weights = {}
    for name, one in shapes.items():
        weights[name] = 0.02 * torch.randn(one, generator=base)
        if seed:
            weights[name] += 0.004 * torch.randn(one, generator=own)
        weights[name] = weights[name].to(dtype)
    folder.mkdir(parents=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = dict(model_type="llama", architectures=["LlamaForCausalLM"], tie_word_embeddings=True, hidden_act="silu", rms_norm_eps=1e-6)
    config |= dict(hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=shape["layers"], vocab_size=shape["vocab"], num_attention_heads=hidden // 64)
    config |= dict(num_key_value_heads=kv // 64, max_position_embeddings=2048, bos_token_id=1, eos_token_id=2)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def make(folder: Path, dtype: torch.dtype, shape: dict[str, int]) -> Path:
    """Base, three tuned models, and one file for each method, that both sides read."""
    for seed, name in enumerate(("base", "a", "b", "c")):
        write_model(folder / name, seed, dtype, shape)
    name = str(dtype).removeprefix("torch.")
    ties = {"merge_method": "ties", "base_model": "base", "models": MODELS, "parameters": {"density": 0.2}, "dtype": name}
    (folder / "ties.yaml").write_text(json.dumps(ties), encoding="utf-8")
    (folder / "linear.yaml").write_text(json.dumps({"merge_method": "linear", "models": MODELS, "dtype": name}), encoding="utf-8")
    return folder


def side(which: str, folder: Path, method: str, keep: Path | None = None) -> dict[str, float]:
    """One run of one side; the result is kept only for parity."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        out = keep or Path(scratch) / "out"
        here = Path(__file__).parent.resolve()
        ours = [sys.executable, str(here / "merging_ours.py"), f"{method}.yaml", str(out)]
        theirs = [os.environ["PLANISH_MERGEKIT_PYTHON"], str(here / "merging_peer.py"), f"{method}.yaml", str(out)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(ours if which == "ours" else theirs, check=True, cwd=folder, stdout=subprocess.PIPE, text=True, env=environment)
        return dict(json.loads(done.stdout.splitlines()[-1]))


def parity(report: claims.Report, folder: Path) -> None:
    """Largest difference of any value, in fp32, where no two differences are of equal magnitude."""
    for method in BARS:
        found = {}
        for which in ("ours", "mergekit"):
            side(which, folder, method, folder / f"{which}-{method}")
            found[which] = {name: tensor for path in (folder / f"{which}-{method}").glob("*.safetensors") for name, tensor in load_file(path).items()}
        apart = max(float((tensor - found["mergekit"][name]).abs().max()) for name, tensor in found["ours"].items())
        report.same(f"fp32, {method}", largest=apart if found["ours"].keys() == found["mergekit"].keys() else float("inf"))


def compared(report: claims.Report, folder: Path, method: str, pairs: int, case: str) -> dict[str, dict[str, float]]:
    """A method timed in turn on both sides, after an untimed round of ours where there are more pairs than one (the parents' hashes are kept from then on); the peaks."""
    taken: dict[str, list[float]] = {"ours": [], "mergekit": []}
    peaks: dict[str, dict[str, float]] = {}
    side("ours", folder, method)
    for _ in range(pairs):
        for which, seconds in taken.items():
            said = side(which, folder, method)
            seconds.append(said.pop("seconds"))
            peaks[which] = {key: max(value, peaks.get(which, {}).get(key, 0.0)) for key, value in said.items() if key.endswith("_MiB")}
    report.seconds[case] = taken
    for which, found in peaks.items():
        report.counted(case, which, seconds=statistics.median(taken[which]), **found)
    report.found(Finding(case, "mergekit 0.1.5", "time", BARS[method], measure.ratio(taken["mergekit"], taken["ours"])))
    return peaks


def main() -> int:
    """TIES and linear."""
    options = claims.arguments(__doc__)
    if "PLANISH_MERGEKIT_PYTHON" not in os.environ:
        print("PLANISH_MERGEKIT_PYTHON names no Python with mergekit 0.1.5: make an environment of its own and install mergekit==0.1.5 there", file=sys.stderr)
        return 2
    report = claims.start("merging", "three 0.5 B models: TIES >= 5x mergekit 0.1.5 and <= 0.4 GB resident, linear >= 1.5x", options)
    pairs, widths = (measure.QUICK_PAIRS, SMALL) if options.quick else (measure.PAIRS, PAIRED)
    with measure.Foreign() as foreign, tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        parity(report, make(place / "fp32", torch.float32, TINY))
        part = make(place / "part", torch.bfloat16, widths)
        for method in BARS:
            compared(report, part, method, pairs, f"{method}, its widths, fewer layers and words")
        shutil.rmtree(part)
        whole = make(place / "whole", torch.bfloat16, SMALL if options.quick else SHAPE)
        for method in BARS:
            peaks = compared(report, whole, method, pairs if method == "linear" else 1, f"{method}, 0.5 B")
            resident = measure.once(peaks["ours"]["peak_MiB"] * 2**20 / 1e9)
            theirs = f"mergekit 0.1.5 ({peaks['mergekit']['peak_MiB'] * 2**20 / 1e9:.2f})"
            report.found(Finding(f"{method}, 0.5 B", theirs, "GB resident", RESIDENT, resident, at_most=True))
    report.notes.append("resident: VmHWM of the whole process, mapped files and the imports included, of which torch is 0.25 GB; anonymous: RssAnon at the end")
    return claims.finish(report, foreign, options)


if __name__ == "__main__":
    sys.exit(main())
