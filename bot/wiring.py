"""The composition root: alone in reading settings and choosing implementations."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine
from threadpoolctl import threadpool_limits

from bot.assistant import Assistant
from bot.attachments import AttachmentStore
from bot.calibration import Targets, policy_from_json
from bot.channels.base import Channel
from bot.database import migrate, open_database
from bot.dialogue import Outcome
from bot.errors import NotReadyError
from bot.ledger import Sessions
from bot.replies import Replies
from bot.settings import Settings
from bot.shared import LocalShared, Shared
from bot.training import ARTICLE, Progress, Seed, build_index, load_seed, train
from bot.turn import Turns
from bot.understanding import IntentTopics, Understander
from handoff.hours import WorkingHours
from kb_index.errors import RankerError, SnapshotError
from kb_index.ranker import Ranker
from kb_index.search import SearchIndex
from kb_index.snapshot import load_index, save_index
from nlu.companion import CompanionEncoder
from nlu.encoder import Encoder, load_encoder
from nlu.errors import NluError
from nlu.intents import IntentClassifier
from nlu.models import ModelStore, ModelVersion
from nlu.remembering import RememberingEncoder

log = structlog.get_logger()

RELOAD_SECONDS = 2.0


def shipped_data() -> Path:
    """The demo data: beside the packages in a checkout, inside them in an installed wheel."""
    here = Path(__file__).parent
    return here / "seed" if (here / "seed").is_dir() else here.parent / "data"


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Database:
    engine: AsyncEngine
    sessions: Sessions


class Installation:
    """One OTVET_VAR with its settings: makes every part on demand, each once."""

    def __init__(self, settings: Settings, progress: Progress = lambda _: None) -> None:
        self.settings = settings
        self.progress = progress
        self._live: Understander | None = None
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
    def seed(self) -> Seed:
        return load_seed(self.data, shipped_data())

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
    def hours(self) -> WorkingHours:
        return WorkingHours(
            opens=self.settings.opens,
            closes=self.settings.closes,
            days=frozenset(int(day) - 1 for day in self.settings.work_days),
            zone=ZoneInfo(self.settings.timezone),
        )

    @cached_property
    def replies(self) -> Replies:
        folders = dict.fromkeys(path for path in (self.data / "replies", shipped_data() / "replies") if path.is_dir())
        common = {
            lang: {
                "shop": shop,
                "hours": self.hours.describe(lang),
                "privacy_url": self.settings.privacy_url,
                "first_reply_minutes": self.seed.topics.default.expected_minutes,
            }
            for lang, shop in (("ru", self.settings.shop_ru), ("en", self.settings.shop_en))
        }
        return Replies(tuple(folders), common)

    @cached_property
    def attachments(self) -> AttachmentStore:
        return AttachmentStore(self.settings.var / "attachments", self.settings.max_attachment_mb * 1024 * 1024)

    @cached_property
    def database(self) -> Database:
        return Database(*open_database(self.settings.database))

    @cached_property
    def shared(self) -> Shared:
        """What the processes of the installation share for the moment; without Redis each has its own."""
        if url := self.settings.redis_url.get_secret_value():
            from bot.shared_redis import RedisShared

            return RedisShared(url)
        return LocalShared()

    async def migrate(self) -> None:
        await migrate(self.database.engine)

    @cached_property
    def index(self) -> SearchIndex:
        """The search snapshot of the seed's articles: loaded, or built when it is missing, torn or foreign."""
        folder = self.settings.var / "index"
        target = folder / f"{self.seed.fingerprint[:16]}-{self.encoder.fingerprint[:8]}"
        try:
            if target.is_dir():
                return load_index(target, self.encoder)
        except SnapshotError as error:
            self.progress(f"{error}: rebuilding")
        self.progress(f"Indexing {len(self.seed.articles.articles)} articles")
        index = build_index(self.seed, self.encoder, self.progress)
        save_index(index, target)
        for old in folder.iterdir():
            if old != target and not old.name.startswith("."):
                shutil.rmtree(old, ignore_errors=True)
        return index

    def train(self, *, promote: bool) -> ModelVersion:
        """Make a version from the seed data. Blocks for seconds."""
        for warning in self.seed.warnings:
            self.progress(f"Warning: {warning}")
        encoder = RememberingEncoder(self.encoder, self.settings.var / "encoder" / "training-vectors.npz")
        version = train(
            self.seed,
            encoder,
            self.index.with_encoder(encoder),
            self.store,
            self.targets,
            companion=self.companion,
            max_text_chars=self.settings.max_text_chars,
            progress=self.progress,
        )
        encoder.save()
        return self.store.promote(version.id) if promote else version

    def is_current(self, version: ModelVersion) -> bool:
        """Whether a version was trained on the data and with the encoder of this installation."""
        manifest = version.manifest
        return bool(
            manifest.get("data") == self.seed.fingerprint and manifest.get("encoder") == self.encoder.fingerprint
        )

    def prepare(self, *, update: bool = False) -> None:
        """Make whatever is missing: encoder, index, a first model. Nothing to do at a second start. Blocks.

        update: also train when the live version does not know the present data.
        """
        self.settings.var.mkdir(parents=True, exist_ok=True)
        try:
            self.reload()
            live = self.store.live()
            if update and live and not self.is_current(live):
                self.progress("The data has changed: training")
                self.train(promote=True)
        except (NotReadyError, NluError, RankerError) as error:  # none yet, another encoder, an older or damaged one
            self.progress(f"Training, because {error}")
            self.train(promote=True)

    def understander(self) -> Understander:
        """The live version, loaded; the same object until another one is promoted (`follow` sees to that)."""
        if self._live is None:
            self.reload()
        assert self._live is not None  # noqa: S101 - reload sets it or raises
        return self._live

    def reload(self) -> None:
        """Load the live version if it is another than the one in use. Blocks."""
        version = self.store.live()
        if version is None:
            raise NotReadyError("there is no trained model: run `otvet train`")
        if self._live is None or self._live.version != version.id:
            self._live = self.load(version)

    def load(self, version: ModelVersion) -> Understander:
        """Raises NotReadyError for a version that another release wrote in another form."""
        path = version.path
        try:
            routes = json.loads((path / "outcomes.json").read_text())
            outcomes = {name: Outcome(**row) for name, row in routes["outcomes"].items()}
            policy = policy_from_json(json.loads((path / "policy.json").read_text()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NotReadyError(f"model version {version.id} can't be read ({error}): run `otvet train`") from error
        classifier = None
        if (path / "intents").exists():
            classifier = IntentClassifier.load(path / "intents", self.encoder, self.companion)
        ranker = path / "ranker.json"
        return Understander(
            version=version.id,
            classifier=classifier,
            outcomes=outcomes,
            intents={name for name in outcomes if not name.startswith(ARTICLE)},
            index=self.index.with_ranker(Ranker.load(ranker)) if ranker.exists() else self.index,
            topics=IntentTopics(classifier, routes["topics"], routes["topic_threshold"]) if classifier else None,
            policy=policy,
        )

    async def follow(self) -> None:
        """Keep up with promotions and rollbacks by any process, until cancelled."""
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            try:
                await asyncio.to_thread(self.reload)
            except Exception:
                # Edge: the version in use goes on answering.
                log.exception("model.reload_failed")

    def assistant(self, channels: Sequence[Channel], clock: Callable[[], datetime] = utc_now) -> Assistant:
        turns = Turns(
            understander=self.understander,
            replies=self.replies,
            topics=self.seed.topics,
            hours=self.hours,
            clock=clock,
            limit_mb=self.settings.max_attachment_mb,
        )
        return Assistant(
            sessions=self.database.sessions,
            turns=turns,
            channels=channels,
            attachments=self.attachments,
            clock=clock,
        )

    async def close(self) -> None:
        if "shared" in self.__dict__:
            await self.shared.close()
        if "database" in self.__dict__:
            await self.database.engine.dispose()
