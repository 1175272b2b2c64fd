"""Training: the seed data becomes a model version and a search snapshot, and the thresholds are computed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from bot.dialogue import ANY_TOPIC, Outcome, Policy
from bot.language import detect
from bot.models.calibration import IntentTrial, SearchTrial, Targets, calibrate, policy_to_json
from bot.models.topic_model import TopicModel
from bot.models.understanding import evidence_of, outcome_of, topics_of
from handoff.routing import Topics, load_topics
from kb_index.articles import Article, ArticleLoad, load_articles
from kb_index.errors import RankerError
from kb_index.ranker import Ranker
from kb_index.ranker_training import LabelledQuestion, RankerLessons, RankerTraining, gather_lessons
from kb_index.search import Confirmed, SearchIndex, with_confirmed
from nlu.aside import Aside
from nlu.encoder import Encoder
from nlu.errors import ModelDamaged
from nlu.intents import IntentClassifier, IntentPrediction
from nlu.label_doubts import LabelDoubt, doubtful
from nlu.library import fingerprint
from nlu.library_files import parse_files, read_files
from nlu.models import ModelStore, ModelVersion
from nlu.rasa.engine import RasaModel
from nlu.rasa.project import is_project
from nlu.training_data import OUT_OF_SCOPE_INTENTS, Example, IntentSpec, TrainingData, load_intents, merge
from nlu.training_writer import to_rasa

Progress = Callable[[str], None]
KNOWLEDGE = "knowledge.json"
DOUBTS = "doubts.json"
DOUBTED = TypeAdapter(tuple[LabelDoubt, ...])
TAUGHT = "taught.json"
TAUGHT_ROWS = TypeAdapter(tuple[tuple[str, str, str | None], ...])
"""The examples of intents that a version learnt: (text, intent, language)."""
RasaTraining = Callable[[TrainingData], RasaModel]
ARTICLE = "article:"
MAX_ARTICLE_CLASSES = 1000
"""Of a larger knowledge base the articles are no classes: it is the search that finds among so many."""


@dataclass(frozen=True)
class Seed:
    """Everything an assistant is made of, as files."""

    intents: TrainingData
    outcomes: Mapping[str, Outcome]
    articles: ArticleLoad
    topics: Topics
    tickets: tuple[Example, ...]
    """What customers write when a person has to take over; `intent` is the topic."""
    warnings: tuple[str, ...]
    fingerprint: str
    """SHA-256 over articles, intents and topics."""


def intents_folder(folder: Path, shipped: Path) -> Path:
    """Where the intents of a data folder are read from."""
    if is_project(folder):
        return folder
    return (folder if (folder / "intents").is_dir() else shipped) / "intents"


def articles_folder(folder: Path) -> Path:
    """Where a data folder's articles lie: in `kb`, or beside everything else; in a Rasa project only in `kb`."""
    return folder / "kb" if is_project(folder) or (folder / "kb").is_dir() else folder


def intent_files(folder: Path, shipped: Path) -> dict[str, str]:
    """The files of training data of a data folder: path → text. Where it has none, of the shipped ones what fits any
    knowledge base (greeting, asking for a person), for the rest speaks of the shipped articles.

    Raises TrainingDataError."""
    if is_project(folder) or (folder / "intents").is_dir():
        return read_files(intents_folder(folder, shipped))
    files = {}
    for path, part in parse_files(read_files(shipped / "intents")).items():
        specs = {name: spec for name, spec in part.intents.items() if _is_general(outcome_of(spec))}
        examples = tuple(example for example in part.examples if example.intent in specs)
        files[path] = to_rasa(TrainingData(examples, specs))
    return files


def _is_general(outcome: Outcome) -> bool:
    return bool(outcome.reply or outcome.handoff == ANY_TOPIC)


