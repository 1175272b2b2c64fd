"""Edited articles: what is searched afterwards, what is encoded, what is written, and what another process reads."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
from kb_samples import LetterEncoder, shop

from bot.settings import Settings
from bot.wiring import Installation
from kb_index.articles import Article
from kb_index.encoder import FloatMatrix, TextKind
from kb_index.errors import TornSnapshotError
from kb_index.lexical import LexicalIndex
from kb_index.memory import QuestionMemory
from kb_index.search import Confirmed, SearchIndex, with_confirmed
from kb_index.snapshot import live_version, load_index, save_index
from kb_index.vectors import VectorIndex

SLEDGE = Article(
    "sledge",
    "ru",
    "Аренда санок",
    "Санки выдаём на сутки под залог, в пункте у катка.",
    questions=("можно ли взять санки напрокат",),
)


class CountingEncoder(LetterEncoder):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def encode(self, texts: Sequence[str], kind: TextKind = "query") -> FloatMatrix:
        self.seen.extend(texts)
        return super().encode(texts, kind)


def edited() -> list[Article]:
    """The shop with one article new, one gone and one with another text."""
    kept = [article for article in shop() if article.id != "bonus"]
    return [
        replace(article, body="Вернём деньги наличными в кассе.") if article.title == "Возврат денег" else article
        for article in kept
    ] + [SLEDGE]


def test_an_edited_article_is_found_a_removed_one_is_not_and_only_new_texts_are_encoded() -> None:
    encoder = CountingEncoder()
    index = SearchIndex.build(shop(), encoder)
    encoder.seen.clear()
    updated = index.updated(edited())
    assert sorted(encoder.seen) == sorted(
        {
            "Вернём деньги наличными в кассе.",
            "Возврат денег\nВернём деньги наличными в кассе.",
            "Санки выдаём на сутки под залог, в пункте у катка.",
            "Аренда санок\nСанки выдаём на сутки под залог, в пункте у катка.",
            *("Аренда санок", "можно ли взять санки напрокат"),
        }
    )
    assert updated.search("можно взять напрокат санки?")[0].article_id == "sledge"
    assert updated.search("возврат на карту", lang="ru")[0].passage.text == "Вернём деньги наличными в кассе."
    assert "bonus" not in {hit.article_id for hit in updated.search("куда делись мои баллы", limit=20)}
    assert updated.known_ids == {article.id for article in edited()}
    assert sorted(updated.articles, key=lambda each: (each.id, each.lang)) == sorted(
        edited(), key=lambda each: (each.id, each.lang)
    )
    # The index that others are searching with is as it was.
    assert index.search("куда делись мои баллы")[0].article_id == "bonus"


def test_an_index_with_edits_finds_what_one_made_anew_finds() -> None:
    updated = SearchIndex.build(shop(), LetterEncoder()).updated(edited())
    anew = SearchIndex.build(edited(), LetterEncoder())
    for text in [text for article in edited() for text in (article.title, *article.questions)]:
        ours, theirs = updated.search(text, limit=3), anew.search(text, limit=3)
        assert ours[0].article_id == theirs[0].article_id
        assert ours[0].scores.passage_cosine == pytest.approx(theirs[0].scores.passage_cosine, abs=1e-5)
        assert ours[0].matched_question == theirs[0].matched_question
    assert updated.compact().search("сбросить пароль") == anew.search("сбросить пароль")


def test_edits_follow_edits_and_nothing_changed_gives_the_same_index() -> None:
    index = SearchIndex.build(shop(), LetterEncoder())
    assert index.updated(shop()) is index
    twice = index.updated(edited()).updated([*edited(), replace(SLEDGE, id="skates", title="Аренда коньков")])
    assert {"sledge", "skates"} <= {hit.article_id for hit in twice.search("аренда", limit=9)}
    back = twice.updated(shop())
    assert back.search("куда делись мои баллы")[0].article_id == "bonus"
    assert back.known_ids == index.known_ids


def test_a_draft_leaves_the_index_and_an_emptied_base_finds_nothing() -> None:
    index = SearchIndex.build(shop(), LetterEncoder())
    assert (
        "refund"
        not in index.updated(
            [replace(article, status="draft") if article.id == "refund" else article for article in shop()]
        ).known_ids
    )
    assert index.updated([]).search("когда вернут деньги") == ()
    assert SearchIndex.build([], LetterEncoder()).updated(shop()).search("сбросить пароль")[0].article_id == "password"


def test_many_edits_are_put_together_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kb_index.search._FRESH_PASSAGES", 1)
    index = SearchIndex.build(shop(), LetterEncoder())
    few = index.updated([*shop(), SLEDGE, replace(SLEDGE, id="other")])
    assert few.is_worn
    assert not few.compact().is_worn
    many = index.updated([*shop(), *(replace(SLEDGE, id=f"sledge-{number}") for number in range(11))])
    assert many.edits is None
    assert many.known_ids > index.known_ids


def test_memory_that_is_updated_answers_as_one_made_anew() -> None:
    encoder = LetterEncoder()
    texts = [text for article in shop() for text in article.questions]
    vectors, query = encoder.encode(texts), encoder.encode(["когда вернут деньги за посылку"])[0]
    owners = np.arange(len(texts), dtype=np.int64) // 4
    gone, first = [1, 5], 14
    nothing: list[list[str]] = [[] for _ in texts]
    memory = QuestionMemory(vectors[:first], nothing[:first], nothing[:first], owners[:first], 5)
    updated = memory.updated(gone, vectors[first:], nothing[first:], nothing[first:], owners[first:], 5)
    kept = [row for row in range(len(texts)) if row not in gone]
    centred = (vectors - memory._mean) / np.linalg.norm(vectors - memory._mean, axis=1, keepdims=True)
    kernel = np.exp(2.5 * (centred[kept] @ centred[kept].T - 1)) + 0.5 * np.eye(len(kept))
    unit = (query - memory._mean) / np.linalg.norm(query - memory._mean)
    expected = np.exp(2.5 * (centred[kept] @ unit - 1)) @ np.linalg.solve(kernel, np.eye(5)[owners[kept]])
    np.testing.assert_allclose(updated.answers(query, {}, {}, np.zeros(0, np.int64)), expected, atol=1e-4)


def test_documents_beside_an_index_score_as_in_it_and_common_words_count_whatever_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    documents = [article.body.split() for article in shop()]
    index = LexicalIndex.build(documents)
    terms = {"на": 1.0, "за": 0.5, "курьером": 1.0, "unknown": 1.0}
    rows = np.arange(len(documents))
    whole = index.find(terms).of(rows)
    np.testing.assert_allclose(index.beside(documents).find(terms).of(rows), whole, rtol=1e-5)
    monkeypatch.setattr("kb_index.lexical._POSTINGS", 1)
    sparing = index.find(terms)
    np.testing.assert_allclose(sparing.of(rows), whole, rtol=1e-5)
    assert len(sparing.top(3)) == 1
    monkeypatch.setattr("kb_index.lexical._FEW_POSTINGS", 0)
    np.testing.assert_allclose(index.find(terms).of(rows), whole, rtol=1e-5)


def test_a_listed_index_finds_nearly_what_an_exact_one_finds_and_is_kept_as_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dice = np.random.default_rng(0)
    rows = dice.standard_normal((4000, 32)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    exact = VectorIndex(rows, 32)
    monkeypatch.setattr("kb_index.vectors.LISTED_ROWS", 3000)
    listed = VectorIndex(rows, 32)
    again = VectorIndex(rows, 32, index=listed.packed())
    shares = [
        len({*listed.nearest(query, 10).tolist()} & {*exact.nearest(query, 10).tolist()}) / 10 for query in rows[:50]
    ]
    assert np.mean(shares) > 0.9
    np.testing.assert_array_equal(again.nearest(rows[7], 10), listed.nearest(rows[7], 10))
    some = np.array([7, 3999])
    np.testing.assert_allclose(listed.cosines(rows[7], some), exact.cosines(rows[7], some), atol=0.02)
    assert exact.packed() is None


def test_edits_are_saved_beside_the_large_part_which_is_read_once(tmp_path: Path) -> None:
    first = SearchIndex.build(shop(), LetterEncoder())
    save_index(first, tmp_path)
    large = live_version(tmp_path)
    save_index(first.updated(edited()), tmp_path)
    assert live_version(tmp_path) != large
    assert load_index(tmp_path, LetterEncoder()).search("аренда санок")[0].article_id == "sledge"
    shutil.rmtree(tmp_path / str(large))
    follower = load_index(tmp_path, LetterEncoder(), previous=first)
    assert follower.base is first.base
    assert follower.search("аренда санок")[0].article_id == "sledge"
    with pytest.raises(TornSnapshotError):
        load_index(tmp_path, LetterEncoder())


def test_torn_edits_are_refused(tmp_path: Path) -> None:
    first = SearchIndex.build(shop(), LetterEncoder())
    save_index(first, tmp_path)
    save_index(first.updated(edited()), tmp_path)
    torn = tmp_path / str(live_version(tmp_path)) / "vectors-questions.npy"
    torn.write_bytes(torn.read_bytes()[:-4])
    with pytest.raises(TornSnapshotError, match="vectors-questions"):
        load_index(tmp_path, LetterEncoder(), previous=first)


def test_confirmed_questions_are_found_by_and_go_to_the_version_in_their_language() -> None:
    pairs = [
        Confirmed("чайник искрит и пахнет гарью", "ru", "warranty"),
        Confirmed("чайник искрит и пахнет гарью", "ru", "warranty"),
        Confirmed("wo ist mein Kessel", "de", "warranty"),
        Confirmed("кто-то спросил", "ru", "no-such-article"),
    ]
    articles = with_confirmed(shop(), pairs)
    russian, english = (
        next(each for each in articles if (each.id, each.lang) == ("warranty", lang)) for lang in ("ru", "en")
    )
    assert russian.questions == (
        "сломался чайник по гарантии",
        "гарантийный ремонт",
        "чайник искрит и пахнет гарью",
        "wo ist mein Kessel",
    )
    assert english.questions == ("my kettle broke, warranty", "warranty repair")
    index = SearchIndex.build(shop(), LetterEncoder())
    before = index.search("искрит, гарью пахнет")[0]
    after = index.updated(articles).search("искрит, гарью пахнет")[0]
    assert (after.article_id, after.matched_question) == ("warranty", "чайник искрит и пахнет гарью")
    assert after.scores.question_cosine > before.scores.question_cosine


@pytest.fixture
def installations(encoder_folder: Path, tmp_path: Path) -> tuple[Installation, Installation]:
    """Two processes' view of one OTVET_VAR with an empty index."""
    Installation(Settings(_env_file=None, var=encoder_folder.parent)).encoder  # noqa: B018 - prepares it once
    (tmp_path / "encoder").symlink_to(encoder_folder)
    return Installation(Settings(_env_file=None, var=tmp_path)), Installation(Settings(_env_file=None, var=tmp_path))


