"""Continued pretraining in a run: documents beside task rows, gold kept out of them, the control without it, and the word on whether it helped."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import make_tiny

from planish import pipeline
from planish.errors import InputError, RunFailed
from planish.evidence.cpt_verdict import StageReport
from planish.model import bundled, same_tokens
from planish.recipe import Recipe
from planish.stages import _documents
from planish.stages._context import read_json

CPT = "{objective: {cpt: {block: 64}}, documents: documents, adapter: {lora: {r: 4}}, max_steps: 4, batch_size: 2, validations: 2, checkpoints: 0, precision: fp32}"
SFT = "{objective: sft, adapter: {lora: {r: 4}}, learning_rate: 1e-3, max_steps: 4, batch_size: 8, validations: 0, checkpoints: 0, precision: fp32}"
WORDS = ["red", "blue", "green", "old", "new", "small", "large", "quick", "slow", "warm", "cold", "round", "flat", "long", "short", "bright", "dark"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A model, 160 labelled rows and 40 documents of other words."""
    make_tiny(tmp_path / "model")
    draw = random.Random(3)
    rows = [{"text": " ".join(draw.choices(WORDS, k=20)), "label": ("good", "bad")[place % 2]} for place in range(160)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "documents").mkdir()
    for place in range(40):
        said = " ".join(draw.choices(["the", "phone", "sound", "review", "is", "and", "not", "heard", "here"], k=40))
        (tmp_path / "documents" / f"{place}.txt").write_text(said, encoding="utf-8")
    return tmp_path


def recipe(home: Path, *entries: str, general: str = "[]") -> Recipe:
    head = "recipe: 1\nmodel: model\ndata: {path: rows.jsonl, labels: [good, bad], split: {gold: 0.3}, checks: [duplicates]}\nbaseline: [majority]\ntrain:\n"
    tail = f'evaluate: {{scorers: [label], general: {general}, decoding: {{max_new_tokens: 2}}}}\ngate: ["label.accuracy >= 0.99"]\n'
    (home / "recipe.yaml").write_text(head + "".join(f"  - {entry}\n" for entry in entries) + tail, encoding="utf-8")
    return Recipe.load(home / "recipe.yaml")


def folder_of(home: Path, asked: Recipe, until: str) -> Path:
    folder = pipeline.run(asked, workspace=home / "work", until=until).stages[until].folder
    assert folder is not None
    return folder


def trained(home: Path, *entries: str) -> Path:
    return folder_of(home, recipe(home, *entries), "train")


