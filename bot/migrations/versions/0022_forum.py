"""the Telegram desk"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)
STORED_JSON = sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql")


def upgrade() -> None:
    op.create_table(
        "forum_topics",
        sa.Column("ticket_id", BIG, nullable=False),
        sa.Column("group_id", BIG, nullable=False),
        sa.Column("thread_id", BIG, nullable=True),
        sa.Column("left", STORED_JSON, server_default="[]", nullable=False),
        sa.Column("title", sa.String(length=128), server_default="", nullable=False),
        sa.Column("icon", sa.String(length=64), server_default="", nullable=False),
        sa.Column("closed", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("opened", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("card_live", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("seen_id", BIG, server_default="0", nullable=False),
        sa.Column("seen_entry_id", BIG, server_default="0", nullable=False),
        sa.Column("calling", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("repeats", sa.Integer(), server_default="0", nullable=False),
        sa.Column("watched", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.ForeignKeyConstraint(["ticket_id"], ["tickets.id"], name="fk_forum_topics_ticket_id_tickets"),
        sa.PrimaryKeyConstraint("ticket_id", name="pk_forum_topics"),
    )
    op.create_index("ix_forum_topics_lane", "forum_topics", ["group_id", "watched"])
    op.create_index("ix_forum_topics_thread", "forum_topics", ["group_id", "thread_id"])
    op.create_table(
        "forum_posts",
        sa.Column("id", BIG, nullable=False),
        sa.Column("ticket_id", BIG, nullable=False),
        sa.Column("group_id", BIG, nullable=False),
        sa.Column("thread_id", BIG, nullable=False),
        sa.Column("telegram_id", BIG, nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("lines", STORED_JSON, nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["ticket_id"], ["tickets.id"], name="fk_forum_posts_ticket_id_tickets"),
        sa.PrimaryKeyConstraint("id", name="pk_forum_posts"),
        sa.UniqueConstraint("group_id", "telegram_id", name="uq_forum_posts_group_id"),
    )
    op.create_index("ix_forum_posts_ticket", "forum_posts", ["ticket_id", "id"])
    op.create_table(
        "forum_items",
        sa.Column("id", BIG, nullable=False),
        sa.Column("ticket_id", BIG, nullable=False),
        sa.Column("post_id", BIG, nullable=False),
        sa.Column("message_id", BIG, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["ticket_id"], ["tickets.id"], name="fk_forum_items_ticket_id_tickets"),
        sa.ForeignKeyConstraint(["post_id"], ["forum_posts.id"], name="fk_forum_items_post_id_forum_posts"),
        sa.ForeignKeyConstraint(["message_id"], ["messages.id"], name="fk_forum_items_message_id_messages"),
        sa.PrimaryKeyConstraint("id", name="pk_forum_items"),
    )
    op.create_index("ix_forum_items_ticket", "forum_items", ["ticket_id", "message_id"])
    op.create_index("ix_forum_items_post_id", "forum_items", ["post_id"])
    op.create_index("ix_forum_items_message_id", "forum_items", ["message_id"])
    op.create_table(
        "forum_updates",
        sa.Column("id", BIG, nullable=False),
        sa.Column("external_id", sa.String(length=128), nullable=False),
        sa.Column("lane", sa.String(length=64), nullable=False),
        sa.Column("payload", STORED_JSON, nullable=False),
        sa.Column("received_at", MOMENT, nullable=False),
        sa.Column("done_at", MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_forum_updates"),
        sa.UniqueConstraint("external_id", name="uq_forum_updates_external_id"),
    )
    op.create_index("ix_forum_updates_lane", "forum_updates", ["lane", "done_at", "id"])
    op.create_index("ix_forum_updates_done_at", "forum_updates", ["done_at"])
    op.create_table(
        "forum_words",
        sa.Column("id", BIG, nullable=False),
        sa.Column("group_id", BIG, nullable=False),
        sa.Column("thread_id", BIG, nullable=True),
        sa.Column("reply_to", BIG, nullable=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("buttons", STORED_JSON, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_forum_words"),
    )
    op.create_index("ix_forum_words_group", "forum_words", ["group_id", "id"])
    op.create_table(
        "forum_people",
        sa.Column("telegram_id", BIG, autoincrement=False, nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("linked_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_forum_people_account_id_accounts"),
        sa.PrimaryKeyConstraint("telegram_id", name="pk_forum_people"),
        sa.UniqueConstraint("account_id", name="uq_forum_people_account_id"),
    )
    op.create_table(
        "forum_codes",
        sa.Column("code_hash", sa.String(length=64), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_forum_codes_account_id_accounts"),
        sa.PrimaryKeyConstraint("code_hash", name="pk_forum_codes"),
    )
    op.create_index("ix_forum_codes_account_id", "forum_codes", ["account_id"])


def downgrade() -> None:
    for table in ("codes", "people", "words", "updates", "items", "posts", "topics"):
        op.drop_table(f"forum_{table}")
