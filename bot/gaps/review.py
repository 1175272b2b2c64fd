"""Texts whose right intent an editor should name: those that the model is least sure of, those where intent and search
disagree, tickets whose topic agents corrected, and examples that are probably labelled wrongly. Works inside the
caller's transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from bot.desk.records import AuditEntry
from bot.gaps.acts import Text, elsewhere, give_questions, take_questions, taught, teachable, untaught
from bot.gaps.records import Ended, Gap, GapState, Label, Question
from bot.models.corrections import as_example
from handoff.corrections import corrections
from kb_index.library import Library
from nlu import library
from nlu.errors import StaleExample, UnknownExample, UnknownIntent
from nlu.features import fold
from nlu.label_doubts import LabelDoubt
from nlu.library import NewExample

MOST: Final = 300
"""So many of each kind are looked through."""
SKIP, KEEP, REMOVE = "skip", "keep", "remove"
INTENT, ARTICLE = "intent:", "article:"


class Kind(StrEnum):
    DISAGREE = "disagree"
    """Intent and search point to different articles."""
    UNSURE = "unsure"
    CORRECTED = "corrected"
    """An agent passed the ticket on to another topic."""
    SUSPECT = "suspect"
    """An example whose label is doubted."""


@dataclass(frozen=True)
class Item:
    """key: `question:ID`, `ticket:ID` or `example:ID`. given: the intent that the model or the training data names;
    suggested: another that is likely. text is masked."""

    key: str
    kind: Kind
    text: str
    lang: str
    given: str = ""
    suggested: str = ""
    article_id: str = ""
    topic: str = ""


@dataclass(frozen=True)
class ReviewMeans:
    """What the models know. rank: the likeliest intents of a text with their probabilities, and articles as
    `article:ID`. doubts: of the live version's training data."""

    rank: Callable[[str, str], Awaitable[Sequence[tuple[str, float]]]]
    doubts: Callable[[], Awaitable[Sequence[LabelDoubt]]]


async def _no_ranks(_text: str, _lang: str) -> Sequence[tuple[str, float]]:
    return ()


async def _no_doubts() -> Sequence[LabelDoubt]:
    return ()


NO_MODELS = ReviewMeans(_no_ranks, _no_doubts)


async def waiting(session: AsyncSession, doubts: Sequence[LabelDoubt], kind: Kind | None = None) -> list[Item]:
    """What is offered, the most telling first. The same words are offered once, and never what is labelled."""
    items: list[Item] = []
    if kind in (None, Kind.SUSPECT):
        items += await _suspects(session, doubts)
    if kind in (None, Kind.CORRECTED):
        items += await _corrected(session)
    if kind in (None, Kind.DISAGREE, Kind.UNSURE):
        items += [item for item in await _questions(session) if kind in (None, item.kind)]
    done = set(await session.scalars(select(Label.item).where(Label.undone_at.is_(None))))
    found, seen = [], set()
    for item in items:
        words = fold(item.text)
        if item.key not in done and words and words not in seen:
            seen.add(words)
            found.append(item)
    # Each kind has its turn, so that one that never ends keeps none from being seen.
    turn = Counter[Kind]()
    placed = []
    for at, item in enumerate(found):
        placed.append((turn[item.kind], at, item))
        turn[item.kind] += 1
    return [item for _, _, item in sorted(placed, key=lambda each: each[:2])]


async def _questions(session: AsyncSession) -> list[Item]:
    rows = await session.scalars(
        select(Question)
        .outerjoin(Gap, Gap.id == Question.gap_id)
        .where(
            Question.doubt.is_not(None),
            Question.ended != Ended.BY_INTENT,
            or_(Question.gap_id.is_(None), Gap.state == GapState.OPEN),
        )
        .order_by(Question.disagree.desc(), Question.doubt.desc(), Question.id.desc())
        .limit(MOST)
    )
    items = [
        Item(
            f"question:{row.id}",
            Kind.DISAGREE if row.disagree else Kind.UNSURE,
            teachable(row.text),
            row.lang,
            given=row.intent or "",
            article_id=row.article_id or "",
        )
        for row in rows
    ]
    taught = await library.standing(session, {item.text for item in items})
    return [item for item in items if item.text not in taught]


