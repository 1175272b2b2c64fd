"""the queue is read along indexes, however many tickets there are"""

from __future__ import annotations

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_tickets_piles", "tickets", ["status", "team", "assignee_id"])
    op.create_index("ix_ticket_clocks_due", "ticket_clocks", ["due_at"])
    op.create_index("ix_ticket_clocks_running", "ticket_clocks", ["kind", "running_since"])


def downgrade() -> None:
    op.drop_index("ix_ticket_clocks_running", table_name="ticket_clocks")
    op.drop_index("ix_ticket_clocks_due", table_name="ticket_clocks")
    op.drop_index("ix_tickets_piles", table_name="tickets")
