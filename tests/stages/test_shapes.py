"""Every task shape through prepare, baseline, train, evaluate and gate on a random two-layer model: mechanics only, what is asked and what is reported."""

from __future__ import annotations

import json
import math
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import make_tiny

from planish import pipeline, report
from planish.data import dataset, gold, task
from planish.errors import InputError
from planish.model import precision
from planish.model.chat import Chat
from planish.model.class_head import class_logits
from planish.model.preference import continuations
from planish.model.trained import open_trained
from planish.progress import Terminal
from planish.recipe import Recipe
from planish.recipe_evaluate import DecodingSection
from planish.recipe_train import TrainSection
from planish.scores import EvalReport
from planish.stages._context import read_json, read_reports
from planish.stages._deployment import live
from planish.store import Store

TOOLS_TEMPLATE = (
    "{% if tools %}{{ '<|im_start|>system\n' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
    "{% for c in m.get('tool_calls', []) %}{{ '<tool_call>' + ({'name': c.function.name, 'arguments': c.function.arguments} | tojson) + '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ROOM = 3
"""Tokens of an answer: a random model never ends one by itself."""

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
CITIES = ["Oslo", "Rome", "Lima", "Bern"]


def _row(shape: str, n: int) -> dict[str, Any]:
    city = CITIES[n % len(CITIES)]
    said = {"role": "user", "content": f"how is {city} on day {n}?"}
    called = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "weather", "arguments": {"city": city}}}]}
    return {
        "classification": {"text": f"phone {n} is {('good', 'bad')[n % 2]}", "label": ("good", "bad")[n % 2]},
        "qa": {"question": f"which city is number {n}?", "documents": [f"number {n} is {city}.", "the phone is good."], "answer": f"{city} [1]"},
        "extraction": {"text": f"in {city} on day {n}", "entities": [{"type": "city", "start": 3, "end": 3 + len(city)}]},
        "summarization": {"document": f"the phone {n} is good and the sound is bad in {city}", "summary": f"phone {n} good, sound bad"},
        "chat": {"messages": [said, {"role": "assistant", "content": f"day {n} is good"}]},
        "tools": {"messages": [said, called if n % 4 else {"role": "assistant", "content": f"which day, {n}?"}], "tools": [TOOL]},
        "reasoning": {"prompt": f"what is {n} + 1?", "completion": f"it is {n + 1}"},
        "preference": {"prompt": f"how is phone {n}?", "chosen": f"it is good, {n}", "rejected": f"bad bad {n}"},
    }[shape]


RECIPE = """\
recipe: 1
model: MODEL
data: {path: ROWS, task: SHAPE, split: {gold: 0.5}, checks: []}
baseline: [BASELINES]
train: [{objective: OBJECTIVE, adapter: {lora: {r: 2}}, learning_rate: 1e-2, max_steps: 2, batch_size: 4, validations: 0, checkpoints: 0, precision: fp32}]
evaluate: {SCORERS general: []}
"""


SHOWN = ("classification", "chat", "tools", "preference")
"""Shapes that are asked with examples as well: labels, turns, calls, pairs."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose template has a place for tools."""
    folder = make_tiny(tmp_path_factory.mktemp("shapes") / "model", hidden=32)
    (folder / "chat_template.jinja").write_text(TOOLS_TEMPLATE, encoding="utf-8")
    assert Chat.load(folder).template.arguments == "object"
    return folder


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    for shape, kind in task.KINDS.items():
        monkeypatch.setitem(task.KINDS, shape, kind._replace(max_new_tokens=ROOM))


def _recipe(home: Path, model: Path, shape: str, scorers: str = "", rows: list[dict[str, Any]] | None = None) -> Recipe:
    lines = rows or [_row(shape, n) for n in range(72)]
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    text = RECIPE.replace("SHAPE", shape).replace("OBJECTIVE", task.KINDS[shape].objective)
    text = text.replace("BASELINES", "prompt, {few_shot: {k: 2}}" if shape in SHOWN else "prompt")
    text = text.replace("MODEL", str(model)).replace("ROWS", "rows.jsonl").replace("SCORERS", f"scorers: {scorers}," if scorers else "")
    (home / "recipe.yaml").write_text(text, encoding="utf-8")
    return Recipe.load(home / "recipe.yaml")


def _reports(home: Path, recipe: Recipe, until: str = "gate") -> dict[str, EvalReport]:
    outcome = pipeline.run(recipe, workspace=home / "space", until=until)
    folders = [outcome.stages[stage].folder for stage in ("baseline", "evaluate") if stage in outcome.stages]
    return {name: report for folder in folders if folder is not None for name, report in read_reports(folder).items()}


