"""Teacher capture: what is kept equals the live teacher, a kill loses no row, gold is never asked, and what cannot be used is refused (MISSION S1)."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from dataclasses import fields
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import make_tiny

from planish import capture as capturing
from planish.capture import How
from planish.data import dataset, gold
from planish.data.capture_file import CAPTURE, ERRORS, CapturedRow, Said, about_of, mend, rows_of, write_line
from planish.data.capture_packed import PACKED, Packed, pack
from planish.data.tree import Sequence, build
from planish.errors import InputError, RunFailed
from planish.model.chat import Chat
from planish.model.load import load
from planish.model.policy import head_of, hidden_states
from planish.recipe import Recipe

ROWS = [{"messages": [{"role": "user", "content": f"the phone {n}"}, {"role": "assistant", "content": f"good sound {n}"}]} for n in range(80)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student, a teacher of another size, and prepared rows."""
    folder = tmp_path_factory.mktemp("home")
    make_tiny(folder / "model", hidden=32)
    make_tiny(folder / "teacher", hidden=48)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    text = "recipe: 1\nmodel: model\ndata: {path: rows.jsonl, task: chat, split: {gold: 0.6, validation: 0.1}, checks: []}\n"
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return folder


def recipe(home: Path) -> Recipe:
    return Recipe.load(home / "recipe.yaml")


@cache
def data_of(home: Path) -> dataset.Dataset:
    return capturing.prepared(recipe(home), home / "space")


def taken(home: Path, out: Path, **more: Any) -> capturing.Captured:
    given = {"teacher": str(home / "teacher"), "precision": "fp32", "mass": 1.0} | more
    return capturing.capture(recipe(home), How(**given), out, workspace=home / "space", data=data_of(home))


def test_s1_what_is_captured_is_the_live_teacher(home: Path, tmp_path: Path) -> None:
    """S1: every kept log-probability lies within 1e-6 of its size of the model's own, the tokens are its likeliest, and ln sum exp(lp / T) is that of the whole vocabulary."""
    found = taken(home, tmp_path / "c", tail_samples=3)
    assert found.rows == found.new == len(capturing.dialogues(data_of(home)))
    assert found.covered == 1
    model, about = load(home / "teacher", "fp32"), about_of(tmp_path / "c")
    for row in list(rows_of(tmp_path / "c"))[:6]:
        ids = (*row.prompt_ids, *row.completion_ids)
        tree = build([Sequence(ids, (*[0.0] * len(row.prompt_ids), *map(float, row.trained)))])
        with torch.no_grad():
            live = head_of(model).logits(hidden_states(model, tree)[torch.from_numpy(tree.scored_at)]).log_softmax(1)
        values, top = live.topk(50, 1)
        assert row.said.log_probs.reshape(-1, 50) == pytest.approx(values.numpy(), rel=1e-6)
        assert (np.sort(row.said.ids.reshape(-1, 50), 1) == np.sort(top.numpy(), 1)).mean() > 0.99
        for place, T in enumerate(about.temperatures):
            assert np.abs(row.said.lse[:, place] - (live / T).logsumexp(1).numpy()).max() < 1e-5
        assert not (row.said.sampled_ids[:, :, None] == row.said.ids.reshape(-1, 1, 50)).any()
        assert row.trained == (True,) * len(row.completion_ids)


def test_the_end_of_the_answer_is_among_what_is_learnt(home: Path, tmp_path: Path) -> None:
    """The reference system left the end token out of its labels, so that a student never learnt to stop. Here the last trained token of each row is it, with a teacher."""
    taken(home, tmp_path / "c")
    end = Chat.load(home / "model").end
    assert all(row.completion_ids[-1] == end and row.trained[-1] and row.said.known[-1] for row in rows_of(tmp_path / "c"))


def test_k_adapts_to_the_mass(home: Path, tmp_path: Path) -> None:
    """S1: as few tokens as hold the mass, at most k: without the last one it is below."""
    taken(home, tmp_path / "c", mass=0.5, k=40)
    for row in rows_of(tmp_path / "c"):
        at = 0
        for count in row.said.counts.tolist():
            held = np.exp(row.said.log_probs[at : at + count]).cumsum()
            assert held[-1] >= 0.5 or count == 40
            assert count == 1 or held[-2] < 0.5
            at += count


