"""Who may see and do what at the web desk, and that there is no way round it."""

from __future__ import annotations

import ast
from itertools import pairwise
from pathlib import Path

import pytest

from handoff.access import EVERYWHERE, GRANTS, Permission, Role, Viewer
from handoff.errors import AccessError
from handoff.records import Ticket

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "bot" / "web").glob("desk*.py"))
CLOSED = {
    "handoff.desk",
    "handoff.tickets",
    "handoff.holders",
    "handoff.ticket_clocks",
    "handoff.alarms",
    "handoff.history",
    "handoff.records",
    "handoff.customers",
    "bot.desk.agent_desk",
    "bot.desk.customer_acts",
    "bot.desk.edits",
    "bot.desk.elsewhere",
    "bot.desk.joining",
    "bot.desk.outgoing",
    "bot.desk.survey",
    "bot.desk.words",
    "bot.desk.records",
    "sqlalchemy",
}
"""Where tickets can be had without asking for a permission."""
OPEN = {("bot.desk.agent_desk", "AgentDesk"), ("handoff.queue", "Query")}
"""The desk is passed on, to make seats with; its methods are not for the pages."""
READ = {"desk": {"tickets", "nps"}, "tickets": {"policy", "topics"}, "nps": {"asked", "policy"}}
"""Of the desk, the pages read the policy, the topics and what customers said of us alone."""


def ways_round(source: str) -> list[str]:
    """What a page names that would give it a ticket without its seat."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names = [(node.module or "", alias.name) for alias in node.names]
            found += [
                f"{module}.{name}"
                for module, name in names
                if (module, name) not in OPEN
                and (module in CLOSED or f"{module}.{name}" in CLOSED or module.split(".")[0] == "sqlalchemy")
            ]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name in CLOSED]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):
            allowed = READ.get(node.value.attr)
            if allowed is not None and node.attr not in allowed:
                found.append(f"{node.value.attr}.{node.attr}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_reaches_tickets_through_its_seat_alone(page: Path) -> None:
    assert ways_round(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "from handoff import desk",
        "from handoff.desk import get_ticket",
        "from handoff.records import Ticket",
        "from sqlalchemy import select",
        "async def f(web, session): return await web.desk.packet(session, 7)",
        "async def f(web, session): return await web.desk.tickets.reply(session, 7)",
    ],
)
def test_a_way_round_is_caught(source: str) -> None:
    assert ways_round(source)


def test_every_public_method_of_a_seat_that_takes_a_ticket_asks_for_a_permission() -> None:
    tree = ast.parse((ROOT / "bot" / "desk" / "seat.py").read_text(encoding="utf-8"))
    seat = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Seat")
    checks = {"reach", "_reach", "require"}
    own = {node.name for node in seat.body if isinstance(node, ast.AsyncFunctionDef)}
    wrong = []
    for method in seat.body:
        if not isinstance(method, ast.AsyncFunctionDef) or method.name.startswith("_"):
            continue
        if "ticket_id" not in {argument.arg for argument in method.args.args}:
            continue
        called = {
            call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            for call in ast.walk(method)
            if isinstance(call, ast.Call)
        }
        if not called & checks:
            wrong.append(method.name)
    assert own
    assert wrong == []


def viewer(role: Role, *teams: str, agent_id: int = 1) -> Viewer:
    return Viewer(account_id=1, agent_id=agent_id, name="Anna", role=role, teams=frozenset(teams))


def test_an_agent_sees_his_teams_and_his_own() -> None:
    ours, theirs = Ticket(team="first-line"), Ticket(team="payments")
    given = Ticket(team="payments", assignee_id=1)
    anna = viewer(Role.AGENT, "first-line")
    assert [anna.sees(ticket) for ticket in (ours, theirs, given)] == [True, False, True]


@pytest.mark.parametrize("role", sorted(EVERYWHERE))
def test_some_roles_see_every_team(role: Role) -> None:
    assert viewer(role).sees(Ticket(team="payments"))


def test_an_editor_reads_tickets_and_changes_none() -> None:
    assert GRANTS[Role.EDITOR] == {Permission.READ, Permission.EDIT}
    with pytest.raises(AccessError):
        viewer(Role.EDITOR).require(Permission.ANSWER)


def test_each_role_may_all_that_the_one_below_may() -> None:
    order = [Role.AGENT, Role.SENIOR, Role.SUPERVISOR, Role.ADMIN]
    for lower, higher in pairwise(order):
        assert GRANTS[lower] < GRANTS[higher]
