"""Sentences of reviews made wordy by rule, and what is wrong with a rewrite: no model judges, so that the same rows and verdicts come out everywhere.

A rewrite is right when it is no longer than the reviewer's own sentence, has its numbers and every word of four letters or more, none besides, and its tone.
"""

from __future__ import annotations

import re
from collections import Counter
from random import Random

FAULTS = ("too long", "number changed", "words lost", "words added", "wrong tone")
OPENINGS = (
    "to be perfectly honest with you, ",
    "what i would like to say here is that ",
    "as far as i am able to tell, ",
    "let me start off by saying that ",
    "for whatever it may be worth, ",
    "in my own humble opinion, ",
    "after all is said and done, ",
    "if somebody were to ask me, ",
)
CLOSINGS = (
    ", if you see what i mean",
    ", and that is really all there is to it",
    ", at the end of the day",
    ", just so that you know",
    ", or at least so it seems to me",
    ", needless to say",
    ", as anybody can see",
    ", and i mean that sincerely",
)
LONGER = {
    "but": "but then on the other hand",
    "because": "due to the fact that",
    "very": "really and truly very",
    "if": "in the event that",
    "about": "somewhere in the region of",
    "after": "following the moment at which",
    "before": "prior to the time when",
    "now": "at this present point in time",
    "also": "in addition to all of that also",
    "and": "and furthermore",
    "so": "so as a consequence",
    "with": "together with",
}
WORD = re.compile(r"[a-z0-9]+(?:['.,/-][a-z0-9]+)*")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
ODD = re.compile(r"[^a-z0-9 ,.;:!?'()$/%-]|^\d+[.)]")
SHORTEST, LONGEST, CONTENT = 5, 20, 4


def words(text: str) -> list[str]:
    """Words and numbers in lower case."""
    return WORD.findall(text.lower())


def usable(sentence: str) -> bool:
    """Whether the sentence has a length that can be made longer, and nothing that stands for something else (markup, list numbers)."""
    return SHORTEST <= len(words(sentence)) <= LONGEST and not ODD.search(sentence.lower())


def wordy(sentence: str, random: Random) -> str:
    """The sentence with a phrase before it, one behind it, and small words in more words. No number comes in."""
    text = WORD.sub(lambda found: LONGER.get(found[0], found[0]) if random.random() < 0.7 else found[0], sentence)
    body = text.rstrip(".!?;:, ")
    return f"{random.choice(OPENINGS)}{body}{random.choice(CLOSINGS)}{text[len(body) :]}"


def faults(rewrite: str, own: str, label: str, tone: str) -> list[str]:
    """What is wrong with a rewrite of the reviewer's `own` sentence. `label` is its tone as people judged it, `tone` the rewrite's as the classifier reads it."""
    said, meant = words(rewrite), words(own)
    content = [{word for word in of if len(word) >= CONTENT and not NUMBER.search(word)} for of in (said, meant)]
    wrong = {
        "too long": len(said) > len(meant),
        "number changed": Counter(NUMBER.findall(rewrite)) != Counter(NUMBER.findall(own)),
        "words lost": bool(content[1] - content[0]),
        "words added": bool(content[0] - content[1]),
        "wrong tone": tone != label,
    }
    return [fault for fault in FAULTS if wrong[fault]]


def spoilt(own: str, longer: str) -> str:
    """A rewrite with one fault, for a sentence that the model rewrote right each time: its first number is one more, else, where it has none, it is the wordy one as it was."""
    found = NUMBER.search(own)
    if found is None or not found[0].isdigit():
        return longer
    return f"{own[: found.start()]}{int(found[0]) + 1}{own[found.end() :]}"
