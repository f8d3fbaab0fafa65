"""Redaction on a small hand-labelled list, and what must hold for any text."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.data.redact import LOCALES, Redactor
from planish.errors import InputError

# (text, kinds that are in it). Numbers with a checksum are published examples (card networks, ISO 13616, Wikipedia); nobody's own.
LABELLED: list[tuple[str, tuple[str, ...]]] = [
    ("Mail bob@example.com today", ("EMAIL",)),
    ("first.last+tag@mail.example.co.uk, please", ("EMAIL",)),
    ("<bob_smith@sub.example.org>", ("EMAIL",)),
    ("reach me: ops@db7.internal", ("EMAIL",)),
    ("bob\u200b@example.com", ("EMAIL",)),
    ("a@b.co;c@d.org", ("EMAIL", "EMAIL")),
    ("Call 212-555-0123 now", ("PHONE",)),
    ("tel (415) 555-0132", ("PHONE",)),
    ("phone: +44 20 7946 0958", ("PHONE",)),
    ("+49 30 901820 works too", ("PHONE",)),
    ("my cell is 650.253.0000", ("PHONE",)),
    ("4111 1111 1111 1111", ("CARD",)),
    ("card 4111-1111-1111-1111 exp 12/30", ("CARD",)),
    ("amex 378282246310005", ("CARD",)),
    ("5555555555554444", ("CARD",)),
    ("2223 0031 2200 3222", ("CARD",)),
    ("6011111111111117", ("CARD",)),
    ("\uff14\uff11\uff11\uff11 1111 1111 1111", ("CARD",)),
    ("IBAN DE89 3704 0044 0532 0130 00", ("IBAN",)),
    ("GB82WEST12345698765432", ("IBAN",)),
    ("pay FR14 2004 1010 0505 0001 3M02 606 now", ("IBAN",)),
    ("from 192.168.10.44 port 22", ("IP",)),
    ("host 2001:db8::ff00:42:8329 is down", ("IP",)),
    ("SSN 536-90-4399", ("SSN",)),
    ("social security number 536904399", ("SSN",)),
    ("1BoatSLRHtKNngkdXEeobR76b53LETtpyT", ("CRYPTO",)),
    ("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", ("CRYPTO",)),
    ("postgres://admin:hunter2@db.example.com/x", ("URL_CREDENTIALS",)),
    ("token hf_" + "a1B2" * 8, ("SECRET",)),
    ("key=sk-proj-" + "x9Y8" * 8, ("SECRET",)),
    ("ghp_" + "A1b2" * 9, ("SECRET",)),
    ("AKIAIOSFODNN7EXAMPLE", ("SECRET",)),
    ("AIza" + "b" * 35, ("SECRET",)),
    ("xoxb-123456789012-abcdef", ("SECRET",)),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl", ("SECRET",)),
    ("-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc\n-----END RSA PRIVATE KEY-----\nend", ("SECRET",)),
    # nothing here
    ("4111 1111 1111 1112", ()),
    ("DE89 3704 0044 0532 0130 01", ()),
    ("The phone is good, 10/10, would buy for $1,234.56 again", ()),
    ("2024-01-02 12:30:00 build 20240102", ()),
    ("order 12345678 weighs 300 g", ()),
    ("meet @home at 5", ()),
    ("std::vector and f :: Int", ()),
    ("https://example.com/a:b/c@d", ()),
    ("ratio 3:4:5, page 12-14, ISBN 978-3-16-148410-0", ()),
    ("the skip-level task-force sk-learn", ()),
    ("pi is 3.14159265358979", ()),
    ("<EMAIL_1> wrote to <CARD_2>", ()),
]  # fmt: skip


@pytest.fixture(scope="module")
def redactor() -> Redactor:
    return Redactor()


def test_recall_and_precision_on_the_labelled_list(redactor: Redactor) -> None:
    """48 texts, 36 with something in them: recall and precision per kind are both 1 (MISSION L3 asks .99 and .95 on a larger corpus)."""
    expected: Counter[str] = Counter()
    hit: Counter[str] = Counter()
    claimed: Counter[str] = Counter()
    for text, kinds in LABELLED:
        found = Counter(each.kind for each in redactor.find(text))
        expected.update(kinds)
        claimed.update(found)
        hit.update(found & Counter(kinds))
    missed = [
        (text, [each.kind for each in redactor.find(text)]) for text, kinds in LABELLED if sorted(each.kind for each in redactor.find(text)) != sorted(kinds)
    ]
    assert all(hit[kind] >= 0.99 * expected[kind] for kind in expected), missed
    assert all(hit[kind] >= 0.95 * claimed[kind] for kind in claimed), missed
    assert set(expected) <= set(redactor.kinds)


def test_missions_example(redactor: Redactor) -> None:
    """MISSION L3: 4111 1111 1111 1111 -> <CARD_1>; 4111 1111 1111 1112 stays (its Luhn sum is 31)."""
    assert redactor.text("4111 1111 1111 1111") == ("<CARD_1>", {"CARD": 1})
    assert redactor.text("4111 1111 1111 1112") == ("4111 1111 1111 1112", {})


def test_one_number_per_value_within_a_conversation(redactor: Redactor) -> None:
    seen: dict[str, str] = {}
    assert redactor.text("a@b.co and c@d.org", seen)[0] == "<EMAIL_1> and <EMAIL_2>"
    assert redactor.text("c@d.org again, then e@f.org", seen)[0] == "<EMAIL_2> again, then <EMAIL_3>"
    assert redactor.text("c@d.org")[0] == "<EMAIL_1>"


def test_a_placeholder_that_was_typed_keeps_its_number(redactor: Redactor) -> None:
    assert redactor.text("<EMAIL_1> is not a@b.co")[0] == "<EMAIL_1> is not <EMAIL_2>"
    assert redactor.value(["a@b.co", "<EMAIL_1>"])[0] == ["<EMAIL_2>", "<EMAIL_1>"]


def test_json_stays_valid_and_keys_are_context(redactor: Redactor) -> None:
    arguments = '{"ssn": "536904399", "phone": 2125550123, "to": ["a\\u0040b.co"], "n": 3, "ok": true, "none": null}'
    text, counts = redactor.text(arguments)
    assert text is not None
    assert json.loads(text) == {"ssn": "<SSN_1>", "phone": "<PHONE_1>", "to": ["<EMAIL_1>"], "n": 3, "ok": True, "none": None}
    assert counts == {"SSN": 1, "PHONE": 1, "EMAIL": 1}
    untouched = '{ "a" :  1 }'
    assert redactor.text(untouched)[0] == untouched
    assert redactor.value({"a@b.co": {"call": [{"arguments": '{"x": "a@b.co"}'}]}})[0] == {"<EMAIL_1>": {"call": [{"arguments": '{"x": "<EMAIL_1>"}'}]}}


def test_an_error_drops_the_content(redactor: Redactor, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a@b.co")

    monkeypatch.setattr(redactor._engine, "analyze", broken)
    assert redactor.text("a@b.co") == (None, {"error": 1})
    assert redactor.value({"deep": ["a@b.co"]}) == (None, {"error": 1})


def test_a_pattern_that_runs_out_of_time_drops_the_content(redactor: Redactor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redactor, "_timeout", 0.0)
    assert redactor.text("a@b.co") == (None, {"error": 1})


def test_a_text_without_a_break_is_dropped_and_a_long_one_with_breaks_is_read(redactor: Redactor) -> None:
    assert redactor.text("7" * 50_000) == (None, {"error": 1})
    text, counts = redactor.text("a plain line of words\n" * 3000 + "and a@b.co at the end\n")
    assert text is not None
    assert text.endswith("and <EMAIL_1> at the end\n")
    assert counts == {"EMAIL": 1}


@pytest.mark.parametrize("piece", ["a-", "1-", "a@", "1.1.", "a:", "//a:", "-----BEGIN PRIVATE KEY-----", "4111 ", "eyJ."])
def test_no_text_takes_long(redactor: Redactor, piece: str) -> None:
    began = time.monotonic()
    redactor.text(piece * (20_000 // len(piece)))
    assert time.monotonic() - began < 10


_PARTS = st.sampled_from(
    [text for text, _ in LABELLED] + ["<EMAIL_1>", "<PHONE_12>", "<", ">", "@", ".", "-", "_1>", " ", "\n", "4111", "1111", "+1", "{", '"', "\u200b"]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(_PARTS, st.text(max_size=8)), max_size=6).map("".join))
def test_redacting_again_changes_nothing(redactor: Redactor, text: str) -> None:
    once, counts = redactor.text(text)
    assert "error" not in counts
    assert once is not None
    assert redactor.text(once) == (once, {})


_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), _PARTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_PARTS, inner, max_size=3)),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(_JSON)
def test_any_json_stays_json_and_settles(redactor: Redactor, value: Any) -> None:
    once, counts = redactor.value(value)
    assert "error" not in counts
    assert json.loads(json.dumps(once)) == once
    assert redactor.value(once) == (once, {})


@pytest.mark.parametrize(
    ("locale", "text", "kind"),
    [
        ("en-GB", "NHS number 943 476 5919", "UK_NHS"),
        ("en-GB", "ring 020 7946 0958", "PHONE"),
        ("es-ES", "DNI 12345678Z", "ES_NIF"),
        ("pl-PL", "PESEL 44051401359", "PL_PESEL"),
        ("it-IT", "codice fiscale RSSMRA85T10A562S", "IT_FISCAL_CODE"),
        ("en-IN", "PAN ABCPD1234E", "IN_PAN"),
    ],
)
def test_a_locale_brings_its_own_numbers(locale: str, text: str, kind: str) -> None:
    assert [each.kind for each in Redactor(locale).find(text)] == [kind]


def test_every_locale_can_be_built_without_noise_or_network(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with caplog.at_level(logging.DEBUG):
        for locale in LOCALES:
            assert Redactor(locale).text("a@b.co") == ("<EMAIL_1>", {"EMAIL": 1})
    assert not [record for record in caplog.records if "presidio" in record.name]
    assert capfd.readouterr() == ("", "")


def test_an_unknown_locale_is_named() -> None:
    with pytest.raises(InputError, match="en-US"):
        Redactor("en-UX")
