"""Training: the seed data becomes a model version and a search snapshot, and the thresholds are computed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bot.calibration import IntentTrial, SearchTrial, Targets, calibrate, policy_to_json
from bot.dialogue import ANY_TOPIC, Outcome, Policy
from bot.language import detect
from bot.understanding import evidence_of, outcome_of
from handoff.routing import Topics, load_topics
from kb_index.articles import ArticleLoad, load_articles
from kb_index.errors import RankerError
from kb_index.ranker import Ranker
from kb_index.ranker_training import LabelledQuestion, Rehearsal, train_ranker
from kb_index.search import SearchIndex
from nlu.encoder import Encoder
from nlu.intents import IntentClassifier, IntentPrediction
from nlu.models import ModelStore, ModelVersion
from nlu.training_data import OUT_OF_SCOPE_INTENTS, Example, TrainingData, load_intents

Progress = Callable[[str], None]
OUT_OF_SCOPE = "out_of_scope"


@dataclass(frozen=True)
class Seed:
    """Everything an assistant is made of, as files."""

    intents: TrainingData
    outcomes: Mapping[str, Outcome]
    articles: ArticleLoad
    topics: Topics
    warnings: tuple[str, ...]
    fingerprint: str
    """SHA-256 over articles, intents and topics."""


def load_seed(folder: Path, shipped: Path) -> Seed:
    """Read a data folder. What it lacks comes from the shipped one: of the intents only those that fit any
    knowledge base (greeting, asking for a person), for the others speak of the shipped articles."""
    articles = load_articles(folder / "kb" if (folder / "kb").is_dir() else folder)
    own_intents = (folder / "intents").is_dir()
    intents = load_intents((folder if own_intents else shipped) / "intents")
    outcomes = {name: outcome_of(intents.intents.get(name)) for name in {e.intent for e in intents.examples}}
    known = {article.id for article in articles.articles}
    warnings = [str(problem) for problem in articles.problems]
    kept = []
    for name, outcome in outcomes.items():
        general = outcome.reply or outcome.handoff == ANY_TOPIC
        if not own_intents and not general:
            continue
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
    return Seed(
        intents, {name: outcomes[name] for name in kept}, articles, topics, tuple(warnings), _fingerprint(folder)
    )


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".md", ".yml", ".yaml", ".html") and p.is_file()):
        if path.relative_to(folder).parts[0] in ("replies", "eval", "flows"):
            continue
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def build_index(seed: Seed, encoder: Encoder, progress: Progress) -> SearchIndex:
    """Index the seed's articles. Blocks: every passage and question is encoded."""

    def told(done: int, of: int) -> None:
        progress(f"  {done} of {of} texts")

    return SearchIndex.build(seed.articles.articles, encoder, progress=told)


def train(
    seed: Seed,
    encoder: Encoder,
    index: SearchIndex,
    store: ModelStore,
    targets: Targets,
    *,
    companion: Encoder | None = None,
    max_text_chars: int,
    progress: Progress,
    random_seed: int = 0,
) -> ModelVersion:
    """Make a new version; nothing that is in use is touched. Promoting it is the caller's choice.

    Every confidence that a threshold is computed from comes from models that had not seen the example.
    """
    examples = seed.intents.examples
    classifier: IntentClassifier | None = None
    unseen: Sequence[IntentPrediction] = ()
    if len({example.intent for example in examples}) >= 2:
        progress(f"Training on {len(examples)} examples of {len(seed.outcomes)} intents")
        classifier = IntentClassifier.train(examples, encoder, companion=companion, seed=random_seed, progress=progress)
        unseen = classifier.cross_predict()
    topic_examples = _topic_examples(seed)
    topics = None
    if len({example.intent for example in topic_examples}) >= 2:
        progress(f"Training the topics on {len(topic_examples)} examples")
        topics = IntentClassifier.train(
            topic_examples, encoder, companion=companion, seed=random_seed, progress=progress
        )
    labelled = _labelled(seed, classifier, unseen)
    progress(f"Training the ranker on {len(labelled)} questions")
    ranker: Ranker | None = None
    rehearsals: Sequence[Rehearsal] = ()
    try:
        ranking = train_ranker(index, labelled, seed=random_seed)
        ranker, rehearsals = ranking.ranker, ranking.rehearsals
    except RankerError as error:
        progress(f"{error} Until then the search judges without having learnt.")
    searches = [
        SearchTrial(r.question.lang, r.question.article_ids, tuple((hit.article_id, hit.confidence) for hit in r.hits))
        for r in rehearsals
    ]
    policy = calibrate(searches, _intent_trials(seed, unseen), targets, max_text_chars=max_text_chars)
    with store.new_version() as draft:
        for name, trained in (("intents", classifier), ("topics", topics)):
            if trained:
                (draft.path / name).mkdir()
                trained.save(draft.path / name)
        if ranker:
            ranker.save(draft.path / "ranker.json")
        (draft.path / "policy.json").write_text(json.dumps(policy_to_json(policy, targets), indent=1))
        (draft.path / "outcomes.json").write_text(json.dumps(_outcomes_json(seed), ensure_ascii=False, indent=1))
        draft.manifest |= {
            "data": seed.fingerprint,
            "encoder": encoder.fingerprint,
            "seed": random_seed,
            "examples": len(examples),
            "intents": len(seed.outcomes),
            "articles": len({article.id for article in seed.articles.articles}),
            "figures": _figures(searches, policy),
        }
    return store.show(draft.id)


