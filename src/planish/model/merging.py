"""What to merge: our own keys or mergekit's YAML, with a weight, density or t that may differ by layer or by tensor, laid out tensor by tensor."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import ConfigDict, Field, ValidationError

from planish.errors import InputError, Problem, did_you_mean
from planish.model.merge_settings import Setting, out_of_range, value
from planish.recipe_keys import Section
from planish.shelf import find

METHODS = {
    "soup": "soup",
    "linear": "soup",
    "slerp": "slerp",
    "task_arithmetic": "task_arithmetic",
    "ties": "ties",
    "dare": "dare",
    "dare_linear": "dare",
    "dare_ties": "dare",
    "passthrough": "passthrough",
}
"""Name in a configuration -> file on the transforms shelf."""
WITH_BASE = ("task_arithmetic", "ties", "dare")
DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
LAYER = re.compile(r"^(.*?(?:^|\.)(?:layers|h|blocks)\.)(\d+)(\..+)$")


class Source(Section):
    """A model folder or an adapter folder. `layers` (first, one past the last) only inside a slice. `task` is the recipe that it was tuned for, on whose gold set the merge and
    every parent are scored; it has no part in the weights."""

    path: str
    task: str | None = None
    layers: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(gt=0)]] | None = None
    weight: Setting | None = None
    density: Setting | None = None
    scale: Setting | None = None


class Slice(Section):
    """Layers of the result, each made of the same-numbered layer of every source's range. `base_layers` are the base's beside them: by default the first source's numbers."""

    sources: Annotated[list[Source], Field(min_length=1)]
    base_layers: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(gt=0)]] | None = None
    t: Setting | None = None


class MergeSpec(Section):
    """One merge. `models` are merged whole; `slices` stack layers instead."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    method: str
    base: str | None = None
    models: list[Source] = []
    slices: list[Slice] = []
    lambda_: Annotated[Setting | None, Field(alias="lambda")] = None
    t: Setting | None = None
    normalize: bool | None = None
    ties: bool | None = None
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    seed: int | None = None

    @property
    def technique(self) -> str:
        """The file on the transforms shelf."""
        return METHODS[self.method]

    @property
    def inputs(self) -> list[str]:
        """Every model's path once, in the order of first mention; the base is none of them."""
        return list(dict.fromkeys(source.path for source in self.sources))

    @property
    def sources(self) -> list[Source]:
        """Every mention of a model."""
        return [*self.models, *(source for one in self.slices for source in one.sources)]


class Planned(NamedTuple):
    """One tensor of the result: of which models it is made, what it is called there and in the base, and the method's options for it."""

    name: str
    sources: list[str]
    names: list[str]
    options: dict[str, Any]
    base_name: str


def read_spec(given: Any, where: str = "merge") -> MergeSpec:
    """Our own keys, checked. Raises InputError with every problem."""
    if not isinstance(given, dict):
        raise InputError(Problem(where, "is no mapping of keys", "begin with: method: ties"))
    try:
        spec = MergeSpec.model_validate(given)
    except ValidationError as refused:
        raise InputError(*dict.fromkeys(_problem(where, error) for error in refused.errors())) from None
    problems = _problems(spec, where)
    if problems:
        raise InputError(*problems)
    return spec


def _problem(where: str, error: Any) -> Problem:
    place = [str(part) for part in error["loc"] if not str(part).startswith(("float", "list[", "int", "Filtered"))]
    if error["type"] == "extra_forbidden":
        kind: type[Section] = Source if "sources" in place or "models" in place else Slice if "slices" in place else MergeSpec
        names = [field.alias or name for name, field in kind.model_fields.items()]
        return Problem(f"{where}.{'.'.join(place)}", f'unknown key "{place[-1]}"', did_you_mean(place[-1], names))
    return Problem(f"{where}.{'.'.join(place)}", error["msg"][0].lower() + error["msg"][1:], "see docs/techniques/transforms")


