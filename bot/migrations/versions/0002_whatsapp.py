"""webhooks as they came, customers' ids, templates"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("channel", sa.String(length=32), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column(
            "state", sa.Enum("pending", "done", name="webhookstate", native_enum=False, length=32), nullable=False
        ),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
        sa.UniqueConstraint("channel", "digest", name=op.f("uq_webhooks_channel")),
    )
    with op.batch_alter_table("webhooks", schema=None) as batch_op:
        pending = sa.text("state = 'pending'")
        batch_op.create_index(
            "ix_webhooks_pending", ["id"], unique=False, sqlite_where=pending, postgresql_where=pending
        )

    op.create_table(
        "customer_aliases",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("channel", sa.String(length=32), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("alias", sa.String(length=128), nullable=False),
        sa.Column("chat_id", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_customer_aliases")),
        sa.UniqueConstraint("channel", "account", "alias", name=op.f("uq_customer_aliases_channel")),
    )
    op.create_table(
        "template_states",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=512), nullable=False),
        sa.Column("language", sa.String(length=16), nullable=False),
        sa.Column("status", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_template_states")),
        sa.UniqueConstraint("name", "language", name=op.f("uq_template_states_name")),
    )


def downgrade() -> None:
    op.drop_table("template_states")
    op.drop_table("customer_aliases")
    op.drop_table("webhooks")
