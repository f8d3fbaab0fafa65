"""The tables: runs, artifacts with their parents, the event chain, stage results, deployments. SQLAlchemy Core, so that SQLite and PostgreSQL read the same."""

from __future__ import annotations

from sqlalchemy import JSON, Column, Float, ForeignKey, Integer, MetaData, String, Table, Text

metadata = MetaData()

runs = Table(
    "runs",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("created", String(40), nullable=False),
    Column("name", Text, nullable=False),
    Column("recipe_sha256", String(64), nullable=False),
    Column("recipe", JSON, nullable=False),
    Column("code_version", String(80), nullable=False),
    Column("parent", String(40)),
    Column("status", String(20), nullable=False),  # running, succeeded, failed, interrupted, refused
    Column("exit_code", Integer),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("kind", String(40), nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("created", String(40), nullable=False),
)

lineage = Table(
    "lineage",
    metadata,
    Column("child", String(64), ForeignKey("artifacts.sha256"), primary_key=True),
    Column("parent", String(64), primary_key=True),
)

stage_results = Table(
    "stage_results",
    metadata,
    Column("key", String(64), primary_key=True),  # hash of the stage's name, options, inputs and the code version
    Column("stage", String(20), nullable=False),
    Column("artifact", String(64), ForeignKey("artifacts.sha256"), nullable=False),
    Column("created", String(40), nullable=False),
)

run_stages = Table(
    "run_stages",
    metadata,
    Column("run_id", String(40), ForeignKey("runs.id"), primary_key=True),
    Column("stage", String(20), primary_key=True),
    Column("status", String(20), nullable=False),  # done, unchanged, skipped, failed
    Column("artifact", String(64)),
    Column("reason", String(40)),
    Column("seconds", Float, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("id", String(40), nullable=False, unique=True),
    Column("ts", String(40), nullable=False),
    Column("run_id", String(40), nullable=False, index=True),
    Column("actor", String(80), nullable=False),
    Column("type", String(40), nullable=False),
    Column("subject", Text, nullable=False),
    Column("severity", String(10), nullable=False),
    Column("reason_code", String(40)),
    Column("body", JSON, nullable=False),
    Column("body_sha256", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
)

deployments = Table(
    "deployments",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("run_id", String(40), nullable=False),
    Column("package", String(64), nullable=False),
    Column("folder", Text, nullable=False),
    Column("created", String(40), nullable=False),
    Column("state", String(20), nullable=False),  # live, stopped
    Column("unproven", Integer, nullable=False),
)
