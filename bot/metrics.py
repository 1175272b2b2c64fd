"""What Prometheus may ask about. docs/operator.md explains each, and a test sees to it.

Labels are channels, rules, states and kinds: short lists of ours, never a customer, a text or an address.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

# What the database says at the moment of asking.
DATABASE_UP = Gauge("otvet_database_up", "1 while the database answers.")
INBOX_WAITING = Gauge("otvet_inbox_waiting", "Messages stored and not yet answered.", ["channel"])
INBOX_OLDEST_SECONDS = Gauge("otvet_inbox_oldest_seconds", "Age of the oldest of them.", ["channel"])
OUTBOX_WAITING = Gauge("otvet_outbox_waiting", "Replies queued and not yet sent.", ["channel"])
OUTBOX_LATE_SECONDS = Gauge("otvet_outbox_late_seconds", "How long the most overdue reply is overdue.", ["channel"])
CHANNELS_AWAY = Gauge("otvet_channels_away", "Bots and numbers whose platform can't be reached.", ["channel"])
TICKETS_OPEN = Gauge("otvet_tickets_open", "Tickets not yet resolved.")
TIMERS_WAITING = Gauge("otvet_timers_waiting", "Timers that are set.")
TIMERS_LATE_SECONDS = Gauge("otvet_timers_late_seconds", "How long the most overdue timer is overdue.")

# What this process did since its start.
RECEIVED = Counter("otvet_received", "Messages that came in; repeat: it was stored already.", ["channel", "repeat"])
TURNS = Counter("otvet_turns", "Turns by the rule that decided; error: it broke.", ["channel", "rule"])
TURN_SECONDS = Histogram("otvet_turn_seconds", "Parts of a turn: understand, save.", ["part"], buckets=SECONDS)
REPLY_SECONDS = Histogram("otvet_reply_seconds", "From a reply's writing to its sending.", ["channel"], buckets=SECONDS)
SENDS = Counter("otvet_sends", "Replies: sent, retried, failed for good, discarded, uncertain.", ["channel", "state"])
WEBHOOKS = Counter("otvet_webhooks", "Calls of platforms: new, repeat, or why refused.", ["channel", "result"])
TRANSCRIPTS = Counter("otvet_transcripts", "Voice messages: read, empty, failed.", ["result"])
RATE_LIMITED = Counter("otvet_rate_limited", "Sends put off and requests refused by a rate limit.", ["where"])
TIMERS = Counter("otvet_timers", "Timers that fired.", ["kind"])
ERRANDS_DONE = Counter("otvet_errands", "Calls to others: done, failed and to be tried again.", ["kind", "state"])
FLOWS = Counter(
    "otvet_flows",
    "Flows: started, settled, handed_off, cancelled, stopped by a person, expired; missed: words it could not use.",
    ["flow", "event"],
)
LOOKUPS = Counter("otvet_lookups", "What flows asked of the shop: ok, or why not.", ["lookup", "result"])
LOOKUP_SECONDS = Histogram("otvet_lookup_seconds", "How long that took.", ["lookup"], buckets=SECONDS)
ERASED = Counter("otvet_erased", "Customers who were erased: asked for, or by retention.", ["why"])
STREAMS = Gauge("otvet_streams", "Site chats that listen to this process.")
MODEL = Gauge("otvet_model", "1 for the model version in use.", ["version"])
FORUM_CALLS = Counter("otvet_forum_calls", "Calls for forum groups: done, paced, failed, refused.", ["state"])
FORUM_HEALED = Counter("otvet_forum_healed", "Topics that were deleted there and made anew.")
HELPDESK_UP = Gauge("otvet_helpdesk_up", "1 while the help desk answers; 0 also where none is set.")
REDIS_UP = Gauge("otvet_redis_up", "1 while Redis answers; 0 also where none is set.")
REDIS_LOST = Counter("otvet_redis_lost", "How often Redis went away.")
RASA_UP = Gauge("otvet_rasa_up", "1 while Rasa tells the intents apart; 0 also where that engine is off.")
RASA_LOST = Counter("otvet_rasa_lost", "How often the embedded engine took over from Rasa.")
