"""Replay in training: which general rows, held against everything that is scored, and what they are as examples beside the task's (MISSION C5, D9)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from planish import shelf
from planish.data import dataset, replay
from planish.data.table import ROW, line_of
from planish.data.task import make
from planish.data.tree import Sequence as Tokens
from planish.errors import InputError, Problem
from planish.events import EventType
from planish.model import bundled
from planish.model.chat import Chat
from planish.model.engine import Decoding
from planish.model.example import Example
from planish.model.row_limit import row_limit
from planish.model.template import Refused
from planish.model.tokenise import How, build
from planish.recipe import Recipe
from planish.recipe_keys import Use
from planish.recipe_train import ReplaySection, TrainSection
from planish.rows import ChatRow, RejectCode, Row, TextRow, content_hash
from planish.stages._context import Context, read_json, write_json
from planish.stages._encoding import encode
from planish.stages._general import general_options, general_rows
from planish.store.objects import file_hash, write_atomic

OWN = ("general", "self")
"""What `replay.rows` may name instead of a file."""
ANSWER_TOKENS = 64
"""The room of an answer that the base is asked for."""
REFUSE_ABOVE = 0.01
"""More of gold than this in the replayed rows refuses the run, as it does in the training rows (MISSION D9)."""


def refusals(section: TrainSection, where: str) -> list[Problem]:
    """An objective that reads no dialogues cannot be mixed with rows that are dialogues and text."""
    objective = shelf.find("objectives", section.objective.name).load()
    if section.replay is None or (objective.ROW is ChatRow and not getattr(objective, "HEAD", False) and not {"prepare", "FILES"} & vars(objective).keys()):
        return []
    if objective.ROW is TextRow:
        fix = "use general, or the path of general rows"
        return [Problem(f"{where}.replay.rows", "the base's own answers are too few beside documents", fix)] if section.replay.rows == "self" else []
    return [Problem(f"{where}.replay", f"{section.objective.name} does not learn from plain text and dialogues", "replay in an entry whose objective is sft")]


def options(recipe: Recipe) -> dict[str, Any]:
    """What replay depends on beside its keys: a user's rows by their content, and the suites that they are held against."""
    asked = [section.replay.rows for section in recipe.train if section.replay is not None]
    files = [recipe.resolve(Path(rows)) for rows in asked if rows not in OWN]
    return {"replay": [file_hash(path) for path in files if path.is_file()], **general_options(recipe)} if asked else {}


def gather(context: Context, section: TrainSection, prepared: Path, base: Path, documents: str | None = None) -> str | None:
    """The file of the rows that this entry replays, under the workspace and named by its content; None where it replays nothing. Beside `documents` the share is one of
    their characters: a document is no row.

    Rows that hold what the gold set or a general suite asks are left out, and that is said. Raises InputError when they hold more than 1 % of gold.
    """
    if section.replay is None:
        return None
    data = dataset.read(prepared)
    gold = list(dataset.every_row(data, "gold"))
    context.event(EventType.GOLD_READ, {"sha256": data.manifest.gold_sha256, "rows": len(gold), "for": "leaving what it asks out of replay"})
    trained = min(data.manifest.counts["train"], section.max_rows or data.manifest.counts["train"])
    wanted = replay.count(trained, section.replay.share)
    screened = replay.screen(_pool(context, section.replay, base, wanted), [*gold, *replay.as_rows(general_rows(context.recipe))])
    matched = len(screened.held & {row.id for row in gold})
    if matched > REFUSE_ABOVE * len(gold):
        why = f"{matched} of {len(gold)} gold rows stand in the rows to replay in some form"
        raise InputError(Problem(f"train.replay.rows: {section.replay.rows}", why, "give rows that were drawn apart from the gold set"))
    if screened.leaks:
        _warn(context, f"replay: {len({row for row, _, _ in screened.leaks})} rows left out: they hold what the evaluation asks")
    if not screened.kept:
        raise InputError(Problem(f"train.replay.rows: {section.replay.rows}", "holds no row that may be replayed", "give other rows"))
    if documents is not None:
        wanted = replay.count_beside(Path(documents).stat().st_size, screened.kept, section.replay.share)
    if len(screened.kept) < wanted:
        _warn(context, f"replay: {len(screened.kept)} of the {wanted} rows that a share of {section.replay.share:g} asks for; each counts the more")
    lines = [line_of(row) for row in screened.kept[:wanted]]
    path = context.store.workspace / "replay" / f"{content_hash([line.decode() for line in lines])}.jsonl"
    write_atomic(path, lines)
    return str(path)


