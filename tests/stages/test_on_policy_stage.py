"""On-policy distillation through the stages: the same as kd where no row is the student's, the same again when it is resumed, and refused before anything runs (MISSION S4)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import make_tiny

from planish import capture as capturing
from planish import shelf
from planish.capture import How
from planish.errors import InputError
from planish.model.curve import Step
from planish.recipe import Recipe
from planish.stages import _files, _ready, _tuning, train
from planish.stages._ready import Job
from planish.store import Store
from planish.store.objects import file_hash

ROWS = [{"messages": [{"role": "user", "content": f"the phone {n}"}, {"role": "assistant", "content": f"good sound {n}"}]} for n in range(90)]
ADAPTERS = {"full": "full", "lora": "{lora: {r: 4, dropout: 0.1}}"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The same bits whatever the machine, and no threads that wait for each other over matrices of 32 rows."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student, a wider teacher, rows, and the teacher's captured word on them."""
    folder = tmp_path_factory.mktemp("home")
    make_tiny(folder / "model", hidden=32)
    make_tiny(folder / "teacher", hidden=48)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    write(folder, "kd", "kd: {capture: held}")
    capturing.capture(Recipe.load(folder / "kd.yaml"), How(teacher="teacher", precision="fp32", mass=1.0), folder / "held", workspace=folder / "space")
    return folder


def write(home: Path, name: str, objective: str, adapter: str = "full", more: str = "") -> Path:
    """A recipe of one entry: 8 rows a step, two validations, three checkpoints, fp32."""
    settings = "learning_rate: 5e-3, batch_size: 8, precision: fp32, validations: 2, checkpoints: 3, micro_tokens: 64"
    entry = f"{{objective: {{{objective}}}, adapter: {ADAPTERS[adapter]}, {settings}, {more or 'max_steps: 6'}}}"
    data = "data: {path: rows.jsonl, task: chat, split: {gold: 0.5, validation: 0.1}, checks: []}"
    path = home / f"{name}.yaml"
    path.write_text(f"recipe: 1\nmodel: model\n{data}\ntrain: [{entry}]\n", encoding="utf-8")
    return path


def job(home: Path, recipe: Path, place: Path) -> Job:
    """The recipe's only entry over its prepared rows."""
    read = Recipe.load(recipe)
    section = _files.placed(read, read.train[0])
    data = capturing.prepared(read, home / "space")
    return Job(section.model_dump(mode="json"), str(home / "model"), None, str(data.folder), str(place / "work"), str(place / "out"), str(home / "tokens"))


class Heard:
    """Keeps every step; with `stop`, the run dies there as a killed one does."""

    def __init__(self, stop: int | None = None) -> None:
        self.lines, self.stop = list[Step](), stop

    def event(self, type: object, body: dict[str, object], severity: str = "info") -> None:
        """Not asked about here."""

    def say(self, text: str) -> None:
        """Not asked about here."""

    def begin(self, done: int, total: int) -> None:
        """Not asked about here."""

    def step(self, line: Step) -> None:
        self.lines.append(line)
        if line.step == self.stop:
            raise KeyboardInterrupt


def tuned(home: Path, recipe: Path, place: Path, stop: int | None = None) -> tuple[list[Step], str]:
    """The steps of a run and the hash of the weights it left."""
    heard = Heard(stop)
    (place / "out").mkdir(parents=True, exist_ok=True)
    try:
        _tuning.tune(job(home, recipe, place), heard)
    except KeyboardInterrupt:
        return heard.lines, ""
    (weights,) = (place / "out").glob("*/*.safetensors")
    return heard.lines, file_hash(weights)


def told(line: Step) -> dict[str, Any]:
    """What a step says, without what the machine's load changes."""
    return {key: value for key, value in asdict(line).items() if key not in ("tok_s", "memory_mb")}


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_s4_lambda_0_is_kd_bit_for_bit(home: Path, tmp_path: Path, adapter: str) -> None:
    """S4, Ex: lambda_on 0 reproduces S2: every loss, gradient norm, validation and figure of six steps, and the bytes of the weights, with dropout and three micro-batches a step.
    The teacher is not even loaded."""
    weights = "ce_weight: 0.3, kd_weight: 0.7, direction: jsd"
    one, mine = tuned(home, write(home, f"kd-{adapter}", f"kd: {{capture: held, {weights}}}", adapter), tmp_path / "kd")
    recipe = write(home, f"zero-{adapter}", f"on_policy_kd: {{teacher: teacher, capture: held, lambda_on: 0, {weights}}}", adapter)
    two, other = tuned(home, recipe, tmp_path / "zero")
    assert mine == other
    added = {"on_policy": 0.0, "sampled_tokens": 0.0, "cut": 0.0, "no_room": 0.0}
    assert [told(line) | {"metrics": line.metrics | added} for line in one] == [told(line) for line in two]
    section = Recipe.load(recipe).train[0]
    assert shelf.call("objectives", "on_policy_kd", "frozen", section.objective.options)(None) is None