OWN = {"qa": "[f1, exact, citation]", "reasoning": "[{verifier: {kind: exact}}]", "chat": "[f1, perplexity]"}


@pytest.mark.parametrize("shape", sorted(task.KINDS))
def test_d11_e1_every_shape_is_asked_trained_and_scored(shape: str, model: Path, tmp_path: Path) -> None:
    """MISSION D11, E1: with no scorer and no gate named they are the task's own; every system has the primary metric on the same gold, and a verdict is reached."""
    recipe = _recipe(tmp_path, model, shape, OWN.get(shape, ""))
    outcome = pipeline.run(recipe, workspace=tmp_path / "space", until="gate")
    folder = {stage: one.folder for stage, one in outcome.stages.items() if one.folder is not None}
    reports = {**read_reports(folder["baseline"]), **read_reports(folder["evaluate"])}
    assert set(reports) == {"prompt", "lora"} | ({"few_shot"} if shape in SHOWN else set())
    sealed = gold.read(dataset.read(folder["prepare"]).gold_path)
    filled = task.filled(recipe, shape)  # type: ignore[arg-type]
    primary = f"{filled.evaluate.scorers[0].name}.{task.METRICS[filled.evaluate.scorers[0].name][0]}"
    for one in reports.values():
        assert one.gold == sealed.sha256
        assert one.metrics[primary].n > 0
        assert len(one.scores) == len(sealed.samples) == 36
        cut = sum(score.detail["finish.length"] for score in one.scores) / 36
        assert one.metrics["finish.length"].value == pytest.approx(cut)
        generated = shape not in ("classification", "preference")
        assert (cut > 0.5) == generated, "a random model's free answers are cut, a choice is not, and E2 counts them"
        assert one.metrics["finish.too_long"].value == one.metrics["finish.failed"].value == 0
    verdict = read_json(folder["gate"] / "verdict.json")
    assert verdict["rules"][0]["rule"].startswith(primary)
    assert verdict["comparisons"][0]["metric"] == primary
    assert outcome.exit_code in (0, 3)