def load_seed(
    folder: Path, shipped: Path, stored: Sequence[Article] | None = None, intents: TrainingData | None = None
) -> Seed:
    """Read a data folder; what it lacks comes from the shipped one (`intent_files`). The folder may be a Rasa project,
    with articles in `kb/`.

    stored, intents: where a database has them; else the folder's own."""
    articles = load_articles(articles_folder(folder)) if stored is None else ArticleLoad(tuple(stored), ())
    if intents is None:
        intents = merge(parse_files(intent_files(folder, shipped)).values())
    outcomes = {name: outcome_of(intents.intents.get(name)) for name in sorted({e.intent for e in intents.examples})}
    known = {article.id for article in articles.articles}
    warnings = [str(problem) for problem in articles.problems]
    kept = []
    for name, outcome in outcomes.items():
        if outcome.article and outcome.article not in known:
            warnings.append(f"intent {name} leads to article {outcome.article}, which does not exist: it is left out")
            continue
        kept.append(name)
    intents = replace(
        intents,
        examples=tuple(example for example in intents.examples if example.intent in kept),
        intents={name: spec for name, spec in intents.intents.items() if name in kept},
    )
    topics = load_topics(folder / "topics.yml")
    tickets = load_intents(folder / "topics").examples if (folder / "topics").is_dir() else ()
    for name in sorted({ticket.intent for ticket in tickets} - set(topics.all)):
        warnings.append(f"topics/ has texts of {name}, which topics.yml does not name: they are left out")
    return Seed(
        intents=intents,
        outcomes={name: outcomes[name] for name in kept},
        articles=articles,
        topics=topics,
        tickets=tickets,
        warnings=tuple(warnings),
        fingerprint=_fingerprint(folder, articles.articles, intents),
    )


