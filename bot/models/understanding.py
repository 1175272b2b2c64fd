"""What one version of the models makes of a text: intent, articles, topic."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Protocol

from bot.dialogue import ANY_TOPIC, Candidate, Outcome, Policy, Understanding
from bot.language import detect
from handoff.records import Reason
from handoff.routing import TopicClassifier
from kb_index.articles import Article, ArticleFile
from kb_index.explain import Explanation, explain
from kb_index.passages import pictures, readable, split_passages
from kb_index.search import Hit, SearchIndex
from nlu.features import fold
from nlu.intents import IntentPrediction
from nlu.training_data import IntentSpec

MAX_PARTS = 4
HITS = 5
MAX_PICTURES = 5
CHOICES_SEARCHED = 10
LONGEST_WHOLE_WORDS = 400
"""An article that is longer is shown in parts."""
MAX_FOLDED = 1000
"""`nlu.features.fold` keeps so many characters."""


class IntentEngine(Protocol):
    """What tells intents apart: the embedded engine, or Rasa with the former as its spare."""

    def predict(self, texts: Sequence[str]) -> list[IntentPrediction]:
        """Predict in the order of `texts`; any string is accepted. Blocks."""
        ...


def outcome_of(spec: IntentSpec | None) -> Outcome:
    """The outcome that an intent's metadata names."""
    meta = spec.metadata if spec else {}
    return Outcome(
        article=meta.get("article"),
        reply=meta.get("reply"),
        flow=meta.get("flow"),
        handoff=meta.get("handoff"),
        sensitive=bool(meta.get("sensitive")),
        reason=Reason(meta["reason"]) if meta.get("reason") else None,
    )


def evidence_of(prediction: IntentPrediction, outcomes: Mapping[str, Outcome]) -> dict[str, float]:
    """Article → the probability that the intents give it, that of being in scope at all included."""
    articles = {intent: outcome.article for intent, outcome in outcomes.items() if outcome.article}
    return dict(_shares(prediction, articles))


def topics_of(outcomes: Mapping[str, Outcome], articles: Iterable[Article]) -> dict[str, str]:
    """Intent → the topic that its matter belongs to; intents of any topic or none are left out."""
    of_article = {article.id: article.topic for article in articles}
    found = {}
    for name, outcome in outcomes.items():
        topic = outcome.handoff if outcome.handoff and outcome.handoff != ANY_TOPIC else None
        topic = topic or (of_article.get(outcome.article) if outcome.article else None)
        if topic:
            found[name] = topic
    return found


def _shares(prediction: IntentPrediction, group_of: Mapping[str, str]) -> Iterable[tuple[str, float]]:
    """The intents' probabilities added up by group. The ranking's add up to 1 whatever was said; the confidence is
    the first one's probability and that of being in scope in one, so their ratio is the latter."""
    in_scope = min(1.0, prediction.confidence / max(prediction.ranking[0][1], 1e-9))
    shares: dict[str, float] = {}
    for intent, probability in prediction.ranking:
        if group := group_of.get(intent):
            shares[group] = shares.get(group, 0.0) + probability * in_scope
    return shares.items()


@dataclass(frozen=True)
class Understood:
    """Everything that was made of one message, with what is kept as evidence beside it."""

    lang: str
    parts: tuple[Understanding, ...]
    """The whole text first, then its sentences when there are several."""
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Trial:
    """A version on trial, and the share of the conversations that it answers."""

    understander: Understander
    share: float


