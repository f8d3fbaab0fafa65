"""An adapter's folder in PEFT's layout: configuration, tensors, and which base it belongs to. Written from a model, put on a model again, refused on another base.

LoRA, DoRA, IA3, prompt, P-tuning and prefix tuning are PEFT's own files, which PEFT loads. Bottlenecks, biases and heads are none of PEFT's kinds: same two files, a name of ours
in `peft_type`, which PEFT refuses by name.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from planish.errors import InputError, Problem
from planish.model import biases, bottleneck, class_head, residual_start
from planish.model.backbone import base_of
from planish.model.bundled import identity, named
from planish.model.described import describe, description
from planish.model.json_object import read_json
from planish.model.low_rank import said_by_us, wrapped
from planish.model.quantised import four_bit_layers
from planish.model.safetensors_header import read_header
from planish.model.virtual_tokens import Table, VirtualTokens, key_shape, virtual_of

CONFIG, TENSORS, BASE = "adapter_config.json", "adapter_model.safetensors", "base.json"
PREFIX = "base_model.model."
SHAPE_KEYS = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
    "tie_word_embeddings",
)
"""What of a base's configuration decides whether an adapter fits it at all."""
VIRTUAL = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")
OURS = ("BITFIT", "BOTTLENECK", "HEAD")


def is_adapter(model: nn.Module) -> bool:
    """Whether what is trained of the model is an adapter, and not all of its weights."""
    return hasattr(model, "peft_config") or description(model) is not None


def write(model: Any, folder: Path, base: Path) -> None:
    """Write the model's adapter. It names its base by hash, never by a path of this machine; base.json says what that base looked like and in which format it was trained on."""
    on = f"sha256:{identity(base)}"
    folder.mkdir(parents=True, exist_ok=True)
    own = description(model)
    if own is None:
        _write_wrapped(model, folder, on)
    elif own["peft_type"] in VIRTUAL:
        _write_virtual(model, folder, on, own)
    else:
        config = {**own, "task_type": "CAUSAL_LM", "base_model_name_or_path": on}
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        tensors = {PREFIX + name: p.detach().contiguous() for name, p in base_of(model).named_parameters() if p.requires_grad}
        save_file(tensors, folder / TENSORS, metadata={"format": "pt"})
    write_base(folder, base, "nf4" if four_bit_layers(model) else "as it is")


def write_base(folder: Path, base: Path, trained_on: str = "as it is") -> None:
    """`base.json`: what the weights in `folder` were made from, by hash, by name and by revision where it has them, and what it looked like. `trained_on` is its format then."""
    name, revision = named(base)
    told = {"base": f"sha256:{identity(base)}", "name": name, "revision": revision, "trained_on": trained_on, "shape": shape_of(base)}
    (folder / BASE).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def _write_wrapped(model: Any, folder: Path, named: str) -> None:
    from peft.utils import get_peft_model_state_dict

    for config in model.peft_config.values():
        config.base_model_name_or_path = named
    start = residual_start.started(model)
    if start is None:
        model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's template card names no facts; the run report is the card
        return
    tensors, config = residual_start.as_plain(get_peft_model_state_dict(model, save_embedding_layers=False), start, copy.deepcopy(model.peft_config["default"]))
    config.inference_mode = True
    config.save_pretrained(str(folder))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / TENSORS, metadata={"format": "pt"})


def _write_virtual(model: Any, folder: Path, named: str, own: dict[str, Any]) -> None:
    from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig

    kinds: dict[str, Any] = {"PROMPT_TUNING": PromptTuningConfig, "P_TUNING": PromptEncoderConfig, "PREFIX_TUNING": PrefixTuningConfig}
    virtual, base = virtual_of(model), base_of(model)
    assert virtual is not None  # what describes itself as virtual tokens has put them there
    layers, heads, width = key_shape(base.config)
    keys = virtual.keys
    about = {
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "base_model_name_or_path": named,
        "num_virtual_tokens": virtual.count,
        "token_dim": heads * width if keys else base.config.hidden_size,
        "num_transformer_submodules": 1,
        "num_attention_heads": heads if keys else base.config.num_attention_heads,
        "num_layers": layers,
    }
    more = {"encoder_hidden_size": own["encoder_hidden_size"]} if "encoder_hidden_size" in own else {}
    kinds[own["peft_type"]](**about, **more).save_pretrained(str(folder))
    with torch.no_grad():
        save_file({"prompt_embeddings": virtual.encoder().detach().float().contiguous()}, folder / TENSORS, metadata={"format": "pt"})


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of an adapter folder. Raises InputError where a file is missing or not sound."""
    absent = [
        Problem(str(folder / name), "is missing", "give an adapter folder in PEFT's layout") for name in (CONFIG, TENSORS) if not (folder / name).is_file()
    ]
    if absent:
        raise InputError(*absent)
    read_header(folder / TENSORS)
    return read_json(folder / CONFIG)


def check_base(folder: Path, base: Path) -> None:
    """Raises InputError, with the difference, where the adapter was trained on another base."""
    trained_on = read_config(folder).get("base_model_name_or_path")
    own = f"sha256:{identity(base)}"
    if trained_on == own:
        return
    why = f"was trained on the base {trained_on}, not on {base} ({own})"
    told = json.loads((folder / BASE).read_text(encoding="utf-8"))["shape"] if (folder / BASE).is_file() else {}
    here = shape_of(base)
    apart = [f"{key} {told[key]} there, {here.get(key)} here" for key in told if told[key] != here.get(key)]
    if apart:
        why += f"; another architecture: {', '.join(apart)}"
    elif told:
        why += "; the same architecture with other weights, tokenizer or template"
    elsewhere = "" if str(trained_on).startswith("sha256:") else ", or bind it to this one: planish adapter adopt"
    raise InputError(Problem(str(folder), why, f"give the base that it was trained on{elsewhere}"))


def put(model: nn.Module, folder: Path) -> nn.Module:
    """A folder's adapter on a model that has none. Gives the model with it, for scoring."""
    config = read_config(folder)
    kind = config.get("peft_type")
    if kind in VIRTUAL:
        tokens = load_file(folder / TENSORS)["prompt_embeddings"].to(next(model.parameters()).device)
        VirtualTokens(Table(tokens), int(config["num_virtual_tokens"]), keys=kind == "PREFIX_TUNING").put(model)
        describe(model, {"peft_type": kind, "num_virtual_tokens": config["num_virtual_tokens"], **_encoder(config, str(kind))})
        return model
    if kind in OURS:
        _hang(model, config)
        load(model, folder)
        return model
    return _wrap(model, folder)


