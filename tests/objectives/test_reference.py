"""Reference log-probabilities: of the starting model, once, kept by content for every run of a workspace, and never of the model in training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import make_tiny
from tests.model.runs import adapted, plan
from tests.objectives.answers import PAIRS, scored

from planish.adapters import full, lora
from planish.data.tree import Sequence, build
from planish.errors import RunFailed
from planish.model import loop, reference
from planish.model.backbone import base_of
from planish.model.chat import Chat
from planish.model.example import Example
from planish.model.load import load
from planish.model.reference import StartingModel
from planish.objectives import dpo

BASE = {"base": "x"}


def sequences(tiny: Path) -> list[Sequence]:
    chat = Chat.load(tiny)
    return [sequence for row in PAIRS for sequence in dpo.encode(row, chat).sequences]


def plain(model: torch.nn.Module, sequence: Sequence) -> float:
    """transformers' own log-probability of the scored tokens, one row at a time."""
    base_of(model).set_attn_implementation("sdpa")
    with torch.no_grad():
        logits = model(torch.tensor([sequence.ids])).logits[0, :-1].log_softmax(-1)
    picked = logits.gather(1, torch.tensor(sequence.ids[1:])[:, None])[:, 0]
    return float((picked * torch.tensor(sequence.weights[1:])).sum())


def test_they_are_the_bases_with_the_adapter_off(tiny: Path, tmp_path: Path) -> None:
    """An adapter away from zero, with dropout: what is kept is what the base alone says, to 1e-4 of sums of some tens, and the adapter is on again."""
    model, base, rows = adapted(tiny).train(), load(tiny, "fp32"), sequences(tiny)
    values = StartingModel(model, BASE, tmp_path / "r", "fp32", micro_tokens=32)(rows)
    assert values == pytest.approx([plain(base, row) for row in rows], abs=1e-4)
    assert model.training
    assert plain(model.eval(), rows[0]) != pytest.approx(values[0], abs=1e-3)


def test_an_adapter_to_go_on_from_is_its_own_reference(tiny: Path, tmp_path: Path) -> None:
    """A second stage is measured against what the first one made, not against the base."""
    model, rows = adapted(tiny).eval(), sequences(tiny)
    values = StartingModel(model, BASE, tmp_path / "r", "fp32", continued=True)(rows)
    assert values == pytest.approx([plain(model, row) for row in rows], abs=1e-4)


@pytest.mark.parametrize("start", ["pissa", "full"])
def test_a_start_that_is_part_of_the_weights_stays(start: str, tiny: Path, tmp_path: Path) -> None:
    """PiSSA moves a part of the base into the adapter, and full training has none: as they start, both are the base."""
    model = lora.attach(load(tiny, "fp32"), r=4, init="pissa") if start == "pissa" else full.attach(load(tiny, "fp32", trained=True))
    rows = sequences(tiny)
    values = StartingModel(model, BASE, tmp_path / "r", "fp32")(rows)
    assert values == pytest.approx([plain(load(tiny, "fp32"), row) for row in rows], abs=1e-3)


def test_a_loftq_start_is_the_reference_itself(tmp_path: Path) -> None:
    """LoftQ's adapter holds what 4 bits lost of the base and is not zero at the start: switched off, another model than the one training starts from would speak."""
    pytest.importorskip("bitsandbytes")
    wide = make_tiny(tmp_path / "wide", hidden=128, tied=False)
    model, rows = lora.attach(load(wide, "fp32", four_bit=True), r=4, init="loftq"), sequences(wide)
    values = StartingModel(model, BASE, tmp_path / "r", "fp32")(rows)
    assert values == pytest.approx([plain(model, row) for row in rows], abs=1e-3)
    with model.disable_adapter():
        off = [plain(model, row) for row in rows]
    assert max(abs(one - other) for one, other in zip(values, off, strict=True)) > 1e-2


