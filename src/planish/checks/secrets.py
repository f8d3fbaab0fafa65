"""Rows with keys, tokens and passwords: what is trained on can be had back out of the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal

from planish.data.finding import CheckResult, Finding
from planish.data.table import Table
from planish.data.texts import every_text
from planish.lazy import require
from planish.rows import RejectCode, Row

PLUGINS: tuple[dict[str, Any], ...] = (
    {"name": "ArtifactoryDetector"},
    {"name": "AWSKeyDetector"},
    {"name": "AzureStorageKeyDetector"},
    {"name": "BasicAuthDetector"},
    {"name": "CloudantDetector"},
    {"name": "DiscordBotTokenDetector"},
    {"name": "GitHubTokenDetector"},
    {"name": "GitLabTokenDetector"},
    {"name": "Base64HighEntropyString", "limit": 4.5},
    {"name": "HexHighEntropyString", "limit": 3.0},
    {"name": "IbmCloudIamDetector"},
    {"name": "IbmCosHmacDetector"},
    {"name": "JwtTokenDetector"},
    {"name": "KeywordDetector"},
    {"name": "MailchimpDetector"},
    {"name": "NpmDetector"},
    {"name": "OpenAIDetector"},
    {"name": "PrivateKeyDetector"},
    {"name": "PypiTokenDetector"},
    {"name": "SendGridDetector"},
    {"name": "SlackDetector"},
    {"name": "SoftlayerDetector"},
    {"name": "SquareOAuthDetector"},
    {"name": "StripeDetector"},
    {"name": "TelegramBotTokenDetector"},
    {"name": "TwilioKeyDetector"},
)
"""What is looked for. Not public addresses of machines: those are personal data, and the pii check's."""

FILTERS: tuple[dict[str, str], ...] = tuple(
    {"path": f"detect_secrets.filters.heuristic.{name}"}
    for name in (
        "is_sequential_string",
        "is_potential_uuid",
        "is_likely_id_string",
        "is_templated_secret",
        "is_indirect_reference",
        "is_not_alphanumeric_string",
    )
)
"""What is let pass. Nothing is verified over the network."""


def check(rows: Table, split: Mapping[str, str] | None = None, chat: Any = None, *, action: Literal["reject", "warn"] = "reject") -> CheckResult:
    """A finding per row that holds a secret, with its kind in `why`, never the secret (MISSION D4, L3). Figures: rows by kind.

    detect-secrets, with every plugin and filter set here. Raises MissingExtra without it.
    """
    _scan()
    findings: list[Finding] = []
    counts: Counter[str] = Counter()
    for key, kinds in zip(rows.keys, rows.map(_found), strict=True):
        counts.update(kinds)
        if kinds:
            why, fix = f"holds a secret: {', '.join(kinds)}", "revoke it where it is valid, and replace it by a placeholder or leave the row out"
            findings.append(Finding(row_id=key.id, code=RejectCode.SECRET, severity=action, why=why, fix=fix))
    figures = {"rows": len(rows), "rows_by_kind": dict(sorted(counts.items())), "plugins": [plugin["name"] for plugin in PLUGINS]}
    return CheckResult(findings=tuple(findings), figures=figures)


@cache
def _scan() -> Any:
    """detect-secrets' line scanner under the settings of this file, once a process."""
    settings = require("detect_secrets.settings", extra="secrets")
    settings.cache_bust()
    settings.configure_settings_from_baseline({"plugins_used": list(PLUGINS), "filters_used": list(FILTERS)})
    return require("detect_secrets.core.scan", extra="secrets").scan_line


def _found(row: Row) -> list[str]:
    """The kinds of secrets in the texts of a row."""
    return sorted({secret.type for text in every_text(row) for line in text.splitlines() for secret in _secrets(line)})


def _secrets(line: str) -> Iterator[Any]:
    """Random strings count only within quotation marks or behind a key word: bare ones are ids, hashes and long words."""
    for secret in _scan()(line):
        if "High Entropy" not in secret.type or any(f"{mark}{secret.secret_value}{mark}" in line for mark in "\"'`"):
            yield secret
