"""What becomes of each table when a customer is erased. `bot.erasure.erasing` does it; the tests hold the list against
the tables that there are, and the table in docs/operator.md against the list.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import null

from handoff.records import AttachmentState

NOBODYS: Final = "nothing of customers stands in it"


@dataclass(frozen=True)
class Fate:
    """Of the rows that are about him."""

    words: str
    """For the operator's guide."""
    gone: Mapping[str, Any] = field(default_factory=dict)
    """Column → what stands in its place, the same in every row."""
    worked_over: Collection[str] = ()
    """Columns of which a part stays, or whose value differs from row to row: `bot.erasure.erasing` knows it."""
    kept: Collection[str] = ()
    """Columns of text that stay as they are."""
    deleted: bool = False
    """The rows themselves go."""
    nobodys: bool = False
    """No row is about a customer."""


def _nobodys(words: str = NOBODYS) -> Fate:
    return Fate(words, nobodys=True)


FATES: Final[Mapping[str, Fate]] = {
    # Who he is
    "customers": Fate(
        "the number stays; name, phone, e-mail, note and segment go, also of those who were linked into him",
        {"name": None, "phone": None, "email": None, "note": "", "segment": None},
    ),
    "customer_links": Fate("stays, without the fields that were lent", {"filled": {}}, kept=("how", "actor")),
    "contacts": Fate("deleted", deleted=True),
    "customer_aliases": Fate("deleted", deleted=True),
    "windows": Fate("deleted", deleted=True),
    "proofs": Fate("deleted", deleted=True),
    # What was said
    "conversations": Fate(
        "stays for the figures; the platform's id becomes a random word, name and memory go",
        {"customer_name": None, "blocked_why": None, "state": {}},
        worked_over=("chat_id",),
        kept=("channel", "account", "lang"),
    ),
    "messages": Fate(
        "stays for the figures, empty: no text, choices, earlier texts, quotations, platform ids; of the decision the "
        "rule, intent, confidence, articles and model version stay. Also notes, and what agents and the assistant said",
        {
            "text": "",
            "options": [],
            "context": null(),
            "external_id": None,
            "delivery_error": None,
            "edits": [],
        },
        worked_over=("decision", "delivery"),
        kept=("agent_name", "kind", "topic"),
    ),
    "attachments": Fate(
        "stays, with its kind and size; name, address and the file itself go, unless others have the same one",
        {"file_name": None, "sha256": None, "source": {}},
        worked_over=("state",),
        kept=("kind", "mime_type"),
    ),
    "inbox": Fate(
        "what came in is emptied; that it came is known for 30 days, so that a repeat does no harm",
        {"payload": {}, "error": None},
        worked_over=("chat_id", "external_id"),
        kept=("channel", "account"),
    ),
    "outbox": Fate("deleted: what was not sent is not sent any more", deleted=True, kept=("channel",)),
    "webhooks": Fate(
        "the body of each of WhatsApp's calls that names him is emptied; its checksum stays for repeats",
        {"body": b"", "error": None},
        kept=("channel", "digest"),
    ),
    "uploads": Fate("deleted for files that go", deleted=True),
    # What people did for him
    "tickets": Fate(
        "stays for the figures; subject and the task that it waited for go",
        {"subject": "", "hold_task": None},
        kept=(
            *("topic", "runner_up", "routed_by", "team", "level", "priority", "lang", "segment"),
            "given_away",
        ),
    ),
    "ticket_history": Fate(
        "stays: who did what, and when; reasons and subjects in words go",
        worked_over=("details",),
        kept=("event", "actor"),
    ),
    "ticket_clocks": Fate("stays: times alone"),
    "mentions": Fate("stays: numbers alone"),
    "nps_answers": Fate(
        "the number that he gave stays, the comment goes",
        {"comment": None},
        kept=("channel", "lang", "topic"),
    ),
    "outgoing_replies": Fate(
        "stays, without text and files; one that could still be taken back is not sent",
        {"text": "", "files": [], "error": None},
        worked_over=("state",),
        kept=("key", "agent_name", "template", "then"),
    ),
    "shadow_drafts": Fate(
        "what became of it stays, its text goes",
        {"text": ""},
        kept=("topic", "article_id", "title", "lang", "version_id", "settled_by"),
    ),
    "audit_log": Fate(
        "stays: who did what, and when; reasons in words go. That he was erased is a line of it",
        worked_over=("details",),
        kept=("who", "action", "address"),
    ),
    "notices": Fate(
        "stays as sent or dropped, without its text",
        {"text": ""},
        worked_over=("state",),
        kept=("recipient", "address", "event"),
    ),
    "hook_events": Fate("deleted, also what waits", deleted=True),
    "helpdesk_links": Fate(
        "stays, with the number of the ticket there, so that it can be erased there; subject and faults go, and "
        "the two are brought together no more",
        {"told": {}, "problem": None},
        kept=("remote_id", "token", "status"),
    ),
    "helpdesk_items": Fate("stays: numbers alone", kept=("remote_id", "mark")),
    "forum_topics": Fate(
        "stays, without its title; the topic in Telegram is deleted where the bot may delete messages",
        {"title": "", "icon": ""},
        worked_over=("left",),
    ),
    "forum_posts": Fate("stays, without its lines", {"lines": []}, kept=("kind",)),
    "forum_items": Fate("stays: numbers alone"),
    "forum_updates": Fate("deleted for his topics", deleted=True),
    "forum_words": Fate("deleted for his topics", deleted=True),
    "timers": Fate("deleted: nothing happens by itself any more", deleted=True),
    # What was learnt of it
    "gap_questions": Fate("deleted", deleted=True),
    "gaps": Fate(
        "a group that is called by his words is called by another's; an editor's own name for it stays",
        worked_over=("title",),
        kept=("settled_by", "details"),
    ),
    "gap_acts": Fate("stays; a name that was his words goes", worked_over=("before",), kept=("act", "by", "undone_by")),
    "review_labels": Fate("stays: what an editor has taught is the company's", kept=("item", "choice", "by", "before")),
    # The company's own
    "intents": _nobodys("the company's: an example that an editor made of his words stays, masked"),
    "intent_examples": _nobodys("the company's: an example that an editor made of his words stays, masked"),
    "intent_files": _nobodys("the company's own files"),
    "articles": _nobodys("the company's: a question that an editor made of his words stays, masked"),
    "article_revisions": _nobodys("the company's, as articles"),
    "gold_questions": _nobodys("the company's: written by editors"),
    "macros": _nobodys("the company's own words"),
    "saved_views": _nobodys("agents' own searches"),
    "flows": _nobodys("the company's own"),
    "flow_revisions": _nobodys("the company's own"),
    "training_jobs": _nobodys(),
    "releases": _nobodys(),
    "shadow_topics": _nobodys(),
    "template_states": _nobodys(),
    "channel_troubles": _nobodys(),
    "gap_scan": _nobodys(),
    "counted_by": _nobodys(),
    "hook_received": _nobodys("ids of calls alone"),
    # Agents
    "agents": _nobodys("agents"),
    "team_notify": _nobodys("agents"),
    "accounts": _nobodys("agents"),
    "sign_ins": _nobodys("agents"),
    "invitations": _nobodys("agents"),
    "forum_people": _nobodys("agents"),
    "forum_codes": _nobodys("agents"),
}

