"""How search fares with many passages: recall, time and memory; and how soon an edited article is found.

There are no million real support texts, so vectors are made of real ones: each lies between a real vector and one of
its ten nearest neighbours, at a random place, plus half the difference of another pair of neighbours. Half the
difference was chosen because the neighbours of such vectors are as near as those of real ones: `neighbours` in the
result compares both, the same number of each, seen from real texts that were kept apart. Texts are made of the demo
articles' sentences with every third word changed for another one, some of them new, so that rare words stay rare.
Searches are timed by the processor's time of their one thread; the rest by the clock.
"""

import random
import resource
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

import faiss
import numpy as np

from kb_index.articles import Article, load_articles
from kb_index.encoder import Encoder, FloatMatrix, TextKind
from kb_index.evaluation import KeepingEncoder
from kb_index.lexical import LexicalIndex, stems
from kb_index.search import SearchIndex
from kb_index.snapshot import load_index, save_index
from kb_index.vectors import VectorIndex

DATA = Path(__file__).parent.parent / "data"
_KEPT_APART = 500
_NEIGHBOURS = 10
_AT_ONCE = 50_000
_WHOLE = 100_000
"""Up to here a whole index is built; above it vectors and words are measured apart, since cutting and reading a million
texts alone takes a quarter of an hour."""


def demo_texts() -> list[str]:
    """Sentences and questions of the demo articles, each once."""
    found: dict[str, None] = {}
    for article in load_articles(DATA / "kb").articles:
        lines = [line.lstrip("#-*0123456789. ") for line in article.body.splitlines() if len(line) > 15]
        found |= dict.fromkeys((article.title, *article.questions, *lines))
    return list(found)


def scale(count: int, encoder: Encoder, texts: Sequence[str]) -> dict[str, Any]:
    """`texts` are real ones, whose vectors the made ones are like."""
    faiss.omp_set_num_threads(1)
    started = perf_counter()
    vectors = encoder.encode(texts, "passage")
    rate = len(texts) / (perf_counter() - started)
    make = maker(vectors[_KEPT_APART:])
    queries = vectors[:_KEPT_APART]
    result: dict[str, Any] = {
        "real_texts": len(texts),
        "encoded_a_second": round(rate),
        "neighbours": {
            "real": _nearness(vectors[_KEPT_APART:], queries),
            "made": _nearness(make(len(vectors) - _KEPT_APART, np.random.default_rng(1)), queries),
        },
        "vectors": _vectors(count, make, queries),
        "words": _words(count),
    }
    if count <= _WHOLE:
        result["whole"] = _whole(count, make, encoder)
    return {f"scale {count}": result}


def maker(pool: FloatMatrix) -> Callable[[int, np.random.Generator], FloatMatrix]:
    """A function that makes unit vectors like those of `pool`."""
    index = faiss.IndexFlatIP(pool.shape[1])
    index.add(pool)
    _, found = index.search(pool, _NEIGHBOURS + 1)
    near = found[:, 1:]

    def make(count: int, dice: np.random.Generator) -> FloatMatrix:
        rows, others = dice.integers(len(pool), size=(2, count))
        beside = near[rows, dice.integers(_NEIGHBOURS, size=count)]
        beside_others = near[others, dice.integers(_NEIGHBOURS, size=count)]
        share = dice.uniform(0, 0.5, (count, 1)).astype(np.float32)
        sign = dice.choice([-0.5, 0.5], (count, 1)).astype(np.float32)
        made = (1 - share) * pool[rows] + share * pool[beside] + sign * (pool[others] - pool[beside_others])
        unit: FloatMatrix = made / np.linalg.norm(made, axis=1, keepdims=True)
        return unit

    return make


def _nearness(rows: FloatMatrix, queries: FloatMatrix) -> dict[str, float]:
    """Median cosine of the 1st, 10th and 100th neighbour; local intrinsic dimension (Levina and Bickel 2004)."""
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    cosines, _ = index.search(queries, 100)
    far = np.sqrt(np.maximum(2 - 2 * cosines, 1e-9))
    dimension = -1 / np.log(far[:, :-1] / far[:, -1:]).mean(axis=1)
    named = {f"cosine_{place}": round(float(np.median(cosines[:, place - 1])), 3) for place in (1, 10, 100)}
    return {**named, "dimension": round(float(np.median(dimension)), 1)}


def _vectors(count: int, make: Callable[[int, np.random.Generator], FloatMatrix], queries: FloatMatrix) -> Any:
    dice = np.random.default_rng(7)
    rows = np.concatenate([make(min(_AT_ONCE, count - start), dice) for start in range(0, count, _AT_ONCE)])
    exact = np.concatenate([_exact(rows, some) for some in np.array_split(queries, 10)])
    started = perf_counter()
    index = VectorIndex(rows, rows.shape[1])
    built = perf_counter() - started
    packed = index.packed()
    del rows
    found, milliseconds = [], []
    for query, right in zip(queries, exact, strict=True):
        started = thread_time()
        nearest = index.nearest(query, 10)
        milliseconds.append((thread_time() - started) * 1000)
        found.append(len({*nearest.tolist()} & {*right.tolist()}) / 10)
    return {
        "recall_at_10": round(float(np.mean(found)), 4),
        "ms_p50": round(float(np.median(milliseconds)), 2),
        "ms_p95": round(float(np.quantile(milliseconds, 0.95)), 2),
        "megabytes": round((packed.nbytes if packed is not None else count * queries.shape[1] * 5) / 1e6),
        "build_seconds": round(built, 1),
    }