def test_they_are_kept_by_content(tiny: Path, tmp_path: Path) -> None:
    """A second run sends no token through the model and reads the same numbers; another base, another precision or another mask is another key."""
    model, rows, folder = lora.attach(load(tiny, "fp32"), r=4), sequences(tiny), tmp_path / "r"
    first = StartingModel(model, BASE, folder, "fp32")
    values = first([*rows, rows[0]])
    assert first.figures == {"sequences": len(rows), "computed": len(rows), "tokens": first.tokens, "spoilt": 0}
    assert 0 < first.tokens <= sum(len(row.ids) for row in rows)
    assert values[-1] == values[0]
    again = StartingModel(model, BASE, folder, "fp32")
    assert again(rows) == values[:-1]
    assert (again.computed, again.tokens) == (0, 0)
    changed = Sequence(rows[0].ids, (*rows[0].weights[:-1], 0.0))
    for other, wanted in (
        (StartingModel(model, {"base": "y"}, folder, "fp32"), rows[:1]),
        (StartingModel(model, BASE, folder, "bf16"), rows[:1]),
        (StartingModel(model, BASE, folder, "fp32"), [changed]),
    ):
        other(wanted)
        assert other.computed == 1


def test_a_changed_row_is_the_only_one_computed(tiny: Path, tmp_path: Path) -> None:
    """One sequence of the second run is new: as many tokens as it has, less the last, which predicts nothing, go through the model."""
    model, rows, folder = lora.attach(load(tiny, "fp32"), r=4), sequences(tiny), tmp_path / "r"
    values = StartingModel(model, BASE, folder, "fp32")(rows)
    new = Sequence((*rows[2].ids[:-1], rows[2].ids[-1] + 1), rows[2].weights)
    again = StartingModel(model, BASE, folder, "fp32")
    found = again([*rows[:2], new, *rows[3:]])
    assert (again.computed, again.tokens) == (1, len(build([new]).ids))
    assert [*found[:2], *found[3:]] == [*values[:2], *values[3:]]
    assert found[2] == pytest.approx(plain(load(tiny, "fp32"), new), abs=1e-4)


def test_another_adapter_on_the_same_base_finds_them(tiny: Path, tmp_path: Path) -> None:
    """The fresh adapter is off, so its rank and its seed are no part of the key; those of a start that cannot be switched off are."""
    rows, folder = sequences(tiny), tmp_path / "r"
    small, large = (lora.attach(load(tiny, "fp32"), r=r) for r in (4, 8))
    StartingModel(small, BASE, folder, "fp32", adapter={"r": 4})(rows)
    again = StartingModel(large, BASE, folder, "fp32", adapter={"r": 8})
    again(rows)
    assert again.computed == 0
    for model, continued in ((lora.attach(load(tiny, "fp32"), r=4, init="pissa"), False), (small, True)):
        own = StartingModel(model, BASE, folder, "fp32", adapter={"r": 4}, continued=continued)
        own(rows[:1])
        assert own.computed == 1
        other = StartingModel(model, BASE, folder, "fp32", adapter={"r": 4, "seed": 1}, continued=continued)
        other(rows[:1])
        assert other.computed == 1


@pytest.mark.parametrize("spoil", [lambda data: data[:-30], lambda data: data.replace(b"-", b"+", 1), lambda data: b""])
def test_a_spoilt_file_is_computed_anew(spoil: Callable[[bytes], bytes], tiny: Path, tmp_path: Path) -> None:
    """Cut, one byte changed, or empty: nothing of it is believed, the numbers are those of the model again, and the file is whole again."""
    model, rows, folder = lora.attach(load(tiny, "fp32"), r=4), sequences(tiny), tmp_path / "r"
    values = StartingModel(model, BASE, folder, "fp32")(rows)
    (path,) = folder.rglob("*.json")
    data = path.read_bytes()
    path.write_bytes(spoil(data))
    again = StartingModel(model, BASE, folder, "fp32")
    assert again(rows) == values
    assert (again.computed, again.figures["spoilt"]) == (len(rows), 1)
    assert path.read_bytes() == data


