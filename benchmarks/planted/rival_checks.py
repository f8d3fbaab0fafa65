"""The rivals: how each is installed, which rows it reads, and which of planish's codes each of its checks answers to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.planted.case import REFUSED, Case

_FILE, _TEMPLATE = "formats refused", "template refused"
_PARSE = frozenset({"bad_json", "bad_encoding", "wrong_type", _FILE})
_SCHEMA = frozenset(
    {"wrong_type", "missing_field", "unknown_shape", "unknown_role", "role_order", "no_assistant_turn", "empty_answer", "chosen_equals_rejected", _FILE}
)
_COPIES = frozenset({"duplicate", "near_duplicate"})


@dataclass(frozen=True)
class Rival:
    """`answers` maps the kind of one of its findings to the codes it may stand for (`PART refused` for a whole input); a kind not in it fits nothing."""

    package: str
    requirements: tuple[str, ...]
    driver: str
    suffixes: tuple[str, ...]  # the files it reads
    forms: frozenset[str]  # the row formats it reads
    answers: Mapping[str, frozenset[str]]
    id_key: str | None = None  # the field of a row by which it names rows; without one the rows are told apart by what is in them

    def outcome(self, case: Case, findings: Sequence[Mapping[str, Any]]) -> str:
        """`named`, `counted`, `refused`, `crashed`, `missed` or `no check` for a defect; `quiet` or `false alarm` for a clean set."""
        if case.clean:
            return "false alarm" if any(one["alarm"] for one in findings) else "quiet"
        codes = {f"{case.part} refused" if expected.code == REFUSED else expected.code for expected in case.expected}
        wanted = {line for expected in case.expected for line in expected.lines}
        fitting = [one for one in findings if self.answers.get(one["kind"], frozenset()) & codes]
        named = {line for one in fitting for line in one["lines"] or ()}
        if fitting and (wanted <= named if wanted else True):
            return "named"
        if fitting:
            return "counted"
        if any(one["kind"] == "crash" for one in findings):
            return "crashed"
        if any(one["kind"] in _TURNED_DOWN for one in findings):
            return "refused"
        known = frozenset().union(*self.answers.values())
        return "missed" if codes & known else "no check"


_TURNED_DOWN = ("refused", "load", "doctor: refused", "lint: refused")
_CHAT_FORMS = frozenset({"chat", "tools", "alpaca", "sharegpt"})

RIVALS = (
    Rival(
        "soup-cli",
        ("soup-cli[data]", "transformers", "jinja2"),
        "drive_soup.py",
        (".jsonl", ".json", ".csv"),
        _CHAT_FORMS | {"preferences", "judged"},
        {
            "invalid_line": _PARSE,
            "refused": frozenset({_FILE}),
            "undecodable": frozenset({"bad_encoding", _FILE}),
            "unknown_format": frozenset({"unknown_shape", _FILE}),
            "schema": _SCHEMA | {"tool_args_invalid", "tool_unknown"},
            "rows_fail": _SCHEMA | {"tool_args_invalid", "tool_unknown"},
            "duplicate_rows": frozenset({"duplicate"}),
            "empty_fields": frozenset({"empty_answer", "missing_field"}),
            "dedup": _COPIES,
            "pii": frozenset({"pii"}),
            "clean: Empty / Whitespace Turns": frozenset({"empty_answer", "missing_field", "no_assistant_turn"}),
            "clean: Empty / malformed messages": _SCHEMA,
            "clean: Empty / malformed conversations": _SCHEMA,
            "clean: Invisible & Control Chars": frozenset({"control_characters", "empty_answer", "duplicate"}),
            "clean: Boilerplate Disclaimers": frozenset({"boilerplate", "refusal"}),
            "clean: Target Leakage / Echo": frozenset({"answer_in_prompt"}),
            "clean: Markdown Code Fence Repair": frozenset({"cut_off"}),
            "clean: Malformed JSON in Tools": frozenset({"tool_args_invalid"}),
            "clean: Invalid JSON in Tool Calls": frozenset({"tool_args_invalid"}),
            "language": frozenset({"language_other"}),
            "decontaminate": frozenset({"gold_overlap"}),
            "lint: identical_pairs": frozenset({"chosen_equals_rejected"}),
            "lint: label_imbalance": frozenset({"class_imbalance"}),
            "lint: near_duplicates": _COPIES,
            "lint: prompt_leak": frozenset({"prompt_in_answer"}),
            "lint: length_bias": frozenset({"length_bias"}),
            "doctor: chat_template": frozenset({_TEMPLATE}),
            "doctor: template_render": frozenset({_TEMPLATE, "unknown_role"}),
            "doctor: eos_in_labels": frozenset({"eos_missing"}),
            "doctor: bos_duplication": frozenset({"double_bos"}),
            "doctor: system_role": frozenset({"unknown_role"}),
            "doctor: unknown_roles": frozenset({"unknown_role"}),
            "doctor: truncation_risk": frozenset({"answer_truncated", "too_long"}),
        },
    ),
    Rival(
        "yobro",
        ("yobro", "transformers", "jinja2"),
        "drive_yobro.py",
        (".jsonl", ".json", ".csv"),
        frozenset({"chat", "alpaca", "preferences"}),
        {
            "load": _PARSE,
            "unknown_format": frozenset({"unknown_shape", _FILE}),
            "schema": _SCHEMA,
            "no_empty_answers": frozenset({"empty_answer", "missing_field"}),
            "encoding": frozenset({"mojibake", "control_characters", "bad_encoding"}),
            "label_conflicts": frozenset({"label_conflict"}),
            "personal_data": frozenset({"pii"}),
            "no_duplicates": _COPIES,
            "no_overlap_with": frozenset({"gold_overlap", "group_leak"}),
            "template_matches": frozenset({"double_bos", "eos_missing", "not_a_prefix", "unknown_role", "no_scored_tokens", "all_tokens_scored", _TEMPLATE}),
            "truncation": frozenset({"answer_truncated", "too_long"}),
        },
        id_key="id",
    ),
    Rival(
        "forgelm",
        ("forgelm[ingestion-scale]",),
        "drive_forgelm.py",
        (".jsonl",),
        _CHAT_FORMS | {"preferences", "judged"},
        {
            "parse_error": _PARSE,
            "parse_errors": _PARSE,
            "decode_errors": frozenset({"bad_encoding"}),
            "refused": frozenset({_FILE}),
            "null_or_empty_count": frozenset({"empty_answer", "missing_field"}),
            "near_duplicate_pairs": _COPIES,
            "quality_samples_flagged": frozenset({"cut_off", "repetition"}),
            "pii_summary": frozenset({"pii"}),
            "secrets_summary": frozenset({"secret"}),
            "cross_split_overlap": frozenset({"gold_overlap", "group_leak"}),
        },
    ),
    Rival(
        "maatml",
        ("maatml",),
        "drive_maatml.py",
        (".jsonl",),
        _CHAT_FORMS,
        {
            "refused": _PARSE,
            "degenerate": frozenset({"empty_answer", "no_assistant_turn", "missing_field"}),
            "tool_calls": frozenset({"tool_unknown", "tool_args_invalid", "wrong_type", "role_order"}),
            "benchmark": frozenset({"gold_overlap", "group_leak"}),
        },
        id_key="sample_id",
    ),
)
