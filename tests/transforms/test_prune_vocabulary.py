"""Vocabulary trimming (MISSION Z11): the same tokens and the same logits on kept text, a map of ids, a rise in tokens refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.transforms.conftest import tuned
from tests.transforms.test_prune_structured import SMOLLM2, loaded, smollm2

from planish.errors import InputError
from planish.model.cut_folder import Source
from planish.model.units import Cut, layout, parameters, units_of, whole
from planish.model.vocabulary import MAP, Vocabulary, fertility, with_new_ids
from planish.shelf import call
from planish.stages._prune import Removal, cut_of, prune, trim

TEXTS = ["<|im_start|>user\nthe phone is good<|im_end|>\n", "the sound is bad", "negative sentence"]
OTHER = ["neutral positive review", "positive positive positive"]


def cut_to(folder: Path, texts: list[str] = TEXTS, **keys: Any) -> Cut:
    source, words = Source(folder), Vocabulary(folder)
    counts = words.counted(texts, source.units.vocabulary)
    cut: Cut = call("transforms", "vocabulary", "transform", keys)(whole(source.units), counts, words.required, words.parts)
    return cut


@pytest.fixture(scope="module")
def trimmed(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trimmed") / "out"
    prune(Source(tiny), cut_to(tiny), Removal(), out, words=Vocabulary(tiny))
    return out


def test_z11_same_ids_after_the_map_and_equal_logits_on_kept_rows(tiny: Path, trimmed: Path) -> None:
    """MISSION Z11 Proof: the old ids of kept text, mapped, are the new ids; the logits of the kept rows are those of the whole model (1e-5)."""
    from transformers import AutoTokenizer

    old, new = AutoTokenizer.from_pretrained(tiny), AutoTokenizer.from_pretrained(trimmed)
    kept = json.loads((trimmed / MAP).read_text())["kept"]
    moved = {number: place for place, number in enumerate(kept)}
    before, after = loaded(tiny), loaded(trimmed)
    for text in TEXTS:
        ids = old(text, add_special_tokens=False).input_ids
        assert [moved[number] for number in ids] == new(text, add_special_tokens=False).input_ids
        with torch.no_grad():
            one = before(torch.tensor([ids])).logits[..., kept]
            other = after(torch.tensor([[moved[number] for number in ids]])).logits
        assert torch.allclose(one, other, atol=1e-5, rtol=0)
    assert len(kept) < 300 < before.config.vocab_size
    assert new.decode(new("déjà vu 你好").input_ids) == "déjà vu 你好"  # every byte is still a token


def test_ids_in_the_configurations_move_with_their_tokens(tiny: Path, trimmed: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    new = AutoTokenizer.from_pretrained(trimmed)
    config, generation = AutoConfig.from_pretrained(trimmed), GenerationConfig.from_pretrained(trimmed)
    assert config.eos_token_id == generation.eos_token_id == new.convert_tokens_to_ids("<|im_end|>")
    assert new.chat_template == AutoTokenizer.from_pretrained(tiny).chat_template
    assert with_new_ids({"eos_token_id": [7, 3], "top_k": 7}, [3, 7]) == {"eos_token_id": [1, 0], "top_k": 7}


def test_what_is_cut_after_the_vocabulary_keeps_its_map(trimmed: Path, tmp_path: Path) -> None:
    """Its ids are still those of the trimmed vocabulary, so distillation and speculation need the map (MISSION Z11); so does a plain folder made of it for others."""
    source, removal = Source(trimmed), Removal(layers=1)
    prune(source, cut_of(source.units, removal, {"layers": None}), removal, tmp_path / "out")
    made = call("exporters", "safetensors", "export", {})(tmp_path / "out", tmp_path / "package")
    assert (tmp_path / "package" / made.file / MAP).read_bytes() == (tmp_path / "out" / MAP).read_bytes() == (trimmed / MAP).read_bytes()


def test_the_merge_closure_by_hand(tiny: Path) -> None:
    """Of "the" stay t, h, e and whatever its merges make on the way: "th" or "he"; a byte has no parts but itself."""
    words = Vocabulary(tiny)
    made = {token for token, number in words.ids.items() if number in words.parts(words.ids["Ġthe"])}
    assert {"Ġ", "t", "h", "e", "Ġthe"} < made
    assert any("".join(merge) in made and set(merge) <= made for merge in words.merges if "".join(merge) == "Ġthe")
    assert words.parts(words.ids["a"]) == {words.ids["a"]}


def test_z11_ex_smollm2_to_16384_tokens() -> None:
    """MISSION Z11 Ex: 49,152 - 16,384 = 32,768 rows of 576 tied values = 18,874,368 of 134,515,008 (14.0 %)."""
    entries = smollm2()
    units = units_of(SMOLLM2, entries, "smollm2")
    cut = call("transforms", "vocabulary", "transform", {"keep": 16384})(whole(units), torch.zeros(49152, dtype=torch.long), range(17), lambda number: {number})
    assert cut.vocabulary is not None
    assert len(cut.vocabulary) == 16384
    before = parameters({name: (entry.dtype, entry.shape) for name, entry in entries.items()})
    saved = before - parameters(layout(entries, units, cut))
    assert (saved, round(saved / before, 3)) == (18_874_368, 0.140)


def test_frequent_tokens_come_first_then_the_earliest() -> None:
    """By hand: 10 tokens, 0 and 1 required; counts 5 for 9, 3 for 8 whose part is 4. Of 4 the second does not fit with its part, so the earliest id 2 does."""
    counts = torch.zeros(10, dtype=torch.long)
    counts[9], counts[8] = 5, 3
    parts = {8: {8, 4}}

    def take(**keys: Any) -> Any:
        start = Cut((0,), ((0,),), ((0,),))
        return call("transforms", "vocabulary", "transform", keys)(start, counts, {0, 1}, lambda number: parts.get(number, {number})).vocabulary

    assert take(keep=4) == (0, 1, 2, 9)
    assert take(keep=5) == (0, 1, 4, 8, 9)
    assert take() == (0, 1, 4, 8, 9)
    assert take(above=3) == (0, 1, 9)
    for wrong in ({"keep": 1}, {"keep": 10}, {"above": -1}):
        with pytest.raises(InputError, match="must stay"):
            take(**wrong)


def test_z11_bad_a_rise_of_more_than_3_percent_is_refused(tiny: Path) -> None:
    """MISSION Z11 Bad: words that the counted text never had fall into bytes: the held-out text takes more tokens, and trimming is refused before anything is written."""
    source, words = Source(tiny), Vocabulary(tiny)
    with pytest.raises(InputError, match="more tokens"):
        trim(source, words, whole(source.units), TEXTS, OTHER, above=0)
    cut, measured = trim(source, words, whole(source.units), TEXTS + OTHER, TEXTS + OTHER, above=0)
    assert measured["rise"] == 0
    assert measured["same"] == measured["texts"] == 5
    assert cut.vocabulary is not None


def test_fertility_counts_tokens(tiny: Path) -> None:
    words, cut = Vocabulary(tiny), cut_to(tiny)
    assert cut.vocabulary is not None
    found = fertility(words, words.trimmed(cut.vocabulary)["tokenizer.json"], cut.vocabulary, [*TEXTS, *OTHER])
    assert found["after"] > found["before"]
    assert found["rise"] == found["after"] / found["before"] - 1
    assert found["same"] == 3


@pytest.mark.parametrize(
    ("change", "why"), [({"type": "Unigram"}, "Unigram"), ({"dropout": 0.1}, "dropout"), ({"vocab": {"of two": 0}, "merges": []}, "no tokens for single bytes")]
)
def test_other_tokenizers_are_refused(tiny: Path, tmp_path: Path, change: dict[str, Any], why: str) -> None:
    folder = tuned(tiny, tmp_path / "other", 1)
    file = json.loads((folder / "tokenizer.json").read_text())
    file["model"] |= change
    (folder / "tokenizer.json").write_text(json.dumps(file))
    with pytest.raises(InputError, match=why):
        Vocabulary(folder)