def test_c1_documents_are_trained_and_some_are_held_out(home: Path) -> None:
    """40 documents: 2 are held out (one of 20), no id of which is trained; blocks are what a batch counts; the defaults of C1 are in the report."""
    out = trained(home, CPT)
    report = read_json(out / "report.json")
    held = [json.loads(line)["id"] for line in (out / "domain.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(held) == 2
    assert report["section"]["warmup"] == 0.05
    assert report["plan"]["learning_rate"] == 1e-4
    tokens = report["trained_tokens"]
    assert report["rows"] >= tokens / 64
    assert report["tokens_in"] == tokens
    warned = warnings_of(home)
    assert any("tokens of documents: under 1,000,000" in said for said in warned)
    assert any("no general rows are replayed" in said for said in warned)


def warnings_of(home: Path) -> list[str]:
    """What the runs in this workspace were warned of."""
    from planish.events import EventType
    from planish.store import Store

    store = Store(home / "work")
    found = [str(event.body["what"]) for run in store.runs() for event in store.events(run["id"]) if event.type is EventType.TRAIN_WARNED]
    store.close()
    return found


def test_c1_general_rows_are_the_share_of_the_loss_that_was_asked(home: Path) -> None:
    report = read_json(trained(home, CPT.replace("max_steps", "replay: {share: 0.2}, max_steps")) / "report.json")
    assert report["replay"]["loss_share"] == pytest.approx(0.2)
    assert not any("replayed" in said for said in warnings_of(home))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (CPT.replace("documents: documents, ", ""), r"train\[0\]\.documents: is missing: cpt reads documents"),
        (SFT.replace("adapter:", "documents: documents, adapter:"), r"train\[0\]\.documents: sft learns from the rows of data"),
        (CPT.replace("max_steps", "max_length: 64, max_steps"), r"train\[0\]\.max_length: has no place here"),
        (CPT.replace("block: 64", "block: 1024"), r"train\[0\]\.objective\.cpt\.block: is 1024, and the model reads 512"),
        (CPT.replace("documents: documents", "documents: nowhere"), r"train\.documents: .*nowhere: there is no such file"),
        (CPT.replace("max_steps", "replay: {rows: self}, max_steps"), r"train\[0\]\.replay\.rows: the base's own answers"),
    ],
    ids=["none", "for-sft", "max-length", "block", "missing", "self"],
)
def test_c1_what_does_not_fit_is_refused_before_anything_runs(home: Path, entry: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        trained(home, entry)
    assert not (home / "work" / "artifacts").exists()


def test_c1_chat_rows_are_refused(home: Path) -> None:
    """C1 Bad: dialogues are no documents; each is named with its line."""
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (home / "chat.jsonl").write_text(json.dumps(chat) + "\n", encoding="utf-8")
    with pytest.raises((InputError, RunFailed), match=r"chat\.jsonl:1"):
        trained(home, CPT.replace("documents: documents", "documents: chat.jsonl"))


def test_d9_gold_in_the_documents_is_left_out_or_refused(home: Path) -> None:
    """One gold text among the documents is above 1 % of 48 gold rows: refused; a held text of the general suite is left out and said."""
    from planish.data import dataset, general

    prepared = folder_of(home, recipe(home, CPT), "prepare")
    gold = next(iter(dataset.every_row(dataset.read(prepared), "gold")))
    (home / "documents" / "leak.txt").write_text(f"before it {gold.text} and behind it", encoding="utf-8")
    with pytest.raises((InputError, RunFailed), match="gold rows stand in the documents"):
        trained(home, CPT)
    (home / "documents" / "leak.txt").write_text(general.rows(["held_out_text"])[0].text, encoding="utf-8")
    out = folder_of(home, recipe(home, CPT, general="[held_out_text]"), "train")
    assert any(said.startswith("documents: 1 of 41 left out") for said in warnings_of(home))
    assert read_json(out / "report.json")["refused"] == []


def test_a_plan_of_an_entry_over_documents_counts_its_blocks(home: Path) -> None:
    """Blocks of 64, 2 a batch, room for 2048 // 64 = 32: a micro-batch of 2 x 64 tokens, all trained."""
    from planish.plan import micro_batch

    asked = recipe(home, CPT)
    assert micro_batch(asked, asked.train[0], home / "model") == (2, 64, 64)


def test_documents_are_each_read_once(home: Path) -> None:
    (home / "documents" / "again.txt").write_text((home / "documents" / "0.txt").read_text(encoding="utf-8"), encoding="utf-8")
    assert len(_documents.read(home / "documents")) == 40


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["{lora: {r: 4}}", "{lora: {r: 2}}"], ids=["same-adapter", "another-adapter"])
def test_c3_two_stages_and_their_control_on_the_same_gold(home: Path, adapter: str) -> None:
    """C3 Proof, on a tiny model end to end: stage 2 starts from stage 1's hash; the control is the SFT alone from the base; every stage is scored on the same gold; four
    steps of each prove nothing, and the word is that CPT was not the problem."""
    asked = recipe(home, CPT, SFT.replace("{lora: {r: 4}}", adapter))
    gate = folder_of(home, asked, "gate")
    out = folder_of(home, asked, "train")
    first, second, control = (read_json(place / "report.json") for place in (out / "entries" / "0", out, out / "without_cpt"))
    if adapter == "{lora: {r: 4}}":
        assert second["started_from"] == {"base": bundled.identity(home / "model"), "start": first["weights"]}
    else:
        assert second["started_from"]["start"] is None
        assert second["started_from"]["base"] not in (None, bundled.identity(home / "model"))
    assert control["started_from"] == {"base": bundled.identity(home / "model"), "start": None}
    assert control["plan"] == second["plan"]
    found = StageReport.model_validate(read_json(gate / "stage_report.json"))
    assert found.stages == ["1-cpt", "without_cpt", "lora"]
    assert {metric.n for metric in found.task.values()} == {48}
    assert set(found.domain) == {"base", "1-cpt", "lora"}
    assert (found.ci.candidate, found.ci.reference, found.verdict) == ("lora", "without_cpt", "no_benefit")
    assert found.sentence.endswith("keep without_cpt.")
    verdict = read_json(gate / "verdict.json")
    assert verdict["decision"] != "ship"
    assert "without_cpt" in {system["system"] for system in verdict["systems"]}


