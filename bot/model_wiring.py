"""The half of the composition root that makes models: seed data, index, training, versions, the understander."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from threading import RLock, Thread
from typing import Literal
from zoneinfo import ZoneInfo

import structlog
from filelock import FileLock
from threadpoolctl import threadpool_limits

from bot.articles import ArticleBase
from bot.backup import RESTORING
from bot.database import migrate, open_database
from bot.dialogue import Outcome
from bot.errors import NotReadyError
from bot.intents import IntentBase
from bot.models.calibration import Targets, policy_from_json
from bot.models.corrections import load_corrections
from bot.models.gate import Asked, DataChange, Deed, Report, compare, data_change
from bot.models.gold import ask, frozen, own_gold, recent
from bot.models.rasa import Rasa
from bot.models.releases import save_report
from bot.models.topic_model import TopicModel
from bot.models.training import (
    ARTICLE,
    KNOWLEDGE,
    TAUGHT,
    TAUGHT_ROWS,
    Knowledge,
    Progress,
    Seed,
    articles_folder,
    confirmed_by,
    intent_files,
    load_seed,
    taught_data,
    train,
    with_drafts,
)
from bot.models.understanding import IntentEngine, Trial, Understander
from bot.settings import Settings
from handoff.routing import Topics, load_topics
from kb_index.article_files import ArticleFiles
from kb_index.articles import Article
from kb_index.errors import RankerError, SnapshotError
from kb_index.ranker import Ranker
from kb_index.search import SearchIndex
from kb_index.snapshot import live_version, load_index, save_index
from nlu.aside import Aside
from nlu.companion import CompanionEncoder
from nlu.encoder import Encoder, FloatMatrix, load_encoder
from nlu.errors import NluError, RasaError
from nlu.features import fold
from nlu.intents import IntentClassifier
from nlu.models import Canary, ModelStore, ModelVersion
from nlu.rasa.project import export_project, is_project
from nlu.remembering import RememberingEncoder

log = structlog.get_logger()

PROGRESS_SECONDS = 5.0
TRAINED_ON = "trained-on"
"""File with the digest of the data folder's texts at the last start that took its edits."""
MOST_VIEWS = 4
"""So many versions beside the live one are kept in memory."""
MEAN_TEXTS = 300
"""So many tell where the vectors of a language lie."""
FEW_TEXTS = 500
"""Encoding fewer is over in a moment."""


def shipped_data() -> Path:
    """The demo data: beside the packages in a checkout, inside them in an installed wheel."""
    here = Path(__file__).parent
    return here / "seed" if (here / "seed").is_dir() else here.parent / "data"


