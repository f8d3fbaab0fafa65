"""Whether parents can be merged at all: one architecture, shape, tokenizer, template and tying, one base, and differences that are no noise (MISSION W6)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from planish.errors import InputError, Problem
from planish.model.bundled import identity
from planish.model.json_object import read_json
from planish.model.merge_sources import Adapted, Checkpoint, Parent, sampled
from planish.model.merging import WITH_BASE, MergeSpec, Planned
from planish.rows import Noun

UNRELATED = 0.5
"""Cosine of the weights below which two models are not of one base: independent training gives about 0, tuning above 0.95."""
FAR = 0.9
"""Below it a merge is possible and rarely good."""
MANTISSA = {"F64": 52, "F32": 23, "F16": 10, "BF16": 7}
SHOWN = 5
"""Tensors named of each problem."""
BASE = "base.json"
"""Where a tuned model or adapter says its base: the same file as `adapter_folder.BASE`, which is imported only with an adapter because it brings all of PEFT."""
TEMPLATE = "chat_template.jinja"
TOKENS = ("model", "added_tokens", "normalizer", "pre_tokenizer", "decoder")
"""What of tokenizer.json decides ids and text; padding and truncation are the caller's."""


class Checked(Noun):
    """One check that held, with what was found."""

    check: str
    result: str


def examine(spec: MergeSpec, planned: Sequence[Planned], base: Checkpoint | None, parents: Sequence[Parent]) -> list[Checked]:
    """All checks, in order. Raises InputError with every problem of every check."""
    everyone: list[Parent] = [*([] if base is None else [base]), *parents]
    problems = [*_alike(everyone, bool(spec.slices)), *_shapes(planned, base, {str(parent.folder): parent for parent in parents}, bool(spec.slices))]
    found = [Checked(check="architecture and tying", result=f"{everyone[0].config.get('model_type')}, tied {everyone[0].tied}")]
    found.append(Checked(check="shape", result=f"{len(planned)} tensors alike in all"))
    problems += [*_tokenizers(everyone), *_templates(everyone)]
    found.append(Checked(check="tokenizer and chat template", result="the same in all that carry one"))
    lineage, wrong = _lineage(base, parents)
    found.append(Checked(check="base", result=lineage))
    problems += wrong
    if base is not None and spec.technique in WITH_BASE:
        problems += _precision(base, parents)
        found.append(Checked(check="precision", result="no parent is stored more coarsely than the base"))
    if problems:
        raise InputError(*dict.fromkeys(problems))
    if spec.technique != "passthrough":
        found += _related(base, parents)
    return found


def _alike(everyone: Sequence[Parent], stacked: bool) -> list[Problem]:
    problems, first = [], everyone[0]
    keys: tuple[str, ...] = ("model_type", "hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")
    keys = keys if stacked else (*keys, "num_hidden_layers")
    for other in everyone[1:]:
        for key in keys:
            if first.config.get(key) != other.config.get(key):
                why = f"is {other.config.get(key)}, and {first.config.get(key)} in {first.folder}"
                problems.append(Problem(f"{other.folder}/config.json: {key}", why, "merge models of one architecture"))
        here, there = _computes(first.config), _computes(other.config)
        for key in here.keys() & there.keys():
            if here[key] != there[key]:
                why = f"is {there[key]}, and {here[key]} in {first.folder}: with it the same weights compute something else"
                problems.append(Problem(f"{other.folder}/config.json: {key}", why, "merge models of one configuration"))
        if first.tied != other.tied:
            why = f"{other.tied}, and {first.tied} in {first.folder}: the output matrix is the embedding in one of them only"
            problems.append(Problem(f"{other.folder}/config.json: tie_word_embeddings", why, "save both tied or both untied"))
    return problems


def _computes(config: dict[str, Any]) -> dict[str, Any]:
    """What of a configuration no weight shows and every weight depends on, where it is said: activation, norm, and how positions turn, in the older and the newer spelling."""
    found = {key: config[key] for key in ("hidden_act", "hidden_activation", "rms_norm_eps", "layer_norm_epsilon", "head_dim") if config.get(key) is not None}
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    turned = dict(given) if isinstance(given, dict) else {}
    theta = turned.pop("rope_theta", config.get("rope_theta"))
    kind = turned.pop("rope_type", turned.pop("type", "default"))
    turned.pop("type", None)
    if theta is not None:
        found["rope"] = {"rope_theta": float(theta) if isinstance(theta, (int, float)) else theta, "rope_type": kind, **turned}
    return found


