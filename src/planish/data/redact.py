"""Personal data and secrets out of text before it is written (MISSION L3, D4): one module for the request log and the data checks.

Detection is presidio's pattern and checksum recognisers on a blank spaCy pipeline, chosen per locale, and a few secret patterns. Names, addresses and
other things that need a dictionary or a model are NOT found: `Redactor.kinds` says what is.
"""

from __future__ import annotations

import json
import logging
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from planish.errors import InputError, Problem, did_you_mean
from planish.lazy import require

VERSION = "1"
"""Changes when the same text may be redacted differently; stored beside every redacted record."""

ERROR = "error"
"""The count under which a text that could not be redacted, and so was dropped, is reported."""

_KINDS = {"EMAIL_ADDRESS": "EMAIL", "PHONE_NUMBER": "PHONE", "CREDIT_CARD": "CARD", "IBAN_CODE": "IBAN", "IP_ADDRESS": "IP", "US_SSN": "SSN"}

# Not every recogniser at once: with all of them a phone number is also somebody's tax number. Values: phone regions, then presidio's classes.
_EVERYWHERE = ("EmailRecognizer", "CreditCardRecognizer", "IbanRecognizer", "IpRecognizer", "CryptoRecognizer")
LOCALES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "en-US": (("US",), ("UsSsnRecognizer", "UsItinRecognizer")),
    "en-GB": (("GB",), ("NhsRecognizer", "UkNinoRecognizer")),
    "en-IN": (("IN",), ("InAadhaarRecognizer", "InPanRecognizer")),
    "de-DE": (("DE", "AT", "CH"), ("DeTaxIdRecognizer",)),
    "es-ES": (("ES",), ("EsNifRecognizer", "EsNieRecognizer")),
    "fr-FR": (("FR",), ()),
    "it-IT": (("IT",), ("ItFiscalCodeRecognizer",)),
    "pl-PL": (("PL",), ("PlPeselRecognizer",)),
    "sv-SE": (("SE",), ("SePersonnummerRecognizer",)),
}
"""Locale -> phone regions (international numbers with + are found in every locale) and national identity numbers."""

_PEM_END = r"-----END [A-Z ]{0,30}PRIVATE KEY-----"
_SECRETS = re.compile(
    "|".join(
        (
            rf"-----BEGIN [A-Z ]{{0,30}}PRIVATE KEY-----(?:[\s\S]{{0,16384}}?{_PEM_END}|[A-Za-z0-9+/=\s]{{0,16384}})",
            r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}|planish-[A-Za-z0-9_-]{43})",
            r"(?<![A-Za-z0-9])(?:(?:AKIA|ASIA)[0-9A-Z]{16}|AIza[0-9A-Za-z_-]{35}|xox[abeoprs]-[A-Za-z0-9-]{10,})",
            r"(?<![A-Za-z0-9])eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*",
        )
    )
)
_URL_CREDENTIALS = re.compile(r"(?<=://)[^\s/:@]{1,256}:[^\s/@]{1,256}(?=@)")
_PLACEHOLDER = re.compile(r"<([A-Z]{2,}(?:_[A-Z]+)*)_([1-9][0-9]*)>")
_PRIVATE_DOMAINS = (".local", ".internal", ".lan", ".corp", ".home", ".intranet", ".test", ".example")  # no public suffix, addresses all the same
_INVISIBLE = frozenset("\u200b\u200c\u200d\u2060\ufeff\u00ad")
_PIECE = 20_000  # characters given to the recognisers at once: some of their patterns are quadratic
_BREAK = re.compile(r"\n+|(?<=[a-z])\s+(?=[a-z])")  # nothing we look for spans a line, nor a gap between lower-case letters
_PASSES = 8
_MIN_SCORE = 0.4  # presidio's score of a valid phone number without context; weak patterns reach it only beside a context word


@dataclass(frozen=True)
class Finding:
    """One span of a text. `start` and `end` are character offsets."""

    kind: str
    start: int
    end: int


class _BlankPipeline:
    """What presidio asks of an NlpEngine, from a tokenizer alone: no model is loaded or downloaded. Lower-cased words stand in for lemmas."""

    def __init__(self) -> None:
        self._nlp = require("spacy", extra="redact").blank("en")
        self._nlp.max_length = 10 * _PIECE
        self._artifacts = require("presidio_analyzer.nlp_engine", extra="redact").NlpArtifacts

    def is_loaded(self) -> bool:
        return True

    def process_text(self, text: str, language: str) -> Any:
        words = self._nlp.make_doc(text)
        return self._artifacts(
            entities=[], tokens=words, tokens_indices=[word.idx for word in words], lemmas=[word.lower_ for word in words], nlp_engine=self, language=language
        )

    def is_stopword(self, word: str, language: str) -> bool:
        return bool(self._nlp.vocab[word].is_stop)

    def is_punct(self, word: str, language: str) -> bool:
        return bool(self._nlp.vocab[word].is_punct)

    def get_supported_entities(self) -> list[str]:
        return []

    def get_supported_languages(self) -> list[str]:
        return ["en"]


