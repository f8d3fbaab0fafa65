"""Free text against references: SQuAD's exact match and F1, ROUGE, chrF and BLEU, each against what defines it."""

from __future__ import annotations

import random
import re
import string
from collections import Counter

import pytest

from planish.errors import InputError
from planish.evidence.paired import compare
from planish.evidence.statistic import is_row_mean
from planish.rows import Message, Sample
from planish.scorers import bleu, chrf, exact, f1, rouge
from planish.scores import EvalReport, Score

WORDS = ["the", "a", "An", "cat", "cat's", "Sat,", "sat", "down.", "on", "mat", "(mat)", "42", "4,2", "U.S.", "naïve", "—", "x", "Über", "don't", "runs"]


def _sample(target: str, number: int = 0) -> Sample:
    return Sample(id=f"r{number}", messages=(Message(role="user", content="x"),), target=target)


def _texts(seed: int, count: int) -> list[tuple[str, str]]:
    """Pairs of reference and answer that share words, sometimes all of them, sometimes none; some answers are empty."""
    draw = random.Random(seed)
    pairs = []
    for _ in range(count):
        reference = [draw.choice(WORDS) for _ in range(draw.randint(1, 14))]
        answer = [word if draw.random() < 0.7 else draw.choice(WORDS) for word in reference if draw.random() < 0.9]
        draw.shuffle(answer) if draw.random() < 0.2 else None
        pairs.append((" ".join(reference), draw.choice([" ", "  ", "\n"]).join(answer)))
    return pairs


def _squad_normalize(text: str) -> str:
    """`normalize_answer` of SQuAD 2.0's evaluation script, step by step as there."""
    lowered = text.lower()
    unpunctuated = "".join(character for character in lowered if character not in set(string.punctuation))
    return " ".join(re.sub(re.compile(r"\b(a|an|the)\b", re.UNICODE), " ", unpunctuated).split())


def _squad_f1(gold: str, said: str) -> float:
    """`compute_f1` of SQuAD 2.0's evaluation script."""
    gold_tokens, said_tokens = _squad_normalize(gold).split(), _squad_normalize(said).split()
    same = sum((Counter(gold_tokens) & Counter(said_tokens)).values())
    if not gold_tokens or not said_tokens:
        return float(gold_tokens == said_tokens)
    if same == 0:
        return 0.0
    precision, recall = same / len(said_tokens), same / len(gold_tokens)
    return 2 * precision * recall / (precision + recall)


def test_e1_exact_and_f1_are_squads() -> None:
    """E1: 2,000 random pairs under the rules of SQuAD's script; pairs whose reference it normalises to nothing are refused here, and left out."""
    pairs = [pair for pair in _texts(1, 2_000) if _squad_normalize(pair[0])]
    assert len(pairs) > 1_000
    rights = 0
    for reference, answer in pairs:
        assert exact.score(_sample(reference), answer).value == float(_squad_normalize(reference) == _squad_normalize(answer))
        assert f1.score(_sample(reference), answer).value == pytest.approx(_squad_f1(reference, answer), abs=1e-12)
        rights += _squad_normalize(reference) == _squad_normalize(answer)
    assert rights > 50


def test_the_best_accepted_answer_counts() -> None:
    several = _sample('["Denver Broncos", "The Broncos", "Denver"]')
    assert exact.score(several, "the denver broncos!").value == 1
    assert exact.score(several, "Denver team").value == 0
    assert f1.score(several, "Denver team").value == pytest.approx(2 / 3)
    assert exact.score(_sample("[not json"), "[not json").value == 1


def test_no_answer_is_never_right() -> None:
    for scorer in (exact, f1, rouge, chrf, bleu):
        for empty in (None, "", "  "):
            found = scorer.score(_sample("cat"), empty)
            assert (found.value, found.parsed, found.detail["parse_rate"]) == (0, None, 0)
    assert exact.score(_sample("The"), "").value == 0


def test_e1_rouge_named_example() -> None:
    """E1 Ex: "the cat sat" / "the cat sat down": LCS 3, precision 3/3, recall 3/4, F 6/7 = .857."""
    assert rouge.score(_sample("the cat sat down"), "the cat sat").detail["rougeL"] == pytest.approx(0.857, abs=5e-4)


def test_e1_rouge_is_rouge_score() -> None:
    """E1: 1,500 random pairs, the three figures equal to the package's F-measures; and with several references to its best."""
    oracle = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(list(rouge.NAMES), use_stemmer=False)
    pairs = _texts(2, 1_500)
    for reference, answer in pairs:
        found, right = rouge.score(_sample(reference), answer or " ").detail, oracle.score(reference, answer)
        assert [found[name] for name in rouge.NAMES] == pytest.approx([right[name].fmeasure for name in rouge.NAMES], abs=1e-12)
    for (one, answer), (other, _) in zip(pairs[:100], pairs[100:200], strict=True):
        import json

        right = oracle.score_multi([one, other], answer)
        found = rouge.score(_sample(json.dumps([one, other])), answer).detail
        assert [found[name] for name in rouge.NAMES] == pytest.approx([right[name].fmeasure for name in rouge.NAMES], abs=1e-12)


