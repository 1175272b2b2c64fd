"""what is known of customers: contacts, and what a link filled in"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "contacts",
        sa.Column("id", BIG, nullable=False),
        sa.Column("conversation_id", BIG, nullable=False),
        sa.Column("kind", sa.Enum("phone", "email", name="contactkind", native_enum=False, length=32), nullable=False),
        sa.Column("value", sa.String(length=254), nullable=False),
        sa.Column("verified", sa.Boolean(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversations.id"], name="fk_contacts_conversation_id_conversations"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_contacts"),
        sa.UniqueConstraint("conversation_id", "kind", "value", name="uq_contacts_conversation_id"),
    )
    op.create_index("ix_contacts_value", "contacts", ["value"])
    op.add_column("customer_links", sa.Column("filled", JSON, server_default="{}", nullable=False))


def downgrade() -> None:
    op.drop_column("customer_links", "filled")
    op.drop_table("contacts")
