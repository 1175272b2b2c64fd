"""when a message was changed, so that open desks show it"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

CHANGED = sa.text("changed_at IS NOT NULL")


def upgrade() -> None:
    op.add_column("messages", sa.Column("changed_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index("ix_messages_changed", "messages", ["changed_at"], sqlite_where=CHANGED, postgresql_where=CHANGED)


def downgrade() -> None:
    op.drop_index("ix_messages_changed", table_name="messages")
    op.drop_column("messages", "changed_at")
