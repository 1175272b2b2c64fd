"""Flow files: what the check finds, the published schema, and the scripted conversations of the demo."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML
from site_harness import DATA

from bot.errors import FlowError
from bot.flows.check import Known, check, check_all
from bot.flows.format import Flow, Problem, load_flows, parse_flow, schema
from bot.flows.stories import Scripted, Stage, load_stories, parse_stories, play
from bot.flows.turns import FlowBook
from bot.models.understanding import outcome_of
from bot.replies import Replies
from handoff.routing import load_topics
from nlu.training_data import load_intents

ROOT = DATA.parent
COMMON = {"shop": "Klyon", "hours": "9–21", "privacy_url": "https://klyon.example/p", "first_reply_minutes": 10}
GOOD = """
flow: good
title: {ru: Да, en: Good}
slots:
  order: {type: number}
  why: {}
  found: {type: data}
steps:
- id: ask
  collect: order
  ask: {ru: Номер?, en: Number?}
- id: look
  action: shop
  into: found
  failed: {gone: ask, else: PERSON}
- id: why
  collect: why
  ask: {ru: "Почему {{ order }}?", en: "Why {{ order }}?"}
  next:
  - {if: "found.dear", then: dear}
  - {else: END}
- id: dear
  say: {ru: Дорого, en: Dear}
  next: END
"""


def faults(text: str, known: Known = Known()) -> list[Problem]:
    return check(parse_flow(text, "good.yml"), known)


@pytest.mark.parametrize(
    ("was", "written", "words", "level"),
    [
        ("then: dear", "then: deer", "leads to deer, which is no step", "error"),
        ("then: dear", "then: END", "nothing leads to dear", "error"),
        ("say: {ru: Дорого, en: Dear}\n", "say: {ru: Дорого}\n", "say has no text in en", "error"),
        ("title: {ru: Да, en: Good}", "title: {en: Good}", "title has no text in ru", "error"),
        ("  why: {}", "  why: {}\n  spare: {}", "the slot spare is never filled", "error"),
        ("  collect: why", "  collect: wy", "wy is not declared", "error"),
        ("Why {{ order }}?", "Why {{ ordre }}?", "names ordre, which is no slot", "error"),
        ("Why {{ order }}?", "Why {{ order | shout }}?", "shout", "error"),
        ("Why {{ order }}?", "Why {{ order ?", "can't be worked out", "error"),
        ("found.dear", "found.dear ==", "can't be worked out", "error"),
        ("en: Number?}", 'en: "Number, {{ why }}?"}', "ask speaks of why before anything has filled it", "warning"),
        (
            "ru: Дорого, en: Dear}\n  next: END",
            "ru: Дорого, en: Dear}\n  next: dear",
            "no way leads to an end",
            "error",
        ),
        ("{gone: ask, else: PERSON}", "look", "goes round without asking", "error"),
        ("action: shop", "action: shopp", "there is no lookup shopp", "error"),
        ("  next: END\n", "  next: END\n- {id: x, article: none}\n", "there is no article none", "error"),
        ("  next: END\n", "  next: END\n- {id: x, handoff: nobody}\n", "there is no topic nobody", "error"),
        ("say: {ru: Дорого", "picture: a.png\n  say: {ru: Дорого", "there is no picture a.png", "warning"),
    ],
)
def test_a_fault_is_found_with_its_line_and_a_remedy(
    was: str, written: str, words: str, level: str, tmp_path: Path
) -> None:
    known = Known(articles={"a"}, topics={"t"}, lookups={"shop"}, pictures=tmp_path)
    sound = GOOD.replace("{gone: ask", "{gone: why")
    assert faults(sound, known) == []
    text = GOOD.replace(was, written) if was.startswith("{gone") else sound.replace(was, written)
    assert text != sound
    found = [each for each in faults(text, known) if words in each.problem]
    assert found, [str(each) for each in faults(text, known)]
    assert found[0].level == level
    assert found[0].line
    assert found[0].remedy


def test_a_loop_that_empties_its_slot_asks_again_and_is_no_fault() -> None:
    emptied = GOOD.replace("{gone: ask, else: PERSON}", "{gone: again, else: PERSON}").replace(
        "- id: why", "  next: why\n- id: again\n  set_slots: {order: null}\n  next: ask\n- id: why"
    )
    assert faults(emptied) == []
    assert any("goes round" in each.problem for each in faults(GOOD))


CANCEL = """
flow: good
title: {ru: Да, en: Good}
slots:
  wish:
    type: choice
    choices: [{value: a, label: {ru: А, en: A}}, {value: b, label: {ru: Б, en: B}}]
  sure: {type: yes_no}
steps:
- id: wish
  collect: wish
  ask: {ru: Что?, en: What?}
- id: do
  action: shop
  changes: true
  next: END
