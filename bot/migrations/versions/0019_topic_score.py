"""what keywords say of a topic is a score, no probability"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tickets", sa.Column("topic_score", sa.Double(), nullable=True))
    op.add_column("tickets", sa.Column("runner_up_score", sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column("tickets", "runner_up_score")
    op.drop_column("tickets", "topic_score")
