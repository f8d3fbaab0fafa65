"""Near-duplicates by MinHash and exact Jaccard (MISSION D6)."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.checks import near_duplicates
from planish.data import meaning, minhash
from planish.data.shingles import Shingles, units, words
from planish.data.sketch import BANDS, ROWS, Sketched, proposed, signatures
from planish.data.table import Table
from planish.errors import InputError
from planish.model import encoder
from planish.rows import ChatRow, LabelRow, Message, NoteCode, Origin, RejectCode, Row, TextRow

WORDS = [f"{a}{b}{c}" for a in "bdgkmprstv" for b in "aeiou" for c in ("n", "l", "st", "rk", "sh")]


def _text(n: int, text: str) -> TextRow:
    return TextRow(id=str(n), origin=Origin(file="f", line=n + 1, sha256=""), text=text)


def _chat(n: int, question: str, answer: str, system: str = "") -> ChatRow:
    turns = [Message(role="system", content=system)] if system else []
    messages = (*turns, Message(role="user", content=question), Message(role="assistant", content=answer))
    return ChatRow(id=str(n), origin=Origin(file="f", line=n + 1, sha256=""), messages=messages)


def _sets(text: str) -> set[bytes]:
    """The shingles of a text by their definition: word 5-grams, character 5-grams below 20 words."""
    parts = words(text)
    parts = parts if len(parts) >= 20 else [bytes([each]) for each in b" ".join(parts)]
    return {b"|".join(parts[at : at + 5]) for at in range(len(parts) - 4)}


def _corpus(seed: int, n: int) -> list[str]:
    """Texts of 8 to 60 words; half of them are edits of an earlier one: cut, lengthened, up to a third of the words changed."""
    rng = random.Random(seed)
    texts: list[str] = []
    for _ in range(n):
        if texts and rng.random() < 0.5:
            parts = rng.choice(texts).split()
            parts = parts[rng.randrange(4) :] + rng.choices(WORDS, k=rng.randrange(3))
            for _ in range(rng.choice((0, 1, 1, 2, len(parts) // 3))):
                parts[rng.randrange(len(parts))] = rng.choice(WORDS)
        else:
            parts = [rng.choice(WORDS) for _ in range(rng.randint(8, 60))]
        texts.append(" ".join(parts))
    return texts


def test_d6_probability_of_a_candidate() -> None:
    """MISSION D6, Ex: J=.8: b=16,r=8 -> 0.947; b=32,r=4 -> 1.000; at J=.5 the latter proposes 0.873. By hand: .8^8 = .1678, 1 - (1 - .1678)^16 = .9471;
    .8^4 = .4096, 1 - .5904^32 = 1.0000; .5^4 = .0625, 1 - .9375^32 = .8732."""
    assert proposed(0.8, bands=16, rows=8) == pytest.approx(0.947, abs=5e-4)
    assert proposed(0.8) == pytest.approx(1.000, abs=5e-4)
    assert proposed(0.5) == pytest.approx(0.873, abs=5e-4)


def test_d6_the_signatures_propose_as_the_formula_says() -> None:
    """MISSION D6, F on rensa's signatures: 2,000 pairs of Jaccard .5 (two sets of 60 that share 40: 40/80) agree in a band 0.873 of the time, +- 0.03."""
    rng = np.random.default_rng(6)
    sets = []
    for _ in range(2000):
        drawn = rng.choice(2**32, 80, replace=False).astype(np.uint32)
        sets += [np.sort(drawn[:60]), np.sort(np.concatenate([drawn[:40], drawn[60:]]))]
    signed = signatures(Shingles(np.concatenate(sets), np.arange(0, 4001 * 60, 60)))
    agree = (signed[0::2] == signed[1::2]).reshape(2000, BANDS, ROWS).all(axis=2).any(axis=1)
    assert (signed[0::2] == signed[1::2]).mean() == pytest.approx(0.5, abs=0.01)
    assert agree.mean() == pytest.approx(proposed(0.5), abs=0.03)