def _fingerprint(folder: Path, articles: Sequence[Article], intents: TrainingData) -> str:
    digest = hashlib.sha256("".join(sorted(article.content_hash for article in articles)).encode())
    digest.update(fingerprint(intents).encode())
    files = [folder / "topics.yml", *(folder / "topics").rglob("*")]
    for path in sorted(p for p in files if p.suffix in (".yml", ".yaml") and p.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def confirmed_by(seed: Seed) -> tuple[Confirmed, ...]:
    """An example of an intent that leads to an article is a question to it."""
    return tuple(
        Confirmed(example.text, example.lang or detect(example.text), article_id)
        for example in seed.intents.examples
        if (article_id := seed.outcomes[example.intent].article)
    )


def with_drafts(articles: Iterable[Article], drafts: Iterable[Article]) -> tuple[Article, ...]:
    """The articles as they will be once these drafts are published."""
    merged = {(article.id, article.lang): article for article in articles}
    merged |= {(draft.id, draft.lang): replace(draft, status="published") for draft in drafts}
    return tuple(merged[key] for key in sorted(merged))


@dataclass(frozen=True)
class Knowledge:
    """What a version brings to the search beside the published articles."""

    confirmed: tuple[Confirmed, ...] = ()
    drafts: tuple[Article, ...] = ()
    """Articles that are published together with the version."""

    def searchable(self, articles: Iterable[Article], *, drafts: bool) -> tuple[Article, ...]:
        """The published articles as they are searched, with the drafts or without."""
        return with_confirmed(with_drafts(articles, self.drafts if drafts else ()), self.confirmed)

    def save(self, path: Path) -> None:
        path.write_bytes(_KNOWLEDGE.dump_json(self))

    @classmethod
    def load(cls, path: Path) -> Knowledge | None:
        """None where an older release wrote the version. Raises ModelDamaged."""
        try:
            return _KNOWLEDGE.validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ModelDamaged(f"{path} can't be read ({error}). Train again.") from error


_KNOWLEDGE = TypeAdapter(Knowledge)


def train(
    seed: Seed,
    encoder: Encoder,
    index: SearchIndex,
    store: ModelStore,
    targets: Targets,
    *,
    companion: Encoder | None = None,
    rasa: RasaTraining | None = None,
    adapted: Encoder | None = None,
    corrections: Sequence[Example] = (),
    drafts: Sequence[Article] = (),
    max_text_chars: int,
    progress: Progress,
    stage: Progress = lambda _: None,
    told: Callable[[int, int], None] = lambda _done, _of: None,
    workers: int = 1,
    random_seed: int = 0,
) -> ModelVersion:
    """Make a new version; nothing that is in use is touched. Promoting it is the caller's choice.

    Every confidence that a threshold is computed from comes from models that had not seen the example. With `rasa`,
    which trains the Rasa engine, the version has both engines' models and thresholds that fit Rasa.
    `adapted` is an encoder to adapt to the intents, which takes minutes; the search keeps its own as it is.
    `corrections` are tickets whose topic agents changed. `drafts` are articles of the seed that are not published yet.
    `stage` is told what begins: intents, ranker, routing, writing; `told`, how much of the searching is done.
    `workers`: processes, where the system can fork; for a process that does nothing else. The same seed and data give
    the same version, whatever they are.
    """
    taught, outcomes = _taught(seed)
    stage("intents")
    classifier: IntentClassifier | None = None
    unseen: Sequence[IntentPrediction | None] = ()
    if len({example.intent for example in taught} - OUT_OF_SCOPE_INTENTS) >= 2:
        progress(f"Training on {len(taught)} examples of {len(outcomes)} intents and articles")
        classifier = IntentClassifier.train(
            taught,
            adapted or encoder,
            companion=companion,
            seed=random_seed,
            deep=adapted is not None,
            workers=workers,
            progress=progress,
        )
        unseen = classifier.cross_predict()
    rasa_model: RasaModel | None = None
    if rasa and classifier:
        rasa_model = rasa(_as_data(seed, taught))
        unseen = rasa_model.rehearsed
    labelled = _labelled(seed, outcomes, taught, unseen)
    stage("ranker")
    progress(f"Training the ranker on {len(labelled)} questions")
    learning: Aside[tuple[Ranker, list[SearchTrial]]] | None = None
    try:
        lessons = gather_lessons(index, labelled, seed=random_seed, progress=told, workers=workers)
        learning = Aside(lambda: _learnt(lessons), apart=workers > 1)
    except RankerError as error:
        progress(f"{error} Until then the search judges without having learnt.")
    topic_of = topics_of(outcomes, seed.articles.articles)
    topics: TopicModel | None = None
    stage("routing")
    live = store.live()
    if classifier:
        topics = TopicModel.train(
            [*seed.tickets, *corrections],
            topics=seed.topics,
            taught=taught,
            outcomes=outcomes,
            topic_of=topic_of,
            encoder=encoder,
            seed=random_seed,
            earlier=live.path / "topics" if live else None,
            progress=progress,
        )
    ranker, searches = learning.result() if learning else (None, [])
    policy = calibrate(searches, _intent_trials(outcomes, taught, unseen), targets, max_text_chars=max_text_chars)
    stage("writing")
    with store.new_version() as draft:
        Knowledge(confirmed_by(seed), tuple(drafts)).save(draft.path / KNOWLEDGE)
        (draft.path / TAUGHT).write_bytes(TAUGHT_ROWS.dump_json(_examples(seed)))
        if classifier:
            doubts = doubtful(taught, classifier.cross_predict())
            (draft.path / DOUBTS).write_bytes(DOUBTED.dump_json(tuple(doubts)))
            (draft.path / "intents").mkdir()
            classifier.save(draft.path / "intents")
        if topics:
            (draft.path / "topics").mkdir()
            topics.save(draft.path / "topics")
        if rasa_model:
            (draft.path / "rasa").mkdir()
            rasa_model.save(draft.path / "rasa")
        if ranker:
            ranker.save(draft.path / "ranker.json")
        (draft.path / "policy.json").write_text(json.dumps(policy_to_json(policy, targets), indent=1))
        routes = {
            "outcomes": {name: asdict(outcome) for name, outcome in outcomes.items()},
            "topics": topic_of,
        }
        (draft.path / "outcomes.json").write_text(json.dumps(routes, ensure_ascii=False, indent=1))
        draft.manifest |= {
            "data": seed.fingerprint,
            "encoder": encoder.fingerprint,
            "engine": "rasa" if rasa_model else "embedded",
            "rasa_model": rasa_model.model_id if rasa_model else None,
            "companion": companion.fingerprint if companion else None,
            "deep": adapted is not None,
            "seed": random_seed,
            "examples": len(taught),
            "intents": len(seed.outcomes),
            "articles": len({article.id for article in seed.articles.articles}),
            "tickets": len(seed.tickets),
            "corrections": len(corrections),
            "figures": _figures(searches, policy, topics),
        }
    return store.show(draft.id)


def _learnt(lessons: RankerLessons) -> tuple[Ranker, list[SearchTrial]]:
    """The ranker, and how every question fared whose article it had not learnt from."""
    training: RankerTraining = lessons.learn()
    return training.ranker, [
        SearchTrial(r.question.lang, r.question.article_ids, tuple((hit.article_id, hit.confidence) for hit in r.hits))
        for r in training.rehearsals
    ]


def _examples(seed: Seed) -> tuple[tuple[str, str, str | None], ...]:
    return tuple((example.text, example.intent, example.lang) for example in seed.intents.examples)


def _taught(seed: Seed) -> tuple[list[Example], dict[str, Outcome]]:
    """What the classifier learns: the intents' examples, and the articles' questions and titles.

    An article's questions join the intent that leads to it; an article without one is a class of its own, so that
    the intents speak for every article. A text that stands twice is taken once.
    """
    outcomes = dict(seed.outcomes)
    leading: dict[str, list[str]] = {}
    for name, outcome in seed.outcomes.items():
        if outcome.article:
            leading.setdefault(outcome.article, []).append(name)
    taught = list(seed.intents.examples)
    known = {example.text.casefold() for example in taught}
    articles = seed.articles.articles if len(seed.articles.articles) <= MAX_ARTICLE_CLASSES else ()
    for article in articles:
        names = leading.get(article.id, [])
        label = names[0] if len(names) == 1 else f"{ARTICLE}{article.id}"
        outcomes.setdefault(label, Outcome(article=article.id))
        for text in (article.title, *article.questions):
            if text.casefold() not in known:
                known.add(text.casefold())
                taught.append(Example(text, label, article.lang))
    return taught, outcomes


def read_doubts(folder: Path) -> tuple[LabelDoubt, ...]:
    """The examples of a version that are probably labelled wrongly; none of one that an older release trained."""
    path = folder / DOUBTS
    return DOUBTED.validate_json(path.read_bytes()) if path.exists() else ()


def taught_data(seed: Seed) -> tuple[TrainingData, TrainingData]:
    """Everything that the classifier learns, and what of it stands in articles and in no file of intents."""
    taught, _ = _taught(seed)
    whole = _as_data(seed, taught)
    made = tuple(taught[len(seed.intents.examples) :])
    return whole, TrainingData(made, {each.intent: IntentSpec(each.intent) for each in made})


def _as_data(seed: Seed, taught: Sequence[Example]) -> TrainingData:
    names = {example.intent: IntentSpec(example.intent) for example in taught}
    return replace(seed.intents, examples=tuple(taught), intents=names)


def _labelled(
    seed: Seed, outcomes: Mapping[str, Outcome], taught: Sequence[Example], unseen: Sequence[IntentPrediction | None]
) -> list[LabelledQuestion]:
    """Every text whose right article is known, with what the intents say about it without having seen it."""
    known = {article.id for article in seed.articles.articles}
    labelled = []
    for example, prediction in zip(taught, unseen, strict=False):
        if prediction is None:
            continue
        outcome = outcomes[example.intent]
        if outcome.handoff and outcome.handoff != ANY_TOPIC:
            # A matter for people may well have an article too ("my account was hacked"): it teaches neither way.
            continue
        labelled.append(
            LabelledQuestion(
                text=example.text,
                lang=example.lang or detect(example.text),
                article_ids=frozenset({outcome.article} & known) if outcome.article else frozenset(),
                evidence=evidence_of(prediction, outcomes),
            )
        )
    if labelled:
        return labelled
    return [
        LabelledQuestion(text=text, lang=article.lang, article_ids=frozenset({article.id}))
        for article in seed.articles.articles
        for text in article.questions
    ]


def _intent_trials(
    outcomes: Mapping[str, Outcome], taught: Sequence[Example], unseen: Sequence[IntentPrediction | None]
) -> list[IntentTrial]:
    trials = []
    for example, prediction in zip(taught, unseen, strict=False):
        if prediction is None:
            continue
        outcome = outcomes[prediction.intent]
        if outcome.reply or outcome.handoff or outcome.flow:
            right = prediction.intent == example.intent
            trials.append(IntentTrial(example.lang or detect(example.text), right, prediction.confidence))
    return trials


def _figures(trials: Sequence[SearchTrial], policy: Policy, topics: TopicModel | None) -> dict[str, Any]:
    """How the version does on its own training data, each example unseen: what `otvet train` prints."""
    figures = {}
    for lang in sorted({trial.lang for trial in trials if trial.lang in policy.answer}):
        own = [trial for trial in trials if trial.lang == lang]
        answered = [t for t in own if t.hits and t.hits[0][1] >= policy.answer[lang]]
        inside = [t for t in own if t.articles]
        outside = [t for t in own if not t.articles]
        right = [t for t in answered if t.hits[0][0] in t.articles]
        figures[lang] = {
            "examples": len(own),
            "answered_right_of_in_scope": _share(len(right), len(inside)),
            "answered_wrong_of_answered": _share(len(answered) - len(right), len(answered)),
            "out_of_scope_answered": _share(sum(not t.articles for t in answered), len(outside)),
            "answer_threshold": policy.answer[lang],
            "clarify_threshold": policy.clarify[lang],
            "intent_threshold": policy.intent[lang],
            **(topics.figures(lang) if topics else {}),
        }
    return figures


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