def _exact(rows: FloatMatrix, queries: FloatMatrix) -> Any:
    cosines = np.concatenate(
        [queries @ rows[start : start + _AT_ONCE].T for start in range(0, len(rows), _AT_ONCE)], axis=1
    )
    return np.argpartition(-cosines, 10, axis=1)[:, :10]


def made_texts(count: int) -> list[str]:
    dice = random.Random(0)  # noqa: S311
    sentences = [text for text in demo_texts() if len(text) > 40]
    vocabulary = [word for text in sentences for word in text.split()]

    def changed(word: str) -> str:
        chance = dice.random()
        if chance > 1 / 3:
            return word
        return dice.choice(vocabulary) if chance > 1 / 10 else word[:4] + dice.choice(vocabulary)[-5:].lower()

    return [
        " ".join(changed(word) for text in dice.sample(sentences, 3) for word in text.split()) for _ in range(count)
    ]


def _words(count: int) -> dict[str, float]:
    started = perf_counter()
    index = LexicalIndex.build([stems(text) for text in made_texts(count)], k1=0.9, b=0.4)
    built = perf_counter() - started
    milliseconds = []
    for text in _questions():
        terms = dict.fromkeys(stems(text), 1.0)
        started = thread_time()
        index.find(terms).top(24)
        milliseconds.append((thread_time() - started) * 1000)
    own = index.postings
    return {
        "ms_p50": round(float(np.median(milliseconds)), 2),
        "megabytes": round((own.documents.nbytes + own.weights.nbytes + own.starts.nbytes) / 1e6),
        "build_seconds": round(built, 1),
        "peak_megabytes_of_the_process": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000),
    }


def _questions() -> list[str]:
    every = [text for article in load_articles(DATA / "kb").articles for text in article.questions]
    return random.Random(0).sample(every, 300)  # noqa: S311


class _MadeEncoder:
    """Made vectors for a whole base, real ones for the few texts of a question or an edit."""

    def __init__(self, make: Callable[[int, np.random.Generator], FloatMatrix], encoder: Encoder) -> None:
        self._make, self._encoder = make, encoder
        self._dice = np.random.default_rng(3)
        self.name = self.fingerprint = "made"
        self.dim = encoder.dim

    def encode(self, texts: Sequence[str], kind: TextKind = "query") -> FloatMatrix:
        return self._make(len(texts), self._dice) if len(texts) > 64 else self._encoder.encode(texts, kind)


def _search_times(index: SearchIndex, texts: Sequence[str]) -> list[float]:
    """Milliseconds of each search without encoding, after one round to warm up."""
    keeping = KeepingEncoder(index.encoder)
    view = index.with_encoder(keeping)
    found = []
    for text in (*texts, *texts):
        keeping.encode(list(map(view.corrected, view.readings_searched(text))), "query")
        started = thread_time()
        view.search_without(text)
        found.append((thread_time() - started) * 1000)
    return found[len(texts) :]


def _whole(count: int, make: Callable[[int, np.random.Generator], FloatMatrix], encoder: Encoder) -> dict[str, Any]:
    articles = [
        Article(f"a{number}", "ru", text[:60], text, questions=(text[60:120],))
        for number, text in enumerate(made_texts(count))
    ]
    made = _MadeEncoder(make, encoder)
    started = perf_counter()
    index = SearchIndex.build(articles, made)
    built = perf_counter() - started
    milliseconds = _search_times(index, _questions())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = perf_counter()
        save_index(index, folder)
        saved = perf_counter() - started
        follower = load_index(folder, made)
        loaded = perf_counter() - started - saved
        edits = []
        for number in range(5):
            body = f"Теперь санки номер {number} выдают напрокат у катка.\n\nЗалог вернут, когда санки сданы."
            articles[number] = Article(
                f"a{number}", "ru", f"Прокат санок {number}", body, questions=("где взять санки",)
            )
            started = perf_counter()
            index = index.updated(articles)
            save_index(index, folder)
            follower = load_index(folder, made, previous=follower)
            hits = follower.search(f"прокат санок номер {number} у катка", limit=5)
            edits.append(perf_counter() - started)
            assert f"a{number}" in {hit.article_id for hit in hits}  # noqa: S101
    return {
        "search_ms_p50": round(float(np.median(milliseconds)), 2),
        "search_ms_p95": round(float(np.quantile(milliseconds, 0.95)), 2),
        "passages": len(index.passages),
        "build_seconds": round(built, 1),
        "passages_indexed_a_second": round(count / built),
        "save_seconds": round(saved, 1),
        "load_seconds": round(loaded, 1),
        "edited_article_found_seconds": [round(seconds, 2) for seconds in edits],
    }