@pytest.mark.parametrize("capture", ["", "capture: held, "])
def test_s4_a_student_learns_from_its_own_text(home: Path, tmp_path: Path, capture: str) -> None:
    """S4: each step says the divergence, the sampled tokens, the cut answers and the share of rows; half the rows are the student's; the divergence on its own text falls."""
    objective = f"on_policy_kd: {{teacher: teacher, {capture}max_new_tokens: 8, on_weight: 2.0}}"
    lines, _ = tuned(home, write(home, "half", objective, more="max_steps: 30"), tmp_path)
    assert {line.metrics["on_policy"] for line in lines} == {0.5}
    for line in lines:
        assert 4 <= line.metrics["sampled_tokens"] <= 4 * 9
        assert 0 <= line.metrics["cut"] <= 4
        assert line.metrics["coverage"] == pytest.approx(1)
        assert {"divergence", "ce", "kd", "entropy", "no_room"} <= line.metrics.keys()
    first, last = ([line.metrics["divergence"] for line in part] for part in (lines[:5], lines[-5:]))
    assert sum(last) < 0.8 * sum(first)
    checked = next(line for line in lines if line.validation_loss is not None)
    assert "divergence" not in checked.validation_metrics  # validation rows keep their own answers


def test_s4_the_loss_of_a_step_is_the_sum_of_its_parts(home: Path, tmp_path: Path) -> None:
    """S4: with N_on sampled and N_off kept tokens: loss = (N_on * divergence + N_off * (.5 ce + .5 kd)) / (N_on + N_off), from the step's own figures."""
    recipe = write(home, "parts", "on_policy_kd: {teacher: teacher, lambda_on: 0.25, max_new_tokens: 6}")
    lines, _ = tuned(home, recipe, tmp_path)
    ready = _ready.make_ready(job(home, recipe, tmp_path / "other"))
    assert ready.rollout is not None
    from planish.model.plan import batch_rows

    rows = [ready.examples[row] for row in batch_rows(ready.plan, 0)]
    rolled = ready.rollout(rows, 0)
    share = sum(example.share for example in rolled.examples)
    own, line = rolled.figures["sampled_tokens"], lines[0]
    assert own == line.metrics["sampled_tokens"]
    assert line.metrics["on_policy"] == 0.25
    want = (own * line.metrics["divergence"] + (share - own) * (0.5 * line.metrics["ce"] + 0.5 * line.metrics["kd"])) / share
    assert line.loss == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("stop", [4])
def test_s4_a_resumed_run_samples_the_same(home: Path, tmp_path: Path, stop: int) -> None:
    """T10 with sampling: killed before a step's checkpoint is written, and given again: the same weights bit for bit, the same figures, LoRA with dropout, several
    micro-batches a step."""
    recipe = write(home, "resume", "on_policy_kd: {teacher: teacher, max_new_tokens: 6, top_p: 0.9}", "lora")
    whole, want = tuned(home, recipe, tmp_path / "whole")
    before, _ = tuned(home, recipe, tmp_path / "killed", stop)
    after, found = tuned(home, recipe, tmp_path / "killed")
    assert after[0].step == stop
    assert found == want
    kept = {line.step: told(line) for line in (*before, *after)}
    assert [kept[line.step] for line in whole] == [told(line) for line in whole]


def test_s4_accumulation_changes_nothing(home: Path, tmp_path: Path) -> None:
    """T6 with sampling: rows are sampled for the whole step, so that one micro-batch or many give the same loss and gradient to 1e-5."""
    lines = []
    for micro in (64, 4096):
        recipe = write(home, f"micro-{micro}", "on_policy_kd: {teacher: teacher, max_new_tokens: 6}")
        recipe.write_text(recipe.read_text(encoding="utf-8").replace("micro_tokens: 64", f"micro_tokens: {micro}"), encoding="utf-8")
        lines.append(tuned(home, recipe, tmp_path / str(micro))[0][0])
    assert lines[0].loss == pytest.approx(lines[1].loss, rel=1e-5)
    assert lines[0].grad_norm == pytest.approx(lines[1].grad_norm, rel=1e-5)
    assert lines[0].metrics == pytest.approx(lines[1].metrics, rel=1e-5)


