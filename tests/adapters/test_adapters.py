"""Every adapter of the shelf: the base at step 0, gradients where they belong, files that open again, merged equals attached (MISSION A, all entries)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.adapters.shelf_of_adapters import OPTIONS, PEFTS, ROWS, attached, log_probs, moved, said, tuned
from torch import nn

from planish import shelf
from planish.data.tree import build
from planish.errors import InputError
from planish.model.account import account
from planish.model.chat import Chat
from planish.model.class_head import class_logits
from planish.model.layout import use_plain, use_tree
from planish.model.load import load
from planish.model.optimizer import trainable
from planish.model.policy import score
from planish.model.trained import changed, load_adapter, merged, open_trained, output_change, outputs, save

NAMES = sorted(shelf.shelf("adapters"))


def module(name: str) -> Any:
    return shelf.find("adapters", name).load()


def test_every_adapter_is_tested() -> None:
    assert sorted(OPTIONS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_identity_at_step_0(biased: Path, name: str) -> None:
    """The base's answers, bit for bit (dora: up to the rounding of its norm), or the adapter says why not."""
    base, model = said(load(biased, "fp32")), attached(biased, name)
    own = said(model)[: len(base)]
    reason = getattr(module(name), "UNLIKE_BASE", "")
    if reason:
        assert not torch.allclose(own, base)
    elif name == "dora":
        assert torch.allclose(own, base, atol=1e-5)
    else:
        assert torch.equal(own, base)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_reaches_every_trained_tensor_and_no_frozen_one(biased: Path, name: str) -> None:
    model = tuned(biased, name)
    loss = log_probs(model).sum()
    if name == "head":
        loss = loss + class_logits(model, [row.ids for row in ROWS], "fp32")[:, 0].sum()
    loss.backward()
    own = trainable(model)
    assert account(model).trainable == sum(p.numel() for p in own.values())
    for key, parameter in model.named_parameters():
        if key in own:
            assert parameter.grad is not None, key
            assert parameter.grad.any(), key
        else:
            assert parameter.grad is None, key


@pytest.mark.parametrize("name", NAMES)
def test_tree_equals_rows_alone(biased: Path, name: str) -> None:
    """The tree's log-probabilities and gradients are those of plain rows in the model's own attention, one by one (1e-5)."""
    model = tuned(biased, name)
    log_probs(model).sum().backward()
    ours = {key: p.grad.clone() for key, p in trainable(model).items() if p.grad is not None}
    together = log_probs(model).detach()
    model.zero_grad()
    use_plain(model)
    alone = []
    for row in ROWS:
        logits = model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0]
        alone += [logits[place - 1].log_softmax(-1)[row.ids[place]] for place in row.scored]
    torch.stack(alone).sum().backward()
    use_tree(model)
    assert torch.allclose(together, torch.stack(alone).detach(), atol=1e-5)
    for key, gradient in ours.items():
        theirs = trainable(model)[key].grad
        assert theirs is not None
        assert (gradient - theirs).norm() <= 1e-5 * theirs.norm().clamp_min(1e-3), key


@pytest.mark.parametrize("name", [name for name in NAMES if name != "full"])
def test_trained_tensors_are_fp32_on_a_half_precision_base(biased: Path, name: str) -> None:
    """The frozen base is kept in bf16, what is trained and its gradient in fp32; answers stay near those of the fp32 base."""
    torch.manual_seed(1)
    half = moved(shelf.call("adapters", name, "attach", OPTIONS[name])(load(biased, "bf16")))
    own = outputs(half, ROWS, "bf16")
    assert {parameter.dtype for parameter in trainable(half).values()} == {torch.float32}
    assert {parameter.dtype for parameter in half.parameters() if not parameter.requires_grad} >= {torch.bfloat16}
    score(half, build(ROWS), "bf16").log_prob.sum().backward()
    assert {parameter.grad.dtype for parameter in trainable(half).values() if parameter.grad is not None} == {torch.float32}
    assert float((own - said(tuned(biased, name))).abs().mean()) < 0.25


@pytest.mark.parametrize("name", NAMES)
def test_generation_with_a_cache_equals_the_whole_row(biased: Path, name: str) -> None:
    """Token by token, as the reference engine asks, and all at once: the same logits."""
    model = tuned(biased, name)
    use_plain(model)
    ids, past, steps = ROWS[0].ids, None, []
    with torch.inference_mode():
        for token in ([*ids[:3]], [ids[3]], [ids[4]]):
            output = model(input_ids=torch.tensor([token]), past_key_values=past, use_cache=True, logits_to_keep=1)
            past = output.past_key_values
            steps.append(output.logits[0, -1])
        whole = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, 2:]
    assert torch.allclose(torch.stack(steps), whole, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_opened_again_is_the_same(biased: Path, tmp_path: Path, name: str) -> None:
    """To the bit, and with no path of this machine in its files."""
    model = tuned(biased, name)
    save(model, Chat.load(biased), tmp_path, biased)
    assert torch.equal(said(open_trained(biased, tmp_path, "fp32"))[: len(said(model))], said(model))
    if name != "full":
        text = (tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8")
        assert str(biased) not in text
        assert json.loads(text)["base_model_name_or_path"].startswith("sha256:")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("full", "p_tuning")])
