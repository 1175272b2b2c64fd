"""The ranker learns from questions whose article is known, and from questions that nothing answers.

Each question is searched for as if it were not among the example questions (leave one out), together with rough copies
of it: misspelt, shortened, without capitals or punctuation, as people type. Part of them is searched for as if their
article did not exist, so that the confidence learns what a question without an answer looks like.

The scorer is a conditional logit over the candidates of each question (McFadden 1974; ListNet's top-one loss,
Cao et al. 2007). The judge is a logistic regression over the best candidates, fitted on scores that come from
scorers which have not seen the question (cross-fitting), so that its probabilities hold for new questions.
"""

import multiprocessing
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from kb_index.errors import RankerError
from kb_index.noise import rough_copies
from kb_index.ranker import Linear, Matrix, Ranker, Vector, judge_features, scorer_features
from kb_index.search import Candidates, SearchIndex
from kb_index.segment import Query

_FOLDS = 5
_RIVALS = 15  # candidates of each question that the scorer learns from, beside the right ones
_JUDGED = 5  # candidates of each question that the judge learns from
_WITHOUT_ARTICLE = 0.5  # share of the questions that are asked once more as if their article did not exist
_SCORER_PENALTY = 1.0
_FEWEST = 20
_GUESSES = 5
_TOGETHER = 256


@dataclass(frozen=True)
class LabelledQuestion:
    """A question and the articles that answer it; none when nothing does.

    `evidence` is what the intent classifier says of the text, from a classifier that has not learnt from it.
    """

    text: str
    lang: str
    article_ids: frozenset[str]
    evidence: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Guess:
    """What a hit comes to: an article, and the probability that it answers."""

    article_id: str
    confidence: float


@dataclass(frozen=True)
class Rehearsal:
    """A question as it was asked in training, with the hits of a ranker that had not learnt from it.

    `question.article_ids` is empty for one asked as if its article did not exist.
    """

    question: LabelledQuestion
    hits: tuple[Guess, ...]


@dataclass(frozen=True)
class RankerTraining:
    """The ranker, and honest hits: `out_of_fold` for each example in order, `rehearsals` for all ways it was asked."""

    ranker: Ranker
    out_of_fold: tuple[tuple[Guess, ...], ...]
    rehearsals: tuple[Rehearsal, ...]


@dataclass(frozen=True)
class _Case:
    source: int
    question: LabelledQuestion
    found: Candidates
    right: Vector  # 1 for each candidate that answers


def train_ranker(
    index: SearchIndex,
    examples: Sequence[LabelledQuestion],
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 1,
) -> RankerTraining:
    """Learn a ranker for `index`. Blocks for seconds to minutes: every example and its copies are encoded.

    progress: how many of how many texts are encoded, then searched for. workers: processes that search, where the
    system can fork; for a process that does nothing else. The same input gives the same ranker, whatever they are.
    Raises RankerError when fewer than 20 examples have a known article.
    """
    return gather_lessons(index, examples, seed=seed, progress=progress, workers=workers).learn()


def gather_lessons(
    index: SearchIndex,
    examples: Sequence[LabelledQuestion],
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 1,
) -> "RankerLessons":
    """The longer part of `train_ranker`, which does both: everything is searched for. The same arguments and errors."""
    known = index.known_ids
    answered = sum(bool(example.article_ids & known) for example in examples)
    if answered < _FEWEST:
        raise RankerError(
            f"{answered} questions have a known article; at least {_FEWEST} are needed to train a ranker."
        )
    with threadpool_limits(1):  # many small products: threads would wait for each other longer than they work
        cases, lessons = _cases(index, examples, seed, progress, workers)
    return RankerLessons(index.ids, len(examples), seed, cases, lessons)


@dataclass(frozen=True)
class RankerLessons:
    """What was found for each question, to learn from."""

    ids: Sequence[str]
    examples: int
    seed: int
    cases: "list[_Case]"
    lessons: "list[_Lesson]"

    def learn(self) -> RankerTraining:
        """Blocks for seconds."""
        with threadpool_limits(1):
            return _learn(self.ids, self.examples, self.seed, self.cases, self.lessons)


