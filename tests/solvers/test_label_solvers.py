import json

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from planish.data.task import classification
from planish.errors import InputError
from planish.model import encoder
from planish.rows import LabelRow, Message, Origin, Sample
from planish.scorers import label
from planish.solvers import classifier, majority


def _row(position, text, name, group=None):
    return LabelRow(id=f"t{position}", origin=Origin(file="t.jsonl", line=position + 1, sha256=""), text=text, label=name, group=group)


def _sample(position, target):
    return Sample(id=f"g{position}", messages=(Message(role="user", content="x"),), target=target)


def _train(counts):
    names = [name for name, count in counts.items() for _ in range(count)]
    return [_row(i, f"text {i}", name) for i, name in enumerate(names)]


def test_b1_example():
    """B1 Ex: 900/90/10 -> accuracy 900/1000 = .900; F1 of the majority 2 x .9 / 1.9 = .947, the others 0: macro .947/3 = .316."""
    train = _train({"a": 900, "b": 90, "c": 10})
    samples = [_sample(i, row.label) for i, row in enumerate(train)]
    answers = majority.solve(samples, [row.text for row in train], train, classification(("a", "b", "c")), None)
    found = label.metrics([label.score(sample, answer) for sample, answer in zip(samples, answers, strict=True)], ("a", "b", "c"), resamples=100)
    assert found["accuracy"].value == pytest.approx(0.900)
    assert round(found["macro_f1"].value, 3) == 0.316
    targets = [row.label for row in train]
    oracle = DummyClassifier(strategy="most_frequent").fit(np.zeros((1000, 1)), targets).predict(np.zeros((1000, 1)))
    assert list(oracle) == answers
    assert found["macro_f1"].value == pytest.approx(f1_score(targets, oracle, average="macro", zero_division=0))


def test_majority_tie_takes_the_first_in_sorted_order_and_no_rows_are_refused():
    samples = [_sample(0, "b")]
    assert majority.solve(samples, ["x"], _train({"b": 2, "a": 2}), classification(("a", "b")), None) == ["a"]
    with pytest.raises(InputError, match="no labelled training rows"):
        majority.solve(samples, ["x"], [], classification(("a", "b")), None)


@pytest.fixture
def bag(monkeypatch):
    """An encoder of eight counted words instead of the real one."""
    words = ["refund", "card", "late", "lost", "the", "my", "is", "text"]

    def embed(texts, *, encoder="minilm"):
        counts = np.array([[text.split().count(word) for word in words] for text in texts], dtype=np.float64).reshape(-1, len(words))
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1), np.zeros(len(texts), bool)

    monkeypatch.setattr(classifier, "embed", embed)
    monkeypatch.setattr(classifier, "encoder_hash", lambda encoder: f"hash of {encoder}")
    return embed


def _texts(names):
    rng = np.random.default_rng(0)
    key = {"billing": "refund", "card": "card", "delay": "late"}
    return [" ".join([key[name], *rng.choice(["the", "my", "is", "lost"], 3)]) for name in names]


@pytest.mark.parametrize("names", [("billing", "card"), ("billing", "card", "delay")])
def test_b4_predictions_equal_scikit_learn_before_and_after_loading(names, bag, tmp_path):
    """B4 Proof: two classes (one row of coefficients) and three; Ex: one keyword decides -> 1.00."""
    targets = list(names) * 20
    texts = _texts(targets)
    fitted = classifier.fit([_row(i, text, name) for i, (text, name) in enumerate(zip(texts, targets, strict=True))], names)
    fitted.save(tmp_path / "head")
    loaded = classifier.load(tmp_path / "head")
    fresh = _texts(list(names)[::-1] * 30)
    oracle = LogisticRegression(C=fitted.c, max_iter=2000).fit(bag(texts)[0], targets)
    assert fitted.predict(fresh) == list(oracle.predict(bag(fresh)[0])) == loaded.predict(fresh) == list(names)[::-1] * 30
    assert sorted(path.name for path in (tmp_path / "head").iterdir()) == ["classifier.json", "head.safetensors"]
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(InputError, match="exists already"):
        fitted.save(tmp_path / "head")


