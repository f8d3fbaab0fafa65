"""config.json as llama.cpp needs it: refused where its kernels would compute something else, with what they assume and the file cannot say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from planish.errors import InputError, Problem
from planish.model.gguf_families import FAMILIES, Family
from planish.model.json_object import read_json

SLIDING, FULL = "sliding_attention", "full_attention"


def read_config(checkpoint: Path) -> dict[str, Any]:
    """config.json with its family's defaults filled in. Raises InputError with every reason for which llama.cpp cannot compute this model."""
    path = checkpoint / "config.json"
    if not path.is_file():
        raise InputError(Problem(str(path), "is missing", "give a checkpoint folder in the Hugging Face layout"))
    told = read_json(path)
    architecture = (told.get("architectures") or ["none"])[0]
    if architecture not in FAMILIES:
        raise InputError(Problem(f"{path}: architectures", f"{architecture} cannot be exported to GGUF", "supported: " + ", ".join(FAMILIES)))
    family = FAMILIES[architecture]
    config = {**family.defaults, **told}
    if problems := _unlike(config, family, str(path)):
        raise InputError(*problems)
    return config


def _unlike(config: dict[str, Any], family: Family, where: str) -> list[Problem]:
    """What llama.cpp computes otherwise than this configuration says."""
    problems = []
    key, computed = family.activation
    if config.get(key, computed) != computed:
        problems.append(Problem(f"{where}: {key}", f"is {config[key]}; llama.cpp computes {computed}"))
    if config.get("quantization_config"):
        problems.append(Problem(f"{where}: quantization_config", "the weights are quantised already", "export the 16-bit checkpoint"))
    if (kind := rotary(config).get("rope_type")) not in family.rotary:
        problems.append(Problem(f"{where}: rope_parameters", f"rope_type {kind} cannot be exported", "supported: " + ", ".join(family.rotary)))
    problems += [Problem(f"{where}: {cap}", "is not set, and llama.cpp always caps here") for cap in family.softcaps if not config.get(cap)]
    if family.tied_only and not config.get("tie_word_embeddings"):
        problems.append(Problem(f"{where}: tie_word_embeddings", "is false; llama.cpp computes this family's output with its embedding"))
    if config.get("use_bidirectional_attention"):
        problems.append(Problem(f"{where}: use_bidirectional_attention", "is true; llama.cpp looks back only here"))
    if family.period:
        found = period(config, family)
        if found is None:
            why = f"{SLIDING} and {FULL} do not alternate at one interval, which is all that the file can say"
            problems.append(Problem(f"{where}: layer_types", why))
        elif found == 1 and family.windowed_only:
            problems.append(Problem(f"{where}: layer_types", f"names no {SLIDING}, which llama.cpp always computes in this family"))
        elif found != 1 and not config.get("sliding_window"):
            problems.append(Problem(f"{where}: sliding_window", f"is not set, and layer_types names {SLIDING}"))
        if (local := local_rotary(config).get("rope_type", "default")) not in ("default", None) and family.scaled == "q_norm":
            problems.append(Problem(f"{where}: rope_parameters.{SLIDING}", f"rope_type {local} cannot be exported", "supported: default"))
    return problems


def rotary(config: dict[str, Any]) -> dict[str, Any]:
    """`rope_parameters` (transformers 5; of layers that see everything, where kinds differ), or the same from `rope_theta` and `rope_scaling` (transformers 4)."""
    given: dict[str, Any] = config.get("rope_parameters") or {}
    found: dict[str, Any] = {**(config.get("rope_scaling") or {}), **(given.get(FULL) or given)}
    kind = found.setdefault("rope_type", found.get("type", "default"))
    found["rope_type"] = "longrope" if kind == "su" else kind  # its first name
    found.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    return found


def local_rotary(config: dict[str, Any]) -> dict[str, Any]:
    """The rotary parameters of layers that see a window, where they have their own."""
    given: dict[str, Any] = (config.get("rope_parameters") or {}).get(SLIDING) or {}
    return {"rope_theta": config["rope_local_base_freq"], **given} if "rope_local_base_freq" in config else given


def period(config: dict[str, Any], family: Family) -> int | None:
    """Every so manieth layer sees everything, the others a window; the family's own interval where it fits. None when there is no such number."""
    kinds: list[str] | None = config.get("layer_types")
    if kinds is None:
        return int(config.get("sliding_window_pattern") or family.period)
    intervals: list[int] = [family.period, *range(1, len(kinds) + 2)]
    for every in intervals:
        if kinds == [SLIDING if (layer + 1) % every else FULL for layer in range(len(kinds))]:
            return every
    return None


def context(config: dict[str, Any], family: Family) -> int:
    """Tokens for which llama.cpp computes what transformers does: where it knows no window, no more than the window, within which every token sees all before it."""
    longest = int(config["max_position_embeddings"])
    window = config.get("sliding_window") if not family.period and config.get("use_sliding_window", True) else None
    return min(longest, int(window)) if window else longest


def query_factor(config: dict[str, Any], family: Family, head_width: int) -> float:
    """What queries must be multiplied by, so that llama.cpp's scale of them gives the configuration's `query_pre_attn_scalar` ** -0.5."""
    if not family.scaled:
        return 1.0
    whole = int(config["num_hidden_layers"]) == family.whole_width_at
    assumed = config["hidden_size"] / config["num_attention_heads"] if whole else head_width
    return math.sqrt(assumed / config["query_pre_attn_scalar"])


def rope_tensors(config: dict[str, Any], width: int) -> dict[str, torch.Tensor]:
    """(width / 2,) tensors by llama.cpp's names: what it divides each rotary frequency by. `width` is that of the part of a head that turns."""
    rope = rotary(config)
    if rope["rope_type"] == "llama3":
        return {"rope_freqs.weight": llama3_factors(rope, width)}
    if rope["rope_type"] == "longrope":
        lengths = {f"rope_factors_{kind}.weight": torch.tensor(rope[f"{kind}_factor"], dtype=torch.float32) for kind in ("long", "short")}
        problems = [Problem(name, f"has {len(values)} factors, must have {width // 2}") for name, values in lengths.items() if len(values) != width // 2]
        if problems:
            raise InputError(*problems)
        return lengths
    return {}


def original_context(config: dict[str, Any]) -> int:
    """Tokens of the training before the context was stretched (LongRoPE)."""
    return int(config.get("original_max_position_embeddings") or rotary(config).get("original_max_position_embeddings") or config["max_position_embeddings"])


def attention_factor(config: dict[str, Any]) -> float:
    """What LongRoPE multiplies cosines and sines by (arXiv 2402.13753): sqrt(1 + ln s / ln L) for a context stretched s times from L tokens."""
    rope, trained = rotary(config), original_context(config)
    stretched = rope.get("factor") or config["max_position_embeddings"] / trained
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    return 1.0 if stretched <= 1 else math.sqrt(1 + math.log(stretched) / math.log(trained))


def llama3_factors(rope: dict[str, Any], width: int) -> torch.Tensor:
    """(width / 2,) what llama.cpp divides each rotary frequency by, for Llama 3.1's scaling."""
    factor, low, high = rope.get("factor", 8.0), rope.get("low_freq_factor", 1.0), rope.get("high_freq_factor", 4.0)
    trained = rope.get("original_max_position_embeddings", 8192)
    factors = []
    for frequency in (1.0 / (rope["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.float32) / width))).tolist():
        length = 2 * math.pi / frequency
        if length < trained / high:
            factors.append(1.0)
        elif length > trained / low:
            factors.append(factor)
        else:
            smooth = (trained / length - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return torch.tensor(factors, dtype=torch.float32)
