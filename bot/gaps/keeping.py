"""Keeps the gaps up to date: collects, encodes, groups. Groups stay what they are: a new message joins the group that
it is most like or founds one, and what an editor has shaped or settled is never taken apart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray
from sqlalchemy import bindparam, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from bot.gaps.collecting import behind, collect
from bot.gaps.grouping import FloatMatrix, centred, cluster, keep_numbers, place, typical
from bot.gaps.records import Ended, Gap, GapAct, GapScan, GapState, Question
from bot.ledger import Sessions
from nlu.encoder import Encoder
from nlu.features import fold

log = structlog.get_logger()

ENCODED_AT_ONCE: Final = 64
MOST_KNOWN: Final = 100_000
"""So many of the newest messages take part; older ones stay where they are."""
ANEW_AFTER: Final = timedelta(days=1)
ANEW_SHARE: Final = 0.1
"""Everything that no editor has shaped is grouped anew once a day, and when so much of it is new."""


@dataclass(frozen=True)
class Kept:
    """What one round did. `messages` and `groups`: open ones after it."""

    collected: int
    encoded: int
    grouped: int
    messages: int
    groups: int


@dataclass(frozen=True)
class _Member:
    """A message that takes part in the grouping. free: the grouping may move it."""

    id: int
    lang: str
    text: str
    gap_id: int | None
    free: bool


class GapKeeper:
    def __init__(
        self,
        sessions: Sessions,
        *,
        encoder: Callable[[], Encoder],
        means: Callable[[], Mapping[str, FloatMatrix]],
        article_of: Callable[[], Mapping[str, str]],
        clock: Callable[[], datetime],
    ) -> None:
        """means: language → the mean vector of many texts. article_of: intent → its article. They are called in a
        thread: they may load models."""
        self._sessions = sessions
        self._encoder = encoder
        self._means = means
        self._article_of = article_of
        self._clock = clock

    async def keep(self, *, anew: bool = False) -> Kept:
        """One round. anew: also what nobody has shaped is grouped from scratch. One at a time in an installation."""
        collected = await self.collect()
        encoded = await self.encode()
        grouped = await self.group(anew=anew)
        async with self._sessions.reading() as session:
            messages, groups = (await session.execute(_OPEN_COUNTS)).one()
        if collected or grouped:
            log.info("gaps.kept", collected=collected, encoded=encoded, grouped=grouped, groups=groups)
        return Kept(collected, encoded, grouped, messages, groups)

    async def collect(self) -> int:
        """Read the transcripts on to their end; how many questions are new."""
        article_of = await asyncio.to_thread(self._article_of)
        collected = 0
        while True:
            async with self._sessions.begin() as session:
                collected += await collect(session, article_of=article_of)
                if not await behind(session):
                    return collected

    async def encode(self) -> int:
        """Make the vectors that are missing, or are another encoder's; how many. They are kept."""
        encoder = await asyncio.to_thread(self._encoder)
        mark = encoder.fingerprint[:16]
        done = 0
        while True:
            async with self._sessions.reading() as session:
                rows = (
                    await session.execute(
                        select(Question.id, Question.text)
                        .where(
                            Question.ended != Ended.ANSWERED, or_(Question.encoder.is_(None), Question.encoder != mark)
                        )
                        .order_by(Question.id.desc())
                        .limit(ENCODED_AT_ONCE)
                    )
                ).all()
            if not rows:
                return done
            vectors = await asyncio.to_thread(encoder.encode, [fold(text) for _, text in rows])
            async with self._sessions.begin() as session:
                await session.execute(
                    _SET_VECTOR,
                    [
                        {"the_id": row_id, "the_vector": vector.astype(np.float16).tobytes(), "the_mark": mark}
                        for (row_id, _), vector in zip(rows, vectors, strict=True)
                    ],
                )
            done += len(rows)

    async def group(self, *, anew: bool = False) -> int:
        """Put what has vectors into groups; how many messages went to another one."""
        now = self._clock()
        async with self._sessions.reading() as session:
            loose = Question.gap_id.is_(None), Question.vector.is_not(None), Question.ended != Ended.ANSWERED
            if not anew and await session.scalar(select(Question.id).where(*loose).limit(1)) is None:
                return 0
            members, vectors = await _members(session)
            scan = await session.get(GapScan, 1)
        if not members:
            return 0
        new = sum(each.gap_id is None for each in members)
        free = sum(each.free for each in members)
        due = scan is None or scan.grouped_at is None or now - scan.grouped_at > ANEW_AFTER
        anew = anew or due or new > ANEW_SHARE * free
        means = await asyncio.to_thread(self._means)
        moves, titles = await asyncio.to_thread(regroup, members, vectors, means, anew=anew)
        async with self._sessions.begin() as session:
            await _write(session, members, moves, titles, now=now)
            if anew and (scan := await session.get(GapScan, 1)) is not None:
                scan.grouped_at = now
        return len(moves)


