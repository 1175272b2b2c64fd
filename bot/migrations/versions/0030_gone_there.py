"""tickets that were deleted in the help desk"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("helpdesk_links", sa.Column("missing", sa.Integer(), server_default="0", nullable=False))
    op.add_column("helpdesk_links", sa.Column("gone_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("helpdesk_links") as batch:
        batch.drop_column("gone_at")
        batch.drop_column("missing")
