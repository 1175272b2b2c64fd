"""how likely customers are to recommend the company"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "nps_answers",
        sa.Column("id", BIG, nullable=False),
        sa.Column("conversation_id", BIG, nullable=False),
        sa.Column("ticket_id", BIG, nullable=True),
        sa.Column("message_id", BIG, nullable=False),
        sa.Column("channel", sa.String(32), nullable=False),
        sa.Column("lang", sa.String(8), nullable=False),
        sa.Column("topic", sa.String(64), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("score", sa.Integer(), nullable=True),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.Column("declined_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversations.id"], name="fk_nps_answers_conversation_id_conversations"
        ),
        sa.ForeignKeyConstraint(["ticket_id"], ["tickets.id"], name="fk_nps_answers_ticket_id_tickets"),
        sa.ForeignKeyConstraint(["message_id"], ["messages.id"], name="fk_nps_answers_message_id_messages"),
        sa.PrimaryKeyConstraint("id", name="pk_nps_answers"),
        sa.UniqueConstraint("conversation_id", "ended_at", name="uq_nps_answers_conversation_id"),
    )
    op.create_index("ix_nps_answers_asked", "nps_answers", ["asked_at"])


def downgrade() -> None:
    op.drop_table("nps_answers")