def test_training_goes_on_from_the_files(biased: Path, tmp_path: Path, name: str) -> None:
    """What was saved is put into a new adapter of the same options: a next entry of the train list begins there."""
    model = tuned(biased, name)
    save(model, Chat.load(biased), tmp_path, biased)
    next_one = attached(biased, name)
    load_adapter(next_one, tmp_path / "adapter")
    assert torch.equal(said(next_one), said(model))
    assert trainable(next_one).keys() == trainable(model).keys()


def test_p_tuning_does_not_go_on_from_its_files(biased: Path, tmp_path: Path) -> None:
    save(tuned(biased, "p_tuning"), Chat.load(biased), tmp_path, biased)
    with pytest.raises(InputError, match="without the network"):
        load_adapter(attached(biased, "p_tuning"), tmp_path / "adapter")
    load_adapter(attached(biased, "prompt"), tmp_path / "adapter")


def in_peft(folder: Path, base: Path) -> torch.Tensor:
    """Every scored token's log-probability by PEFT's own loading and forward pass, a row at a time."""
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(plain, str(folder), config=PeftConfig.from_pretrained(str(folder))).eval()
    found = []
    with torch.inference_mode():
        for row in ROWS:
            logits = theirs(input_ids=torch.tensor([row.ids]), attention_mask=torch.ones(1, len(row.ids), dtype=torch.long)).logits[0][-len(row.ids) :]
            found += [logits[place - 1].log_softmax(-1)[row.ids[place]] for place in row.scored]
    return torch.stack(found)


@pytest.mark.parametrize("name", PEFTS)
def test_peft_opens_our_files_and_answers_the_same(biased: Path, tmp_path: Path, name: str) -> None:
    model = tuned(biased, name)
    save(model, Chat.load(biased), tmp_path, biased)
    assert torch.allclose(in_peft(tmp_path / "adapter", biased), said(model), atol=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in (*PEFTS, "full")])
def test_peft_refuses_by_name_what_it_does_not_know(biased: Path, tmp_path: Path, name: str) -> None:
    """A loader that took the files and did nothing would be worse."""
    save(tuned(biased, name), Chat.load(biased), tmp_path, biased)
    with pytest.raises((KeyError, ValueError), match=name.upper()):
        in_peft(tmp_path / "adapter", biased)


@pytest.mark.parametrize("name", NAMES)
def test_merged_equals_attached_or_is_refused(biased: Path, tmp_path: Path, name: str) -> None:
    """MISSION A12: within 1e-4 in fp32, saved and loaded as a plain model; kinds that are no weights of the base say so."""
    model = tuned(biased, name)
    save(model, Chat.load(biased), tmp_path, biased)
    if module(name).MERGES:
        whole: Any = merged(biased, tmp_path)
        assert output_change(said(whole), said(model)) < 1e-4
        whole.save_pretrained(tmp_path / "whole")
        assert output_change(said(load(tmp_path / "whole", "fp32")), said(model)) < 1e-4
    else:
        with pytest.raises(InputError, match="cannot be merged"):
            merged(biased, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_that_does_nothing_shows_no_change(biased: Path, name: str) -> None:
    """Untrained, neither weights nor outputs move; moved, both do. LoRA whose A moves while B stays zero changes weights and no answer: only the outputs tell."""
    model = attached(biased, name)
    start, before = {key: p.detach().clone() for key, p in trainable(model).items()}, said(model)
    assert changed(model, start) == 0
    assert output_change(before, said(model)) == 0
    moved(model)
    assert changed(model, start) > 0
    assert output_change(before, said(model)) > 0


def test_weights_that_move_and_change_no_answer(biased: Path) -> None:
    """Peers' pain: lora_B stays zero, the loss falls by other means, and the file is as good as empty."""
    model = attached(biased, "lora")
    start, before = {key: p.detach().clone() for key, p in trainable(model).items()}, said(model)
    with torch.no_grad():
        for key, parameter in trainable(model).items():
            if "lora_A" in key:
                nn.init.normal_(parameter)
    assert changed(model, start) > 0
    assert output_change(before, outputs(model, ROWS, "fp32")) == 0
