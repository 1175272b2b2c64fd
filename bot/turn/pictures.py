"""Pictures that answers show: made ready before the turn is saved, and put with its messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from bot.attachments import StoredFile
from bot.dialogue import Action, Answer
from bot.errors import FileGoneError, TooLargeError
from bot.flows.engine import Tell
from handoff.records import Message
from kb_index.articles import ArticleFile

log = structlog.get_logger()


class Pictures:
    def __init__(
        self,
        stored: Callable[[ArticleFile], Awaitable[StoredFile]] | None,
        flow_picture: Callable[[str], Awaitable[StoredFile]] | None,
    ) -> None:
        """stored: a picture of an article as a file that can be sent. flow_picture: the same for one of the flows, by
        its name. None: none is shown."""
        self._stored = stored
        self._flow_picture = flow_picture

    async def of(self, actions: Sequence[Action]) -> Mapping[str, Sequence[StoredFile]]:
        """Article, or picture of a flow → its files. What is missing is left out: the words tell it without."""
        shown: dict[str, Sequence[StoredFile]] = {
            action.candidate.article_id: await self._of_article(action.candidate.pictures)
            for action in actions
            if isinstance(action, Answer) and action.candidate.pictures
        }
        for action in actions:
            if isinstance(action, Tell) and action.picture:
                shown[action.picture] = await self._of_flow(action.picture)
        return shown

    async def _of_article(self, files: Sequence[ArticleFile]) -> list[StoredFile]:
        if self._stored is None:
            return []
        found = []
        for file in files:
            try:
                found.append(await self._stored(file))
            except (FileGoneError, TooLargeError, OSError) as error:
                log.warning("article.picture_missing", target=file.target, error=repr(error))
        return found

    async def _of_flow(self, name: str) -> list[StoredFile]:
        if self._flow_picture is None:
            return []
        try:
            return [await self._flow_picture(name)]
        except (FileGoneError, TooLargeError, OSError) as error:
            log.warning("flow.picture_missing", picture=name, error=repr(error))
            return []


def show(message: Message, file: StoredFile) -> None:
    """Send a file with a message that is not written yet."""
    message.kind = "attachment"
    message.attachments.append(file.as_sent())
