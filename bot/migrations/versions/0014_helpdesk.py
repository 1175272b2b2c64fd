"""tickets in another help desk"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
STATUS = sa.Enum("open", "resolved", "closed", name="deskstatus", native_enum=False, length=32)


def upgrade() -> None:
    op.create_table(
        "helpdesk_links",
        sa.Column("ticket_id", BIG, nullable=False),
        sa.Column("remote_id", sa.String(length=64), nullable=True),
        sa.Column("token", sa.String(length=32), nullable=False),
        sa.Column("tried", sa.Boolean(), nullable=False),
        sa.Column("status", STATUS, nullable=False),
        sa.Column("told", JSON, nullable=False),
        sa.Column("seen_id", BIG, nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("looked_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["ticket_id"], ["tickets.id"], name="fk_helpdesk_links_ticket_id_tickets"),
        sa.PrimaryKeyConstraint("ticket_id", name="pk_helpdesk_links"),
    )
    op.create_index("ix_helpdesk_links_remote_id", "helpdesk_links", ["remote_id"])
    op.create_table(
        "helpdesk_items",
        sa.Column("id", BIG, nullable=False),
        sa.Column("ticket_id", BIG, nullable=False),
        sa.Column("remote_id", sa.String(length=64), nullable=False),
        sa.Column("mark", sa.String(length=64), nullable=True),
        sa.Column("message_id", BIG, nullable=True),
        sa.ForeignKeyConstraint(["ticket_id"], ["tickets.id"], name="fk_helpdesk_items_ticket_id_tickets"),
        sa.ForeignKeyConstraint(["message_id"], ["messages.id"], name="fk_helpdesk_items_message_id_messages"),
        sa.PrimaryKeyConstraint("id", name="pk_helpdesk_items"),
        sa.UniqueConstraint("ticket_id", "remote_id", name="uq_helpdesk_items_ticket_id"),
    )


def downgrade() -> None:
    op.drop_table("helpdesk_items")
    op.drop_table("helpdesk_links")
