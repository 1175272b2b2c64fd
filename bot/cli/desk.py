"""`otvet tickets` and `otvet agents`: all that a desk can do, from the terminal."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from bot.cli.console import AsJson, installation, print_json, run, table, transaction
from handoff.errors import AgentNotFoundError, TicketHeldError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from bot.attachments import StoredFile
    from bot.desk.agent_desk import AgentDesk
    from bot.wiring import Installation
    from handoff.records import Message

tickets_app = typer.Typer(no_args_is_help=True, help="What the assistant could not settle.")
agents_app = typer.Typer(no_args_is_help=True, help="The people who answer.")

As = Annotated[str, typer.Option("--agent", help="Who does it; customers see the name. Default: the user's.")]
TICKET_FIELDS = (
    *("status", "topic", "team", "level", "priority", "reason", "lang", "subject"),
    *("assignee_id", "created_at", "promised_at"),
)


def act(work: Callable[[AgentDesk, AsyncSession], Awaitable[Any]]) -> Any:
    async def done() -> Any:
        here = installation()
        async with transaction(here) as session:
            return await work(here.agent_desk(), session)

    return run(done())


def who(agent: str) -> str:
    return agent or getpass.getuser()


@tickets_app.command("list")
def tickets_list(
    everything: Annotated[bool, typer.Option("--all", help="Ended ones too.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 100,
    as_json: AsJson = False,
) -> None:
    """Tickets, the one that waits longest first."""

    async def work(_desk: AgentDesk, session: AsyncSession) -> list[dict[str, Any]]:
        from handoff import desk

        found = await desk.list_tickets(session, live=not everything, limit=limit)
        return [{"ticket_id": ticket.id, **{name: getattr(ticket, name) for name in TICKET_FIELDS}} for ticket in found]

    rows = act(work)
    if as_json:
        print_json(rows)
    elif not rows:
        print("No tickets wait." if not everything else "There are no tickets yet.")
    else:
        shown = ("ticket_id", "status", "topic", "level", "priority", "reason", "subject")
        table([[*(row[name] for name in shown), f"{row['created_at']:%d.%m %H:%M}"] for row in rows], [*shown, "since"])


@tickets_app.command("show")
def tickets_show(ticket_id: int, as_json: AsJson = False) -> None:
    """Everything that an agent needs to go on; --json has what the assistant knew at each step."""

    async def work(desk: AgentDesk, session: AsyncSession) -> dict[str, Any]:
        return (await desk.packet(session, ticket_id)).as_json()

    packet = act(work)
    if as_json:
        print_json(packet)
        return
    who, customer = packet["conversation"], packet["customer"]
    sure = "" if packet["topic_confidence"] is None else f" ({packet['topic_confidence']:.0%})"
    print(f"Ticket {packet['ticket_id']}, {packet['status']}: {packet['subject']}")
    print(
        f"Topic {packet['topic']}{sure} by {packet['routed_by']}, team {packet['team']} {packet['level']}, "
        f"{packet['priority']}; reason: {packet['reason']}; answer promised by {packet['promised_at']}; "
        f"agent: {packet['assignee'] or 'nobody yet'}"
    )
    for clock in packet["clocks"]:
        print(
            f"  {clock['kind']}: {clock['used_seconds'] // 60} of {clock['target_seconds'] // 60} minutes used", end=""
        )
        print(f", due {clock['due_at'][:16]}" if clock["due_at"] else "", " BREACHED" if clock["breached"] else "")
    print(f"{who['channel']}, {who['customer_name'] or who['chat_id']}, {who['lang']}, {customer['segment'] or '-'}")
    if customer["tickets"]:
        print("Earlier: " + "; ".join(f"№ {row['ticket_id']} {row['subject']}" for row in customer["tickets"][:5]))
    if who["window_closes_at"]:
        print(_window(datetime.fromisoformat(who["window_closes_at"])))
    if who["blocked_at"]:
        print(f"The customer can't be reached since {who['blocked_at'][:16]}: {who['blocked_why']}. Replies wait.")
    for message in packet["elsewhere"]:
        print(f"Elsewhere [{message['at'][:16]}] {message['agent_name'] or message['author']}: {message['text']}")
    print(f"Summary: {packet['summary']}\n")
    for message in packet["transcript"]:
        quote = (message["context"] or {}).get("quote") or (message["reply_to_id"] and f"#{message['reply_to_id']}")
        changed = " (changed)" if message["edits"] else ""
        author = message["agent_name"] or message["author"]
        print(f"#{message['id']} [{message['at'][:16]}] {author}: {message['text']}{changed}")
        if quote:
            print(f"    > {quote}")
        for attachment in message["attachments"]:
            print(f"    + {attachment['kind']} {attachment['file_name'] or ''} ({attachment['state']})")
        for number, option in enumerate(message["options"], 1):
            print(f"    {number}. {option['label']}")


def _window(closing: datetime) -> str:
    """How long the customer may still be written to, in words."""
    left = closing - datetime.now(UTC)
    if left <= timedelta():
        return "The window is closed: a reply waits until the customer answers a template, which goes out with it."
    hours, minutes = divmod(int(left.total_seconds()) // 60, 60)
    return f"The customer may be written to for {hours} h {minutes:02} min (until {closing:%Y-%m-%d %H:%M} UTC)."


@tickets_app.command("reply")
def tickets_reply(
    ticket_id: int,
    text: str,
    agent: As = "",
    template: Annotated[
        str, typer.Option(help="The template that asks the customer to answer, if his window is closed.")
    ] = "",
    in_: Annotated[
        int | None, typer.Option("--in", help="Go on in this other conversation of his; `ways` lists them.")
    ] = None,
    quote: Annotated[int | None, typer.Option(help="The message (#) that it answers.")] = None,
    file: Annotated[
        list[Path] | None, typer.Option(help="A file to send with it; repeat it for several.", exists=True)
    ] = None,
) -> None:
    """Answer the customer in his own chat, or in another of his. With files the text may be empty."""
    here = installation()
    if template and template not in here.templates.ids:
        known = ", ".join(here.templates.ids) or "none"
        raise typer.BadParameter(f"there is no template {template}; there are: {known}", param_hint="--template")
    files = run(_store(here, file or []))

    async def reply(desk: AgentDesk, session: AsyncSession) -> Message:
        common: Any = {"agent": who(agent), "template": template, "files": files}
        if in_ is not None:
            return await desk.reply_elsewhere(session, ticket_id, in_, text, **common)
        return await desk.reply(session, ticket_id, text, quote=quote, **common)

    act(reply)
    print(f"Queued for ticket {ticket_id}: it goes out as soon as the assistant is serving")


@tickets_app.command("edit")
def tickets_edit(ticket_id: int, message_id: int, text: str, agent: As = "") -> None:
    """Change what an agent wrote, as long as the channel lets it be changed."""
    act(lambda desk, session: desk.edits.edit(session, ticket_id, message_id, text, agent=who(agent)))
    print(f"Message {message_id} is changed")


async def _store(here: Installation, paths: Sequence[Path]) -> list[StoredFile]:
    async def chunks(path: Path) -> AsyncIterator[bytes]:
        yield await asyncio.to_thread(path.read_bytes)

    return [await here.attachments.store(chunks(path), path.name) for path in paths]


@tickets_app.command("ways")
def tickets_ways(ticket_id: int, as_json: AsJson = False) -> None:
    """Where else the customer can be answered: his other channels, the likeliest to reach him first."""

    async def work(desk: AgentDesk, session: AsyncSession) -> list[dict[str, Any]]:
        return [asdict(way) for way in await desk.ways(session, ticket_id)]

    rows = act(work)
    if as_json:
        print_json(rows)
    elif not rows:
        print("No other conversation of this customer's is known: otvet customers show tells who may be the same")
    else:
        shown = ("conversation_id", "channel", "customer_name", "heard_at", "open", "failed", "ticket_id")
        table([[row[name] for name in shown] for row in rows], shown)


@tickets_app.command("note")
def tickets_note(ticket_id: int, text: str, agent: As = "") -> None:
    """Write what agents alone see."""
    act(lambda desk, session: desk.note(session, ticket_id, text, agent=who(agent)))
    print(f"Noted on ticket {ticket_id}")


@tickets_app.command("finish")
def tickets_finish(ticket_id: int, agent: As = "") -> None:
    """The last word is said: the customer will be asked whether it helped."""
    act(lambda desk, session: desk.finish(session, ticket_id, agent=who(agent)))
    print(f"Ticket {ticket_id} awaits feedback")


@tickets_app.command("resolve")
def tickets_resolve(ticket_id: int, agent: As = "") -> None:
    """End a ticket: the customer is told, and the assistant answers again."""
    act(lambda desk, session: desk.resolve(session, ticket_id, agent=who(agent)))
    print(f"Ticket {ticket_id} is resolved")


@tickets_app.command("close")
def tickets_close(
    ticket_id: int, why: Annotated[str, typer.Option(help="Duplicate, spam, the customer left …")], agent: As = ""
) -> None:
    """End a ticket that was not resolved."""
    act(lambda desk, session: desk.close(session, ticket_id, why=why, agent=who(agent)))
    print(f"Ticket {ticket_id} is closed")


@tickets_app.command("reopen")
def tickets_reopen(ticket_id: int, agent: As = "") -> None:
    """Take an ended ticket up again."""
    act(lambda desk, session: desk.reopen(session, ticket_id, agent=who(agent)))
    print(f"Ticket {ticket_id} is open")


@tickets_app.command("resume")
def tickets_resume(ticket_id: int, agent: As = "") -> None:
    """Go on with a ticket that is on hold, or take off it the task that it waits for no more."""
    act(lambda desk, session: desk.resume(session, ticket_id, agent=who(agent)))
    print(f"Ticket {ticket_id} is open")


@tickets_app.command("return")
def tickets_return(ticket_id: int, agent: As = "") -> None:
    """No person is needed after all: the customer goes on with the assistant."""
    act(lambda desk, session: desk.return_to_assistant(session, ticket_id, agent=who(agent)))
    print(f"Ticket {ticket_id} is closed, and the customer is with the assistant")


@tickets_app.command("change")
def tickets_change(
    ticket_id: int,
    priority: Annotated[str | None, typer.Option(help="low, normal, high or urgent.")] = None,
    complexity: Annotated[int | None, typer.Option(min=1, max=3, help="1 to 3.")] = None,
    subject: str | None = None,
    agent: As = "",
) -> None:
    """Change a ticket's priority, complexity or subject."""
    from handoff.desk import get_ticket
    from handoff.routing import PRIORITIES
    from handoff.tickets import subject_of

    if priority is not None and priority not in PRIORITIES:
        raise typer.BadParameter(f"expected {', '.join(PRIORITIES)}", param_hint="--priority")

    async def work(desk_: AgentDesk, session: AsyncSession) -> None:
        ticket, now = await get_ticket(session, ticket_id), datetime.now(UTC)
        line = subject_of(subject) if subject else None
        await desk_.tickets.change(
            session, ticket, agent=who(agent), now=now, priority=priority, complexity=complexity, subject=line
        )

    act(work)
    print(f"Ticket {ticket_id} is changed")


