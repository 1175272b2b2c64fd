"""tickets as people work on them: agents, customers, history, clocks, more states"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
MOMENT = sa.DateTime(timezone=True)
LIVE = sa.text("status IN ('awaiting_feedback', 'new', 'on_hold', 'open', 'waiting_for_customer')")
OPEN = sa.text("status = 'open'")


def _enum(name: str, *values: str) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, length=32)


def upgrade() -> None:
    op.create_table(
        "agents",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("level", sa.String(length=16), nullable=False),
        sa.Column("teams", JSON, nullable=False),
        sa.Column("langs", JSON, nullable=False),
        sa.Column("capacity", sa.Integer(), nullable=False),
        sa.Column("schedule", sa.String(length=64), nullable=False),
        sa.Column("presence", _enum("presence", "auto", "online", "away", "offline"), nullable=False),
        sa.Column("notify", JSON, nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("last_assigned_at", MOMENT, nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_agents"),
        sa.UniqueConstraint("name", name="uq_agents_name"),
    )
    op.create_table(
        "customers",
        sa.Column("id", BIG, nullable=False),
        sa.Column("name", sa.String(length=200), nullable=True),
        sa.Column("segment", sa.String(length=32), nullable=True),
        sa.Column("phone", sa.String(length=32), nullable=True),
        sa.Column("email", sa.String(length=254), nullable=True),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_customers"),
    )
    op.create_index("ix_customers_phone", "customers", ["phone"])
    op.create_index("ix_customers_email", "customers", ["email"])
    op.create_table(
        "customer_links",
        sa.Column("id", BIG, nullable=False),
        sa.Column("conversation_id", BIG, nullable=False),
        sa.Column("from_customer_id", BIG, nullable=True),
        sa.Column("to_customer_id", BIG, nullable=False),
        sa.Column("how", sa.String(length=16), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("undone_at", MOMENT, nullable=True),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversations.id"], name="fk_customer_links_conversation_id_conversations"
        ),
        sa.ForeignKeyConstraint(
            ["from_customer_id"], ["customers.id"], name="fk_customer_links_from_customer_id_customers"
        ),
        sa.ForeignKeyConstraint(
            ["to_customer_id"], ["customers.id"], name="fk_customer_links_to_customer_id_customers"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_customer_links"),
    )
    op.create_index("ix_customer_links_conversation_id", "customer_links", ["conversation_id"])
    op.add_column("conversations", sa.Column("customer_id", BIG, nullable=True))
    op.create_index("ix_conversations_customer_id", "conversations", ["customer_id"])

    op.drop_index("uq_tickets_open", table_name="tickets")
    with op.batch_alter_table("tickets") as tickets:
        tickets.alter_column("level", existing_type=sa.String(length=8), type_=sa.String(length=16))
        tickets.add_column(sa.Column("segment", sa.String(length=32), nullable=True))
        tickets.add_column(sa.Column("complexity", sa.Integer(), nullable=True))
        tickets.add_column(sa.Column("assignee_id", sa.Integer(), nullable=True))
        tickets.add_column(sa.Column("preferred_id", sa.Integer(), nullable=True))
        tickets.add_column(sa.Column("given_away", JSON, server_default="[]", nullable=False))
        tickets.add_column(sa.Column("updated_at", MOMENT, nullable=True))
        tickets.add_column(sa.Column("first_reply_at", MOMENT, nullable=True))
        tickets.add_column(sa.Column("hold_task", sa.String(length=500), nullable=True))
        tickets.add_column(sa.Column("hold_until", MOMENT, nullable=True))
        tickets.add_column(sa.Column("finished_at", MOMENT, nullable=True))
        tickets.add_column(sa.Column("asked_at", MOMENT, nullable=True))
        tickets.add_column(sa.Column("feedback", _enum("feedback", "helped", "not_helped"), nullable=True))
        tickets.add_column(sa.Column("reopened", sa.Integer(), server_default="0", nullable=False))
        tickets.create_foreign_key("fk_tickets_assignee_id_agents", "agents", ["assignee_id"], ["id"])
        tickets.create_foreign_key("fk_tickets_preferred_id_agents", "agents", ["preferred_id"], ["id"])
    op.execute("UPDATE tickets SET updated_at = coalesce(resolved_at, created_at)")
    with op.batch_alter_table("tickets") as tickets:
        tickets.alter_column("updated_at", existing_type=MOMENT, nullable=False)
    op.create_index("ix_tickets_assignee", "tickets", ["assignee_id", "status"])
    op.create_index(
        "uq_tickets_live", "tickets", ["conversation_id"], unique=True, sqlite_where=LIVE, postgresql_where=LIVE
    )

    op.create_table(
        "ticket_history",
        sa.Column("id", BIG, nullable=False),
        sa.Column("ticket_id", BIG, nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column(
            "status",
            _enum(
                "ticketstatus",
                *("new", "open", "waiting_for_customer", "on_hold", "awaiting_feedback", "resolved", "closed"),
            ),
            nullable=False,
        ),
        sa.Column("details", JSON, nullable=False),
        sa.ForeignKeyConstraint(["ticket_id"], ["tickets.id"], name="fk_ticket_history_ticket_id_tickets"),
        sa.PrimaryKeyConstraint("id", name="pk_ticket_history"),
    )
    op.create_index("ix_ticket_history_ticket", "ticket_history", ["ticket_id", "id"])
    op.create_table(
        "ticket_clocks",
        sa.Column("ticket_id", BIG, nullable=False),
        sa.Column("kind", _enum("clockkind", "first_response", "next_response", "resolution"), nullable=False),
        sa.Column("target_seconds", sa.Integer(), nullable=False),
        sa.Column("used_seconds", sa.Double(), nullable=False),
        sa.Column("running_since", MOMENT, nullable=True),
        sa.Column("done_at", MOMENT, nullable=True),
        sa.Column("due_at", MOMENT, nullable=True),
        sa.Column("look_at", MOMENT, nullable=True),
        sa.Column("raised", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["ticket_id"], ["tickets.id"], name="fk_ticket_clocks_ticket_id_tickets"),
        sa.PrimaryKeyConstraint("ticket_id", "kind", name="pk_ticket_clocks"),
    )
    op.create_index("ix_ticket_clocks_look", "ticket_clocks", ["look_at"])


def downgrade() -> None:
    op.drop_table("ticket_clocks")
    op.drop_table("ticket_history")
    op.drop_index("uq_tickets_live", table_name="tickets")
    op.drop_index("ix_tickets_assignee", table_name="tickets")
    op.execute("UPDATE tickets SET status = 'resolved' WHERE status = 'closed'")
    op.execute("UPDATE tickets SET status = 'open' WHERE status NOT IN ('open', 'resolved')")
    with op.batch_alter_table("tickets") as tickets:
        tickets.drop_constraint("fk_tickets_assignee_id_agents", type_="foreignkey")
        tickets.drop_constraint("fk_tickets_preferred_id_agents", type_="foreignkey")
        for column in (
            *("segment", "complexity", "assignee_id", "preferred_id", "given_away", "updated_at", "first_reply_at"),
            *("hold_task", "hold_until", "finished_at", "asked_at", "feedback", "reopened"),
        ):
            tickets.drop_column(column)
    op.create_index(
        "uq_tickets_open", "tickets", ["conversation_id"], unique=True, sqlite_where=OPEN, postgresql_where=OPEN
    )
    op.drop_index("ix_conversations_customer_id", table_name="conversations")
    op.drop_column("conversations", "customer_id")
    for table in ("customer_links", "customers", "agents"):
        op.drop_table(table)
