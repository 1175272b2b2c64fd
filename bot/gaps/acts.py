"""What an editor does about a group of open messages. Each act is kept with all that it takes to undo it, and has its
line in the audit log. Works inside the caller's transaction.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from bot.desk.records import AuditEntry
from bot.errors import GapActError, NoGapError
from bot.gaps.records import Gap, GapAct, GapState, Question, Settlement
from bot.masking import mask
from kb_index.article_text import change_text, write_article
from kb_index.articles import Article
from kb_index.errors import StaleArticleError
from kb_index.library import Library, Stored
from nlu import library
from nlu.errors import StaleExample, UnknownExample
from nlu.library import Added, NewExample
from nlu.training_data import OUT_OF_SCOPE_INTENTS

MOST_EXAMPLES: Final = 100
MOST_JOINED: Final = 100
_SETTLED_FIELDS: Final = ("state", "settlement", "settled_at", "settled_by", "details", "held")


@dataclass(frozen=True)
class Text:
    """A customer's words as they are to be taught; an editor may have changed them."""

    text: str
    lang: str


class GapActs:
    def __init__(self, session: AsyncSession, *, by: str, now: datetime, address: str = "") -> None:
        self._session = session
        self._by = by
        self._now = now
        self._address = address

    # Settling

    async def make_article(self, gap_id: int, article: Article) -> Stored:
        """A new article, as a draft or published. Raises ArticleError, LibraryError, NoGapError, GapActError."""
        gap = await self._open(gap_id)
        articles = Library(self._session, author=self._by, now=self._now)
        if await articles.versions(article.id):
            raise GapActError(gap_id, "taken", f"there is an article {article.id} already: choose another id")
        article = replace(article, questions=tuple(dict.fromkeys(teachable(text) for text in article.questions)))
        stored = await articles.save(article.id, article.lang, write_article(article), expected_revision=0)
        details = {"article_id": article.id, "lang": article.lang}
        self._settle(gap, Settlement.ARTICLE, details, {"article": [article.id, article.lang, stored.revision]})
        return stored

    async def add_questions(self, gap_id: int, article_id: str, texts: Sequence[Text]) -> int:
        """Give messages to an article as questions that it answers; how many are new to it. Each goes to the version
        in its language, or to the only one there is."""
        gap = await self._open(gap_id)
        self._need_texts(gap_id, texts)
        articles = Library(self._session, author=self._by, now=self._now)
        added = await give_questions(articles, article_id, texts, gap_id)
        details = {"article_id": article_id, "examples": len(added)}
        self._settle(gap, Settlement.QUESTION, details, {"questions": [article_id, added]})
        return len(added)

    async def add_examples(self, gap_id: int, intent: str, texts: Sequence[Text]) -> Added:
        """Give messages to an intent. Raises UnknownIntent, ExampleRefused, NoGapError, GapActError."""
        gap = await self._open(gap_id)
        self._need_texts(gap_id, texts)
        added = await self._teach(intent, texts)
        if added.elsewhere and not added.added and not added.already:
            raise elsewhere(gap_id, added)
        details = {"intent": intent, "examples": len(added.added)}
        self._settle(gap, Settlement.EXAMPLES, details, {"examples": taught(added)})
        return added

    async def out_of_scope(self, gap_id: int, texts: Sequence[Text] = ()) -> None:
        """It is none of the assistant's business. texts: to learn that from; none: only the group is settled.

        Raises UnknownIntent where the training data has no intent for what is out of scope."""
        gap = await self._open(gap_id)
        examples: list[tuple[int, str]] = []
        intent = ""
        if texts:
            names = {each.name for each in await library.find_intents(self._session)}
            intent = next(iter(sorted(names & OUT_OF_SCOPE_INTENTS)), "out_of_scope")
            if not names & OUT_OF_SCOPE_INTENTS:
                await library.create_intent(self._session, intent, metadata={}, by=self._by, at=self._now)
            examples = taught(await self._teach(intent, texts))
        details = {"intent": intent, "examples": len(examples)}
        self._settle(gap, Settlement.OUT_OF_SCOPE, details, {"examples": examples})

    async def dismiss(self, gap_id: int, reason: str) -> None:
        """Nothing is to be done, for a reason that others can read. What comes like it later is dismissed too."""
        gap = await self._open(gap_id)
        reason = " ".join(reason.split())[:500]
        if not reason:
            raise GapActError(gap_id, "no_reason", "say why nothing is to be done")
        self._settle(gap, Settlement.DISMISSED, {"reason": reason}, {})

    async def reopen(self, gap_id: int) -> None:
        """What was done stays done, and the group is worked on again."""
        gap = await self._gap(gap_id)
        if gap.state is not GapState.SETTLED:
            raise GapActError(gap_id, "not_settled", "it is not settled")
        self._keep(gap, "reopen", {"gap": _before(gap)})
        gap.state, gap.settlement, gap.settled_at, gap.settled_by = GapState.OPEN, None, None, None
        gap.details, gap.held = {}, True

    # Shaping

    async def join(self, gap_id: int, others: Sequence[int]) -> None:
        """Put others' messages into this group."""
        gap = await self._open(gap_id)
        others = [each for each in dict.fromkeys(others) if each != gap_id][:MOST_JOINED]
        if not others:
            raise GapActError(gap_id, "no_other", "choose another group to join it with")
        moved: dict[str, list[int]] = {}
        for other_id in others:
            other = await self._open(other_id)
            ids = list(await self._session.scalars(select(Question.id).where(Question.gap_id == other_id)))
            await self._session.execute(update(Question).where(Question.id.in_(ids)).values(gap_id=gap_id))
            other.state, other.joined_into_id = GapState.JOINED, gap_id
            moved[str(other_id)] = ids
        self._keep(gap, "join", {"moved": moved, "held": gap.held}, others=others)
        gap.held = True

    async def split(self, gap_id: int, question_ids: Sequence[int], title: str = "") -> int:
        """Make a group of its own of some messages; its number."""
        gap = await self._open(gap_id)
        mine = list(
            await self._session.scalars(
                select(Question)
                .where(Question.gap_id == gap_id, Question.id.in_(question_ids))
                .order_by(Question.at.desc())
            )
        )
        rest = await self._session.scalar(
            select(Question.id).where(Question.gap_id == gap_id, Question.id.not_in([q.id for q in mine])).limit(1)
        )
        if not mine or rest is None:
            raise GapActError(gap_id, "no_part", "choose some of its messages, and not all")
        title = " ".join(title.split())
        made = Gap(title=(title or mine[0].text)[:200], named=bool(title), held=True, created_at=self._now, details={})
        self._session.add(made)
        await self._session.flush()
        placed = {str(question.id): question.placed for question in mine}
        for question in mine:
            question.gap_id, question.placed = made.id, True
        self._keep(gap, "split", {"made": made.id, "placed": placed, "held": gap.held}, made=made.id)
        gap.held = True
        return int(made.id)

    async def rename(self, gap_id: int, title: str) -> None:
        gap = await self._gap(gap_id)
        title = " ".join(title.split())[:200]
        if not title:
            raise GapActError(gap_id, "no_title", "a name has at least one letter")
        self._keep(gap, "rename", {"title": gap.title, "named": gap.named, "held": gap.held})
        gap.title, gap.named, gap.held = title, True, True

    # Undoing

    async def undo(self, act_id: int) -> GapAct:
        """Take the last act on a group back. Raises GapActError where something else was done to it since."""
        act = await self._session.get(GapAct, act_id)
        if act is None:
            raise NoGapError(0)
        gap = await self._gap(act.gap_id)
        last = await self._session.scalar(
            select(GapAct.id)
            .where(GapAct.gap_id == gap.id, GapAct.undone_at.is_(None))
            .order_by(GapAct.id.desc())
            .limit(1)
        )
        if act.undone_at is not None:
            raise GapActError(gap.id, "undone", "this was taken back already")
        if last != act.id:
            raise GapActError(gap.id, "not_last", "something was done to the group since: take that back first")
        await self._reverse(gap, act)
        act.undone_at, act.undone_by = self._now, self._by
        self._audit(gap.id, "undo", of=act.act)
        return act

    async def _reverse(self, gap: Gap, act: GapAct) -> None:
        before = act.before
        match act.act:
            case "rename":
                gap.title, gap.named, gap.held = before["title"], before["named"], before["held"]
            case "join":
                for other_id, ids in before["moved"].items():
                    other = await self._gap(int(other_id))
                    other.state, other.joined_into_id = GapState.OPEN, None
                    await self._session.execute(
                        update(Question).where(Question.id.in_(ids), Question.gap_id == gap.id).values(gap_id=other.id)
                    )
                gap.held = before["held"]
            case "split":
                made = await self._gap(before["made"])
                if made.state is not GapState.OPEN:
                    raise GapActError(gap.id, "not_last", f"group {made.id} was dealt with since: take that back first")
                for question in await self._session.scalars(select(Question).where(Question.gap_id == made.id)):
                    question.gap_id, question.placed = gap.id, before["placed"].get(str(question.id), False)
                made.state, made.joined_into_id, gap.held = GapState.JOINED, gap.id, before["held"]
            case _:
                await self._unteach(before)
                for name, value in before["gap"].items():
                    setattr(gap, name, _from_json(name, value))

    async def _unteach(self, before: dict[str, Any]) -> None:
        """Take back what a settlement taught, as far as nobody has changed it since."""
        articles = Library(self._session, author=self._by, now=self._now)
        await untaught(self._session, before.get("examples", ()), by=self._by, at=self._now)
        if made := before.get("article"):
            article_id, lang, revision = made
            with suppress(StaleArticleError):  # somebody has worked on it: it is his now
                await articles.set_status(article_id, lang, "archived", expected_revision=revision)
        if given := before.get("questions"):
            article_id, added = given
            await take_questions(articles, article_id, added)

    # Inside

    async def _teach(self, intent: str, texts: Sequence[Text]) -> Added:
        new = [NewExample(teachable(each.text), each.lang) for each in texts]
        return await library.add_examples(self._session, intent, new, by=self._by, at=self._now)

    def _need_texts(self, gap_id: int, texts: Sequence[Text]) -> None:
        if not texts:
            raise GapActError(gap_id, "no_texts", "choose at least one message")
        if len(texts) > MOST_EXAMPLES:
            raise GapActError(
                gap_id, "many_texts", f"choose at most {MOST_EXAMPLES} messages: those alike teach nothing"
            )

    def _settle(self, gap: Gap, how: Settlement, details: dict[str, Any], before: dict[str, Any]) -> None:
        self._keep(gap, how.value, {**before, "gap": _before(gap)}, **details)
        gap.state, gap.settlement, gap.settled_at, gap.settled_by = GapState.SETTLED, how, self._now, self._by
        gap.details, gap.held = details, True

    def _keep(self, gap: Gap, act: str, before: dict[str, Any], **details: Any) -> None:
        self._session.add(GapAct(gap_id=gap.id, act=act, by=self._by, at=self._now, before=before))
        self._audit(gap.id, act, **details)

    def _audit(self, gap_id: int, act: str, **details: Any) -> None:
        self._session.add(
            AuditEntry(
                at=self._now,
                who=self._by,
                action=f"gap_{act}",
                details={"gap": gap_id, **details},
                address=self._address[:64],
            )
        )

    async def _gap(self, gap_id: int) -> Gap:
        gap: Gap | None = await self._session.get(Gap, gap_id, with_for_update=True)
        if gap is None:
            raise NoGapError(gap_id)
        return gap

    async def _open(self, gap_id: int) -> Gap:
        gap = await self._gap(gap_id)
        if gap.state is not GapState.OPEN:
            raise GapActError(gap_id, "settled", "somebody has dealt with it already: look at it again")
        return gap


