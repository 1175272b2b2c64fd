"""Who gets a ticket."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from handoff.assignment import Candidate, Waiting, assign, choose, order, senior
from handoff.policy import LEVELS

NOW = datetime(2026, 11, 23, 9, tzinfo=UTC)


def agent(number: int, **changes: Any) -> Candidate:
    usual: dict[str, Any] = {"teams": {"first-line"}, "level": "L1", "langs": (), "on_duty": True, "load": 0}
    kept = {**usual, "capacity": 5, **changes}
    return Candidate(number, **{**kept, "teams": frozenset(kept["teams"]), "langs": frozenset(kept["langs"])})


def ticket(number: int, **changes: Any) -> Waiting:
    usual: dict[str, Any] = {"team": "first-line", "level": "L1", "lang": "ru", "priority": "normal", "since": NOW}
    return Waiting(number, **{**usual, **changes})


def test_nobody_who_is_off_duty_or_full_gets_a_ticket() -> None:
    assert choose(ticket(1), [agent(1, on_duty=False), agent(2, load=5), agent(3, teams={"payments"})]) is None


def test_the_least_loaded_gets_it_by_his_share_and_not_by_the_number() -> None:
    assert choose(ticket(1), [agent(1, load=2, capacity=3), agent(2, load=3, capacity=10)]) == 2


def test_among_equals_whoever_got_one_longest_ago() -> None:
    just_now, before = NOW, NOW - timedelta(minutes=5)
    assert choose(ticket(1), [agent(1, last_assigned_at=just_now), agent(2, last_assigned_at=before)]) == 2
    assert choose(ticket(1), [agent(1, last_assigned_at=before), agent(2)]) == 2, "and who never got one first of all"


def test_the_level_is_asked_for_and_seniors_are_spared() -> None:
    people = [agent(1, level="L3"), agent(2, level="L2"), agent(3)]
    assert choose(ticket(1), people) == 3
    assert choose(ticket(1, level="L2"), people) == 2
    assert choose(ticket(1, level="supervisor"), people) == 1, "the highest who is there"


def test_a_topics_level_is_waited_for_while_one_of_it_is_there_and_an_escalations_is_not() -> None:
    people = [agent(1, level="L2", load=5), agent(2)]
    assert choose(ticket(1, level="L2", least="L2"), people) is None
    assert choose(ticket(1, level="L2"), people) == 2
    assert choose(ticket(1, level="L2", least="L2"), [agent(1, level="L2", on_duty=False), agent(2)]) == 2


def test_a_senior_is_the_nearest_to_the_level_and_then_in_the_nearest_team() -> None:
    anna, olga, boris = agent(1), agent(2, level="L2"), agent(3, level="L3", teams={"service"})
    way, asked = ["first-line", "service"], ticket(1, level="L3")
    assert senior(asked, anna, way, [anna, olga, boris]) == ("service", 3)
    assert senior(asked, anna, way, [anna, olga]) == ("first-line", 2), "higher than who has it"
    assert senior(asked, olga, way, [anna, olga, agent(4, level="L2")]) is None
    assert senior(asked, anna, way, [anna, agent(2, level="L3", langs={"en"}), agent(3, level="L3", load=5)]) is None


def test_the_one_who_knows_the_customer_is_preferred_while_he_is_there() -> None:
    assert choose(ticket(1, preferred=1), [agent(1, load=4), agent(2)]) == 1
    assert choose(ticket(1, preferred=1), [agent(1, on_duty=False), agent(2)]) == 2


def test_a_ticket_returns_to_who_gave_it_away_only_while_nobody_else_is_there() -> None:
    given_away = ticket(1, not_to=frozenset({1}), preferred=1)
    assert choose(given_away, [agent(1), agent(2, load=4)]) == 2
    assert choose(given_away, [agent(1), agent(2, load=5)]) is None, "he is there, and will have room"
    assert choose(given_away, [agent(1), agent(2, on_duty=False)]) == 1
    assert choose(ticket(1, level="L3", not_to=frozenset({1})), [agent(1, level="L2"), agent(2)]) == 1


def test_languages_count_where_they_are_named() -> None:
    assert choose(ticket(1, lang="en"), [agent(1, langs={"ru"}), agent(2, load=4)]) == 2
    assert choose(ticket(1, lang="en"), [agent(1, langs={"ru"}), agent(2, load=5)]) is None, "he will have room"


def test_a_language_that_nobody_who_is_there_speaks_is_not_waited_for() -> None:
    assert choose(ticket(1, lang="en"), [agent(1, langs={"ru"}), agent(2, on_duty=False)]) == 1
    anna, olga = agent(1, langs={"ru"}), agent(2, level="L2", langs={"ru"})
    assert senior(ticket(1, level="L2", lang="en"), anna, ["first-line"], [anna, olga]) == ("first-line", 2)


def test_the_urgent_and_then_the_oldest_come_first() -> None:
    queue = [
        ticket(1, since=NOW),
        ticket(2, since=NOW - timedelta(hours=1)),
        ticket(3, priority="urgent", since=NOW + timedelta(minutes=1)),
    ]
    assert list(assign(queue, [agent(1, capacity=2)], NOW)) == [3, 2]


def test_what_is_late_comes_first_whatever_its_priority() -> None:
    late = ticket(1, priority="low", since=NOW - timedelta(days=5), late=True)
    queue = [ticket(2), late, ticket(3, priority="urgent"), ticket(4, priority="urgent", late=True, since=NOW)]
    assert [each.ticket_id for each in order(queue)] == [4, 1, 3, 2]


agents = st.lists(
    st.builds(
        Candidate,
        agent_id=st.integers(1, 50),
        teams=st.frozensets(st.sampled_from("abc")),
        level=st.sampled_from(LEVELS),
        langs=st.frozensets(st.sampled_from(["ru", "en"])),
        on_duty=st.booleans(),
        load=st.integers(0, 4),
        capacity=st.integers(1, 4),
    ),
    max_size=6,
    unique_by=lambda candidate: candidate.agent_id,
)
queues = st.lists(
    st.builds(
        Waiting,
        ticket_id=st.integers(1, 50),
        team=st.sampled_from("abc"),
        level=st.sampled_from(LEVELS),
        lang=st.sampled_from(["ru", "en"]),
        priority=st.sampled_from(["low", "normal", "high", "urgent"]),
        since=st.datetimes(datetime(2026, 1, 1), datetime(2026, 1, 2), timezones=st.just(UTC)),  # noqa: DTZ001
    ),
    max_size=15,
    unique_by=lambda waiting: waiting.ticket_id,
)


@given(queues, agents)
def test_what_is_given_out_fits_and_what_stays_could_not_be_given(
    queue: list[Waiting], people: list[Candidate]
) -> None:
    given_out = assign(queue, people, NOW)
    load = {person.agent_id: person.load + list(given_out.values()).count(person.agent_id) for person in people}
    by_id = {person.agent_id: person for person in people}
    for waiting in queue:
        if waiting.ticket_id in given_out:
            person = by_id[given_out[waiting.ticket_id]]
            assert person.on_duty
            assert waiting.team in person.teams
            assert load[person.agent_id] <= max(person.capacity, person.load)
        else:
            there = [each for each in people if each.on_duty and waiting.team in each.teams]
            speaking = [each for each in there if each.speaks(waiting.lang)] or there
            assert not any(load[each.agent_id] < each.capacity for each in speaking)
