"""The recipe: one YAML file, strict keys, every error at once with its line, read without torch (MISSION X2)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from planish import rules
from planish.errors import InputError, Problem, did_you_mean
from planish.rows import content_hash
from planish.shelf import Technique, find, schema, shelf


class Section(BaseModel):
    """A block of the recipe. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Use(Section):
    """A technique with its options: `lora`, or `{lora: {r: 16}}`."""

    name: str
    options: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, given: Any) -> Any:
        if isinstance(given, str):
            return {"name": given}
        if isinstance(given, dict) and "name" in given and set(given) <= {"name", "options"}:
            return given
        if isinstance(given, dict) and len(given) == 1:
            (name, options), *_ = given.items()
            if isinstance(options, dict) or options is None:
                return {"name": name, "options": options or {}}
        raise ValueError("write a name, or one name with its options: {name: {key: value}}")


Check = Annotated[Use, Field(json_schema_extra={"shelf": "checks"})]
Objective = Annotated[Use, Field(json_schema_extra={"shelf": "objectives"})]
Adapter = Annotated[Use, Field(json_schema_extra={"shelf": "adapters"})]
Solver = Annotated[Use, Field(json_schema_extra={"shelf": "solvers"})]
Scorer = Annotated[Use, Field(json_schema_extra={"shelf": "scorers"})]
Exporter = Annotated[Use, Field(json_schema_extra={"shelf": "exporters"})]
EngineUse = Annotated[Use, Field(json_schema_extra={"shelf": "engines"})]
Detector = Annotated[Use, Field(json_schema_extra={"shelf": "detectors"})]


def _duration(given: Any) -> int:
    """Seconds from `30s`, `15m`, `6h`, `1d`, or a number of seconds."""
    if isinstance(given, int) and not isinstance(given, bool) and given > 0:
        return given
    match = re.fullmatch(r"(\d+)\s*([smhd])", str(given).strip())
    if not match or int(match[1]) == 0:
        raise ValueError("a duration is a number with s, m, h or d: 1d")
    return int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def bytes_of(given: Any) -> int:
    """Bytes from `6 GB`, `512MB`, `2 GiB`, or a number of bytes. Raises ValueError for anything else."""
    if isinstance(given, int) and not isinstance(given, bool) and given > 0:
        return given
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(GB|GiB|MB|MiB)", str(given).strip(), re.IGNORECASE)
    size = int(float(match[1]) * {"gb": 10**9, "gib": 2**30, "mb": 10**6, "mib": 2**20}[match[2].lower()]) if match else 0
    if size == 0:
        raise ValueError("a size is a number with GB, GiB, MB or MiB: 6 GB")
    return size


def _rule(given: Any) -> str:
    try:
        rules.parse(str(given))
    except InputError as refused:
        raise ValueError(f"{refused.problems[0].why}\n{refused.problems[0].fix}") from None
    return str(given)


WORD, LIST = "<word>", "<list>"
"""The two shapes of compress.merge; no part of a place in the file."""


def _word_or_list(given: Any) -> str:
    return LIST if isinstance(given, list) else WORD


Duration = Annotated[int, BeforeValidator(_duration)]
Rule = Annotated[str, BeforeValidator(_rule)]
Bytes = Annotated[int, BeforeValidator(bytes_of)]
Share = Annotated[float, Field(ge=0, lt=1)]


TaskShape = Literal["classification", "qa", "extraction", "summarization", "chat", "tools", "reasoning", "preference"]
"""What rows may be for; what each fixes stands in `planish.data.task` (MISSION D11)."""


class SplitSection(Section):
    """How rows are divided; rows of one group, and duplicates, never cross (MISSION D8)."""

    group_by: str | None = None
    validation: Share = 0.1
    gold: Annotated[float, Field(gt=0, lt=1)] = 0.2
    gold_max: Annotated[int, Field(ge=30)] | None = None
    blind: Share = 0.0
    time_by: str | None = None
    seed: int = 42

    @model_validator(mode="after")
    def _leaves_training_rows(self) -> SplitSection:
        if self.validation + self.gold >= 1:
            raise ValueError("validation and gold together leave no row to train on; lower one of them")
        return self


