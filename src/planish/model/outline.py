"""A rendering with its contents left open: made once for all dialogues of one shape, and filled in with the texts of each (MISSION K1).

The template runs once with contents that it cannot see. It may write them out, strip or split them, join them to other text and ask them a few yes-or-no questions
("</think>" in content); the answers are kept, and texts that answer otherwise have another outline. Whatever else a template does to a content ends the trial, and
then every dialogue is rendered by itself. So a filled outline is what the template would have written: it went the same way and never saw the text.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple, cast

_NODES = frozenset(
    "Template Output TemplateData For If CondExpr Assign NSRef Name Const List Tuple Dict Pair Keyword Getattr Getitem Slice Call Filter Test"  # noqa: SIM905
    " Compare Operand And Or Not Add Sub Neg Mod Break Continue".split()
)
"""What a template may be made of. Left out is what makes plain text of a value before it is written: macros, blocks that are kept, `~`, and `%` but by a number."""
_FILTERS = frozenset(("trim", "tojson", "length", "count", "list", "default", "d", "first", "last", "items", "selectattr", "rejectattr"))
_TYPES = ("defined", "undefined", "none", "string", "mapping", "iterable", "sequence", "boolean", "number", "integer", "float")
_TESTS = frozenset((*_TYPES, "true", "false", "equalto", "eq", "==", "ne", "!="))
SHAPES, WAYS = 1024, 4
"""Kept in memory: the roles of as many dialogues, and for each as many ways through the template."""
_STRIPPING = ("strip", "lstrip", "rstrip")


class Unfollowed(BaseException):
    """The template does something with a content that an outline cannot repeat. No `Exception`: a test of Jinja's would take it for a No."""


class Place(NamedTuple):
    """Where a content stands, by its number, and what is done to it first: methods of str with their arguments."""

    content: int
    steps: tuple[tuple[str, tuple[Any, ...]], ...] = ()

    def text(self, contents: Seq[str]) -> str:
        """What is written there. Raises IndexError where a part that was taken does not exist."""
        found: Any = contents[self.content]
        for method, arguments in self.steps:
            found = getattr(found, method)(*arguments)
        return str(found)


class Answer(NamedTuple):
    """A question that the template asked of a content, and what it was told."""

    asked: Callable[..., bool]
    place: Place
    arguments: tuple[Any, ...]
    told: bool


@dataclass(frozen=True)
class Outline:
    """The text that the template writes: pieces of its own, and places. It holds for contents that give the same `answers`."""

    pieces: tuple[str | Place, ...]
    answers: tuple[Answer, ...]

    def agrees(self, contents: Seq[str]) -> bool:
        """Whether the template goes this way for these contents."""
        try:
            return all(answer.asked(answer.place.text(contents), *answer.arguments) == answer.told for answer in self.answers)
        except IndexError:  # a part that was taken does not exist
            return False

    def filled(self, contents: Seq[str]) -> str | None:
        """The rendering of these contents; None where the template would go another way."""
        try:
            if not self.agrees(contents):
                return None
            return "".join([piece if isinstance(piece, str) else piece.text(contents) if piece.steps else contents[piece.content] for piece in self.pieces])
        except IndexError:
            return None


class Outlines:
    """The outlines of one template that is `given` the same around the turns, by the roles of the turns."""

    def __init__(self, compiled: Any, template: str, given: dict[str, Any]) -> None:
        self.compiled, self.given = compiled, given
        self.follows = follows(compiled.environment, template)
        self._known: dict[tuple[str, ...], list[Outline | None]] = {}

    def filled(self, roles: tuple[str, ...], contents: Seq[str]) -> str | None:
        """The rendering of a dialogue of plain turns; None where the template has to be asked itself."""
        if not self.follows:
            return None
        if len(self._known) > SHAPES:
            self._known.clear()
        known = self._known.setdefault(roles, [])
        for one in known:
            if one is None or (text := one.filled(contents)) is not None:
                return None if one is None else text
        if len(known) == WAYS:
            return None
        known.append(outline(self.compiled, self.given, roles, contents))
        return self.filled(roles, contents)


def outline(compiled: Any, given: dict[str, Any], roles: Seq[str], contents: Seq[str]) -> Outline | None:
    """What a compiled template that `follows` writes for turns of these roles; the contents answer its questions. None where it cannot be followed, or refuses."""
    answers: list[Answer] = []
    turns = [{"role": role, "content": _Unseen((Place(number),), contents, answers)} for number, role in enumerate(roles)]
    try:
        written = list(compiled.root_render_func(compiled.new_context({**given, "messages": turns})))
    except (Unfollowed, Exception):
        return None
    pieces = [piece for text in written for piece in (text.pieces if type(text) is _Written else (text,))]
    joined = [part for own, run in groupby(pieces, lambda piece: type(piece) is str) for part in (["".join(cast(Iterable[str], run))] if own else run)]
    return Outline(tuple(joined), tuple(dict.fromkeys(answers)))