def test_d6_agrees_with_brute_force_on_2000_rows() -> None:
    """MISSION D6, Proof: against the Jaccard of every pair, recall of the rows that have a near-duplicate is at least 0.99, and precision is 1."""
    texts = _corpus(61, 2000)
    sets = [_sets(text) for text in texts]
    index: dict[bytes, list[int]] = {}
    shared: Counter[tuple[int, int]] = Counter()
    for row, grams in enumerate(sets):
        for gram in grams:
            shared.update((other, row) for other in index.get(gram, ()))
            index.setdefault(gram, []).append(row)
    alike = {pair for pair, count in shared.items() if count >= 0.8 * (len(sets[pair[0]]) + len(sets[pair[1]]) - count)}
    made = Sketched.of(Shingles.of(map(units, texts)))
    found = minhash.links(made, 0.8)
    linked = set(zip(found.left.tolist(), found.right.tolist(), strict=True))
    assert linked <= alike  # precision 1
    expected = minhash.components(2000, [tuple(np.array(sorted(alike)).T)])  # type: ignore[list-item]
    clusters = minhash.components(2000, [(found.left, found.right)])
    joined = sum(clusters[left] == clusters[right] for left, right in alike)
    assert len(alike) > 300
    assert joined >= 0.99 * len(alike)
    result = near_duplicates.check(Table.of(_text(n, text) for n, text in enumerate(texts)))
    assert len(result.findings) >= 0.99 * int((expected != np.arange(2000)).sum())
    assert result.figures["pairs_compared"] < 100_000  # of 1,999,000


def test_the_first_of_a_cluster_stays_and_is_named() -> None:
    base = "My old cast iron pan spent eleven years in a damp shed and is covered with orange rust inside so what can I do about it now"
    rows = [_text(n, text) for n, text in enumerate([base, "something else entirely", base.replace("orange", "brown"), base.upper() + "!"])]
    result = near_duplicates.check(Table.of(rows), threshold=0.6)
    assert [(finding.row_id, finding.see, finding.code) for finding in result.findings] == [
        ("2", "0", RejectCode.NEAR_DUPLICATE),
        ("3", "0", RejectCode.NEAR_DUPLICATE),
    ]
    assert "1.00" in result.findings[1].why
    assert result.figures["cluster_sizes"] == {"3": 1}
    assert not result.together


def test_keep_all_sets_nothing_aside_and_says_what_belongs_together() -> None:
    rows = Table.of(_text(n, text) for n, text in enumerate(["the courier left it at the door.", "b c d", "The courier left it at the door!!"]))
    result = near_duplicates.check(rows, keep="all")
    assert not result.findings
    assert result.together == (("0", "2"),)


def test_another_answer_to_nearly_the_same_question_is_no_copy() -> None:
    """A long context with a short question after it: nearly all of the text is the same, and both rows are needed."""
    context = " ".join(WORDS[:120])
    rows: list[Row] = [_chat(0, f"{context} How old is Alma?", "She is thirty."), _chat(1, f"{context} How old is Berit?", "Nobody knows that.")]
    rows += [_chat(2, f"{context} How old is Alma?!", "She is thirty")]
    assert [(finding.row_id, finding.see) for finding in near_duplicates.check(Table.of(rows)).findings] == [("2", "0")]
    labelled = [
        LabelRow(id=str(n), origin=rows[0].origin, text=context + end, label=label) for n, (end, label) in enumerate([(" a", "x"), (" b", "y"), (" c", "x")])
    ]
    assert [finding.row_id for finding in near_duplicates.check(Table.of(labelled)).findings] == ["2"]


def test_a_system_prompt_that_all_rows_share_does_not_make_them_alike() -> None:
    rows = [_chat(n, " ".join(random.Random(n).choices(WORDS, k=9)), f"answer {WORDS[n]}", system=" ".join(WORDS)) for n in range(20)]
    assert not near_duplicates.check(Table.of(rows)).findings


