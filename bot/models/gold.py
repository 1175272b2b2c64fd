"""The questions that versions are compared on: the frozen file, the editors' own, and what customers wrote lately."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from bot.errors import GoldError
from bot.language import LANGUAGES, detect
from bot.masking import mask
from bot.models.evaluation import Question, load_questions, understand_all, verdict_on
from bot.models.gate import Asked, Deed, Source
from bot.models.records import Expecting, GoldQuestion
from bot.models.understanding import Understander
from handoff.records import Author, Conversation, Message
from handoff.routing import Topics
from nlu.aside import Aside

MOST_CHARS = 1000
MOST_QUESTIONS = 5000
LOOKED_AT = 6
"""So many messages are read for each that is replayed: many are buttons and repeat one another."""


@dataclass(frozen=True)
class Frozen:
    """The questions of a file, and its hash, so that two reports can be compared."""

    asked: tuple[Asked, ...]
    path: str
    sha256: str
    left_out: int


def frozen(path: Path, known: Collection[str] | None = None) -> Frozen:
    """Read rows as `otvet evaluate dialogue` does. A missing file has none. known: ids of the articles; a question
    about another one can't be answered here and is left out. Raises QuestionsError."""
    if not path.exists():
        return Frozen((), "", "", 0)
    questions = load_questions(path)
    kept = [
        (number, each)
        for number, each in enumerate(questions)
        if known is None or not each.articles or each.articles & set(known)
    ]
    asked = tuple(
        Asked(
            key=f"gold:{number}",
            text=each.text,
            lang=each.lang or detect(each.text),
            source=Source.GOLD,
            expects=Expecting.ARTICLE if each.articles else Expecting.NOTHING,
            right=tuple(sorted(each.articles)),
        )
        for number, each in kept
    )
    return Frozen(asked, path.name, hashlib.sha256(path.read_bytes()).hexdigest(), len(questions) - len(kept))


@dataclass(frozen=True)
class NewGold:
    text: str
    lang: str
    expects: Expecting
    right: tuple[str, ...] = ()
    protected: bool = True
    note: str = ""


async def add_gold(session: AsyncSession, new: NewGold, *, by: str, at: datetime) -> GoldQuestion:
    """Keep a question, masked; one with the same text is replaced. Raises GoldError."""
    text = mask(" ".join(new.text.split()))
    if not text or len(text) > MOST_CHARS:
        raise GoldError("text", f"a question has 1 to {MOST_CHARS} characters")
    if new.lang not in LANGUAGES:
        raise GoldError("lang", "the language is ru or en")
    if new.expects in (Expecting.ARTICLE, Expecting.INTENT) and not new.right:
        raise GoldError("right", "say which article or intent is right")
    if (await session.scalar(select(func.count(GoldQuestion.id))) or 0) >= MOST_QUESTIONS:
        raise GoldError("text", f"there are {MOST_QUESTIONS} questions already; remove some first")
    await session.execute(delete(GoldQuestion).where(GoldQuestion.text == text, GoldQuestion.lang == new.lang))
    row = GoldQuestion(
        text=text,
        lang=new.lang,
        expects=new.expects,
        right=list(new.right),
        protected=new.protected,
        note=new.note[:500],
        created_by=by,
        created_at=at,
    )
    session.add(row)
    await session.flush()
    return row


async def remove_gold(session: AsyncSession, question_id: int) -> GoldQuestion | None:
    row = await session.get(GoldQuestion, question_id)
    if row is not None:
        await session.delete(row)
        await session.flush()
    return row


async def list_gold(session: AsyncSession) -> Sequence[GoldQuestion]:
    """The protected ones first, the newest first."""
    rows = await session.scalars(select(GoldQuestion).order_by(GoldQuestion.protected.desc(), GoldQuestion.id.desc()))
    return rows.all()


async def own_gold(session: AsyncSession) -> tuple[Asked, ...]:
    return tuple(
        Asked(
            key=f"own:{row.id}",
            text=row.text,
            lang=row.lang,
            source=Source.PROTECTED if row.protected else Source.OWN,
            expects=row.expects,
            right=tuple(row.right),
        )
        for row in await list_gold(session)
    )


