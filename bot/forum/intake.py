"""The Telegram desk, inwards: what agents write and press in a topic is done at their own seat, as at the web desk.

What comes in is stored before Telegram is told so, and an errand for each topic does it in order, once: what was done
is committed with the mark that it was done.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from aiogram.utils.formatting import Text
from sqlalchemy import delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from bot.attachments import AttachmentStore, StoredFile
from bot.channels.base import InboundAttachment
from bot.channels.telegram_forum_updates import ANONYMOUS, Deed, chat_of, is_link, parse
from bot.desk.accounts import Accounts
from bot.desk.agent_desk import AgentDesk
from bot.desk.records import OutgoingState
from bot.desk.seat import Draft, Seat, Tally
from bot.errors import (
    DeliveryError,
    EditRefusedError,
    FileRefusedError,
    MacroError,
    OtvetError,
    StaleReplyError,
    StorageError,
    TooLargeError,
)
from bot.forum.acts import Acts, Done, Unclear
from bot.forum.forum import Forum
from bot.forum.groups import hurry
from bot.forum.people import ForumPeople
from bot.forum.records import INTAKE, ForumItem, ForumPost, ForumTopic, ForumUpdate, ForumWord
from bot.forum.text import version_of
from bot.forum.words import words
from bot.metrics import RATE_LIMITED
from bot.shared import Rate, Shared
from bot.timers import send_errand
from bot.work import DATABASE_AWAY, Sessions
from handoff.access import Viewer
from handoff.errors import HandoffError, TicketNotFoundError, TicketStateError
from handoff.lifecycle import LIVE
from handoff.records import Author, Message, Ticket

log = structlog.get_logger()

ALBUM_SECONDS = 1.0
"""How long an album waits for its next picture."""
KEPT = timedelta(days=30)
EVERYTHING = 2**62
TURN_SECONDS = 10.0
"""How long one errand of a topic begins new things."""
FETCH_SECONDS = 40.0
"""For all files of one deed: with the rest of an errand's turn, less than an errand may take."""
TAKEN = "👌"
TRIES_A_MINUTE = 5
"""Of codes, for one person."""
TOLD_EVERY_SECONDS = 600.0
"""How often somebody without an account is told so."""


@dataclass(frozen=True)
class Result(Done):
    """The same, with what is put under his message."""

    react: str = ""
    private: bool = False
    """Said to him at once, and not in the group."""


