"""`otvet customers`: who they are, over all channels."""

from __future__ import annotations

import getpass
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bot.cli.console import AsJson, installation, print_json, run, table, transaction
from bot.cli.desk import As, act, who

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from bot.desk.agent_desk import AgentDesk
    from bot.erasure.again import Erased
    from bot.erasure.export import Exported
    from bot.erasure.person import Holdings

customers_app = typer.Typer(no_args_is_help=True, help="Who the customers are, over all channels.")


@customers_app.command("list")
def customers_list(
    query: Annotated[str, typer.Argument(help="A part of a name, number, e-mail or segment.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 100,
    as_json: AsJson = False,
) -> None:
    """Customers, the newest first: who was handed to a person, or whose number the platform vouches for."""

    async def work(_desk: AgentDesk, session: AsyncSession) -> list[dict[str, Any]]:
        from handoff.customers import list_customers

        names = ("id", "name", "segment", "phone", "email", "note", "created_at")
        found = await list_customers(session, query, limit=limit)
        return [{name: getattr(customer, name) for name in names} for customer in found]

    rows = act(work)
    if as_json:
        print_json(rows)
    elif not rows:
        print("No customers are known yet." if not query else "Nobody fits.")
    else:
        shown = ("id", "name", "segment", "phone", "email", "note")
        table([[row[name] for name in shown] for row in rows], shown)


@customers_app.command("show")
def customers_show(customer_id: int, as_json: AsJson = False) -> None:
    """One customer: his channels, contacts and tickets, what was linked, and who may be the same person."""

    async def work(desk: AgentDesk, session: AsyncSession) -> dict[str, Any]:
        from handoff.packet import customer_card

        card = await customer_card(session, await desk.customers.get(session, customer_id), desk.tickets)
        return card.model_dump(mode="json")

    card = act(work)
    if as_json:
        print_json(card)
        return
    print(f"Customer {card['id']}: {card['name'] or 'no name'}, {card['segment'] or 'no segment'}. {card['note']}")
    for row in card["contacts"]:
        print(f"  {row['kind']} {row['value']}", "" if row["verified"] else "(typed, not proved)")
    for name in ("phone", "email"):
        if card[name] and card[name] not in {row["value"] for row in card["contacts"]}:
            print(f"  {name} {card[name]} (written by an agent)")
    for row in card["conversations"]:
        print(f"  conversation {row['id']}: {row['channel']}, {row['customer_name'] or row['chat_id']}, {row['lang']}")
    for row in card["tickets"]:
        print(f"  № {row['ticket_id']} {row['status']}, {row['channel']}, {row['topic']}: {row['subject']}")
    for row in card["links"]:
        undone = f", undone {row['undone_at'][:16]}" if row["undone_at"] else ""
        print(
            f"  conversation {row['conversation_id']} came from customer {row['from_customer_id']} to "
            f"{row['to_customer_id']} by {row['how']}, {row['actor']}, {row['at'][:16]}{undone}"
        )
    for row in card["suggestions"]:
        print(
            f"  Perhaps the same person: customer {row['customer_id']} {row['name'] or ''} ({row['kind']} "
            f"{row['value']}). If so: otvet customers link {card['id']} {row['customer_id']}"
        )


@customers_app.command("link")
def customers_link(
    into: Annotated[int, typer.Argument(help="The customer who stays.")],
    other: Annotated[int, typer.Argument(help="The customer whose conversations become his.")],
    agent: As = "",
) -> None:
    """Two customers are one person. `unlink` takes it back."""
    act(lambda desk, session: desk.customers.link(session, into, other, actor=who(agent), now=datetime.now(UTC)))
    print(f"Customer {other} is customer {into} now")


@customers_app.command("unlink")
def customers_unlink(conversation: int, agent: As = "") -> None:
    """A conversation is not this customer's: back to whom it was linked from. It is not linked by itself again."""
    customer = act(
        lambda desk, session: desk.customers.unlink(session, conversation, actor=who(agent), now=datetime.now(UTC))
    )
    print(f"Conversation {conversation} is customer {customer.id}'s")


@customers_app.command("set")
def customers_set(
    customer_id: int,
    segment: Annotated[str | None, typer.Option(help="vip, business or another of desk.yml; empty: none.")] = None,
    name: Annotated[str | None, typer.Option()] = None,
    phone: Annotated[str | None, typer.Option(help="Makes suggestions, links nobody.")] = None,
    email: Annotated[str | None, typer.Option(help="Likewise.")] = None,
    note: Annotated[str | None, typer.Option(help="For agents.")] = None,
    lang: Annotated[str | None, typer.Option(help="ru or en: in which he is answered.")] = None,
) -> None:
    """Say who a customer is. A segment changes what his live tickets were promised."""
    if lang not in (None, "ru", "en"):
        raise typer.BadParameter("expected ru or en", param_hint="--lang")
    act(
        lambda desk, session: desk.customers.change(
            session,
            customer_id,
            actor=getpass.getuser(),
            now=datetime.now(UTC),
            segment=segment,
            name=name,
            phone=phone,
            email=email,
            note=note,
            lang=lang,
        )
    )
    print(f"Customer {customer_id} is changed")


Conversation = Annotated[
    int | None,
    typer.Option("--conversation", help="Whoever writes in this conversation, also where he has no number."),
]


@customers_app.command("export")
def customers_export(
    customer_id: Annotated[int | None, typer.Argument(help="The customer's number.", show_default=False)] = None,
    conversation: Conversation = None,
    out: Annotated[Path | None, typer.Option("--out", help="A new file; by default customer-NUMBER.zip.")] = None,
    notes: Annotated[bool, typer.Option("--notes", help="Also what agents wrote for each other.")] = False,
    agent: As = "",
    as_json: AsJson = False,
) -> None:
    """Write all that is kept about a customer into a zip: readable JSON (docs/export.schema.json) and his files."""
    _one_of(customer_id, conversation)
    number = f"customer-{customer_id}" if customer_id is not None else f"conversation-{conversation}"
    target = out or Path(f"{number}.zip")

    async def work() -> Exported:
        here = installation()
        await here.migrate()
        try:
            return await here.exporter.write(
                target, customer_id=customer_id, conversation_id=conversation, notes=notes, by=who(agent)
            )
        finally:
            await here.close()

    try:
        done = run(work())
    except OSError as error:
        raise typer.BadParameter(str(error), param_hint="--out") from error
    if as_json:
        print_json({**asdict(done), "file": str(target)})
    else:
        print(f"{target}: {done.messages} messages, {done.files} files. It holds personal data")
        if done.missing:
            print(f"  {done.missing} files are gone from the store")


@customers_app.command("erase")
def customers_erase(
    customer_id: Annotated[int | None, typer.Argument(help="The customer's number.", show_default=False)] = None,
    conversation: Conversation = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    agent: As = "",
    as_json: AsJson = False,
) -> None:
    """Take a customer's words, names, addresses and files out for good, over all his channels. The rows stay, empty,
    so that the figures stay true. Can't be undone."""
    _one_of(customer_id, conversation)

    async def look() -> Holdings:
        from bot.erasure.person import holdings, person_in, person_of

        async with transaction(installation()) as session:
            found = (
                person_of(session, customer_id) if customer_id is not None else person_in(session, conversation or 0)
            )
            return await holdings(session, await found)

    async def erase() -> tuple[Holdings, int]:
        here = installation()
        try:
            async with here.database.sessions.begin() as session:
                by, now = who(agent), datetime.now(UTC)
                if customer_id is not None:
                    had = await here.eraser.erase(session, customer_id, by=by, now=now)
                else:
                    had = await here.eraser.erase_conversation(session, conversation or 0, by=by, now=now)
            return had, await here.finish_erasures()
        finally:
            await here.close()

    had = run(look())
    name = f"customer {had.customer_id}" if had.customer_id is not None else f"conversation {conversation}"
    if not yes and had.erased_at is None:
        print(
            f"Of {name} will go: {had.messages} messages, {had.files} files, the words of {had.tickets} tickets, "
            f"in {had.conversations} conversations. This can't be undone."
        )
        typer.confirm("Erase them?", abort=True)
    had, left = run(erase())
    if as_json:
        print_json({**had.as_json(), "unfinished": left})
        return
    if had.erased_at is not None:
        print(f"{name.capitalize()} was erased on {had.erased_at:%Y-%m-%d} already")
    else:
        print(f"Erased {name}: {had.messages} messages, {had.files} files, the words of {had.tickets} tickets")
    if had.taught:
        print(f"  {had.taught} of his messages were used to teach the assistant; what was made of them, masked, stays")
    if had.help_desk:
        print(f"  To be erased in the help desk, too: tickets {', '.join(had.help_desk)}")
    if left:
        print(
            "  Files that came within the last minute, or could not be deleted yet, follow while `otvet serve` runs; "
            "or run this again"
        )


@customers_app.command("erased")
def customers_erased(
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Only after this day began (UTC).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Who was erased, by his number: what is to be erased again should an older backup be restored elsewhere."""

    async def work() -> list[Erased]:
        from bot.erasure.again import erased_since

        here = installation()
        await here.migrate()
        try:
            return await erased_since(here.database.sessions, since.replace(tzinfo=UTC) if since else None)
        finally:
            await here.close()

    found = run(work())
    if as_json:
        print_json([asdict(each) for each in found])
    elif not found:
        print("Nobody was erased.")
    else:
        rows = [
            [f"{each.at:%Y-%m-%d %H:%M}", each.name, each.messages, each.files, each.who, each.why] for each in found
        ]
        table(rows, ["at", "who was erased", "messages", "files", "by", "why"])


def _one_of(customer_id: int | None, conversation: int | None) -> None:
    if (customer_id is None) == (conversation is None):
        raise typer.BadParameter("name a customer by his number, or a conversation by --conversation")
