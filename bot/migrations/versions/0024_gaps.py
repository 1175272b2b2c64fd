"""what the assistant did not settle, in groups; labels of the review"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def _enum(name: str, *values: str) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, length=32)


def upgrade() -> None:
    op.create_table(
        "gaps",
        sa.Column("id", BIG, nullable=False),
        sa.Column("title", sa.String(length=200), nullable=False),
        sa.Column("named", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("state", _enum("gapstate", "open", "settled", "joined"), nullable=False),
        sa.Column("held", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column(
            "settlement",
            _enum("settlement", "article", "examples", "question", "out_of_scope", "dismissed"),
            nullable=True,
        ),
        sa.Column("settled_at", MOMENT, nullable=True),
        sa.Column("settled_by", sa.String(length=200), nullable=True),
        sa.Column("details", JSON, server_default="{}", nullable=False),
        sa.Column("joined_into_id", BIG, nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["joined_into_id"], ["gaps.id"], name="fk_gaps_joined_into_id_gaps"),
        sa.PrimaryKeyConstraint("id", name="pk_gaps"),
    )
    op.create_index("ix_gaps_state", "gaps", ["state"])
    op.create_table(
        "gap_questions",
        sa.Column("id", BIG, nullable=False),
        sa.Column("message_id", BIG, nullable=False),
        sa.Column("conversation_id", BIG, nullable=False),
        sa.Column(
            "ended",
            _enum("ended", "unanswered", "clarified", "rejected", "handed_off", "by_intent", "answered"),
            nullable=False,
        ),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("lang", sa.String(length=8), nullable=False),
        sa.Column("intent", sa.String(length=120), nullable=True),
        sa.Column("confidence", sa.Double(), nullable=True),
        sa.Column("article_id", sa.String(length=120), nullable=True),
        sa.Column("article_confidence", sa.Double(), nullable=True),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("gap_id", BIG, nullable=True),
        sa.Column("placed", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("doubt", sa.Double(), nullable=True),
        sa.Column("disagree", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=True),
        sa.Column("encoder", sa.String(length=16), nullable=True),
        sa.ForeignKeyConstraint(["message_id"], ["messages.id"], name="fk_gap_questions_message_id_messages"),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversations.id"], name="fk_gap_questions_conversation_id_conversations"
        ),
        sa.ForeignKeyConstraint(["gap_id"], ["gaps.id"], name="fk_gap_questions_gap_id_gaps"),
        sa.PrimaryKeyConstraint("id", name="pk_gap_questions"),
        sa.UniqueConstraint("message_id", name="uq_gap_questions_message_id"),
    )
    op.create_index("ix_gap_questions_gap", "gap_questions", ["gap_id", "at"])
    op.create_index("ix_gap_questions_doubt", "gap_questions", ["doubt"])
    op.create_index("ix_gap_questions_conversation", "gap_questions", ["conversation_id"])
    op.create_table(
        "gap_acts",
        sa.Column("id", BIG, nullable=False),
        sa.Column("gap_id", BIG, nullable=False),
        sa.Column("act", sa.String(length=32), nullable=False),
        sa.Column("by", sa.String(length=200), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("before", JSON, nullable=False),
        sa.Column("undone_at", MOMENT, nullable=True),
        sa.Column("undone_by", sa.String(length=200), nullable=True),
        sa.ForeignKeyConstraint(["gap_id"], ["gaps.id"], name="fk_gap_acts_gap_id_gaps"),
        sa.PrimaryKeyConstraint("id", name="pk_gap_acts"),
    )
    op.create_index("ix_gap_acts_gap", "gap_acts", ["gap_id", "id"])
    op.create_table(
        "gap_scan",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("message_id", BIG, nullable=False),
        sa.Column("grouped_at", MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_gap_scan"),
    )
    op.create_table(
        "review_labels",
        sa.Column("id", BIG, nullable=False),
        sa.Column("item", sa.String(length=80), nullable=False),
        sa.Column("choice", sa.String(length=120), nullable=False),
        sa.Column("by", sa.String(length=200), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("before", JSON, nullable=False),
        sa.Column("undone_at", MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_review_labels"),
    )
    op.create_index("ix_review_labels_item", "review_labels", ["item"])


def downgrade() -> None:
    for table in ("review_labels", "gap_scan", "gap_acts", "gap_questions", "gaps"):
        op.drop_table(table)
