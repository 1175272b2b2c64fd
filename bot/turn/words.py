"""The words in which the customer reads an action of the assistant's."""

from __future__ import annotations

from collections.abc import Mapping

from bot.dialogue import Action, Answer, Clarify, Say
from bot.flows.engine import Tell
from bot.replies import Replies


class Words:
    def __init__(self, replies: Replies, limit_mb: int) -> None:
        """limit_mb: of a file that is kept."""
        self._replies = replies
        self._limit_mb = limit_mb

    def of(self, action: Action, lang: str) -> tuple[str, dict[str, str]]:
        """What the customer reads, and the choices below it. Of a handoff neither: its words need the ticket.
        Raises ReplyError."""
        values = {"limit_mb": self._limit_mb}
        match action:
            case Answer():
                text = self._replies.render("answer", lang, {"text": action.candidate.text})
            case Clarify():
                text = self._replies.render("clarify", lang)
            case Tell():
                text = self._replies.join(action.parts, lang, values)
            case Say():
                text = self._replies.render(action.template, lang, {**values, **action.values})
            case _:
                return "", {}
        return text, self.labels(action.options, lang)

    def labels(self, options: Mapping[str, str], lang: str) -> dict[str, str]:
        """Token → what stands on its button."""
        return {token: self._replies.label(label, lang) for token, label in options.items()}
