"""Documents in training: read, held against everything that is scored, divided into those that are trained and those that show the domain's loss (MISSION C1, D9)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from planish import shelf
from planish.data import dataset, documents
from planish.data.replay import as_rows, screen
from planish.data.table import ROW, line_of
from planish.data.task import Task
from planish.errors import InputError, Problem
from planish.events import EventType
from planish.model import bundled
from planish.model.chat import Chat
from planish.model.example import Example
from planish.recipe import Recipe
from planish.recipe_train import TrainSection
from planish.rows import Origin, Row, TextRow, content_hash
from planish.stages._context import Context
from planish.stages._encoding import encode
from planish.stages._general import general_options, general_rows
from planish.stages._replay import REFUSE_ABOVE
from planish.store.objects import file_hash, write_atomic

HELD = 20
"""One document of so many is never trained: the domain's loss is measured on it."""
LARGE = 10
"""A document of more than one in so many characters of all is trained."""
CHECK_BLOCKS = 16
"""Blocks on which the loss is looked at while it trains: it steers, it proves nothing."""

DOMAIN = "domain.jsonl"
"""The documents that were held out, beside what an entry made."""

Named = list[tuple[str, Example]]


def reads_documents(section: TrainSection) -> bool:
    """Whether the entry's objective is trained on documents and not on the task's rows."""
    return bool(shelf.find("objectives", section.objective.name).load().ROW is TextRow)


def refusals(section: TrainSection, where: str) -> list[Problem]:
    """An objective over documents without any, documents for another objective, and what means nothing for them."""
    name = section.objective.name
    if not reads_documents(section):
        why = f"{name} learns from the rows of data, not from documents"
        return [] if section.documents is None else [Problem(f"{where}.documents", why, "give them to an entry of its own: objective: cpt")]
    found = []
    if section.documents is None:
        fix = "name a file or folder of .txt, .md, .rst or text rows; dialogues and answers are for sft"
        found.append(Problem(f"{where}.documents", f"is missing: {name} reads documents, not the rows of data", fix))
    if section.max_length is not None:
        found.append(Problem(f"{where}.max_length", "has no place here: a long document goes on in the next block", "set block in the objective's own keys"))
    return found


def strange(recipe: Recipe, section: TrainSection, where: str) -> list[Problem]:
    """Rows among the first of each file of the documents that are of another shape: dialogues are not documents. A path that is not there is refused by `options`."""
    path = None if section.documents is None else recipe.resolve(section.documents)
    if path is None or not reads_documents(section) or not path.exists():
        return []
    return [Problem(f"{where}.documents: {one.where}", one.why, one.fix) for one in documents.other_shapes(path)]


def options(recipe: Recipe) -> dict[str, object]:
    """What training on documents depends on beside its keys: their content, and what they are held against. Raises InputError where there are none."""
    paths = [recipe.resolve(section.documents) for section in recipe.train if section.documents is not None]
    absent = [
        Problem(f"train.documents: {path}", "there is no such file or folder", "give a path relative to the recipe") for path in paths if not path.exists()
    ]
    if absent:
        raise InputError(*absent)
    hashes = [[file_hash(file) for file in sorted(path.rglob("*") if path.is_dir() else [path]) if file.is_file()] for path in paths]
    return {"documents": hashes, **general_options(recipe)} if paths else {}


def gather(context: Context, section: TrainSection, prepared: Path) -> str | None:
    """The file of the documents that may be trained, under the workspace and named by its content; None where the entry reads none.

    One that repeats another, or holds what the gold set or a general suite asks, is left out, and that is said. Raises InputError when they hold more than 1 % of gold.
    """
    if section.documents is None:
        return None
    data = dataset.read(prepared)
    gold = list(dataset.every_row(data, "gold"))
    context.event(EventType.GOLD_READ, {"sha256": data.manifest.gold_sha256, "rows": len(gold), "for": "leaving what it asks out of the documents"})
    rows = read(context.recipe.resolve(section.documents))
    screened = screen(rows, [*gold, *as_rows(general_rows(context.recipe))])
    matched = len(screened.held & {row.id for row in gold})
    if matched > REFUSE_ABOVE * len(gold):
        why = f"{matched} of {len(gold)} gold rows stand in the documents in some form"
        raise InputError(Problem(f"train.documents: {section.documents}", why, "take out the documents that gold was made of, or make gold of others"))
    if screened.leaks:
        said = f"documents: {len({row for row, _, _ in screened.leaks})} of {len(rows)} left out: they hold what the evaluation asks"
        context.event(EventType.TRAIN_WARNED, {"what": said, "rows": sorted({row for row, _, _ in screened.leaks})}, severity="warning")
        context.progress.say(f"  note: {said}")
    if not screened.kept:
        raise InputError(Problem(f"train.documents: {section.documents}", "holds no document that may be trained", "give others"))
    _warn_of_special(context, screened.kept)
    lines = [line_of(row) for row in screened.kept]
    path = context.store.workspace / "documents" / f"{content_hash([line.decode() for line in lines])}.jsonl"
    write_atomic(path, lines)
    return str(path)


