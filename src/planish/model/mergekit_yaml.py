"""mergekit's YAML as a merge of ours: every key is translated, listed as having no effect here, or refused by name."""

from __future__ import annotations

from typing import Any, NamedTuple

from planish.errors import InputError, Problem, did_you_mean
from planish.model.merging import METHODS, WITH_BASE, MergeSpec, read_spec

TOP = ("merge_method", "base_model", "models", "slices", "parameters", "dtype", "out_dtype", "tokenizer_source", "chat_template", "modules", "tokenizer")
OF_SOURCE = ("weight", "density", "scale")
OF_ALL = ("lambda", "t", "normalize")
KNOWN = (*OF_SOURCE, *OF_ALL, "int8_mask", "rescale")
DEFAULTS = {"density": 1.0, "scale": 1.0, "lambda": 1.0}
"""What mergekit takes where nothing that is given holds for a tensor; other settings must hold for all."""
ARITHMETIC = "we compute in fp32 and round once to the dtype written; mergekit computes in `dtype`"


class Untranslated(NamedTuple):
    """A key that has no counterpart, and why that changes nothing or a little."""

    key: str
    why: str


def is_mergekit(given: Any) -> bool:
    """Whether a configuration is mergekit's."""
    return isinstance(given, dict) and "merge_method" in given


def read(given: dict[str, Any], where: str = "mergekit") -> tuple[MergeSpec, list[Untranslated]]:
    """The merge, and what could not be taken over. Raises InputError, with every problem, for unknown keys and for what would give another result."""
    problems = [Problem(f"{where}.{key}", f'unknown key "{key}"', did_you_mean(str(key), TOP)) for key in given if key not in TOP]
    left: list[Untranslated] = []
    method = str(given.get("merge_method"))
    if method not in METHODS or method in ("soup", "dare"):
        problems.append(Problem(f"{where}.merge_method", f'"{method}" is not merged here', did_you_mean(method, METHODS)))
    for key in ("modules", "tokenizer", "chat_template"):
        if given.get(key) is not None and not _of_the_parents(key, given[key]):
            problems.append(Problem(f"{where}.{key}", "is not translated", "remove it: parents of one architecture, tokenizer and template are merged"))
    base = given.get("base_model")
    if base is not None and not isinstance(base, str):
        problems.append(Problem(f"{where}.base_model", f"is {base!r:.40} and no path", "base_model: FOLDER"))
        base = None
    for key in ("tokenizer_source", "tokenizer", "chat_template"):
        if given.get(key) is not None:  # a union of equal vocabularies is each of them; other vocabularies are refused when the parents are opened
            left.append(Untranslated(key, "all parents must have one tokenizer and template, so there is nothing to choose"))
    everywhere = _within(_parameters(given.get("parameters"), f"{where}.parameters", method, problems, left), DEFAULTS)
    trunk = base if METHODS.get(method) in WITH_BASE else _trunk(given)
    spec: dict[str, Any] = {"method": method, "base": trunk}
    spec |= {key: everywhere[key] for key in OF_ALL if key in everywhere}
    if given.get("dtype") is not None or given.get("out_dtype") is not None:
        spec["dtype"] = given.get("out_dtype") or given.get("dtype")
        left.append(Untranslated("dtype", ARITHMETIC))
    if given.get("models") is not None:
        spec["models"] = _sources(given["models"], f"{where}.models", method, base, trunk, everywhere, problems, left)
        _add_base(spec["models"], f"{where}.base_model", method, base, everywhere, problems)
    if given.get("slices") is not None:
        spec["slices"] = []
        for number, one in enumerate(_mappings(given["slices"], f"{where}.slices", problems)):
            own = _parameters(one.get("parameters"), f"{where}.slices[{number}].parameters", method, problems, left)
            problems += [
                Problem(f"{where}.slices[{number}].{key}", "is not translated", "write sources and parameters")
                for key in one
                if key not in ("sources", "parameters")
            ]
            own = _within(own, DEFAULTS | everywhere)
            sources = _sources(one.get("sources") or [], f"{where}.slices[{number}].sources", method, base, trunk, everywhere | own, problems, left)
            spec["slices"].append({"sources": sources} | ({"t": own["t"]} if "t" in own else {}) | _beneath(one.get("sources"), method, base))
            problems += [
                Problem(f"{where}.slices[{number}].{key}", "may not differ by slice here", "set it once for all")
                for key in own
                if key in ("lambda", "normalize")
            ]
    if problems:
        raise InputError(*dict.fromkeys(problems))
    return read_spec(spec, where), list(dict.fromkeys(left))


