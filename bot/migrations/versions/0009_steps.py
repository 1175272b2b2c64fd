"""what the assistant did in each message, and the indexes of reports"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

STEPS = sa.text("step IS NOT NULL")


def upgrade() -> None:
    step = sa.Enum("answered", "asked", "confirmed", name="step", native_enum=False, length=32)
    op.add_column("messages", sa.Column("step", step, nullable=True))
    op.add_column("messages", sa.Column("topic", sa.String(length=64), nullable=True))
    messages = sa.table("messages", sa.column("author"), sa.column("decision", sa.JSON()), sa.column("step"))
    decided = {key: messages.c.decision[key].as_string() for key in ("action", "reply", "article_id")}
    op.execute(
        sa.update(messages)
        .where(messages.c.author == "assistant", decided["action"].in_(("answer", "clarify")))
        .values(
            step=sa.case(
                (decided["reply"] == "confirmed", "confirmed"),
                (decided["article_id"].is_not(None), "answered"),
                (decided["action"] == "clarify", "asked"),
            )
        )
    )
    op.create_index(
        "ix_messages_steps",
        "messages",
        ["created_at", "conversation_id", "step", "topic"],
        sqlite_where=STEPS,
        postgresql_where=STEPS,
    )
    op.create_index("ix_tickets_created", "tickets", ["created_at"])


def downgrade() -> None:
    op.drop_index("ix_tickets_created", table_name="tickets")
    op.drop_index("ix_messages_steps", table_name="messages")
    op.drop_column("messages", "topic")
    op.drop_column("messages", "step")
