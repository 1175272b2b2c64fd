"""A desk for tests, with the demo's topics and policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from bot.channels.site import SiteChannel
from bot.channels.telegram_limits import CAPABILITIES
from bot.channels.whatsapp import WhatsAppChannel
from bot.desk.agent_desk import AgentDesk
from bot.replies import Replies
from handoff.hours import WorkingHours
from handoff.policy import load_policy
from handoff.routing import load_topics
from handoff.tickets import Tickets

DATA = Path(__file__).parent.parent / "data"


def open_desk(replies: Replies, clock: Callable[[], datetime]) -> AgentDesk:
    policy = load_policy(DATA / "desk.yml", WorkingHours())
    # Tests run at any hour.
    policy = replace(policy, survey=replace(policy.survey, hours=None))
    tickets = Tickets(policy, load_topics(DATA / "topics.yml"))
    capabilities = {
        "telegram": CAPABILITIES,
        "whatsapp": WhatsAppChannel.capabilities,
        "site": SiteChannel.capabilities,
        "recorder": CAPABILITIES,
    }
    return AgentDesk(tickets=tickets, replies=replies, clock=clock, capabilities=capabilities)
