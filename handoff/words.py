"""Full-text search in what was said: FTS5 on SQLite, a GIN index on PostgreSQL.

Words are cut to their stems on the side of the query and matched by their beginnings, so that "доставки" finds
"доставка" on both engines alike, whatever language a message is in.
"""

from __future__ import annotations

import re
from typing import Any

import Stemmer
from sqlalchemy import Connection, Index, Select, Table, event, func, literal_column, select, text

from handoff.records import Message

MAX_WORDS = 8
MAX_FOUND = 5000
"""The newest messages that match are enough; a word that stands everywhere finds no more of them."""
SQLITE_DDL = (
    "CREATE VIRTUAL TABLE message_words USING fts5(text, content='messages', content_rowid='id',"
    " tokenize='unicode61 remove_diacritics 2')",
    "CREATE TRIGGER message_words_added AFTER INSERT ON messages BEGIN"
    " INSERT INTO message_words(rowid, text) VALUES (new.id, new.text); END",
    "CREATE TRIGGER message_words_gone AFTER DELETE ON messages BEGIN"
    " INSERT INTO message_words(message_words, rowid, text) VALUES ('delete', old.id, old.text); END",
    "CREATE TRIGGER message_words_changed AFTER UPDATE OF text ON messages BEGIN"
    " INSERT INTO message_words(message_words, rowid, text) VALUES ('delete', old.id, old.text);"
    " INSERT INTO message_words(rowid, text) VALUES (new.id, new.text); END",
)
_VECTOR = func.to_tsvector(literal_column("'simple'"), Message.text)
Index("ix_messages_words", _VECTOR, postgresql_using="gin").ddl_if(dialect="postgresql")


def _index_words(_table: Table, connection: Connection, **_: Any) -> None:
    if connection.dialect.name == "sqlite":
        for statement in SQLITE_DDL:
            connection.exec_driver_sql(statement)


event.listen(Message.__table__, "after_create", _index_words)


def said(dialect: str, query: str) -> Select[int] | None:
    """The conversations in which a message says every word of the query; None when it has no words."""
    stems = _stems(query)
    if not stems:
        return None
    found = select(Message.conversation_id).order_by(Message.id.desc()).limit(MAX_FOUND)
    if dialect == "sqlite":
        matching = text(
            "SELECT rowid FROM message_words WHERE message_words MATCH :said ORDER BY rowid DESC LIMIT :most"
        )
        match = " ".join(f'"{stem}"*' for stem in stems)
        return found.where(Message.id.in_(matching.bindparams(said=match, most=MAX_FOUND)))
    match = " & ".join(f"{stem}:*" for stem in stems)
    return found.where(_VECTOR.bool_op("@@")(func.to_tsquery(literal_column("'simple'"), match)))


def _stems(query: str) -> list[str]:
    words = re.findall(r"[^\W_]+", query.lower())[:MAX_WORDS]
    return [_STEMMERS["russian" if re.search("[а-яё]", word) else "english"](word) for word in words]


_STEMMERS = {name: Stemmer.Stemmer(name).stemWord for name in ("russian", "english")}