def _encoder(config: dict[str, Any], kind: str) -> dict[str, Any]:
    return {"encoder_hidden_size": config["encoder_hidden_size"]} if kind == "P_TUNING" else {}


def _hang(model: nn.Module, config: dict[str, Any]) -> None:
    kind = config["peft_type"]
    if kind == "BITFIT":
        biases.train_biases(model, config["add_biases"])
    elif kind == "BOTTLENECK":
        bottleneck.put(model, middle=config["middle"], places=config["places"], activation=config["activation"])
    else:
        class_head.put(model, config["classes"], config["pooling"], config["unfreeze"])
    describe(model, {key: value for key, value in config.items() if key not in ("task_type", "base_model_name_or_path")})


def _wrap(model: nn.Module, folder: Path) -> nn.Module:
    from peft import PeftConfig

    config = said_by_us(PeftConfig.from_pretrained, str(folder))
    config.base_model_name_or_path = None
    config.inference_mode = False
    whole: nn.Module = wrapped(model, config)
    load(whole, folder)
    return whole


def load(model: nn.Module, folder: Path) -> None:
    """Put a folder's tensors into a model that has an adapter of the same kind: to go on training, or to swap one adapter for another.

    Raises InputError for a tensor without a place, of another shape or missing, and where what was saved cannot be trained on as it was.
    """
    read_config(folder)
    tensors = load_file(folder / TENSORS)
    virtual = virtual_of(model)
    if residual_start.started(model) is not None:
        raise InputError(
            Problem(str(folder), "was saved as a plain LoRA of twice the rank, which does not go on from pissa's start", "use init: default, at twice the rank")
        )
    if virtual is not None:
        _load_virtual(virtual, tensors, folder)
    elif hasattr(model, "peft_config"):
        _load_wrapped(model, tensors, folder)
    else:
        own = {PREFIX + name: p for name, p in base_of(model).named_parameters() if p.requires_grad}
        _copy(own, tensors, folder)


def _load_virtual(virtual: VirtualTokens, tensors: dict[str, Tensor], folder: Path) -> None:
    if not isinstance(virtual.encoder, Table):
        why = "holds finished embeddings, without the network that p_tuning made them with"
        raise InputError(Problem(str(folder), why, "go on with prompt, or merge nothing and begin anew"))
    _copy({"prompt_embeddings": virtual.encoder.weight}, tensors, folder)


def _load_wrapped(model: Any, tensors: dict[str, Tensor], folder: Path) -> None:
    from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict

    own = get_peft_model_state_dict(model, save_embedding_layers=False)
    _fits(own, tensors, folder)
    set_peft_model_state_dict(model, tensors)


def _copy(own: dict[str, Any], tensors: dict[str, Tensor], folder: Path) -> None:
    _fits(own, tensors, folder)
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])


def _fits(own: dict[str, Any], tensors: dict[str, Tensor], folder: Path) -> None:
    found = [
        Problem(f"{folder}: {name}", "has no place in this model", "give the same adapter with the same options")
        for name in sorted(tensors.keys() - own.keys())
    ]
    found += [Problem(f"{folder}: {name}", "is missing", "give the same adapter with the same options") for name in sorted(own.keys() - tensors.keys())]
    for name in sorted(own.keys() & tensors.keys()):
        if own[name].shape != tensors[name].shape:
            found.append(
                Problem(f"{folder}: {name}", f"is {tuple(tensors[name].shape)}, and the model has {tuple(own[name].shape)}", "give the same rank and targets")
            )
    if found:
        raise InputError(*found)


def shape_of(base: Path) -> dict[str, Any]:
    """What of a base's configuration decides whether an adapter fits it."""
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    return {key: config.get(key) for key in SHAPE_KEYS}