@tickets_app.command("hold")
def tickets_hold(
    ticket_id: int,
    task: Annotated[str, typer.Option(help="Link or name of what it waits for.")],
    until: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Look again at the latest.")] = None,
    agent: As = "",
) -> None:
    """Let a ticket wait for something else; the clocks stand."""

    def work(desk: AgentDesk, session: AsyncSession) -> Awaitable[Any]:
        when = until.replace(hour=9, tzinfo=desk.zone).astimezone(UTC) if until else None
        return desk.hold(session, ticket_id, task=task, until=when, agent=who(agent))

    act(work)
    print(f"Ticket {ticket_id} is on hold")


@tickets_app.command("task-done")
def tickets_task_done(
    task: str, outcome: Annotated[str, typer.Option(help="What the customers are told of it.")] = ""
) -> None:
    """A linked task ended: its tickets go on, and their customers are told."""
    found = act(lambda desk, session: desk.task_done(session, task, outcome=outcome))
    print(f"Tickets that go on: {', '.join(str(ticket.id) for ticket in found) or 'none waits for it'}")


@tickets_app.command("transfer")
def tickets_transfer(
    ticket_id: int, topic: str, why: Annotated[str, typer.Option(help="For the colleague.")], agent: As = ""
) -> None:
    """Pass a ticket to the team of another topic; the routing learns from it."""
    act(lambda desk, session: desk.transfer(session, ticket_id, topic, why=why, agent=who(agent)))
    print(f"Ticket {ticket_id} is passed on")