def _problems(spec: MergeSpec, where: str) -> list[Problem]:
    if spec.method not in METHODS:
        return [Problem(f"{where}.method", f'unknown method "{spec.method}"', did_you_mean(spec.method, METHODS))]
    problems = []
    if bool(spec.models) == bool(spec.slices):
        problems.append(Problem(f"{where}.models", "give either models or slices", "models: [{path: FOLDER}, ...]"))
    if spec.technique in WITH_BASE and spec.base is None:
        problems.append(Problem(f"{where}.base", f"{spec.method} merges differences from a base", "name the model that all were tuned from"))
    paths = [source.path for source in spec.models]
    problems += [Problem(f"{where}.models", f"{path} is given twice", "give it once with its weight") for path in {*paths} if paths.count(path) > 1]
    if spec.technique in WITH_BASE and spec.base in paths:
        problems.append(Problem(f"{where}.models", "the base is among the models: its difference from itself is nothing", "leave it out of models"))
    problems += [Problem(f"{where}.models", f"{source.path} has layers outside a slice", "write slices") for source in spec.models if source.layers is not None]
    problems += _slice_problems(spec, where)
    known = find("transforms", spec.technique).keys
    sources = spec.sources
    settings: list[tuple[str, Setting | None]] = [(key, getattr(source, key)) for key in ("weight", "density", "scale") for source in sources]
    settings += [("lambda", spec.lambda_), ("t", spec.t), *(("t", one.t) for one in spec.slices)]
    problems += dict.fromkeys(problem for key, setting in settings for problem in out_of_range(key, setting, f"{where}.{key}"))
    asked = {key for key in ("lambda_", "t", "normalize", "seed", "ties") if getattr(spec, key) is not None}
    asked |= {key for key in ("weight", "density", "scale") for source in sources if getattr(source, key) is not None}
    asked |= {"t" for one in spec.slices if one.t is not None}
    for key in sorted(asked - known.keys()):
        shown = key.rstrip("_")
        problems.append(Problem(f"{where}.{shown}", f"{spec.method} has no {shown}", "its keys: " + ", ".join(name.rstrip("_") for name in known)))
    if spec.technique == "soup" and len(spec.models) == 1 and spec.base is None and spec.normalize is not False:
        problems.append(Problem(f"{where}.models", "a soup of one model is that model", "name at least two"))
    shares = [1.0 if source.weight is None else source.weight for source in spec.models]
    numbers = [share for share in shares if isinstance(share, (int, float))]
    if spec.technique == "soup" and spec.normalize is not False and shares == numbers != [] and not sum(numbers):
        problems.append(
            Problem(f"{where}.models", f"the weights {numbers} sum to 0, and a mean divides by that", "give weights with a sum, or normalize: false")
        )
    if spec.technique == "slerp" and any(len(group) != 2 for group in ([spec.models] if spec.models else [one.sources for one in spec.slices])):
        problems.append(Problem(f"{where}.models", "slerp blends two models", "use soup for more"))
    if spec.technique == "passthrough" and any(len(group) != 1 for group in ([spec.models] if spec.models else [one.sources for one in spec.slices])):
        problems.append(Problem(f"{where}.models", "passthrough takes each layer from one model", "give every slice one source"))
    return problems


def _slice_problems(spec: MergeSpec, where: str) -> list[Problem]:
    """Slices whose sources, or the base beneath them, do not go together layer by layer."""
    problems = []
    for number, one in enumerate(spec.slices):
        spans = {None if source.layers is None else source.layers[1] - source.layers[0] for source in one.sources}
        if None in spans or len(spans) != 1 or min(span or 0 for span in spans) <= 0:
            problems.append(Problem(f"{where}.slices[{number}]", "its sources do not name equally many layers", "layers: [first, one past the last]"))
        elif one.base_layers is not None and one.base_layers[1] - one.base_layers[0] not in spans:
            problems.append(
                Problem(f"{where}.slices[{number}]", "the base's layers are not as many as its sources'", "base_layers: [first, one past the last]")
            )
        elif spec.technique in WITH_BASE and one.base_layers is None and len({source.layers for source in one.sources}) > 1:
            why = "its sources are different layers, so which layer of the base they differ from is not said"
            problems.append(
                Problem(f"{where}.slices[{number}]", why, "base_layers: [first, one past the last]; in a file of mergekit: base_model among its sources")
            )
    return problems


