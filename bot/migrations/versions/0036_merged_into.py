"""which ticket a duplicate went into"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None

MERGED = "merged into "
"""So the reason of such an end begins in the history."""


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column("tickets", sa.Column("merged_into", number, nullable=True))
    columns = (sa.column("id", sa.BigInteger), sa.column("merged_into", sa.BigInteger), sa.column("status", sa.String))
    tickets = sa.table("tickets", *columns)
    history = sa.table(
        "ticket_history",
        sa.column("ticket_id", sa.BigInteger),
        sa.column("event", sa.String),
        sa.column("details", sa.JSON),
    )
    connection = op.get_bind()
    ended = sa.select(history.c.ticket_id, history.c.details).where(history.c.event == "closed")
    for ticket_id, details in connection.execute(ended).all():
        why = str((details or {}).get("why", ""))
        if why.startswith(MERGED) and why.removeprefix(MERGED).isdecimal():
            into = int(why.removeprefix(MERGED))
            still = (tickets.c.id == ticket_id, tickets.c.status == "closed")  # and not opened again since
            connection.execute(tickets.update().where(*still).values(merged_into=into))


def downgrade() -> None:
    op.drop_column("tickets", "merged_into")
