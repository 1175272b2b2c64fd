"""errands, and what agents are told"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
MOMENT = sa.DateTime(timezone=True)
STATE = sa.Enum("waiting", "sent", "failed", "dropped", name="noticestate", native_enum=False, length=32)


def upgrade() -> None:
    op.add_column("timers", sa.Column("claimed_until", MOMENT, nullable=True))
    op.add_column("timers", sa.Column("asked", sa.Integer(), server_default="0", nullable=False))
    op.add_column("agents", sa.Column("quiet", sa.String(length=16), nullable=True))
    op.add_column("agents", sa.Column("zone", sa.String(length=64), nullable=True))
    op.add_column("agents", sa.Column("notify_events", JSON, nullable=True))
    op.create_table(
        "team_notify",
        sa.Column("team", sa.String(length=64), nullable=False),
        sa.Column("addresses", JSON, nullable=False),
        sa.PrimaryKeyConstraint("team", name="pk_team_notify"),
    )
    op.create_table(
        "notices",
        sa.Column("id", BIG, nullable=False),
        sa.Column("recipient", sa.String(length=80), nullable=False),
        sa.Column("address", sa.String(length=16), nullable=False),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("ticket_id", BIG, nullable=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("urgent", sa.Boolean(), nullable=False),
        sa.Column("state", STATE, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("done_at", MOMENT, nullable=True),
        sa.ForeignKeyConstraint(["ticket_id"], ["tickets.id"], name="fk_notices_ticket_id_tickets"),
        sa.PrimaryKeyConstraint("id", name="pk_notices"),
    )
    op.create_index("ix_notices_lane", "notices", ["recipient", "address", "state", "done_at"])
    op.create_index("ix_notices_done_at", "notices", ["done_at"])


def downgrade() -> None:
    op.drop_table("notices")
    op.drop_table("team_notify")
    for column in ("notify_events", "zone", "quiet"):
        op.drop_column("agents", column)
    for column in ("asked", "claimed_until"):
        op.drop_column("timers", column)
