"""Personal data and secrets (MISSION D4, D2, L3)."""

from __future__ import annotations

from pathlib import Path

import pytest

from planish.checks import pii, secrets
from planish.data.finding import CheckResult
from planish.data.redact import Redactor
from planish.data.table import Table
from planish.errors import InputError, MissingExtra
from planish.rows import ChatRow, Message, Origin, RejectCode, TextRow

WHERE = Origin(file="f", line=1, sha256="")


def _rows(*texts: str) -> Table:
    return Table.of(TextRow(id=str(n), origin=WHERE, text=text) for n, text in enumerate(texts))


def _named(result: CheckResult) -> list[str | None]:
    return [finding.row_id for finding in result.findings]


def test_l3_a_card_whose_checksum_is_right() -> None:
    """MISSION L3, Ex: 4111 1111 1111 1111 is a card; 4111 1111 1111 1112 is none (Luhn: the sum ends in 0 and in 1)."""
    result = pii.check(_rows("card 4111 1111 1111 1111", "card 4111 1111 1111 1112"))
    assert [(finding.row_id, finding.code, finding.severity) for finding in result.findings] == [("0", RejectCode.PII, "reject")]
    assert result.findings[0].why == "holds personal data: 1 CARD"
    assert result.figures["rows_by_kind"] == {"CARD": 1}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to marta@posteo.net", "EMAIL"),
        ("pay into DE89 3704 0044 0532 0130 00", "IBAN"),
        ("call me on (415) 555-2671", "PHONE"),
        ("my phone is 4155552671", "PHONE"),
        ("ring +49 30 901820 any time", "PHONE"),
        ("my social security number is 536-90-4399", "SSN"),
        ("blocked 81.169.145.78 last night", "IP"),
    ],
)
def test_kinds(text: str, kind: str) -> None:
    assert pii.check(_rows(text)).figures["rows_by_kind"] == {kind: 1}


@pytest.mark.parametrize("text", ["A century has about 3155760000 seconds.", "version 10.4.12", "ISBN 978-3-16-148410-0", "4294967295 is the largest"])
def test_numbers_that_are_nobodys(text: str) -> None:
    assert not pii.check(_rows(text)).findings


def test_the_data_itself_is_never_repeated() -> None:
    (finding,) = pii.check(_rows("write to marta@posteo.net")).findings
    assert "marta" not in finding.why + finding.fix


def test_locales_are_chosen() -> None:
    """A Polish number of identity is looked for only when Poland is among the locales; what two locales know counts once."""
    rows = _rows("PESEL 44051401359 and marta@posteo.net")
    assert pii.check(rows, locales=["pl-PL", "en-US"]).figures["places_by_kind"]["EMAIL"] == 1
    assert "PL_PESEL" in pii.check(rows, locales=["pl-PL", "en-US"]).figures["looked_for"]
    assert "PL_PESEL" not in pii.check(rows).figures["looked_for"]
    with pytest.raises(InputError, match="no recognisers"):
        pii.check(rows, locales=["xx-XX"])


def test_warn_keeps_the_row() -> None:
    assert [finding.severity for finding in pii.check(_rows("marta@posteo.net"), action="warn").findings] == ["warn"]
    assert [finding.severity for finding in secrets.check(_rows(f'key = "{_AWS}"'), action="warn").findings] == ["warn"]


def test_every_turn_is_read() -> None:
    turns = (Message(role="system", content="You write to marta@posteo.net."), Message(role="user", content="a"), Message(role="assistant", content="b"))
    assert _named(pii.check(Table.of([ChatRow(id="1", origin=WHERE, messages=turns)]))) == ["1"]


def test_names_need_a_model(tmp_path: Path) -> None:
    """With an entity ruler in the place of a trained model: it knows one name."""
    import spacy

    nlp = spacy.blank("en")
    nlp.add_pipe("entity_ruler").add_patterns([{"label": "PERSON", "pattern": "Marta Kowalczyk"}])
    nlp.to_disk(tmp_path / "model")
    rows = _rows("Ask Marta Kowalczyk.", "Ask her.")
    assert not pii.check(rows).findings
    result = pii.check(rows, names_by=str(tmp_path / "model"))
    assert _named(result) == ["0"]
    assert result.figures["rows_by_kind"] == {"PERSON": 1}
    with pytest.raises(MissingExtra, match="no installed spaCy model"):
        pii.check(rows, names_by="en_no_such_model")


_AWS = "AKIA" + "Q3EGRIZ7LJ5WVN2C"
_PLANTED = {
    "AWS Access Key": f"It uses {_AWS} at night.",
    "Private Key": "\n".join(["-----BEGIN RSA PRIVATE " + "KEY-----", "MIIEpAIBAAKCAQEA7bq0", "-----END RSA PRIVATE " + "KEY-----"]),
    "GitHub Token": "Use " + "ghp_" + "vT8dLq2ZkXw4Jm6Rb9Yc1Hs7Nf3Pg5Ue0Ai1",
    "Secret Keyword": 'api_key = "' + "9fK2xQ7vLw" + 'ZcR4mT8pYs3BnD6h"',
    "Basic Auth Credentials": "postgres://app:" + "hV93kq-Zt7@db7.shop.example:5432/orders",
    "JSON Web Token": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."
    + "eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4ifQ."
    + "SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c",
}


@pytest.mark.parametrize("kind", _PLANTED)
def test_secrets(kind: str) -> None:
    result = secrets.check(_rows("nothing here", _PLANTED[kind]))
    assert [(finding.row_id, finding.code) for finding in result.findings] == [("1", RejectCode.SECRET)]
    assert kind in result.findings[0].why
    assert not any(part in result.findings[0].why for part in (_AWS, "hV93kq", "9fK2x"))


@pytest.mark.parametrize(
    "text",
    [
        "The password is the word that you chose yourself.",
        "commit 3f786850e387550fdab836ed7e6dc881de23001b",
        'id = "0a1b2c3d-1111-2222-3333-444455556666"',
        "Set password = os.environ['PASSWORD']",
        "api_key: <your key here>",
        "https://example.org/a/very/long/path?with=parameters",
    ],
)
def test_words_hashes_and_placeholders_are_no_secrets(text: str) -> None:
    assert not secrets.check(_rows(text)).findings


def test_nothing_is_verified_over_the_network() -> None:
    assert not any("verif" in each["path"] for each in secrets.FILTERS)
    assert "IPPublicDetector" not in secrets.check(_rows("x")).figures["plugins"]


def test_the_check_finds_what_redaction_takes_out() -> None:
    """One module: a redacted text has nothing left for the check to name (MISSION D4)."""
    text = "marta@posteo.net, 4111 1111 1111 1111, (415) 555-2671"
    redacted, _ = Redactor("en-US").text(text)
    assert _named(pii.check(_rows(text, str(redacted)))) == ["0"]