def test_an_article_edited_in_one_process_is_searched_in_another(
    installations: tuple[Installation, Installation],
) -> None:
    one, other = installations
    articles = list(one.seed.articles.articles)[:20]
    one.sync_index(articles)
    other.sync_index(articles)
    assert "sledge" not in {hit.article_id for hit in other.index.search("аренда санок")}
    started = perf_counter()
    one.sync_index([*articles, SLEDGE])
    other.reload_index()
    assert other.index.search("санки напрокат")[0].article_id == "sledge"
    assert perf_counter() - started < 5  # benchmarks.search measures it; here a base would have to be read anew

    torn = one._index_folder / str(live_version(one._index_folder)) / "manifest.json"
    torn.write_text("{")
    third = Installation(one.settings)
    assert third.sync_index([*articles, SLEDGE]).search("санки напрокат")[0].article_id == "sledge"
    assert load_index(one._index_folder, one.encoder).known_ids == third.index.known_ids


def test_a_small_memory_that_outgrows_itself_is_made_anew() -> None:
    """Thousands of questions beside a few hundred took minutes and gigabytes."""
    index = SearchIndex.build(shop(), LetterEncoder())
    first = index.articles[0]
    many = replace(first, questions=tuple(f"вопрос номер {number} о заказе" for number in range(4100)))
    started = perf_counter()
    other = index.updated([many, *index.articles[1:]])
    assert not other.edits
    assert other.memory.inverse is None
    assert other.holds([many, *index.articles[1:]])
    assert not other.holds(index.articles)
    assert perf_counter() - started < 20
