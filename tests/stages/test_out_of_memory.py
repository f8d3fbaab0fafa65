"""Training within a memory limit: the ladder of MISSION T8 on injected limits, its order, its state over a kill, its end, and what is not taken for running out of memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import make_tiny

from planish import pipeline
from planish.errors import RunFailed
from planish.events import EventType
from planish.model import loop, step
from planish.model.backbone import layers
from planish.model.curve import Step
from planish.model.ranks import ALONE
from planish.model.step import micro_batches
from planish.recipe import Recipe
from planish.recipe_train import TrainSection
from planish.stages import _within_memory
from planish.stages._context import read_json
from planish.stages._ready import Job, read_rows
from planish.stages._within_memory import within_memory

pytestmark = pytest.mark.usefixtures("here")
SECTION: dict[str, Any] = {
    "objective": "sft",
    "adapter": {"lora": {"r": 4}},
    "learning_rate": 1e-2,
    "max_steps": 4,
    "batch_size": 32,
    "validations": 0,
    "checkpoints": 4,
    "keep": "last",
    "precision": "fp32",
}
WORDS = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 100000000 bytes. Error code 12"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and the prepared data sets `short` (rows of equal length) and `long` (a quarter of the rows has ten times the tokens)."""
    folder = tmp_path_factory.mktemp("home")
    make_tiny(folder / "model", hidden=32)
    first = [chr(33 + n) + "0" for n in range(90)]  # rows share less than would be computed once
    short = [{"prompt": text, "completion": "good"} for text in first]
    long = [{"prompt": text + " phone" * (0 if n % 4 else 300), "completion": "good"} for n, text in enumerate(first)]
    for name, rows in (("short", short), ("long", long)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        head = f"recipe: 1\nmodel: model\ndata: {{path: {name}.jsonl, checks: [], split: {{gold: 0.4, validation: 0.1}}}}\nbaseline: [prompt]\n"
        (folder / f"{name}.yaml").write_text(head + "train:\n  - {objective: sft}\nevaluate: {scorers: [f1]}\n", encoding="utf-8")
        prepared = pipeline.run(Recipe.load(folder / f"{name}.yaml"), workspace=folder / "space", until="prepare").stages["prepare"].folder
        assert prepared is not None
        (folder / name).symlink_to(prepared)
    return folder


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """All in this process, where a limit can be injected; that the limit of a process is held is proved in test_memory_limit."""
    monkeypatch.setattr(_within_memory, "NEAR", 1e9)


class Heard:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[tuple[EventType, dict[str, Any]]] = []
        self.said: list[str] = []
        self.lines: list[Step] = []

    def event(self, type: EventType, body: dict[str, Any], severity: str = "info") -> None:
        self.events.append((type, body))

    def say(self, text: str) -> None:
        self.said.append(text)

    def begin(self, done: int, total: int) -> None:
        """Not asked about here."""

    def step(self, line: Step) -> None:
        self.lines.append(line)

    def bodies(self, kind: EventType) -> list[dict[str, Any]]:
        return [body for type, body in self.events if type is kind]

    @property
    def levers(self) -> list[str]:
        return [body["kind"] for body in self.bodies(EventType.TRAIN_OOM_RETRY)]


def job(home: Path, place: Path, data: str = "short", **given: Any) -> Job:
    section = TrainSection.model_validate({**SECTION, **given}).model_dump(mode="json")
    (place / "out").mkdir(parents=True, exist_ok=True)
    return Job(section, str(home / "model"), None, str((home / data).resolve()), str(place / "work"), str(place / "out"), str(home / "tokens"))


def row_tokens(home: Path, place: Path) -> int:
    """Input tokens of each row of `short`."""
    (tokens,) = {example.tokens for _, example in read_rows(job(home, place)).train}
    return tokens


def weights(place: Path) -> torch.Tensor:
    held = load_file(place / "out" / "adapter" / "adapter_model.safetensors")
    return torch.cat([held[name].flatten() for name in sorted(held)])


def allocator(monkeypatch: pytest.MonkeyPatch, limit: float, *, from_step: int = 0) -> None:
    """An allocator with a limit: a row of a micro-batch takes 4 units in fp32 and 2 in bf16, a quarter of it where activations are checkpointed."""
    real = step.one_step

    def one_step(state: Any, examples: Any, work: Any, rate: float) -> Any:
        rows = max(tree.sequences for tree, _ in micro_batches(examples, work.plan.micro_tokens, ALONE))
        checkpointed = any("forward" in vars(layer) for layer in layers(state.model))
        taken = rows * (4 if work.plan.precision == "fp32" else 2) / (4 if checkpointed else 1)
        if taken > limit and state.position.step >= from_step:
            raise RuntimeError(WORDS)
        return real(state, examples, work, rate)

    monkeypatch.setattr(loop, "one_step", one_step)


def test_t8_worked_number(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MISSION T8: 32 rows a step as 8 x 4; memory holds 4 rows of 4 units: 8x4 -> 4x8, effective 32 stays. The loss equals the run without it (1e-5), and so do the weights."""
    tokens = 8 * row_tokens(home, tmp_path)
    plain, eased = Heard(), Heard()
    within_memory(job(home, tmp_path / "plain", micro_tokens=tokens), plain)
    assert plain.levers == []
    allocator(monkeypatch, 16)
    within_memory(job(home, tmp_path / "eased", micro_tokens=tokens), eased)
    (lever,) = eased.bodies(EventType.TRAIN_OOM_RETRY)
    assert (lever["lever"], lever["before"], lever["after"], lever["effective"]) == (
        1,
        {"micro": 8, "accumulation": 4},
        {"micro": 4, "accumulation": 8},
        32,
    )
    assert "can't allocate memory" in lever["why"]
    assert [line.loss for line in eased.lines] == pytest.approx([line.loss for line in plain.lines], rel=1e-5)
    assert (weights(tmp_path / "eased") - weights(tmp_path / "plain")).norm() <= 1e-4 * weights(tmp_path / "plain").norm()
    report = read_json(tmp_path / "eased" / "out" / "report.json")
    assert report["section"]["micro_tokens"] == lever["recipe"]["micro_tokens"] == 4 * tokens // 8
    assert [one["kind"] for one in report["memory"]["levers"]] == ["halve_micro"]


def test_t8_levers_1_to_3_keep_the_loss_and_the_fourth_nearly(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MISSION T8: halving to one row a micro-batch (three times) and checkpointing leave 1 unit: equal to 1e-5. bf16 leaves 0.5: equal to 2 %. Lever 2 is said to be pulled."""
    tokens = 8 * row_tokens(home, tmp_path)
    plain, eased, last = Heard(), Heard(), Heard()
    within_memory(job(home, tmp_path / "plain", micro_tokens=tokens), plain)
    with monkeypatch.context() as limited:
        allocator(limited, 1)
        within_memory(job(home, tmp_path / "eased", micro_tokens=tokens), eased)
    assert eased.levers == ["halve_micro", "halve_micro", "halve_micro", "checkpoint_activations"]
    assert any("lever 2, to score trained rows only and in chunks, is always pulled" in line for line in eased.said)
    assert [line.loss for line in eased.lines] == pytest.approx([line.loss for line in plain.lines], rel=1e-5)
    allocator(monkeypatch, 0.5)
    within_memory(job(home, tmp_path / "last", micro_tokens=tokens), last)
    assert last.levers == [*eased.levers, "bf16"]
    assert [line.loss for line in last.lines] == pytest.approx([line.loss for line in plain.lines], rel=0.02)
    assert read_json(tmp_path / "last" / "out" / "report.json")["plan"]["precision"] == "bf16"


def test_t8_it_goes_on_from_the_checkpoint_after_two_in_a_row(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory runs out in step 3, and again after the first lever: two events, and steps 1 and 2 are not computed again."""
    allocator(monkeypatch, 8, from_step=2)
    heard = Heard()
    within_memory(job(home, tmp_path, micro_tokens=8 * row_tokens(home, tmp_path)), heard)
    assert heard.levers == ["halve_micro", "halve_micro"]
    assert [line.step for line in heard.lines] == [1, 2, 3, 4]
    assert [body["step"] for body in heard.bodies(EventType.TRAIN_RESUMED)] == [2, 2]


def test_t8_killed_on_the_way_down_it_goes_on_there(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut after the second lever and given again: the levers that were pulled stay pulled, and the end is that of a run that was not cut, bit for bit."""
    allocator(monkeypatch, 8, from_step=2)
    tokens = 8 * row_tokens(home, tmp_path)
    within_memory(job(home, tmp_path / "whole", micro_tokens=tokens), Heard())
    cut, again = Heard(), Heard()
    real = Heard.event

    def event(self: Heard, type: EventType, body: dict[str, Any], severity: str = "info") -> None:
        real(self, type, body, severity)
        if len(cut.levers) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as breaking:
        breaking.setattr(Heard, "event", event)
        with pytest.raises(KeyboardInterrupt):
            within_memory(job(home, tmp_path / "cut", micro_tokens=tokens), cut)
    within_memory(job(home, tmp_path / "cut", micro_tokens=tokens), again)
    assert again.levers == []
    assert any("going on with what an earlier start came to" in line for line in again.said)
    assert [line.step for line in again.lines] == [3, 4]
    assert torch.equal(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert [one["kind"] for one in read_json(tmp_path / "cut" / "out" / "report.json")["memory"]["levers"]] == ["halve_micro", "halve_micro"]


def test_t8_nothing_left_names_the_smallest(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MISSION T8: micro = 1, checkpointed, bf16 and still not enough: an error with the state and the levers that ask. Full fine-tuning: a LoRA is what fits."""
    allocator(monkeypatch, 0)
    tokens = 8 * row_tokens(home, tmp_path)
    heard = Heard()
    with pytest.raises(RunFailed) as failed:
        within_memory(job(home, tmp_path, micro_tokens=tokens, adapter="full", learning_rate=1e-3), heard)
    assert failed.value.reason_code == "out_of_memory"
    assert heard.levers[-2:] == ["checkpoint_activations", "bf16"]
    (problem,) = failed.value.problems
    assert "a micro-batch of 1 x " in problem.why
    assert "activations checkpointed" in problem.why
    assert "smallest" in problem.fix


def test_t8_what_changes_the_experiment_is_done_only_with_consent(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full fine-tuning where only a LoRA fits: with `on_out_of_memory: [lora]` it is trained from the start, at the LoRA's own rate, and the report says so."""
    real = step.one_step

    def one_step(state: Any, *rest: Any) -> Any:
        if all(parameter.requires_grad for parameter in state.model.parameters()) and state.position.step >= 1:
            raise MemoryError
        return real(state, *rest)

    monkeypatch.setattr(loop, "one_step", one_step)
    heard = Heard()
    within_memory(job(home, tmp_path, adapter="full", learning_rate=1e-3, micro_tokens=row_tokens(home, tmp_path), on_out_of_memory=["lora"]), heard)
    assert heard.levers == ["checkpoint_activations", "bf16", "lora"]
    assert any("from the start: other weights" in line for line in heard.said)
    report = read_json(tmp_path / "out" / "report.json")
    assert (report["adapter"], report["section"]["learning_rate"]) == ({"name": "lora", "options": {"r": 16}}, None)
    assert (tmp_path / "out" / "adapter").is_dir()
    assert [line.step for line in heard.lines][-4:] == [1, 2, 3, 4]


def test_t8_long_rows_are_left_out_whole_and_counted(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `drop_rows` the rows that do not fit, whose answers would be cut, are refused, each counted, and all others are trained as they are."""
    real = step.one_step

    def one_step(state: Any, examples: Any, *rest: Any) -> Any:
        if max(example.tokens for example in examples) > 250:
            raise MemoryError
        return real(state, examples, *rest)

    monkeypatch.setattr(loop, "one_step", one_step)
    heard = Heard()
    asked = job(home, tmp_path, "long", batch_size=8, max_steps=12, micro_tokens=256, on_out_of_memory=["drop_rows"])
    before = read_rows(asked)
    long = sum(example.tokens > 250 for _, example in before.train)
    assert long > 0
    within_memory(asked, heard)
    assert heard.levers[-1] == "drop_rows"
    report = read_json(tmp_path / "out" / "report.json")
    assert {one["code"] for one in report["refused"]} <= {"too_long", "answer_truncated"}
    assert len(report["refused"]) == long
    assert report["rows"] == len(before.train) - long


def test_t8_a_prediction_pulls_levers_before_the_first_step(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit one byte under the predicted peak: the first lever is pulled before anything runs, and its event says that it was predicted."""
    tokens = 8 * row_tokens(home, tmp_path)
    asked = job(home, tmp_path, micro_tokens=tokens)
    expected = _within_memory.expect(TrainSection.model_validate(asked.section), Path(asked.base), read_rows(asked), "cpu")
    assert (expected.setup.micro, expected.setup.accumulation, expected.setup.rows) == (8, 4, 32)
    assert expected.peak is not None
    heard = Heard()
    within_memory(job(home, tmp_path, micro_tokens=tokens, memory_limit=int(expected.peak) - 1), heard)
    (lever,) = heard.bodies(EventType.TRAIN_OOM_RETRY)
    assert (lever["kind"], lever["after"]) == ("halve_micro", {"micro": 4, "accumulation": 8})
    assert "predicted to take" in lever["why"]
    assert [line.step for line in heard.lines] == [1, 2, 3, 4]
    with pytest.raises(RunFailed, match="predicted to take") as failed:
        within_memory(job(home, tmp_path / "none", micro_tokens=tokens, memory_limit=1000), Heard())
    assert failed.value.reason_code == "out_of_memory"
    assert "the smallest configuration takes 0.5" in failed.value.problems[0].fix


def test_another_error_is_not_taken_for_memory(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(loop, "one_step", broken)
    heard = Heard()
    with pytest.raises(RuntimeError, match="shapes do not match"):
        within_memory(job(home, tmp_path), heard)
    assert heard.levers == []