ERASED_STATE: Final = AttachmentState.ERASED

DECIDED: Final = frozenset(
    {"rule", "action", "intent", "confidence", "article_id", "articles", "article_confidence", "model_version"}
    | {"reply", "reason", "topic", "topic_confidence", "ticket_id", "lang"}
)
"""What stays of a decision: the assistant's own words for it."""
DETAILS: Final = frozenset(
    {"reason", "topic", "topic_before", "agent", "level", "team", "team_before", "clock", "left", "to", "into", "how"}
    | {
        "customer",
        "was",
        "conversation",
        "message",
        "flow",
        "priority",
        "complexity",
        "segment",
        "feedback",
        "mentions",
        "nobody",
        "foreign",
    }
)
"""What stays of the details of a ticket's history and of the audit log: names of agents, topics and teams, numbers."""
NESTED: Final = frozenset({"before", "after"})
"""Of these, when they hold details of their own, the same; a word is an agent's name or a level."""


def details_left(details: Mapping[str, Any]) -> dict[str, Any]:
    """The details without what somebody wrote in words of his own."""
    left: dict[str, Any] = {}
    for key, value in details.items():
        if key in DETAILS or (key in NESTED and not isinstance(value, Mapping)):
            left[key] = value
        elif key in NESTED:
            left[key] = details_left(value)
    return left


def decision_left(decision: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in decision.items() if key in DECIDED}
