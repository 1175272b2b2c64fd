"""Full-text search in what was said: FTS5 on SQLite, a GIN index on PostgreSQL.

Words are cut to their stems on the side of the query and matched by their beginnings, so that "доставки" finds
"доставка" on both engines alike, whatever language a message is in.
"""

from __future__ import annotations

import re

import Stemmer
from sqlalchemy import DDL, ColumnElement, Index, event, text

from handoff.records import Message

MAX_WORDS = 8
FTS_TABLE = "message_words"
SQLITE_DDL = (
    f"CREATE VIRTUAL TABLE {FTS_TABLE} USING fts5(text, content='messages', content_rowid='id',"
    " tokenize='unicode61 remove_diacritics 2')",
    f"CREATE TRIGGER {FTS_TABLE}_added AFTER INSERT ON messages BEGIN"
    f" INSERT INTO {FTS_TABLE}(rowid, text) VALUES (new.id, new.text); END",
    f"CREATE TRIGGER {FTS_TABLE}_gone AFTER DELETE ON messages BEGIN"
    f" INSERT INTO {FTS_TABLE}({FTS_TABLE}, rowid, text) VALUES ('delete', old.id, old.text); END",
    f"CREATE TRIGGER {FTS_TABLE}_changed AFTER UPDATE OF text ON messages BEGIN"
    f" INSERT INTO {FTS_TABLE}({FTS_TABLE}, rowid, text) VALUES ('delete', old.id, old.text);"
    f" INSERT INTO {FTS_TABLE}(rowid, text) VALUES (new.id, new.text); END",
)
for statement in SQLITE_DDL:
    event.listen(Message.__table__, "after_create", DDL(statement).execute_if(dialect="sqlite"))
Index("ix_messages_words", text("to_tsvector('simple', text)"), postgresql_using="gin", _table=Message.__table__).ddl_if(
    dialect="postgresql"
)


def said(dialect: str, query: str) -> ColumnElement[bool] | None:
    """The condition on messages that say every word of the query; None when it has no words."""
    stems = _stems(query)
    if not stems:
        return None
    if dialect == "sqlite":
        match = " ".join(f'"{stem}"*' for stem in stems)
        return text(f"messages.id IN (SELECT rowid FROM {FTS_TABLE} WHERE {FTS_TABLE} MATCH :said)").bindparams(  # type: ignore[return-value]  # noqa: S608 - a constant
            said=match
        )
    match = " & ".join(f"{stem}:*" for stem in stems)
    return text("to_tsvector('simple', messages.text) @@ to_tsquery('simple', :said)").bindparams(said=match)  # type: ignore[return-value]


def _stems(query: str) -> list[str]:
    words = re.findall(r"\w+", query.lower())[:MAX_WORDS]
    return [_STEMMERS["russian" if re.search("[а-яё]", word) else "english"](word) for word in words]


_STEMMERS = {name: Stemmer.Stemmer(name).stemWord for name in ("russian", "english")}