def test_rows_without_shingles_are_left_to_the_exact_check() -> None:
    """MISSION D6, Bad: empty text -> exact only."""
    result = near_duplicates.check(Table.of(_text(n, text) for n, text in enumerate(["", "", "!!", "a b", "a b"])))
    assert not result.findings
    assert result.figures["rows_without_shingles"] == 5


def test_a_template_that_all_rows_share_costs_no_comparison_of_all_with_all() -> None:
    """5,000 texts with 60 words in common and 30 of their own: 12.5 million pairs, Jaccard about 0.4 (word 5-grams: 56 of 56 + 2 * 30), none near."""
    rng = random.Random(9)
    own = [f"w{number}" for number in range(3000)]
    rows = Table.of(_text(n, " ".join([*WORDS[:60], *rng.sample(own, 30)])) for n in range(5000))
    result = near_duplicates.check(rows)
    assert not result.findings
    assert result.figures["pairs_compared"] < 200_000


def test_pairs_that_were_not_compared_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(3)
    texts = [f"Set a timer for {rng.randrange(60)} minutes and name it {rng.choice(WORDS)} please" for _ in range(300)]
    sets = Sketched.of(Shingles.of(map(units, texts)))
    assert minhash.links(sets, 0.8).left_out == 0
    assert minhash.links(sets, 0.8, max_pairs=10).left_out > 0
    monkeypatch.setattr(near_duplicates, "links", lambda *given: minhash.links(*given, max_pairs=10))
    (said,) = [each for each in near_duplicates.check(Table.of(_text(n, text) for n, text in enumerate(texts))).findings if each.row_id is None]
    assert said.code == NoteCode.BOILERPLATE


@pytest.mark.parametrize("threshold", [0.5, 1.1])
def test_a_threshold_without_meaning_is_refused(threshold: float) -> None:
    with pytest.raises(InputError, match="customary"):
        near_duplicates.check(Table.of([]), threshold=threshold)


def test_no_rows_at_all() -> None:
    assert not near_duplicates.check(Table.of([])).findings


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.randoms(use_true_random=False))
def test_clusters_do_not_depend_on_the_order_of_rows(seed: int, order: random.Random) -> None:
    """Reordering the rows changes which row of a cluster is its first, and no cluster."""
    rows = [_text(n, text) for n, text in enumerate(_corpus(seed, 60))]
    shuffled = list(rows)
    order.shuffle(shuffled)
    clusters = [{frozenset(group) for group in near_duplicates.check(Table.of(each), keep="all").together} for each in (rows, shuffled)]
    assert clusters[0] == clusters[1]


@pytest.mark.slow
def test_100_000_short_rows_take_seconds() -> None:
    """100,000 chat rows of about 30 words: signatures, banding and exact comparison. The bound is loose because the machine is shared."""
    rng = random.Random(1)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(20, 40))) for _ in range(100_000)]
    began = time.process_time()
    found = minhash.links(Sketched.of(Shingles.of(map(units, texts))), 0.8)
    assert time.process_time() - began < 10
    assert not len(found.left)