class Mixed(NamedTuple):
    """The replayed rows as examples with their ids, those that were refused, and what share they came to."""

    encoded: list[tuple[str, Example]]
    refused: list[dict[str, str]]
    figures: dict[str, Any] | None


def mix(section: TrainSection, path: Path, task: Sequence[tuple[str, Example]], base: Path, tokens: Path) -> Mixed:
    """The rows of the file as examples beside the task's: n rho / (1 - rho) of them, each token weighted so that they are the share rho of the loss."""
    assert section.replay is not None
    share = section.replay.share
    with path.open("rb") as stream:
        rows = [ROW.validate_json(line) for line in stream]
    spoken = section
    if shelf.find("objectives", section.objective.name).load().ROW is TextRow:  # its file holds as many as the documents ask for; a dialogue trains its answers
        spoken = section.model_copy(update={"objective": Use(name="sft")})
    else:
        rows = rows[: replay.count(len(task), share)]
    dialogues, refused = encode(spoken, [row for row in rows if isinstance(row, ChatRow)], make("chat"), base, tokens)
    store = build(
        [row for row in rows if isinstance(row, TextRow)], How(base, max_length=row_limit(section, base), encode=_text, meaning=(("encoding", "text"),)), tokens
    )
    texts = [(row_id, store.example(place)) for place, row_id in enumerate(store.row_ids)]
    refused += [{"row": fault.row, "code": fault.code.value, "why": fault.why} for fault in store.faults]
    found = [*dialogues, *texts]
    if not found:
        raise InputError(
            Problem("train.replay", f"none of the {len(rows)} rows could be encoded: {refused[0]['why']}", "give shorter rows, or raise max_length")
        )
    own, replayed = (sum(example.share for _, example in part) for part in (task, found))
    weight = replay.token_weight(own, replayed, share)
    figures = {
        "asked": share,
        "rows": len(found),
        "row_share": len(found) / (len(found) + len(task)),
        "token_share": replayed / (replayed + own),
        "token_weight": weight,
        "loss_share": weight * replayed / (weight * replayed + own),
        "kinds": dict(Counter(row.shape for row in rows)),
    }
    return Mixed([(row_id, _weighted(example, weight)) for row_id, example in found], refused, figures)


def said_of(figures: dict[str, Any] | None) -> str:
    """Behind the line that says what is trained: what share is replayed."""
    return "" if figures is None else f"; {figures['rows']} of the rows are replayed ({figures['row_share']:.1%}), {figures['loss_share']:.1%} of the loss"


def _pool(context: Context, section: ReplaySection, base: Path, wanted: int) -> list[Row]:
    if section.rows == "general":
        return replay.owned()
    if section.rows == "self":
        return _self_answered(context, base, wanted)
    path = context.recipe.resolve(Path(section.rows))
    if not path.is_file():
        raise InputError(Problem(f"train.replay.rows: {section.rows}", "is no file of rows", "give general, self, or the path of rows, relative to the recipe"))
    return replay.from_file(path)


def _self_answered(context: Context, base: Path, wanted: int) -> list[Row]:
    """The base's greedy answers to general questions, kept under the workspace: the same base is asked once."""
    from planish.engines import transformers

    asked = replay.questions()[:wanted]
    kept = context.store.workspace / "replay" / f"answers-{content_hash([bundled.identity(base), asked, ANSWER_TOKENS])}.json"
    if not kept.is_file():
        engine = transformers.start(base)
        answers = []
        with context.progress.bar("the base answers for replay", len(asked)) as advance:
            for question in asked:
                [said] = engine.generate([engine.chat.prompt(replay.question(question))], Decoding(max_new_tokens=ANSWER_TOKENS))
                # An answer that was cut would teach to stop anywhere.
                answers.append(said.text if said.finish == "stop" else "")
                advance(1)
        engine.close()
        write_json(kept, answers)
    return replay.answered(asked, read_json(kept))


def _warn(context: Context, text: str) -> None:
    context.event(EventType.TRAIN_WARNED, {"what": text}, severity="warning")
    context.progress.say(f"  note: {text}")


def _text(row: TextRow, chat: Chat) -> Example:
    """Every token but the first is trained."""
    ids = tuple(chat.encode(row.text))
    if len(ids) < 2:
        raise Refused(RejectCode.NO_SCORED_TOKENS, "a text of one token predicts nothing")
    return Example((Tokens(ids, (0.0, *[1.0] * (len(ids) - 1))),), float(len(ids) - 1))


def _weighted(example: Example, weight: float) -> Example:
    sequences = tuple(replace(one, weights=tuple(weight * own for own in one.weights)) for one in example.sequences)
    return Example(sequences, weight * example.share)