async def _corrected(session: AsyncSession) -> list[Item]:
    found = await corrections(session, limit=MOST)
    return [
        Item(f"ticket:{each.ticket_id}", Kind.CORRECTED, teachable(as_example(each).text), each.lang, topic=each.topic)
        for each in reversed(found)
    ]


async def _suspects(session: AsyncSession, doubts: Sequence[LabelDoubt]) -> list[Item]:
    standing = await library.standing(session, {doubt.text for doubt in doubts[:MOST]})
    return [
        Item(f"example:{known.id}", Kind.SUSPECT, doubt.text, doubt.lang or "", doubt.intent, doubt.suggested)
        for doubt in doubts[:MOST]
        if (known := standing.get(doubt.text)) and known.intent == doubt.intent
    ]


async def labelled_since(session: AsyncSession, since: datetime) -> int:
    found = select(func.count(Label.id)).where(Label.at >= since, Label.undone_at.is_(None), Label.choice != SKIP)
    return await session.scalar(found) or 0


class Reviewer:
    """One editor at the review."""

    def __init__(self, session: AsyncSession, *, by: str, now: datetime, address: str = "") -> None:
        self._session = session
        self._by = by
        self._now = now
        self._address = address

    async def label(self, item: Item, choice: str, text: str = "") -> Label:
        """Do what the choice says: `intent:NAME`, `article:ID`, `skip`; of an example also `keep` and `remove`.

        text: as the editor has changed it, if he has. Raises UnknownIntent, ExampleRefused, GapActError.
        """
        before: dict[str, Any] = {}
        words = teachable(text or item.text)
        kind, _, number = item.key.partition(":")
        at = {"by": self._by, "at": self._now}
        if kind == "example" and choice not in (SKIP, KEEP):
            example = await library.get_example(self._session, int(number))
            if choice == REMOVE:
                await library.remove_example(self._session, example.id, by=self._by, at=self._now)
                before = {"removed": example.id}
            elif choice.startswith(INTENT):
                moved = await library.move_example(self._session, example.id, choice.removeprefix(INTENT), **at)  # type: ignore[arg-type]
                before = {"moved": [example.id, example.intent, moved.stamp]}
        elif choice.startswith(INTENT):
            added = await library.add_examples(
                self._session,
                choice.removeprefix(INTENT),
                [NewExample(words, item.lang or None)],
                by=self._by,
                at=self._now,
            )
            if added.elsewhere and not added.added:
                raise elsewhere(0, added)
            before = {"added": taught(added)}
        elif choice.startswith(ARTICLE):
            articles = Library(self._session, author=self._by, now=self._now)
            article_id = choice.removeprefix(ARTICLE)
            before = {"questions": [article_id, await give_questions(articles, article_id, [Text(words, item.lang)])]}
        made = Label(item=item.key, choice=choice[:120], by=self._by, at=self._now, before=before)
        self._session.add(made)
        if choice != SKIP:
            self._audit("reviewed", item=item.key, choice=choice)
        await self._session.flush()
        return made

    async def undo(self) -> Label | None:
        """Take back the last label of this editor; None when there is none."""
        last: Label | None = await self._session.scalar(
            select(Label).where(Label.by == self._by, Label.undone_at.is_(None)).order_by(Label.id.desc()).limit(1)
        )
        if last is None:
            return None
        before = last.before
        await untaught(self._session, before.get("added", ()), by=self._by, at=self._now)
        with suppress(UnknownExample, UnknownIntent, StaleExample):  # what another editor did meanwhile stays
            if moved := before.get("moved"):
                example_id, back, stamp = (*moved, None)[:3]  # those of earlier versions have no stamp
                await library.move_example(self._session, example_id, back, by=self._by, at=self._now, stamp=stamp)
            if removed := before.get("removed"):
                await library.restore_example(self._session, removed, by=self._by, at=self._now)
        if given := before.get("questions"):
            articles = Library(self._session, author=self._by, now=self._now)
            await take_questions(articles, given[0], given[1])
        last.undone_at = self._now
        if last.choice != SKIP:
            self._audit("review_undone", item=last.item, choice=last.choice)
        await self._session.flush()
        return last

    def _audit(self, action: str, **details: Any) -> None:
        self._session.add(
            AuditEntry(at=self._now, who=self._by, action=action, details=details, address=self._address[:64])
        )
