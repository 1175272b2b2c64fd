"""What can be done to a ticket from its topic: by a command, or by a button of the packet."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bot.channels.telegram_forum import Buttons
from bot.channels.telegram_forum_updates import Deed
from bot.desk.agent_desk import AgentDesk
from bot.desk.macros import VARIABLES, render_macro
from bot.desk.seat import Draft, Seat
from bot.forum.text import buttons
from bot.forum.words import COMMANDS, words
from handoff import queue
from handoff.errors import TicketHeldError
from handoff.packet import Packet

MAX_BUTTONS = 30
LABEL_CHARS = 40
MAX_DATA_BYTES = 64
"""Of a button."""
SHOWN_TICKETS = 20


class Unclear(Exception):  # noqa: N818 - told to the agent as it is
    """What an agent asked for can't be understood; the message tells him how it is meant."""


@dataclass(frozen=True)
class Done:
    """What is answered to whoever asked."""

    say: str = ""
    buttons: Buttons = ()
    toast: str = ""
    menu: Buttons | None = None
    """In place of the buttons of the message that was pressed."""


class Acts:
    of_ticket = frozenset(COMMANDS) - {"queue", "help"}

    def __init__(self, *, desk: AgentDesk, lang: str, shop: Mapping[str, str], clock: Callable[[], datetime]) -> None:
        """lang: of the buttons below packets and menus, which all see."""
        self._desk = desk
        self._lang = lang
        self._shop = shop
        self._clock = clock

    async def general(self, seat: Seat, deed: Deed) -> Done:
        """A command that needs no ticket."""
        lang = seat.viewer.lang
        if deed.command == "queue":
            return Done(say=await self._queue(seat))
        if deed.command in ("help", "start"):
            return Done(say=words("help", lang))
        return Done(say=words("help", lang) if deed.thread_id is not None else "")

    async def command(self, seat: Seat, ticket_id: int, name: str, rest: str) -> Done:
        """Raises Unclear, and what the seat raises."""
        lang = seat.viewer.lang
        match name:
            case "take":
                try:
                    await seat.take(ticket_id)
                except TicketHeldError as error:
                    return Done(say=_held(error, lang), buttons=_take_over(error, lang))
            case "assign":
                await seat.assign(ticket_id, *await self._colleague(seat, rest))
            case "note":
                if not rest:
                    raise Unclear(words("usage", lang, usage="/note …"))
                await seat.note(ticket_id, rest)
            case "transfer":
                topic_id, why = self._topic(rest, lang)
                await seat.transfer(ticket_id, topic_id, why)
            case "hold":
                task, until = self._hold(rest)
                await seat.hold(ticket_id, task, until)
            case "resume":
                await seat.resume(ticket_id)
            case "finish":
                await seat.finish(ticket_id)
            case "resolve":
                await seat.resolve(ticket_id)
            case "close":
                if not rest:
                    raise Unclear(words("usage", lang, usage="/close …"))
                await seat.close(ticket_id, rest)
            case "return":
                await seat.return_to_assistant(ticket_id)
            case "escalate":
                if not rest:
                    raise Unclear(words("usage", lang, usage="/escalate …"))
                await seat.escalate(ticket_id, rest, "medium")
            case "reopen":
                await seat.reopen(ticket_id)
            case "macro":
                return await self._macro_command(seat, ticket_id, rest)
            case _:
                packet = await seat.look(ticket_id)
                return Done(
                    say=words("menu", lang, number=ticket_id),
                    buttons=buttons(ticket_id, packet.resolved_at is None, self._lang),
                )
        return Done()

    async def press(self, seat: Seat, ticket_id: int, act: str, argument: str) -> Done:
        """Raises what the seat raises; a button of no meaning does nothing."""
        lang = seat.viewer.lang
        match act, argument:
            case "menu", _:
                return await self._back(seat, ticket_id)
            case "assign", "":
                return Done(menu=await self._people(seat, ticket_id))
            case "assign", _:
                await seat.assign(ticket_id, *await self._colleague(seat, argument))
            case "transfer", "":
                return Done(menu=self._topics(ticket_id, lang))
            case "transfer", _:
                await seat.transfer(ticket_id, argument, "")
            case "hold", "":
                spans = (("1", "b_day"), ("3", "b_days"), ("7", "b_week"), ("0", "b_task"))
                rows = [[(words(key, lang), f"f:hold:{ticket_id}:{days}")] for days, key in spans]
                return Done(menu=[*rows, self._menu_button(ticket_id, lang)])
            case "hold", days if days.isdecimal() and len(days) < 4:
                until = self._clock() + timedelta(days=int(days)) if int(days) else None
                await seat.hold(ticket_id, "", until)
            case "macros", _:
                return Done(menu=await self._macros(seat, ticket_id))
            case "macro", number if number.isdecimal():
                return await self._show_macro(seat, ticket_id, int(number))
            case "take", holder:
                try:
                    await seat.take(ticket_id, over=int(holder) if holder.isdecimal() else None)
                except TicketHeldError as error:
                    menu = [*_take_over(error, self._lang), self._menu_button(ticket_id, self._lang)]
                    return Done(toast=_held(error, lang), menu=menu)
            case (("resume" | "finish" | "resolve" | "return" | "reopen"), _):
                await self.command(seat, ticket_id, act, "")
            case _:
                return Done()
        done = await self._back(seat, ticket_id)
        return Done(toast=words("done", lang), menu=done.menu)

    async def _back(self, seat: Seat, ticket_id: int) -> Done:
        packet = await seat.refresh(ticket_id)
        return Done(menu=buttons(ticket_id, packet.resolved_at is None, self._lang))

    # Whom, where, until when

    async def _names(self, seat: Seat) -> list[str]:
        return [colleague.name for colleague in await seat.colleagues()]

    async def _colleague(self, seat: Seat, typed: str) -> tuple[str, str]:
        """The name that is meant, empty for back to the queue, and a note for him: `Anna Orlova look at the bill`, or
        `Ann: look at the bill`."""
        names, typed = await self._names(seat), typed.strip().lstrip("@")
        if typed in ("", "-"):
            return "", ""
        for name in sorted(names, key=len, reverse=True):
            if re.match(rf"{re.escape(name)}(?!\w)", typed, re.IGNORECASE):
                return name, typed[len(name) :].lstrip(" :,\n")
        found: list[str] = []
        for end in (":", None):  # as much of a name as stands before the colon, or a word of it
            first, *note = typed.split(end, 1)
            found = [name for name in names if first and name.lower().startswith(first.strip(" ,:").lower())]
            if len(found) == 1:
                return found[0], "".join(note).strip()
        raise Unclear(words("usage", seat.viewer.lang, usage=f"/assign {' | '.join(found or names)[:500]}"))

    async def _people(self, seat: Seat, ticket_id: int) -> Buttons:
        lang, rows = seat.viewer.lang, list[list[tuple[str, str]]]()
        colleagues = await seat.colleagues()
        for one in colleagues[:MAX_BUTTONS]:
            mark, data = "🟢" if one.on_duty else "⚪️", f"f:assign:{ticket_id}:{one.name}"
            if len(data.encode()) <= MAX_DATA_BYTES:  # others by command
                rows.append([(f"{mark} {one.name[:LABEL_CHARS]} {one.load}/{one.capacity}", data)])
        rows.append([(words("b_queue", lang), f"f:assign:{ticket_id}:-")])
        return [*rows, self._menu_button(ticket_id, lang)]

    def _topic(self, typed: str, lang: str) -> tuple[str, str]:
        """The topic that is meant, by its id or its title, and the reason."""
        topics, low = self._desk.tickets.topics.all, typed.lower()
        known = {topic.id.lower(): topic.id for topic in topics.values()}
        known |= {topic.title_in(each).lower(): topic.id for topic in topics.values() for each in ("ru", "en")}
        for name in sorted(known, key=len, reverse=True):
            if low == name or low.startswith((f"{name} ", f"{name}\n")):
                return known[name], typed[len(name) :].strip()
        names = " | ".join(topic.title_in(lang) for topic in topics.values())
        raise Unclear(words("usage", lang, usage=f"/transfer {names}"))

    def _topics(self, ticket_id: int, lang: str) -> Buttons:
        topics = list(self._desk.tickets.topics.all.values())[:MAX_BUTTONS]
        buttons = [(topic.title_in(lang)[:LABEL_CHARS], f"f:transfer:{ticket_id}:{topic.id}") for topic in topics]
        buttons = [button for button in buttons if len(button[1].encode()) <= MAX_DATA_BYTES]
        return [*(buttons[at : at + 2] for at in range(0, len(buttons), 2)), self._menu_button(ticket_id, lang)]

    def _hold(self, typed: str) -> tuple[str, datetime | None]:
        """`DEV-17 3`: the task and the days; either may be missing."""
        found = re.search(r"(?:^|\s)(\d{1,3})\s*(?:d|days?|д|дн|дней|дня|день)?$", typed)
        if found is None or not int(found[1]):
            return typed.strip()[:500], None
        return typed[: found.start()].strip()[:500], self._clock() + timedelta(days=int(found[1]))

    def _menu_button(self, ticket_id: int, lang: str) -> list[tuple[str, str]]:
        return [(words("b_menu", lang), f"f:menu:{ticket_id}")]

    # Macros

    async def _macros(self, seat: Seat, ticket_id: int) -> Buttons:
        packet = await seat.refresh(ticket_id)
        lang = seat.viewer.lang
        found = list(await seat.macros(packet.lang))[:MAX_BUTTONS]
        rows = [[(macro.title[:LABEL_CHARS], f"f:macro:{ticket_id}:{macro.id}")] for macro in found]
        return [*rows, self._menu_button(ticket_id, lang)]

    async def _macro_command(self, seat: Seat, ticket_id: int, title: str) -> Done:
        packet, lang = await seat.refresh(ticket_id), seat.viewer.lang
        found = list(await seat.macros(packet.lang))
        if title:
            low = title.lower()
            fitting = [m for m in found if m.title.lower() == low] or [m for m in found if low in m.title.lower()]
            if len(fitting) == 1:
                return await self._show_macro(seat, ticket_id, fitting[0].id)
        if not found:
            return Done(say=words("no_macros", lang))
        return Done(say=words("b_macros", lang), buttons=await self._macros(seat, ticket_id))

    async def _macro(self, seat: Seat, ticket_id: int, macro_id: int) -> str:
        """Its text for this ticket. Raises MacroError, Unclear."""
        packet = await seat.refresh(ticket_id)
        macro = next((each for each in await seat.macros(packet.lang) if each.id == macro_id), None)
        if macro is None:
            raise Unclear(words("no_macros", seat.viewer.lang))
        return render_macro(macro.title, macro.body, self._values(packet, seat.viewer.name))

    async def _show_macro(self, seat: Seat, ticket_id: int, macro_id: int) -> Done:
        """Its text, to be looked at before it goes out."""
        text, lang = await self._macro(seat, ticket_id, macro_id), seat.viewer.lang
        send = {"ru": "Отправить", "en": "Send"}["ru" if lang == "ru" else "en"]
        return Done(say=text, buttons=[[(send, f"f:send:{ticket_id}:{macro_id}")]])

    async def send_macro(self, seat: Seat, ticket_id: int, macro_id: int, *, key: str, seen_agent_id: int) -> Done:
        """key: the same one is one reply. Raises what `Seat.reply` does."""
        text = await self._macro(seat, ticket_id, macro_id)
        draft = Draft(key=key, text=text, seen_id=2**62, seen_agent_id=seen_agent_id)
        await seat.reply(ticket_id, draft, undo_seconds=0)
        return Done(toast=words("sent", seat.viewer.lang), menu=())

    def _values(self, packet: Packet, agent: str) -> Mapping[str, str]:
        name = packet.customer.name or ""
        topic = self._desk.tickets.topics.get(packet.topic).title_in(packet.lang)
        first, shop = name.split()[0] if name.split() else "", self._shop.get(packet.lang) or self._shop.get("en", "")
        values = (name, first, agent, str(packet.ticket_id), topic, packet.subject, shop)
        return dict(zip(VARIABLES, values, strict=True))

    async def _queue(self, seat: Seat) -> str:
        lang = seat.viewer.lang
        found = await seat.find(queue.Query(view=queue.View.WAITING))
        rows: Sequence[Any] = found.rows[:SHOWN_TICKETS]
        if not rows:
            return words("empty", lang)
        lines = [f"№ {row.ticket_id} · {row.subject[:60]}" for row in rows]
        return "\n".join([words("queue", lang, n=len(lines)), *lines])


def _held(error: TicketHeldError, lang: str) -> str:
    return words("taken", lang, who=error.holder)


def _take_over(error: TicketHeldError, lang: str) -> list[list[tuple[str, str]]]:
    """The button that takes it nevertheless, from him and from nobody else."""
    label = words("b_take_over", lang, who=error.holder[:LABEL_CHARS])
    return [[(label, f"f:take:{error.ticket_id}:{error.holder_id}")]]