def regroup(
    members: Sequence[_Member], vectors: FloatMatrix, means: Mapping[str, FloatMatrix], *, anew: bool
) -> tuple[dict[int, int], dict[int, str]]:
    """Where messages go that are new or that the grouping moves: index of the member → group; a negative number is a
    group to be made. And the titles of all groups that the grouping touched."""
    langs = [each.lang for each in members]
    rows = centred(vectors, langs, means)
    sizes: dict[int, int] = {}
    for each in members:
        if each.gap_id is not None:
            sizes[each.gap_id] = sizes.get(each.gap_id, 0) + 1
    moving = [
        at for at, each in enumerate(members) if each.free and (anew or each.gap_id is None or sizes[each.gap_id] == 1)
    ]
    in_motion = set(moving)
    staying = [at for at in range(len(members)) if at not in in_motion]
    groups = np.array([members[at].gap_id for at in staying], np.int64)

    def of(places: Sequence[int]) -> tuple[FloatMatrix, list[str]]:
        return rows[list(places)], [langs[at] for at in places]

    moves: dict[int, int] = {}
    loose = []
    for at, group in zip(moving, place(*of(moving), *of(staying), groups), strict=True):
        if group is not None:
            moves[at] = group
        else:
            loose.append(at)
    found = cluster(*of(loose))
    matched, _ = keep_numbers(found, [members[at].gap_id for at in loose])
    for at, group in zip(loose, found, strict=True):
        moves[at] = matched.get(int(group), -int(group) - 1)
    touched: dict[int, list[int]] = {group: [] for group in moves.values()}
    for at in staying:
        if members[at].gap_id in touched:
            touched[members[at].gap_id].append(at)  # type: ignore[index]  # staying ones have a group
    for at, group in moves.items():
        touched[group].append(at)
    titles = {group: members[places[typical(rows[places], 1)[0]]].text for group, places in touched.items()}
    return {at: group for at, group in moves.items() if members[at].gap_id != group}, titles


_OPEN_COUNTS = (
    select(func.count(Question.id), func.count(func.distinct(Question.gap_id)))
    .join(Gap, Gap.id == Question.gap_id)
    .where(Gap.state == GapState.OPEN, Question.ended != Ended.ANSWERED)
)
_SET_VECTOR = (
    update(Question.__table__)  # type: ignore[arg-type]
    .where(Question.id == bindparam("the_id"))
    .values(vector=bindparam("the_vector"), encoder=bindparam("the_mark"))
)
_SET_GAP = (
    update(Question.__table__)  # type: ignore[arg-type]
    .where(
        Question.id == bindparam("the_id"),
        Question.placed.is_(False),
        func.coalesce(Question.gap_id, 0) == bindparam("the_before"),
    )
    .values(gap_id=bindparam("the_gap"))
)


async def _members(session: AsyncSession) -> tuple[list[_Member], FloatMatrix]:
    rows = (
        await session.execute(
            select(
                Question.id,
                Question.lang,
                Question.text,
                Question.gap_id,
                Question.placed,
                Gap.held,
                Gap.state,
                Question.vector,
            )
            .outerjoin(Gap, Gap.id == Question.gap_id)
            .where(Question.ended != Ended.ANSWERED, Question.vector.is_not(None))
            .order_by(Question.id.desc())
            .limit(MOST_KNOWN)
        )
    ).all()
    members = [
        _Member(
            row.id,
            row.lang,
            row.text,
            row.gap_id,
            row.gap_id is None or (row.state is GapState.OPEN and not row.held and not row.placed),
        )
        for row in reversed(rows)
    ]
    if not rows:
        return members, np.zeros((0, 1), np.float32)
    vectors: NDArray[np.float32] = np.stack([np.frombuffer(row.vector, np.float16) for row in reversed(rows)]).astype(
        np.float32
    )
    return members, vectors


async def _write(
    session: AsyncSession,
    members: Sequence[_Member],
    moves: Mapping[int, int],
    titles: Mapping[int, str],
    *,
    now: datetime,
) -> None:
    new = {group for group in moves.values() if group < 0}
    made = {group: Gap(title=_title(titles[group]), created_at=now, details={}) for group in new}
    session.add_all(made.values())
    await session.flush()
    # Editors go on while the grouping is worked out.
    named = {group for at, goal in moves.items() for group in (members[at].gap_id, goal) if group and group > 0}
    present = {gap.id: gap for gap in await session.scalars(select(Gap).where(Gap.id.in_(named)))}

    def goal_of(group: int) -> int | None:
        while (gap := present.get(group)) is not None and gap.joined_into_id is not None:
            group = gap.joined_into_id
        return group if group not in named or group in present else None

    def may_leave(group: int | None) -> bool:
        gap = present.get(group or 0)
        return group is None or (gap is not None and gap.state is GapState.OPEN and not gap.held)

    wanted = [
        {"the_id": members[at].id, "the_before": members[at].gap_id or 0, "the_gap": goal}
        for at, group in moves.items()
        if may_leave(members[at].gap_id) and (goal := made[group].id if group < 0 else goal_of(group)) is not None
    ]
    if wanted:
        await session.execute(_SET_GAP, wanted)
    for group, title in titles.items():
        if group > 0:
            await session.execute(
                update(Gap).where(Gap.id == group, Gap.named.is_(False), ~Gap.held).values(title=_title(title))
            )
    # Those that others have taken in, and whose history nobody can ask for.
    filled = select(Question.gap_id).where(Question.gap_id.is_not(None))
    joined = aliased(Gap)
    named_by = select(joined.joined_into_id).where(joined.joined_into_id.is_not(None))
    await session.execute(
        delete(Gap).where(
            Gap.state == GapState.OPEN,
            ~Gap.held,
            Gap.id.not_in(filled),
            Gap.id.not_in(select(GapAct.gap_id)),
            Gap.id.not_in(named_by),
        )
    )


def _title(text: str) -> str:
    return " ".join(text.split())[:200]
