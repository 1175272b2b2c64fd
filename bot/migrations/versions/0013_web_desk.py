"""the web desk: accounts, sign-ins, invitations, audit log, saved views, macros, replies under way, mentions, search"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
MOMENT = sa.DateTime(timezone=True)
WORDS = (
    "CREATE VIRTUAL TABLE message_words USING fts5(text, content='messages', content_rowid='id',"
    " tokenize='unicode61 remove_diacritics 2')",
    "INSERT INTO message_words(message_words) VALUES ('rebuild')",
    "CREATE TRIGGER message_words_added AFTER INSERT ON messages BEGIN"
    " INSERT INTO message_words(rowid, text) VALUES (new.id, new.text); END",
    "CREATE TRIGGER message_words_gone AFTER DELETE ON messages BEGIN"
    " INSERT INTO message_words(message_words, rowid, text) VALUES ('delete', old.id, old.text); END",
    "CREATE TRIGGER message_words_changed AFTER UPDATE OF text ON messages BEGIN"
    " INSERT INTO message_words(message_words, rowid, text) VALUES ('delete', old.id, old.text);"
    " INSERT INTO message_words(rowid, text) VALUES (new.id, new.text); END",
)


def _enum(name: str, *values: str) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, length=32)


ROLE = ("agent", "senior", "editor", "supervisor", "admin")


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("agent_id", sa.Integer(), nullable=False),
        sa.Column("login", sa.String(length=254), nullable=False),
        sa.Column("password_hash", sa.String(length=255), nullable=False),
        sa.Column("role", _enum("role", *ROLE), nullable=False),
        sa.Column("lang", sa.String(length=8), nullable=False),
        sa.Column("theme", sa.String(length=8), nullable=False),
        sa.Column("undo_seconds", sa.Integer(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name="fk_accounts_agent_id_agents"),
        sa.PrimaryKeyConstraint("id", name="pk_accounts"),
        sa.UniqueConstraint("agent_id", name="uq_accounts_agent_id"),
        sa.UniqueConstraint("login", name="uq_accounts_login"),
    )
    op.create_table(
        "sign_ins",
        sa.Column("id", BIG, nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("browser", sa.String(length=300), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("seen_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_sign_ins_account_id_accounts"),
        sa.PrimaryKeyConstraint("id", name="pk_sign_ins"),
        sa.UniqueConstraint("token_hash", name="uq_sign_ins_token_hash"),
    )
    op.create_index("ix_sign_ins_account_id", "sign_ins", ["account_id"])
    op.create_table(
        "invitations",
        sa.Column("id", BIG, nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("role", _enum("role", *ROLE), nullable=False),
        sa.Column("teams", JSON, nullable=False),
        sa.Column("level", sa.String(length=16), nullable=False),
        sa.Column("langs", JSON, nullable=False),
        sa.Column("invited_by", sa.String(length=200), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.Column("used_at", MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_invitations"),
        sa.UniqueConstraint("token_hash", name="uq_invitations_token_hash"),
    )
    op.create_table(
        "audit_log",
        sa.Column("id", BIG, nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("who", sa.String(length=200), nullable=False),
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("ticket_id", BIG, nullable=True),
        sa.Column("details", JSON, nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_log"),
    )
    op.create_index("ix_audit_log_at", "audit_log", ["at"])
    op.create_index("ix_audit_log_ticket", "audit_log", ["ticket_id", "id"])
    op.create_table(
        "saved_views",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("query", sa.String(length=2000), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_saved_views_account_id_accounts"),
        sa.PrimaryKeyConstraint("id", name="pk_saved_views"),
    )
    op.create_index("ix_saved_views_account_id", "saved_views", ["account_id"])
    op.create_table(
        "macros",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("title", sa.String(length=120), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("lang", sa.String(length=8), nullable=False),
        sa.Column("changed_by", sa.String(length=200), nullable=False),
        sa.Column("changed_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_macros"),
    )
    op.create_table(
        "outgoing_replies",
        sa.Column("id", BIG, nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("ticket_id", BIG, nullable=False),
        sa.Column("agent_name", sa.String(length=200), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("files", JSON, nullable=False),
        sa.Column("quote_id", BIG, nullable=True),
        sa.Column("template", sa.String(length=64), nullable=False),
        sa.Column("then", sa.String(length=16), nullable=False),
        sa.Column("state", _enum("outgoingstate", "waiting", "sent", "taken_back", "refused"), nullable=False),
        sa.Column("message_id", BIG, nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("due_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_outgoing_replies_account_id_accounts"),
        sa.ForeignKeyConstraint(["ticket_id"], ["tickets.id"], name="fk_outgoing_replies_ticket_id_tickets"),
        sa.PrimaryKeyConstraint("id", name="pk_outgoing_replies"),
        sa.UniqueConstraint("key", name="uq_outgoing_replies_key"),
    )
    op.create_index("ix_outgoing_replies_ticket", "outgoing_replies", ["ticket_id", "state"])
    op.create_table(
        "mentions",
        sa.Column("id", BIG, nullable=False),
        sa.Column("agent_id", sa.Integer(), nullable=False),
        sa.Column("ticket_id", BIG, nullable=False),
        sa.Column("message_id", BIG, nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("seen_at", MOMENT, nullable=True),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name="fk_mentions_agent_id_agents"),
        sa.ForeignKeyConstraint(["ticket_id"], ["tickets.id"], name="fk_mentions_ticket_id_tickets"),
        sa.ForeignKeyConstraint(["message_id"], ["messages.id"], name="fk_mentions_message_id_messages"),
        sa.PrimaryKeyConstraint("id", name="pk_mentions"),
    )
    op.create_index("ix_mentions_agent", "mentions", ["agent_id", "seen_at"])
    if op.get_bind().dialect.name == "sqlite":
        for statement in WORDS:
            op.execute(statement)
    else:
        op.execute("CREATE INDEX ix_messages_words ON messages USING gin (to_tsvector('simple', text))")


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for name in ("added", "gone", "changed"):
            op.execute(f"DROP TRIGGER message_words_{name}")
        op.execute("DROP TABLE message_words")
    else:
        op.execute("DROP INDEX ix_messages_words")
    for table in (
        *("mentions", "outgoing_replies", "macros", "saved_views", "audit_log", "invitations", "sign_ins", "accounts"),
    ):
        op.drop_table(table)
