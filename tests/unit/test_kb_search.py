import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kb_samples import SUBJECTS, LetterEncoder, shop

from kb_index.articles import Article
from kb_index.encoder import FloatMatrix, TextKind
from kb_index.errors import ForeignSnapshotError, KnowledgeBaseError, RankerError, TornSnapshotError
from kb_index.evaluation import PassageRow, QueryRow, evaluate_index, evaluate_search, passage_row, query_row
from kb_index.explain import explain
from kb_index.memory import QuestionMemory
from kb_index.noise import rough_copies
from kb_index.ranker import EVIDENCE, Ranker
from kb_index.ranker_training import LabelledQuestion, gather_lessons, train_ranker
from kb_index.search import SearchIndex
from kb_index.snapshot import load_index, save_index
from nlu.aside import Aside


@pytest.fixture(scope="module")
def index() -> SearchIndex:
    return SearchIndex.build(shop(), LetterEncoder())


def labelled() -> list[LabelledQuestion]:
    return [
        LabelledQuestion(text, article.lang, frozenset({article.id}))
        for article in shop()
        for text in (*article.questions, article.title)
    ] + [LabelledQuestion(text, "ru", frozenset()) for text in ("какая погода", "кто президент", "расскажи анекдот")]


def test_a_question_finds_its_article_in_the_language_asked_for(index: SearchIndex) -> None:
    first, *rest = index.search("когда привезут мою посылку?", lang="ru")
    assert (first.article_id, first.lang, first.title, first.topic) == (
        "delivery",
        "ru",
        "Сроки доставки",
        "topic-delivery",
    )
    assert first.passage.text == "Доставим за три дня курьером до двери."
    assert first.matched_question == "когда привезут посылку"
    assert first.matched_words == ("когда", "привезут", "посылку")
    assert "delivery" not in [hit.article_id for hit in rest]


def test_the_versions_of_one_article_are_one_hit_shown_in_the_wanted_language(index: SearchIndex) -> None:
    hits = index.search("when will my parcel come", lang="ru", limit=10)
    assert sorted(hit.article_id for hit in hits) == sorted(set(SUBJECTS))
    assert hits[0].article_id == "delivery"
    assert hits[0].lang == "ru"


def test_the_language_of_the_text_is_shown_when_none_is_wanted_and_any_when_there_is_no_choice() -> None:
    both = SearchIndex.build(shop(), LetterEncoder())
    assert both.search("refund to my card")[0].lang == "en"
    russian = SearchIndex.build([article for article in shop() if article.lang == "ru"], LetterEncoder())
    assert russian.search("возврат на карту", lang="en")[0].lang == "ru"


@pytest.mark.parametrize(
    "text", ["rjulf ghbdtpen gjcskre", "kogda privezut posylku", "КОГДА ПРИВЕЗУУУТ ПОСЫЛКУ", "когда превезут пасылку"]
)
def test_layout_slips_latin_letters_capitals_and_typos_are_understood(index: SearchIndex, text: str) -> None:
    assert index.search(text, lang="ru")[0].article_id == "delivery"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "😀😀",
        "?!",
        "\x00",
        "\ud800",
        "x" * 100_000,
        "слово " * 20_000,
        "<script>alert(1)</script>",
        "{{ 7*7 }}",
        "\u202eabc",
        "ﷺ" * 500,
    ],
)
def test_no_text_makes_search_raise(index: SearchIndex, text: str) -> None:
    for hit in index.search(text, evidence={"unknown": 1.0}):
        assert 0 <= hit.confidence <= 1


def test_an_empty_knowledge_base_gives_no_hits() -> None:
    empty = SearchIndex.build([], LetterEncoder())
    assert empty.search("где мой заказ") == ()
    drafts = SearchIndex.build([replace(article, status="draft") for article in shop()], LetterEncoder())
    assert drafts.search("где мой заказ") == ()


def test_one_article_without_questions_is_enough() -> None:
    index = SearchIndex.build([Article("a", "en", "", "The shop opens at nine.")], LetterEncoder())
    (hit,) = index.search("when does the shop open")
    assert hit.article_id == "a"
    assert hit.matched_question is None


def test_intent_evidence_lifts_its_article(index: SearchIndex) -> None:
    def confidence(article_id: str, evidence: dict[str, float]) -> float:
        hits = index.search("подскажите как", evidence=evidence, limit=9)
        return next((hit.confidence for hit in hits if hit.article_id == article_id), 0.0)

    for article_id in ("bonus", "refund"):
        assert confidence(article_id, {article_id: 1.0}) > confidence(article_id, {})


