"""What answers customers, changed by people: publish a version, try it out on a share, go back. Each is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from bot.errors import RefusedError
from bot.ledger import Sessions
from bot.models.gate import REPORT, Report
from bot.models.records import Release
from bot.models.training import KNOWLEDGE, Knowledge
from bot.models.understanding import Understander
from bot.turn.turns import Turns
from kb_index.articles import Article
from kb_index.errors import KnowledgeBaseError
from kb_index.library import Library
from nlu.errors import LiveChanged, ModelDamaged
from nlu.models import ModelStore, ModelVersion

log = structlog.get_logger()

_REPORT: Final = "report.json"
"""Beside the files of the version, and none of them: it is made after the version was sealed."""
MOST_REASON: Final = 1000


def save_report(version: ModelVersion, report: Report) -> None:
    write_report(version.path, report)


def write_report(path: Path, report: Report) -> None:
    """Into a version's folder, in place of the one that is there."""
    part = path / f".{_REPORT}"
    part.write_bytes(REPORT.dump_json(report, indent=1))
    part.replace(path / _REPORT)


def load_report(path: Path) -> Report | None:
    """Of a version's folder; None where it was not judged, or by another release."""
    try:
        return REPORT.validate_json((path / _REPORT).read_bytes())
    except (OSError, ValueError):
        return None


def why_refused(report: Report) -> tuple[str, ...]:
    """In English, for the terminal and the log; the pages have words of their own."""
    words = {
        "worse": "worse beyond noise ({test}): {lost} lost, {won} won, p = {p}",
        "protected": "a protected question is broken: “{text}” must lead to {expects} {right}",
        "swapped": "the examples of {one} and {other} look swapped",
    }
    return tuple(words[reason.kind].format(**reason.values) for reason in report.reasons)


@dataclass(frozen=True)
class Published:
    """An article's revisions: `after` is what the release made; `before`, what answered until then or the draft."""

    id: str
    lang: str
    before: int
    after: int


@dataclass(frozen=True)
class Done:
    """What answers now. `left`: articles that were not touched, because somebody has edited them since: since the
    training in a publication, since the publication in a rollback."""

    version: str
    articles: tuple[Published, ...] = ()
    left: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class ModelMeans:
    """What pages about versions need; only processes that may load models have it."""

    store: ModelStore
    releases: Releases
    view: Callable[[str | None, Sequence[Article]], Understander]
    """A version as it would answer with these drafts published; None: the live one. Blocks."""
    turns: Callable[[Callable[[], Understander]], Turns]
    """Turns that ask this understander."""