@pytest.mark.parametrize(("scorer", "name"), [(chrf, "chrf"), (bleu, "bleu")])
def test_e1_corpus_figures_are_sacrebleus(scorer: object, name: str) -> None:
    """E1: 1,000 random pairs in 50 sets of 20 and as one set: the same figure as sacrebleu's, with one reference and with two."""
    sacrebleu = pytest.importorskip("sacrebleu.metrics")
    oracle = {"chrf": sacrebleu.CHRF, "bleu": sacrebleu.BLEU}[name]()
    pairs, others = _texts(3, 1_000), [reference for reference, _ in _texts(4, 1_000)]
    sets = [range(start, start + 20) for start in range(0, 1_000, 20)] + [range(1_000)]
    for several in (False, True):
        targets = [f'["{one}", "{other}"]'.replace("\n", " ") if several else one for (one, _), other in zip(pairs, others, strict=True)]
        scores = [scorer.score(_sample(target, n), answer) for n, (target, (_, answer)) in enumerate(zip(targets, pairs, strict=True))]  # type: ignore[attr-defined]
        for rows in sets:
            found = scorer.metrics([scores[n] for n in rows], (), resamples=2)[name]  # type: ignore[attr-defined]
            references = [[pairs[n][0] for n in rows]] + ([[others[n] for n in rows]] if several else [])
            assert found.value == pytest.approx(oracle.corpus_score([pairs[n][1].strip() for n in rows], references).score, abs=1e-8)


def test_corpus_figures_by_hand() -> None:
    """chrF of "ab" for "abc": order 1 has 2 of 2 and 2 of 3, order 2 has 1 of 1 and 1 of 2, order 3 no answer: P = 1, R = (2/3 + 1/2)/2 = 7/12,
    F2 = 5 P R / (4 P + R) = (35/12)/(55/12) = 7/11. BLEU of "a b c d e" for "a b c d f": 4/5, 3/4, 2/3, 1/2, no brevity: 100 (.2)^(1/4) = 66.87."""
    assert chrf.metrics([chrf.score(_sample("abc"), "ab")], (), resamples=2)["chrf"].value == pytest.approx(100 * 7 / 11)
    assert bleu.metrics([bleu.score(_sample("a b c d f"), "a b c d e")], (), resamples=2)["bleu"].value == pytest.approx(66.87, abs=5e-3)


@pytest.mark.parametrize("scorer", [exact, f1, rouge, chrf, bleu])
def test_every_figure_can_be_paired(scorer: object) -> None:
    """What is reported is a function of the rows that are kept: the gate's paired test takes it, and the interval holds the value."""
    name = scorer.__name__.rpartition(".")[2]  # type: ignore[attr-defined]
    pairs = _texts(5, 60)

    def report(system: str, answers: list[str]) -> EvalReport:
        rows: list[Score] = [scorer.score(_sample(f"x {reference}", n), answer) for n, ((reference, _), answer) in enumerate(zip(pairs, answers, strict=True))]  # type: ignore[attr-defined]
        found = scorer.metrics(rows, (), resamples=200)  # type: ignore[attr-defined]
        assert all(metric.low <= metric.value <= metric.high and metric.n == 60 for metric in found.values())
        assert scorer.PRIMARY in found  # type: ignore[attr-defined]
        return EvalReport(system=system, gold="g", metrics={f"{name}.{metric}": one for metric, one in found.items()}, scores=rows)

    ours, theirs = report("ours", [f"x {answer}" for _, answer in pairs]), report("theirs", ["x cat"] * 60)
    for metric in ours.metrics:
        found = compare(ours, theirs, metric, resamples=200)
        assert found.difference == pytest.approx(ours.metrics[metric].value - theirs.metrics[metric].value)
        assert found.low <= found.difference <= found.high
    assert is_row_mean(f"{name}.{scorer.PRIMARY}", ours) == (name not in ("chrf", "bleu"))  # type: ignore[attr-defined]
    groups = {f"r{n}": f"g{n // 6}" for n in range(60)}
    assert "cluster bootstrap" in scorer.metrics(ours.scores, (), groups=groups, resamples=200)[scorer.PRIMARY].method  # type: ignore[attr-defined]


def test_empty_references_are_refused_by_name() -> None:
    for scorer in (exact, f1, rouge, chrf, bleu):
        with pytest.raises(InputError, match="r3: its reference is empty") as refused:
            scorer.metrics([scorer.score(_sample(" ", 3), "x"), scorer.score(_sample("", 4), "x"), scorer.score(_sample("cat", 5), "x")], ())
        assert [problem.where for problem in refused.value.problems] == ["r3", "r4"]
        with pytest.raises(InputError, match="there are no scores"):
            scorer.metrics([], ())
    for scorer in (exact, f1):
        with pytest.raises(InputError, match="r0: its reference is empty after normalisation"):
            scorer.metrics([scorer.score(_sample("The!"), "x")], ())
    with pytest.raises(InputError, match="r0: its reference has no word of a-z"):
        rouge.metrics([rouge.score(_sample("кот сидит"), "кот сидит")], ())
    assert chrf.metrics([chrf.score(_sample("кот сидит"), "кот сидит")], (), resamples=2)["chrf"].value == 100