def _learn(
    ids: Sequence[str], examples: int, seed: int, cases: "list[_Case]", lessons: "list[_Lesson]"
) -> RankerTraining:
    folds = np.random.default_rng(seed).permutation(examples) % _FOLDS
    fold_of = np.array([folds[case.source] for case in cases])
    scorer = _fit_scorer(lessons)
    scorers = [
        # What all questions taught is only where the search for the fold's own weights begins.
        _fit_scorer([lesson for lesson, own in zip(lessons, fold_of, strict=True) if own != fold], start=scorer)
        for fold in range(_FOLDS)
    ]
    out_of_fold_scores = [
        scorers[fold](scorer_features(case.found.evidence)) for case, fold in zip(cases, fold_of, strict=True)
    ]
    judged = [_judged(case, scores) for case, scores in zip(cases, out_of_fold_scores, strict=True)]
    rehearsals: list[tuple[Guess, ...]] = [()] * len(cases)
    for fold in range(_FOLDS):
        train = np.flatnonzero(fold_of != fold)
        ranker = Ranker(scorers[fold], _fit_judge([judged[number] for number in train]))
        for number in np.flatnonzero(fold_of == fold):
            case = cases[number]
            if not len(case.found.groups):
                continue
            ranking = ranker.rank_scored(case.found.evidence, out_of_fold_scores[number])
            rehearsals[number] = tuple(
                Guess(ids[case.found.groups[row]], confidence)
                for row, confidence in zip(
                    ranking.order[:_GUESSES].tolist(), ranking.confidences.tolist(), strict=False
                )
            )
    first: dict[int, int] = {}
    for place, case in enumerate(cases):
        first.setdefault(case.source, place)
    return RankerTraining(
        Ranker(scorer, _fit_judge(judged), len(cases)),
        tuple(rehearsals[first[source]] if source in first else () for source in range(examples)),
        tuple(Rehearsal(case.question, hits) for case, hits in zip(cases, rehearsals, strict=True)),
    )


_Asked = tuple[int, LabelledQuestion, str, Collection[str]]
"""Number of the example, the example, the text that is asked, and the articles hidden from it."""
_Lesson = tuple[Matrix, Vector] | None


def _cases(
    index: SearchIndex,
    examples: Sequence[LabelledQuestion],
    seed: int,
    progress: Callable[[int, int], None] | None,
    workers: int,
) -> tuple[list[_Case], list[_Lesson]]:
    asked: list[_Asked] = []
    for source, example in enumerate(examples):
        # Dice of its own for each text: one more example leaves the copies of the others as they were.
        dice = random.Random(f"{seed} {example.text}")  # noqa: S311  # no secrets here
        asked.append((source, example, example.text, ()))
        asked.extend((source, example, copy, ()) for copy in rough_copies(example.text, dice, count=1))
        if example.article_ids and dice.random() < _WITHOUT_ARTICLE:
            asked.append((source, example, example.text, example.article_ids))
    texts = [text for _, _, text, _ in asked]
    queries = index.queries_of(texts, progress)
    understood = [(one, query) for one, query in zip(asked, queries, strict=True) if query is not None]
    starts = range(0, len(understood), _TOGETHER)
    work = _Searches(index, understood)
    if workers > 1 and len(starts) > 1 and "fork" in multiprocessing.get_all_start_methods():
        # Forked, so that the index is there without being copied.
        fork = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(workers, mp_context=fork, initializer=work.share) as pool:
            found = _counted(pool.map(_Searches.shared_from, starts), len(understood), progress)
    else:
        found = _counted((list(work.some(start)) for start in starts), len(understood), progress)
    return [case for case, _ in found], [lesson for _, lesson in found]


def _counted(
    batches: "Iterable[list[tuple[_Case, _Lesson]]]", of: int, progress: Callable[[int, int], None] | None
) -> "list[tuple[_Case, _Lesson]]":
    found: list[tuple[_Case, _Lesson]] = []
    for batch in batches:
        found += batch
        if progress:
            progress(len(found), of)
    return found


