"""Planted personal data and secrets: what must not be learned because it is somebody's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.planted import sound_rows
from benchmarks.planted.case import Ask, Case, among, dialogue

_CHAT = sound_rows.chat()


def _said(part: str, name: str, what: str, code: str, at: Mapping[int, Any], also: tuple[str, ...] = (), ask: Ask | None = None) -> Case:
    return among(_CHAT, at, part, name, what, code, also=also, ask=ask)


_NUMBERS = "4539 1488 0343 6467"
_PERSONAL = [
    _said("pii", "email", "a customer's e-mail address", "pii", {14: dialogue("Who do I write to?", "Write to marta.kowalczyk@posteo.net and she will help.")}),
    _said(
        "pii",
        "card",
        "a payment card whose checksum is right",
        "pii",
        {27: dialogue(f"My card {_NUMBERS} was charged twice.", "I am sorry, the second charge is on its way back.")},
    ),
    _said(
        "pii",
        "iban",
        "a bank account whose checksum is right",
        "pii",
        {4: dialogue("Pay it into DE89 3704 0044 0532 0130 00 please.", "The money is on its way.")},
    ),
    _said(
        "pii", "phone", "a telephone number", "pii", {38: dialogue("How can I reach you?", "Call me on (415) 555-2671 after lunch.")}, ask=Ask(locale="en-US")
    ),
    _said(
        "pii", "phone_abroad", "an international telephone number", "pii", {23: dialogue("How can I reach you?", "My number is +49 30 901820, call any time.")}
    ),
    _said(
        "pii",
        "social_security",
        "a social security number",
        "pii",
        {19: dialogue("My social security number is 536-90-4399.", "Please never send it in a chat.")},
        ask=Ask(locale="en-US"),
    ),
    _said(
        "pii",
        "address_of_host",
        "the address of a customer's machine",
        "pii",
        {36: dialogue("Which address was blocked?", "The firewall blocked 81.169.145.78 last night.")},
    ),
]

_AWS = "AKIA" + "Q3EGRIZ7LJ5WVN2C"
_PEM = "\n".join(
    [
        "-----BEGIN RSA PRIVATE " + "KEY-----",
        "MIIEpAIBAAKCAQEA7bq0pXn2Jc4W8mYkZ1vTtR",
        "uF3sHh9QeLxGd5oPzVw6BnKcMj0aSiDyEfUgXt",
        "-----END RSA PRIVATE " + "KEY-----",
    ]
)
_TOKEN = "ghp_" + "vT8dLq2ZkXw4Jm6Rb9Yc1Hs7Nf3Pg5Ue0Ai1"
_RANDOM = "9fK2xQ7vLw" + "ZcR4mT8pYs3BnD6hJ1gUe5aXo0Vi"
_SECRETS = [
    _said(
        "secrets", "aws_key", "an access key of a cloud account", "secret", {10: dialogue("Which key does the job use?", f"It uses {_AWS} in the nightly job.")}
    ),
    _said("secrets", "private_key", "a private key", "secret", {26: dialogue("What is in the file?", _PEM)}),
    _said("secrets", "token", "a personal access token of a code host", "secret", {3: dialogue("How do I clone it?", f"Use the token {_TOKEN} as password.")}),
    _said(
        "secrets",
        "random",
        "a password with high entropy in a line of configuration",
        "secret",
        {33: dialogue("Show me the settings.", f'api_key = "{_RANDOM}"')},
    ),
    _said(
        "secrets",
        "in_address",
        "a password inside an address",
        "secret",
        {12: dialogue("Where is the database?", "It is at postgres://app:" + "hV93kq-Zt7@db7.shop.example:5432/orders for now.")},
    ),
]


CASES = [*_PERSONAL, *_SECRETS]