def test_choosing_c_keeps_groups_whole_and_is_repeatable(bag):
    """Each text stands four times under random labels: split by row, a copy gives its label away and a large C looks good; split by group it cannot."""
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.normal(size=(60, 60)) / 8, 4, axis=0)
    targets = np.repeat(rng.choice(["a", "b"], 60), 4)
    rows = [f"row {i}" for i in range(240)]
    groups = [f"group {i // 4}" for i in range(240)]
    leaking = classifier.choose_c(vectors, targets, rows, folds=5, seed=0)
    honest = classifier.choose_c(vectors, targets, groups, folds=5, seed=0)
    assert leaking > honest
    assert honest == classifier.choose_c(vectors, targets, groups, folds=5, seed=0)
    assert classifier.choose_c(vectors[:2], targets[:2], ["g", "g"], folds=5, seed=0) == 1.0


def test_rare_classes_do_not_stop_the_choice_of_c(bag):
    targets = ["billing"] * 12 + ["card"] * 12 + ["delay"]
    rows = [_row(i, text, name) for i, (text, name) in enumerate(zip(_texts(targets), targets, strict=True))]
    assert classifier.fit(rows, ("billing", "card", "delay")).classes == ("billing", "card", "delay")


def test_refusals(bag, tmp_path):
    rows = [_row(0, "refund", "billing"), _row(1, "refund", "billing")]
    with pytest.raises(InputError) as refused:
        classifier.fit(rows, ("card",), c=0.0, folds=1)
    assert [problem.where for problem in refused.value.problems] == ["t0", "t1", "classifier", "c", "folds"]
    with pytest.raises(InputError, match="fewer than two classes"):
        classifier.solve([_sample(0, "billing")], ["x"], rows, classification(("billing", "other")), None)
    with pytest.raises(InputError, match="1 texts for 2 samples"):
        classifier.solve([_sample(0, "a"), _sample(1, "a")], ["x"], rows, classification(("billing", "other")), None)
    with pytest.raises(InputError, match="no saved classifier"):
        classifier.load(tmp_path / "nowhere")


def test_another_encoder_is_refused_on_load(bag, tmp_path):
    rows = [_row(0, "refund", "billing"), _row(1, "card", "card")]
    classifier.fit(rows, ("billing", "card"), c=1.0).save(tmp_path / "head")
    about = json.loads((tmp_path / "head" / "classifier.json").read_text())
    (tmp_path / "head" / "classifier.json").write_text(json.dumps(about | {"encoder_sha256": "other"}))
    with pytest.raises(InputError, match="another version of encoder"):
        classifier.load(tmp_path / "head")


def test_an_unknown_encoder_is_refused():
    with pytest.raises(InputError, match="neither known nor a folder"):
        encoder.encoder_folder("minilmm")


