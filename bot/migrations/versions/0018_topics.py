"""the queue of a topic is read along an index"""

from __future__ import annotations

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_tickets_topic", "tickets", ["topic", "status", "created_at"])


def downgrade() -> None:
    op.drop_index("ix_tickets_topic", table_name="tickets")
