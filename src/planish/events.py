"""What happened: a closed set of event types and reason codes, and the hash that chains one event to the one before (MISSION O1, O2)."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Any, Literal

from planish.rows import Noun, content_hash

GENESIS = "0" * 64
"""The hash before the first event."""

STAGES = ("prepare", "baseline", "train", "evaluate", "gate", "compress", "serve", "observe", "feedback")
"""The only stage map: CLI verbs, events, reports and pages use these names in this order (DESIGN, The data flow)."""


class EventType(StrEnum):
    """Everything that may happen. One event per change of state, never one per row."""

    RUN_STARTED = "run.started"
    RUN_RESUMED = "run.resumed"
    RUN_SUCCEEDED = "run.succeeded"
    RUN_FAILED = "run.failed"
    RUN_INTERRUPTED = "run.interrupted"
    RUN_REFUSED = "run.refused"
    STAGE_STARTED = "stage.started"
    STAGE_FINISHED = "stage.finished"
    STAGE_SKIPPED = "stage.skipped"
    STAGE_FAILED = "stage.failed"
    DATASET_READ = "dataset.read"
    DATASET_WRITTEN = "dataset.written"
    GOLD_SEALED = "gold.sealed"
    GOLD_READ = "gold.read"
    GOLD_SPENT = "gold.spent"
    BASELINE_SCORED = "baseline.scored"
    TRAIN_PLANNED = "train.planned"
    TRAIN_CHECKPOINT = "train.checkpoint"
    TRAIN_RESUMED = "train.resumed"
    TRAIN_WARNED = "train.warned"
    TRAIN_OOM_RETRY = "train.oom_retry"
    TRAIN_CURVE = "train.curve"
    TRAIN_STOPPED_EARLY = "train.stopped_early"
    EVAL_SCORED = "eval.scored"
    GATE_PASSED = "gate.passed"
    GATE_REFUSED = "gate.refused"
    ARTIFACT_EXPORTED = "artifact.exported"
    DEPLOY_STARTED = "deploy.started"
    DEPLOY_STOPPED = "deploy.stopped"
    DRIFT_CHECKED = "drift.checked"
    DRIFT_ALARM = "drift.alarm"
    FEEDBACK_CONVERTED = "feedback.converted"


class ReasonCode(StrEnum):
    """Why something was skipped, refused or failed. Mandatory on every event of severity error."""

    UNCHANGED = "unchanged"
    GATE = "gate"
    NOT_ASKED = "not_asked"
    INPUT_WRONG = "input_wrong"
    STAGE_FAILED = "stage_failed"
    INTERRUPTED = "interrupted"
    DISK_FULL = "disk_full"
    OUT_OF_MEMORY = "out_of_memory"
    LOSS_NOT_FINITE = "loss_not_finite"
    ADAPTER_DID_NOTHING = "adapter_did_nothing"
    ENGINE_DIED = "engine_died"
    ENDPOINT_FAILED = "endpoint_failed"
    PORT_IN_USE = "port_in_use"
    DRIFT = "drift"
    FALLBACK = "fallback"


class RunEvent(Noun):
    """One line of the event table. `hash` covers the previous hash, so a changed, dropped or reordered line is found."""

    seq: int
    id: str
    ts: str
    run_id: str
    actor: str
    type: EventType
    subject: str
    severity: Literal["info", "warning", "error"]
    reason_code: ReasonCode | None
    body: dict[str, Any]
    body_sha256: str
    hash: str


def chain_hash(previous: str, seq: int, id: str, ts: str, type: str, body_sha256: str) -> str:
    """h_n = SHA256(h_(n-1) | seq | id | ts | type | sha256(body)); the body is hashed apart so that it can be erased and the chain still verifies."""
    return hashlib.sha256("|".join([previous, str(seq), id, ts, type, body_sha256]).encode()).hexdigest()


def body_hash(body: dict[str, Any]) -> str:
    """sha256 of the canonical JSON of an event's body."""
    return content_hash(body)