CHECKS = ("duplicates", "near_duplicates", "label_conflicts", "balance", "template", "mask", "leakage")
"""What is looked for unless the recipe says otherwise: what is silent when it goes wrong, and cheap to find."""


class DataSection(Section):
    """Where the rows are and what they are for."""

    path: Path
    gold: Path | None = None
    task: TaskShape | None = None
    labels: list[str] | None = None
    instruction: str | None = None
    mapping: dict[str, str] | None = None
    mixed: bool = False
    clean: list[Literal["nfc", "control", "whitespace"]] = []
    split: SplitSection = SplitSection()
    checks: list[Check] = [Use(name=name) for name in CHECKS]


class LaunchSection(Section):
    """How many processes of this machine train together: `ddp` keeps the model whole in each, `fsdp` spreads it over them. The result is the same (MISSION X6)."""

    ranks: Annotated[int, Field(gt=0)] = 1
    shard: Literal["ddp", "fsdp"] = "ddp"


class ReplaySection(Section):
    """General rows among the task's, so that it forgets less: a share of the rows, weighted so that it is the same share of the loss. `rows` is `general` (text and
    exchanges that every machine has), `self` (the base's own answers to general questions), or the path of rows (MISSION C5)."""

    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    rows: str = "general"


class TrainSection(Section):
    """One stage of training; the objective and the adapter bring their own keys. The next entry of the list starts from what this one made."""

    objective: Objective
    adapter: Adapter = Use(name="lora")
    documents: Path | None = None
    four_bit: bool = False
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Share = 0.03
    epochs: Annotated[float, Field(gt=0)] | None = None
    max_steps: Annotated[int, Field(gt=0)] | None = None
    max_tokens: Annotated[int, Field(gt=0)] | None = None
    max_rows: Annotated[int, Field(gt=0)] | None = None
    batch_size: Annotated[int, Field(gt=0)] = 16
    order: Literal["random", "shared"] = "random"
    micro_tokens: Annotated[int, Field(gt=0)] = 2048
    max_length: Annotated[int, Field(gt=0)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip: Annotated[float, Field(gt=0)] = 1.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    validations: Annotated[int, Field(ge=0)] = 10
    patience: Annotated[int, Field(gt=0)] | None = 3
    keep: Literal["best", "last"] = "best"
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    checkpoints: Annotated[int, Field(ge=0)] = 10
    checkpoint_activations: bool = False
    trunk_cache_mb: Annotated[int, Field(ge=0)] | None = None
    memory_limit: Bytes | None = None
    on_out_of_memory: list[Literal["lora", "qlora", "adamw_8bit", "lower_rank", "drop_rows"]] = []
    replay: ReplaySection | None = None
    seed: int = 42
    launch: LaunchSection = LaunchSection()

    @model_validator(mode="before")
    @classmethod
    def _as_its_objective_has_it(cls, given: Any) -> Any:
        """What the entry leaves out and its objective has a word on, as `ENTRY` in the objective's file."""
        if not isinstance(given, dict):
            return given
        try:
            name = Use.model_validate(given.get("objective")).name
        except ValidationError:
            return given  # said of the key itself
        known = shelf("objectives").get(name)
        return given if known is None else {**known.entry, **given}

    @model_validator(mode="after")
    def _fits_together(self) -> TrainSection:
        lengths = [name for name in ("epochs", "max_steps", "max_tokens") if getattr(self, name) is not None]
        if len(lengths) > 1:
            raise ValueError(f"{' and '.join(lengths)} both given: keep one (MISSION T5)")
        if self.batch_size % self.launch.ranks:
            raise ValueError(f"batch_size {self.batch_size} does not divide over launch.ranks {self.launch.ranks}: every rank takes the same number of rows")
        return self


class ConstraintSection(Section):
    """The form that every answer must have; one of the four (MISSION E3). What cannot be held is refused by name before anything is asked."""

    choice: list[str] | None = None
    regex: str | None = None
    json_schema: dict[str, Any] | None = None
    grammar: str | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> ConstraintSection:
        if len(self.model_dump(exclude_none=True)) != 1:  # a stored recipe names the other three, as null
            raise ValueError("give exactly one of choice, regex, json_schema and grammar")
        return self


class DecodingSection(Section):
    """How answers are made, the same in baselines, evaluation, compression and serving; what is left out is the task's own. `temperature` 0 is greedy (MISSION E2)."""

    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    stop: list[Annotated[str, Field(min_length=1)]] | None = None
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    constraint: ConstraintSection | None = None


class EvaluateSection(Section):
    """How answers are judged, by the task's own scorer where none is named, and the text on which general ability is measured before and after."""

    scorers: list[Scorer] = []
    general: list[Literal["held_out_text", "chat_exchanges", "reasoning", "instructions"]] = ["held_out_text", "chat_exchanges"]
    general_rows: Path | None = None
    general_tasks: list[str] = []
    decoding: DecodingSection = DecodingSection()
    screen: Rule | None = None


class PruneEntry(Section):
    """A smaller model cut from the tuned one: counts of units, a `target` (80%, 110M) or a `latency` (20 ms, 60 tokens/s) reached by taking out `take`. What goes, goes in `steps`,
    each made good by `recover`, whose objective may be `{kd: {capture: unpruned}}`. Its files are those of `export`, or of compress itself (MISSION Z9, Z10)."""

    layers: Annotated[int, Field(ge=0)] = 0
    heads: Annotated[int, Field(ge=0)] = 0
    channels: Annotated[int, Field(ge=0)] = 0
    vocabulary: Annotated[int, Field(ge=1)] | None = None
    target: str | None = None
    latency: str | None = None
    take: Literal["layers", "heads", "channels"] = "channels"
    by: Literal["magnitude", "gradient", "hessian", "obs", "activation", "influence", "ablation"] = "magnitude"
    rows: Annotated[int, Field(ge=1)] = 128
    steps: Annotated[int, Field(ge=1)] = 1
    recover: TrainSection | None = None
    export: list[Exporter] = []

    @model_validator(mode="after")
    def _asks_for_something(self) -> PruneEntry:
        if self.target is not None and self.latency is not None:
            raise ValueError("target and latency both given: keep one")
        if not (self.layers or self.heads or self.channels or self.vocabulary or self.target or self.latency):
            raise ValueError("nothing would be removed\nsay what: layers, heads, channels, vocabulary, target or latency")
        return self


class MergeEntry(Section):
    """The tuned model merged with others of its base, by path from the recipe: folders of models or of adapters, or the mappings that `planish merge` reads. `weight` and
    `density` are the tuned model's own; the base is that of the recipe unless it is named. Its files are those of `export`, or of compress itself (MISSION W6)."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    models: Annotated[list[str | dict[str, Any]], Field(min_length=1)]
    method: str = "ties"
    base: str | None = None
    weight: Any = None
    density: Any = None
    lambda_: Annotated[Any, Field(alias="lambda")] = None
    t: Any = None
    normalize: bool | None = None
    seed: int | None = None
    export: list[Exporter] = []


Into = Literal["original", "dequantised"]


class CompressSection(Section):
    """What is made of the model that passed, each scored again on the same gold: files by `export`, smaller models by `prune`, models merged with others by `merge`.

    `merge` as a word is where an adapter trained on a base in 4 bits goes: into the original 16-bit base, or into what the 4-bit one stands for (MISSION A5).
    """

    merge: Annotated[Annotated[Into, Tag(WORD)] | Annotated[list[MergeEntry], Tag(LIST)], Discriminator(_word_or_list)] = "original"
    prune: list[PruneEntry] = []
    export: list[Exporter] = []
    gate: list[Rule] = ["quality_retained >= 0.97"]

    @property
    def into(self) -> Into:
        """Where an adapter goes."""
        return "original" if isinstance(self.merge, list) else self.merge

    @property
    def merges(self) -> list[MergeEntry]:
        """What the tuned model is merged with."""
        return self.merge if isinstance(self.merge, list) else []


class ServeSection(Section):
    """The endpoint. It binds to the loopback address unless told otherwise."""

    engine: EngineUse = Use(name="llamacpp")
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    queue: Annotated[int, Field(ge=0)] = 64
    log_content: bool = True


class ObserveSection(Section):
    """How often the gold set is asked again of the live endpoint."""

    every: Duration = 86400
    detectors: list[Detector] = [Use(name="gold_rerun")]


class FeedbackSection(Section):
    """How production rows become the next dataset version."""

    rows_per_day: Annotated[int, Field(gt=0)] = 200
    redact: bool = True
    corrections: Path | None = None


class Recipe(Section):
    """The whole line. `source` is the file it was read from; paths in it are relative to that file. Baselines, scorers and gate that it leaves out are its task's
    (`planish.data.task.filled`)."""

    recipe: Literal[1]
    model: str
    data: DataSection
    baseline: list[Solver] = []
    train: list[TrainSection] = []
    evaluate: EvaluateSection = EvaluateSection()
    gate: list[Rule] | None = None
    compress: CompressSection | None = None
    serve: ServeSection | None = None
    observe: ObserveSection | None = None
    feedback: FeedbackSection | None = None
    parent: str | None = None
    source: Annotated[Path | None, Field(exclude=True)] = None

    @staticmethod
    def load(path: str | Path) -> Recipe:
        """Read and check a recipe. Raises InputError with every problem, each with its file and line; nothing is run."""
        return read(Path(path))

    def resolve(self, path: Path) -> Path:
        """A path of the recipe, relative to the recipe's own folder; a hub data set's name stays as it is."""
        return path if path.is_absolute() or str(path).startswith("hub:") or self.source is None else self.source.parent / path

    @property
    def fingerprint(self) -> str:
        """sha256 of everything in the recipe, whatever its layout or comments."""
        return content_hash(self.model_dump(mode="json"))


def read(path: Path) -> Recipe:
    """The recipe in `path`; see Recipe.load."""
    tree = _parse(path)
    if not isinstance(tree, dict):
        raise InputError(Problem(f"{path}:1", "is not a recipe: its top level is no mapping of keys", "begin with: recipe: 1"))
    problems = []
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(_plain(tree) | {"source": path})
    except ValidationError as refused:
        problems += [_problem(path, tree, error) for error in refused.errors()]
    problems += _unknown_techniques(path, tree, Recipe, ())
    if problems or recipe is None:
        unique = list(dict.fromkeys(sorted(problems, key=lambda problem: (int(problem.where.rpartition(":")[2].split()[0]), problem.where, problem.why))))
        raise InputError(*unique)
    return recipe


def _parse(path: Path) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(Problem(str(path), "there is no such file", "give the path of a recipe; README has one to begin with")) from None
    except (OSError, UnicodeDecodeError) as unreadable:
        raise InputError(Problem(str(path), f"cannot be read: {unreadable}", "give a UTF-8 YAML file")) from None
    try:
        return YAML(typ="rt").load(text)
    except MarkedYAMLError as broken:
        line = broken.problem_mark.line + 1 if broken.problem_mark else 1
        raise InputError(Problem(f"{path}:{line}", f"is not YAML: {broken.problem}", "check the indentation and the brackets of this line")) from None
    except YAMLError as broken:
        raise InputError(Problem(f"{path}:1", f"is not YAML: {broken}", "check the file")) from None


def _plain(value: Any) -> Any:
    """Round-trip containers and scalars to plain ones; the round-trip tree is kept for its line numbers only."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def _line(tree: Any, loc: tuple[int | str, ...]) -> int:
    """1-based line of the deepest part of `loc` that stands in the file."""
    line = 0
    for key in loc:
        try:
            line = (tree.lc.key(key) if hasattr(tree, "keys") else tree.lc.item(key))[0]
            tree = tree[key]
        except (AttributeError, KeyError, IndexError, TypeError):
            continue
    return line + 1


def _dotted(loc: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")


def _problem(path: Path, tree: Any, error: Any) -> Problem:
    loc = tuple(part for part in error["loc"] if part not in (WORD, LIST))
    where = f"{path}:{_line(tree, loc)} {_dotted(loc)}"
    if error["type"] == "extra_forbidden":
        return Problem(where, f'unknown key "{loc[-1]}"', did_you_mean(str(loc[-1]), _siblings(Recipe, loc)))
    if error["type"] == "missing":
        return Problem(where, "is missing", f"add the key {loc[-1]}")
    why, _, fix = error["msg"].removeprefix("Value error, ").partition("\n")
    return Problem(where, why[0].lower() + why[1:], fix)


def _siblings(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The keys that are known where `loc` ends."""
    for part in loc[:-1]:
        if isinstance(part, int):
            continue
        inner = _section(model.model_fields[part].annotation) if part in model.model_fields else None
        model = inner or model
    return [name for name in model.model_fields if name != "source"]


def _section(annotation: Any) -> type[BaseModel] | None:
    """The Section inside `X`, `X | None`, `list[X]` or `Annotated[X, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section) and annotation is not Use:
        return annotation
    return next((found for part in getattr(annotation, "__args__", ()) if (found := _section(part))), None)


def _unknown_techniques(path: Path, tree: Any, model: type[BaseModel], loc: tuple[int | str, ...]) -> list[Problem]:
    """Every technique name and option that no shelf knows, whether or not the rest of the recipe is right."""
    problems: list[Problem] = []
    at = tree
    for part in loc:
        at = at[part]
    if not isinstance(at, dict):
        return problems
    for key, field in model.model_fields.items():
        if key not in at:
            continue
        value, where = at[key], (*loc, key)
        shelf_name = _shelf_of(field)
        items = [(where, value)] if not isinstance(value, list) else [((*where, index), item) for index, item in enumerate(value)]
        inner = _section(field.annotation)
        for place, item in items:
            if shelf_name is not None:
                problems += _technique_problems(path, tree, place, item, shelf_name)
            elif inner is not None:
                problems += _unknown_techniques(path, tree, inner, place)
    return problems


def _shelf_of(field: Any) -> str | None:
    if isinstance(field.json_schema_extra, dict) and "shelf" in field.json_schema_extra:
        return str(field.json_schema_extra["shelf"])
    for part in getattr(field.annotation, "__args__", ()):
        for extra in getattr(part, "__metadata__", ()):
            if isinstance(getattr(extra, "json_schema_extra", None), dict):
                return str(extra.json_schema_extra["shelf"])
    return None


def _instead(technique: Technique, key: str) -> str:
    return technique.refused.get(key) or did_you_mean(key, technique.keys)


def _technique_problems(path: Path, tree: Any, loc: tuple[int | str, ...], item: Any, shelf_name: str) -> list[Problem]:
    try:
        use = Use.model_validate(_plain(item))
    except ValidationError:
        return []  # already reported by the recipe's own validation
    named = (*loc, use.name) if isinstance(item, dict) else loc
    if use.name not in shelf(shelf_name):
        where = f"{path}:{_line(tree, named)} {_dotted(loc)}"
        return [Problem(where, f'unknown {shelf_name.rstrip("s")} "{use.name}"', did_you_mean(use.name, shelf(shelf_name)))]
    technique = find(shelf_name, use.name)
    try:
        schema(technique)(**use.options)
    except ValidationError as refused:
        problems = []
        for error in refused.errors():
            inner = (*named, *error["loc"])
            where = f"{path}:{_line(tree, inner)} {_dotted(inner)}"
            if error["type"] == "extra_forbidden":
                problems.append(Problem(where, f'unknown key "{error["loc"][0]}" of {use.name}', _instead(technique, str(error["loc"][0]))))
            else:
                problems.append(Problem(where, error["msg"][0].lower() + error["msg"][1:], f"see: planish ls {shelf_name}"))
        return problems
    return []