def test_the_hidden_state_term_through_the_stage(home: Path, tmp_path: Path) -> None:
    """A student of its teacher's width, without sampling: kd with hidden states, whose distance is reported and falls. One of another width is refused with the fix."""
    make_tiny(home / "shallow", hidden=48, layers=1)
    objective = "on_policy_kd: {teacher: teacher, capture: held, lambda_on: 0, hidden_weight: 5.0, hidden: mse}"
    recipe = write(home, "hidden", objective, more="max_steps: 20")
    with pytest.raises(InputError, match="32 values, the teacher's 48"):
        tuned(home, recipe, tmp_path / "narrow")
    at = job(home, recipe, tmp_path / "same")
    (tmp_path / "same" / "out").mkdir(parents=True)
    heard = Heard()
    _tuning.tune(Job(**{**asdict(at), "base": str(home / "shallow")}), heard)
    assert heard.lines[-1].metrics["hidden"] < 0.9 * heard.lines[0].metrics["hidden"]


@pytest.mark.parametrize(
    ("objective", "more", "why"),
    [
        ("on_policy_kd: {teacher: https://api.example.com/v1}", "", "not of given ones"),
        ("on_policy_kd: {teacher: nowhere}", "", "is no bundled model"),
        ("on_policy_kd: {teacher: teacher}", "launch: {ranks: 2}", "one process write"),
        ("on_policy_kd: {teacher: teacher, lambda_on: 2}", "", "lambda_on: is 2"),
        ("on_policy_kd: {teacher: teacher, hidden_weight: 1}", "", "32 values, the teacher's 48"),
        ("on_policy_kd: {teacher: teacher, capture: held, temperature: 3}", "", "3 was not captured"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(home: Path, objective: str, more: str, why: str) -> None:
    recipe = Recipe.load(write(home, "refused", objective, more=more))
    with pytest.raises(InputError, match=why) as refused:
        train.preflight(recipe, Store(home / "space"))
    assert refused.value.problems[0].where.startswith("train[0].")


def test_a_run_depends_on_its_teachers_weights(home: Path) -> None:
    """R-10: another teacher under the same name is another run."""
    recipe = Recipe.load(write(home, "depends", "on_policy_kd: {teacher: copy}"))
    make_tiny(home / "copy", hidden=48)
    before = train.options(recipe)
    assert before == train.options(recipe)
    torch.manual_seed(0)
    make_tiny(home / "copy", hidden=64)
    assert train.options(recipe) != before


def test_memory_is_planned_with_the_teacher_and_the_longest_samples(home: Path, tmp_path: Path) -> None:
    """T7: a teacher of n parameters in fp32 is 4 n bytes more, and rows are counted as long as sampling may make them; kd from a capture needs neither."""
    from safetensors.numpy import load_file

    from planish.model import memory
    from planish.model.chat import Chat
    from planish.recipe_train import TrainSection
    from planish.rows import Message
    from planish.stages._within_memory import expect

    def of(name: str, objective: str) -> Any:
        at = job(home, write(home, name, objective), tmp_path)
        section = TrainSection.model_validate(at.section)
        return expect(section, Path(at.base), _ready.read_rows(at), "cpu")

    chat = Chat.load(home / "model")
    weights = sum(array.size for array in load_file(home / "teacher" / "model.safetensors").values())
    plain = of("planned-kd", "kd: {capture: held}")
    beside = of("planned", "on_policy_kd: {teacher: teacher, max_new_tokens: 50}")
    assert memory.estimate(beside.shape, beside.setup).bytes("beside") == 4 * weights
    assert memory.estimate(plain.shape, plain.setup).bytes("beside") == 0
    assert beside.setup.scored == 51
    # of 8 rows a step the student writes 4: prompts of "the phone 80" and 50 tokens with an end, 2 layers x 2 x 16 values (2 heads of 8) x 4 B
    longest = max(len(chat.prompt((Message(role="user", content=row["messages"][0]["content"]),))) for row in ROWS) + 51
    assert 4 * (longest - 2) * 2 * 2 * 16 * 4 <= memory.estimate(beside.shape, beside.setup).bytes("kv") <= 4 * longest * 2 * 2 * 16 * 4
    assert of("planned-zero", "on_policy_kd: {teacher: teacher, capture: held, lambda_on: 0}").setup == plain.setup
