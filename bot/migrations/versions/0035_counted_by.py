"""the policy by which the clocks run"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None


def upgrade() -> None:
    made = op.create_table(
        "counted_by",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("policy", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_counted_by")),
    )
    # Nothing is known yet. The row is there from the beginning, so that no two processes make it.
    op.bulk_insert(made, [{"id": 1, "policy": {}}])


def downgrade() -> None:
    op.drop_table("counted_by")