async def recent(session: AsyncSession, limit: int) -> tuple[Asked, ...]:
    """The newest distinct messages that the assistant decided on, masked, each with what the customer said of the
    answer: whoever said that it helped has told which article is right."""
    query = (
        select(Message.id, Message.conversation_id, Message.text, Message.decision, Conversation.lang)
        .join(Conversation, Conversation.id == Message.conversation_id)
        .where(
            Message.author == Author.CUSTOMER,
            Message.kind == "text",
            Message.deleted_at.is_(None),
            Message.decision.is_not(None),
        )
        .order_by(Message.id.desc())
        .limit(limit * LOOKED_AT)
    )
    found: dict[tuple[str, str], Asked] = {}
    places: dict[str, tuple[int, int]] = {}
    for message_id, conversation_id, text, decision, lang in await session.execute(query):
        decided = decision or {}
        if "hits" not in decided or decided.get("personal") or not text.strip() or len(text) > MOST_CHARS:
            continue
        masked = mask(text)
        lang = lang if lang in LANGUAGES else detect(masked)
        key = (" ".join(masked.casefold().split()), lang)
        if key not in found and len(found) < limit:
            name = f"message:{message_id}"
            found[key] = Asked(name, masked, lang, Source.REPLAY, message_id=message_id)
            places[name] = (conversation_id, message_id)
    judged = await _judged_by_customers(session, list(places.values()))
    return tuple(_with_word(each, judged.get(places[each.key][1])) for each in found.values())


def _with_word(asked: Asked, word: tuple[str, bool] | None) -> Asked:
    if word is None:
        return asked
    article, helped = word
    return replace(asked, expects=Expecting.ARTICLE, right=(article,)) if helped else replace(asked, wrong=(article,))


async def _judged_by_customers(
    session: AsyncSession, places: Sequence[tuple[int, int]]
) -> Mapping[int, tuple[str, bool]]:
    """Message → the article that it was answered with, and whether the next word of the customer was that it helped."""
    if not places:
        return {}
    after: dict[int, list[tuple[int, Author, Mapping[str, Any]]]] = {}
    query = (
        select(Message.conversation_id, Message.id, Message.author, Message.decision)
        .where(
            Message.conversation_id.in_({conversation for conversation, _ in places}),
            Message.id > min(message for _, message in places),
            Message.decision.is_not(None),
        )
        .order_by(Message.id)
    )
    for conversation_id, message_id, author, decision in await session.execute(query):
        after.setdefault(conversation_id, []).append((message_id, author, decision or {}))
    judged = {}
    for conversation_id, message_id in places:
        article: str | None = None
        for number, author, decision in after.get(conversation_id, ()):
            if number <= message_id:
                continue
            if author is Author.ASSISTANT:
                article = decision.get("article_id") or article
            elif author is Author.CUSTOMER:
                rule = decision.get("rule")
                if article and rule in ("answer_confirmed", "answer_rejected"):
                    judged[message_id] = (article, rule == "answer_confirmed")
                break
    return judged


def ask(asked: Sequence[Asked], understander: Understander, topics: Topics, *, workers: int = 1) -> dict[str, Deed]:
    """What a version does with each question, as the first message of a conversation. Blocks. workers: with two or
    more, a second process is asked one half; for a process that does nothing else."""
    understander.foresee([each.text for each in asked])
    half = len(asked) // 2 if workers > 1 else 0
    first = Aside(lambda: _ask(asked[:half], understander, topics), apart=half > 0)
    rest = _ask(asked[half:], understander, topics)
    return {**first.result(), **rest}


def _ask(asked: Sequence[Asked], understander: Understander, topics: Topics) -> dict[str, Deed]:
    questions = [Question(each.text, each.lang, frozenset(), None, "") for each in asked]
    found = understand_all(questions, understander)
    return {
        each.key: Deed.of(verdict_on(question, understood, understander, topics, tickets=False))
        for each, question, understood in zip(asked, questions, found, strict=True)
    }
