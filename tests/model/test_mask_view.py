"""The mask as colours: they are the labels, share by share, in the terminal, on a page and as JSON (MISSION K3)."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.model.chat_families import CALLED, TOOL, chat, row, turns

from planish.errors import InputError
from planish.model import dialogues
from planish.model.chat import Chat
from planish.model.mask_view import as_json, look, page, text

TWICE = turns(("user", "what is the capital?"), ("assistant", "Paris 🙂"), ("user", "<b>the & weather</b>"), ("assistant", "sunny"))


@pytest.mark.parametrize("name", ["chatml", "llama3", "gemma", "mistral"])
def test_k3_colours_rebuild_the_labels_exactly(name: str) -> None:
    one = chat(name)
    off = (TWICE[0], TWICE[1].model_copy(update={"weight": 0}), *TWICE[2:])
    for messages in (TWICE, off, TWICE[:2]):
        sequence = one.trained(messages)
        view = look(row(messages), one)
        assert view.labels == [id if weight else -100 for id, weight in zip(sequence.ids, sequence.weights, strict=True)]
        assert [token.id for token in view.tokens] == list(sequence.ids)
        assert "".join(token.text for token in view.tokens) == one.tokenizer.decode(sequence.ids)


def test_k3_worked_example() -> None:
    """MISSION K3: of 9 tokens 4 are trained: 4/9 = 44.4 %. Words are tokens here: <user> What is 2+2? <asst> It is 4. <end>."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<user>", "<asst>", "<end>", "What", "is", "2+2?", "It", "4."]
    raw = Tokenizer(models.WordLevel({word: id for id, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>", unk_token="<unk>")
    fast.add_special_tokens({"additional_special_tokens": ["<user>", "<asst>"]})
    fast.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ '<user> ' + m.content }}{% else %}{{ ' <asst> ' + m.content + ' <end>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ ' <asst>' }}{% endif %}"
    )
    view = look(row(turns(("user", "What is 2+2?"), ("assistant", "It is 4."))), Chat(fast))
    assert view.share == 4 / 9
    assert text([view], colour=False).startswith("row r: 4 of 9 tokens trained (44.4%)")


def test_every_token_has_its_reason() -> None:
    one = chat("chatml")
    view = look(row(CALLED, tools=(TOOL,)), one)
    reasons = list(dict.fromkeys(token.reason for token in view.tokens))
    assert reasons == [
        "turn 1 (user)",
        "header of turn 2 (assistant)",
        "answer of turn 2",
        "ends turn 2",
        "behind the end of turn 2: nothing is said there",
        "turn 3 (tool)",
        "header of turn 4 (assistant)",
        "answer of turn 4",
        "ends turn 4",
    ]
    listed = text([view], colour=False, tokens=True)
    assert all(f"{token.id:>7}  {token.text!r}" in listed and token.reason in listed for token in view.tokens)


def test_what_would_be_cut_is_red() -> None:
    one = chat("chatml")
    whole = look(row(TWICE), one)
    view = look(row(TWICE), one, max_length=len(whole.tokens) - 3)
    assert [token.colour for token in view.tokens[-4:]] == [whole.tokens[-4].colour, "cut", "cut", "cut"]
    assert view.scored == whole.scored - 3
    coloured = text([view], colour=True)
    assert "\x1b[31m" in coloured
    assert "\x1b[32m" in coloured
    assert "\x1b[90m" in coloured


def test_a_refused_row_is_shown_with_its_reason() -> None:
    thought = turns(("user", "a"), ("assistant", "<think>\nhm\n</think>\n\nParis"), ("user", "b"), ("assistant", "sunny"))
    view = look(row(thought), chat("qwen3"))
    assert view.fault is not None
    assert view.scored == 0
    assert len(view.tokens) > 10
    assert "not_a_prefix" in text([view], colour=False)
    assert as_json(view)["fault"]["code"] == "not_a_prefix"
    nothing = look(row((*turns(("system", "x")), *TWICE)), chat("gemma"))
    assert nothing.tokens == ()
    assert "unknown_role" in page([nothing], "t", "")


def test_the_page_holds_all_and_escapes_what_rows_say() -> None:
    evil = turns(("user", "<script>alert(1)</script> \"'&"), ("assistant", "</span><img src=x onerror=alert(1)>"))
    view = look(row(evil, id="<i>"), chat("chatml"))
    made = page([view], "mask of <x>", "total")
    assert "<script" not in made
    assert "<img" not in made
    assert "<i>" not in made
    assert "src=" not in made.replace("src=x", "")
    assert "http" not in made
    shown = re.findall(r"<span class=(\w+) title=\"(\d+): [^\"]*\">([^<]*)</span>", made)
    assert [(int(id), colour, html.unescape(said)) for colour, id, said in shown] == [(token.id, token.colour, token.text) for token in view.tokens]


def test_control_characters_never_reach_the_terminal() -> None:
    said = text([look(row(turns(("user", "a\x1b]0;x\x07b"), ("assistant", "c"))), chat("chatml"))], colour=False)
    assert "\x1b" not in said
    assert "\\x1b" in said


def test_k3_an_unknown_row_names_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    lines = [{"id": f"row-{n}", "messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]} for n in (11, 12)]
    file.write_text("\n".join(map(json.dumps, [*lines, {"messages": [{"role": "user", "content": "x"}]}])), encoding="utf-8")
    found = dialogues.read(file)
    ids = found.table.ids
    assert found.row(ids[1]).messages[1].content == "a12"
    assert found.row("2").messages[1].content == "a12"
    with pytest.raises(InputError, match=re.escape(ids[0])):
        found.row(ids[0] + "x")
    with pytest.raises(InputError, match="no_assistant_turn"):
        found.row("3")


def test_the_verb(tmp_path: Path, tiny: Path) -> None:
    """The command line on label rows: they become dialogues by their task; the page, the JSON and the terminal agree."""
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"text": f"the phone is {word}", "label": label}) for word, label in (("good", "positive"), ("bad", "negative"))))
    command = [sys.executable, "-m", "planish", "mask", str(file), "--model", str(tiny), "--html", str(tmp_path / "mask.html"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert said["total"]["rows"] == len(said["rows"]) == 2
    assert said["total"]["trained"] == sum(one["scored"] for one in said["rows"])
    one = said["rows"][0]
    assert "".join(token["text"] for token in one["tokens"] if token["colour"] == "scored") == "positive<|im_end|>"
    assert "positive" in (tmp_path / "mask.html").read_text(encoding="utf-8")
    wrong = subprocess.run([*command[:-3], "--row", "nothing"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "did you mean" in wrong.stderr or "such row" in wrong.stderr