def _topic_examples(seed: Seed) -> list[Example]:
    """Texts labelled with the topic they would be routed to."""
    topic_of = {article.id: article.topic for article in seed.articles.articles}
    rows = [
        Example(text, article.topic, article.lang)
        for article in seed.articles.articles
        if article.topic
        for text in (article.title, *article.questions)
    ]
    for example in seed.intents.examples:
        outcome = seed.outcomes[example.intent]
        topic = outcome.handoff if outcome.handoff != ANY_TOPIC else None
        topic = topic or (topic_of.get(outcome.article) if outcome.article else None)
        if topic or example.intent in OUT_OF_SCOPE_INTENTS:
            rows.append(Example(example.text, topic or OUT_OF_SCOPE, example.lang))
    return rows


def _labelled(
    seed: Seed, classifier: IntentClassifier | None, unseen: Sequence[IntentPrediction]
) -> list[LabelledQuestion]:
    """Every text whose right article is known, with what the intents say about it without having seen it."""
    known = {article.id for article in seed.articles.articles}
    labelled = []
    for example, prediction in zip(seed.intents.examples, unseen, strict=False):
        outcome = seed.outcomes[example.intent]
        article = outcome.article
        if outcome.handoff and outcome.handoff != ANY_TOPIC:
            # A matter for people may well have an article too ("my account was hacked"): it teaches neither way.
            continue
        labelled.append(
            LabelledQuestion(
                text=example.text,
                lang=example.lang or detect(example.text),
                article_ids=frozenset({article} & known) if article else frozenset(),
                evidence=evidence_of(prediction, seed.outcomes),
            )
        )
    # A question that is also an intent's example was in that list, with a prediction that had not seen it.
    taught = {example.text.casefold() for example in seed.intents.examples}
    questions = [
        (text, article)
        for article in seed.articles.articles
        for text in article.questions
        if text.casefold() not in taught
    ]
    predictions = classifier.predict([text for text, _ in questions]) if classifier else [None] * len(questions)
    labelled += [
        LabelledQuestion(
            text=text,
            lang=article.lang,
            article_ids=frozenset({article.id}),
            evidence=evidence_of(prediction, seed.outcomes) if prediction else {},
        )
        for (text, article), prediction in zip(questions, predictions, strict=True)
    ]
    return labelled


def _intent_trials(seed: Seed, unseen: Sequence[IntentPrediction]) -> list[IntentTrial]:
    trials = []
    for example, prediction in zip(seed.intents.examples, unseen, strict=False):
        outcome = seed.outcomes[prediction.intent]
        if outcome.reply or outcome.handoff:
            right = prediction.intent == example.intent
            trials.append(IntentTrial(example.lang or detect(example.text), right, prediction.confidence))
    return trials


def _outcomes_json(seed: Seed) -> dict[str, Any]:
    return {name: dict(seed.intents.intents[name].metadata) for name in seed.outcomes if name in seed.intents.intents}


def _figures(trials: Sequence[SearchTrial], policy: Policy) -> dict[str, Any]:
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
        }
    return figures


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
