"""Vocabulary extension: which words, what their rows are, that old text keeps its ids, and what is refused."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import make_tiny
from typer.testing import CliRunner

from planish.cli import app
from planish.errors import InputError
from planish.model import new_tokens
from planish.model.chat import Chat
from planish.model.extend import extend
from planish.model.new_tokens import Forecast, NewToken

DOMAIN = ["photosynthesis", "chloroplast", "mitochondria"]


def texts(count: int = 40) -> list[str]:
    draw = random.Random(1)
    return [" ".join(draw.choices([*DOMAIN, "the", "phone", "is", "good"], k=30)) + ", 12%" for _ in range(count)]


def weights(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto")


def test_c2_the_words_that_cost_most_are_found_by_hand(tiny: Path) -> None:
    """C2: tokens / words by hand. " chloroplast" and its like are 3 or more pieces; ranked by count x (pieces - 1); the fertility after is that of the real new ids."""
    chat = Chat.load(tiny)
    written = ["chloroplast good " * 30, "is chloroplast"]
    found = new_tokens.find(chat, written, 10, least_count=20)
    (one,) = [token for token in found.new if token.text == " chloroplast"]
    pieces = chat.encode(" chloroplast")
    assert (one.count, list(one.pieces)) == (30, pieces)  # 29 inside the first text, 1 in the second; the first word has no space before it
    assert one.saved == 30 * (len(pieces) - 1)
    assert found.words == 62
    assert found.tokens == sum(len(chat.encode(text)) for text in written)
    assert found.fertility[0] == pytest.approx(found.tokens / 62)
    assert found.fertility[1] == pytest.approx((found.tokens - one.saved) / 62)


def test_c2_worked_numbers() -> None:
    """C2 Ex: 1,000 tokens at H = 576, tied: 1,000 x 576 = 576,000 parameters; twice that where the head is its own."""
    assert new_tokens.parameters(1000, 576, tied=True) == 576_000
    assert new_tokens.parameters(1000, 576, tied=False) == 1_152_000


@pytest.mark.parametrize("tied", [True, False])
def test_c2_a_new_row_is_the_mean_of_its_pieces(tied: bool) -> None:
    """C2 Ex: pieces (1,0) and (0,1) -> (.5,.5), in the embeddings and in a head of its own; old rows stay."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": 2, "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=4, tie_word_embeddings=tied, **shape))
    embeddings = model.get_input_embeddings().weight
    with torch.no_grad():
        embeddings[1], embeddings[2] = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    before, head = embeddings.detach().clone(), model.get_output_embeddings().weight.detach().clone()
    assert new_tokens.grow(model, 4, [NewToken("ab", "ab", 1, (1, 2))]) == 1
    after = model.get_input_embeddings().weight
    assert after[4].tolist() == [0.5, 0.5]
    assert torch.equal(after[:4], before)
    assert torch.equal(model.get_output_embeddings().weight[:4], head)
    torch.testing.assert_close(model.get_output_embeddings().weight[4], head[[1, 2]].mean(0))
    assert (model.get_output_embeddings().weight is after) is tied


def test_a_padded_vocabulary_has_room() -> None:
    """Six rows and four tokens: two new tokens take the spare rows and nothing grows; a third one makes one row."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape: dict[str, Any] = {"hidden_size": 2, "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=6, **shape))
    new = [NewToken(name, name, 1, (0, 1)) for name in ("a", "b", "c")]
    assert new_tokens.grow(model, 4, new[:2]) == 0
    assert new_tokens.grow(model, 4, new) == 1


def full(folder: Path, *, tied: bool = True) -> Path:
    """The tiny model without its spare rows: as many as its tokenizer has tokens, 311."""
    model = weights(make_tiny(folder, tied=tied))
    model.resize_token_embeddings(311)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """The tiny model, the same with the domain's words, and what was written of it."""
    home = tmp_path_factory.mktemp("vocabulary")
    base = full(home / "model")
    (home / "out").mkdir()
    found = new_tokens.find(Chat.load(base), texts(), 10)
    return base, home / "out", extend(base, texts(), found, home / "out")