def _warn_of_special(context: Context, rows: Sequence[Row]) -> None:
    """Say which documents spell a token of the tokenizer's own: in the middle of a text they would be trained as the end of one, or as a turn."""
    recipe = context.recipe
    tokens = Chat.load(bundled.locate(recipe.model, recipe.source.parent if recipe.source else None)).tokens
    spelt = {row.id: token for row in rows if isinstance(row, TextRow) and (token := tokens.special_in(row.text))}
    if spelt:
        named = ", ".join(dict.fromkeys(spelt.values()))
        said = f"documents: {len(spelt)} of {len(rows)} spell {named}, which is read and trained as that token; take it out where it is only text"
        context.event(EventType.TRAIN_WARNED, {"what": said, "rows": sorted(spelt)}, severity="warning")
        context.progress.say(f"  note: {said}")


def read(path: Path) -> list[Row]:
    """Documents as rows named by their content, each once. Raises InputError for rows that are no text, dialogues among them."""
    rows: dict[str, Row] = {}
    for index, text in enumerate(documents.read(path)):
        digest = content_hash(text)
        rows.setdefault(digest, TextRow(id=f"document-{digest[:12]}", origin=Origin(file=path.name, line=index + 1, sha256=digest), text=text))
    return list(rows.values())


def divided(path: Path) -> tuple[list[TextRow], list[TextRow]]:
    """The gathered documents: those to train on, and one of 20 by the hash of its text, at least one where there are two, on which the domain's loss is measured.

    Never held is one of which nothing can be predicted, nor one that is more than a tenth of all text (of fewer than ten: longer than their mean), as what is held teaches
    nothing: one book beside a few notes would be lost to training."""
    with path.open("rb") as stream:
        rows = [row for line in stream if isinstance(row := ROW.validate_json(line), TextRow)]
    told = [row for row in rows if len(row.text.strip()) > 1]
    longest = sum(len(row.text) for row in told) / max(1, min(LARGE, len(told)))
    count = max(1, len(told) // HELD) if len(told) > 1 else 0
    held = {row.id for row in sorted((row for row in told if len(row.text) <= longest), key=lambda row: row.id)[:count]}
    return [row for row in rows if row.id not in held], [row for row in rows if row.id in held]


def keep_held(path: Path, folder: Path) -> None:
    """Write the held-out documents beside what an entry made, for the evaluation."""
    write_atomic(folder / DOMAIN, [line_of(row) for row in divided(path)[1]])


def carry_held(made: Path, place: Path) -> None:
    """Copy them along with an entry's figures."""
    if (made / DOMAIN).is_file() and made != place:
        (place / DOMAIN).write_bytes((made / DOMAIN).read_bytes())


def encoded(section: TrainSection, path: Path, task: Task, base: Path, tokens: Path) -> tuple[Named, list[dict[str, str]], Named]:
    """The documents to train on as examples with their ids, those that were refused, and the held-out ones; none of them in blocks yet."""
    train, held = divided(path)
    found, refused = encode(section, train, task, base, tokens)
    return found, refused, encode(section, held, task, base, tokens)[0]


def in_blocks(section: TrainSection, named: Sequence[tuple[str, Example]], base: Path) -> Named:
    """Whatever is trained in blocks put into them; the examples as they are for an objective that has none."""
    objective = section.objective
    if not hasattr(shelf.find("objectives", objective.name).load(), "blocks"):
        return list(named)
    context = json.loads((base / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
    made: Named = shelf.call("objectives", objective.name, "blocks", objective.options)(named, context)
    return made