@dataclass(frozen=True)
class _Searches:
    """The searches of a training, a few hundred at a time."""

    index: SearchIndex
    understood: Sequence[tuple[_Asked, Query]]
    _shared: ClassVar["_Searches"]

    def share(self) -> None:
        """In a worker: make it known to `shared_from`."""
        _Searches._shared = self

    @staticmethod
    def shared_from(start: int) -> list[tuple[_Case, _Lesson]]:
        return list(_Searches._shared.some(start))

    def some(self, start: int) -> Iterator[tuple[_Case, _Lesson]]:
        some = self.understood[start : start + _TOGETHER]
        together = self.index.together([query for _, query in some])
        for ((source, example, text, hidden), _), query in zip(some, together, strict=True):
            case = _case(self.index, source, example, text, hidden, query)
            yield case, _lesson(case)


def _case(
    index: SearchIndex,
    source: int,
    example: LabelledQuestion,
    text: str,
    hidden: Collection[str],
    query: Query,
) -> _Case:
    evidence = {name: chance for name, chance in example.evidence.items() if name not in hidden}
    found = index.candidates(query, evidence, (example.text,), hidden)
    article_ids = example.article_ids - frozenset(hidden)
    right = np.array([float(index.ids[group] in article_ids) for group in found.groups.tolist()])
    question = LabelledQuestion(text, example.lang, article_ids, evidence)
    return _Case(source, question, found, right)


def _lesson(case: _Case) -> _Lesson:
    """The features of the right candidates and their strongest rivals, and the share of rightness of each."""
    if not 0 < case.right.sum() < len(case.right):
        return None
    order = Ranker().rank(case.found.evidence).order
    kept = np.union1d(order[:_RIVALS], np.flatnonzero(case.right))
    return scorer_features(case.found.evidence)[kept], case.right[kept] / case.right.sum()


def _fit_scorer(lessons: Sequence[_Lesson], start: Linear | None = None) -> Linear:
    useful = [lesson for lesson in lessons if lesson is not None]
    features = np.vstack([rows for rows, _ in useful])
    right = np.concatenate([shares for _, shares in useful])
    sizes = np.array([len(rows) for rows, _ in useful])
    starts = np.cumsum(sizes) - sizes
    centre, scale = (np.array(start.centre), np.array(start.scale)) if start else _scaling(features)
    standard = (features - centre) / scale

    def loss(weights: Vector, columns: slice, towards: Vector) -> tuple[float, Vector]:
        scores = standard[:, columns] @ weights
        scores -= np.repeat(np.maximum.reduceat(scores, starts), sizes)
        powers = np.exp(scores)
        totals = np.add.reduceat(powers, starts)
        shares = powers / np.repeat(totals, sizes)
        value = -(right * (scores - np.repeat(np.log(totals), sizes))).sum() / len(useful)
        gradient = standard[:, columns].T @ (shares - right) / len(useful)
        away = weights - towards
        return value + _SCORER_PENALTY * away @ away, gradient + 2 * _SCORER_PENALTY * away

    def fit(begin: Vector, columns: slice, towards: Vector) -> Vector:
        found: Vector = minimize(
            loss, begin, (columns, towards), jac=True, method="L-BFGS-B", options={"maxiter": 200, "ftol": 1e-6}
        ).x
        return found

    # The built-in score comes first: how far to trust it as it is, then what to change of it.
    prior = np.zeros(features.shape[1])
    prior[:1] = fit(np.ones(1), slice(0, 1), np.ones(1))
    weights = fit(np.array(start.weights) if start else prior, slice(None), prior)
    return Linear(tuple(centre.tolist()), tuple(scale.tolist()), tuple(weights.tolist()))


def _judged(case: _Case, scores: Vector) -> tuple[Matrix, Vector]:
    order = np.argsort(-scores, kind="stable")
    features = judge_features(case.found.evidence[order], scores[order])
    return features[:_JUDGED], case.right[order][:_JUDGED]


def _fit_judge(judged: Sequence[tuple[Matrix, Vector]]) -> Linear:
    features = np.vstack([rows for rows, _ in judged])
    right = np.concatenate([labels for _, labels in judged])
    centre, scale = _scaling(features)
    model = LogisticRegression(C=1.0, max_iter=1000).fit((features - centre) / scale, right)
    return Linear(
        tuple(centre.tolist()), tuple(scale.tolist()), tuple(model.coef_[0].tolist()), float(model.intercept_[0])
    )


def _scaling(features: Matrix) -> tuple[Vector, Vector]:
    spread = features.std(axis=0)
    return features.mean(axis=0), np.where(spread > 1e-9, spread, 1.0)