def test_c2_old_text_keeps_its_ids_and_new_words_are_one(extended: tuple[Path, Path, dict[str, Any]]) -> None:
    """C2 Proof: text without a new word has the very same ids, also where it holds parts of one; in text with them each is one id, and is read back."""
    base, out, about = extended
    before, after = Chat.load(base), Chat.load(out)
    for old in ["the phone is good", "photo synthesis chloro plasts", "Chloroplasty photosynthesised", "<|im_start|>user\nx<|im_end|>\n", "été 😀 x=1\n\n  y"]:
        assert after.encode(old) == before.encode(old)
    assert {entry["token"] for entry in about["new"]} == {f"Ġ{word}" for word in DOMAIN}
    ids = after.encode("a chloroplast is")
    assert max(ids) >= about["first"] == 311
    assert after.decode(ids) == "a chloroplast is"
    assert about["fertility"][1] == pytest.approx(sum(len(after.encode(text)) for text in texts()) / about["words"])
    assert about["fertility"][1] < about["fertility"][0]


def test_c2_the_folder_is_a_plain_model_with_its_old_rows(extended: tuple[Path, Path, dict[str, Any]]) -> None:
    """Opened by transformers alone: three rows more than 311, the old ones bit for bit, the new ones the means; the parameters are 3 x 48."""
    base, out, about = extended
    old, new = weights(base).get_input_embeddings().weight, weights(out).get_input_embeddings().weight
    assert new.shape[0] == 314
    assert torch.equal(new[:311], old)
    for place, entry in enumerate(about["new"]):
        torch.testing.assert_close(new[311 + place], old[entry["pieces"]].mean(0))
    assert (about["grown"], about["parameters"]) == (3, 3 * 48)
    told = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert told["vocab_size"] == 314


def test_c2_new_rows_are_trained_first_and_alone(tmp_path: Path) -> None:
    """20 steps: the loss falls, the three new rows move, and not one bit of anything else."""
    base = full(tmp_path / "model", tied=False)
    found = new_tokens.find(Chat.load(base), texts(), 10)
    for name, steps in (("mean", 0), ("trained", 20)):
        (tmp_path / name).mkdir()
        about = extend(base, texts(), found, tmp_path / name, steps=steps)
    assert sum(about["losses"][-5:]) < sum(about["losses"][:5])
    mean, trained = (weights(tmp_path / name).state_dict() for name in ("mean", "trained"))
    for name, tensor in mean.items():
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            assert torch.equal(tensor[:311], trained[name][:311])
            assert not torch.equal(tensor[311:], trained[name][311:])
        else:
            assert torch.equal(tensor, trained[name])


def test_c2_an_id_clash_is_refused(tiny: Path) -> None:
    """C2 Bad: a token that is in the vocabulary, one that is an added token, and one that is asked for twice: all named at once."""
    tokenizer = json.loads((tiny / "tokenizer.json").read_text(encoding="utf-8"))
    asked = [NewToken(name, name, 1, (3, 4)) for name in ("a", "<|im_end|>", "neu", "neu")]
    with pytest.raises(InputError) as refused:
        new_tokens.extended(tokenizer, asked)
    assert [problem.where for problem in refused.value.problems] == ["token 'a'", "token '<|im_end|>'", "token 'neu'"]


def test_c2_a_new_token_in_the_template_is_refused(tmp_path: Path) -> None:
    """A word that the template writes around turns would change every prompt."""
    base, out = make_tiny(tmp_path / "model"), tmp_path / "out"
    out.mkdir()
    before = Chat.load(base)
    pieces = tuple(before.encode("assistant"))
    assert len(pieces) > 1
    with pytest.raises(InputError, match="the chat template: a new token stands in what it writes"):
        extend(base, [], Forecast((NewToken("assistant", "assistant", 30, pieces),), 100, 300), out)


