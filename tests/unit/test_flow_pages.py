"""Flows in the studio: the list, the picture, faults in place, revisions, publishing; and flows over the site chat."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import pytest
from desk_harness import Agent, wait_until
from desk_harness import Customer as Visitor
from site_harness import DATA, Running, Site, running
from sqlalchemy import select
from test_flow_files import GOOD

from bot.flows.format import load_flows, parse_flow
from bot.flows.picture import draw, edges_of
from handoff.access import Role
from handoff.records import Author, Message


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    var: Path = tmp_path_factory.mktemp("flow-pages")
    with running(lambda: Site(var, gather_seconds=0.0, flows=True)) as site:
        yield site


@pytest.fixture(scope="module")
def editor(server: Running) -> Agent:
    return Agent(server, "Vera", Role.EDITOR)


def shown(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_the_list_shows_what_starts_each_flow_and_only_editors_see_it(server: Running, editor: Agent) -> None:
    page = editor.edit("/flows")
    assert page.status_code == 200
    assert "Setting up a robot vacuum" in page.text
    assert "device_setup" in page.text
    assert Agent(server, "Boris").edit("/flows").status_code == 403


def test_a_page_has_text_picture_and_revisions(editor: Agent) -> None:
    page = editor.edit("/flows/setup-guide")
    assert page.status_code == 200
    assert '<svg class="flow"' in page.text
    assert "No faults found." in page.text
    assert "Revision 1" in page.text
    assert editor.edit("/flows/nothing").status_code == 404
    assert editor.edit("/flows/setup-guide?revision=9").status_code == 404


def test_faults_are_told_with_their_lines_while_one_types(editor: Agent) -> None:
    good = GOOD.replace("{gone: ask", "{gone: why")
    answer = editor.save("/flows/check", {"text": good.replace("then: dear", "then: deer")})
    assert "leads to deer, which is no step" in answer.text
    line = good[: good.index("- id: why")].count("\n") + 1
    assert f'data-line="{line}"' in answer.text
    assert "node collect bad" in answer.text
    broken = editor.save("/flows/check", {"text": "flow: ["})
    assert "not YAML" in broken.text
    assert "<svg" not in broken.text


def test_a_flow_is_saved_as_a_draft_published_and_taken_out_of_use(server: Running, editor: Agent) -> None:
    text = GOOD.replace("{gone: ask", "{gone: why")
    assert editor.save("/flows/save", {"text": text}).status_code == 303
    assert "good" not in server.site.flows.book.flows
    page = editor.edit("/flows/good")
    assert "Saved as a draft." in page.text
    changed = text.replace("Dear", "Costly")
    assert editor.save(
        "/flows/save", {"text": changed, "flow_id": "good", "revision": 1, "then": "publish"}
    ).is_redirect
    assert "Costly" in server.site.flows.book.flows["good"].text
    stale = editor.save("/flows/save", {"text": text, "flow_id": "good", "revision": 1})
    assert stale.status_code == 409
    assert "Costly" in stale.text
    assert "Dear" in stale.text
    first = editor.edit("/flows/good?revision=1")
    assert "this is revision 1" in first.text
    assert "Dear" in first.text
    late = editor.save("/flows/good/withdraw", {"published": 1})
    assert "somebody has published another revision" in editor.web.get(late.headers["location"]).text
    assert "good" in server.site.flows.book.flows
    assert 'name="published" value="2"' in editor.edit("/flows/good").text
    assert editor.save("/flows/good/withdraw", {"published": 2}).is_redirect
    assert "good" not in server.site.flows.book.flows
    audit = Agent(server, "Root", Role.ADMIN).get("/audit").text
    assert "published a flow" in audit


def test_what_is_wrong_is_not_published(editor: Agent) -> None:
    text = GOOD.replace("flow: good", "flow: bad")
    refused = editor.save("/flows/save", {"text": text, "then": "publish"})
    assert refused.status_code == 422
    assert "published while it has errors" in shown(refused.text)
    assert editor.save("/flows/save", {"text": "flow: x"}).status_code == 422
    assert editor.save("/flows/save", {"text": text}).is_redirect
    renamed = editor.save("/flows/save", {"text": GOOD, "flow_id": "bad", "revision": 1})
    assert renamed.status_code == 422


def test_a_change_that_breaks_a_conversation_is_published_only_all_the_same(server: Running, editor: Agent) -> None:
    text = (DATA / "flows" / "diagnosis.yml").read_text()
    changed = text.replace("Great that it works again!", "Fine!").replace("Отлично, что заработало!", "Хорошо!")
    played = editor.save("/flows/test", {"text": text})
    assert "5 of 5 conversations" in played.text or "conversations went as written" in played.text
    assert "failed" not in shown(played.text)
    form = {"text": changed, "flow_id": "diagnosis", "revision": 1}
    broken = shown(editor.save("/flows/test", {"text": changed}).text)
    line = (
        1
        + (DATA / "flows" / "tests" / "guides.yml").read_text().partition("Отлично, что заработало")[0].count("\n")
        - 1
    )
    assert f"Step 3 of 3 (guides.yml, line {line}) : nobody said" in broken
    refused = editor.save("/flows/save", {**form, "then": "publish"})
    assert refused.status_code == 422
    assert "Заработало" in refused.text
    assert editor.save("/flows/save", {**form, "then": "anyway"}).is_redirect
    assert "Fine!" in server.site.flows.book.flows["diagnosis"].text


def test_a_conversation_is_written_and_played_beside_its_flow(editor: Agent) -> None:
    page = editor.edit("/flows/setup-guide").text
    script = unescape(re.findall(r'<textarea name="story".*?>(.*?)</textarea>', page, re.S)[0])
    text = (DATA / "flows" / "setup-guide.yml").read_text()
    form = {"text": text, "own": "yes"}
    assert "1 of 1 conversations went as written" in editor.save("/flows/test", {**form, "story": script}).text
    wrong = shown(editor.save("/flows/test", {**form, "story": script.replace("bot: stopped", "bot: goodbye")}).text)
    assert "Step 2 of 2 (line 7) : nobody said 'goodbye'" in unescape(wrong)
    broken = shown(editor.save("/flows/test", {**form, "story": script.replace("- user:", "- usr:")}).text)
    assert "line 7: usr: Extra inputs" in broken.replace("steps.", "").replace("stories.", "")
    assert "not YAML" in editor.save("/flows/test", {**form, "story": "stories: ["}).text


def test_an_intent_leads_to_one_of_the_flows_that_there_are(editor: Agent) -> None:
    assert editor.save("/intents", {"name": "robot_help"}).is_redirect
    page = editor.edit("/intents/of/robot_help").text
    assert '<option value="setup-guide">Setting up a robot vacuum</option>' in page
    revision = re.findall(r'name="revision" value="(\d+)"', page)[0]
    form = {"name": "robot_help", "revision": revision, "new_name": "robot_help", "outcome": "flow"}
    refused = editor.save("/intents/change", {**form, "flow": "no-such"})
    assert refused.status_code == 422
    assert "There is no flow no-such" in refused.text
    assert editor.save("/intents/change", {**form, "flow": "setup-guide"}).is_redirect
    assert '<option value="setup-guide" selected>' in editor.edit("/intents/of/robot_help").text


def test_a_picture_shows_every_step_and_way_and_escapes_what_editors_write() -> None:
    for flow in load_flows(DATA / "flows")[0].values():
        tree = ElementTree.fromstring(draw(flow, "en"))  # noqa: S314 - drawn here
        nodes = [each for each in tree.iter() if "node" in (each.get("class") or "").split()]
        assert len(nodes) >= len(flow.steps)
        drawn = [each for each in tree.iter() if (each.get("class") or "").startswith("edge")]
        assert len(drawn) == len(edges_of(flow, "en"))
        boxes = [each for each in tree.iter() if each.tag.endswith("rect")]
        places = [(each.get("x"), each.get("y")) for each in boxes]
        assert len(set(places)) == len(places), "no two steps lie on one another"
    evil = parse_flow(GOOD.replace("Why {{ order }}?", "<script>alert(1)</script>").replace("then: dear", "then: END"))
    assert "<script>" not in draw(evil, "en", [1, 10])


def test_a_flow_goes_over_the_site_chat_and_what_it_knows_reaches_the_agent(server: Running) -> None:
    visitor = Visitor(server)

    def heard() -> list[Message]:
        async def read() -> list[Message]:
            async with server.site.sessions() as session:
                said = select(Message).where(Message.author == Author.ASSISTANT).order_by(Message.id)
                return list(await session.scalars(said))

        return server.call(read())

    def press(label: str) -> None:
        token = next(option["token"] for option in heard()[-1].options if option["label"] == label)
        before = len(heard())
        visitor.says("", kind="choice", choice=token)
        wait_until(lambda: len(heard()) > before)

    visitor.says("flow-setup-guide", kind="start")
    wait_until(lambda: any("Which phone" in each.text for each in heard()))
    press("iPhone")
    assert "Put the dock against a wall" in heard()[-1].text
    press("It did not help")
    press("Something else")
    before = len(heard())
    visitor.says("The light blinks red")
    wait_until(lambda: len(heard()) > before + 1)
    agent = Agent(server, "Anna", Role.SUPERVISOR)
    page = shown(agent.get("/tickets/1").text)
    assert "Setting up a robot vacuum" in page
    assert "The light blinks red" in page
    assert "iPhone" in page