def _parameters(given: Any, where: str, method: str, problems: list[Problem], left: list[Untranslated]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if given is not None and not isinstance(given, dict):
        problems.append(Problem(where, f"is {given!r:.40} and no mapping of keys", "parameters: {weight: 0.5}"))
        return found
    for key, setting in (given or {}).items():
        if key not in KNOWN:
            problems.append(Problem(f"{where}.{key}", f'unknown parameter "{key}"', did_you_mean(str(key), KNOWN)))
        elif key == "int8_mask":
            left.append(Untranslated(key, "the width of a mask in memory; the result is the same"))
        elif key == "rescale" and not setting:
            problems.append(Problem(f"{where}.rescale", "false drops without scaling up", "DARE divides by the density: remove the key"))
        elif key == "rescale":
            left.append(Untranslated(key, "dropped differences are made up for by 1/density, as the paper has it; mergekit restores each tensor's own L1 norm"))
        else:
            found[key] = [setting] if isinstance(setting, dict) else setting
    return found


def _mappings(given: Any, where: str, problems: list[Problem]) -> list[dict[str, Any]]:
    """A list of mappings; what is none is a problem and stands for an empty one."""
    if not isinstance(given, list):
        problems.append(Problem(where, f"is {given!r:.40} and no list", "- model: FOLDER"))
        return []
    problems += [
        Problem(f"{where}[{number}]", f"is {one!r:.40} and no mapping", "- model: FOLDER") for number, one in enumerate(given) if not isinstance(one, dict)
    ]
    return [one if isinstance(one, dict) else {} for one in given]


def _of_the_parents(key: str, given: Any) -> bool:
    """Whether a choice of tokenizer or template is one among the parents', which are all the same."""
    return given == "auto" if key == "chat_template" else key == "tokenizer" and isinstance(given, dict) and set(given) == {"source"}


def _within(own: dict[str, Any], outer: dict[str, Any]) -> dict[str, Any]:
    """Settings of a source or a slice, within those around it: for a tensor that no filter of a setting fits, mergekit takes the setting around it."""

    def filtered(setting: Any) -> bool:
        return isinstance(setting, list) and bool(setting) and all(isinstance(entry, dict) for entry in setting)

    found = dict(own)
    for key, setting in own.items():
        if key in outer and filtered(setting):
            found[key] = [*setting, *(outer[key] if filtered(outer[key]) else [{"value": outer[key]}])]
    return found


def _beneath(sources: Any, method: str, base: str | None) -> dict[str, Any]:
    """The base's own layers in a slice, where it stands among the sources: it is none of the models there, and its layers are what they differ from."""
    listed = [one for one in sources if isinstance(one, dict)] if isinstance(sources, list) else []
    ranges = [one["layer_range"] for one in listed if one.get("model") == base and one.get("layer_range") is not None]
    return {"base_layers": ranges[0]} if METHODS.get(method) in WITH_BASE and ranges else {}


def _add_base(models: list[dict[str, Any]], where: str, method: str, base: str | None, everywhere: dict[str, Any], problems: list[Problem]) -> None:
    """The base_model of a mean is one of its models for mergekit, listed or not, with the weight that holds for all."""
    path = base and (base.partition("+")[2] or base)
    if METHODS.get(method) != "soup" or path is None or path in [source["path"] for source in models]:
        return
    if "weight" not in everywhere:
        problems.append(
            Problem(where, f"for mergekit {base} is one more model of this mean, and it has no weight", "list it with a weight, or remove base_model")
        )
    models.append({"path": path} | {key: everywhere[key] for key in ("weight",) if key in everywhere})


def _trunk(given: dict[str, Any]) -> str | None:
    """The model that the first adapter, written MODEL+ADAPTER, is on: of a method without a base it is the one that all adapters are opened on."""
    slices = [one.get("sources") for one in given.get("slices") or [] if isinstance(one, dict)] if isinstance(given.get("slices"), list) else []
    listed = [one for some in (given.get("models"), *slices) if isinstance(some, list) for one in some if isinstance(one, dict)]
    return next((model.partition("+")[0] for one in listed if isinstance(model := one.get("model"), str) and "+" in model), None)


def _sources(
    given: Any, where: str, method: str, base: str | None, trunk: str | None, everywhere: dict[str, Any], problems: list[Problem], left: list[Untranslated]
) -> list[dict[str, Any]]:
    base = base and (base.partition("+")[2] or base)  # of slerp it may be one of two adapters
    found = []
    keys = ("model", "layer_range", "parameters")
    for number, one in enumerate(_mappings(given, where, problems)):
        problems += [Problem(f"{where}[{number}].{key}", f'unknown key "{key}"', did_you_mean(str(key), keys)) for key in one if key not in keys]
        own = everywhere | _within(_parameters(one.get("parameters"), f"{where}[{number}].parameters", method, problems, left), DEFAULTS | everywhere)
        if not isinstance(one.get("model"), str):
            problems.append(Problem(f"{where}[{number}].model", "is missing or no path", "model: FOLDER, or BASE+ADAPTER"))
            continue
        path, _, adapter = one["model"].partition("+")
        if adapter and path != trunk:
            why = f"the adapter {adapter} is on {path}, " + ("which is not base_model" if METHODS.get(method) in WITH_BASE else f"and another one on {trunk}")
            problems.append(Problem(f"{where}[{number}].model", why, "put it into its model first: planish adapter merge"))
        source: dict[str, Any] = {"path": adapter or path} | {key: own[key] for key in OF_SOURCE if key in own}
        if METHODS.get(method) in ("ties", "dare"):
            source.setdefault("density", 1.0)  # mergekit's default, which is not ours
        if one.get("layer_range") is not None:
            source["layers"] = one["layer_range"]
        if METHODS.get(method) not in WITH_BASE or source["path"] != base:
            found.append(source)
    if method == "slerp":
        if base is not None and base not in [source["path"] for source in found]:
            found.insert(0, {"path": base})
        found.sort(key=lambda source: source["path"] != base)  # mergekit's t counts from the base
    return found
