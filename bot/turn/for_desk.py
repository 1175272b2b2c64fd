"""What of a customer's words is for the desk and not for the assistant: answers to its questions, and everything while
a person has the conversation. Pure, but for the models that read words."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

from bot.channels.base import InboundMessage
from bot.desk import nps_reading, survey_reading
from bot.desk.joining import BACK as WITHOUT_WAITING
from bot.desk.nps_reading import NpsSaid
from bot.desk.survey import SURVEY_HELPED, SURVEY_NOT_HELPED
from bot.dialogue import (
    Decision,
    DialogueState,
    Policy,
    Understanding,
    Utterance,
    named_choice,
    plainly,
    substantive,
)
from bot.flows.turns import FlowBook, decide_turn, stopped
from bot.gathering import JOINABLE
from bot.models.understanding import Understander
from bot.turn.plan import ToDesk
from bot.turn.situation import Situation
from handoff.access import row_id
from handoff.records import Feedback, Owner

END_WORDS = frozenset(
    ("/end", "/завершить", "закрыть обращение", "завершить разговор", "end chat", "close ticket", "close the ticket")
)


def for_desk(situation: Situation, state: DialogueState, first: InboundMessage, text: str) -> ToDesk | None:
    """What of an utterance is for the desk: everything while a person has the conversation, the survey's buttons
    always. A button's words may also be typed, and any yes or no while its question is the newest thing in the chat."""
    choice = first.choice or named_choice(state, text) or ""
    kind, _, number = choice.partition(":")
    if kind in (SURVEY_HELPED, SURVEY_NOT_HELPED) and (ticket := row_id(number)) is not None:
        return ToDesk("feedback", ticket, Feedback.HELPED if kind == SURVEY_HELPED else Feedback.NOT_HELPED)
    if (said := nps_reading.pressed(choice)) is not None:
        return ToDesk("nps", nps=said)
    if situation.asked_about and not choice and first.kind in JOINABLE:
        answer = survey_reading.read(text)
        if answer is not None:
            return ToDesk("feedback", situation.asked_about, answer)
    if situation.owner is not Owner.PERSON:
        return None
    if plainly(text) in END_WORDS:
        return ToDesk("end")
    return ToDesk("back" if kind == WITHOUT_WAITING else "word")


def is_courtesy(parts: Sequence[Understanding], replies: Collection[str], policy: Policy) -> bool:
    """Whether words ask for nothing: as a whole, or sentence by sentence, they come to one of these replies, and no
    sentence is a matter of its own. A couple of words need not be sure ("ok", "I'll wait"): they hardly are.

    parts: the whole text first, then its sentences when there are several."""
    whole, *sentences = parts

    def polite(part: Understanding) -> bool:
        sure = part.confidence >= policy.even or not (substantive(part.text) or "?" in part.text)
        return sure and part.outcome.reply in replies

    def matter(part: Understanding) -> bool:
        answered = part.candidates[0].confidence if part.candidates else 0.0
        return max(answered, 0.0 if part.outcome.reply in replies else part.confidence) >= policy.even

    if "confirmed" in replies and survey_reading.read(whole.text) is Feedback.HELPED:
        return True
    if any(map(matter, sentences)):
        return False
    return polite(whole) or (bool(sentences) and all(map(polite, sentences)))


def without_nps(state: DialogueState) -> DialogueState:
    """The question how likely he is to recommend us has lapsed; its buttons still count, its number alone does not."""
    if not state.nps:
        return state
    options = {token: label for token, label in state.options.items() if nps_reading.pressed(token) is None}
    return replace(state, options=options, nps="")


def nps_answer(
    waits: str,
    understander: Understander,
    state: DialogueState,
    said: Utterance,
    known: str | None,
    book: FlowBook,
    now: datetime,
) -> ToDesk | None:
    """What words say to that question; None: they are a matter of their own. Blocks."""
    kind, _, number = waits.partition(":")
    if nps_reading.wants_no_more(said.text):
        return ToDesk("nps", nps=NpsSaid(int(number), stops=True))
    score = nps_reading.read_score(said.text)
    if score is not None and not score.rest:
        return ToDesk("nps", nps=NpsSaid(int(number), score.value))
    if kind == "comment":
        score = None
    elif score is None:
        return None
    words = score.rest if score else said.text
    meant = understander.understand(words, known)
    spoken = replace(said, text=words, lang=meant.lang)
    decision = decide_turn(state, Owner.ASSISTANT, spoken, meant.parts, {}, understander.policy, book, now)
    if not (nps_reading.goes_with(score, decision) if score else nps_reading.reads_as_reason(decision, words)):
        return None
    comment = "" if nps_reading.is_courtesy(decision) else words
    return ToDesk("nps", nps=NpsSaid(int(number), score.value if score else None, comment))


def nothing_said(act: ToDesk, owner: Owner, state: DialogueState) -> Decision:
    """Nothing is said. A flow that still waited has ended with the person who took over."""
    rule = f"desk:{act.kind}"
    if owner is not Owner.PERSON:
        return Decision((), state, rule)
    return Decision((), replace(state, flow=None), rule, events=stopped(state))
