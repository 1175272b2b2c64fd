"""A conversation with any version that leaves no trace: what would be said in a channel, and why."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import uuid4

from bot.channels.base import Address, Capabilities, InboundMessage, Option, OutboundMessage, fit
from bot.channels.site import SiteChannel
from bot.channels.telegram_limits import CAPABILITIES as TELEGRAM
from bot.channels.whatsapp import WhatsAppChannel
from bot.channels.whatsapp_text import render as whatsapp_text
from bot.dialogue import Answer, Handoff
from bot.ledger import Sessions
from bot.models.understanding import Understander
from bot.turn.situation import Situation
from bot.turn.turns import Turns
from handoff.records import Owner
from kb_index.explain import Explanation

CHANNELS: Mapping[str, Capabilities] = {
    "site": SiteChannel.capabilities,
    "telegram": TELEGRAM,
    "whatsapp": WhatsAppChannel.capabilities,
}
EXPLAINED = 4


@dataclass(frozen=True)
class Said:
    """What the customer does. state: what `Reply.state` was before; empty to begin."""

    text: str
    choice: str | None
    channel: str
    lang: str | None
    state: Mapping[str, Any]


@dataclass(frozen=True)
class Bubble:
    text: str
    form: Literal["markdown", "html", "plain"]
    options: tuple[Option, ...]
    as_list: bool
    pictures: int


@dataclass(frozen=True)
class HandedOff:
    reason: str
    topic: str
    topic_confidence: float | None
    routed_by: str


@dataclass(frozen=True)
class Part:
    """One of the texts that were understood: the whole, then its sentences where they are several."""

    text: str
    intent: str | None
    confidence: float
    ranking: tuple[tuple[str, float], ...]
    """The likeliest intents; those of articles without an intent as `article:ID`."""
    explanation: Explanation


@dataclass(frozen=True)
class Reply:
    bubbles: tuple[Bubble, ...]
    handoff: HandedOff | None
    lang: str
    rule: str
    thresholds: Mapping[str, float]
    version: str
    parts: tuple[Part, ...]
    state: Mapping[str, Any]
    articles: tuple[str, ...]


async def converse(turns: Turns, understander: Understander, sessions: Sessions, said: Said, now: datetime) -> Reply:
    """One turn as it would be, with nothing written. Raises what breaks in a turn."""
    message = InboundMessage(
        address=Address(said.channel, "", "playground"),
        external_id=uuid4().hex,
        sent_at=now,
        kind="choice" if said.choice else "text",
        text=said.text,
        choice=said.choice,
        lang_hint=said.lang,
    )
    situation = Situation(None, Owner.ASSISTANT, 0, said.lang, said.state)
    plan = await turns.thinking.think(sessions, situation, [message], [()])
    bubbles: list[Bubble] = []
    handoff = None
    shown = dict(plan.decision.state.options)
    for action in plan.decision.actions:
        if isinstance(action, Handoff) and plan.routed is not None:
            route = plan.routed.route
            handoff = HandedOff(action.reason.value, route.topic.id, route.evidence.confidence, route.by)
            continue
        text, options = turns.words.of(action, plan.lang)
        shown |= {token: label for token, label in options.items() if token in shown}
        pictures = len(action.candidate.pictures) if isinstance(action, Answer) else 0
        bubbles += await asyncio.to_thread(_bubbles, text, options, pictures, said.channel)
    parts: tuple[Part, ...] = ()
    if said.text.strip() and not said.choice and plan.record.get("hits") is not None:
        parts = await asyncio.to_thread(_parts, understander, said.text, plan.lang)
    return Reply(
        bubbles=tuple(bubbles),
        handoff=handoff,
        lang=plan.lang,
        rule=plan.decision.rule,
        thresholds=understander.policy.for_json(plan.lang),
        version=understander.version,
        parts=parts,
        state={**plan.decision.state.to_json(), "options": shown},
        articles=tuple(a.candidate.article_id for a in plan.decision.actions if isinstance(a, Answer)),
    )


def _bubbles(text: str, options: Mapping[str, str], pictures: int, channel: str) -> list[Bubble]:
    """As the channel's own limits and markup make it."""
    whole = OutboundMessage(text, tuple(Option(token, label) for token, label in options.items()))
    fitted: Sequence[OutboundMessage] = fit(whole, CHANNELS[channel])
    bubbles = []
    for number, part in enumerate(fitted):
        shown, form = part.text, "markdown"
        if channel == "telegram":
            from bot.channels.telegram_text import render  # seconds, as in `bot.serve`

            shown, form = render(part.text).as_html(), "html"
        elif channel == "whatsapp":
            shown, form = whatsapp_text(part.text), "plain"
        bubbles.append(Bubble(shown, form, part.options, part.as_list, pictures if not number else 0))  # type: ignore[arg-type]
    return bubbles


def _parts(understander: Understander, text: str, lang: str) -> tuple[Part, ...]:
    found = []
    for part in understander.parts(text):
        prediction = understander.classify(part)
        found.append(
            Part(
                part,
                prediction.intent if prediction else None,
                prediction.confidence if prediction else 0.0,
                prediction.ranking[:5] if prediction else (),
                understander.explain(part, lang, EXPLAINED),
            )
        )
    return tuple(found)