def test_c2_advice_to_skip() -> None:
    """C2 Not: 9 % of 20M tokens is too little saving, 40 % of 1M too little text, 40 % of 20M speaks for it: 8M saved of 20M = .4."""
    one = NewToken("a", "a", 900_000, (1, 2, 3))
    assert one.saved == 1_800_000
    assert "saves 9.0% of the tokens" in str(Forecast((one,), 10, 20_000_000).advice)
    assert "1,000,000 tokens of documents are too few" in str(Forecast((NewToken("a", "a", 200_000, (1, 2, 3)),), 10, 1_000_000).advice)
    assert Forecast((NewToken("a", "a", 4_000_000, (1, 2, 3)),), 10, 20_000_000).advice is None


def test_c2_an_adapter_that_does_not_save_new_rows_is_refused(extended: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    """C2 Bad: LoRA on rows that are still a mean; full training passes, and so does a folder whose rows were trained, and any other model."""
    base, out, about = extended
    (problem,) = new_tokens.refusals(out, ["lora"])
    assert "lora neither trains nor saves the 3 new rows" in problem.why
    assert new_tokens.refusals(out, ["full"]) == new_tokens.refusals(base, ["lora"]) == []
    (tmp_path / new_tokens.ABOUT).write_text(json.dumps(about | {"steps": 20}), encoding="utf-8")
    assert new_tokens.refusals(tmp_path, ["lora"]) == []


def test_a_tokenizer_without_words_is_refused(tmp_path: Path) -> None:
    """A BPE that merges over whole texts, as sentencepiece ones do."""
    folder = make_tiny(tmp_path / "model")
    raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps(raw | {"pre_tokenizer": None}), encoding="utf-8")
    with pytest.raises(InputError, match="merges over whole texts, without words"):
        new_tokens.find(Chat.load(folder), texts(), 10)


def test_the_verb_says_skip_and_writes_when_told(tmp_path: Path) -> None:
    """Too few documents: exit code 3 and nothing written; --anyway writes a folder that opens."""
    full(tmp_path / "model")
    (tmp_path / "domain.txt").write_text("\n".join(texts()), encoding="utf-8")
    words = ["vocabulary", "extend", str(tmp_path / "model"), "--documents", str(tmp_path / "domain.txt"), "--out", str(tmp_path / "out"), "--json"]
    skipped = CliRunner().invoke(app, words)
    assert skipped.exit_code == 3
    assert json.loads(skipped.stdout)["folder"] is None
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(app, [*words, "--anyway"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["parameters"] == 3 * 48
    assert Chat.load(tmp_path / "out").encode(" chloroplast")[0] >= 311


def test_c2_a_word_that_the_chat_template_writes_stays_in_its_pieces(tiny: Path, tmp_path: Path) -> None:
    """The template writes "user" and "assistant" around turns, in many pieces; documents that say them often are extended by other words, and a dialogue's ids stay."""
    chat = Chat.load(tiny)
    written = ["\nuser\nassistant\nsystem chloroplast" * 30]
    found = new_tokens.find(chat, written, 10)
    assert len(chat.encode("assistant")) >= 3
    assert [token.text for token in found.new] == [" chloroplast"]
    about = extend(tiny, written, found, tmp_path / "extended")
    assert about["added"] == 1


def test_c2_rows_of_an_earlier_extension_stay_untrained(tiny: Path, tmp_path: Path) -> None:
    """Three words without steps, then one more with steps, which train that one alone: three rows are still the mean of their pieces, and LoRA is refused as before."""
    chat = Chat.load(tiny)
    first, second = tmp_path / "first", tmp_path / "second"
    extend(tiny, texts(), new_tokens.find(chat, texts(), 3), first)
    assert new_tokens.untrained(first) == 3
    more = ["the phone hyperparathyroidism is good " * 30]
    extend(first, more, new_tokens.find(Chat.load(first), more, 1), second, steps=1)
    assert new_tokens.untrained(second) == 3
    (problem,) = new_tokens.refusals(second, ["lora"])
    assert "the 3 new rows" in problem.why