def test_a_kill_in_the_middle_leaves_nothing_half_written(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before the second of its files has its name: the first is whole and is read, what the second would have held is computed, and no file beside them has a
    name that is read."""
    monkeypatch.setattr(reference, "AT_ONCE", 4)
    model, rows, folder = lora.attach(load(tiny, "fp32"), r=4), sequences(tiny), tmp_path / "r"
    renamed, files = Path.replace, list[Path]()

    def killed(self: Path, target: Path) -> Path:
        if files:
            raise KeyboardInterrupt
        files.append(target)
        return renamed(self, target)

    with monkeypatch.context() as cut:
        cut.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            StartingModel(model, BASE, folder, "fp32")(rows)
    assert list(folder.rglob("*.json")) == files
    again = StartingModel(model, BASE, folder, "fp32")
    assert again(rows) == pytest.approx([plain(load(tiny, "fp32"), row) for row in rows], abs=1e-4)
    assert (again.computed, again.figures["spoilt"]) == (len(rows) - 4, 0)


def test_a_model_that_gives_no_number_is_refused(tiny: Path, tmp_path: Path) -> None:
    """NaN is neither kept nor trained against."""
    model = lora.attach(load(tiny, "fp32"), r=4)
    with torch.no_grad():
        base_of(model).model.norm.weight.fill_(math.nan)
    with pytest.raises(RunFailed, match="no finite log-probability"):
        StartingModel(model, BASE, tmp_path / "r", "fp32")(sequences(tiny))
    assert not list(tmp_path.rglob("*.json"))


def test_dpo_learns_in_the_loop(tiny: Path, tmp_path: Path) -> None:
    """8 pairs, 40 steps: the loss starts at ln 2 and falls below .3, the held-out figures are there, and figures of a step split over micro-batches are its means."""
    chat = Chat.load(tiny)
    model = lora.attach(load(tiny, "fp32"), r=4)
    start = StartingModel(model, BASE, tmp_path / "r", "fp32")
    examples = dpo.prepare([dpo.encode(row, chat) for row in PAIRS], start)
    lines: list[loop.Step] = []
    made = plan(len(PAIRS), max_steps=40, micro_tokens=64, schedule="constant")
    more: dict[str, Any] = {"meaning": {}, "validation": examples[:3], "on_step": lines.append}
    loop.train(model, examples, dpo.loss, made, tmp_path / "work", **more)
    assert lines[0].loss == pytest.approx(math.log(2), abs=1e-5)
    assert lines[-1].loss < 0.3
    assert lines[-1].metrics["accuracy"] == 1
    assert lines[-1].metrics["margin"] > 1
    assert lines[-1].validation_metrics["accuracy"] == 1
    written = [json.loads(line) for line in (tmp_path / "work" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert written[-1]["metrics"] == lines[-1].metrics


def test_figures_do_not_depend_on_the_micro_batch(tiny: Path) -> None:
    """Loss and every figure of all pairs in one tree, and of one pair a tree, divided by the pairs: equal to 1e-5."""
    chat = Chat.load(tiny)
    examples = dpo.prepare([dpo.encode(row, chat) for row in PAIRS], lambda rows: [-20.0] * len(rows))
    model = adapted(tiny).eval()
    made = plan(len(PAIRS), epochs=1)
    whole, apart = (loop.mean_loss(model, examples, dpo.loss, replace(made, micro_tokens=size)) for size in (10**6, 8))
    assert whole == pytest.approx(apart, rel=1e-5)
    together = dpo.loss(scored(model, examples)).metrics
    single = [dpo.loss(scored(model, [Example(example.sequences, 1.0)])).metrics for example in examples]
    assert together == pytest.approx({name: sum(part[name] for part in single) for name in together}, rel=1e-4)
