"""since when a presence was set by hand"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("agents", sa.Column("presence_at", sa.DateTime(timezone=True), nullable=True))
    # What was set before lasts as if it had been set now.
    agents = sa.table("agents", sa.column("presence", sa.String), sa.column("presence_at", sa.DateTime(timezone=True)))
    op.execute(agents.update().where(agents.c.presence != "auto").values(presence_at=sa.func.current_timestamp()))


def downgrade() -> None:
    op.drop_column("agents", "presence_at")
