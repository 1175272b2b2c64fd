"""What lies between the models and the decision: evidence, topics, sentences, the seed data."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bot.dialogue import Outcome
from bot.errors import NotReadyError
from bot.models.training import load_seed
from bot.models.understanding import evidence_of, split_questions
from bot.settings import Settings
from bot.wiring import Installation
from kb_index.articles import Article, ArticleFile
from kb_index.search import SearchIndex
from nlu.intents import IntentPrediction
from nlu.models import ModelVersion

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("где мой заказ", ["где мой заказ"]),
        ("Где мой заказ? И как вернуть чайник?", ["Где мой заказ?", "И как вернуть чайник?"]),
        ("hi! where is my order", ["hi! where is my order"]),
        ("заказ 3321 отменили\nверните человека", ["заказ 3321 отменили", "верните человека"]),
    ],
)
def test_a_message_is_cut_into_what_could_be_questions(text: str, parts: list[str]) -> None:
    assert split_questions(text) == parts


def test_a_long_story_gives_a_few_parts_at_most() -> None:
    assert len(split_questions("Вот такая история. " * 50)) == 4


OUTCOMES = {
    "late": Outcome(article="delivery-late"),
    "article:delivery-late": Outcome(article="delivery-late"),
    "thanks": Outcome(reply="thanks"),
}


def test_intents_that_lead_to_one_article_add_up_and_out_of_scope_takes_its_share() -> None:
    ranking = (("late", 0.5), ("article:delivery-late", 0.3), ("thanks", 0.2))
    surely_in_scope = IntentPrediction(ranking, confidence=0.5)
    assert evidence_of(surely_in_scope, OUTCOMES) == pytest.approx({"delivery-late": 0.8})
    half_in_scope = IntentPrediction(ranking, confidence=0.25)
    assert evidence_of(half_in_scope, OUTCOMES) == pytest.approx({"delivery-late": 0.4})


def test_the_demo_data_is_whole_and_in_both_languages() -> None:
    seed = load_seed(DATA, DATA)
    assert seed.warnings == ()
    for lang in ("ru", "en"):
        assert sum(article.lang == lang for article in seed.articles.articles) >= 60
        of_intent: dict[str, int] = {}
        for example in seed.intents.examples:
            if example.lang == lang:
                of_intent[example.intent] = of_intent.get(example.intent, 0) + 1
        assert len(of_intent) >= 25
        assert min(of_intent.values()) >= 12
    topics = {article.topic for article in seed.articles.articles}
    assert topics <= set(seed.topics.all)
    for lang in ("ru", "en"):
        of_topic = Counter(ticket.intent for ticket in seed.tickets if ticket.lang == lang)
        assert set(of_topic) == set(seed.topics.all) - {seed.topics.default.id}
        assert min(of_topic.values()) >= 30
    assert all(o.handoff in (None, "any", *seed.topics.all) for o in seed.outcomes.values())


def test_no_question_of_the_evaluation_is_in_the_training_data() -> None:
    from bot.models.evaluation import load_questions

    seed = load_seed(DATA, DATA)
    known = {example.text.casefold().strip(" ?!.") for example in (*seed.intents.examples, *seed.tickets)}
    for article in seed.articles.articles:
        known |= {text.casefold().strip(" ?!.") for text in (article.title, *article.questions)}
    asked = [q for split in ("dev", "test") for q in load_questions(DATA / "eval" / f"dialogue.{split}.jsonl")]
    assert len(asked) >= 400
    assert sum(not question.articles for question in asked) >= 120
    assert not {question.text for question in asked if question.text.casefold().strip(" ?!.") in known}


def test_a_folder_of_articles_alone_gets_the_general_intents(tmp_path: Path) -> None:
    (tmp_path / "kb" / "en").mkdir(parents=True)
    (tmp_path / "kb" / "en" / "hours.md").write_text("# Opening hours\n\nFrom nine to six.\n")
    seed = load_seed(tmp_path, DATA)
    assert [article.id for article in seed.articles.articles] == ["hours"]
    assert {"greeting", "ask_for_person"} <= set(seed.outcomes)
    assert not any(outcome.article for outcome in seed.outcomes.values())
    assert seed.topics.default.id == "unclear"


def test_an_intent_that_leads_to_no_article_is_left_out_and_said(tmp_path: Path) -> None:
    (tmp_path / "kb" / "en").mkdir(parents=True)
    (tmp_path / "kb" / "en" / "hours.md").write_text("# Opening hours\n\nFrom nine to six.\n")
    (tmp_path / "intents").mkdir()
    (tmp_path / "intents" / "en.yml").write_text(
        'version: "3.1"\nnlu:\n- intent: lost\n  metadata:\n    article: gone\n  examples: |\n    - where is it\n'
    )
    seed = load_seed(tmp_path, DATA)
    assert "lost" not in seed.outcomes
    assert any("gone" in warning for warning in seed.warnings)


def test_a_version_of_another_form_is_named_and_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "outcomes.json").write_text('{"outcomes": {"a": {"colour": "red"}}}')
    installation = Installation(Settings(_env_file=None, var=tmp_path, data=DATA))
    with pytest.raises(NotReadyError, match="otvet train"):
        installation.load(ModelVersion("v1", tmp_path, datetime.now(UTC), {}))


def test_a_long_article_that_was_chosen_shows_the_passage_that_fits_the_question(demo: Installation) -> None:
    parts = "".join(f"## Part {n}\n\n{'Words about nothing in particular. ' * 30}\n\n" for n in range(1, 5))
    body = f"{parts}## Lamp\n\nPress the lamp for five seconds ![Lamp](lamp.png) and it restarts.\n"
    picture, other = (
        ArticleFile("lamp.png", "a" * 64, 1, "image/png"),
        ArticleFile("not-shown.png", "b" * 64, 1, "image/png"),
    )
    manual = Article("manual", "en", "The whole manual", body, files=(picture, other))
    index = SearchIndex.build([manual], demo.encoder)
    whole = demo.understander().with_index(index)
    chosen = whole.candidate("manual", "en", asked="how do I restart the lamp?")
    assert chosen is not None
    assert (chosen.text.count("Lamp"), chosen.more, chosen.pictures) == (1, True, (picture,))
    first = whole.candidate("manual", "en")
    assert first is not None
    assert "Words about nothing" in first.text
    assert first.pictures == ()
    all_of_it = whole.candidate("manual", "en", whole=True)
    assert all_of_it is not None
    assert (all_of_it.more, all_of_it.pictures) == (False, (picture,))