def _digest_of(data: Path) -> str:
    """Of the files of a data folder that are trained on."""
    digest = hashlib.sha256()
    for path in sorted(data.rglob("*")):
        own = path.relative_to(data)
        if path.suffix in (".md", ".yml", ".yaml") and own.parts[0] not in ("eval", "flows", "replies"):
            digest.update(f"{own}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class LiveAnswers:
    """What the live version does with the questions of the gate."""

    version: str
    gold_sha256: str
    people: tuple[Asked, ...]
    """The questions that are in no file."""
    articles: frozenset[str]
    deeds: Aside[dict[str, Deed]]

    def are_of(self, version: str, gold_sha256: str, articles: frozenset[str]) -> bool:
        return (self.version, self.gold_sha256, self.articles) == (version, gold_sha256, articles)


class ModelWiring:
    """What makes and loads the models of one OTVET_VAR, each part once. `bot.wiring.Installation` is one."""

    def __init__(self, settings: Settings, progress: Progress = lambda _: None) -> None:
        self.settings = settings
        self.progress = progress
        self.stage: Progress = lambda _: None
        """Told which part of a training begins …"""
        self.told: Callable[[int, int], None] = lambda _done, _of: None
        """… and how many of how many texts are encoded or searched for. For a process that trains in the background."""
        self._live: Understander | None = None
        self._tried: tuple[Canary | None, SearchIndex] | None = None
        """What is on trial, and the articles that it was loaded for."""
        self._versions: dict[tuple[str, bool], Understander] = {}
        self._views: dict[str, Understander] = {}
        """Of versions and drafts that are not in use, with what they bring to the search."""
        self._index: SearchIndex | None = None
        self._taught_index: SearchIndex | None = None
        """What the last training of this process searched."""
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
    def intents(self) -> IntentBase:
        return IntentBase(
            url=self.settings.database,
            folder=self.data if is_project(self.data) else self.data / "intents",
            files=lambda: intent_files(self.data, shipped_data()),
            clock=utc_now,
            progress=self.progress,
        )

    @cached_property
    def topics(self) -> Topics:
        return load_topics(self.data / "topics.yml")

    @cached_property
    def seed(self) -> Seed:
        """What the assistant is made of: the database's articles and intents, and all else from the data folder. Read
        once; `forget_seed` has it read again."""
        return load_seed(self.data, shipped_data(), self.articles.published(), self.intents.training_data())

    def forget_seed(self) -> None:
        """Something was changed in the database since."""
        self.__dict__.pop("seed", None)

    def seed_with(self, drafts: Sequence[Article]) -> Seed:
        """The seed as it will be once these articles are published."""
        if not drafts:
            return self.seed
        return load_seed(
            self.data, shipped_data(), with_drafts(self.articles.published(), drafts), self.intents.training_data()
        )

    @cached_property
    def language_means(self) -> dict[str, FloatMatrix]:
        """Language → the mean vector of some of its training examples. Blocks; what was trained on is kept encoded."""
        encoder = RememberingEncoder(self.encoder, self.settings.var / "encoder" / "training-vectors.npz")
        texts: dict[str, list[str]] = {}
        for example in self.seed.intents.examples:
            if example.lang:
                texts.setdefault(example.lang, []).append(fold(example.text))
        return {
            lang: encoder.encode(own[:: max(1, len(own) // MEAN_TEXTS)]).mean(axis=0) for lang, own in texts.items()
        }

    def take_edits(self) -> None:
        """Bring the seed folder's edits into the database."""
        plan, taken = self.articles.take_edits(), self.intents.take_edits()
        if plan.touched or taken.touched:
            self.forget_seed()
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
            wanted = self._live_knowledge().searchable(articles, drafts=False)
            if before is None:
                self.progress(f"Indexing {len(articles)} articles")
                index = SearchIndex.build(wanted, self.encoder, progress=self._telling())
            else:
                index = before.updated(wanted, progress=self._telling())
            if index is not before:
                save_index(index, folder)
            for old in folder.parent.iterdir():  # of another encoder
                if old != folder:
                    shutil.rmtree(old, ignore_errors=True)
            self._search_in(index, live_version(folder))
        if index.is_worn:
            Thread(target=self._compact_index, name="index", daemon=True).start()
        return index

    def _live_knowledge(self) -> Knowledge:
        """What the live version brings to the search; before there is one, what the next will bring."""
        live = self.store.live()
        found = Knowledge.load(live.path / KNOWLEDGE) if live else None
        return found or Knowledge(confirmed_by(self.seed))

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
        self._views.clear()
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
        drafts: Sequence[Article] = (),
        workers: int = 1,
    ) -> ModelVersion:
        """Make a version from the seed data. Blocks for seconds, with Rasa or `deep` for minutes, and before that while
        another process trains. What is in use stays as it is unless `promote` is set.

        `engine` and `rasa_config` go before the settings. With an address in the settings, and where Rasa is not
        installed, it is trained only when `engine` asks for it. `drafts` are articles that are published with the
        version. `workers`: for a process that does nothing else. Raises RasaNotInstalled, RasaFailed.
        """
        self.forget_seed()
        with_rasa = engine == "rasa" or (engine is None and self._wants_rasa)
        if engine is None and self.settings.nlu_engine == "rasa" and not with_rasa:
            self.progress("Training the embedded engine alone: Rasa has its model already, or is not installed")
        for warning in self.seed.warnings:
            self.progress(f"Warning: {warning}")
        encoder, companion = self.remembering
        seed = self.seed_with(drafts)
        published = Knowledge(confirmed_by(seed)).searchable(seed.articles.articles, drafts=False)
        self.settings.var.mkdir(parents=True, exist_ok=True)
        with (
            FileLock(self.training_lock),
            tempfile.TemporaryDirectory(prefix=".rasa-training-", dir=self.settings.var) as folder,
        ):
            self.store.drop_drafts()
            self._taught_index = self.index.with_encoder(encoder).updated(published, progress=self.told)
            version = train(
                seed,
                encoder,
                self._taught_index,
                self.store,
                self.targets,
                companion=self.companion if deep else companion,
                adapted=self.encoder if deep else None,
                rasa=self.rasa.trainer(Path(folder), encoder, rasa_config) if with_rasa else None,
                corrections=load_corrections(self.settings.database),
                drafts=drafts,
                max_text_chars=self.settings.max_text_chars,
                progress=self.progress,
                stage=self.stage,
                told=self.told,
                workers=workers,
            )
            encoder.save()
            if companion:
                companion.save()
        if promote:
            self.store.promote(version.id)
            self.sync_index()
        return version

    @cached_property
    def remembering(self) -> tuple[RememberingEncoder, RememberingEncoder | None]:
        """The encoders for bulk work: what they have once encoded they know at the next training."""
        folder = self.settings.var / "encoder"
        main = RememberingEncoder(self.encoder, folder / "training-vectors.npz", self.told)
        if not self.companion:
            return main, None
        return main, RememberingEncoder(self.companion, folder / "training-vectors-companion.npz", self.told)

    @property
    def training_lock(self) -> Path:
        """Held by whoever trains: one at a time."""
        return self.settings.var / "training.lock"

    def ask_live(self) -> LiveAnswers | None:
        """Begin to ask the live version, in a second process, what the next candidate will be asked. For a process
        that does nothing else. Raises ModelDamaged, QuestionsError."""
        live = self.store.live()
        if live is None:
            return None
        encoder, companion = self.remembering
        gold, people, index = (
            frozen(self.gate_questions),
            self._asked_by_people(),
            self._index_of(live, encoder=encoder),
        )

        def answers() -> dict[str, Deed]:
            version = self.load(live, encoder, companion).with_index(index)
            return ask([*gold.asked, *people], version, self.topics)

        return LiveAnswers(live.id, gold.sha256, people, self._shown(), Aside(answers))

    def _shown(self) -> frozenset[str]:
        """What is published, as hashes."""
        return frozenset(article.content_hash for article in self.articles.published())

    def judge(self, version_id: str, *, asked_before: LiveAnswers | None = None, workers: int = 1) -> Report:
        """Judge a version against the live one, and keep the report with it. Blocks for seconds.

        asked_before: from `ask_live`; asked anew where questions, articles or the live version are others by now.
        workers: for a process that does nothing else. Raises ModelNotFound, ModelDamaged, QuestionsError.
        """
        started = time.monotonic()
        self.stage("judging")
        version, live = self.store.show(version_id), self.store.live()
        candidate = self.rehearsing(version)
        gold = frozen(self.gate_questions, candidate.index.known_ids)
        asked = [*gold.asked, *(asked_before.people if asked_before else self._asked_by_people())]
        self.progress(f"Asking {len(asked)} questions")
        deeds = ask(asked, candidate, self.topics, workers=workers)
        before = None
        if live is not None and live.id == version.id:
            before = deeds
        elif live is not None and asked_before and asked_before.are_of(live.id, gold.sha256, self._shown()):
            before = asked_before.deeds.result()
        elif live is not None:
            before = ask(asked, self.rehearsing(live), self.topics, workers=workers)
        data: DataChange | None = None
        if live is not None and (live.path / TAUGHT).exists() and (version.path / TAUGHT).exists():
            data = data_change(
                *(TAUGHT_ROWS.validate_json((each.path / TAUGHT).read_bytes()) for each in (live, version))
            )
        knowledge = Knowledge.load(version.path / KNOWLEDGE) or Knowledge()
        report = compare(
            asked,
            before,
            deeds,
            version=version.id,
            against=live.id if live else None,
            made_at=utc_now(),
            seconds=time.monotonic() - started,
            gold_file=gold.path,
            gold_sha256=gold.sha256,
            gold_left_out=gold.left_out,
            matter_of={o.article: name for name, o in candidate.outcomes.items() if o.article},
            data=data,
            drafts=[(draft.id, draft.lang) for draft in knowledge.drafts],
        )
        save_report(version, report)
        for encoder in self.remembering:
            if encoder:
                encoder.save()
        return report

    @property
    def gate_questions(self) -> Path:
        """The frozen questions."""
        return self.settings.gate_questions or self.data / "eval" / "dialogue.dev.jsonl"

    def _asked_by_people(self) -> tuple[Asked, ...]:
        """The editors' own questions, and what customers wrote lately."""

        async def read() -> tuple[Asked, ...]:
            engine, sessions = open_database(self.settings.database)
            try:
                await migrate(engine)
                async with sessions.reading() as session:
                    return (*await own_gold(session), *await recent(session, self.settings.gate_replay))
            finally:
                await engine.dispose()

        with ThreadPoolExecutor(max_workers=1) as pool:  # whether or not this thread has a loop already
            return pool.submit(asyncio.run, read()).result()

    def is_current(self, version: ModelVersion) -> bool:
        """Whether a version was trained on the data and with the encoder of this installation."""
        manifest = version.manifest
        return bool(
            manifest.get("data") == self.seed.fingerprint
            and manifest.get("encoder") == self.encoder.fingerprint
            and not self._lacks_rasa(version)
        )

    @property
    def _wants_rasa(self) -> bool:
        """Whether a version should have a Rasa model."""
        return self.settings.nlu_engine == "rasa" and self.rasa.trains

    def _lacks_rasa(self, version: ModelVersion) -> bool:
        return self._wants_rasa and version.manifest.get("engine") != "rasa"

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
        known, present = self.settings.var / TRAINED_ON, ""
        if update:
            self.take_edits()
            present = _digest_of(self.data)
        try:
            self.reload()
            live = self.store.live()
            # What editors changed in the studio waits for their click and for the gate.
            edited = not known.exists() or known.read_text() != present
            if update and live and not self.is_current(live) and (edited or self._lacks_rasa(live)):
                self.progress("The data has changed: training")
                try:
                    self.train(promote=True)
                except RasaError as error:
                    self.progress(f"{error}. The version in use goes on")
        except (NotReadyError, NluError, RankerError) as error:  # none yet, another encoder, an older or damaged one
            self.progress(f"Training, because {error}")
            self.train(promote=True)
        if update:
            known.write_text(present)

    def _refuse_half_restored(self) -> None:
        if (self.settings.var / RESTORING).exists():
            raise NotReadyError("a restore is at work, or was interrupted: run `otvet restore FILE --force` again")

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
        """Load the versions that answer and the live snapshot of the articles, if they are others than those in use.
        Blocks."""
        in_use = self.store.in_use()
        if in_use.live is None:
            raise NotReadyError("there is no trained model: run `otvet train`")
        if self._live is None or self._live.version != in_use.live:
            version = self.store.show(in_use.live)
            loaded = self._loaded(version, answers=True)
            if self._live is not None:
                self.sync_index()  # the examples that are searched are the version's
            with self._index_lock:
                self._live, self._tried = loaded.with_index(self.index), None
        self.reload_index()
        index = self.index
        if (in_use.canary, index) != self._tried:
            trial = self._trial_of(in_use.canary) if in_use.canary else None
            with self._index_lock:  # an article may have been published while it was loaded
                self._live = self._live.with_trial(trial)
            self._tried = in_use.canary, index

    def _trial_of(self, canary: Canary) -> Trial | None:
        """None where it can't be loaded: then the live version answers everybody."""
        try:
            return Trial(self.view(canary.id), canary.share)
        except (NotReadyError, NluError, RankerError) as error:
            log.error("model.trial_failed", version=canary.id, error=str(error), remedy="end the trial")
            return None

    def reload_index(self) -> None:
        """Search in the articles that another process published last, if it did. Blocks for a fraction of a second."""
        version = live_version(self._index_folder)
        if self._index is None or version in (self._index_version, None):
            return
        with self._index_lock:
            # One that cannot be used is not tried again: the index in use goes on answering.
            self._search_in(self._read_index() or self._index, version)

    def view(self, version_id: str | None = None, drafts: Sequence[Article] = ()) -> Understander:
        """A version as it would answer if it were live, its own drafts and these published. None: the live one.

        Nothing in use is touched. Blocks: for a second the first time. Raises ModelNotFound, ModelDamaged, and
        NotReadyError for a version that another release wrote in another form.
        """
        version_id = version_id or self.store.live_id()
        if version_id is None:
            raise NotReadyError("there is no trained model: run `otvet train`")
        key = ":".join([version_id, *sorted(draft.content_hash for draft in drafts)])
        if (known := self._views.get(key)) is None:
            version = self.store.show(version_id)
            known = self._loaded(version).with_index(self._index_of(version, drafts))
            while len(self._views) >= MOST_VIEWS:
                self._views.pop(next(iter(self._views)))
            self._views[key] = known
        return known

    def rehearsing(self, version: ModelVersion) -> Understander:
        """The same, for bulk work: what it encodes is remembered."""
        encoder, companion = self.remembering
        return self.load(version, encoder, companion).with_index(self._index_of(version, encoder=encoder))

    def _index_of(
        self, version: ModelVersion, drafts: Sequence[Article] = (), encoder: Encoder | None = None
    ) -> SearchIndex:
        """encoder: one that remembers, for bulk work."""
        knowledge = Knowledge.load(version.path / KNOWLEDGE) or Knowledge(confirmed_by(self.seed))
        # What the live version brought is published by now, and may have been edited since.
        own = () if version.id == self.store.live_id() else knowledge.drafts
        whole = replace(knowledge, drafts=(*own, *drafts))
        wanted = whole.searchable(self.articles.published(), drafts=True)
        if encoder and self._taught_index and self._taught_index.holds(wanted):
            return self._taught_index  # made a moment ago, in minutes where much was new
        return (self.index.with_encoder(encoder) if encoder else self.index).updated(wanted)

    def _loaded(self, version: ModelVersion, *, answers: bool = False) -> Understander:
        """Loaded once: going back to a version that was in use lately takes no time. answers: it is the live one."""
        with_rasa = answers and self.settings.nlu_engine == "rasa"
        key = version.id, with_rasa
        if (found := self._versions.get(key)) is None or with_rasa:  # Rasa's server has to load its model again
            found = self.load(version, answers=answers)
            while len(self._versions) >= MOST_VIEWS:
                self._versions.pop(next(iter(self._versions)))
            self._versions[key] = found
        return found

    def load(
        self,
        version: ModelVersion,
        encoder: Encoder | None = None,
        companion: Encoder | None = None,
        *,
        answers: bool = False,
    ) -> Understander:
        """Encoders: others of the same fingerprint. answers: it is the live version, so that the Rasa server of this
        process has to serve it; any other is asked through the embedded engine.

        Raises NotReadyError for a version that another release wrote in another form."""
        encoder, companion = encoder or self.encoder, companion or self.companion
        path = version.path
        try:
            routes = json.loads((path / "outcomes.json").read_text())
            outcomes = {name: Outcome(**row) for name, row in routes["outcomes"].items()}
            policy = policy_from_json(json.loads((path / "policy.json").read_text()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NotReadyError(f"model version {version.id} can't be read ({error}): run `otvet train`") from error
        classifier: IntentEngine | None = None
        if (path / "intents").exists():
            embedded = IntentClassifier.load(path / "intents", encoder, companion)
            by_rasa = self.settings.nlu_engine == "rasa" and (answers or bool(self.settings.rasa_url))
            classifier = self.rasa.with_spare(path / "rasa", embedded) if by_rasa else embedded
        topics: TopicModel | None = None
        if (path / "topics").exists():
            topics = TopicModel.load(path / "topics", encoder)
        ranker = path / "ranker.json"
        index = self.index.with_encoder(encoder)
        return Understander(
            version=version.id,
            classifier=classifier,
            outcomes=outcomes,
            intents={name for name in outcomes if not name.startswith(ARTICLE)},
            index=index.with_ranker(Ranker.load(ranker)) if ranker.exists() else index,
            topics=topics,
            policy=policy,
        )

    @cached_property
    def rasa(self) -> Rasa:
        settings = self.settings
        return Rasa(
            var=settings.var,
            environment=settings.rasa_environment,
            url=settings.rasa_url,
            token=settings.rasa_token.get_secret_value(),
            timeout_seconds=settings.rasa_timeout_seconds,
            pipeline=settings.rasa_config,
            encoders=lambda: (self.encoder, self.companion),
            progress=self.progress,
        )

    def export_rasa(self, folder: Path) -> Path:
        """Write the training data as a project for Rasa users; raises FolderNotEmpty."""
        whole, made = taught_data(self.seed)
        with tempfile.TemporaryDirectory() as source:
            self.intents.write(Path(source))
            return export_project(Path(source), made, whole, folder, self.rasa.python.encoder).folder
