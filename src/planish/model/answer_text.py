"""The text of an answer while its tokens arrive: ended at a stop text, held back where it may be the beginning of one or half a character."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from planish.model.engine import Decoding, Delta, Generation


class AnswerText:
    """One answer. `finish` is None while it goes on. The pieces of `take` joined are the text of `whole`."""

    def __init__(self, decode: Callable[[Sequence[int]], str], end: int, decoding: Decoding) -> None:
        self._decode, self._end, self._decoding = decode, end, decoding
        self.ids: list[int] = []
        self.finish: str | None = None
        self._parts: list[str] = []
        self._sent = ""

    def take(self, token: int) -> Delta:
        """The piece that `token` brings."""
        if token == self._end:
            return self._say(self._decode(self.ids)[len(self._sent) :], (), "stop")
        self.ids.append(token)
        text = self._decode(self.ids)
        cut = min((text.find(stop) for stop in self._decoding.stop if stop in text), default=-1)
        if cut >= 0:
            return self._say(text[len(self._sent) : cut], (token,), "stop")
        last = len(self.ids) == self._decoding.max_new_tokens
        ready = text if last else text[: len(text) - held_back(text, self._decoding.stop)]
        piece = ready[len(self._sent) :]
        self._sent = ready if len(ready) > len(self._sent) else self._sent
        return self._say(piece, (token,), "length" if last else None)

    def whole(self) -> Generation:
        """The answer, once it has ended."""
        return Generation("".join(self._parts), tuple(self.ids), "stop" if self.finish == "stop" else "length")

    def _say(self, text: str, ids: tuple[int, ...], finish: str | None) -> Delta:
        self._parts.append(text)
        self.finish = finish
        return Delta(text, ids, "stop" if finish == "stop" else "length" if finish else None)


def held_back(text: str, stops: tuple[str, ...]) -> int:
    """How many characters at the end may still turn into a stop text or a whole character."""
    held = 1 if text.endswith("\ufffd") else 0
    for stop in stops:
        held = max([held, *(size for size in range(1, len(stop)) if text.endswith(stop[:size]))])
    return held
