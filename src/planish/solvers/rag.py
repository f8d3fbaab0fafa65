"""Retrieval: the k best passages of the documents stand numbered before the question, and the answer is to cite what it used.

BM25 finds passages by shared words, embeddings by meaning; nothing is trained (MISSION B3). Source: Robertson and Zaragoza 2009; Lewis et al. 2020."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from planish.data import citations, documents
from planish.data.answers import accepted, plain
from planish.data.bm25 import Index
from planish.data.passages import Passage, cut
from planish.data.task import Task, numbered
from planish.errors import InputError, Problem
from planish.evidence.tally import tally
from planish.model.asker import Answer, Asker
from planish.model.solved import Solved
from planish.rows import Row, Sample
from planish.scores import Score

CITE = "Answer from the numbered passages, and name those you used in brackets, like [1]."
_MARK = re.compile(r"\s*\[\d{1,4}(?:\s*[,;]\s*\d{1,4})*\]")


def solve(
    samples: Sequence[Sample],
    texts: Sequence[str],
    train: Sequence[Row],
    task: Task,
    asker: Asker | None,
    *,
    path: str | None = None,
    k: int = 4,
    words: int = 200,
    overlap: int = 40,
    retriever: Literal["bm25", "embeddings"] = "bm25",
    k1: float = 1.2,
    b: float = 0.75,
) -> Solved:
    """One answer per sample, citations taken off before it is scored; and `recall_at_<k>`, `answerable`, `citation_precision`, `citation_recall`, `citation_f1`, `cites`.

    Searched are the documents under `path`, those of the training rows, and those that the questions bring along. Where a prompt leaves no room for the answer, its lowest
    passages are dropped and counted. Raises InputError where there is no document, and for settings out of range.
    """
    assert asker is not None
    if k < 1:
        raise InputError(Problem("rag.k", f"{k} passages are none", "k >= 1, 4 by default"))
    questions, own = zip(*(_parted(text) for text in texts), strict=True)
    corpus = dict.fromkeys([*(documents.read(Path(path)) if path is not None else []), *documents.carried(train), *(one for each in own for one in each)])
    if not corpus:
        raise InputError(Problem("rag", "there is no document to search", "give rag a path to documents, or question rows that bring theirs"))
    passages = cut(corpus, words=words, overlap=overlap)
    find = _by_words(passages, k1, b) if retriever == "bm25" else _by_meaning(passages)
    found = [find(question, k) for question in questions]
    asked, shown = [], []
    for sample, question, places in zip(samples, questions, found, strict=True):
        kept = _room(sample, question, [passages[place].text for place in places], task, asker)
        shown.append(places[:kept])
        asked.append(_with(sample, question, [passages[place].text for place in places[:kept]], task))
    answers = asker.answer(asked, task)
    held = [f" {plain(passage.text)} " for passage in passages]
    place_of = {document: number for number, document in enumerate(corpus)}
    rows = [
        _judged(sample, answer, places, seen, _relevant(sample, passages, held, {place_of[one] for one in brought}))
        for sample, answer, places, seen, brought in zip(samples, answers, found, shown, own, strict=True)
    ]
    figures = tally(rows, ("recall", "answerable", "citation_precision", "citation_recall", "citation_f1", "cites"))
    metrics = {(f"recall_at_{k}" if name == "recall" else name): metric for name, metric in figures.items()}
    dropped = [len(places) - len(seen) for places, seen in zip(found, shown, strict=True)]
    said = f"{len(corpus)} documents in {len(passages)} passages of up to {words} words; {sum(map(bool, dropped))} prompts left no room, {sum(dropped)} passages dropped"
    return Solved([answer._replace(text=_MARK.sub("", answer.text).strip()) if answer.text else answer for answer in answers], metrics, {"retrieval": said})


def _parted(text: str) -> tuple[str, list[str]]:
    """A question, and the documents that stand numbered before it."""
    before, _, question = text.rpartition("\n\n")
    brought = list(citations.passages([re.sub(r"\n\s*\n", "\n", before)]).values())
    return (question, brought) if brought else (text, [])


def _by_words(passages: Sequence[Passage], k1: float, b: float) -> Callable[[str, int], list[int]]:
    return Index([passage.text for passage in passages], k1=k1, b=b).best


def _by_meaning(passages: Sequence[Passage]) -> Callable[[str, int], list[int]]:
    from planish.model.encoder import embed

    vectors, _ = embed([passage.text for passage in passages])
    return lambda question, k: (-(vectors @ embed([question])[0][0])).argsort(kind="stable")[:k].tolist()


def _with(sample: Sample, question: str, shown: Sequence[str], task: Task) -> Sample:
    """The sample asked with these passages; without any, as it is asked plainly."""
    content = f"{CITE}\n\n{numbered(shown)}\n\n{question}" if shown else question
    return sample.model_copy(update={"messages": (*sample.messages[:-1], *task.prompt(content))})


def _room(sample: Sample, question: str, shown: Sequence[str], task: Task, asker: Asker) -> int:
    """How many of the passages leave room for an answer, the best first."""
    kept = len(shown)
    while kept and not asker.fits(_with(sample, question, shown[:kept], task).messages, sample.tools, task.kind.max_new_tokens):
        kept -= 1
    return kept


def _relevant(sample: Sample, passages: Sequence[Passage], held: Sequence[str], brought: set[int]) -> set[int]:
    """Passages that hold an accepted answer in SQuAD's plain form, of the question's own documents where it brings any; all of those where none holds it."""
    wanted = [text for text in map(plain, accepted(sample.target)) if text]
    own = [place for place, passage in enumerate(passages) if not brought or passage.document in brought]
    holding = {place for place in own if any(f" {one} " in held[place] for one in wanted)}
    return holding or (set(own) if brought else set())


def _judged(sample: Sample, answer: Answer, found: Sequence[int], shown: Sequence[int], right: set[int]) -> Score:
    """What was found and cited of one question, as rows that `tally` sums. A number that is no passage of the prompt is a wrong citation."""
    said = citations.cited(answer.text or "")
    true = {number for number in said if 1 <= number <= len(shown) and shown[number - 1] in right}
    visible = right & set(shown)
    detail: Mapping[str, float] = {
        **{"recall.part": len(right & set(found)) / len(right) if right else 0.0, "recall.whole": float(bool(right)), "answerable": float(bool(right))},
        **{"citation_precision.part": float(len(true)), "citation_precision.whole": float(len(said))},
        **{"citation_recall.part": float(len(true)), "citation_recall.whole": float(len(visible))},
        **{"citation_f1.part": 2.0 * len(true), "citation_f1.whole": float(len(said) + len(visible)), "cites": float(bool(said))},
    }
    return Score(id=sample.id, answer=answer.text, parsed=None, target=sample.target, value=0.0, detail=dict(detail))
