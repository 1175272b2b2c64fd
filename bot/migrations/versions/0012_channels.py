"""quotes, edits of what was sent, and customers who can't be reached"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("messages", sa.Column("reply_to_id", BIG, nullable=True))
    op.add_column("messages", sa.Column("context", JSON, nullable=True))
    op.add_column("outbox", sa.Column("is_edit", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("conversations", sa.Column("blocked_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("conversations", sa.Column("blocked_why", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("conversations", "blocked_why")
    op.drop_column("conversations", "blocked_at")
    op.drop_column("outbox", "is_edit")
    op.drop_column("messages", "context")
    op.drop_column("messages", "reply_to_id")
