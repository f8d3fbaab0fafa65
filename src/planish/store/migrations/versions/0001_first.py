"""The first tables; on SQLite, events refuse to be changed or deleted.

A migration states its tables literally: it must go on meaning the same when the code's tables have moved on.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("created", sa.String(40), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("recipe_sha256", sa.String(64), nullable=False),
        sa.Column("recipe", sa.JSON, nullable=False),
        sa.Column("code_version", sa.String(80), nullable=False),
        sa.Column("parent", sa.String(40)),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("exit_code", sa.Integer),
    )
    op.create_table(
        "artifacts",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("created", sa.String(40), nullable=False),
    )
    op.create_table(
        "lineage",
        sa.Column("child", sa.String(64), sa.ForeignKey("artifacts.sha256"), primary_key=True),
        sa.Column("parent", sa.String(64), primary_key=True),
    )
    op.create_table(
        "stage_results",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("stage", sa.String(20), nullable=False),
        sa.Column("artifact", sa.String(64), sa.ForeignKey("artifacts.sha256"), nullable=False),
        sa.Column("created", sa.String(40), nullable=False),
    )
    op.create_table(
        "run_stages",
        sa.Column("run_id", sa.String(40), sa.ForeignKey("runs.id"), primary_key=True),
        sa.Column("stage", sa.String(20), primary_key=True),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("artifact", sa.String(64)),
        sa.Column("reason", sa.String(40)),
        sa.Column("seconds", sa.Float, nullable=False),
    )
    op.create_table(
        "events",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("id", sa.String(40), nullable=False, unique=True),
        sa.Column("ts", sa.String(40), nullable=False),
        sa.Column("run_id", sa.String(40), nullable=False, index=True),
        sa.Column("actor", sa.String(80), nullable=False),
        sa.Column("type", sa.String(40), nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("severity", sa.String(10), nullable=False),
        sa.Column("reason_code", sa.String(40)),
        sa.Column("body", sa.JSON, nullable=False),
        sa.Column("body_sha256", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    op.create_table(
        "deployments",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("run_id", sa.String(40), nullable=False),
        sa.Column("package", sa.String(64), nullable=False),
        sa.Column("folder", sa.Text, nullable=False),
        sa.Column("created", sa.String(40), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("unproven", sa.Integer, nullable=False),
    )
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(f"CREATE TRIGGER events_no_{verb.lower()} BEFORE {verb} ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END")
