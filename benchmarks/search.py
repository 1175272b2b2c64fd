"""Search against plain vectors, plain BM25 and their plain sum, on one machine in one run; prints a JSON table.

    python -m benchmarks.search --sets FOLDER       XQuAD from FOLDER/xquad.{ru,en}.{passages,queries}.jsonl
    python -m benchmarks.search --dialogue FILE     articles of data/kb for the labelled questions of FILE
    python -m benchmarks.search --bare              the first paragraph of each demo article, for its example questions
    python -m benchmarks.search --scale 10000       time, memory and recall with so many passages (search_scale.py)

"rough" are the same questions with slips of the keyboard, without punctuation, with greetings (kb_index/noise.py).
Nothing here trains on what it measures: XQuAD is searched by the built-in fusion, the articles by a ranker that learns
from their own example questions.
"""

import argparse
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.search_scale import demo_texts, scale
from kb_index.articles import load_articles
from kb_index.encoder import Encoder, FloatMatrix
from kb_index.evaluation import (
    KeepingEncoder,
    PassageRow,
    QueryRow,
    evaluate_index,
    evaluate_search,
    passage_row,
    query_row,
)
from kb_index.lexical import LexicalIndex, stems
from kb_index.noise import rough_copies
from kb_index.ranker_training import LabelledQuestion, train_ranker
from kb_index.search import SearchIndex
from nlu.encoder import load_encoder

ROOT = Path(__file__).parent.parent
_REAL_TEXTS = 20_000  # more would take minutes to encode


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def plain(
    texts: Sequence[str], ids: Sequence[str], queries: Sequence[QueryRow], encoder: Encoder
) -> dict[str, dict[str, float]]:
    """Recall of vectors alone, of BM25 alone, and of the sum of both, each standardised over all texts."""
    cosines = encoder.encode([query.text for query in queries], "query") @ encoder.encode(texts, "passage").T
    index = LexicalIndex.build([stems(text) for text in texts], k1=1.5, b=0.75)
    everything = np.arange(index.size)
    lexical = np.stack([index.find(Counter(stems(query.text))).of(everything) for query in queries])
    right = np.array([[name in (query.right_id, *query.alt_ids) for name in ids] for query in queries])
    return {
        name: {f"r_at_{depth}": _recall(scores, ids, right, depth) for depth in (1, 3)}
        for name, scores in (
            ("vectors", cosines),
            ("bm25", lexical),
            ("sum", _standard(cosines) + _standard(lexical)),
        )
    }


def _standard(scores: FloatMatrix) -> FloatMatrix:
    spread = scores.std(axis=1, keepdims=True)
    result: FloatMatrix = ((scores - scores.mean(axis=1, keepdims=True)) / np.where(spread > 1e-9, spread, 1)).astype(
        np.float32
    )
    return result


def _recall(scores: FloatMatrix, ids: Sequence[str], right: np.ndarray[Any, Any], depth: int) -> float:
    """Each id counts once, by its best text. Ties fall at random, so that a query nothing speaks for is not a hit."""
    jitter = np.random.default_rng(0).uniform(0, 1e-9, scores.shape)
    found = 0
    for order, own in zip(np.argsort(-(scores + jitter), axis=1), right, strict=True):
        first = list(dict.fromkeys(ids[column] for column in order[: depth * 60]))[:depth]
        found += any(own[column] for column in order[: depth * 60] if ids[column] in first)
    return found / len(scores)


def xquad(folder: Path, encoder: Encoder) -> dict[str, Any]:
    table = {}
    for asked, stored in (("ru", "ru"), ("en", "en"), ("ru", "en")):
        passages = [passage_row(row) for row in rows_of(folder / f"xquad.{stored}.passages.jsonl")]
        queries = [row for raw in rows_of(folder / f"xquad.{asked}.queries.jsonl") if (row := query_row(raw))]
        for name, some in (("", queries), (", rough", rough(queries))):
            ours = evaluate_search(passages, some, encoder)
            baselines = plain([row.text for row in passages], [row.id for row in passages], some, encoder)
            table[f"xquad {asked} to {stored}{name}"] = {**baselines, "ours": asdict(ours)}
    return table


def bare(encoder: Encoder) -> dict[str, Any]:
    """The first paragraph of each demo article alone, asked by its example questions: short texts, as people ask."""
    table = {}
    for lang in ("ru", "en"):
        articles = [article for article in load_articles(ROOT / "data" / "kb").articles if article.lang == lang]
        passages = [PassageRow(each.id, each.body.split("\n\n")[0]) for each in articles]
        queries = [QueryRow(text, each.id) for each in articles for text in each.questions]
        for name, asked in (("", queries), (", rough", rough(queries))):
            table[f"first paragraphs {lang}{name}"] = {
                **plain([row.text for row in passages], [row.id for row in passages], asked, encoder),
                "ours": asdict(evaluate_search(passages, asked, encoder)),
            }
    return table


def rough(queries: Sequence[QueryRow]) -> list[QueryRow]:
    """The same queries as people type them in a hurry (kb_index.noise), the same at every run."""
    return [
        replace(query, text=rough_copies(query.text, random.Random(query.text))[0])  # noqa: S311
        for query in queries
    ]


def dialogue(path: Path, encoder: Encoder) -> dict[str, Any]:
    articles = load_articles(ROOT / "data" / "kb").articles
    index = SearchIndex.build(articles, encoder)
    questions = [
        LabelledQuestion(text, article.lang, frozenset({article.id}))
        for article in articles
        for text in article.questions
    ]
    started = perf_counter()
    trained = index.with_ranker(train_ranker(index, questions).ranker)
    seconds = perf_counter() - started
    ids = [passage.article_id for passage in index.passages]
    texts = [passage.plain for passage in index.passages]
    table: dict[str, Any] = {"train_seconds": round(seconds, 1)}
    for lang in ("ru", "en"):
        queries = [row for raw in rows_of(path) if raw["lang"] == lang and (row := query_row(raw))]
        table[f"articles {lang}"] = {
            **plain(texts, ids, queries, encoder),
            "untrained": asdict(evaluate_index(index, queries)),
            "ours": asdict(evaluate_index(trained, queries)),
            "ours, rough": asdict(evaluate_index(trained, rough(queries))),
        }
    return table


def real_texts(sets: Path | None) -> list[str]:
    """Texts of the demo shop and of the public sets, in an order of chance; at most _REAL_TEXTS."""
    found = demo_texts()
    for path in sorted(sets.glob("*.jsonl")) if sets else ():
        found += [str(row["text"]) for row in rows_of(path) if len(str(row["text"])) < 300]
    found = list(dict.fromkeys(found))
    random.Random(0).shuffle(found)  # noqa: S311
    return found[:_REAL_TEXTS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=Path)
    parser.add_argument("--dialogue", type=Path)
    parser.add_argument("--bare", action="store_true")
    parser.add_argument("--scale", type=int)
    parser.add_argument("--texts", type=Path, help="folder of further real texts (*.jsonl) for --scale")
    parser.add_argument("--encoder-folder", type=Path, default=ROOT / "var" / "encoder")
    chosen = parser.parse_args()
    table: dict[str, Any] = {}
    encoder = KeepingEncoder(load_encoder(chosen.encoder_folder))
    if chosen.scale:
        table |= scale(chosen.scale, encoder, real_texts(chosen.texts))
    if chosen.sets:
        table |= xquad(chosen.sets, encoder)
    if chosen.bare:
        table |= bare(encoder)
    if chosen.dialogue:
        table |= dialogue(chosen.dialogue, encoder)
    print(json.dumps(table, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
