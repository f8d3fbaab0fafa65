"""A teacher behind an OpenAI-compatible endpoint: its answer and its likeliest tokens, put on the student's own tokens by what they spell."""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from typing import Any

import numpy as np

from planish.data.capture_file import CapturedRow, Said
from planish.data.outbound import Caller
from planish.engines.endpoint import openai_turns
from planish.errors import InputError, Problem, RunFailed
from planish.model.chat import Chat
from planish.model.token_bytes import TokenBytes
from planish.rows import ChatRow, Message

TOP = 20
"""Likeliest tokens asked for: the most that OpenAI's API gives."""


class WireTeacher:
    """Asks a model at a checked address. `tokens` spells the student's tokens."""

    def __init__(self, caller: Caller, model: str, chat: Chat, tokens: TokenBytes, *, max_new_tokens: int, temperature: float) -> None:
        self.caller, self.model, self.chat, self.tokens = caller, model, chat, tokens
        self.max_new_tokens, self.temperature = max_new_tokens, temperature

    def captured(self, row: ChatRow, k: int) -> CapturedRow:
        """The row as the endpoint answers it. Raises RunFailed where the call failed for good or the answer is empty, InputError where it gives no log-probabilities."""
        answer = self._asked(row, {"logprobs": True, "top_logprobs": min(k, TOP)})
        told, message = answer.get("logprobs"), answer.get("message")
        if isinstance(message, dict) and not message.get("content"):
            raise RunFailed(Problem(f"teacher {self.model}", "its answer is empty", "the row is left out"), reason_code="endpoint_failed")
        content = told.get("content") if isinstance(told, dict) else None
        if not isinstance(content, list) or not content or not all(isinstance(one, dict) and isinstance(one.get("top_logprobs"), list) for one in content):
            fix = "let it write the answers and train on them as text (planish capture --text), or ask one that gives top_logprobs"
            raise InputError(Problem(f"teacher {self.model}", "returns no log-probabilities", fix))
        if not all(_is_told(one) and all(map(_is_told, one["top_logprobs"])) for one in content):
            why = "its log-probabilities are not in OpenAI's shape: each is a token, a number, and bytes or null"
            raise RunFailed(Problem(f"teacher {self.model}", why, "the row is left out"), reason_code="endpoint_failed")
        return self._mapped(row, content, "length" if answer.get("finish_reason") == "length" else "stop")

    def text(self, row: ChatRow, seed: int) -> tuple[str, str]:
        """One written answer and why it ended."""
        answer = self._asked(row, {"seed": seed})
        message = answer.get("message")
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise RunFailed(
                Problem(f"teacher {self.model}", "its answer is not in OpenAI's shape", "check that it is a chat endpoint"), reason_code="endpoint_failed"
            )
        return message["content"], str(answer.get("finish_reason"))

    def _asked(self, row: ChatRow, more: dict[str, Any]) -> dict[str, Any]:
        turns: Seq[Message] = row.messages[:-1]
        body = {"model": self.model, "messages": openai_turns(turns), "max_tokens": self.max_new_tokens, "temperature": self.temperature, **more}
        said = self.caller.post("chat/completions", body | ({"tools": list(row.tools)} if row.tools else {}))
        choices = said.get("choices") if isinstance(said, dict) else None
        if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
            raise RunFailed(
                Problem(f"teacher {self.model}", "its answer is not in OpenAI's shape", "check that it is a chat endpoint"), reason_code="endpoint_failed"
            )
        if choices[0].get("finish_reason") not in ("stop", "length"):
            why = f"an answer ended for another reason than its end or its length: {str(choices[0].get('finish_reason'))[:40]}"
            raise RunFailed(Problem(f"teacher {self.model}", why, "the row is left out"), reason_code="endpoint_failed")
        return choices[0]

    def _mapped(self, row: ChatRow, content: list[dict[str, Any]], finish: str) -> CapturedRow:
        spelt = [_bytes(one) for one in content]
        end = self.tokens.of[self.chat.end]
        closing = content.pop() if finish == "stop" and spelt[-1] == end else None
        whole = b"".join(spelt[: len(content)])
        ids = self.chat.encode(whole.decode("utf-8", "replace"))
        ours = self.tokens.ends(ids)
        if b"".join(self.tokens.of[id] for id in ids) != whole:
            ours = [-1] * len(ids)  # their text is no text of ours, byte for byte: nothing falls together
        theirs: dict[tuple[int, int], dict[str, Any]] = {}
        at = 0
        for one, spell in zip(content, spelt, strict=False):
            theirs[at, at + len(spell)] = one
            at += len(spell)
        found = [theirs.get((begin, stop)) for begin, stop in zip([0, *ours], ours, strict=False)]
        if finish == "stop":
            ids, found = [*ids, self.chat.end], [*found, closing]
        said = self._said(found)
        prompt = self.chat.prompt(row.messages[:-1], row.tools)
        return CapturedRow(row.id, tuple(prompt), tuple(ids), (True,) * len(ids), said, "length" if finish == "length" else "stop", len(content))

    def _said(self, found: Seq[dict[str, Any] | None]) -> Said:
        """Their likeliest tokens by our ids; one that we have no word for stays in the tail."""
        tops: list[dict[int, float]] = []
        for one in found:
            own: dict[int, float] = {}
            for other in [] if one is None else [*one["top_logprobs"], one]:
                id, lp = self.tokens.ids.get(_bytes(other)), float(other["logprob"])
                if id is not None and math.isfinite(lp) and lp > -100:
                    own.setdefault(id, min(lp, 0.0))
            tops.append(dict(sorted(own.items(), key=lambda item: -item[1])))
        return Said(
            np.array([len(top) for top in tops], np.int64),
            np.array([id for top in tops for id in top], np.int64),
            np.array([lp for top in tops for lp in top.values()], np.float64),
            np.zeros((len(tops), 1)),
            np.zeros((len(tops), 0), np.int64),
            np.zeros((len(tops), 0)),
        )


def _is_told(one: Any) -> bool:
    if not isinstance(one, dict) or not isinstance(one.get("token"), str) or isinstance(one.get("logprob"), bool):
        return False
    given = one.get("bytes")
    spelt = given is None or (isinstance(given, list) and all(isinstance(byte, int) and 0 <= byte < 256 for byte in given))
    return spelt and isinstance(one.get("logprob"), int | float)


def _bytes(one: dict[str, Any]) -> bytes:
    given = one.get("bytes")
    return bytes(given) if isinstance(given, list) else str(one.get("token", "")).encode()
