"""The composition root: alone in reading settings and choosing implementations."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from bot.addresses import Allowed
from bot.article_means import ArticleMeans
from bot.assistant import Assistant
from bot.attachments import AttachmentStore, StoredFile
from bot.bucket import Bucket
from bot.channels.base import Channel
from bot.channels.site import SiteChannel
from bot.channels.telegram_limits import CAPABILITIES as TELEGRAM
from bot.channels.whatsapp import WINDOW, WhatsAppChannel
from bot.database import migrate, open_database
from bot.demo_shop import DemoShop
from bot.desk.accounts import Accounts
from bot.desk.agent_desk import AgentDesk
from bot.desk.elsewhere import ELSEWHERE
from bot.desk.feed import DeskFeed
from bot.desk.macros import load_starters
from bot.desk.nps import NPS
from bot.desk.outgoing import OUTGOING, fire_outgoing
from bot.desk.shifts import SHIFTS, Shifts
from bot.desk.silence import SILENCE
from bot.desk.survey import SURVEY
from bot.email_proof import EmailProof
from bot.erasure.erasing import ERASE, Eraser
from bot.erasure.export import Exporter
from bot.erasure.leftovers import Leftovers
from bot.erasure.retention import RETENTION, Retention
from bot.errors import DeliveryError, SettingsError
from bot.flows.check import Known
from bot.flows.format import Flow
from bot.flows.library import FlowBase
from bot.flows.lookup_format import SECRET_PREFIX, LookupFile, read_lookups
from bot.flows.lookups import Lookups
from bot.flows.means import FlowMeans
from bot.flows.proof import Proofs
from bot.flows.stories import Stage, load_stories
from bot.flows.timers import FLOW, FlowTimers
from bot.flows.turns import FlowBook
from bot.forum.people import ForumPeople
from bot.forum.records import INTAKE
from bot.gaps.keeping import GapKeeper
from bot.gaps.review import ReviewMeans
from bot.helpdesk import POLL, SYNC, HelpDeskSync
from bot.hooks import HOOK, HookReceiver, Hooks
from bot.ledger import PURGE, Sessions, purge
from bot.message_templates import MessageTemplates, load_templates
from bot.model_wiring import ModelWiring, shipped_data, utc_now
from bot.models.releases import ModelMeans, Releases
from bot.models.training import read_doubts
from bot.models.training_jobs import Jobs
from bot.models.understanding import Understander
from bot.monitor import Monitor
from bot.notifications import NOTIFY, UNASSIGNED, Notices
from bot.replies import Replies
from bot.settings import lookup_secrets
from bot.shared import LocalShared, Shared
from bot.timers import TICK_SECONDS, Timers
from bot.transcriber import CommandTranscriber, HttpTranscriber, Transcriber
from bot.turn.turns import Turns
from bot.uploads import StoredUploads
from bot.web.desk_base import ArticleOffer, DeskWeb
from bot.web.studio_base import StudioWeb
from bot.web.webhooks import HelpDeskHook, TelegramHook, Webhooks, WhatsAppHook
from bot.whatsapp_record import PRUNE, WhatsAppRecord, pruning
from bot.window import CLOSING, Windows
from handoff.django_helpdesk import DjangoHelpdesk
from handoff.helpdesk import HelpDesk
from handoff.hours import Interval, WorkingHours
from handoff.policy import DeskPolicy, load_policy
from handoff.tickets import Tickets
from kb_index.articles import ArticleFile
from kb_index.library import published_hashes

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from bot.forum.forum import Forum
    from bot.forum.intake import ForumIntake
    from handoff.records import HistoryEntry, Ticket
from nlu.label_doubts import LabelDoubt

log = structlog.get_logger()

RELOAD_SECONDS = 0.25
"""How often every process looks for another model or index: two small files."""
ARTICLES_SECONDS = 20.0
FORUM_TICK_SECONDS = 0.25
"""Agents in Telegram wait for what their messages lead to."""
GAPS_SECONDS = 20.0
"""How often it is looked for what the assistant did not settle."""
FLOWS_SECONDS = 2.0
"""How often every process looks whether flows were published: one small row."""
DESK_SECONDS = 5.0
"""How often it is looked whom a waiting ticket can be given to, and which clocks are due."""


@dataclass(frozen=True)
class Database:
    engine: AsyncEngine
    sessions: Sessions


class Installation(ModelWiring):
    """One OTVET_VAR with its settings: makes every part on demand, each once."""

    alone = True
    """Whether this process does everything itself, so that there is no other to hear from."""

    @cached_property
    def desk_policy(self) -> DeskPolicy:
        """How people work: desk.yml of the data over the settings."""
        interval = Interval(self.settings.opens, self.settings.closes)
        default = WorkingHours({int(day) - 1: (interval,) for day in self.settings.work_days}, self.zone)
        return load_policy(self.data / "desk.yml", default)

    @cached_property
    def hours(self) -> WorkingHours:
        return self.desk_policy.schedules["default"]

    @cached_property
    def common_values(self) -> dict[str, dict[str, Any]]:
        """Language → what every reply and every text of a flow may name."""
        return {
            lang: {
                "shop": shop,
                "hours": self.hours.describe(lang),
                "privacy_url": self.settings.privacy_url,
                "first_reply_minutes": self.topics.default.expected_minutes,
            }
            for lang, shop in (("ru", self.settings.shop_ru), ("en", self.settings.shop_en))
        }

    @cached_property
    def replies(self) -> Replies:
        folders = dict.fromkeys(path for path in (self.data / "replies", shipped_data() / "replies") if path.is_dir())
        return Replies(tuple(folders), self.common_values)

    @property
    def flows_folder(self) -> Path:
        return self.data / "flows"

    def flows_known(self, folder: Path | None = None) -> Known:
        """What flows may name. folder: of the flows, for their pictures."""
        outcomes = self.seed.outcomes
        return Known(
            articles={article.id for article in self.seed.articles.articles},
            topics=set(self.topics.all),
            lookups=self.lookup_file.names,
            pictures=(folder or self.flows_folder) / "pictures",
            common=set(self.common_values["en"]),
            intents={intent: outcome.flow for intent, outcome in outcomes.items() if outcome.flow},
        )

    def flow_stage(self, flows: Mapping[str, Flow], *, live: bool = False) -> Stage:
        """Where scripted conversations are played. live: the live model understands what no story explains."""
        understander = self.understander() if live else None
        titles = {article.id: article.title for article in self.seed.articles.articles}
        return Stage(
            book=FlowBook(flows, common=self.common_values, zone=self.zone),
            replies=self.replies,
            outcomes=self.seed.outcomes,
            now=utc_now(),
            articles=titles,
            understand=(lambda text, lang: understander.understand(text, lang).parts) if understander else None,
        )

    @property
    def zone(self) -> ZoneInfo:
        """Of the shop's days and hours."""
        return ZoneInfo(self.settings.timezone)

    @cached_property
    def flow_base(self) -> FlowBase:
        return FlowBase(
            url=self.settings.database,
            folder=self.flows_folder,
            common=self.common_values,
            clock=utc_now,
            progress=self.progress,
            zone=self.zone,
        )

    @property
    def flows(self) -> FlowBook:
        """The flows that may be run. Blocks the first time."""
        return self.flow_base.book

    async def follow_flows(self) -> None:
        """Keep up with flows that any process publishes, until cancelled."""
        while True:
            try:
                if await self.flow_base.refresh(self.database.sessions):
                    log.info("flows.changed", flows=len(self.flows.flows))
            except Exception:
                # Edge: the flows in use go on.
                log.exception("flows.refresh_failed")
            await asyncio.sleep(FLOWS_SECONDS)

    @cached_property
    def lookup_file(self) -> LookupFile:
        """What flows may look up. Raises LookupFileError."""
        return read_lookups(self.data / "lookups.yml")

    @cached_property
    def demo_shop(self) -> DemoShop | None:
        """The shop that the demo's lookups ask; it answers while its `run` does."""
        seed = self.data / "shop" / "demo.yml"
        if not (self.settings.demo_shop and self.lookup_file.wants_demo and seed.exists()):
            return None
        return DemoShop(seed, self.settings.var / "demo-shop.sqlite3", zone=self.zone)

    @cached_property
    def lookups(self) -> Lookups:
        """Raises LookupFileError for a server that may not be called or a secret that is not set."""
        settings, demo = self.settings, self.demo_shop
        private = settings.lookup_private_hosts.split(",")
        secrets = lookup_secrets()
        return Lookups(
            self.lookup_file,
            allowed=Allowed.of(settings.lookup_hosts.split(","), [*private, demo.host] if demo else private),
            secrets={f"{SECRET_PREFIX}SHOP_TOKEN": demo.token, **secrets} if demo else secrets,
            shared=self.shared,
            clock=utc_now,
            proofs=Proofs(self.database.sessions, utc_now),
            demo=demo.url if demo else None,
            zone=self.zone,
        )

    @cached_property
    def email_proof(self) -> EmailProof | None:
        """How customers of the site chat prove an e-mail; None without a mail server. Raises SettingsError."""
        if not (mail := self.settings.mail.get_secret_value()):
            return None
        return EmailProof(
            mail=mail,
            proofs=Proofs(self.database.sessions, utc_now),
            customers=self.agent_desk().customers,
            replies=self.replies,
            sessions=self.database.sessions,
            clock=utc_now,
        )

    @cached_property
    def attachments(self) -> AttachmentStore:
        return AttachmentStore(
            self.settings.var / "attachments", self.settings.max_attachment_mb * 1024 * 1024, self.bucket
        )

    @cached_property
    def bucket(self) -> Bucket | None:
        """Where attachments are kept, if not in OTVET_VAR. Raises SettingsError."""
        settings = self.settings
        if not settings.attachments_bucket:
            return None
        return Bucket(
            settings.attachments_bucket,
            endpoint=settings.s3_endpoint,
            region=settings.s3_region,
            key=settings.s3_key.get_secret_value(),
            secret=settings.s3_secret.get_secret_value(),
        )

    @cached_property
    def transcriber(self) -> Transcriber | None:
        """What reads voice messages, if anything does. Raises SettingsError."""
        settings = self.settings
        if settings.transcriber_command:
            return CommandTranscriber(settings.transcriber_command, seconds=settings.transcriber_seconds)
        if not settings.transcriber_url:
            return None
        return HttpTranscriber(
            settings.transcriber_url,
            token=settings.transcriber_token.get_secret_value(),
            model=settings.transcriber_model,
            seconds=settings.transcriber_seconds,
        )

    @cached_property
    def database(self) -> Database:
        return Database(*open_database(self.settings.database))

    @cached_property
    def shared(self) -> Shared:
        """What the processes of the installation share for the moment; without Redis each has its own."""
        if url := self.settings.redis_url.get_secret_value():
            from bot.shared_redis import RedisShared

            return RedisShared(url)
        return LocalShared(alone=self.alone)

    async def migrate(self) -> None:
        self._refuse_half_restored()
        await migrate(self.database.engine)

    @property
    def own_data(self) -> Path | None:
        """The data folder, where it is the operator's own and not the demo that ships."""
        return None if self.data.resolve() == shipped_data().resolve() else self.data

    @property
    def restored_data(self) -> Path | None:
        """Where a backup's data folder goes: to OTVET_DATA while nothing is there."""
        folder = self.settings.data
        return None if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) else folder

    @cached_property
    def releases(self) -> Releases:
        return Releases(self.database.sessions, self.store, utc_now, self.show_changes)

    async def run_trainings(self) -> None:
        """Start what is asked for in the background, in one process of all, until cancelled."""
        await self.database.sessions.work.exclusively("training", Jobs(self.database.sessions, utc_now).run)

    async def follow(self) -> None:
        """Keep up with promotions, rollbacks and edited articles of any process, until cancelled. What nobody has
        asked for yet is not loaded: a process with pages alone can do without models until somebody tries one."""
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            try:
                await asyncio.to_thread(self.reload if self._live is not None else self.reload_index)
            except Exception:
                # Edge: the version in use goes on answering.
                log.exception("model.reload_failed")

    async def follow_articles(self) -> None:
        """Bring the index up to date when stored articles change, or begin or cease to be valid; until cancelled."""
        known: dict[tuple[str, str], str] | None = None
        while True:
            try:
                async with self.database.sessions.begin() as session:
                    present = await published_hashes(session, self.articles.clock(), audiences=self.articles.audiences)
                if known is not None and present != known:
                    await asyncio.to_thread(self.sync_index)
                known = present
            except Exception:
                # Edge: the index in use goes on answering, and the next look tries again.
                log.exception("articles.sync_failed")
            await asyncio.sleep(ARTICLES_SECONDS)

    def monitor(self, channels: Sequence[Channel], *, answers: bool) -> Monitor:
        """answers: whether this process runs turns, and so needs the models."""
        return Monitor(
            sessions=self.database.sessions,
            clock=utc_now,
            channels=[channel.name for channel in channels],
            listeners=self.shared.listeners,
            model=(lambda: self._live.version if self._live else None) if answers else None,
        )

    @cached_property
    def tickets(self) -> Tickets:
        tickets = Tickets(self.desk_policy, self.topics)
        tickets.history.listeners.append(self._notices_of(tickets).heard)
        if self.settings.hook_url:
            tickets.history.listeners.append(self.hooks.heard)
        if self.settings.helpdesk:
            tickets.history.listeners.append(self._help_desk_of(tickets).heard)
        if self.settings.forum_groups:
            tickets.history.listeners.append(self._forum_heard)
        return tickets

    @cached_property
    def shifts(self) -> Shifts:
        return Shifts(tickets=self.tickets, notices=self._notices_of(self.tickets), replies=self.replies, clock=utc_now)

    @cached_property
    def hooks(self) -> Hooks:
        """The address of the settings that is told what happens."""
        settings = self.settings
        return Hooks(
            url=settings.hook_url,
            secret=settings.hook_secret.get_secret_value(),
            sessions=self.database.sessions,
            clock=utc_now,
            events=[event.strip() for event in settings.hook_events.split(",") if event.strip()],
            private=settings.hook_private,
        )

    @cached_property
    def help_desk(self) -> HelpDesk:
        """The help desk of the settings. Raises SettingsError for what it needs besides."""
        settings = self.settings
        for name in ("url", "user", "password"):
            value = getattr(settings, f"helpdesk_{name}")
            if not (value if isinstance(value, str) else value.get_secret_value()):
                raise SettingsError(f"OTVET_HELPDESK_{name.upper()}: a help desk needs it")
        return DjangoHelpdesk(
            settings.helpdesk_url,
            settings.helpdesk_user,
            settings.helpdesk_password.get_secret_value(),
            settings.helpdesk_queue,
        )

    def _help_desk_of(self, tickets: Tickets) -> HelpDeskSync:
        settings = self.settings
        return HelpDeskSync(
            help_desk=self.help_desk,
            desk=AgentDesk(
                tickets=tickets, replies=self.replies, clock=utc_now, phone_region=settings.phone_region, zone=self.zone
            ),
            sessions=self.database.sessions,
            attachments=self.attachments,
            clock=utc_now,
            agent=settings.helpdesk_agent,
            teams=[team.strip() for team in settings.helpdesk_teams.split(",") if team.strip()],
            poll=timedelta(seconds=settings.helpdesk_poll_seconds),
        )

    def _notices_of(self, tickets: Tickets, clock: Callable[[], datetime] = utc_now) -> Notices:
        return Notices(tickets=tickets, replies=self.replies, clock=clock, sessions=self.database.sessions)

    def agent_desk(self, clock: Callable[[], datetime] = utc_now) -> AgentDesk:
        capabilities = {
            "telegram": TELEGRAM,
            "whatsapp": WhatsAppChannel.capabilities,
            "site": SiteChannel.capabilities,
        }
        return AgentDesk(
            tickets=self.tickets,
            replies=self.replies,
            clock=clock,
            phone_region=self.settings.phone_region,
            capabilities=capabilities,
            notices=self._notices_of(self.tickets, clock),
            zone=self.zone,
        )

    async def _forum_heard(self, session: AsyncSession, ticket: Ticket, entry: HistoryEntry) -> None:
        await self.forum.heard(session, ticket, entry)

    @cached_property
    def forum(self) -> Forum:
        """The agents' groups in Telegram. Raises SettingsError for what they need besides."""
        # aiogram takes seconds to import, and most installations have no such groups.
        from bot.channels.telegram import TelegramChannel
        from bot.channels.telegram_forum import ForumApi
        from bot.forum.forum import Forum
        from bot.forum.groups import parse_groups

        settings = self.settings
        if not (token := settings.telegram_token.get_secret_value()):
            raise SettingsError("OTVET_TELEGRAM_TOKEN: OTVET_FORUM_GROUPS needs the bot of these groups")
        channel = TelegramChannel(
            token, api_base=settings.telegram_api, proxy=settings.telegram_proxy, uploads=self.uploads
        )
        if settings.forum_bot and settings.forum_bot not in channel.accounts:
            raise SettingsError(f"OTVET_FORUM_BOT: the bot {settings.forum_bot} is not among OTVET_TELEGRAM_TOKEN")
        groups = parse_groups(settings.forum_groups)
        teams = {topic.team for topic in self.topics.all.values()} | set(self.desk_policy.teams)
        if unknown := sorted(frozenset[str]().union(*(group.teams for group in groups)) - teams):
            raise SettingsError(
                f"OTVET_FORUM_GROUPS: there is no team {', '.join(unknown)}; known are {', '.join(sorted(teams))}"
            )
        return Forum(
            api=ForumApi(channel, settings.forum_bot),
            desk=self.agent_desk(),
            sessions=self.database.sessions,
            attachments=self.attachments,
            clock=utc_now,
            shared=self.shared,
            groups=groups,
            zone=self.zone,
            lang=settings.forum_lang,
        )

    @cached_property
    def forum_intake(self) -> ForumIntake:
        from bot.forum.intake import ForumIntake

        return ForumIntake(
            forum=self.forum,
            desk=self.agent_desk(),
            accounts=self.accounts,
            people=self.forum_people,
            sessions=self.database.sessions,
            attachments=self.attachments,
            clock=utc_now,
            shared=self.shared,
            shop={"ru": self.settings.shop_ru, "en": self.settings.shop_en},
        )

    @cached_property
    def eraser(self) -> Eraser:
        return Eraser(
            tell=self.hooks.erased if self.settings.hook_url else None,
            calls_kept=timedelta(days=self.settings.webhook_days),
        )

    @cached_property
    def exporter(self) -> Exporter:
        return Exporter(sessions=self.database.sessions, attachments=self.attachments, clock=utc_now)

    @cached_property
    def leftovers(self) -> Leftovers:
        """What finishes an erasure outside of the database."""
        return Leftovers(
            engine=self.database.engine,
            sessions=self.database.sessions,
            attachments=self.attachments,
            clock=utc_now,
            models=self.settings.var / "models",
            topics=(lambda: self.forum.api) if self.settings.forum_groups else None,
        )

    @cached_property
    def retention(self) -> Retention:
        days = self.settings.retention_days
        return Retention(eraser=self.eraser, sessions=self.database.sessions, clock=utc_now, days=days)

    async def finish_erasures(self) -> int:
        """Do the errands of erasures that are due; how many erasures are not finished then."""
        timers = Timers(self.database.sessions, utc_now)
        timers.register_errand(ERASE, self.leftovers.do)
        await timers.run_errands()
        return await timers.waiting(ERASE)

    async def forum_bot(self) -> str:
        """The name of the bot in the agents' groups; empty while Telegram can't be reached."""
        with contextlib.suppress(DeliveryError):
            return await self.forum.api.username()
        return ""

    @cached_property
    def forum_people(self) -> ForumPeople:
        return ForumPeople(self.accounts, utc_now)

    @cached_property
    def uploads(self) -> StoredUploads:
        return StoredUploads(self.database.sessions, utc_now)

    @cached_property
    def accounts(self) -> Accounts:
        folders = (self.data, shipped_data())
        path = next((path for folder in folders if (path := folder / "macros.yml").exists()), self.data / "macros.yml")
        return Accounts(self.database.sessions, self.shared, utc_now, load_starters(path))

    def desk_web(self, site: SiteChannel) -> DeskWeb:
        """The web desk's own parts; `feed` has to be run."""
        return DeskWeb(
            sessions=self.database.sessions,
            accounts=self.accounts,
            desk=self.agent_desk(),
            feed=DeskFeed(self.database.sessions),
            site=site,
            shared=self.shared,
            clock=utc_now,
            shop={"ru": self.settings.shop_ru, "en": self.settings.shop_en},
            zone=self.zone,
            templates=self.templates,
            articles=self.find_articles,
            flows=lambda lang: [(flow.id, flow.title(lang)) for flow in self.flows.flows.values()],
            forum_people=self.forum_people if self.settings.forum_groups else None,
            forum_bot=self.forum_bot if self.settings.forum_groups else None,
            eraser=self.eraser,
            exporter=self.exporter,
        )

    def studio_web(self, desk: DeskWeb) -> StudioWeb:
        means = ModelMeans(self.store, self.releases, self.view, self._playing_turns)
        review = ReviewMeans(self.rank_intents, self.label_doubts)
        return StudioWeb(desk=desk, articles=self.article_means, models=means, flows=self.flow_means, review=review)

    async def rank_intents(self, text: str, lang: str) -> list[tuple[str, float]]:
        """What a text may mean by the live version; nothing while there is none."""
        if self.store.live_id() is None:
            return []
        return await asyncio.to_thread(lambda: self.understander().rank(text, lang))

    async def label_doubts(self) -> tuple[LabelDoubt, ...]:
        """Of the live version's training data."""
        if (version := self.store.live_id()) is None:
            return ()
        return await asyncio.to_thread(read_doubts, self.store.show(version).path)

    @cached_property
    def article_means(self) -> ArticleMeans:
        return ArticleMeans(
            files=self.articles.files,
            incoming=self.settings.var / "incoming",
            clock=self.articles.clock,
            audiences=sorted(self.articles.audiences),
            replies=self.replies,
            index=lambda: self.understander().index if self.store.live_id() is not None else None,
            changed=self.show_changes,
        )

    def _playing_turns(self, understander: Callable[[], Understander]) -> Turns:
        """An editor who plays a customer sees no orders of real ones."""
        return self.turns(understander, looks_up=False)

    @property
    def flow_means(self) -> FlowMeans:
        return FlowMeans(
            book=lambda: self.flows,
            known=self.flows_known,
            stage=self.flow_stage,
            stories=lambda: load_stories(self.flows_folder / "tests")[0],
            changed=self.flow_base.refresh,
        )

    async def find_articles(self, words: str, lang: str, limit: int) -> list[ArticleOffer]:
        """What the knowledge base has for an agent; nothing while this process has no model."""
        if self.store.live_id() is None:
            return []
        return await asyncio.to_thread(self._find_articles, words, lang, limit)

    def _find_articles(self, words: str, lang: str, limit: int) -> list[ArticleOffer]:
        understander = self.understander()
        found = []
        for hit in understander.search(words, lang, limit):
            whole = understander.candidate(hit.article_id, lang, whole=True)
            if whole is not None:
                found.append(ArticleOffer(hit.article_id, whole.title, whole.text, hit.confidence))
        return found

    async def run_desk(self) -> None:
        """Give tickets out and speak of their clocks, in one process of all, until cancelled."""
        desk = self.agent_desk()

        async def work() -> None:
            while True:
                try:
                    async with self.database.sessions.begin() as session:
                        raised = await desk.tick(session)
                    for alarm in raised:
                        log.warning(
                            "ticket.clock",
                            ticket=alarm.ticket.id,
                            clock=alarm.kind,
                            alarm=alarm.alarm,
                            level=alarm.level,
                        )
                except Exception:
                    # Edge: a fault of one round must not end the next.
                    log.exception("desk.failed")
                await asyncio.sleep(DESK_SECONDS)

        await self.database.sessions.work.exclusively("desk", work)

    @cached_property
    def gap_keeper(self) -> GapKeeper:
        """Collects and groups what the assistant did not settle."""

        def article_of() -> dict[str, str]:
            if self.store.live_id() is None:
                return {}
            outcomes = self.understander().outcomes
            return {intent: outcome.article for intent, outcome in outcomes.items() if outcome.article}

        return GapKeeper(
            self.database.sessions,
            encoder=lambda: self.encoder,
            means=lambda: self.language_means,
            article_of=article_of,
            clock=utc_now,
        )

    async def run_gaps(self) -> None:
        """Keep the gaps up to date, in one process of all, until cancelled."""

        async def work() -> None:
            while True:
                try:
                    await self.gap_keeper.keep()
                except Exception:
                    # Edge: a fault of one round must not end the next.
                    log.exception("gaps.failed")
                await asyncio.sleep(GAPS_SECONDS)

        await self.database.sessions.work.exclusively("gaps", work)

    async def _stored_picture(self, file: ArticleFile) -> StoredFile:
        """A picture of an article among the files that messages have. Raises OSError, TooLargeError."""

        async def chunks() -> AsyncIterator[bytes]:
            yield await asyncio.to_thread(self.articles.files.path(file.sha256).read_bytes)

        return await self.attachments.store(chunks(), Path(file.target).name)

    async def _flow_picture(self, name: str) -> StoredFile:
        """A picture of a flow in the same way. Raises OSError, TooLargeError."""

        async def chunks() -> AsyncIterator[bytes]:
            yield await asyncio.to_thread((self.flows_folder / "pictures" / name).read_bytes)

        return await self.attachments.store(chunks(), name)

    def turns(
        self,
        understander: Callable[[], Understander] | None = None,
        clock: Callable[[], datetime] = utc_now,
        *,
        looks_up: bool = True,
    ) -> Turns:
        """understander: by default the live version. looks_up: whether flows may ask other systems."""
        self.flows  # noqa: B018 - read before anything waits for it
        return Turns(
            understander=understander or self.understander,
            replies=self.replies,
            agent_desk=self.agent_desk(clock),
            clock=clock,
            limit_mb=self.settings.max_attachment_mb,
            stored=self._stored_picture,
            flows=lambda: self.flows,
            flow_picture=self._flow_picture,
            lookups=self.lookups if looks_up else None,
            # Threads that wait for one another's interpreter lock slow all down; those that wait for Rasa don't.
            model_threads=None if self.settings.nlu_engine == "rasa" else max(1, (os.cpu_count() or 1) // 2),
        )

    def assistant(self, channels: Sequence[Channel], clock: Callable[[], datetime] = utc_now) -> Assistant:
        return Assistant(
            sessions=self.database.sessions,
            turns=self.turns(clock=clock),
            channels=channels,
            attachments=self.attachments,
            clock=clock,
            windows=self.windows,
            transcriber=self.transcriber,
            gather_seconds=self.settings.gather_seconds,
            max_text_chars=self.settings.max_text_chars,
            shared=self.shared,
        )

    def in_groups(self, lang: str, link: str) -> str:
        """What the bot says in a group, where it answers nobody."""
        return self.replies.render("only_private", lang if lang in ("ru", "en") else "en", {"link": link})

    @cached_property
    def templates(self) -> MessageTemplates:
        folders = (self.data, shipped_data())
        return load_templates(next((path for f in folders if (path := f / "templates.yml").exists()), self.data))

    @cached_property
    def windows(self) -> Windows:
        return Windows(
            lengths={"whatsapp": WINDOW},
            templates=self.templates,
            replies=self.replies,
            shop={"ru": self.settings.shop_ru, "en": self.settings.shop_en},
            clock=utc_now,
            zone=self.zone,
        )

    @cached_property
    def timers(self) -> Timers:
        self.flows  # noqa: B018 - read before anything waits for it
        tick = FORUM_TICK_SECONDS if self.settings.forum_groups else TICK_SECONDS
        timers = Timers(self.database.sessions, utc_now, tick_seconds=tick)
        timers.register(CLOSING, self.windows.remind)
        timers.register(PURGE, purge, standing=True)
        timers.register(PRUNE, pruning(timedelta(days=self.settings.webhook_days)), standing=True)
        timers.register(FLOW, FlowTimers(flows=lambda: self.flows, replies=self.replies).fire)
        timers.register(SURVEY, self.agent_desk().survey.fire)
        timers.register(NPS, self.agent_desk().nps.fire)
        timers.register(ELSEWHERE, self.agent_desk().elsewhere.fire)
        timers.register(SILENCE, self.agent_desk().silence.fire)
        notices = self._notices_of(self.tickets)
        timers.register(UNASSIGNED, notices.fire_unassigned)
        timers.register_errand(NOTIFY, notices.send)
        timers.register(OUTGOING, partial(fire_outgoing, self.agent_desk()))
        timers.register(SHIFTS, self.shifts.fire, standing=True)
        timers.register_errand(ERASE, self.leftovers.do)
        if self.settings.retention_days:
            timers.register_errand(RETENTION, self.retention.run, standing=True)
        if self.settings.hook_url:
            timers.register_errand(HOOK, self.hooks.send)
        if self.settings.helpdesk:
            sync = self._help_desk_of(self.tickets)
            timers.register_errand(SYNC, sync.sync)
            timers.register_errand(POLL, sync.poll, standing=True)
        if self.settings.forum_groups:
            self.forum.register(timers)
            timers.register_errand(INTAKE, self.forum_intake.do)
        return timers

    @cached_property
    def whatsapp(self) -> WhatsAppChannel | None:
        """The WhatsApp channel, if there is a token. Raises SettingsError for what it needs besides."""
        settings = self.settings
        if not (token := settings.whatsapp_token.get_secret_value()):
            return None
        for name in ("phone_number_id", "app_secret", "verify_token"):
            value = getattr(settings, f"whatsapp_{name}")
            if not (value if isinstance(value, str) else value.get_secret_value()):
                raise SettingsError(f"OTVET_WHATSAPP_{name.upper()}: WhatsApp needs it beside OTVET_WHATSAPP_TOKEN")
        numbers = [number.strip() for number in settings.whatsapp_phone_number_id.split(",") if number.strip()]
        return WhatsAppChannel(
            token,
            numbers,
            api_base=settings.whatsapp_api,
            version=settings.whatsapp_version,
            proxy=settings.whatsapp_proxy,
            uploads=self.uploads,
        )

    def webhooks(self, assistant: Assistant, clock: Callable[[], datetime] = utc_now) -> Webhooks:
        """What the platforms in use call."""
        hook = None
        if self.whatsapp is not None:
            record = WhatsAppRecord(
                sessions=self.database.sessions,
                receive=assistant.receive,
                windows=self.windows,
                on_failed=assistant.on_failed,
                accounts=self.whatsapp.accounts,
                clock=clock,
            )
            hook = WhatsAppHook(
                self.settings.whatsapp_app_secret.get_secret_value(),
                self.settings.whatsapp_verify_token.get_secret_value(),
                record.take,
            )
        called = None
        if self.settings.telegram_webhook_url and "telegram" in assistant.channels:
            from bot.channels.telegram import TelegramChannel  # seconds, as in `bot.serve`

            channel = assistant.channels["telegram"]
            if isinstance(channel, TelegramChannel):

                async def take(update: Any, account: str) -> None:
                    await channel.take(update, assistant.receive, account)

                called = TelegramHook(channel.webhook_secret, take, channel.accounts)
        helped = None
        if self.settings.helpdesk and (secret := self.settings.helpdesk_secret.get_secret_value()):
            helped = HelpDeskHook(secret, self._help_desk_of(self.tickets).changed_there)
        events = None
        if secret := self.settings.hook_in_secret.get_secret_value():
            desk = self.agent_desk(clock)
            events = HookReceiver(secret=secret, desk=desk, sessions=self.database.sessions, clock=clock).take
        return Webhooks(whatsapp=hook, telegram=called, helpdesk=helped, events=events)

    async def close(self) -> None:
        if "rasa" in self.__dict__:
            await asyncio.to_thread(self.rasa.close)
        if "help_desk" in self.__dict__:
            await self.help_desk.close()
        if "forum" in self.__dict__:
            await self.forum.api.shut()
        if "lookups" in self.__dict__:
            await self.lookups.close()
        if (shop := self.__dict__.get("demo_shop")) is not None:
            await shop.close()
        if "shared" in self.__dict__:
            await self.shared.close()
        if "database" in self.__dict__:
            await self.database.engine.dispose()