def taught(added: Added) -> list[tuple[int, str]]:
    """What was added, as it is kept for `untaught`."""
    return [(each.id, each.stamp) for each in added.added]


async def untaught(session: AsyncSession, examples: Sequence[Any], *, by: str, at: datetime) -> None:
    """Remove what `taught` named. What an editor has removed, moved or reworded since is his."""
    for each in examples:
        # Acts of earlier versions know the number alone.
        example_id, stamp = (each, None) if isinstance(each, int) else each
        with suppress(UnknownExample, StaleExample):
            await library.remove_example(session, example_id, by=by, at=at, stamp=stamp)


def elsewhere(gap_id: int, added: Added) -> GapActError:
    """Nothing was taught, because other intents have the words: whoever labels them so has to know."""
    names = ", ".join(sorted({each.intent for each in added.elsewhere}))
    return GapActError(gap_id, "elsewhere", f"{names} has these words already: move them there if they are wrong")


async def give_questions(articles: Library, article_id: str, texts: Sequence[Text], gap_id: int = 0) -> list[list[str]]:
    """Give an article questions, each to the version in its language or else to the first; [language, text] of those
    that it did not have. Raises GapActError where there is no such article."""
    versions = {stored.article.lang: stored for stored in await articles.versions(article_id)}
    if not versions:
        raise GapActError(gap_id, "no_article", f"there is no article {article_id}")
    added: list[list[str]] = []
    for lang, stored in versions.items():
        mine = [t for t in texts if t.lang == lang or (t.lang not in versions and lang == next(iter(versions)))]
        known = {question.casefold() for question in stored.article.questions}
        new = [text for text in dict.fromkeys(teachable(t.text) for t in mine) if text.casefold() not in known]
        if new:
            await _write_questions(articles, article_id, lang, [*stored.article.questions, *new])
            added += [[lang, text] for text in new]
    return added


