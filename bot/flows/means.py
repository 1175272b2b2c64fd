"""What the studio needs to check, try out and publish flows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bot.errors import FlowError
from bot.flows.check import Known, check, check_all
from bot.flows.format import Flow, Problem, parse_flow
from bot.flows.stories import Scripted, Stage, Verdict, parse_stories, play
from bot.flows.turns import FlowBook
from bot.ledger import Sessions


async def _nobody(_sessions: Sessions) -> bool:
    return False


@dataclass(frozen=True)
class FlowMeans:
    """book: what may be run now. known, stage, stories: read what they need; block."""

    book: Callable[[], FlowBook]
    known: Callable[[], Known]
    stage: Callable[[Mapping[str, Flow]], Stage]
    stories: Callable[[], Sequence[Scripted]] = tuple
    changed: Callable[[Sessions], Awaitable[bool]] = field(default=_nobody)
    """Takes over in this process what was just published."""

    def examine(self, text: str) -> tuple[Flow | None, list[Problem]]:
        """A text, read and checked. Blocks."""
        try:
            flow = parse_flow(text)
        except FlowError as error:
            return None, list(error.problems)
        known = self.known()
        others = {**self.book().flows, flow.id: flow}
        shared = [each for each in check_all(others, known) if each.path == flow.path]
        alone = check(flow, known)
        return flow, sorted({*shared, *alone}, key=lambda problem: problem.line or 0)

    def rehearse(self, flow: Flow) -> list[Verdict]:
        """The scripted conversations in which the flow takes part, with this text of it. Blocks."""
        stage = self.stage({**self.book().flows, flow.id: flow})
        return [play(each, stage) for each in self.stories() if flow.id in begun(each, stage)]

    def try_out(self, flow: Flow, script: str) -> list[Verdict]:
        """Conversations that somebody has just written, with this text of the flow. Raises FlowError. Blocks."""
        stage = self.stage({**self.book().flows, flow.id: flow})
        return [play(each, stage) for each in parse_stories(script, "")]


def begun(scripted: Scripted, stage: Stage) -> set[str]:
    """The flows that a story speaks of."""
    found: set[str | None] = set()
    for step in scripted.story.steps:
        outcome = stage.outcomes.get(step.intent or "")
        found |= {step.start, step.active_loop, outcome.flow if outcome else None}
        found |= {stage.book.by_article.get(step.article or "")}
    return {each for each in found if each}
