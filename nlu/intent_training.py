"""How the head of the intent classifier is trained, and what it finds about rows and intents that were left out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from nlu.aside import Aside
from nlu.deep_encoder import Layered
from nlu.embedding import Embedding, is_latin, speaks_for
from nlu.encoder import Encoder
from nlu.errors import EncoderUnavailable
from nlu.kernel_head import Evidence, HeadTraining, KernelHead, some_rows
from nlu.kernel_solver import BoolArray, FloatMatrix, IntArray

if TYPE_CHECKING:
    from nlu.deep_training import Adaptation

Progress = Callable[[str], None]

_FOLDS: Final = 10
_FOLDS_OF_MANY: Final = 3
_MANY_ROWS: Final = 3000
_CLASS_GROUPS: Final = 5
_HELD_OUT_ROWS: Final = 3000
_DEEP_FOLDS: Final = 4


@dataclass(frozen=True)
class Lesson:
    """Folded texts with class numbers; the last `names` rows are names of intents, no utterances."""

    texts: Sequence[str]
    labels: IntArray
    names: int
    outside_class: int | None
    seed: int

    @property
    def utterances(self) -> int:
        return len(self.texts) - self.names

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1


@dataclass(frozen=True)
class Trained:
    """`left_out`: of each utterance, in order, while it was left out. `held`: of `held_rows`, utterances whose whole
    class was left out: what a foreign message looks like."""

    embedding: Embedding
    head: KernelHead
    left_out: Evidence
    held: Sequence[Evidence]
    held_rows: IntArray


def train_head(
    lesson: Lesson, encoder: Encoder, companion: Encoder | None, progress: Progress, *, workers: int = 1
) -> Trained:
    """On the encoders' vectors as they are. workers: with two or more, a second process finds out about held-out
    intents; the result is the same."""
    embedding, vectors, training = _prepare(lesson, encoder, companion, progress)
    held_out = Aside(lambda: _held_out(lesson, vectors, training), apart=workers > 1)
    head = training.head()
    left_out = training.left_out(head)
    progress("calibrating on held-out intents")
    held, rows = held_out.result()
    return Trained(embedding, head, left_out, held, rows)


def _held_out(lesson: Lesson, vectors: FloatMatrix, training: HeadTraining) -> tuple[list[Evidence], IntArray]:
    """What is found about utterances whose class was left out, and their rows."""
    pool = np.arange(len(lesson.texts))
    if len(pool) > _HELD_OUT_ROWS:  # a sample shows as well what a foreign message looks like
        utterances = some_rows(lesson.labels[: lesson.utterances], lesson.seed, _HELD_OUT_ROWS)
        pool = np.concatenate([np.sort(utterances), pool[lesson.utterances :]])
        texts = [lesson.texts[int(row)] for row in pool]
        training = HeadTraining(
            vectors[pool],
            texts,
            lesson.labels[pool],
            seed=lesson.seed,
            folds=0,
            names=lesson.names,
            loss=training.loss,
        )
    held, rows = [], []
    for absent in filter(np.any, _class_groups(lesson, _CLASS_GROUPS)):
        evidence, found = training.without(absent)
        if len(found):
            held.append(evidence)
            rows.append(pool[found])
    return held, np.concatenate(rows) if rows else np.zeros(0, np.int64)


def train_deep(lesson: Lesson, encoder: Encoder, companion: Encoder | None, progress: Progress) -> Trained:
    """On vectors of encoders that are adapted to the lesson.

    An adapted encoder has seen its rows, so each fold adapts its own: without a quarter of the classes and without a
    third of the rows of the others. Raises EncoderUnavailable where the encoder cannot be adapted.
    """
    embedding, _, training = _prepare(lesson, encoder, companion, progress)
    loss, plain_head = training.loss, training.head()
    left_out = training.left_out(plain_head)  # of the rows that no fold leaves out; the others' is replaced
    del training
    adapters = _Adapters(lesson, encoder, companion if embedding.encoders[1] else None)
    held, held_rows = [], []
    folds = list(_deep_folds(lesson))
    for number, (absent, left) in enumerate(folds, 1):
        progress(f"adapting the encoder, {number} of {len(folds) + 1}")
        kept = ~left & ~absent[lesson.labels]
        _, vectors = _embed(lesson, *adapters.adapt(kept))
        part = HeadTraining(
            vectors, lesson.texts, lesson.labels, seed=lesson.seed, folds=0, names=lesson.names, loss=loss
        )
        evidence, rows = part.without(absent, left)
        foreign = absent[lesson.labels[rows]]
        for into, found in zip(left_out.parts(), evidence.parts(), strict=True):
            into[rows[~foreign]] = found[~foreign]
        held.append(Evidence(*(each[foreign] for each in evidence.parts())))
        held_rows.append(rows[foreign])
    progress(f"adapting the encoder, {len(folds) + 1} of {len(folds) + 1}")
    embedding, vectors = _embed(lesson, *adapters.adapt(np.ones(len(lesson.texts), np.bool_)))
    head = HeadTraining(
        vectors, lesson.texts, lesson.labels, seed=lesson.seed, folds=0, names=lesson.names, loss=loss
    ).head()
    return Trained(embedding, head, left_out, held, np.concatenate(held_rows))


class _Adapters:
    """Adapts both encoders to parts of a lesson; the companion to texts in Latin script."""

    def __init__(self, lesson: Lesson, encoder: Encoder, companion: Encoder | None) -> None:
        from nlu.deep_training import Adaptation  # torch takes seconds to import

        self._lesson = lesson
        self._main = Adaptation(_layered(encoder), lesson.texts)
        self._latin = np.array([is_latin(each) for each in lesson.texts])
        self._beside: Adaptation | None = None
        if companion:
            latin = [each for each, is_one in zip(lesson.texts, self._latin, strict=True) if is_one]
            self._beside = Adaptation(_layered(companion), latin)

    def adapt(self, kept: BoolArray) -> tuple[Encoder, Encoder | None]:
        main = self._adapt(self._main, np.flatnonzero(kept), self._lesson.labels[kept])
        if self._beside is None:
            return main, None
        both = kept & self._latin
        return main, self._adapt(self._beside, np.flatnonzero(both[self._latin]), self._lesson.labels[both])

    def _adapt(self, adaptation: "Adaptation", rows: IntArray, labels: IntArray) -> Encoder:
        return adaptation.adapt(rows, labels, seed=self._lesson.seed)


def _layered(encoder: Encoder) -> Layered:
    if isinstance(encoder, Layered):
        return encoder
    raise EncoderUnavailable(
        encoder.name, "only the built-in encoder can be adapted", "Train without --deep, or leave OTVET_ENCODER empty"
    )


def _prepare(
    lesson: Lesson, encoder: Encoder, companion: Encoder | None, progress: Progress
) -> tuple[Embedding, FloatMatrix, HeadTraining]:
    progress(f"encoding {len(lesson.texts)} examples")
    embedding, vectors = _embed(lesson, encoder, companion)
    progress("training")
    folds = _FOLDS if lesson.utterances <= _MANY_ROWS else _FOLDS_OF_MANY
    training = HeadTraining(vectors, lesson.texts, lesson.labels, seed=lesson.seed, folds=folds, names=lesson.names)
    return embedding, vectors, training


def _embed(lesson: Lesson, encoder: Encoder, companion: Encoder | None) -> tuple[Embedding, FloatMatrix]:
    """The embedding is centred on the utterances alone."""
    utterances, names = lesson.texts[: lesson.utterances], lesson.texts[lesson.utterances :]
    embedding, vectors = Embedding.fit(encoder, companion if speaks_for(utterances) else None, utterances)
    return embedding, np.concatenate([vectors, embedding.rows(names)]) if names else vectors


def _class_groups(lesson: Lesson, groups: int) -> list[BoolArray]:
    """Each in-scope class in one of the groups; no class in any where fewer than two would be left."""
    inside = [each for each in range(lesson.classes) if each != lesson.outside_class]
    classes = np.random.default_rng(lesson.seed).permutation(inside)
    if len(classes) < 3:
        classes = classes[:0]
    return [np.isin(np.arange(lesson.classes), classes[group::groups]) for group in range(groups)]


def _deep_folds(lesson: Lesson) -> Iterator[tuple[BoolArray, BoolArray]]:
    """Absent classes and rows left out: every utterance is left out once while its class is there, once with it."""
    groups = _class_groups(lesson, _DEEP_FOLDS)
    group_of = np.where(np.any(groups, axis=0), np.argmax(groups, axis=0), -1)
    random = np.random.default_rng(lesson.seed)
    fold_of = np.full(len(lesson.texts), -1)
    for number in range(lesson.classes):
        rows = random.permutation(np.flatnonzero(lesson.labels[: lesson.utterances] == number))
        others = random.permutation([each for each in range(_DEEP_FOLDS) if each != group_of[number]])
        fold_of[rows] = others[np.arange(len(rows)) % len(others)]
    for number, absent in enumerate(groups):
        yield absent, fold_of == number
