"""What a GGUF file says of its model besides the tensors: the sizes, the rotary parameters, windows and caps that llama.cpp builds its graph from."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np

from planish.model.gguf_config import attention_factor, local_rotary, original_context, period
from planish.model.llama_weights import LlamaWeights


def describe(writer: gguf.GGUFWriter, weights: LlamaWeights, name: str) -> tuple[str, ...]:
    """Write the model's own keys, its name among them; gives what must be said of them."""
    config = weights.config
    parameters = sum(int(np.prod(shape, dtype=np.int64)) for shape in weights.shapes.values())
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_size_label(gguf.size_label(parameters, parameters, 0, 0))
    writer.add_block_count(weights.layers)
    writer.add_context_length(weights.context)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(weights.heads)
    writer.add_head_count_kv(weights.kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_key_length(weights.head_width)
    writer.add_value_length(weights.head_width)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_rope_dimension_count(weights.rotary_width)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    return (*_rotary(writer, weights), *_attention(writer, weights))


def _rotary(writer: gguf.GGUFWriter, weights: LlamaWeights) -> tuple[str, ...]:
    config, rope = weights.config, weights.rope
    writer.add_rope_freq_base(rope["rope_theta"])
    if (local := local_rotary(config).get("rope_theta")) is not None and weights.family.period:
        writer.add_rope_freq_base_swa(local)
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if weights.family.architecture == "phi3":
        writer.add_rope_scaling_orig_ctx_len(original_context(config))
    if rope["rope_type"] != "longrope":
        return ()
    writer.add_rope_scaling_attn_factors(attention_factor(config))
    trained = original_context(config)
    return (
        f"longrope: llama.cpp takes the long factors for every text where its context is set above {trained} tokens, transformers for texts that are longer",
    )


def _attention(writer: gguf.GGUFWriter, weights: LlamaWeights) -> tuple[str, ...]:
    config: dict[str, Any] = weights.config
    for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
        if config.get(cap):
            getattr(writer, f"add_{cap}")(config[cap])
    if weights.family.period:
        every = period(config, weights.family)
        assert every is not None, "read_config refuses layers at no interval"
        if every != 1:  # llama.cpp ends where a window is named and no layer has it
            writer.add_sliding_window(config["sliding_window"])
        if every not in (1, weights.family.period):
            writer.add_sliding_window_pattern(every)
    elif weights.family.architecture == "phi3":
        writer.add_sliding_window(config.get("sliding_window") or 0)  # llama.cpp asks for the key and computes no window
    longest = config["max_position_embeddings"]
    if weights.context < longest:
        return (
            f"context {weights.context} tokens, not {longest}: llama.cpp computes no sliding window for this family, and within the window there is none to compute",
        )
    return ()
