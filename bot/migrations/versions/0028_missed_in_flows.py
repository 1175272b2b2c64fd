"""what a flow could not use is a gap as well: where it was said"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("gap_questions", sa.Column("flow", sa.String(64), nullable=True))
    op.add_column("gap_questions", sa.Column("step", sa.String(64), nullable=True))


def downgrade() -> None:
    op.drop_column("gap_questions", "step")
    op.drop_column("gap_questions", "flow")