def lot(version: str, conversation: str) -> float:
    """A number from 0 to below 1 that a conversation draws once for each version: others try each new version."""
    digest = hashlib.sha256(f"{version}\0{conversation}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8]) / 2**64


class Understander:
    """One live version: classifier, index, topics, policy. Blocks on the CPU; call it in a thread."""

    trial: Trial | None = None
    """Another version that answers some of the conversations."""

    def __init__(
        self,
        *,
        version: str,
        classifier: IntentEngine | None,
        outcomes: Mapping[str, Outcome],
        intents: Collection[str],
        index: SearchIndex,
        topics: TopicClassifier | None,
        policy: Policy,
    ) -> None:
        self.version = version
        self.classifier = classifier
        self.outcomes = outcomes
        self.intents = intents
        self.index = index
        self.topics = topics
        self.policy = policy
        self._versions = _versions(index)

    def with_index(self, index: SearchIndex) -> Understander:
        """The same version searching these articles, in the order that it has learnt."""
        other = copy(self)
        other.index = index.with_ranker(self.index.ranker)
        other._versions = _versions(index)
        return other

    def with_trial(self, trial: Trial | None) -> Understander:
        """The same version beside another one on trial."""
        other = copy(self)
        other.trial = trial
        return other

    def answering(self, conversation: str) -> Understander:
        """The version that answers this conversation: always the same one while the trial lasts. A larger share takes
        further conversations and gives none back."""
        if self.trial and lot(self.trial.understander.version, conversation) < self.trial.share:
            return self.trial.understander
        return self

    def understand(self, text: str, remembered_lang: str | None = None) -> Understood:
        """Never raises for any text; one longer than the policy's limit is not interpreted."""
        return self.understand_all([(text, remembered_lang)])[0]

    def understand_all(self, asked: Sequence[tuple[str, str | None]]) -> list[Understood]:
        """Many (text, remembered language), each as by itself, in the same order; several times faster."""
        parts = [self.parts(text) for text, _ in asked]
        predicted = iter(self._predict([part for some in parts for part in some]))
        found = []
        for (text, remembered_lang), some in zip(asked, parts, strict=True):
            if not some:
                lang = detect(text, remembered_lang)
                found.append(Understood(lang, (Understanding(text),), {"too_long": len(text)}))
                continue
            lang = detect(self.index.readings(text)[-1], remembered_lang)
            (whole, hits), *rest = [self._one(part, lang, next(predicted), HITS) for part in some]
            record = {
                "lang": lang,
                "intent": whole.intent,
                "confidence": round(whole.confidence, 4),
                "hits": [_hit_json(hit) for hit in hits],
                "thresholds": self.policy.for_json(lang),
                "model_version": self.version,
            }
            found.append(Understood(lang, (whole, *(part for part, _ in rest)), record))
        return found

    def parts(self, text: str) -> list[str]:
        """The text, then its sentences where they are several; nothing of one that is too long."""
        if len(text) > self.policy.max_text_chars:
            return []
        sentences = split_questions(text)
        return [text, *sentences] if len(sentences) > 1 else [text]

    def foresee(self, texts: Sequence[str]) -> None:
        """Have what searches will ask for encoded at once, several times faster, by encoders that remember."""
        self.index.queries_of([_searched(part) for text in texts for part in self.parts(text)])

    def search(self, text: str, lang: str | None, limit: int) -> tuple[Hit, ...]:
        """Articles for a text, with what the intents say for them as evidence."""
        lang = lang or detect(self.index.readings(text)[-1])
        return self._one(text, lang, self._predict([text])[0], limit)[1]

    def explain(self, text: str, lang: str | None, limit: int) -> Explanation:
        """What `search` finds, and why."""
        evidence = {}
        if self.classifier:
            evidence = evidence_of(self.classifier.predict([self.index.readings(text)[-1]])[0], self.outcomes)
        lang = lang or detect(self.index.readings(text)[-1])
        return explain(self.index, _searched(text), lang=lang, limit=limit, evidence=evidence)

    def classify(self, text: str) -> IntentPrediction | None:
        """What the intents make of a text; None where there are none."""
        return self._predict([text])[0]

    def _predict(self, texts: Sequence[str]) -> Sequence[IntentPrediction | None]:
        """The classifier encodes all of them at once, on all cores; the search finds the same vectors in the encoder's
        memory, since it is asked for the same folded text."""
        if not self.classifier:
            return [None] * len(texts)
        # What was typed in the wrong layout or in Latin letters is classified as it was meant.
        return self.classifier.predict([self.index.readings(text)[-1] for text in texts])

    def _one(
        self, text: str, lang: str, prediction: IntentPrediction | None, limit: int
    ) -> tuple[Understanding, tuple[Hit, ...]]:
        intent, confidence, evidence = None, 0.0, {}
        if prediction:
            intent, confidence = prediction.intent, prediction.confidence
            evidence = evidence_of(prediction, self.outcomes)
        hits = self.index.search(_searched(text), lang=lang, limit=limit, evidence=evidence)
        outcome = self.outcomes.get(intent, Outcome()) if intent else Outcome()
        if intent not in self.intents:
            intent = None  # an article's own class is no intent that anybody named
        return Understanding(text, intent, confidence, outcome, tuple(map(self._candidate, hits))), hits

    def _candidate(self, hit: Hit) -> Candidate:
        text = hit.passage.text
        article = self._article(hit.article_id, hit.lang)
        more = article is not None and len(article.body.strip()) > len(text)
        shown = _pictures(text, article)
        return Candidate(
            hit.article_id, hit.title, readable(text), hit.topic or "", hit.confidence, hit.lang, more, shown
        )

    def rank(self, text: str, lang: str, articles: int = 3) -> list[tuple[str, float]]:
        """The intents that a text may mean with their probabilities, the likeliest first, and after them `article:ID`
        of those that the search finds and none of these intents leads to."""
        intents = list(self.classifier.predict([self.index.readings(text)[-1]])[0].ranking) if self.classifier else []
        led = {self.outcomes[name].article for name, _ in intents if name in self.outcomes}
        found = {hit.article_id: hit.confidence for hit in self.search(text, lang or None, articles)}
        return [*intents, *((f"article:{name}", chance) for name, chance in found.items() if name not in led)]

    def candidate(self, article_id: str, lang: str, *, whole: bool = False, asked: str = "") -> Candidate | None:
        """An article by its id, as it is shown when the customer chooses it: of a long one the passage that fits
        what he asked, or the beginning, unless he wants the whole."""
        article = self._article(article_id, lang)
        if article is None:
            return None
        text = article.body.strip()
        more = not whole and len(text.split()) > LONGEST_WHOLE_WORDS
        if more:
            hits = self.index.search(_searched(asked), lang=article.lang, limit=CHOICES_SEARCHED) if asked else ()
            fitting = (hit.passage.text for hit in hits if (hit.article_id, hit.lang) == (article.id, article.lang))
            text = next(fitting, None) or split_passages(article.id, article.lang, text)[0].text
        shown = _pictures(text, article)
        return Candidate(article.id, article.title, readable(text), article.topic or "", 1.0, article.lang, more, shown)

    def _article(self, article_id: str, lang: str) -> Article | None:
        versions = self._versions.get(article_id, {})
        return versions.get(lang) or next(iter(versions.values()), None)


def _pictures(markdown: str, article: Article | None) -> tuple[ArticleFile, ...]:
    """The pictures that a text shows, of those that were kept with its article."""
    if article is None or not article.files:
        return ()
    kept = {file.target: file for file in article.files if file.mime_type.startswith("image/")}
    return tuple(kept[target] for target in dict.fromkeys(pictures(markdown)) if target in kept)[:MAX_PICTURES]


def _versions(index: SearchIndex) -> dict[str, dict[str, Article]]:
    versions: dict[str, dict[str, Article]] = {}
    for article in index.articles:
        versions.setdefault(article.id, {})[article.lang] = article
    return versions


def _searched(text: str) -> str:
    """What is searched for: the form that the intents are told from, so that one encoding serves both. A text of which
    that form is a part only is searched for as it is."""
    return fold(text) if len(text) <= MAX_FOLDED else text


def split_questions(text: str) -> list[str]:
    """The sentences of a message that could be questions of their own; one element when it is one."""
    parts = [part.strip() for part in re.split(r"(?<=[?!.])\s+|\n+|;\s+", text)]
    parts = [part for part in parts if len(re.findall(r"[^\W\d_]{2,}", part)) >= 2]
    return parts[:MAX_PARTS] if len(parts) > 1 else [text]


def _hit_json(hit: Hit) -> dict[str, Any]:
    return {
        "article_id": hit.article_id,
        "title": hit.title,
        "lang": hit.lang,
        "confidence": round(hit.confidence, 4),
    }