async def take_questions(articles: Library, article_id: str, added: Sequence[Sequence[str]]) -> None:
    """Take out what `give_questions` added, as far as it still stands there."""
    for stored in await articles.versions(article_id):
        taken = {text for lang, text in added if lang == stored.article.lang}
        kept = [question for question in stored.article.questions if question not in taken]
        if len(kept) < len(stored.article.questions):
            await _write_questions(articles, article_id, stored.article.lang, kept)


async def _write_questions(articles: Library, article_id: str, lang: str, questions: Sequence[str]) -> None:
    present = await articles.revision(article_id, lang)
    text = change_text(present.text, questions=tuple(questions))
    await articles.save(
        article_id, lang, text, expected_revision=present.number, note="customers' questions", minor=True
    )


def teachable(text: str) -> str:
    """Masked, in one line, and without what would be read as the mark of an entity."""
    return re.sub(r"\s+", " ", mask(text)).translate(str.maketrans("[]", "()")).strip()


def _before(gap: Gap) -> dict[str, Any]:
    return {name: _to_json(getattr(gap, name)) for name in _SETTLED_FIELDS}


def _to_json(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _from_json(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name == "settled_at":
        return datetime.fromisoformat(value)
    return {"state": GapState, "settlement": Settlement}.get(name, lambda same: same)(value)
