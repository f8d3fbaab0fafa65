"""Passages and BM25: hand-worked tables, and an independent BM25 over random texts."""

import math
import random
from collections import Counter

import numpy as np
import pytest

from planish.data.bm25 import Index, terms
from planish.data.passages import cut
from planish.errors import InputError


def test_b3_passages_of_500_words():
    """B3 Def 200-word chunks, 40 overlap: 500 words begin at 0, 160 and 320 (200 - 40 apart), the third ends with the document and is 180 long."""
    document = " ".join(f"w{number}" for number in range(500))
    found = [passage.text.split() for passage in cut([document, "", "short one"])]
    assert [(words[0], words[-1], len(words)) for words in found] == [("w0", "w199", 200), ("w160", "w359", 200), ("w320", "w499", 180), ("short", "one", 2)]
    assert [passage.document for passage in cut([document, "", "short one"])] == [0, 0, 0, 2]


@pytest.mark.parametrize("length", [1, 39, 40, 41, 199, 200, 201, 360, 361, 1000])
def test_every_word_and_every_neighbourhood_is_in_a_passage(length):
    """Any run of `overlap` + 1 words stands whole in one passage, and no passage lies within the one before."""
    words = [f"w{number}" for number in range(length)]
    found = [passage.text.split() for passage in cut([" ".join(words)], words=200, overlap=40)]
    starts = [words.index(passage[0]) for passage in found]
    ends = [start + len(passage) for start, passage in zip(starts, found, strict=True)]
    assert ends == sorted(set(ends))
    assert ends[-1] == length
    for start in range(max(1, length - 40)):
        assert any(first <= start and min(start + 41, length) <= end for first, end in zip(starts, ends, strict=True))


def test_a_passage_is_one_line_and_a_script_without_spaces_is_cut_too():
    assert cut(["[1] a\n\n  b\t c"])[0].text == "[1] a b c"
    assert [passage.text for passage in cut(["日本語の文"], words=3, overlap=1)] == ["日本語", "語の文"]
    with pytest.raises(InputError, match="0 <= overlap < words"):
        cut(["a"], words=10, overlap=10)


def test_b3_example_and_three_document_table():
    """B3 Ex: N=3, n=1 -> idf ln(1 + 2.5/1.5) = ln(2.667) = .981. Mean length 2; document 0 has length 2, so its norm is 1.2 (.25 + .75) = 1.2 and `cat`
    scores .981 / (1 + 1.2) = .446. `sat` stands in two of three: idf ln(1 + 1.5/2.5) = ln(1.6) = .470; document 1 has length 3, norm 1.2 (.25 + .75 x 1.5) = 1.65:
    .470 / 2.65 = .177, document 0 .470 / 2.2 = .214."""
    index = Index(["cat sat", "dog sat mat", "bird"])
    assert round(math.log(8 / 3), 3) == 0.981
    assert index.scores("cat") == pytest.approx([math.log(8 / 3) / 2.2, 0, 0])
    assert index.scores("SAT!") == pytest.approx([math.log(1.6) / 2.2, math.log(1.6) / 2.65, 0])
    assert index.scores("cat sat sat") == pytest.approx(index.scores("cat") + 2 * index.scores("sat"))
    assert index.best("sat", 5) == [0, 1]
    assert index.best("sat bird", 1) == [2]
    assert index.best("nothing of it", 5) == index.best("", 5) == []


def test_ties_go_to_the_earlier_text():
    assert Index(["b a", "a b", "c", "a b"]).best("a", 4) == [0, 1, 3]


def test_scores_are_those_of_the_formula():
    """An independent BM25 written from the formula, over 200 random texts and 50 queries."""
    draw = random.Random(0)
    texts = [" ".join(draw.choices([f"t{n}" for n in range(60)], weights=[1 / (n + 1) for n in range(60)], k=draw.randint(1, 40))) for _ in range(200)]
    counts = [Counter(text.split()) for text in texts]
    mean = sum(map(len, map(str.split, texts))) / len(texts)
    having = Counter(word for count in counts for word in count)
    index = Index(texts)
    for _ in range(50):
        query = draw.choices([f"t{n}" for n in range(70)], k=6)
        wanted = [
            sum(
                math.log(1 + (200 - having[word] + 0.5) / (having[word] + 0.5)) * count[word] / (count[word] + 1.2 * (0.25 + 0.75 * count.total() / mean))
                for word in query
            )
            for count in counts
        ]
        assert index.scores(" ".join(query)) == pytest.approx(wanted, rel=1e-9)
        assert index.best(" ".join(query), 10) == [int(place) for place in np.argsort(-np.array(wanted).round(12), kind="stable")[:10] if wanted[place] > 0]


def test_words_are_compared_without_case_and_marks():
    assert terms("Don’t re-open: Ｆｕｌｌ!") == ["don", "t", "re", "open", "full"]
    assert terms("日本 x") == ["日", "本", "x"]


def test_an_empty_corpus_is_refused():
    for texts in ([], ["", " .,! "]):
        with pytest.raises(InputError, match="nothing to search"):
            Index(texts)
    with pytest.raises(InputError, match="out of range"):
        Index(["a"], b=1.5)
