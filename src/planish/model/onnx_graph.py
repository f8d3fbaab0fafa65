"""The ONNX graph of a Llama-shaped decoder with its key-value cache as inputs and outputs: one graph for a prompt and for the tokens after it (MISSION Z5).

Standard operators of opset 23 (RMSNormalization, RotaryEmbedding, Attention, Gemm); codes are onnxruntime's MatMulNBits and GatherBlockQuantized. Names of inputs and outputs are
those that other tools give a causal model: input_ids, attention_mask, position_ids, num_logits_to_keep, past_key_values.N.key, logits, present.N.key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planish.lazy import require
from planish.model.onnx_decoder import Decoder
from planish.model.onnx_weights import DATA, EMBEDDING, Initializer, Weight

OPSET, IR_VERSION = 23, 11
CODES = "com.microsoft"
INT8_PRODUCTS = 4
"""MatMulNBits' accuracy_level: activations are rounded to 8 bits, block by block of each row, so that a row never depends on its neighbours."""
LOWEST = -3.4028234663852886e38
"""What a hidden key's score is given; finite, so that the row of a padding token, which sees nothing, is no NaN."""
TO_THE_END = 2**63 - 1


class Graph:
    """The nodes of one graph in order of computation; each is named, and its output has its name."""

    def __init__(self, decoder: Decoder, weights: Mapping[str, Weight], block: int) -> None:
        self.onnx: Any = require("onnx", extra="onnx")
        self.decoder, self.weights, self.block = decoder, weights, block
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def node(self, kind: str, name: str, *inputs: str, outputs: tuple[str, ...] = (), domain: str = "", **attributes: Any) -> str:
        """Add a node; gives the name of its first output."""
        made = outputs or (name,)
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), list(made), name=f"{name}/{kind}", domain=domain, **attributes))
        return made[0]

    def constant(self, name: str, value: Any, dtype: str = "INT64") -> str:
        """A small array inside the graph file: a number or a flat list."""
        dims = [len(value)] if isinstance(value, list | tuple) else []
        kind = getattr(self.onnx.TensorProto, dtype)
        self.initializers.append(self.onnx.helper.make_tensor(name, kind, dims, value if dims else [value]))
        return name

    def stored(self, held: Initializer, name: str = "", shape: tuple[int, ...] = ()) -> str:
        """An initializer in the data file; under another `name` and `shape` the same bytes are there twice."""
        proto = self.onnx.TensorProto(
            name=name or held.name,
            data_type={"F32": self.onnx.TensorProto.FLOAT, "U8": self.onnx.TensorProto.UINT8}[held.dtype],
            dims=shape or held.shape,
            data_location=self.onnx.TensorProto.EXTERNAL,
        )
        for key, value in (("location", DATA), ("offset", str(held.start)), ("length", str(held.bytes))):
            proto.external_data.add(key=key, value=value)
        self.initializers.append(proto)
        return name or held.name

    def held(self, name: str) -> list[str]:
        """The initializers of a weight."""
        return [self.stored(one) for one in self.weights[name].stored]

    def linear(self, layer: str, given: str) -> str:
        """x W^T + b of x (rows, inputs), W the checkpoint's (outputs, inputs)."""
        weight, bias = self.weights[f"{layer}.weight"], self.weights.get(f"{layer}.bias")
        if weight.bits == 32:
            return self.node("Gemm", layer, given, *self.held(weight.name), *(self.held(bias.name) if bias else ()), transB=1)
        product = f"{layer}.product" if bias else layer
        self.codes(product, given, self.held(weight.name), weight)
        return self.node("Add", layer, product, *self.held(bias.name)) if bias else product

    def codes(self, name: str, given: str, parts: list[str], weight: Weight) -> str:
        """x W^T of a weight in codes."""
        rows, columns = weight.shape
        told: dict[str, Any] = {"K": columns, "N": rows, "bits": weight.bits, "block_size": self.block, "accuracy_level": INT8_PRODUCTS}
        return self.node("MatMulNBits", name, given, *parts, domain=CODES, **told)

    def norm(self, name: str, given: str) -> str:
        """RMS over the last axis."""
        return self.node("RMSNormalization", name, given, *self.held(f"{name}.weight"), axis=-1, epsilon=self.decoder.eps)

    def embedded(self) -> str:
        """(B, T, H) rows of the embedding."""
        weight = self.weights[EMBEDDING]
        parts = self.held(EMBEDDING)
        if weight.bits == 32:
            return self.node("Gather", "embedded", *parts, "input_ids", axis=0)
        flat = self.stored(weight.stored[0], f"{EMBEDDING}.rows", (weight.shape[0], weight.shape[1] * weight.bits // 8))
        told: dict[str, Any] = {"bits": weight.bits, "block_size": self.block, "gather_axis": 0, "quantize_axis": 1}
        return self.node("GatherBlockQuantized", "embedded", flat, "input_ids", *parts[1:], domain=CODES, **told)

    def logits(self, given: str) -> str:
        """(B, kept, V) of (B, T, H): of the last `num_logits_to_keep` tokens, of all where that is 0."""
        weight = self.weights[EMBEDDING if self.decoder.tied else "lm_head.weight"]
        parts = [one.name for one in weight.stored] if self.decoder.tied else self.held(weight.name)
        self.node("Neg", "kept.from", "num_logits_to_keep")
        self.node("Reshape", "kept.start", "kept.from", self.constant("shape.one", [1]))
        kept = self.node("Slice", "kept", given, "kept.start", self.constant("kept.end", [TO_THE_END]), self.constant("kept.axis", [1]))
        if weight.bits < 32:
            return self.codes("logits", kept, parts, weight)
        flat = self.node("Reshape", "kept.rows", kept, "shape.rows")
        self.node("Gemm", "logits.rows", flat, *parts, transB=1)
        self.node("Shape", "kept.shape", kept)
        first = self.node("Slice", "kept.places", "kept.shape", self.constant("zero", [0]), self.constant("two", [2]))
        shape = self.node("Concat", "logits.shape", first, self.constant("logits.width", [self.decoder.vocabulary]), axis=0)
        return self.node("Reshape", "logits", "logits.rows", shape)

    def turned(self, name: str, given: str, heads: int) -> str:
        """Queries or keys (B, T, heads * D), normalised head by head where the family does, turned by their positions."""
        if self.decoder.head_norms:
            norm = f"{name.removesuffix('_proj')}_norm"
            apart = self.node("Reshape", f"{name}.heads", given, self.constant(f"{name}.heads.shape", [0, 0, heads, self.decoder.head_width]))
            given = self.node("Reshape", f"{name}.normed", self.norm(norm, apart), self.constant(f"{name}.normed.shape", [0, 0, -1]))
        return self.node("RotaryEmbedding", f"{name}.turned", given, "cos", "sin", num_heads=heads, interleaved=0)

    def block_of(self, layer: int, given: str, mask: str) -> str:
        """One layer, on x (B T, H)."""
        at, decoder = f"model.layers.{layer}", self.decoder
        normed = self.norm(f"{at}.input_layernorm", given)
        q, k, v = (self.node("Reshape", f"{at}.{name}.texts", self.linear(f"{at}.self_attn.{name}_proj", normed), f"shape.{name}") for name in ("q", "k", "v"))
        q = self.turned(f"{at}.self_attn.q_proj", q, decoder.heads)
        k = self.turned(f"{at}.self_attn.k_proj", k, decoder.kv_heads)
        past = (f"past_key_values.{layer}.key", f"past_key_values.{layer}.value")
        out = (f"{at}.attended", f"present.{layer}.key", f"present.{layer}.value")
        attended = self.node("Attention", at, q, k, v, mask, *past, outputs=out, q_num_heads=decoder.heads, kv_num_heads=decoder.kv_heads)
        flat = self.node("Reshape", f"{attended}.rows", attended, "shape.attended")
        given = self.node("Add", f"{at}.middle", given, self.linear(f"{at}.self_attn.o_proj", flat))
        normed = self.norm(f"{at}.post_attention_layernorm", given)
        gate = self.linear(f"{at}.mlp.gate_proj", normed)
        self.node("Sigmoid", f"{at}.mlp.open", gate)
        self.node("Mul", f"{at}.mlp.silu", gate, f"{at}.mlp.open")
        inner = self.node("Mul", f"{at}.mlp.inner", f"{at}.mlp.silu", self.linear(f"{at}.mlp.up_proj", normed))
        return self.node("Add", f"{at}.out", given, self.linear(f"{at}.mlp.down_proj", inner))

    def places(self) -> None:
        """What all layers share: `cos` and `sin` (B, T, D / 2), shapes, and a mask (B, 1, T, P + T) for each window, added to the scores."""
        decoder = self.decoder
        self.node("Cast", "places", "position_ids", to=self.onnx.TensorProto.FLOAT)
        self.node("Unsqueeze", "places.column", "places", self.constant("last", [-1]))
        angles = self.node("Mul", "angles", "places.column", self.constant("frequencies", list(decoder.frequencies), "FLOAT"))
        for name, kind in (("cos", "Cos"), ("sin", "Sin")):
            if decoder.amplitude == 1.0:
                self.node(kind, name, angles)
            else:
                factor = self.constant(f"{name}.amplitude", decoder.amplitude, "FLOAT")
                self.node("Mul", name, self.node(kind, f"{name}.plain", angles), factor)
        self.node("Shape", "text.shape", "input_ids")
        self.constant("shape.rows", [-1, decoder.hidden])
        self.constant("shape.attended", [-1, decoder.heads * decoder.head_width])
        for name, heads in (("q", decoder.heads), ("k", decoder.kv_heads), ("v", decoder.kv_heads)):
            self.node("Concat", f"shape.{name}", "text.shape", self.constant(f"width.{name}", [heads * decoder.head_width]), axis=0)
        self.node("Concat", "shape.out", "text.shape", self.constant("width.hidden", [decoder.hidden]), axis=0)

    def masks(self) -> dict[int | None, str]:
        """The mask of each window that a layer has: window -> name."""
        first, one = self.constant("number.zero", 0), self.constant("number.one", 1)
        length = self.node("Gather", "text.length", "text.shape", one, axis=0)
        self.node("Shape", "past.shape", "past_key_values.0.key")
        past = self.node("Gather", "past.length", "past.shape", self.constant("number.two", 2), axis=0)
        whole = self.node("Add", "whole.length", past, length)
        keys = self.node("Range", "keys", first, whole, one)
        self.node("Range", "queries.row", past, whole, one)
        queries = self.node("Unsqueeze", "queries", "queries.row", self.constant("axis.one", [1]))
        before = self.node("LessOrEqual", "before", keys, queries)
        self.node("Cast", "real.row", "attention_mask", to=self.onnx.TensorProto.BOOL)
        real = self.node("Unsqueeze", "real", "real.row", self.constant("axes.middle", [1, 2]))
        seen, hidden = self.constant("score.seen", 0.0, "FLOAT"), self.constant("score.hidden", LOWEST, "FLOAT")
        found: dict[int | None, str] = {}
        for window in dict.fromkeys(self.decoder.windows):
            name, near = f"mask.{window or 'all'}", before
            if window is not None:
                far = self.node("Sub", f"{name}.far", queries, self.constant(f"{name}.window", window))
                near = self.node("And", f"{name}.near", before, self.node("Greater", f"{name}.after", keys, far))
            visible = self.node("And", f"{name}.visible", near, real)
            found[window] = self.node("Where", name, visible, seen, hidden)
        return found


def build(decoder: Decoder, weights: Mapping[str, Weight], block: int) -> Any:
    """The onnx.ModelProto; its weights are in the file DATA beside it."""
    graph = Graph(decoder, weights, block)
    graph.places()
    masks = graph.masks()
    given = graph.node("Reshape", "embedded.rows", graph.embedded(), "shape.rows")
    for layer, window in enumerate(decoder.windows):
        given = graph.block_of(layer, given, masks[window])
    last = graph.node("Reshape", "hidden", graph.norm("model.norm", given), "shape.out")
    graph.logits(last)
    helper, onnx = graph.onnx.helper, graph.onnx
    whole, number = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT

    def value(name: str, kind: int, *shape: int | str) -> Any:
        return helper.make_tensor_value_info(name, kind, list(shape))

    def cache(name: str, length: str) -> list[Any]:
        dims = ("batch", decoder.kv_heads, length, decoder.head_width)
        return [value(f"{name}.{layer}.{part}", number, *dims) for layer in range(decoder.layers) for part in ("key", "value")]

    inputs = [
        value("input_ids", whole, "batch", "tokens"),
        value("attention_mask", whole, "batch", "all_tokens"),
        value("position_ids", whole, "batch", "tokens"),
    ]
    inputs += [value("num_logits_to_keep", whole), *cache("past_key_values", "past_tokens")]
    outputs = [value("logits", number, "batch", "kept", decoder.vocabulary), *cache("present", "all_tokens")]
    made = helper.make_graph(graph.nodes, "decoder", inputs, outputs, graph.initializers)
    opsets = [helper.make_opsetid("", OPSET)]
    if any(node.domain == CODES for node in graph.nodes):
        opsets.append(helper.make_opsetid(CODES, 1))
    return helper.make_model(made, producer_name="planish", ir_version=IR_VERSION, opset_imports=opsets)