def test_hits_come_in_order_of_confidence_and_the_same_every_time(index: SearchIndex) -> None:
    hits = index.search("вернуть деньги за сломанный чайник", limit=5)
    confidences = [hit.confidence for hit in hits]
    assert confidences == sorted(confidences, reverse=True)
    assert hits == index.search("вернуть деньги за сломанный чайник", limit=5)
    assert len(index.search("вернуть деньги", limit=2)) == 2


def test_a_hidden_question_and_a_hidden_article_take_no_part(index: SearchIndex) -> None:
    text = "куда делись мои баллы"
    open_hit = index.search(text)[0]
    hidden_hit = next(hit for hit in index.search_without(text, questions=(text,)) if hit.article_id == "bonus")
    assert open_hit.scores.question_cosine > 0.99
    assert hidden_hit.scores.question_cosine < 0.9
    assert hidden_hit.matched_question != text
    assert "bonus" not in [hit.article_id for hit in index.search_without(text, article_ids=("bonus",), limit=9)]


def test_leaving_questions_out_of_the_memory_is_exact() -> None:
    texts = [text for article in shop() for text in article.questions]
    owners = np.array([number // 4 for number in range(len(texts))], dtype=np.int64)
    vectors = LetterEncoder().encode(texts)
    hidden = [0, 3, 7]
    kept = [number for number in range(len(texts)) if number not in hidden]

    nothing: list[list[str]] = [[] for _ in texts]
    whole = QuestionMemory(vectors, nothing, nothing, owners, len(SUBJECTS))
    query = LetterEncoder().encode(["когда вернут посылку"])[0]
    centred = whole._vectors[kept]
    kernel = np.exp(2.5 * (centred @ centred.T - 1)) + 0.5 * np.eye(len(kept))
    targets = np.eye(len(SUBJECTS))[owners[kept]]
    unit = (query - whole._mean) / np.linalg.norm(query - whole._mean)
    expected = np.exp(2.5 * (centred @ unit - 1)) @ np.linalg.solve(kernel, targets)
    np.testing.assert_allclose(whole.answers(query, {}, {}, np.zeros(0, np.int64), hidden), expected, atol=1e-4)


def test_a_large_memory_answers_from_the_neighbours_of_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kb_index.memory._MOST_ROWS", 5)
    monkeypatch.setattr("kb_index.search.NEIGHBOURS", 6)
    index = SearchIndex.build(shop(), LetterEncoder())
    assert index.search("сбросить пароль")[0].article_id == "password"


def test_training_gives_confidence_that_tells_known_from_unknown(index: SearchIndex) -> None:
    training = train_ranker(index, labelled())
    trained = index.with_ranker(training.ranker)

    def mean_confidence(texts: Sequence[str]) -> float:
        return float(np.mean([trained.search(text)[0].confidence for text in texts]))

    known = mean_confidence(["когда привезут мою посылку", "сбросить пароль", "как потратить баллы", "refund to card"])
    assert known > 1.5 * mean_confidence(["какая завтра погода", "кто президент", "расскажи анекдот", "who are you"])
    assert len(training.out_of_fold) == len(labelled())
    assert len(training.rehearsals) > len(labelled())
    assert any(not rehearsal.question.article_ids for rehearsal in training.rehearsals)


def test_the_same_examples_and_seed_give_the_same_ranker(index: SearchIndex) -> None:
    again = gather_lessons(index, labelled(), seed=3, workers=2)
    assert train_ranker(index, labelled(), seed=3) == Aside(again.learn).result(), "in several processes too"


def test_too_few_examples_are_refused(index: SearchIndex) -> None:
    with pytest.raises(RankerError, match="at least"):
        train_ranker(index, labelled()[:5])


def test_an_untrained_ranker_is_never_sure(index: SearchIndex) -> None:
    assert index.search("когда привезут посылку")[0].confidence <= 0.5


def test_a_ranker_survives_being_saved_and_a_torn_one_is_named(index: SearchIndex, tmp_path: Path) -> None:
    ranker = train_ranker(index, labelled()).ranker
    path = tmp_path / "ranker.json"
    ranker.save(path)
    assert Ranker.load(path) == ranker
    Ranker().save(path)
    assert Ranker.load(path) == Ranker()
    path.write_text(path.read_text()[:40])
    with pytest.raises(RankerError, match=r"ranker\.json"):
        Ranker.load(path)
    path.write_text(json.dumps({"format": 1, "evidence": list(EVIDENCE)[:-1]}))
    with pytest.raises(RankerError, match="another format"):
        Ranker.load(path)


def test_rough_copies_are_the_same_for_the_same_dice_and_mostly_differ_from_the_text() -> None:
    import random

    text = "Как мне вернуть деньги за сломанный чайник?"
    copies = rough_copies(text, random.Random(1), count=20)  # noqa: S311
    assert copies == rough_copies(text, random.Random(1), count=20)  # noqa: S311
    assert sum(copy != text for copy in copies) > 15


def test_a_saved_index_searches_as_before(index: SearchIndex, tmp_path: Path) -> None:
    save_index(index, tmp_path)
    loaded = load_index(tmp_path, LetterEncoder())
    assert loaded.search("сбросить пароль") == index.search("сбросить пароль")
    assert loaded.articles == index.articles


def test_a_new_snapshot_replaces_the_old_one_and_keeps_no_heap_of_versions(index: SearchIndex, tmp_path: Path) -> None:
    for count in (2, 4, 6):
        save_index(SearchIndex.build(shop()[:count], LetterEncoder()), tmp_path)
    assert len(load_index(tmp_path, LetterEncoder()).articles) == 6
    assert len(list(tmp_path.glob("v-*"))) == 2
    assert list(tmp_path.glob(".draft*")) == []


def test_a_snapshot_of_another_encoder_is_refused(index: SearchIndex, tmp_path: Path) -> None:
    save_index(index, tmp_path)
    other = LetterEncoder()
    other.fingerprint = "letters-2"
    with pytest.raises(ForeignSnapshotError, match="encoder"):
        load_index(tmp_path, other)


@pytest.mark.parametrize("name", ["vectors-passages.npy", "articles.json", "manifest.json"])
def test_a_torn_snapshot_is_refused(index: SearchIndex, tmp_path: Path, name: str) -> None:
    save_index(index, tmp_path)
    (path,) = tmp_path.glob(f"v-*/{name}")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(TornSnapshotError):
        load_index(tmp_path, LetterEncoder())
    with pytest.raises(TornSnapshotError):
        load_index(tmp_path / "none", LetterEncoder())
    save_index(index, tmp_path)
    assert load_index(tmp_path, LetterEncoder()).articles == index.articles


def test_progress_counts_every_text_once() -> None:
    told: list[tuple[int, int]] = []
    SearchIndex.build(shop(), LetterEncoder(), progress=lambda done, of: told.append((done, of)))
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def test_evaluation_counts_what_is_found(index: SearchIndex) -> None:
    passages = [PassageRow("a", "The courier brings parcels."), PassageRow("b", "Passwords are reset by email.")]
    queries = [
        QueryRow("who brings the parcels", "a"),
        QueryRow("how are passwords reset", "a", ("b",)),
        QueryRow("courier", "b"),
        QueryRow("courier", "missing"),
    ]
    report = evaluate_search(passages, queries, LetterEncoder())
    assert (report.r_at_1, report.r_at_3, report.n_passages, report.n_queries) == (0.5, 0.75, 2, 4)
    assert report.mrr_at_10 == pytest.approx((1 + 1 + 0.5 + 0) / 4)
    assert report.search_ms_p50 > 0
    rows = [QueryRow(text, article.id) for article in shop() for text in article.questions]
    assert evaluate_index(index, rows).r_at_1 == 1.0


def test_rows_of_evaluation_files_are_read_and_a_missing_key_is_named() -> None:
    assert passage_row({"id": 1, "text": "t"}) == PassageRow("1", "t")
    assert query_row({"text": "t", "article_id": None}) is None
    assert query_row({"text": "t", "passage_id": "p", "alt_ids": ["q"]}) == QueryRow("t", "p", ("q",))
    with pytest.raises(KnowledgeBaseError, match="'id'"):
        passage_row({"text": "t"})
    with pytest.raises(KnowledgeBaseError, match="'text'"):
        query_row({"passage_id": "p"})
    with pytest.raises(KnowledgeBaseError, match="no query"):
        evaluate_search([PassageRow("a", "text")], [], LetterEncoder())


def test_only_what_changed_is_encoded_again(index: SearchIndex) -> None:
    class CountingEncoder(LetterEncoder):
        def __init__(self) -> None:
            self.seen: list[str] = []

        def encode(self, texts: Sequence[str], kind: TextKind = "query") -> FloatMatrix:
            self.seen.extend(texts)
            return super().encode(texts, kind)

    counting = CountingEncoder()
    edited = [
        replace(article, questions=(*article.questions, "новый вопрос про ремонт"))
        if article.title == "Гарантия"
        else article
        for article in shop()
    ]
    rebuilt = SearchIndex.build(edited, counting, previous=index)
    assert counting.seen == ["новый вопрос про ремонт"]
    np.testing.assert_array_equal(
        rebuilt.base.vectors.questions, SearchIndex.build(edited, LetterEncoder()).base.vectors.questions
    )


def test_a_misspelt_word_is_encoded_as_the_articles_spell_it_but_a_word_of_the_dictionary_stays() -> None:
    index = SearchIndex.build(shop(), LetterEncoder())
    assert index.corrected("когда превезут пасылку, мост?") == "когда привезут посылку, мост?"
    assert index.corrected("my kettel brok, waranty") == "my kettle broke, warranty"
    assert index.corrected("sbrosit 12345 🙂") == "sbrosit 12345 🙂"


@pytest.mark.parametrize("is_trained", [False, True])
def test_an_explanation_has_the_hits_of_the_search_and_reasons_that_add_up(
    index: SearchIndex, is_trained: bool
) -> None:
    used = index.with_ranker(train_ranker(index, labelled()).ranker) if is_trained else index
    text = "когда превезут мою посылку"
    explanation = explain(used, text, lang="ru", evidence={"delivery": 0.9})
    assert tuple(each.hit for each in explanation.hits) == used.search(text, lang="ru", evidence={"delivery": 0.9})
    assert explanation.likely_words == {"превезут": ("привезут",)}
    for each in explanation.hits:
        assert {reason.name for reason in each.reasons} == set(EVIDENCE)
        assert each.score == pytest.approx(sum(reason.contribution for reason in each.reasons))
    scores = [each.score for each in explanation.hits]
    assert scores == sorted(scores, reverse=True)
    courier = explain(used, "за три дня довезёт курьер", lang="ru").hits[0]
    marked = [courier.hit.passage.text[start:end] for start, end in courier.highlights]
    assert marked == ["за", "три", "дня", "курьером"]


def test_an_explanation_names_the_reading_that_was_meant(index: SearchIndex) -> None:
    explanation = explain(index, "rjulf ghbdtpen gjcskre")
    assert explanation.reading == "когда привезут посылку"
    assert [reading.text for reading in explanation.readings] == ["rjulf ghbdtpen gjcskre", "когда привезут посылку"]
    assert explain(index, "?!").hits == ()


def test_a_question_that_repeats_is_answered_from_memory_and_never_after_a_change() -> None:
    index = SearchIndex.build(shop(), LetterEncoder())
    first = index.search("сбросить пароль")
    assert index.search("сбросить пароль ") is first
    assert index.search("сбросить пароль", evidence={"bonus": 1.0}) is not first
    without = index.updated([article for article in shop() if article.id != "password"])
    assert "password" not in {hit.article_id for hit in without.search("сбросить пароль")}


def test_queries_that_are_searched_together_find_what_each_finds_alone(index: SearchIndex) -> None:
    updated = index.updated([article for article in shop() if article.id != "bonus"])
    for view in (index, updated):
        alone = [query for text in ("сбросить пароль", "when will my parcel come") for query in view.queries(text)]
        for one, query in zip(alone, view.together(alone), strict=True):
            assert query.cosines
            found, expected = view.candidates(query), view.candidates(one)
            np.testing.assert_array_equal(found.groups, expected.groups)
            np.testing.assert_allclose(found.evidence, expected.evidence, atol=1e-5)


def test_each_article_is_weighed_by_its_own_questions_and_passages_and_one_without_questions_by_its_text() -> None:
    silent = Article("silent", "ru", "", "Посылку привезут на тележке.")
    index = SearchIndex.build([*shop(), silent], LetterEncoder())
    (query,) = index.queries("когда привезут посылку")
    found, base = index.candidates(query), index.base
    assert silent.id in {index.ids[group] for group in found.groups}
    for row, group in enumerate(found.groups.tolist()):
        asked = np.flatnonzero(base.owners == group)
        cosines = base.vectors.questions[asked] @ query.vector
        said = base.vectors.passages[base.passage_bounds[group] : base.passage_bounds[group + 1]] @ query.vector
        values = dict(zip(EVIDENCE, found.evidence[row].tolist(), strict=True))
        three = np.sort(cosines)[-3:]
        assert values["question"] == pytest.approx(max(cosines, default=0), abs=1e-6)
        assert values["questions"] == pytest.approx(three.mean() if len(three) else 0, abs=1e-6)
        assert values["passage"] == pytest.approx(max(said), abs=1e-6)
        assert found.best_questions[row] == (asked[cosines.argmax()] if len(asked) else -1)