@tickets_app.command("escalate")
def tickets_escalate(
    ticket_id: int,
    details: Annotated[str, typer.Option(help="Details, and the steps that were taken.")],
    urgency: Annotated[str, typer.Option(help="low, medium or high.")] = "medium",
    agent: As = "",
) -> None:
    """Pass a ticket a level higher."""
    if urgency not in ("low", "medium", "high"):
        raise typer.BadParameter("expected low, medium or high", param_hint="--urgency")
    act(lambda desk, session: desk.escalate(session, ticket_id, details=details, urgency=urgency, agent=who(agent)))
    print(f"Ticket {ticket_id} is escalated")


@tickets_app.command("assign")
def tickets_assign(
    ticket_id: int,
    to: Annotated[str, typer.Argument(help="An agent's name; empty: nobody.")],
    take_over: Annotated[bool, typer.Option("--take-over", help="Also from a colleague who is there.")] = False,
    note: Annotated[str, typer.Option(help="Why, for the colleague; the customer hears that he is passed on.")] = "",
    agent: As = "",
) -> None:
    """Give a ticket to an agent, or back to the queue."""

    async def work(desk_: AgentDesk, session: AsyncSession) -> None:
        from handoff.staff import find_agent

        whom, by = await find_agent(session, to) if to else None, who(agent)
        if to and whom is None:
            raise AgentNotFoundError(to)
        if whom is None or take_over:
            await desk_.assign(session, ticket_id, whom, by=by, why=note)
            return
        try:
            await desk_.take(session, ticket_id, whom, by=by, why=note)
        except TicketHeldError as error:
            raise typer.BadParameter(
                f"ticket {ticket_id} is {error.holder}'s, who is there: add --take-over to give it to {to} all the same"
            ) from error

    act(work)
    print(f"Ticket {ticket_id}: {to or 'back in the queue'}")