def _shapes(planned: Sequence[Planned], base: Checkpoint | None, by_path: dict[str, Parent], stacked: bool) -> list[Problem]:
    problems: list[Problem] = []
    for one in planned:
        reference = base.entries[one.base_name].shape if base is not None and one.base_name in base.entries else None
        for path, name in zip(one.sources, one.names, strict=True):
            entry = by_path[path].entries.get(name)
            if entry is None:
                problems.append(Problem(f"{path}: {name}", "is missing", "merge models of one architecture"))
            elif reference is not None and entry.shape != reference:
                problems.append(Problem(f"{path}: {name}", f"has the shape {entry.shape}, the others {reference}", "merge models of one shape"))
            reference = reference or (None if entry is None else entry.shape)
    if not stacked:
        wanted = {one.name for one in planned}
        for path, parent in by_path.items():
            extra = sorted(parent.entries.keys() - wanted)
            problems += [Problem(f"{path}: {name}", "is a tensor the others lack", "merge models of one architecture") for name in extra]
    left_out = len(problems) - SHOWN
    return problems if left_out <= 0 else [*problems[:SHOWN], Problem("tensors", f"{left_out} more are missing or of another shape")]


def _tokenizers(everyone: Sequence[Parent]) -> list[Problem]:
    found = {parent.folder: _tokens(parent.folder / "tokenizer.json") for parent in everyone if (parent.folder / "tokenizer.json").is_file()}
    if not found:
        return []
    first = next(iter(found))
    return [
        Problem(str(folder / "tokenizer.json"), f"is another tokenizer than {first}'s: one id stands for two texts", "merge models of one tokenizer")
        for folder, tokens in found.items()
        if tokens != found[first]
    ]


def _templates(everyone: Sequence[Parent]) -> list[Problem]:
    found = {parent.folder: text for parent in everyone if (text := _template(parent.folder)) is not None}
    if not found:
        return []
    first = next(iter(found))
    why = f"is another chat template than that of {first}: what one was tuned to read the other never saw"
    fix = "merge models that were tuned with one template, or give the folders one and the same"
    return [Problem(str(folder / TEMPLATE), why, fix) for folder, text in found.items() if text != found[first]]


def _template(folder: Path) -> str | None:
    """The text of its template, without the white space around it."""
    if (folder / TEMPLATE).is_file():
        return (folder / TEMPLATE).read_text(encoding="utf-8").strip()
    given = read_json(folder / "tokenizer_config.json").get("chat_template") if (folder / "tokenizer_config.json").is_file() else None
    return given.strip() if isinstance(given, str) else None


def _tokens(path: Path) -> str:
    read = read_json(path)
    return json.dumps({key: read.get(key) for key in TOKENS}, sort_keys=True)


def _lineage(base: Checkpoint | None, parents: Sequence[Parent]) -> tuple[str, list[Problem]]:
    """What the parents say they were tuned from. Those that say a hash must say the same; the base's own where there is one."""
    problems: list[Problem] = []
    named: dict[str, str] = {}
    trusted: list[str] = []
    for parent in parents:
        folder = str(parent.folder)
        if isinstance(parent, Adapted):
            assert base is not None  # an adapter is opened on one
            said = str(read_json(parent.folder / "adapter_config.json").get("base_model_name_or_path"))
            if said.startswith("sha256:"):
                from planish.model.adapter_folder import check_base

                try:
                    check_base(parent.folder, base.folder)
                except InputError as refused:
                    problems += refused.problems
                named[folder] = said
            elif (on_base := _on(base, parent.folder, said)) is None:
                trusted.append(f"{parent.folder.name} (on {said})")
            elif on_base:
                named[folder] = said
            else:
                why, fix = (
                    f"was trained on {said}, which is another model than {base.folder}",
                    "give that as the base; if it fits this one all the same: planish adapter adopt",
                )
                problems.append(Problem(f"{folder}/adapter_config.json", why, fix))
        elif (parent.folder / BASE).is_file():
            named[folder] = str(read_json(parent.folder / BASE).get("base"))
    expected = f"sha256:{identity(base.folder)}" if named and base is not None else next(iter(named.values()), None)
    for folder, said in named.items():
        if said != expected and not (Path(folder) / "adapter_config.json").is_file():
            problems.append(Problem(f"{folder}/{BASE}", f"was tuned from {said}, not from {expected}", "merge models that were tuned from one base"))
    silent = len(parents) - len(named) - len(trusted)
    told = f"{len(named)} parents name it by hash or path" + (f", {silent} do not: judged by their weights" if silent else "")
    return told + (f"; taken on trust, as an adapter's weights do not show its base: {', '.join(trusted)}" if trusted else ""), problems