def lay_out(spec: MergeSpec, names: dict[str, Sequence[str]], layers: dict[str, int]) -> list[Planned]:
    """Every tensor of the result. `names` and `layers` are each model's tensor names and number of layers, by path.

    Raises InputError for a slice past a model's layers.
    """
    if not spec.slices:
        first = spec.base if spec.base in names else spec.inputs[0]
        whole = Slice(sources=spec.models)
        return [_planned(spec, whole, name, [name] * len(spec.models), _through(name, layers[first])) for name in names[first]]
    past = [
        Problem(f"merge.slices[{number}]", f"{source.path} has {layers[source.path]} layers, not {source.layers[1]}", "end at its last layer")
        for number, one in enumerate(spec.slices)
        for source in one.sources
        if source.layers is not None and source.layers[1] > layers[source.path]
    ]
    past += [
        Problem(f"merge.slices[{number}]", f"{spec.base} has {layers[spec.base]} layers, not {one.base_layers[1]}", "end at its last layer")
        for number, one in enumerate(spec.slices)
        if spec.base is not None and one.base_layers is not None and one.base_layers[1] > layers[spec.base]
    ]
    if past:
        raise InputError(*past)
    head, tail = spec.slices[0], spec.slices[-1]
    outside = [name for name in names[head.sources[0].path] if LAYER.match(name) is None]
    before = [name for name in outside if "embed" in name or ".wte" in name or ".wpe" in name]
    planned = [_planned(spec, head, name, [name] * len(head.sources), 0.0) for name in before]
    made = 0
    for one in spec.slices:
        ranges = [range(*source.layers) for source in one.sources if source.layers is not None]
        for offset in range(len(ranges[0])):
            t = offset / (len(ranges[0]) - 1) if len(ranges[0]) > 1 else 1.0
            for name in names[one.sources[0].path]:
                match = LAYER.match(name)
                if match is not None and int(match[2]) == ranges[0][offset]:
                    there = [f"{match[1]}{layer[offset]}{match[3]}" for layer in ranges]
                    under = there[0] if one.base_layers is None else f"{match[1]}{one.base_layers[0] + offset}{match[3]}"
                    planned.append(_planned(spec, one, f"{match[1]}{made}{match[3]}", there, t, under))
            made += 1
    return planned + [_planned(spec, tail, name, [name] * len(tail.sources), 0.0) for name in outside if name not in before]


def _through(name: str, layers: int) -> float:
    match = LAYER.match(name)
    return 0.0 if match is None else int(match[2]) / (layers - 1) if layers > 1 else 1.0


def _planned(spec: MergeSpec, one: Slice, name: str, names: list[str], t: float, base_name: str | None = None) -> Planned:
    options: dict[str, Any] = {}
    for key in ("weight", "density"):
        settings = [getattr(source, key) for source in one.sources]
        if any(setting is not None for setting in settings):
            default = 1.0 if key == "weight" else find("transforms", spec.technique).keys["density"][1]
            options[key] = [default if setting is None else value(setting, name, t) for setting in settings]
    for key, single in (("lambda_", spec.lambda_), ("t", one.t if one.t is not None else spec.t), ("scale", one.sources[0].scale)):
        if single is not None:
            options[key] = value(single, name, t)
    options |= {key: getattr(spec, key) for key in ("normalize", "seed", "ties") if getattr(spec, key) is not None}
    if spec.method == "dare_ties":
        options["ties"] = True
    return Planned(name, [source.path for source in one.sources], names, options, base_name or name)
