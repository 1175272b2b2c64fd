"""`otvet customers`: who they are, over all channels."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bot.cli.console import AsJson, print_json, table
from bot.cli.desk import As, act, who

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from bot.desk.agent_desk import AgentDesk

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