def follows(environment: Any, template: str) -> bool:
    """Whether the template is made of parts that show what they do with a content: see `_NODES`. One that reads the clock writes another text each day."""
    from jinja2 import nodes

    tree = environment.parse(template)
    if {type(node).__name__ for node in tree.find_all(nodes.Node)} - _NODES or any(loop.recursive for loop in tree.find_all(nodes.For)):
        return False
    if any(not isinstance(rest.right, nodes.Const) or type(rest.right.value) is not int for rest in tree.find_all(nodes.Mod)):
        return False
    if {name.name for name in tree.find_all(nodes.Name)} & {"strftime_now", "lipsum"}:
        return False
    tests = {test.name for test in tree.find_all(nodes.Test)}
    for used in tree.find_all(nodes.Filter):
        if used.name not in _FILTERS:
            return False
        if used.name in ("selectattr", "rejectattr"):
            tests |= {named.value if isinstance(named, nodes.Const) else "" for named in used.args[1:2]}
    return tests <= _TESTS


class _Written(str):
    """Text with places, on its way out of the template; by itself it is empty."""

    pieces: tuple[str | Place, ...]


class _Unseen:
    """Stands for a content, or for text with contents in it. It says that it is text, and keeps what it says to itself."""

    __slots__ = ("_answers", "_contents", "_pieces")
    __class__ = property(lambda self: str)

    def __init__(self, pieces: tuple[str | Place, ...], contents: Seq[str], answers: list[Answer]) -> None:
        self._pieces, self._contents, self._answers = pieces, contents, answers

    def __str__(self) -> str:
        if sys._getframe(1).f_code.co_filename != "<template>":
            raise Unfollowed("made text by another than the template itself")
        text = _Written()
        text.pieces = self._pieces
        return text

    def __add__(self, other: Any) -> _Unseen:
        return self._with((*self._pieces, *_pieces(other)))

    def __radd__(self, other: Any) -> _Unseen:
        return self._with((*_pieces(other), *self._pieces))

    def __getattr__(self, name: str) -> Any:
        if name in _STRIPPING:
            return lambda *arguments: self._step(name, arguments)
        if name == "split":
            return lambda *arguments: _Parts(self, arguments)
        if name in ("startswith", "endswith"):
            return lambda *arguments: self._ask(getattr(str, name), *arguments)
        raise Unfollowed(name)

    def __bool__(self) -> bool:
        return self._ask(bool)

    def __contains__(self, other: Any) -> bool:
        return self._ask(operator.contains, other)

    def __eq__(self, other: object) -> bool:
        return self._ask(operator.eq, other)

    def __ne__(self, other: object) -> bool:
        return self._ask(operator.ne, other)

    def __hash__(self) -> int:
        raise Unfollowed("a key")

    def __index__(self) -> int:
        raise Unfollowed("a key")

    def __len__(self) -> int:
        raise Unfollowed("length")

    def __iter__(self) -> Any:
        raise Unfollowed("characters")

    def __getitem__(self, key: Any) -> Any:
        raise Unfollowed("characters")

    def __format__(self, spec: str) -> str:
        raise Unfollowed("format")

    def __repr__(self) -> str:
        raise Unfollowed("a list or a turn as text")

    def _ask(self, asked: Callable[..., bool], *arguments: Any) -> bool:
        place = self._place()
        if not all(type(each) is str for each in arguments):
            raise Unfollowed("a question with more than plain text in it")
        told = bool(asked(place.text(self._contents), *arguments))
        self._answers.append(Answer(asked, place, arguments, told))
        return told

    def _step(self, method: str, arguments: tuple[Any, ...], *more: tuple[str, tuple[Any, ...]]) -> _Unseen:
        place = self._place()
        if not all(type(each) in (str, int, type(None)) for each in arguments):
            raise Unfollowed(method)
        return self._with((place._replace(steps=(*place.steps, (method, arguments), *more)),))

    def _place(self) -> Place:
        first = self._pieces[0]
        if len(self._pieces) > 1 or type(first) is not Place:
            raise Unfollowed("text that is put together")
        return first

    def _with(self, pieces: tuple[str | Place, ...]) -> _Unseen:
        return _Unseen(pieces, self._contents, self._answers)


class _Parts:
    """A content that was split: its parts can be taken by their number only."""

    __slots__ = ("_arguments", "_whole")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, whole: _Unseen, arguments: tuple[Any, ...]) -> None:
        self._whole, self._arguments = whole, arguments

    def __getitem__(self, key: Any) -> _Unseen:
        if type(key) is not int:
            raise Unfollowed("parts")
        part = self._whole._step("split", self._arguments, ("__getitem__", (key,)))
        try:
            part._place().text(self._whole._contents)
        except IndexError as absent:  # Jinja would go on without it
            raise Unfollowed("a part that is not there") from absent
        return part

    def __getattr__(self, name: str) -> Any:
        raise Unfollowed(name)

    def _refuse(self, *_: Any) -> Any:
        raise Unfollowed("parts")

    __len__ = __iter__ = __bool__ = __str__ = __repr__ = __eq__ = __ne__ = __contains__ = __add__ = __radd__ = __format__ = _refuse


def _pieces(other: Any) -> tuple[str | Place, ...]:
    if type(other) is _Unseen:
        return other._pieces
    if type(other) is not str:
        raise Unfollowed("joined to what is no text")
    return (other,)