@agents_app.command("list")
def agents_list(as_json: AsJson = False) -> None:
    """The people who answer, and who of them is there."""

    async def work(desk_: AgentDesk, session: AsyncSession) -> list[dict[str, Any]]:
        from handoff.staff import list_agents, on_duty

        names = ("name", "level", "teams", "langs", "capacity", "schedule", "presence")
        now = datetime.now(UTC)
        return [
            {
                **{name: getattr(agent, name) for name in names},
                "on_duty": on_duty(desk_.tickets.policy, agent, now),
                "load": load,
            }
            for agent, load in await list_agents(session)
        ]

    rows = act(work)
    if as_json:
        print_json(rows)
    elif not rows:
        print("There are no agents yet: otvet agents add NAME --team TEAM")
    else:
        table([[", ".join(v) if isinstance(v, list) else v for v in row.values()] for row in rows], list(rows[0]))


@agents_app.command("add")
def agents_add(
    name: str,
    team: Annotated[list[str] | None, typer.Option(help="A team of topics.yml; may be repeated.")] = None,
    level: Annotated[str, typer.Option(help="L1, L2, L3 or supervisor.")] = "L1",
    lang: Annotated[
        list[str] | None,
        typer.Option(help="Answers in these languages; others only while nobody who speaks them is there."),
    ] = None,
    capacity: Annotated[int, typer.Option(min=1, max=1000, help="Tickets at once.")] = 10,
    schedule: Annotated[str, typer.Option(help="A schedule of desk.yml.")] = "default",
    notify: Annotated[list[str] | None, typer.Option(help="An Apprise address, such as tgram://…")] = None,
    quiet: Annotated[str | None, typer.Option(help="Hours in which he is not told, such as 22:00-08:00.")] = None,
    zone: Annotated[str | None, typer.Option(help="His time zone, such as Asia/Omsk.")] = None,
    event: Annotated[list[str] | None, typer.Option(help="Tell him of this alone; may be repeated.")] = None,
) -> None:
    """Add an agent, or change one."""
    from bot.notifications import quiet_until, shown_address
    from handoff.policy import EVENTS

    if any(shown_address(address) is None for address in notify or ()):
        raise typer.BadParameter("this is no address that Apprise knows", param_hint="--notify")
    if wrong := set(event or ()) - set(EVENTS):
        raise typer.BadParameter(f"no event {min(wrong)}: {', '.join(EVENTS)}", param_hint="--event")
    try:
        quiet_until(quiet or "22:00-08:00", ZoneInfo(zone or "UTC"), datetime.now(UTC))
    except (ValueError, KeyError, OSError) as error:
        raise typer.BadParameter(f"{error}: expected 22:00-08:00 and a name such as Asia/Omsk") from error

    async def work(desk_: AgentDesk, session: AsyncSession) -> None:
        from handoff.policy import LEVELS
        from handoff.staff import put_agent

        known = {topic.team for topic in desk_.tickets.topics.all.values()} | set(desk_.tickets.policy.teams)
        if wrong := set(team or ()) - known:
            raise typer.BadParameter(f"no team {min(wrong)}: {', '.join(sorted(known))}", param_hint="--team")
        if level not in LEVELS:
            raise typer.BadParameter(f"expected one of {', '.join(LEVELS)}", param_hint="--level")
        if schedule not in desk_.tickets.policy.schedules:
            raise typer.BadParameter(f"desk.yml has no schedule {schedule}", param_hint="--schedule")
        given = {"teams": team, "langs": lang, "notify": notify, "notify_events": event, "quiet": quiet, "zone": zone}
        await put_agent(
            session,
            name,
            now=datetime.now(UTC),
            level=level,
            capacity=capacity,
            schedule=schedule,
            **{key: value for key, value in given.items() if value is not None},
        )

    act(work)
    print(f"{name} answers")