@pytest.mark.slow
def test_c1_cpt_alone_is_judged_against_the_base_on_gold(home: Path) -> None:
    """C1: the domain's loss falls, which is not what decides: the task on gold does."""
    gate = folder_of(home, recipe(home, CPT.replace("max_steps: 4", "learning_rate: 1e-2, max_steps: 40")), "gate")
    found = StageReport.model_validate(read_json(gate / "stage_report.json"))
    assert found.domain_change is not None
    assert found.domain_change.high < 0
    assert found.stages == ["base", "lora"]
    assert (found.verdict, found.ci.reference) == ("no_benefit", "base")
    assert "CPT was not your problem: no benefit" in found.sentence


def test_c3_template_tokens_that_changed_between_stages_are_refused(tmp_path: Path) -> None:
    """C3 Bad: another template, and another end of a turn, each named."""
    one, other = make_tiny(tmp_path / "one"), make_tiny(tmp_path / "other")
    same_tokens.require(one, other, "train[1]")
    template = other / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8").replace("<|im_start|>", "<|turn|>"), encoding="utf-8")
    config: dict[str, Any] = json.loads((other / "tokenizer_config.json").read_text(encoding="utf-8"))
    (other / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": "<|endoftext|>"}), encoding="utf-8")
    with pytest.raises(InputError) as refused:
        same_tokens.require(one, other, "train[1]")
    said = [problem.why for problem in refused.value.problems]
    assert [why.partition(" changed")[0] for why in said] == ["the chat template", "the tokens that end a turn", "special tokens"]


def gathered(folder: Path, *texts: str) -> Path:
    """A file of documents as `gather` leaves it; ids are their places, which is the order of holding out."""
    from planish.data.table import line_of
    from planish.rows import Origin, TextRow

    rows = [TextRow(id=f"document-{place:02}", origin=Origin(file="x", line=place + 1, sha256="0" * 64), text=text) for place, text in enumerate(texts)]
    (folder / "documents.jsonl").write_bytes(b"".join(line_of(row) for row in rows))
    return folder / "documents.jsonl"


def held_of(folder: Path, *texts: str) -> list[str]:
    return [row.id for row in _documents.divided(gathered(folder, *texts))[1]]


def test_c1_neither_an_empty_document_nor_most_of_the_text_is_held_out(tmp_path: Path) -> None:
    """By their ids the first is next to be held out: not where it is empty, of one letter, or holds most of the text. Of 1,000 + 2 x 20 characters the mean is 346.7; of 3 x 100
    a tenth is 30 and the mean 100, so that the first stays the one."""
    assert held_of(tmp_path, "", "a", "long " * 200, "short text of its own", "another short text.") == ["document-03"]
    assert held_of(tmp_path, "long " * 200, "two short lines here", "and two others there") == ["document-01"]
    assert held_of(tmp_path, *["x" * 100] * 3) == ["document-00"]
    assert held_of(tmp_path, "x" * 300, *["y" * 100] * 19) == ["document-01"]  # 300 of 2,200 is more than a tenth
    assert held_of(tmp_path, "x" * 200, *["y" * 100] * 19) == ["document-00"]  # 200 of 2,100 is less
    assert held_of(tmp_path, "", "one document alone") == []


def test_c1_empty_and_one_token_documents_do_not_end_a_run(home: Path) -> None:
    """An empty file and one of a letter or one word among four documents: the run gets to its verdict, and what cannot be trained is said with its reason."""
    for place in range(2, 40):
        (home / "documents" / f"{place}.txt").unlink()
    for name, text in {"empty": "", "blank": " \n", "letter": "a", "word": "is"}.items():
        (home / "documents" / f"{name}.txt").write_text(text, encoding="utf-8")
    asked = recipe(home, CPT.replace("max_steps: 4", "max_steps: 1").replace("batch_size: 2", "batch_size: 1"), SFT.replace("max_steps: 4", "max_steps: 1"))
    outcome = pipeline.run(asked, workspace=home / "work", until="evaluate")
    assert outcome.stages["evaluate"].folder is not None
    assert any("2 no_scored_tokens" in said for said in warnings_of(home))


def test_c1_a_document_that_spells_a_special_token_is_named(home: Path) -> None:
    (home / "documents" / "0.txt").write_text("the phone <|im_end|> here is the sound", encoding="utf-8")
    trained(home, CPT)
    assert any("1 of 40 spell <|im_end|>, which is read and trained as that token" in said for said in warnings_of(home))