@pytest.fixture
def meanings(monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that knows two words for one thing and cuts what is longer than 40 words."""
    known = {"credentials": "password", "set": "reset", "anew": "reset", "mail": "link"}
    axes = ["password", "reset", "invoice", "link", "call", "pay"]

    def embed(texts: Sequence[str], *, encoder: str) -> tuple[np.ndarray, np.ndarray]:
        said = [[known.get(word.strip(".?"), word.strip(".?")) for word in text.lower().split()] for text in texts]
        vectors = np.array([[float(axis in each) for axis in axes] for each in said]).reshape(-1, len(axes)) + 1e-3
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.array([len(each) > 40 for each in said], bool)

    monkeypatch.setattr(encoder, "embed", embed)


REWORDED = [
    _chat(0, "How is a password reset?", "By a link."),
    _chat(1, "Where may one set credentials anew?", "You get a mail."),
    _chat(2, "Where may one set credentials anew?", "Call us."),
    _chat(3, "When is an invoice due?", "Pay soon."),
]


@pytest.mark.usefixtures("meanings")
def test_d6_rows_that_say_the_same_in_other_words_are_found_when_asked_for() -> None:
    """MISSION D6, optional embedding cosine. Row 1 asks what row 0 asks and says what it says, with no 5-gram in common; row 2 is answered otherwise."""
    table = Table.of(REWORDED)
    assert not near_duplicates.check(table).findings
    result = near_duplicates.check(table, embedding=0.95)
    assert [(finding.row_id, finding.see, finding.why) for finding in result.findings] == [
        ("1", "0", "is nearly row 0 (line 1): both say the same in other words (cosine 1.00)")
    ]
    assert (result.figures["pairs_by_meaning"], result.figures["rows_too_long_for_meaning"], result.figures["clusters"]) == (1, 0, 1)
    kept = near_duplicates.check(table, embedding=0.95, keep="all")
    assert (kept.findings, kept.together) == ((), (("0", "1"),))


@pytest.mark.usefixtures("meanings")
def test_d6_meaning_says_nothing_of_other_labels_gold_rows_numbers_and_of_rows_that_are_cut_or_empty() -> None:
    def label(n: int, text: str, said: str) -> LabelRow:
        return LabelRow(id=str(n), origin=Origin(file="f", line=n + 1, sha256=""), text=text, label=said)

    def found(*rows: Row, split: dict[str, str] | None = None) -> tuple[int, int]:
        figures = near_duplicates.check(Table.of(rows), split, embedding=0.95).figures
        return figures["pairs_by_meaning"], figures["rows_too_long_for_meaning"]

    asked, again = "How is a password reset?", "Where may one set credentials anew?"
    assert found(label(0, asked, "account"), label(1, again, "account")) == (1, 0)
    assert found(label(0, asked, "account"), label(1, again, "billing")) == (0, 0)
    assert found(label(0, asked, "account"), label(1, again, "account"), split={"0": "gold", "1": "train"}) == (0, 0)
    assert found(_chat(0, "Reset password 12?", "A link."), _chat(1, "Set credentials anew, 17?", "A mail.")) == (0, 0)
    long = "password reset link " + "and so on it goes " * 10
    assert found(_text(0, long), _text(1, f"another {long} with another end")) == (0, 2)
    assert found(_text(0, "?!"), _text(1, "...")) == (0, 0)


def test_d6_every_pair_of_a_cosine_at_least_that_is_found_as_by_brute_force() -> None:
    """Blocks of rows against all earlier ones: as numpy's whole product gives, over more rows than a block has; what is too much is counted."""
    drawn = np.random.default_rng(3).normal(size=(2500, 4))
    vectors = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    whole = np.triu(vectors @ vectors.T, 1)
    left, right = np.nonzero(whole >= 0.99)
    found = meaning.alike(vectors, 0.99)
    assert sorted(zip(*map(np.ndarray.tolist, found.pairs), strict=True)) == list(zip(left.tolist(), right.tolist(), strict=True))
    assert found.cosines == pytest.approx(whole[found.pairs])
    cut = meaning.alike(vectors, 0.99, max_pairs=100)
    assert (len(cut.cosines), cut.left_out) == (100, len(left) - 100)


@pytest.mark.parametrize("cosine", [0.5, 1.01])
def test_a_cosine_that_means_nothing_is_refused(cosine: float) -> None:
    with pytest.raises(InputError, match=r"near_duplicates\.embedding"):
        near_duplicates.check(Table.of(REWORDED), embedding=cosine)


@pytest.mark.slow
def test_d6_the_bundled_encoder_tells_reworded_rows_from_others() -> None:
    rows = [
        _chat(0, "How can I reset my password?", "Use the link on the sign-in page."),
        _chat(1, "How do I reset my password?", "Use the link that is on the sign-in page."),
        _chat(2, "How do I change my address?", "Use the form on the account page."),
    ]
    assert [finding.row_id for finding in near_duplicates.check(Table.of(rows), threshold=1.0, embedding=0.9).findings] == ["1"]