def _on(base: Checkpoint, adapter: Path, said: str) -> bool | None:
    """Whether the path that an adapter names as its base holds a model of the base's content; None where it holds none: a name on a hub says nothing here."""
    there = next((folder for folder in (Path(said), adapter / said, adapter.parent / said) if (folder / "config.json").is_file()), None)
    return None if there is None else identity(there) == identity(base.folder)


def _precision(base: Checkpoint, parents: Sequence[Parent]) -> list[Problem]:
    problems = []
    for parent in parents:
        coarse = [name for name, entry in parent.entries.items() if name in base.entries and MANTISSA[entry.dtype] < MANTISSA[base.entries[name].dtype]]
        if coarse:
            there, here = parent.entries[coarse[0]].dtype, base.entries[coarse[0]].dtype
            why = f"{len(coarse)} tensors are {there} and the base's {here}: their difference would be mostly rounding"
            problems.append(Problem(str(parent.folder), why, f"save the base as {there} too, or give the parent as {here}"))
    return problems


def _related(base: Checkpoint | None, parents: Sequence[Parent]) -> list[Checked]:
    """Raises InputError for parents whose weights point elsewhere than the reference's: their differences are noise and no task."""
    reference, others = (base, parents) if base is not None else (parents[0], parents[1:])
    problems, found = [], []
    for parent in others:
        if isinstance(parent, Adapted):
            continue
        cosine, length = closeness(reference, parent)
        result = f"cosine {cosine:.4f} of the weights, differences {length:.4f} of their length"
        if cosine < UNRELATED:
            why = f"is not of one base with {reference.folder} ({result}): the differences are noise"
            problems.append(Problem(str(parent.folder), why, "give the model that it was tuned from"))
        far = "; FAR from it: a merge is rarely good" if cosine < FAR else ""
        found.append(Checked(check=f"ancestor of {parent.folder.name}", result=result + far))
    if problems:
        raise InputError(*problems)
    return found


def closeness(reference: Parent, other: Parent) -> tuple[float, float]:
    """(median cosine, median relative length of the difference) over a stretch of each matrix. Norms' vectors stay near 1 in any model and say nothing."""
    cosines: list[float] = []
    lengths: list[float] = []
    for name in reference.entries.keys() & other.entries.keys():
        if len(reference.entries[name].shape) < 2 or reference.entries[name].shape != other.entries[name].shape:
            continue
        a, b = sampled(reference, name), sampled(other, name)
        norms = float(torch.linalg.vector_norm(a)), float(torch.linalg.vector_norm(b))
        if norms[0] > 0 and norms[1] > 0:
            cosines.append(float(a @ b) / (norms[0] * norms[1]))
            lengths.append(float(torch.linalg.vector_norm(b - a)) / norms[0])
    return (median(cosines), median(lengths)) if cosines else (1.0, 0.0)


def as_config(spec: MergeSpec, first: Parent) -> dict[str, Any]:
    """config.json of the result: the first parent's, with the number of layers and the dtype that were written."""
    config = dict(first.config)
    if spec.slices:
        spans = [(one.sources[0].path, range(*one.sources[0].layers)) for one in spec.slices if one.sources[0].layers is not None]
        config["num_hidden_layers"] = sum(len(span) for _, span in spans)
        kinds = config.get("layer_types")
        if isinstance(kinds, list):
            config["layer_types"] = [kinds[layer] for _, span in spans for layer in span]
    if spec.dtype is not None:
        config.pop("torch_dtype", None)
        config["dtype"] = spec.dtype
    return config