@pytest.mark.parametrize("torn", [0, 1, 40])
def test_s1_a_kill_loses_no_row(home: Path, tmp_path: Path, torn: int) -> None:
    """S1: a capture that was killed after 11 rows, in the middle of a line or not, goes on: the same bytes as one that never was, and no row is asked twice."""
    taken(home, tmp_path / "whole", tail_samples=2)
    whole = (tmp_path / "whole" / CAPTURE).read_bytes()
    shutil.copytree(tmp_path / "whole", tmp_path / "c")
    lines = whole.splitlines(keepends=True)
    (tmp_path / "c" / CAPTURE).write_bytes(b"".join(lines[:11]) + lines[11][:torn])
    found = taken(home, tmp_path / "c", tail_samples=2)
    assert found.new == len(lines) - 11
    assert (tmp_path / "c" / CAPTURE).read_bytes() == whole
    assert taken(home, tmp_path / "c", tail_samples=2).new == 0


def test_mending_touches_no_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"one\ntwo\nthr")
    assert mend(path) == 3
    assert path.read_bytes() == b"one\ntwo\n"
    assert mend(path) == 0
    path.write_bytes(b"th" * 40_000)
    assert mend(path) == 80_000


def test_another_capture_is_never_written_over(home: Path, tmp_path: Path) -> None:
    taken(home, tmp_path / "c")
    before = (tmp_path / "c" / CAPTURE).read_bytes()
    with pytest.raises(InputError, match="made otherwise: k 50 is now 10"):
        taken(home, tmp_path / "c", k=10)
    with pytest.raises(InputError, match="made otherwise: precision fp32 is now bf16"):
        taken(home, tmp_path / "c", precision="bf16")
    assert (tmp_path / "c" / CAPTURE).read_bytes() == before


def test_a_folder_is_held_by_one_capture_at_a_time(home: Path, tmp_path: Path) -> None:
    """Two processes would each append every row. The lock is the folder's: it leaves no file, and goes with its process."""
    (tmp_path / "c").mkdir()
    handle = os.open(tmp_path / "c", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(InputError, match="another process is capturing into it"):
        taken(home, tmp_path / "c")
    os.close(handle)
    assert list((tmp_path / "c").iterdir()) == []
    assert taken(home, tmp_path / "c", rows=2).new == 2


def test_what_a_kill_tore_before_the_first_row_is_no_other_capture(home: Path, tmp_path: Path) -> None:
    """A manifest half written aside, as kill -9 leaves it: the next one begins, and removes it. A file or a folder of other things is refused before a teacher is loaded."""
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / ".manifest.json.0123.partial").write_text("{", encoding="utf-8")
    assert taken(home, tmp_path / "c", rows=2).new == 2
    assert not list((tmp_path / "c").glob(".*"))
    with pytest.raises(InputError, match="is a file"):
        taken(home, tmp_path / "c" / CAPTURE, teacher="nowhere")
    with pytest.raises(InputError, match="is not empty and holds no capture"):
        taken(home, home / "model", teacher="nowhere")