def _analyzer(locale: str) -> Any:
    """presidio's AnalyzerEngine with the recognisers of one locale."""
    if locale not in LOCALES:
        raise InputError(Problem("redact.locale", f'no recognisers are chosen for "{locale}"', did_you_mean(locale, LOCALES)))
    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)  # it tells of every recogniser at INFO, and of text at DEBUG
    presidio = require("presidio_analyzer", extra="redact")
    known = require("presidio_analyzer.predefined_recognizers", extra="redact")
    regions, national = LOCALES[locale]
    chosen = {name: getattr(known, name)(supported_language="en") for name in (*_EVERYWHERE, *national)}
    chosen["PhoneRecognizer"] = known.PhoneRecognizer(supported_language="en", supported_regions=regions)
    # presidio's address check fetches the public suffix list from the network on first use; the list that ships with the package is enough.
    suffixes = require("tldextract", extra="redact").TLDExtract(suffix_list_urls=(), cache_dir=None)
    chosen["EmailRecognizer"].validate_result = lambda address: bool(suffixes(address).fqdn) or address.lower().endswith(_PRIVATE_DOMAINS)
    # Mastercard's second range, 2221 to 2720, is missing from presidio's pattern.
    second_range = presidio.Pattern("Mastercard 2", r"\b2[2-7]\d{2}[- ]?\d{4}[- ]?\d{4}[- ]?\d{4}\b", 0.3)
    chosen["CreditCardRecognizer"].patterns = [*chosen["CreditCardRecognizer"].patterns, second_range]
    # A lone "::" is more often code than the unspecified address.
    chosen["IpRecognizer"].patterns = [pattern for pattern in chosen["IpRecognizer"].patterns if pattern.name != "IPv6_unspecified"]
    registry = presidio.RecognizerRegistry(recognizers=list(chosen.values()), supported_languages=["en"])
    return presidio.AnalyzerEngine(registry=registry, nlp_engine=_BlankPipeline(), supported_languages=["en"], default_score_threshold=_MIN_SCORE)