"""
SURE = "- id: sure\n  collect: sure\n  ask: {ru: Да?, en: Yes?}\n  next: [{if: sure == 'yes', then: do}, {else: END}]\n"


def test_nothing_is_changed_by_words_that_nobody_asked_for() -> None:
    unasked = CANCEL.replace("  sure: {type: yes_no}\n", "")
    (fault,) = faults(unasked)
    assert "do changes something by wish, which any word may fill" in fault.problem
    assert (fault.level, fault.line) == ("error", 5)
    assert faults(unasked.replace("    type: choice", "    type: choice\n    only_when_asked: true")) == []
    assert faults(unasked.replace("  collect: wish", "  collect: wish\n  ask_before_filling: true")) == []
    assert faults(unasked.replace("changes: true", "changes: false")) == []
    assert faults(CANCEL.replace("- id: do", SURE + "- id: do")) == []
    around = CANCEL.replace("ask: {ru: Что?, en: What?}", "ask: {ru: Что?, en: What?}\n  otherwise: do")
    assert len(faults(around.replace("- id: do", SURE + "- id: do"))) == 1, "a way around the question"


def test_what_starts_flows_is_checked_over_all_of_them() -> None:
    flows = {
        name: parse_flow(GOOD.replace("flow: good", f"flow: {name}\narticles: [a]").replace("gone: ask", "gone: why"))
        for name in ("one", "two")
    }
    found = [each.problem for each in check_all(flows, Known(intents={"x": "three"}))]
    assert found == [
        "the article a starts the flow one already",
        "the intent x starts the flow three, which does not exist",
    ]


def test_the_published_schema_is_that_of_the_program_and_the_demo_fits_it() -> None:
    published = json.loads((ROOT / "docs" / "flow.schema.json").read_text())
    assert published == schema(), "run: otvet flows schema > docs/flow.schema.json"
    for path in (DATA / "flows").glob("*.yml"):
        jsonschema.validate(YAML(typ="safe").load(path.read_text()), published)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"flow": "x", "title": {"en": "x"}, "steps": [{"sai": {"en": "x"}}]}, published)


@pytest.fixture(scope="module")
def demo_flows() -> dict[str, Flow]:
    flows, problems = load_flows(DATA / "flows")
    assert problems == []
    return flows


@pytest.fixture(scope="module")
def stage(demo_flows: dict[str, Flow]) -> Stage:
    intents = load_intents(DATA / "intents").intents
    return Stage(
        book=FlowBook(demo_flows, common={"ru": COMMON, "en": COMMON}),
        replies=Replies((DATA / "replies",), {"ru": COMMON, "en": COMMON}),
        outcomes={name: outcome_of(spec) for name, spec in intents.items()},
        now=datetime(2026, 11, 22, 12, tzinfo=UTC),
        articles={path.stem: path.stem for path in (DATA / "kb" / "en").glob("*.md")},
    )


STORIES, BROKEN = load_stories(DATA / "flows" / "tests")


def test_every_flow_of_the_demo_has_conversations(demo_flows: dict[str, Flow], stage: Stage) -> None:
    assert BROKEN == []
    begun: set[str | None] = set()
    for step in (step for each in STORIES for step in each.story.steps):
        begun |= {step.start, step.active_loop, stage.outcomes[step.intent].flow if step.intent else None}
        begun.add(stage.book.by_article.get(step.article or ""))
    assert set(demo_flows) <= begun


@pytest.mark.parametrize("scripted", STORIES, ids=lambda scripted: scripted.name)
def test_a_conversation_goes_as_it_is_written(scripted: Scripted, stage: Stage) -> None:
    verdict = play(scripted, stage)
    assert verdict.failure is None, f"{verdict.failure}\n" + "\n".join(verdict.said)


def test_the_demo_flows_have_no_faults(demo_flows: dict[str, Flow], stage: Stage) -> None:
    known = Known(
        articles=stage.articles,
        topics=set(load_topics(DATA / "topics.yml").all),
        pictures=DATA / "flows" / "pictures",
        common=COMMON,
        intents={name: outcome.flow for name, outcome in stage.outcomes.items() if outcome.flow},
    )
    assert check_all(demo_flows, known) == []


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        ("bot: Tschüss", "nobody said 'Tschüss'"),
        ("never: number", "'number' was said"),
        ("buttons: [A]", "the buttons are ['Cancel', 'Call a person']"),
        ("press: A", "there is no button 'A'"),
        ("step: why", "ask waits, and not why"),
        ("active_loop: null", "good waits, and not None"),
        ("slot_was_set: {order: '1'}", "the slot order is None"),
        ("looked_up: {shop: {}}", "shop was not looked up"),
        ("handoff: any", "there is no handoff"),
        ("picture: a.png", "the pictures shown are []"),
        ("intent: nonsense\n    user: hi", "there is no intent nonsense"),
    ],
)
def test_a_conversation_that_goes_otherwise_is_told_with_its_line(step: str, problem: str, stage: Stage) -> None:
    flow = parse_flow(GOOD)
    book = FlowBook({flow.id: flow}, common=stage.book.common)
    script = f"stories:\n- story: x\n  lang: en\n  steps:\n  - start: good\n    bot: number?\n  - {step}\n"
    # The step that only looks belongs to the one before it.
    text = script if step.startswith(("press", "intent")) else script.replace("\n  - " + step, "\n    " + step)
    text = text.replace("    bot: number?\n    bot:", "    bot:")
    (scripted,) = parse_stories(text, "x.yml")
    verdict = play(scripted, Stage(book, stage.replies, {}, stage.now))
    assert verdict.failure is not None
    assert problem in verdict.failure.problem
    assert verdict.failure.line == (7 if step.startswith(("press", "intent")) else 5)


def test_a_story_that_is_no_story_is_told_with_its_line() -> None:
    with pytest.raises(FlowError) as caught:
        parse_stories("stories:\n- story: x\n  steps:\n  - usr: hello\n", "x.yml")
    assert caught.value.problems[0].line == 4
