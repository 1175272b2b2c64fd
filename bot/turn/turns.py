"""What understands, decides and saves turns, put together of what it is given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime

from bot.attachments import StoredFile
from bot.desk.agent_desk import AgentDesk
from bot.flows.turns import NO_FLOWS, FlowBook
from bot.models.understanding import Understander
from bot.replies import Replies
from bot.turn.acting import Acting
from bot.turn.looking_up import LookingUp, Lookups
from bot.turn.pictures import Pictures
from bot.turn.routing import Routing
from bot.turn.saving import Saving
from bot.turn.thinking import Thinking
from bot.turn.threads import ModelThreads
from bot.turn.transcript import Transcript
from bot.turn.words import Words
from kb_index.articles import ArticleFile


class Turns:
    """The two halves of a turn, `thinking` and `saving`, and the `words` that its actions are put in."""

    def __init__(
        self,
        *,
        understander: Callable[[], Understander],
        replies: Replies,
        agent_desk: AgentDesk,
        clock: Callable[[], datetime],
        limit_mb: int,
        ungreeted: frozenset[str] = frozenset({"terminal"}),
        model_threads: int | None = None,
        stored: Callable[[ArticleFile], Awaitable[StoredFile]] | None = None,
        flows: Callable[[], FlowBook] = lambda: NO_FLOWS,
        lookups: Lookups | None = None,
        flow_picture: Callable[[str], Awaitable[StoredFile]] | None = None,
    ) -> None:
        """understander: the live models. ungreeted: channels where nobody has to be told who answers.
        stored: a picture of an article as a file that can be sent; None: answers show none. flow_picture: the same for
        one of the flows, by its name.
        flows: those that may be run, the same object until they change. lookups: None: every lookup fails.
        model_threads: how many utterances are understood at once; None: some more than there are cores."""
        threads = ModelThreads(model_threads)
        routing = Routing(agent_desk.tickets.topics, threads, clock)
        self.words = Words(replies, limit_mb)
        self.thinking = Thinking(
            understander=understander,
            threads=threads,
            routing=routing,
            looking_up=LookingUp(lookups, clock),
            pictures=Pictures(stored, flow_picture),
            flows=flows,
            clock=clock,
            ungreeted=ungreeted,
        )
        self.saving = Saving(
            transcript=Transcript(agent_desk.customers, clock),
            acting=Acting(replies=replies, words=self.words, agent_desk=agent_desk, flows=flows, clock=clock),
            routing=routing,
            replies=replies,
            agent_desk=agent_desk,
            flows=flows,
            clock=clock,
        )