class Redactor:
    """Replaces what it finds by `<EMAIL_1>`, the same number for the same value within one conversation. Build once (a few seconds) and share.

    `seen` is the conversation's memory, an empty dict at its start. It holds raw values: never write it. Redaction is idempotent: a placeholder is never
    redacted again. When anything goes wrong the content is dropped: the result is None and the counts hold `{"error": 1}`.
    """

    def __init__(self, locale: str = "en-US") -> None:
        self.locale = locale
        self._engine = _analyzer(locale)
        self._timeout = float(require("presidio_analyzer.pattern_recognizer", extra="redact").REGEX_TIMEOUT_SECONDS)
        found = {_KINDS.get(kind, kind) for kind in self._engine.get_supported_entities()}
        self.kinds = tuple(sorted(found | {"SECRET", "URL_CREDENTIALS"}))

    def find(self, text: str, *, context: str = "") -> list[Finding]:
        """What there is to redact, in order and without overlaps. `context` is where the text stood (a JSON key): it counts as a neighbouring word.

        Raises RuntimeError when a pattern ran out of time, ValueError when a text cannot be cut into pieces: the text must not be written then.
        """
        plain, offsets = _normalised(text)
        held = [match.span() for match in _PLACEHOLDER.finditer(plain)]
        found = [(2.0, Finding("SECRET", *match.span())) for match in _SECRETS.finditer(plain)]
        found += [(1.5, Finding("URL_CREDENTIALS", *match.span())) for match in _URL_CREDENTIALS.finditer(plain)]
        for start, piece in _pieces(plain):
            began = time.monotonic()
            results = self._engine.analyze(piece, language="en", context=re.findall(r"\w+", context.replace("_", " ")))
            if time.monotonic() - began >= self._timeout:
                raise RuntimeError("a pattern ran out of time")  # presidio skips such a pattern and says so only in its log
            for result in results:
                found.append((result.score, Finding(_KINDS.get(result.entity_type, result.entity_type), start + result.start, start + result.end)))
        free = [(score, each) for score, each in found if not any(low <= each.start and each.end <= high for low, high in held)]
        return [Finding(each.kind, offsets[each.start], offsets[each.end - 1] + 1) for each in _without_overlaps(free)]

    def text(self, text: str, seen: dict[str, str] | None = None) -> tuple[str | None, dict[str, int]]:
        """`text` redacted, and how many of each kind were replaced. A text that is a JSON object or list stays valid JSON."""
        redacted, counts = self.value(text, seen)
        return (redacted if isinstance(redacted, str) else None), counts

    def value(self, value: Any, seen: dict[str, str] | None = None) -> tuple[Any, dict[str, int]]:
        """A JSON value with every string in it redacted (keys too, and long whole numbers), and the counts."""
        seen = {} if seen is None else seen
        counts: Counter[str] = Counter()
        try:
            for match in _PLACEHOLDER.finditer(json.dumps(value, ensure_ascii=False)):
                seen.setdefault(match[0], match[0])  # a placeholder that was typed: its number is taken
            return self._walk(value, seen, counts, ""), dict(counts)
        except Exception:  # whatever it is, raw content must not be written; the message may quote the text, so it is not kept either
            return None, {ERROR: 1}

    def _walk(self, value: Any, seen: dict[str, str], counts: Counter[str], key: str) -> Any:
        if isinstance(value, str):
            return self._leaf(value, seen, counts, key)
        if isinstance(value, dict):
            return {self._plain(str(name), seen, counts, ""): self._walk(each, seen, counts, str(name)) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [self._walk(each, seen, counts, key) for each in value]
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**8:
            digits = str(value)
            redacted = self._plain(digits, seen, counts, key)
            return value if redacted == digits else redacted
        return value

    def _leaf(self, text: str, seen: dict[str, str], counts: Counter[str], key: str) -> str:
        if text.lstrip()[:1] in ("{", "["):
            try:
                inner = json.loads(text)
            except ValueError:
                return self._plain(text, seen, counts, key)
            before = counts.total()
            walked = self._walk(inner, seen, counts, key)
            return text if counts.total() == before else json.dumps(walked, ensure_ascii=False)
        return self._plain(text, seen, counts, key)

    def _plain(self, text: str, seen: dict[str, str], counts: Counter[str], key: str) -> str:
        # Until nothing is found: what is left of a text may match on its own, and then a second redaction would change it.
        for _ in range(_PASSES):
            findings = self.find(text, context=key)
            if not findings:
                return text
            parts, end = [], 0
            for each in findings:
                parts += [text[end : each.start], _placeholder(each.kind, text[each.start : each.end], seen)]
                end = each.end
                counts[each.kind] += 1
            text = "".join(parts) + text[end:]
        raise RuntimeError("redaction does not settle")


def _placeholder(kind: str, raw: str, seen: dict[str, str]) -> str:
    """The placeholder of a value; a new one takes the next free number of its kind."""
    known = seen.get(f"{kind} {raw}")
    if known is None:
        taken = [int(match[2]) for match in map(_PLACEHOLDER.fullmatch, seen.values()) if match and match[1] == kind]
        known = seen[f"{kind} {raw}"] = f"<{kind}_{max(taken, default=0) + 1}>"
    return known


def _normalised(text: str) -> tuple[str, range | list[int]]:
    """The text as it reads (NFKC, no invisible characters) and, per character of it, the offset in the original."""
    if text.isascii():
        return text, range(len(text))
    plain, offsets = [], []
    for offset, character in enumerate(text):
        if character in _INVISIBLE:
            continue
        for each in unicodedata.normalize("NFKC", character):
            plain.append(each)
            offsets.append(offset)
    return "".join(plain), offsets


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """(offset, piece): the whole text when short, else cut where nothing we look for can stand."""
    start = 0
    while len(text) - start > _PIECE:
        cuts = [match.end() for match in _BREAK.finditer(text, start, start + _PIECE)]
        if not cuts:
            raise ValueError("a text without a break is too long to redact")
        yield start, text[start : cuts[-1]]
        start = cuts[-1]
    if start < len(text):
        yield start, text[start:]


def _without_overlaps(found: list[tuple[float, Finding]]) -> list[Finding]:
    """The surest of what overlaps, then the longest. What this leaves of a weaker match is looked at again in the next pass."""
    taken = bytearray(max((each.end for _, each in found), default=0))
    kept: list[Finding] = []
    for _, each in sorted(found, key=lambda pair: (-pair[0], pair[1].start - pair[1].end, pair[1].start)):
        if not any(taken[each.start : each.end]):
            taken[each.start : each.end] = b"\1" * (each.end - each.start)
            kept.append(each)
    return sorted(kept, key=lambda each: each.start)