class Releases:
    """Safe from several processes at once; every process follows within a second."""

    def __init__(
        self, sessions: Sessions, store: ModelStore, clock: Callable[[], datetime], show_changes: Callable[[], None]
    ) -> None:
        """show_changes: let what was changed in the database be found; blocks."""
        self._sessions, self._store, self._clock, self._show_changes = sessions, store, clock, show_changes

    async def publish(self, version_id: str, *, by: str, reason: str = "", gated: bool = True) -> Done:
        """Make a version live for everybody, and publish the articles that it brings.

        gated: only one that the gate let through in comparison with the present live version, or one that was live
        before; with a reason, any. Raises RefusedError, ModelNotFound, ModelDamaged, and LiveChanged where another
        one was published meanwhile; nothing is changed then.
        """
        version = await asyncio.to_thread(self._whole, version_id)
        in_use = self._store.in_use()
        if gated and not reason:
            self.require_accepted(version)
        knowledge = await asyncio.to_thread(Knowledge.load, version.path / KNOWLEDGE) or Knowledge()

        async def record(session: AsyncSession) -> tuple[tuple[Published, ...], tuple[tuple[str, str], ...]]:
            if self._store.live_id() != in_use.live:
                raise LiveChanged("another version was published meanwhile")
            library = Library(session, author=by, now=self._clock())
            published, left = [], []
            waits = {(each.article.id, each.article.lang): each for each in await library.unpublished()}
            for draft in knowledge.drafts if version_id not in in_use.history else ():
                stored = waits.get((draft.id, draft.lang))
                if stored is None:
                    continue  # it was deleted, or is out already
                if stored.article.content_hash != draft.content_hash:
                    # Somebody is writing on: what the gate has judged is not what would be published.
                    left.append((draft.id, draft.lang))
                    continue
                after = await library.set_status(draft.id, draft.lang, "published")
                published.append(Published(draft.id, draft.lang, stored.revision, after.revision))
            self._keep(session, "published", version_id, by, left=in_use.live, reason=reason, articles=published)
            return tuple(published), tuple(left)

        articles, left = await self._in_transaction(record)
        await asyncio.to_thread(self._store.promote, version_id, after=in_use.live)
        if articles:
            await asyncio.to_thread(self._show_changes)
        log.info("model.published", version=version_id, by=by, articles=len(articles), overridden=bool(reason))
        return Done(version_id, articles, left)

    async def try_out(self, version_id: str, share: float, *, by: str, reason: str = "", gated: bool = True) -> Done:
        """Let a version answer a share of the conversations. Raises as `publish`, and ValueError for no share."""
        version = await asyncio.to_thread(self._whole, version_id)
        if gated and not reason:
            self.require_accepted(version)
        live = self._store.live_id()
        await asyncio.to_thread(self._store.try_out, version_id, share)

        async def record(session: AsyncSession) -> None:
            self._keep(session, "tried", version_id, by, left=live, reason=reason, share=share)

        await self._in_transaction(record)
        log.info("model.tried", version=version_id, by=by, share=share)
        return Done(version_id)

    async def end_trial(self, *, by: str) -> str | None:
        """Let the live version answer everybody; returns what was on trial."""
        canary = await asyncio.to_thread(self._store.end_trial)
        if canary is None:
            return None

        async def record(session: AsyncSession) -> None:
            self._keep(session, "ended", canary.id, by, left=canary.id, share=canary.share)

        await self._in_transaction(record)
        log.info("model.trial_ended", version=canary.id, by=by)
        return canary.id

    async def rollback(self, *, by: str, live: str | None = None) -> Done:
        """Make the version live that was live before, and take back the articles that came with the present one, unless
        they were edited since. live: the one that is to go; by default whichever is live.

        Raises ModelNotFound where there is none before, and LiveChanged where another one is live.
        """
        left = live or self._store.live_id()
        version = await asyncio.to_thread(self._store.rollback, after=left)

        async def record(session: AsyncSession) -> tuple[tuple[Published, ...], tuple[tuple[str, str], ...]]:
            release: Release | None = await session.scalar(
                select(Release)
                .where(Release.act == "published", Release.version_id == left)
                .order_by(Release.id.desc())
                .limit(1)
            )
            library = Library(session, author=by, now=self._clock())
            taken, kept = [], []
            for row in release.articles if release is not None else ():
                each = Published(**row)
                try:
                    stored = await library.get(each.id, each.lang)
                except KnowledgeBaseError:
                    continue
                if stored.revision != each.after:
                    kept.append((each.id, each.lang))
                    continue
                back = await library.restore(each.id, each.lang, each.before)
                if back.article.status == "published" and not back.draft:  # what was released was a draft beside it
                    await library.restore(each.id, each.lang, each.after, pending=True)
                taken.append(Published(each.id, each.lang, stored.revision, back.revision))
            self._keep(session, "rolled_back", version.id, by, left=left, articles=taken)
            return tuple(taken), tuple(kept)

        articles, untouched = await self._in_transaction(record)
        if articles:
            await asyncio.to_thread(self._show_changes)
        log.info("model.rolled_back", version=version.id, left=left, by=by)
        return Done(version.id, articles, untouched)

    def require_accepted(self, version: ModelVersion) -> None:
        """Raises RefusedError."""
        in_use = self._store.in_use()
        if version.id in in_use.history or in_use.live is None:
            return
        report = load_report(version.path)
        if report is None or report.against != in_use.live:
            raise RefusedError(version.id, ())
        if not report.accepted:
            raise RefusedError(version.id, why_refused(report))

    async def history(self, session: AsyncSession, limit: int = 50) -> Sequence[Release]:
        """The newest first."""
        return (await session.scalars(select(Release).order_by(Release.id.desc()).limit(limit))).all()

    def _whole(self, version_id: str) -> ModelVersion:
        version = self._store.show(version_id)
        self._store.verify(version)
        if not (version.path / "policy.json").exists():
            raise ModelDamaged(f"model version {version_id} has no thresholds. Train again.")
        return version

    def _keep(
        self,
        session: AsyncSession,
        act: str,
        version_id: str,
        by: str,
        *,
        left: str | None,
        reason: str = "",
        share: float | None = None,
        articles: Sequence[Published] = (),
    ) -> None:
        session.add(
            Release(
                at=self._clock(),
                who=by,
                act=act,
                version_id=version_id,
                left_id=left,
                share=share,
                reason=reason[:MOST_REASON],
                articles=[vars(each) for each in articles],
            )
        )

    async def _in_transaction(self, work: Callable[[AsyncSession], Awaitable[Any]]) -> Any:
        async with self._sessions.begin() as session:
            return await work(session)
