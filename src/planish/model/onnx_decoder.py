"""What an ONNX graph of a Llama-shaped decoder is built from: sizes, rotary frequencies and weight names, read from config.json (MISSION Z5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planish.errors import InputError, Problem
from planish.model.safetensors_header import Entry

FAMILIES = {"LlamaForCausalLM": "Llama (SmolLM is one)", "MistralForCausalLM": "Mistral", "Qwen2ForCausalLM": "Qwen2", "Qwen3ForCausalLM": "Qwen3"}
ROTARY = ("default", "linear", "llama3", "yarn")
"""Scalings whose frequencies do not depend on how long the text is."""
ATTENTION = {"full_attention": False, "sliding_attention": True}
LEFT_OUT = "rotary_emb.inv_freq"
"""Tensors of old checkpoints that are computed from the configuration."""


@dataclass(frozen=True)
class Decoder:
    """A decoder's shape. `windows`: for each layer how many tokens it looks back on, itself included, None for all. `frequencies` (head_width / 2,): radians a position;
    `amplitude` is what cosine and sine are multiplied by. `biased` are the linear layers inside a block that add a bias."""

    family: str
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    hidden: int
    inner: int
    vocabulary: int
    context: int
    eps: float
    windows: tuple[int | None, ...]
    frequencies: tuple[float, ...]
    amplitude: float
    biased: frozenset[str]
    tied: bool

    @property
    def head_norms(self) -> bool:
        """Whether queries and keys are normalised head by head."""
        return self.family == "Qwen3ForCausalLM"

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """The linear layers of a block: name inside it -> (outputs, inputs)."""
        own, shared = self.heads * self.head_width, self.kv_heads * self.head_width
        attention = {"q": (own, self.hidden), "k": (shared, self.hidden), "v": (shared, self.hidden), "o": (self.hidden, own)}
        mlp = {"gate": (self.inner, self.hidden), "up": (self.inner, self.hidden), "down": (self.hidden, self.inner)}
        return {f"self_attn.{name}_proj": shape for name, shape in attention.items()} | {f"mlp.{name}_proj": shape for name, shape in mlp.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every weight by the checkpoint's name, in the order in which the graph uses them."""
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, self.hidden)}
        for layer in range(self.layers):
            at = f"model.layers.{layer}."
            for name, shape in self.linear.items():
                found[f"{at}{name}.weight"] = shape
                if name in self.biased:
                    found[f"{at}{name}.bias"] = shape[:1]
            norms = {"input_layernorm": self.hidden, "post_attention_layernorm": self.hidden}
            norms |= {"self_attn.q_norm": self.head_width, "self_attn.k_norm": self.head_width} if self.head_norms else {}
            found |= {f"{at}{name}.weight": (width,) for name, width in norms.items()}
        found["model.norm.weight"] = (self.hidden,)
        return found if self.tied else found | {"lm_head.weight": (self.vocabulary, self.hidden)}

    def check(self, entries: Mapping[str, Entry], where: Path) -> None:
        """Raises InputError naming every weight that is missing, of another shape, or of no use to this family."""
        wanted = self.shapes
        problems = [Problem(f"{where}: {name}", "is missing from the checkpoint", "save the whole model") for name in wanted if name not in entries]
        for name, entry in entries.items():
            if name not in wanted and not name.endswith(LEFT_OUT):
                problems.append(Problem(f"{where}: {name}", f"is no tensor of {FAMILIES[self.family]}", "export the base architecture, without added modules"))
            elif name in wanted and entry.shape != wanted[name]:
                problems.append(
                    Problem(f"{where}: {name}", f"has the shape {entry.shape}, config.json says {wanted[name]}", "save weights and config together")
                )
        if problems:
            raise InputError(*problems)


def read_decoder(checkpoint: Path) -> Decoder:
    """The decoder of a checkpoint folder. Raises InputError, with every reason, for a family, activation or rotary scaling that no graph is built of here."""
    from transformers import AutoConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    path = checkpoint / "config.json"
    if not path.is_file():
        raise InputError(Problem(str(path), "is missing", "give a checkpoint folder in the Hugging Face layout"))
    try:
        config: Any = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
    except Exception as refused:  # its strict configurations raise types of their own
        raise InputError(Problem(str(path), f"cannot be read: {' '.join(str(refused).split())[:200]}", "save the model again")) from refused
    family = (config.architectures or ["none"])[0]
    if family not in FAMILIES:
        raise InputError(Problem(f"{path}: architectures", f"{family} cannot be exported to ONNX", "supported: " + ", ".join(FAMILIES)))
    _check_config(config, path)
    rotary = LlamaRotaryEmbedding(config)  # the same class under another name in all these families
    heads: int = config.num_attention_heads
    return Decoder(
        family=family,
        layers=config.num_hidden_layers,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_width=getattr(config, "head_dim", None) or config.hidden_size // heads,
        hidden=config.hidden_size,
        inner=config.intermediate_size,
        vocabulary=config.vocab_size,
        context=config.max_position_embeddings,
        eps=config.rms_norm_eps,
        windows=tuple(config.sliding_window if ATTENTION[kind] else None for kind in _kinds(config)),
        frequencies=tuple(rotary.inv_freq.tolist()),
        amplitude=float(rotary.attention_scaling),
        biased=_biased(family, config),
        tied=bool(config.tie_word_embeddings),
    )


def _check_config(config: Any, path: Path) -> None:
    problems = []
    if config.hidden_act != "silu":
        problems.append(Problem(f"{path}: hidden_act", f"is {config.hidden_act}; the graph computes silu", "supported: silu"))
    if getattr(config, "quantization_config", None):
        problems.append(Problem(f"{path}: quantization_config", "the weights are quantised already", "export the 16-bit checkpoint"))
    if (kind := config.rope_parameters.get("rope_type", "default")) not in ROTARY:
        problems.append(Problem(f"{path}: rope_parameters", f"rope_type {kind} cannot be exported", "supported: " + ", ".join(ROTARY)))
    if config.rope_parameters.get("partial_rotary_factor", 1.0) != 1.0:
        problems.append(Problem(f"{path}: rope_parameters", "only a part of each head is turned", "supported: the whole head"))
    if unknown := sorted(set(_kinds(config)) - ATTENTION.keys()):
        problems.append(Problem(f"{path}: layer_types", f"{', '.join(unknown)} cannot be exported", "supported: " + ", ".join(ATTENTION)))
    if problems:
        raise InputError(*problems)


def _kinds(config: Any) -> list[str]:
    """What each layer attends to. Configurations without `layer_types` have one kind of layer."""
    told = getattr(config, "layer_types", None)
    alike = "sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"
    return list(told) if told else [alike] * int(config.num_hidden_layers)


def _biased(family: str, config: Any) -> frozenset[str]:
    attention = "qkv" if family == "Qwen2ForCausalLM" else "qkvo" if getattr(config, "attention_bias", False) else ""
    mlp = ("gate", "up", "down") if getattr(config, "mlp_bias", False) else ()
    return frozenset({f"self_attn.{name}_proj" for name in attention} | {f"mlp.{name}_proj" for name in mlp})