@agents_app.command("invite")
def agents_invite(
    name: Annotated[str, typer.Argument(help="As customers see it; of an agent who is there already, he is meant.")],
    role: Annotated[str, typer.Option(help="agent, senior, editor, supervisor or admin.")] = "agent",
    team: Annotated[list[str] | None, typer.Option(help="A team of topics.yml; may be repeated.")] = None,
    level: Annotated[str, typer.Option(help="L1, L2, L3 or supervisor.")] = "L1",
    lang: Annotated[
        list[str] | None,
        typer.Option(help="Answers in these languages; others only while nobody who speaks them is there."),
    ] = None,
    url: Annotated[str, typer.Option(help="Where the desk is reached.")] = "http://127.0.0.1:8080",
) -> None:
    """A link by which a person signs up at the web desk: once, and for a week."""

    async def work() -> str:
        from handoff.access import Role
        from handoff.policy import LEVELS

        here = installation()
        if role not in set(Role):
            raise typer.BadParameter(f"expected one of {', '.join(Role)}", param_hint="--role")
        if level not in LEVELS:
            raise typer.BadParameter(f"expected one of {', '.join(LEVELS)}", param_hint="--level")
        known = {topic.team for topic in here.topics.all.values()} | set(here.desk_policy.teams)
        if wrong := set(team or ()) - known:
            raise typer.BadParameter(f"no team {min(wrong)}: {', '.join(sorted(known))}", param_hint="--team")
        async with transaction(here) as session:
            return await here.accounts.invite(
                session,
                role=Role(role),
                by=getpass.getuser(),
                name=name,
                teams=team or (),
                level=level,
                langs=lang or (),
            )

    print(f"{url.rstrip('/')}/desk/welcome/{run(work())}")


@agents_app.command("telegram")
def agents_telegram(
    name: Annotated[str, typer.Argument(help="An agent with an account at the web desk.")],
    unlink: Annotated[bool, typer.Option("--unlink", help="Take it back: he can do nothing there any more.")] = False,
) -> None:
    """A code by which an agent shows the bot who he is, so that he can answer in the group: for 15 minutes, once."""

    async def work() -> str | None:
        here = installation()
        async with transaction(here) as session:
            if unlink:
                await here.forum_people.unlink_agent(session, name, who(""))
                return None
            return await here.forum_people.code_for(session, name)

    code = run(work())
    print(f"/link {code}    (to be sent to the bot in a private chat, within 15 minutes)" if code else "Unlinked.")


@agents_app.command("presence")
def agents_presence(name: str, presence: str) -> None:
    """auto (by the schedule), online or away (until the shift ends), or offline (until it is changed). Who leaves keeps
    nothing that has to be answered."""

    async def work(desk_: AgentDesk, session: AsyncSession) -> None:
        from handoff.records import Presence
        from handoff.staff import find_agent

        if presence not in set(Presence):
            raise typer.BadParameter(f"expected one of {', '.join(Presence)}")
        agent = await find_agent(session, name)
        if agent is None:
            raise AgentNotFoundError(name)
        agent.presence, agent.presence_at = Presence(presence), datetime.now(UTC)
        await session.flush()
        await desk_.tickets.holders.give_out(session, now=datetime.now(UTC))

    act(work)
    print(f"{name}: {presence}")


@agents_app.command("remove")
def agents_remove(name: str) -> None:
    """An agent who left: his tickets go back to the queue, his words stay."""

    async def work(desk_: AgentDesk, session: AsyncSession) -> None:
        from handoff.staff import find_agent
        from handoff.tickets import forget_agent

        agent = await find_agent(session, name)
        if agent is None:
            raise AgentNotFoundError(name)
        await forget_agent(session, agent, desk_.tickets, actor=getpass.getuser(), now=datetime.now(UTC))

    act(work)
    print(f"{name} is removed")
