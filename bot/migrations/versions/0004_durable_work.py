"""durable work: claims, edits, timers; bigger ids and jsonb on PostgreSQL"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
BIG_COLUMNS = {
    "conversations": ("id",),
    "inbox": ("id",),
    "messages": ("id", "conversation_id"),
    "tickets": ("id", "conversation_id"),
    "attachments": ("id", "message_id", "size_bytes"),
    "outbox": ("id", "conversation_id", "message_id"),
}
JSON_COLUMNS = {
    "conversations": ("state",),
    "inbox": ("payload",),
    "messages": ("options", "decision"),
    "attachments": ("source",),
}


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table, columns in BIG_COLUMNS.items():
            changes = ", ".join(f"ALTER COLUMN {column} TYPE bigint" for column in columns)
            op.execute(f"ALTER TABLE {table} {changes}")
            op.execute(f"ALTER SEQUENCE {table}_id_seq AS bigint")
        for table, columns in JSON_COLUMNS.items():
            for column in columns:
                op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE jsonb USING {column}::jsonb")

    op.drop_index("ix_inbox_pending", table_name="inbox")
    op.create_index(
        "ix_inbox_pending",
        "inbox",
        ["channel", "account", "chat_id", "id"],
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_index("ix_inbox_done", "inbox", ["done_at"])

    with op.batch_alter_table("messages") as messages:
        messages.add_column(sa.Column("repeats", sa.Integer(), server_default="0", nullable=False))
        messages.add_column(sa.Column("edits", JSON, server_default="[]", nullable=False))
        messages.add_column(sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index(
        "ix_messages_external",
        "messages",
        ["external_id"],
        sqlite_where=sa.text("external_id IS NOT NULL"),
        postgresql_where=sa.text("external_id IS NOT NULL"),
    )

    with op.batch_alter_table("outbox") as outbox:
        outbox.add_column(sa.Column("claims", sa.Integer(), server_default="0", nullable=False))
        outbox.add_column(sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True))
        outbox.add_column(sa.Column("created_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE outbox SET created_at = due_at")
    with op.batch_alter_table("outbox") as outbox:
        outbox.alter_column("created_at", existing_type=sa.DateTime(timezone=True), nullable=False)
    op.create_index("ix_outbox_due", "outbox", ["due_at"])

    op.create_table(
        "timers",
        sa.Column("id", BIG, nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("payload", JSON, nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_timers"),
        sa.UniqueConstraint("key", name="uq_timers_key"),
    )
    op.create_index("ix_timers_due", "timers", ["due_at"])


def downgrade() -> None:
    op.drop_table("timers")
    op.drop_index("ix_outbox_due", table_name="outbox")
    with op.batch_alter_table("outbox") as outbox:
        for column in ("claims", "claimed_at", "created_at"):
            outbox.drop_column(column)
    op.drop_index("ix_messages_external", table_name="messages")
    with op.batch_alter_table("messages") as messages:
        for column in ("repeats", "edits", "deleted_at"):
            messages.drop_column(column)
    op.drop_index("ix_inbox_done", table_name="inbox")
    op.drop_index("ix_inbox_pending", table_name="inbox")
    op.create_index("ix_inbox_pending", "inbox", ["state", "channel", "account", "chat_id", "id"])