def test_a_wider_teachers_padding_is_left_in_the_tail(home: Path, tmp_path: Path) -> None:
    """A teacher of the same tokens whose logits are padded from 512 to 576: the padding, here as likely as anything, is neither kept nor drawn, its probability stays in the tail.
    A capture that holds such ids is refused by kd before anything runs: they lie beyond the student's logits."""
    from planish.objectives import kd

    whole = load(home / "teacher", "fp32")
    torch.manual_seed(0)
    whole.resize_token_embeddings(576, mean_resizing=False)
    with torch.no_grad():
        whole.get_input_embeddings().weight[512:].normal_(0, 0.5)
    Chat.load(home / "teacher").save(tmp_path / "wide")
    whole.save_pretrained(tmp_path / "wide")
    taken(home, tmp_path / "c", teacher=str(tmp_path / "wide"), rows=4, tail_samples=8)
    for row in rows_of(tmp_path / "c"):
        assert max(row.said.ids.max(), row.said.sampled_ids.max()) < 512
        ids = (*row.prompt_ids, *row.completion_ids)
        tree = build([Sequence(ids, (*[0.0] * len(row.prompt_ids), *map(float, row.trained)))])
        with torch.no_grad():
            live = head_of(whole).logits(hidden_states(whole, tree)[torch.from_numpy(tree.scored_at)]).log_softmax(1)
        assert row.said.log_probs.reshape(-1, 50) == pytest.approx(live[:, :512].topk(50, 1).values.numpy(), rel=1e-5)
    assert kd.refusals(home / "model", capture=str(tmp_path / "c")) == []
    wide = (tmp_path / "c" / CAPTURE).read_text(encoding="utf-8").replace('"top":[{"id":', '"top":[{"id":7', 1)
    (tmp_path / "c" / CAPTURE).write_text(wide, encoding="utf-8")
    (tmp_path / "c" / PACKED).unlink()
    assert "the student's logits are of 512 tokens" in kd.refusals(home / "model", capture=str(tmp_path / "c"))[0].why


@pytest.mark.parametrize("T", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_at_which_nothing_is_said_is_refused(T: float, home: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"capture\.temperatures"):
        taken(home, tmp_path / "c", temperatures=(1.0, T))


def test_gold_rows_are_never_captured(home: Path, tmp_path: Path) -> None:
    """R-4: none of the gold samples is among the rows, and gold cannot be asked for."""
    taken(home, tmp_path / "c")
    data = data_of(home)
    sealed = {sample.id for sample in gold.read(data.gold_path).samples}
    assert sealed
    assert sealed.isdisjoint(row.id for row in rows_of(tmp_path / "c"))
    with pytest.raises(InputError):
        list(dataset.read(data.folder).rows("gold"))  # type: ignore[arg-type]


def test_a_teacher_with_other_words_is_refused_and_its_text_offered(home: Path, tmp_path: Path) -> None:
    """S1: the reference system compared vocabularies by index; here another tokenizer is refused before anything is asked."""
    other = tmp_path / "other"
    shutil.copytree(home / "teacher", other)
    told = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    words = told["model"]["vocab"]
    first, second = list(words)[300:302]
    words[first], words[second] = words[second], words[first]
    (other / "tokenizer.json").write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(InputError, match=r"(?s)another tokenizer.*--text"):
        taken(home, tmp_path / "c", teacher=str(other))
    assert not (tmp_path / "c").exists()


def test_a_cut_answer_is_kept_apart(home: Path, tmp_path: Path) -> None:
    """S1: what the teacher wrote up to its limit is marked, counted, and refused by the objective; the other answers are not."""
    from planish.model.chat import Refused
    from planish.objectives import kd

    found = taken(home, tmp_path / "c", answers="teacher", max_new_tokens=3)
    assert found.cut > 0
    data, chat = data_of(home), Chat.load(home / "model")
    finish = {row.id: row.finish_reason for row in rows_of(tmp_path / "c")}
    for row in capturing.dialogues(data):
        if finish[row.id] == "length":
            with pytest.raises(Refused, match="cut at its length"):
                kd.encode(row, chat, capture=str(tmp_path / "c"))
        else:
            assert kd.encode(row, chat, capture=str(tmp_path / "c")).sequences[0].ids[-1] == chat.end


def test_the_compact_file_is_the_capture(home: Path, tmp_path: Path) -> None:
    """Ids, flags and draws exactly; with 4096 steps to a nat log-probabilities within 1/500 (half of the widest level, 8 / 4096, and what the scaling to 1 adds); every position's
    kept part and tail are 1."""
    taken(home, tmp_path / "c", tail_samples=3)
    pack(tmp_path / "c", steps=4096)
    packed = Packed(tmp_path / "c")
    for place, row in enumerate(rows_of(tmp_path / "c")):
        small = packed.row(place)
        assert (small.id, small.completion_ids, small.trained) == (row.id, row.completion_ids, row.trained)
        owner = np.repeat(np.arange(len(row.said.counts)), row.said.counts)
        for index, T in enumerate(packed.about.temperatures):
            said = small.said[T]
            ours, theirs = np.lexsort((said.ids, owner)), np.lexsort((row.said.ids, owner))
            assert said.ids[ours].tolist() == row.said.ids[theirs].tolist()
            assert said.drawn.tolist() == row.said.sampled_ids.tolist()
            exact = row.said.log_probs / T - np.repeat(row.said.lse[:, index], row.said.counts)
            assert np.abs(said.log_probs[ours] - exact[theirs]).max() < 0.002
            assert np.bincount(owner, np.exp(said.log_probs)) + np.exp(said.tail) == pytest.approx(np.ones(len(said.counts)), abs=1e-6)


def test_less_likely_tokens_stand_in_the_lines_alone(home: Path, tmp_path: Path) -> None:
    """Of a random model over a small vocabulary none is as likely as .9, and the likeliest is always kept: one a position. The lines are those of a whole capture."""
    taken(home, tmp_path / "whole")
    taken(home, tmp_path / "least", least=0.9)
    row = Packed(tmp_path / "least").row(0)
    assert set(row.said[1.0].counts.tolist()) <= {0, 1}
    assert (tmp_path / "least" / CAPTURE).read_bytes() == (tmp_path / "whole" / CAPTURE).read_bytes()
    with pytest.raises(InputError, match="drawn beside"):
        taken(home, tmp_path / "both", least=0.9, tail_samples=3)


def test_a_compact_file_of_fewer_rows_is_refused(home: Path, tmp_path: Path) -> None:
    rows = taken(home, tmp_path / "c").rows
    with (tmp_path / "c" / CAPTURE).open("ab") as stream:
        stream.write(b"{}\n")
    with pytest.raises(InputError, match="older than"):
        Packed(tmp_path / "c")
    (tmp_path / "c" / PACKED).unlink()
    with pytest.raises(InputError, match=rf"{CAPTURE}:{rows + 1}"):
        pack(tmp_path / "c")


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ('"lp":-', '"lp":'),
        ('"lp":-', '"lp":-Infinity,"x":'),
        ('"top":[{"id":', '"top":[{"id":-'),
        ('"top":[{"id":', '"top":[{"id":9e99,"x":'),
        ('"lp":-', '"lp":-1e-9,"x":-'),
    ],
)
def test_a_line_whose_numbers_are_none_is_named(home: Path, tmp_path: Path, was: str, now: str) -> None:
    """Logarithms of chances are at most 0, chances sum to at most 1, and tokens are counted from 0: anything else would be trained on without a word."""
    taken(home, tmp_path / "c", rows=2)
    whole = (tmp_path / "c" / CAPTURE).read_text(encoding="utf-8")
    (tmp_path / "c" / CAPTURE).write_text(whole.replace(was, now, 1), encoding="utf-8")
    with pytest.raises(InputError, match=rf"{CAPTURE}:1: is no captured row"):
        pack(tmp_path / "c")