class ForumIntake:
    def __init__(
        self,
        *,
        forum: Forum,
        desk: AgentDesk,
        accounts: Accounts,
        people: ForumPeople,
        sessions: Sessions,
        attachments: AttachmentStore,
        clock: Callable[[], datetime],
        shared: Shared,
        shop: Mapping[str, str],
    ) -> None:
        self._forum = forum
        self._desk = desk
        self._accounts = accounts
        self._people = people
        self._sessions = sessions
        self._attachments = attachments
        self._clock = clock
        self._shared = shared
        self._acts = Acts(desk=desk, lang=forum.lang, shop=shop, clock=clock)
        self._tally = Tally()

    # Taking in

    async def take(self, update: Any, account: str) -> bool:
        """Store what concerns the desk; whether it does. What returns True is nobody else's."""
        if account != self._forum.api.account:
            return False
        if chat_of(update) not in self._forum.groups and not is_link(update):
            return False
        deed = parse(update, account=account, groups=self._forum.groups)
        if deed is None:
            return True
        now, lane = self._clock(), f"{deed.group_id}/{deed.thread_id or 0}"
        async with self._sessions.begin() as session:
            insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
            values = {"external_id": deed.external_id, "lane": lane, "payload": {"update": update}, "received_at": now}
            stored = await session.scalar(
                insert(ForumUpdate).values(values).on_conflict_do_nothing().returning(ForumUpdate.id)
            )
            if stored is not None:
                await send_errand(session, f"{INTAKE}:{lane}", INTAKE, now, {"lane": lane})
        return True

    # Doing

    async def do(self, payload: Mapping[str, Any]) -> datetime | None:
        """The errand of a topic."""
        lane, end = str(payload["lane"]), time.monotonic() + TURN_SECONDS
        while time.monotonic() < end:
            async with self._sessions.reading() as session:
                rows = (
                    await session.scalars(
                        select(ForumUpdate)
                        .where(ForumUpdate.lane == lane, ForumUpdate.done_at.is_(None))
                        .order_by(ForumUpdate.id)
                        .limit(12)
                    )
                ).all()
            if not rows:
                return None
            deeds = [self._read(row) for row in rows]
            first, count = deeds[0], 1
            if first is not None and first.kind == "message" and first.album:
                count = next(
                    (n for n, deed in enumerate(deeds) if deed is None or deed.album != first.album), len(deeds)
                )
                complete_at = rows[count - 1].received_at + timedelta(seconds=ALBUM_SECONDS)
                if count == len(deeds) and self._clock() < complete_at:
                    return complete_at
            await self._do(rows[:count], [deed for deed in deeds[:count] if deed is not None])
        return self._clock()

    def _read(self, row: ForumUpdate) -> Deed | None:
        return parse(row.payload["update"], account=self._forum.api.account, groups=self._forum.groups)

    async def _do(self, rows: Sequence[ForumUpdate], deeds: Sequence[Deed]) -> None:
        """Do one thing that somebody did (several for an album), and mark it as done."""
        result, files, problem = Result(), list[StoredFile](), ""
        wanted, lang = await self._wanted(deeds)
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                files = [await self._fetch(file) for file in wanted]
        except TimeoutError:
            problem = words("file", lang, problem=words("slow", lang))
        except (OtvetError, OSError) as error:
            problem = words("file", lang, problem=_plain(error))
        async with self._sessions.begin() as session:
            ids = [row.id for row in rows]
            fresh = (
                await session.scalars(
                    select(ForumUpdate).where(ForumUpdate.id.in_(ids), ForumUpdate.done_at.is_(None)).with_for_update()
                )
            ).all()
            if len(fresh) != len(ids):
                return
            for row in fresh:
                row.done_at = self._clock()
            if deeds:
                if problem:
                    result = Result(say=problem)
                else:
                    result = await self._guarded(session, deeds, files, rows[0].id)
                if result.say and not result.private:
                    await self._word(session, deeds[0], result)
            await session.execute(delete(ForumUpdate).where(ForumUpdate.done_at < self._clock() - KEPT))
        if deeds:
            await self._answer(deeds[0], result)

    async def _wanted(self, deeds: Sequence[Deed]) -> tuple[list[InboundAttachment], str]:
        """The files that are to be sent for him, and his language. They are fetched before anything is locked."""
        lang = self._forum.lang
        if not deeds or deeds[0].kind not in ("message", "press"):
            return [], lang
        async with self._sessions.reading() as session:
            if deeds[0].kind == "press":
                held = await self._held(session, deeds[0])
                deeds = held if held and held[0].person_id == deeds[0].person_id else []
            files = [file for deed in deeds for file in deed.files]
            known = await self._people.viewer(session, deeds[0].person_id) if files else None
        return (files, known.lang) if known is not None else ([], lang)

    async def _guarded(
        self, session: AsyncSession, deeds: Sequence[Deed], files: Sequence[StoredFile], row_id: int
    ) -> Result:
        """Do it; what can't be done is undone and told."""
        deed, viewer = deeds[0], None
        if deed.kind in ("closed", "reopened"):
            return await self._note_closed(session, deed)
        if deed.kind == "link":
            return await self._link(session, deed)
        if deed.person_id != ANONYMOUS:
            viewer = await self._people.viewer(session, deed.person_id)
        if viewer is None:
            return await self._stranger(session, deed)
        try:
            async with session.begin_nested():
                return await self._act(session, viewer, deeds, files, row_id)
        except StaleReplyError as error:
            who = ", ".join(error.waiting) or await self._last_agent(session, error.newest_id)
            ticket, held_id = error.ticket_id, _held_id(deed) or row_id
            return Result(
                say=words("stale", viewer.lang, who=who),
                buttons=[[(words("b_anyway", viewer.lang), f"f:any:{ticket}:{held_id}")]],
            )
        except TicketStateError as error:
            if deed.kind == "message" and not deed.command:
                return Result(
                    say=words("ended", viewer.lang),
                    buttons=[[(words("b_reopen_send", viewer.lang), f"f:again:{error.ticket_id}:{row_id}")]],
                )
            return self._refusal(deed, words("refused", viewer.lang, problem=str(error)))
        except TicketNotFoundError:
            return self._refusal(deed, words("not_yours", viewer.lang))
        except Unclear as error:
            return self._refusal(deed, str(error))
        except EditRefusedError as error:
            return Result(say=words("not_changed", viewer.lang, problem=str(error)))
        except FileRefusedError as error:
            return Result(say=words("file", viewer.lang, problem=str(error)))
        except (HandoffError, MacroError) as error:
            return self._refusal(deed, words("refused", viewer.lang, problem=str(error)))
        except DATABASE_AWAY:
            raise
        except Exception as error:
            # Edge: a fault of ours must neither hold up what follows nor be silent.
            log.exception("forum.deed_failed", kind=deed.kind)
            return self._refusal(deed, words("refused", viewer.lang, problem=type(error).__name__))

    def _refusal(self, deed: Deed, text: str) -> Result:
        return Result(toast=text) if deed.kind == "press" else Result(say=text)

    async def _act(
        self,
        session: AsyncSession,
        viewer: Viewer,
        deeds: Sequence[Deed],
        files: Sequence[StoredFile],
        row_id: int,
    ) -> Result:
        deed = deeds[0]
        seat = Seat(
            self._desk,
            self._accounts,
            session,
            viewer,
            now=self._clock(),
            address=f"telegram:{deed.person_id}",
            tally=self._tally,
        )
        if deed.kind == "press":
            return await self._press(session, seat, deed, files)
        if deed.kind == "reaction":
            return await self._reaction(session, seat, deed)
        if deed.kind == "edit":
            return await self._edit(session, seat, deed)
        if deed.command and deed.command not in self._acts.of_ticket:
            return Result(say=(await self._acts.general(seat, deed)).say)
        topic = await self._topic(session, deed)
        if topic is None:
            return await self._elsewhere(session, viewer, deed)
        if deed.command:
            done = await self._acts.command(seat, topic.ticket_id, deed.command, deed.arguments)
            await hurry(session, topic.group_id, self._clock())
            return Result(say=done.say, buttons=done.buttons, react="" if done.say else TAKEN)
        if deed.text.startswith("//"):
            noted = await seat.note(topic.ticket_id, deed.text[2:].strip())
            await self._put_down(session, topic, deed, noted.id)
            return Result(react="✍")
        return await self._reply(session, seat, topic, deeds, files)

    async def _reply(
        self,
        session: AsyncSession,
        seat: Seat,
        topic: ForumTopic,
        deeds: Sequence[Deed],
        files: Sequence[StoredFile],
        *,
        force: bool = False,
    ) -> Result:
        deed = deeds[0]
        text = "\n".join(each.text for each in deeds if each.text)
        if not text.strip() and not files:
            raise Unclear(words("kind", seat.viewer.lang))
        draft = Draft(
            key=f"tg:{deed.group_id}:{deed.telegram_id}"[:64],
            text=text,
            # What the customer says meanwhile comes into the topic in its turn, as in any chat. A colleague's answer
            # that does not stand there yet has to be looked at first.
            seen_id=EVERYTHING,
            seen_agent_id=EVERYTHING if force else await self._seen_before(session, topic, deed),
            files=tuple(files),
            quote_id=await self._quoted(session, deed),
        )
        outgoing = await seat.reply(topic.ticket_id, draft, undo_seconds=0)
        if outgoing.state is OutgoingState.REFUSED:
            return Result(say=words("refused", seat.viewer.lang, problem=outgoing.error or ""))
        if outgoing.message_id is not None:
            for each in deeds:
                await self._put_down(session, topic, each, outgoing.message_id)
        return Result(react=TAKEN)

    async def _seen_before(self, session: AsyncSession, topic: ForumTopic, deed: Deed) -> int:
        """The newest message of the transcript that stood in the topic when this was written: Telegram numbers what is
        written in a group in its order."""
        found = await session.scalar(
            select(func.max(ForumItem.message_id))
            .join(ForumPost, ForumPost.id == ForumItem.post_id)
            .where(
                ForumItem.ticket_id == topic.ticket_id,
                ForumPost.group_id == deed.group_id,
                ForumPost.telegram_id < deed.telegram_id,
            )
        )
        return max(int(found or 0), 0)

    async def _quoted(self, session: AsyncSession, deed: Deed) -> int | None:
        """The customer's message that he answers: of several in one post the one with the words that he chose, or the
        last."""
        if deed.reply_to is None:
            return None
        rows = await session.scalars(
            select(Message)
            .join(ForumItem, ForumItem.message_id == Message.id)
            .join(ForumPost, ForumPost.id == ForumItem.post_id)
            .where(
                ForumPost.group_id == deed.group_id,
                ForumPost.telegram_id == deed.reply_to,
                ForumPost.kind != "card",
            )
            .order_by(Message.id)
        )
        told = rows.all()
        chosen = next((m for m in told if deed.quote and deed.quote in m.text), None)
        theirs = [m for m in told if m.author is Author.CUSTOMER] or list(told)
        found = chosen or (theirs[-1] if theirs else None)
        return found.id if found else None

    async def _put_down(self, session: AsyncSession, topic: ForumTopic, deed: Deed, message_id: int) -> None:
        """Record that a message of the transcript was written in the topic, and need not be told there. Once."""
        known = select(ForumPost.id).where(
            ForumPost.group_id == deed.group_id, ForumPost.telegram_id == deed.telegram_id
        )
        if await session.scalar(known) is not None:
            return
        post = ForumPost(
            ticket_id=topic.ticket_id,
            group_id=deed.group_id,
            thread_id=deed.thread_id or 0,
            telegram_id=deed.telegram_id,
            kind="agent",
            lines=[{"message": message_id}],
            at=self._clock(),
        )
        session.add(post)
        await session.flush()
        session.add(ForumItem(ticket_id=topic.ticket_id, post_id=post.id, message_id=message_id, version=0))
        await session.flush()

    async def _edit(self, session: AsyncSession, seat: Seat, deed: Deed) -> Result:
        row = (
            await session.execute(
                select(ForumItem, ForumPost)
                .join(ForumPost, ForumPost.id == ForumItem.post_id)
                .where(
                    ForumPost.group_id == deed.group_id,
                    ForumPost.telegram_id == deed.telegram_id,
                    ForumPost.kind == "agent",
                )
            )
        ).first()
        if row is None:
            return Result()  # it was not passed on
        item = row[0]
        await seat.edit(item.ticket_id, item.message_id, deed.text)
        message = await session.get_one(Message, item.message_id)
        item.version = version_of(message)
        await session.flush()
        return Result()

    async def _reaction(self, session: AsyncSession, seat: Seat, deed: Deed) -> Result:
        """An emoji under a post goes under the customer's last message in it."""
        target = await self._quoted(session, replace(deed, reply_to=deed.telegram_id))
        post = await session.scalar(
            select(ForumPost).where(ForumPost.group_id == deed.group_id, ForumPost.telegram_id == deed.telegram_id)
        )
        if target is not None and post is not None:
            await seat.react(post.ticket_id, target, deed.text)
        return Result()

    async def _press(self, session: AsyncSession, seat: Seat, deed: Deed, files: Sequence[StoredFile]) -> Result:
        found = _button(deed)
        if found is None:
            return Result()
        act, ticket_id, argument = found
        if _held_id(deed) is not None:
            return await self._once_more(session, seat, deed, ticket_id, files, reopen=act == "again")
        if act == "send":
            return await self._send_macro(session, seat, deed)
        done = await self._acts.press(seat, ticket_id, act, argument)
        topic = await session.get(ForumTopic, ticket_id)
        if topic is not None and topic.group_id in self._forum.groups:
            await hurry(session, topic.group_id, self._clock())
        return Result(say=done.say, buttons=done.buttons, toast=done.toast, menu=done.menu)

    async def _send_macro(self, session: AsyncSession, seat: Seat, deed: Deed, *, force: bool = False) -> Result:
        """The button below a macro's text. However often that one is pressed, it is one reply."""
        found = _button(deed)
        if found is None or found[0] != "send" or not found[2].isdecimal():
            return Result()
        _, ticket_id, macro_id = found
        topic = await session.get(ForumTopic, ticket_id)
        if topic is None:
            raise TicketNotFoundError(ticket_id)
        key = f"tgm:{deed.group_id}:{deed.telegram_id}:{macro_id}"[:64]
        seen = EVERYTHING if force else await self._seen_before(session, topic, deed)
        done = await self._acts.send_macro(seat, ticket_id, int(macro_id), key=key, seen_agent_id=seen)
        await hurry(session, topic.group_id, self._clock())
        return Result(toast=done.toast, menu=done.menu)

    async def _held(self, session: AsyncSession, deed: Deed) -> list[Deed]:
        """What was held up and is to be sent by this button: a reply, of an album all parts, or a macro's button."""
        row_id = _held_id(deed)
        row = await session.get(ForumUpdate, row_id) if row_id is not None else None
        held = self._read(row) if row is not None else None
        if row is None or held is None:
            return []
        if not held.album:
            return [held]
        more = await session.scalars(
            select(ForumUpdate).where(ForumUpdate.lane == row.lane, ForumUpdate.id >= row.id).order_by(ForumUpdate.id)
        )
        return [d for each in more if (d := self._read(each)) is not None and d.album == held.album]

    async def _once_more(
        self,
        session: AsyncSession,
        seat: Seat,
        deed: Deed,
        ticket_id: int,
        files: Sequence[StoredFile],
        *,
        reopen: bool,
    ) -> Result:
        """Send a reply that was held up, now that its writer knows why."""
        deeds = await self._held(session, deed)
        topic = await session.get(ForumTopic, ticket_id)
        if not deeds or topic is None or deeds[0].person_id != deed.person_id:
            raise TicketNotFoundError(ticket_id)
        if reopen:
            ticket = await session.get_one(Ticket, ticket_id)
            if ticket.status not in LIVE:
                await seat.reopen(ticket_id)
        if deeds[0].kind == "press":
            result = await self._send_macro(session, seat, deeds[0], force=True)
        else:
            result = await self._reply(session, seat, topic, deeds, files, force=True)
        await hurry(session, topic.group_id, self._clock())
        return Result(say=result.say, toast=words("sent", seat.viewer.lang) if not result.say else "", menu=())

    # Who and where

    async def _topic(self, session: AsyncSession, deed: Deed) -> ForumTopic | None:
        if deed.thread_id is None:
            return None
        found: ForumTopic | None = await session.scalar(
            select(ForumTopic).where(ForumTopic.group_id == deed.group_id, ForumTopic.thread_id == deed.thread_id)
        )
        return found

    async def _elsewhere(self, session: AsyncSession, viewer: Viewer, deed: Deed) -> Result:
        """Written where no ticket is now. Colleagues may talk there; only what is meant for a ticket is answered."""
        ticket_id = await session.scalar(
            select(ForumPost.ticket_id)
            .where(ForumPost.group_id == deed.group_id, ForumPost.thread_id == (deed.thread_id or -1))
            .limit(1)
        )
        topic = await session.get(ForumTopic, ticket_id) if ticket_id is not None else None
        if topic is not None and topic.thread_id is not None:
            return Result(say=words("no_ticket", viewer.lang, link=link_to(topic)))
        return Result(say=words("general", viewer.lang)) if deed.command else Result()

    async def _stranger(self, session: AsyncSession, deed: Deed) -> Result:
        """Somebody without an account can do nothing; he is told how to get one, now and then."""
        lang = deed.lang or self._forum.lang
        if deed.kind == "press":
            return Result(toast=words("stranger", lang))
        if deed.kind != "message":
            return Result()
        topic = await self._topic(session, deed)
        if topic is None and not deed.command:
            return Result()
        key = f"forum:stranger:{deed.group_id}:{deed.thread_id}:{deed.person_id}"
        if await self._shared.take(Rate(key, TOLD_EVERY_SECONDS)):
            return Result()
        return Result(say=words("anonymous" if deed.person_id == ANONYMOUS else "stranger", lang))

    async def _link(self, session: AsyncSession, deed: Deed) -> Result:
        lang = deed.lang or self._forum.lang
        rate = Rate(f"forum:link:{deed.person_id}", 60 / TRIES_A_MINUTE, TRIES_A_MINUTE)
        if await self._shared.take(rate):
            RATE_LIMITED.labels("forum-link").inc()
            return Result(say=words("too_often", lang), private=True)
        viewer = await self._people.link(session, deed.person_id, deed.person, deed.text)
        if viewer is None:
            return Result(say=words("bad_code", lang), private=True)
        return Result(say=words("linked", viewer.lang, name=viewer.name), private=True)

    async def _note_closed(self, session: AsyncSession, deed: Deed) -> Result:
        """Somebody closed or opened a topic by hand: known, so that it is set right."""
        topic = await self._topic(session, deed)
        if topic is not None:
            topic.closed = deed.kind == "closed"
            await session.flush()
        return Result()

    async def _last_agent(self, session: AsyncSession, message_id: int) -> str:
        message = await session.get(Message, message_id)
        return (message.agent_name if message else None) or "…"

    async def _fetch(self, file: InboundAttachment) -> StoredFile:
        """Keep a file that an agent sent. Raises OtvetError."""
        if not file.fetchable:
            raise DeliveryError(file.kind, permanent=True)
        return await self._attachments.store(self._forum.api.fetch(file), file.file_name or "")

    # Telling

    async def _word(self, session: AsyncSession, deed: Deed, result: Result) -> None:
        now = self._clock()
        session.add(
            ForumWord(
                group_id=deed.group_id,
                thread_id=deed.thread_id,
                reply_to=deed.telegram_id if deed.kind in ("message", "edit") else None,
                text=result.say,
                buttons=[[list(button) for button in row] for row in result.buttons],
                created_at=now,
            )
        )
        await hurry(session, deed.group_id, now)

    async def _answer(self, deed: Deed, result: Result) -> None:
        """What only looks well, or is said in private: it may fail."""
        api, calls = self._forum.api, list[Awaitable[Any]]()
        if deed.kind == "press":
            await api.toast(deed.callback_id, result.toast, alert=len(result.toast) > 60)
        if result.menu is not None:
            calls.append(api.put_buttons(deed.group_id, deed.telegram_id, result.menu))
        if result.react:
            calls.append(api.react(deed.group_id, deed.telegram_id, result.react))
        if result.private:
            calls.append(api.say(deed.group_id, None, Text(result.say)))
        for done in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(done, DeliveryError):
                log.info("forum.courtesy_failed", problem=str(done))
            elif isinstance(done, BaseException):
                raise done


def link_to(topic: ForumTopic) -> str:
    return f"https://t.me/c/{str(topic.group_id).removeprefix('-100')}/{topic.thread_id}"


def _button(deed: Deed) -> tuple[str, int, str] | None:
    """Of a pressed one: what to do, with which ticket, how. `f:ACT:TICKET[:ARGUMENT]`."""
    parts = deed.data.split(":", 3)
    if len(parts) < 3 or parts[0] != "f" or not parts[2].isdecimal():
        return None
    return parts[1], int(parts[2]), parts[3] if len(parts) > 3 else ""


def _held_id(deed: Deed) -> int | None:
    """The row of what was held up, where the button is one that sends it nevertheless."""
    found = _button(deed) if deed.kind == "press" else None
    if found is None or found[0] not in ("any", "again") or not found[2].isdecimal():
        return None
    return int(found[2])


def _plain(error: Exception) -> str:
    if isinstance(error, TooLargeError | DeliveryError | StorageError):
        return str(error)
    return type(error).__name__
