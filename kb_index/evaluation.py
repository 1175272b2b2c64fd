"""How well search finds: passages for a set of queries, and articles for labelled questions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np

from kb_index.articles import Article
from kb_index.encoder import Encoder, FloatMatrix, TextKind
from kb_index.errors import KnowledgeBaseError
from kb_index.normalise import script_of
from kb_index.search import SearchIndex

_DEPTH = 10


@dataclass(frozen=True)
class PassageRow:
    """One passage to be found."""

    id: str
    text: str


@dataclass(frozen=True)
class QueryRow:
    """A query and the id of the passage, or article, that answers it; `alt_ids` count as right too."""

    text: str
    right_id: str
    alt_ids: tuple[str, ...] = ()
    lang: str | None = None


@dataclass(frozen=True)
class SearchReport:
    """Shares 0..1 of the queries whose answer is among the first 1, 3, 5; mean reciprocal rank within ten.

    `search_ms_p50` is the median time of one search without encoding, in milliseconds.
    """

    r_at_1: float
    r_at_3: float
    r_at_5: float
    mrr_at_10: float
    search_ms_p50: float
    n_passages: int
    n_queries: int


class KeepingEncoder:
    """An encoder that keeps what it has encoded, so that search can be timed without encoding."""

    def __init__(self, encoder: Encoder) -> None:
        self.name = encoder.name
        self.fingerprint = encoder.fingerprint
        self.dim = encoder.dim
        self._encoder = encoder
        self._kept: dict[tuple[TextKind, str], FloatMatrix] = {}

    def encode(self, texts: Sequence[str], kind: TextKind = "query") -> FloatMatrix:
        new = [text for text in dict.fromkeys(texts) if (kind, text) not in self._kept]
        if new:
            self._kept.update(zip([(kind, text) for text in new], self._encoder.encode(new, kind), strict=True))
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        return np.stack([self._kept[kind, text] for text in texts])


def passage_row(row: Mapping[str, object]) -> PassageRow:
    """From a row of JSON lines: {"id", "text"}. Raises KnowledgeBaseError naming the missing key."""
    return PassageRow(str(_value(row, "id")), str(_value(row, "text")))


def query_row(row: Mapping[str, object]) -> QueryRow | None:
    """From a row {"text", "passage_id" or "article_id", "alt_ids"?, "lang"?}; None when nothing answers it."""
    key = "passage_id" if "passage_id" in row else "article_id"
    if _value(row, key) is None:
        return None
    alternatives = row.get("alt_ids") or ()
    if not isinstance(alternatives, Sequence) or isinstance(alternatives, str):
        raise KnowledgeBaseError("alt_ids is not a list")
    lang = row.get("lang")
    return QueryRow(str(_value(row, "text")), str(row[key]), tuple(map(str, alternatives)), str(lang) if lang else None)


def evaluate_search(passages: Sequence[PassageRow], queries: Sequence[QueryRow], encoder: Encoder) -> SearchReport:
    """Index bare passages, without training, and search for each query. Raises KnowledgeBaseError without queries."""
    articles = [Article(passage.id, script_of(passage.text), "", passage.text) for passage in passages]
    keeping = KeepingEncoder(encoder)
    return evaluate_index(SearchIndex.build(articles, keeping), queries)


def evaluate_index(index: SearchIndex, queries: Sequence[QueryRow]) -> SearchReport:
    """Search an index for each query and compare article ids. Raises KnowledgeBaseError when there are no queries."""
    if not queries:
        raise KnowledgeBaseError("There is no query to evaluate with.")
    keeping = index.encoder if isinstance(index.encoder, KeepingEncoder) else KeepingEncoder(index.encoder)
    view = index.with_encoder(keeping)
    view.queries_of([query.text for query in queries])
    ranks: list[float] = []
    milliseconds: list[float] = []
    for query in queries:
        keeping.encode(list(map(view.corrected, view.readings_searched(query.text))), "query")
        started = perf_counter()
        hits = view.search_without(query.text, lang=query.lang, limit=_DEPTH)  # not from what is remembered
        milliseconds.append((perf_counter() - started) * 1000)
        right = {query.right_id, *query.alt_ids}
        ranks.append(next((place for place, hit in enumerate(hits, 1) if hit.article_id in right), float("inf")))
    found = np.array(ranks)
    return SearchReport(
        r_at_1=float((found <= 1).mean()),
        r_at_3=float((found <= 3).mean()),
        r_at_5=float((found <= 5).mean()),
        mrr_at_10=float((1 / found).mean()),
        search_ms_p50=median(milliseconds),
        n_passages=len(index.passages),
        n_queries=len(queries),
    )


def _value(row: Mapping[str, object], key: str) -> object:
    if key not in row:
        raise KnowledgeBaseError(f"a row has no {key!r}: {sorted(row)}")
    return row[key]