class Teacher(BaseHTTPRequestHandler):
    """An endpoint that says "good sound" in tokens of its own, with what they spell in bytes."""

    words: tuple[str, ...] = ("good", " so", "und")
    log_probs = True
    fails: set[str] = set()
    silent: set[str] = set()
    odd: set[str] = set()
    strange: dict[str, Any] = {}

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if any(each in body["messages"][-1]["content"] for each in self.fails):
            return self.send_error(400)
        question = body["messages"][-1]["content"]
        words = () if question in self.silent else self.words
        tops = [{"token": word, "bytes": list(word.encode()), "logprob": -0.25} for word in words]
        content = [{**one, "top_logprobs": [one, {"token": "\x00nothing", "bytes": list(b"\x00nothing"), "logprob": -2.0}]} for one in tops]
        if question in self.odd:
            content[0] |= self.strange
        logprobs = {"content": content} if self.log_probs else None
        said = {"choices": [{"message": {"content": "".join(words)}, "finish_reason": "stop", "logprobs": logprobs}]}
        out = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(out)))
        self.end_headers()
        self.wfile.write(out)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def endpoint() -> Any:
    kind = type("Own", (Teacher,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield kind, f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def asked(home: Path, out: Path, url: str, **more: Any) -> capturing.Captured:
    return taken(home, out, **({"teacher": url, "model": "big", "answers": "teacher", "temperatures": (1.0,), "max_new_tokens": 8} | more))


def ours(home: Path) -> tuple[str, ...]:
    """ "good sound" in the student's own tokens."""
    chat = Chat.load(home / "model")
    return tuple(chat.tokenizer.decode([id]) for id in chat.encode("good sound"))


def test_an_endpoint_is_mapped_by_bytes(home: Path, tmp_path: Path, endpoint: Any) -> None:
    """The reference system looked decoded text up and lost every token with a blank before it (2 of 14 were left). Here all of them are found by what they spell; a likely
    token that is no word of ours stays in the tail; the end, which the endpoint does not tell of, is trained without a teacher."""
    kind, url = endpoint
    kind.words = ours(home)
    found = asked(home, tmp_path / "c", url)
    row = next(rows_of(tmp_path / "c"))
    words = len(kind.words)
    assert any(word.startswith(" ") for word in kind.words)
    assert row.completion_ids[-1] == Chat.load(home / "model").end
    assert row.said.counts.tolist() == [1] * words + [0]
    assert row.said.ids.tolist() == list(row.completion_ids[:-1])
    assert found.covered == pytest.approx(words / (words + 1))


def test_an_endpoint_with_other_words_is_refused(home: Path, tmp_path: Path, endpoint: Any) -> None:
    """S1: fewer than 95 % of its tokens are tokens of the student."""
    kind, url = endpoint
    kind.words = ("go", "od soun", "d")
    with pytest.raises(InputError, match=r"32 of 96 tokens .*at least 95%"):
        asked(home, tmp_path / "c", url)
    with pytest.raises(InputError, match=r"32 of 96 tokens .*at least 95%"):  # nothing is left to ask, and it is refused for what is there
        asked(home, tmp_path / "c", url)


def test_a_row_says_what_share_of_it_is_mapped(home: Path, tmp_path: Path, endpoint: Any) -> None:
    """S1: of an endpoint its own tokens, the end left aside, read back from the line; a count that is none is named with its line."""
    kind, url = endpoint
    kind.words = ours(home)
    asked(home, tmp_path / "c", url)
    row = next(rows_of(tmp_path / "c"))
    assert row.told == len(kind.words)
    assert row.mapped == (len(kind.words), len(kind.words))
    whole = (tmp_path / "c" / CAPTURE).read_text(encoding="utf-8")
    (tmp_path / "c" / CAPTURE).write_text(whole.replace(f'"told":{row.told}', '"told":true', 1), encoding="utf-8")
    with pytest.raises(InputError, match="number of tokens that is none"):
        list(rows_of(tmp_path / "c"))


def test_an_endpoint_without_log_probabilities_is_refused_and_its_text_offered(home: Path, tmp_path: Path, endpoint: Any) -> None:
    kind, url = endpoint
    kind.log_probs = False
    with pytest.raises(InputError, match=r"(?s)returns no log-probabilities.*--text"):
        asked(home, tmp_path / "c", url)


@pytest.mark.parametrize(
    "strange", [{"logprob": None}, {"bytes": [300]}, {"token": 7}, {"top_logprobs": ["good"]}], ids=["no-number", "no-byte", "no-token", "no-entry"]
)
def test_log_probabilities_of_another_shape_cost_their_row_alone(home: Path, tmp_path: Path, endpoint: Any, strange: dict[str, Any]) -> None:
    """What an endpoint sends is untrusted: it is said in the row's reason, and the other rows are kept."""
    kind, url = endpoint
    kind.words, kind.strange = ours(home), strange
    kind.odd = {capturing.dialogues(data_of(home))[0].messages[-2].content}
    found = asked(home, tmp_path / "c", url)
    failed = [json.loads(line) for line in (tmp_path / "c" / ERRORS).read_text(encoding="utf-8").splitlines()]
    assert found.failed == len(failed) >= 1
    assert all("not in OpenAI's shape" in one["why"] for one in failed)
    assert found.rows > 0


def test_an_endpoint_that_fails_every_row_has_failed(home: Path, tmp_path: Path, endpoint: Any) -> None:
    """Nothing was wrong with what was asked: exit code 1, and the first reason."""
    kind, url = endpoint
    kind.words, kind.fails = ours(home), {"phone"}
    with pytest.raises(RunFailed, match=r"every one of the \d+ rows failed, the first: .*400"):
        asked(home, tmp_path / "c", url)


def test_an_empty_answer_of_an_endpoint_is_no_lack_of_log_probabilities(home: Path, tmp_path: Path, endpoint: Any) -> None:
    """One prompt to which it says nothing: that row is set aside, and the capture goes on."""
    kind, url = endpoint
    kind.words = ours(home)
    kind.silent = {capturing.dialogues(data_of(home))[0].messages[-2].content}
    found = asked(home, tmp_path / "c", url)
    failed = [json.loads(line) for line in (tmp_path / "c" / ERRORS).read_text(encoding="utf-8").splitlines()]
    assert found.failed == len(failed) >= 1
    assert all("its answer is empty" in one["why"] for one in failed)
    assert found.rows > 0


def test_an_empty_answer_of_the_teacher_is_never_trained_on(home: Path, tmp_path: Path) -> None:
    """D2 empty_answer: a row whose only token is the end would teach the student to say nothing."""
    from planish.model.chat import Refused
    from planish.objectives import kd

    taken(home, tmp_path / "c", answers="teacher", max_new_tokens=3)
    data, chat = data_of(home), Chat.load(home / "model")
    about, (first, *_) = about_of(tmp_path / "c"), rows_of(tmp_path / "c")
    said = Said(*(getattr(first.said, field.name)[: int(first.said.counts[0]) if field.name in ("ids", "log_probs") else 1] for field in fields(Said)))
    empty = CapturedRow(first.id, first.prompt_ids, (chat.end,), (True,), said, "stop")
    (tmp_path / "c" / CAPTURE).write_text(write_line(empty, about) + "\n", encoding="utf-8")
    (tmp_path / "c" / PACKED).unlink()
    row = next(row for row in capturing.dialogues(data) if row.id == first.id)
    with pytest.raises(Refused, match="answer is empty"):
        kd.encode(row, chat, capture=str(tmp_path / "c"))


def test_a_compact_file_without_its_lines_is_not_written_over(home: Path, tmp_path: Path) -> None:
    """The lines may have been deleted for room: what is left is a capture still, and the only copy of it."""
    taken(home, tmp_path / "c", rows=3)
    (tmp_path / "c" / CAPTURE).unlink()
    before = (tmp_path / "c" / PACKED).read_bytes()
    with pytest.raises(InputError, match=f"holds {PACKED} without"):
        taken(home, tmp_path / "c", k=10, rows=2)
    assert (tmp_path / "c" / PACKED).read_bytes() == before


def test_one_row_that_fails_is_no_other_rows(home: Path, tmp_path: Path, endpoint: Any) -> None:
    """S1: it is set aside with its reason, and asked again the next time."""
    kind, url = endpoint
    kind.words = ours(home)
    data = data_of(home)
    lost = capturing.dialogues(data)[0]
    kind.fails = {lost.messages[-2].content}
    found = asked(home, tmp_path / "c", url)
    failed = [json.loads(line) for line in (tmp_path / "c" / ERRORS).read_text(encoding="utf-8").splitlines()]
    assert found.failed == len(failed) >= 1
    assert lost.id in {one["id"] for one in failed}
    kind.fails = set()
    assert asked(home, tmp_path / "c", url).failed == 0


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"teacher": "https://10.0.0.7/v1"}, "not a public address"),
        ({"teacher": "http://169.254.169.254/v1", "allow_private": True}, "link-local"),
        ({"answers": "rows"}, "the chat endpoint tells of the tokens that it writes"),
        ({"k": 0}, "--k"),
        ({"max_new_tokens": 0}, "--max-new-tokens"),
        ({"temperatures": (1.0, 2.0)}, "T=1 alone"),
        ({"model": None}, "--model"),
    ],
)
def test_what_an_endpoint_may_not_be_asked(home: Path, tmp_path: Path, more: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        asked(home, tmp_path / "c", **({"url": "http://127.0.0.1:9/v1"} | more))