def test_e1_perplexity_and_bits_per_byte_are_of_the_reference(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MISSION E1, T2: the base's figures over the gold set are torch's cross-entropy of each reference after its prompt, to 1e-5; few-shot has its own, and no text is
    generated where nothing reads one."""
    import torch
    from transformers import LlamaForCausalLM

    monkeypatch.setattr(precision, "choose", lambda *_: "fp32")
    found = _reports(tmp_path, _recipe(tmp_path, model, "chat", "[perplexity]"), "evaluate")
    prepared = next(path for path in (tmp_path / "space").rglob("gold.json"))
    chat, network = Chat.load(model), LlamaForCausalLM.from_pretrained(model, dtype=torch.float32)
    nll, tokens, size = 0.0, 0, 0
    for sample in gold.read(prepared).samples:
        prompt = chat.prompt(sample.messages)
        ids = [*prompt, *chat.encode(sample.target), chat.end]
        with torch.no_grad():
            logits = network(torch.tensor([ids])).logits[0, len(prompt) - 1 : -1]
        nll += float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[len(prompt) :]), reduction="sum"))
        tokens, size = tokens + len(ids) - len(prompt), size + len(sample.target.encode())
    base = found["prompt"].metrics
    assert base["perplexity.perplexity"].value == pytest.approx(float(torch.tensor(nll / tokens).exp()), rel=1e-5)
    assert base["perplexity.bits_per_byte"].value == pytest.approx(nll / float(torch.tensor(2.0).log()) / size, rel=1e-5)
    assert found["few_shot"].metrics["perplexity.perplexity"].value != base["perplexity.perplexity"].value
    assert found["lora"].metrics["perplexity.perplexity"].value < base["perplexity.perplexity"].value
    assert all(score.answer is None for report in found.values() for score in report.scores)


def test_e1_preference_accuracy_of_the_base_is_chance_and_training_moves_it(model: Path, tmp_path: Path) -> None:
    """MISSION E1, P2: against itself the base ties on every pair, accuracy .5; a DPO run on separable pairs orders most of the held-out ones."""
    recipe = _recipe(tmp_path, model, "preference")
    longer = recipe.model_copy(update={"train": [recipe.train[0].model_copy(update={"max_steps": 20})]})
    found = _reports(tmp_path, longer)
    assert found["prompt"].metrics["pair_accuracy.accuracy"].value == 0.5
    assert all(score.value == 0.5 for score in found["prompt"].scores)
    assert found["lora"].metrics["pair_accuracy.accuracy"].value > 0.8


def test_e1_judged_answers_are_scored_without_a_partner(model: Path, tmp_path: Path) -> None:
    """MISSION E1, KTO: with no scorer named, single answers marked good or bad are held against the base, which has .5; a run on rows that can be told apart orders most."""
    rows = [{"prompt": f"how is phone {n}?", "completion": ("it is good", "bad bad bad")[n % 2], "label": n % 2 == 0} for n in range(144)]
    recipe = _recipe(tmp_path, model, "preference", rows=rows)
    section = {**recipe.train[0].model_dump(), "objective": "kto", "max_steps": 20}
    found = _reports(tmp_path, recipe.model_copy(update={"train": [TrainSection.model_validate(section)]}))
    assert all(score.value == 0.5 for score in found["prompt"].scores)
    assert found["lora"].metrics["pair_accuracy.accuracy"].value > 0.8
    assert found["lora"].metrics["pair_accuracy.margin"].value > 0
    assert "pair_accuracy.likelihood_accuracy" not in found["lora"].metrics


def test_p4_a_reward_model_is_judged_by_its_own_rewards(model: Path, tmp_path: Path) -> None:
    """MISSION P4: of held-out pairs, what the head says of both whole answers, not what the text model below it says; with calibration, the correlation with length, and
    whether it may be used. The reward of each gold pair is that of the loaded model, asked by itself."""
    recipe = _recipe(tmp_path, model, "preference")
    section = {**recipe.train[0].model_dump(), "objective": "reward", "adapter": {"head": {"kind": "reward", "unfreeze": 1}}, "max_steps": 20}
    outcome = pipeline.run(recipe.model_copy(update={"train": [TrainSection.model_validate(section)]}), workspace=tmp_path / "space", until="gate")
    folder = {stage: one.folder for stage, one in outcome.stages.items() if one.folder is not None}
    [found] = read_reports(folder["evaluate"]).values()
    said = read_json(folder["evaluate"] / "reward.json")
    assert found.metrics["pair_accuracy.accuracy"].value == said["accuracy"]["value"] > 0.8
    assert "pair_accuracy.likelihood_accuracy" not in found.metrics
    assert said["usable"] is True
    assert 0 <= said["calibration"] <= 1
    rewarded, chat = open_trained(model, folder["train"], "fp32"), Chat.load(model)
    sample = gold.read(dataset.read(folder["prepare"]).gold_path).samples[0]
    assert sample.pair is not None
    rows = [sequence.ids for sequence in continuations(sample.messages, sample.pair, chat)]
    better, worse = (float(class_logits(rewarded, [row], "fp32").detach()) for row in rows)
    score = next(score for score in found.scores if score.id == sample.id)
    assert score.detail["margin"] == pytest.approx(better - worse, abs=1e-4)
    assert score.detail["probability"] == pytest.approx(1 / (1 + math.exp(worse - better)), abs=1e-4)
    assert score.detail["longer"] == len(sample.pair[0][0].content.split()) - len(sample.pair[1][0].content.split())
    assert read_reports(folder["baseline"])["prompt"].metrics["pair_accuracy.accuracy"].value == 0.5
    assert read_json(folder["gate"] / "verdict.json")["decision"] == "ship"  # its interval lies above .5, which the base has


def test_p4_a_reward_that_learned_nothing_cannot_be_used(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """MISSION P4 Bad: what is chosen in one row is rejected in the next, so that no reward holds: an interval that covers .5, and the gate refuses it."""
    rows = [
        {"prompt": f"how is phone {n}?", **dict(zip(("chosen", "rejected")[:: 1 - 2 * (n // 2 % 2)], ("it is good", "bad bad bad"), strict=True))}
        for n in range(144)
    ]
    recipe = _recipe(tmp_path, model, "preference", rows=rows)
    section = {**recipe.train[0].model_dump(), "objective": "reward", "adapter": {"head": {"kind": "reward"}}}
    tried = recipe.model_copy(update={"train": [TrainSection.model_validate(section)]})
    outcome = pipeline.run(tried, workspace=tmp_path / "space", until="gate", progress=Terminal())
    folder = outcome.stages["evaluate"].folder
    assert folder is not None
    said = read_json(folder / "reward.json")
    assert said["accuracy"]["low"] < 0.5
    assert said["usable"] is False
    assert "CANNOT BE USED" in capsys.readouterr().err
    assert outcome.exit_code == 3


def test_e1_bad_references_are_refused_before_anything_is_asked(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MISSION E1 Bad: references without a word once normalised; every row is named, and no model was opened."""
    from planish.engines import transformers

    rows = [_row("qa", n) | ({"answer": "The"} if n % 8 == 0 else {}) for n in range(72)]
    monkeypatch.setattr(transformers, "start", lambda *_: pytest.fail("a model was opened"))
    with pytest.raises(InputError) as refused:
        pipeline.run(_recipe(tmp_path, model, "qa", rows=rows), workspace=tmp_path / "space", until="baseline")
    assert refused.value.problems
    assert all("empty after normalisation" in problem.why for problem in refused.value.problems)


def test_k1_tools_that_the_template_leaves_out_are_refused(tmp_path: Path) -> None:
    """MISSION K1 Bad, R-5: a model that cannot see the tools is not asked to call them."""
    plain = make_tiny(tmp_path / "model", hidden=32)
    with pytest.raises(InputError, match="leaves the tools out"):
        pipeline.run(_recipe(tmp_path, plain, "tools"), workspace=tmp_path / "space", until="baseline")


def test_e3_what_is_constrained_is_scored_without_it_too(model: Path, tmp_path: Path) -> None:
    """MISSION E3 Not: valid is not right, so the unconstrained score stands beside it. A mask of the right answers' form alone makes a random model's answers one of four
    cities; without it they are noise. The page shows both and the paired difference."""
    rows = [{"prompt": f"which city is number {n}?", "completion": CITIES[n % 4]} for n in range(72)]
    recipe = _recipe(tmp_path, model, "reasoning", "[{verifier: {kind: exact}}]", rows=rows)
    decoding = DecodingSection.model_validate({"constraint": {"choice": CITIES}, "max_new_tokens": 12})
    recipe = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"decoding": decoding})})
    outcome = pipeline.run(recipe, workspace=tmp_path / "space", until="gate")
    folder = outcome.stages["evaluate"].folder
    assert folder is not None
    [held] = read_reports(folder).values()
    free = EvalReport.model_validate(read_json(folder / "unconstrained.json"))
    assert {score.answer for score in held.scores} <= set(CITIES)
    assert not {score.answer for score in free.scores} & set(CITIES)
    assert (free.gold, len(free.scores)) == (held.gold, len(held.scores))
    page = report_of(tmp_path / "space", outcome.run_id)
    assert "Constraint" in page
    assert "paired, n=36" in page


