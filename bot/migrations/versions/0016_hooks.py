"""webhooks out and in"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "hook_events",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("type", sa.String(length=64), nullable=False),
        sa.Column("ticket_id", BIG, nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column(
            "state", sa.Enum("waiting", "sent", "dead", name="hookstate", native_enum=False, length=32), nullable=False
        ),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("done_at", MOMENT, nullable=True),
        sa.ForeignKeyConstraint(["ticket_id"], ["tickets.id"], name="fk_hook_events_ticket_id_tickets"),
        sa.PrimaryKeyConstraint("id", name="pk_hook_events"),
    )
    op.create_index("ix_hook_events_state", "hook_events", ["state", "created_at"])
    op.create_table(
        "hook_received",
        sa.Column("id", sa.String(length=256), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_hook_received"),
    )
    op.create_index("ix_hook_received_at", "hook_received", ["at"])


def downgrade() -> None:
    op.drop_table("hook_received")
    op.drop_table("hook_events")
