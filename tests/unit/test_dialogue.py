"""The decision, rule by rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.dialogue import (
    PERSON,
    Answer,
    Candidate,
    Clarify,
    Decision,
    DialogueState,
    Handoff,
    Outcome,
    Policy,
    Say,
    Understanding,
    Utterance,
    decide,
)
from handoff.records import Owner, Reason

POLICY = Policy(
    answer={"ru": 0.8, "en": 0.8}, clarify={"ru": 0.5, "en": 0.5}, intent={"ru": 0.7, "en": 0.7}, max_text_chars=200
)
GREETED = DialogueState(greeted=True)


def article(name: str, confidence: float) -> Candidate:
    return Candidate(name, f"About {name}", f"Text of {name}", "orders", confidence, "en")


def understood(
    *candidates: Candidate, intent: str = "x", confidence: float = 0.0, outcome: Outcome | None = None
) -> Understanding:
    return Understanding("a question of several words", intent, confidence, outcome or Outcome(), candidates)


def act(
    *parts: Understanding,
    state: DialogueState = GREETED,
    owner: Owner = Owner.ASSISTANT,
    text: str = "a question of several words",
    kind: str = "text",
    choice: str | None = None,
    articles: dict[str, Candidate] | None = None,
) -> Decision:
    utterance = Utterance(kind=kind, text=text, lang="en", choice=choice)  # type: ignore[arg-type]
    return decide(state, owner, utterance, parts, articles or {}, POLICY)


def test_a_sure_article_is_answered_and_asked_whether_it_helped() -> None:
    decision = act(understood(article("a", 0.9), article("b", 0.05)))
    (answer,) = decision.actions
    assert isinstance(answer, Answer)
    assert answer.candidate.article_id == "a"
    assert list(answer.options) == ["helped", "not_helped"]
    assert decision.state.answered == ("a",)


def test_between_close_articles_the_customer_chooses_and_a_person_is_always_among_the_choices() -> None:
    decision = act(understood(article("a", 0.4), article("b", 0.3), article("c", 0.1), article("d", 0.1)))
    (clarify,) = decision.actions
    assert isinstance(clarify, Clarify)
    assert list(clarify.options) == ["article:a", "article:b", "article:c", PERSON]


def test_an_unsure_substantive_question_goes_to_a_person() -> None:
    decision = act(understood(article("a", 0.2), article("b", 0.1)))
    assert decision.actions == (Handoff(Reason.LOW_CONFIDENCE),)


def test_a_vague_message_is_asked_for_more_words_once_and_then_goes_to_a_person() -> None:
    first = act(understood(article("a", 0.2)), text="деливери")
    assert isinstance(first.actions[0], Say)
    assert first.actions[0].template == "rephrase"
    assert PERSON in first.actions[0].options
    second = act(understood(article("a", 0.2)), text="деливери", state=first.state)
    assert second.actions == (Handoff(Reason.LOW_CONFIDENCE),)


def test_the_assistant_is_silent_while_a_person_has_the_conversation() -> None:
    for kind in ("text", "start", "choice", "attachment", "unsupported"):
        assert act(understood(article("a", 0.99)), owner=Owner.PERSON, kind=kind, choice="helped").actions == ()


def test_a_wish_for_a_person_is_obeyed_when_it_is_more_likely_than_not() -> None:
    wish = Outcome(handoff="any")
    obeyed = act(understood(article("a", 0.95), intent="ask_for_person", confidence=0.55, outcome=wish))
    assert obeyed.actions == (Handoff(Reason.ASKED_FOR_PERSON),)
    not_meant = act(understood(article("a", 0.95), intent="ask_for_person", confidence=0.3, outcome=wish))
    assert isinstance(not_meant.actions[0], Answer)


def test_a_sensitive_matter_goes_to_its_topic_even_when_an_article_would_answer() -> None:
    fraud = Outcome(handoff="payment", sensitive=True)
    decision = act(understood(article("a", 0.99), intent="fraud", confidence=0.9, outcome=fraud))
    assert decision.actions == (Handoff(Reason.SENSITIVE, "payment", 0.9),)


def test_two_questions_in_one_message_get_two_answers() -> None:
    whole = understood(article("a", 0.5), article("b", 0.45))
    decision = act(whole, understood(article("a", 0.9)), understood(article("b", 0.9)))
    assert [a.candidate.article_id for a in decision.actions if isinstance(a, Answer)] == ["a", "b"]


def test_a_greeting_before_a_question_does_not_hide_the_question() -> None:
    greeting = understood(intent="greeting", confidence=0.9, outcome=Outcome(reply="hello"))
    whole = understood(article("a", 0.6), intent="greeting", confidence=0.75, outcome=Outcome(reply="hello"))
    decision = act(understood(article("a", 0.9), intent="greeting", confidence=0.75, outcome=Outcome(reply="hello")))
    assert isinstance(decision.actions[0], Answer)
    assert act(greeting).actions == (Say("hello"),)
    assert act(whole).actions == (Say("hello"),)


def test_a_rejected_answer_goes_to_a_person() -> None:
    after = act(understood(article("a", 0.9))).state
    after = DialogueState.from_json({**after.to_json(), "options": {"helped": "Yes", "not_helped": "No"}})
    for how in ({"choice": "not_helped"}, {"text": "no"}, {"text": "2"}):
        decision = act(understood(article("b", 0.9)), state=after, **how)  # type: ignore[arg-type]
        assert decision.actions == (Handoff(Reason.REJECTED_ANSWER),)


def test_the_same_article_is_not_given_twice() -> None:
    after = act(understood(article("a", 0.9))).state
    others = act(understood(article("a", 0.9), article("b", 0.4), article("c", 0.3)), state=after)
    assert isinstance(others.actions[0], Clarify)
    assert "article:a" not in others.actions[0].options
    none_left = act(understood(article("a", 0.9)), state=after)
    assert none_left.actions == (Handoff(Reason.REJECTED_ANSWER),)


def test_a_choice_is_taken_by_button_by_number_and_by_its_words() -> None:
    state = DialogueState(greeted=True, options={"article:a": "About a", "article:b": "About b", PERSON: "A person"})
    articles = {"a": article("a", 1.0), "b": article("b", 1.0)}
    for how in ({"choice": "article:b"}, {"text": "2"}, {"text": "2."}, {"text": "about B"}):
        decision = act(state=state, articles=articles, **how)  # type: ignore[arg-type]
        assert [a.candidate.article_id for a in decision.actions if isinstance(a, Answer)] == ["b"]
    assert act(state=state, articles=articles, text="3").actions == (Handoff(Reason.ASKED_FOR_PERSON),)


def test_a_choice_that_is_not_offered_has_a_clear_outcome() -> None:
    state = DialogueState(greeted=True, options={"article:a": "About a", PERSON: "A person"})
    beyond = act(state=state, text="7")
    assert [a.template for a in beyond.actions if isinstance(a, Say)] == ["option_unknown"]
    assert beyond.state.options == state.options
    old = act(state=state, kind="choice", choice="article:z")
    assert [a.template for a in old.actions if isinstance(a, Say)] == ["options_expired"]


def test_a_new_question_instead_of_a_choice_is_answered() -> None:
    state = DialogueState(greeted=True, options={"article:a": "About a", PERSON: "A person"})
    assert isinstance(act(understood(article("c", 0.9)), state=state).actions[0], Answer)


@pytest.mark.parametrize(
    ("text", "template"), [("", "empty"), ("🙂🙂", "empty"), ("?!", "empty"), ("ж" * 201, "too_long")]
)
def test_what_cannot_be_understood_is_said_so(text: str, template: str) -> None:
    decision = act(understood(), text=text)
    assert [a.template for a in decision.actions if isinstance(a, Say)] == [template]


def test_who_never_pressed_start_is_greeted_before_the_answer() -> None:
    decision = act(understood(article("a", 0.9)), state=DialogueState())
    assert decision.actions[0] == Say("greeting")
    assert isinstance(decision.actions[1], Answer)
    assert decision.state.greeted
    assert act(understood(article("b", 0.9)), state=decision.state).actions[0] != Say("greeting")


def test_the_state_survives_being_stored() -> None:
    state = act(understood(article("a", 0.4), article("b", 0.3))).state
    assert DialogueState.from_json(state.to_json()) == state


confidences = st.floats(0, 1)


@given(
    whole=st.lists(confidences, max_size=5),
    parts=st.lists(st.lists(confidences, max_size=3), max_size=3),
    intent=confidences,
    outcome=st.sampled_from([Outcome(), Outcome(reply="hello"), Outcome(handoff="any"), Outcome(handoff="orders")]),
    text=st.text(max_size=250),
    kind=st.sampled_from(["text", "start", "choice", "attachment", "unsupported"]),
    choice=st.sampled_from([None, PERSON, "helped", "not_helped", "article:0", "nonsense"]),
    options=st.lists(st.sampled_from([PERSON, "helped", "not_helped", "article:0", "article:gone"]), unique=True),
    answered=st.lists(st.sampled_from(["0", "1"]), unique=True),
    rephrased=st.integers(0, 2),
)
def test_every_turn_of_the_assistant_says_something_and_leaves_a_way_to_a_person_or_an_answer(
    whole: list[float],
    parts: list[list[float]],
    intent: float,
    outcome: Outcome,
    text: str,
    kind: str,
    choice: str | None,
    options: list[str],
    answered: list[str],
    rephrased: int,
) -> None:
    def rows(values: list[float]) -> Understanding:
        found = [article(str(number), value) for number, value in enumerate(sorted(values, reverse=True))]
        return understood(*found, confidence=intent, outcome=outcome)

    state = DialogueState(True, {token: token for token in options}, tuple(answered), "orders", rephrased)
    decision = act(
        rows(whole),
        *map(rows, parts),
        state=state,
        text=text,
        kind=kind,
        choice=choice if kind == "choice" else None,
        articles={"0": article("0", 1.0)},
    )
    assert decision.actions
    assert sum(isinstance(action, Handoff) for action in decision.actions) <= 1
    for action in decision.actions:
        if isinstance(action, Clarify):
            assert 2 <= len(action.candidates) <= 3
            assert PERSON in action.options
    assert DialogueState.from_json(decision.state.to_json()) == decision.state


def test_the_rest_of_an_article_is_a_button_away() -> None:
    passage = Candidate("a", "About a", "The beginning", "orders", 0.9, "en", more=True)
    first = act(understood(passage))
    assert isinstance(first.actions[0], Answer)
    assert "more:a" in first.actions[0].options
    whole = Candidate("a", "About a", "The whole of it", "orders", 1.0, "en")
    second = act(state=first.state, kind="choice", choice="more:a", articles={"a": whole})
    assert isinstance(second.actions[0], Answer)
    assert second.actions[0].candidate.text == "The whole of it"
    assert list(second.actions[0].options) == ["helped", "not_helped"]


def test_a_wish_for_a_person_at_the_end_of_a_story_is_obeyed() -> None:
    wish = understood(intent="ask_for_person", confidence=0.9, outcome=Outcome(handoff="any"))
    decision = act(understood(article("a", 0.95)), understood(article("a", 0.9)), wish)
    assert decision.actions == (Handoff(Reason.ASKED_FOR_PERSON),)


def test_nothing_is_rejected_before_anything_was_answered() -> None:
    rejected = Outcome(handoff="any", reason=Reason.REJECTED_ANSWER)
    said = understood(article("b", 0.9), intent="answer_rejected", confidence=0.9, outcome=rejected)
    assert isinstance(act(said).actions[0], Answer)
    after = act(understood(article("a", 0.9))).state
    assert act(said, state=after).actions == (Handoff(Reason.REJECTED_ANSWER),)


def test_a_short_word_after_an_answer_is_no_reason_for_a_ticket() -> None:
    after = act(understood(article("a", 0.9))).state
    polite = understood(intent="thanks", confidence=0.6, outcome=Outcome(reply="thanks"))
    assert act(polite, state=after, text="ok").actions == (Say("thanks"),)
    unclear = act(understood(intent="thanks", confidence=0.3, outcome=Outcome(reply="thanks")), state=after, text="ok")
    assert [a.template for a in unclear.actions if isinstance(a, Say)] == ["rephrase"]


def test_who_asks_whether_it_is_a_program_may_choose_between_it_and_a_person() -> None:
    asked = act(understood(intent="bot_challenge", confidence=0.9, outcome=Outcome(reply="bot_challenge")))
    (reply,) = asked.actions
    assert isinstance(reply, Say)
    assert list(reply.options) == [PERSON, "go_on"]
    assert act(state=asked.state, kind="choice", choice="go_on").actions == (Say("go_on"),)
    assert act(state=asked.state, text="2").actions == (Say("go_on"),), "by its number"
    called = act(state=asked.state, kind="choice", choice=PERSON)
    assert called.actions == (Handoff(Reason.ASKED_FOR_PERSON),)