REST = """\
gate: []
compress: {export: [{gguf: {quant: F16}}], gate: ["size_ratio < 2"]}
serve: {engine: {llamacpp: {context: 512, slots: 1, threads: 1}}, port: PORT}
observe: {every: 1d}
feedback: {}
"""


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["tools", "qa"])
def test_the_whole_line_of_a_generated_shape(shape: str, tmp_path: Path) -> None:
    """All nine stages: the file is scored by its answers, the endpoint is asked with the row's tools by the official client, and the gold re-run finds it healthy or
    undecided, never failed: what evaluation asked is what serving is asked."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = make_tiny(tmp_path / "model", hidden=64)
    (folder / "chat_template.jinja").write_text(TOOLS_TEMPLATE, encoding="utf-8")
    _recipe(tmp_path, folder, shape, "[tool_call]" if shape == "tools" else "[f1, citation]")
    with (tmp_path / "recipe.yaml").open("a", encoding="utf-8") as out:
        out.write(REST.replace("PORT", str(port)))
    try:
        outcome = pipeline.run(Recipe.load(tmp_path / "recipe.yaml"), workspace=tmp_path / "space", unproven=True)
        assert {one.status for one in outcome.stages.values()} == {"done"}
        at = {stage: one.folder for stage, one in outcome.stages.items() if one.folder is not None}
        [scored] = read_reports(at["compress"]).values()
        assert len(scored.scores) == 36
        answers = read_json(at["serve"] / "answers.json")
        assert len(answers) == 3
        assert all(answer["target"] and answer["finish"] in ("length", "stop", "tool_calls") for answer in answers)
        [check] = read_json(at["observe"] / "drift_check.json")
        assert (check["failed"], check["b"], check["c"]) == (0, 0, 0)
        assert "endpoint:" in report_of(tmp_path / "space", outcome.run_id)
    finally:
        store = Store(tmp_path / "space")
        for deployment in live(store):
            deployment.stop()
        store.close()


def report_of(workspace: Path, run_id: str) -> str:
    return report.write(workspace, run_id).read_text(encoding="utf-8")