def test_b4_character_ngrams_equal_scikit_learn_and_one_keyword_decides(tmp_path):
    """B4 Proof: hashed n-grams, idf, SVD and regression as a scikit-learn pipeline give the same predictions, and so does the saved classifier.
    Ex: majority .50 (two labels, 30 rows each), one keyword decides -> 1.00."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer

    targets = ["billing", "delay"] * 30
    texts, fresh = _texts(targets), _texts(["delay", "billing"] * 40)
    rows = [_row(i, text, name) for i, (text, name) in enumerate(zip(texts, targets, strict=True))]
    samples = [_sample(i, name) for i, name in enumerate(["delay", "billing"] * 40)]
    asked = (samples, fresh, rows, classification(("billing", "delay")), None)
    answers = classifier.solve(*asked, tmp_path / "head", encoder="char_ngrams")
    assert answers == ["delay", "billing"] * 40
    assert sum(answer == sample.target for answer, sample in zip(majority.solve(*asked), samples, strict=True)) == 40  # .50
    assert classifier.load(tmp_path / "head").predict(fresh) == answers

    hashed = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 5), n_features=2**14, alternate_sign=False, norm=None)
    fitted = classifier.load(tmp_path / "head")
    oracle = make_pipeline(
        hashed, TfidfTransformer(norm="l2", smooth_idf=True), TruncatedSVD(59, random_state=0), Normalizer(), LogisticRegression(C=fitted.c, max_iter=2000)
    )
    noisy = [" ".join(np.random.default_rng(n).choice(["refund", "late", "the", "my", "lost", "is"], 4)) for n in range(200)]
    assert list(oracle.fit(texts, targets).predict(noisy)) == fitted.predict(noisy)
    assert oracle[:-1].transform(noisy) == pytest.approx(fitted.ngrams.embed(noisy), abs=1e-9)


def test_b4_the_hidden_state_of_a_model_is_an_encoder_too(tiny):
    """The last hidden states of a causal model, averaged over the tokens and brought to length 1; padding changes nothing (1e-5)."""
    texts = ["the phone is good", "bad", "the sound is bad and the phone is bad"] * 4
    rows = [_row(i, text, "bad" if "bad" in text else "good") for i, text in enumerate(texts)]
    fitted = classifier.fit(rows, ("good", "bad"), encoder=str(tiny), c=100.0)
    vectors, _ = encoder.embed(texts[:3], encoder=str(tiny))
    assert vectors.shape == (3, 48)
    assert encoder.embed(texts[1:2], encoder=str(tiny))[0][0] == pytest.approx(vectors[1], abs=1e-5)
    assert fitted.predict(texts[:3]) == ["good", "bad", "bad"]


def test_of_a_document_only_what_is_read_is_tokenised(tiny, monkeypatch):
    """Of 300,000 characters the first 65,536 are tokenised and the first 256 tokens read; what is behind them changes nothing, and the text counts as cut."""
    start = "the phone is good " * 5000
    vectors, cut = encoder.embed([start, start + "bad " * 60_000, "bad"], encoder=str(tiny))
    assert cut.tolist() == [True, True, False]
    assert vectors[1] == pytest.approx(vectors[0], abs=1e-6)
    asked = []
    tokenizer, model = encoder._encoder(tiny, encoder._stamps(tiny))
    monkeypatch.setattr(encoder, "_encoder", lambda *_: (lambda texts, **more: asked.extend(map(len, texts)) or tokenizer(texts, **more), model))
    encoder.embed(["a" * 300_000], encoder=str(tiny))
    assert max(asked) == encoder.READ == 65_536


def test_b4_one_class_is_refused():
    """B4 Bad: one class."""
    with pytest.raises(InputError, match="fewer than two classes"):
        classifier.fit([_row(0, "a", "x"), _row(1, "b", "x")], ("x", "y"), encoder="char_ngrams")


def test_texts_without_a_known_ngram_are_answered_too():
    rows = [_row(0, "refund", "billing"), _row(1, "card", "card"), _row(2, "refunds", "billing")]
    assert set(classifier.fit(rows, ("billing", "card"), encoder="char_ngrams").predict(["", "!"])) <= {"billing", "card"}


@pytest.mark.slow
def test_the_bundled_encoder_end_to_end(tmp_path):
    """Order, batch and length of neighbours do not change an embedding; a small task is solved from its texts."""
    texts = ["Where is my parcel?", "I want my money back.", "The delivery is late again.", "Please refund the order " * 20, "please " * 400]
    vectors, cut = encoder.embed(texts)
    assert vectors.shape == (5, 384)
    assert cut.tolist() == [False] * 4 + [True]
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(5), abs=1e-6)
    assert encoder.embed(texts[::-1])[0][::-1] == pytest.approx(vectors, abs=1e-5)
    assert encoder.embed(texts[:1])[0][0] == pytest.approx(vectors[0], abs=1e-5)
    billing = ["refund my payment", "I was charged twice", "the invoice is wrong", "give me my money back", "why this fee on my bill"]
    parcel = ["my parcel is late", "where is the package", "delivery has not come", "the courier lost my box", "track the shipment"]
    rows = [_row(i, text, "billing" if i < 5 else "parcel") for i, text in enumerate(billing + parcel)]
    fitted = classifier.fit(rows, ("billing", "parcel"))
    assert fitted.predict(["you took money from my account", "has the postman been here"]) == ["billing", "parcel"]
    fitted.save(tmp_path / "head")
    assert classifier.load(tmp_path / "head").predict(texts) == fitted.predict(texts)
