"""The studio's shell over HTTP: who gets in, and from where to where it leads."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest
from desk_harness import PASSWORD, Agent
from fastapi.routing import APIRoute
from site_harness import Running, Site, running

from bot.web.studio import PARTS, create_router
from handoff.access import Role


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(lambda: Site(tmp_path_factory.mktemp("studio"), works=False)) as started:
        yield started


@pytest.fixture(scope="module")
def editor(server: Running) -> Agent:
    return Agent(server, "Editor", Role.EDITOR)


@pytest.fixture(scope="module")
def agent(server: Running) -> Agent:
    return Agent(server, "Anna", teams=("first-line",))


def test_an_editor_comes_from_the_desk_into_the_studio_in_his_language(editor: Agent) -> None:
    assert 'href="/studio"' in editor.get("/queue?view=all").text
    page = editor.edit("")
    assert page.status_code == 200
    assert "What waits for you" in page.text
    editor.post("/me", {"lang": "ru"}, headers={"Referer": f"{editor.server.url}/studio"})
    assert "Что вас ждёт" in editor.edit("").text
    answer = editor.post("/me", {"lang": "en"}, headers={"Referer": f"{editor.server.url}/studio"})
    assert answer.headers["location"] == "/studio"


def test_an_agent_finds_no_way_into_the_studio(agent: Agent) -> None:
    assert 'href="/studio"' not in agent.get("/queue?view=all").text
    assert agent.edit("").status_code == 403


def test_whoever_is_not_signed_in_signs_in_and_comes_back(server: Running, editor: Agent) -> None:
    with httpx.Client(base_url=server.url, follow_redirects=False) as stranger:
        sent = stranger.get("/studio")
        assert sent.headers["location"] == "/desk/sign-in?next=%2Fstudio"
        form = {"login": "editor", "password": PASSWORD, "next": "/studio"}
        assert stranger.post("/desk/sign-in", data=form).headers["location"] == "/studio"
        assert stranger.get("/studio").status_code == 200
        assert stranger.post("/desk/sign-in", data={**form, "next": "/studio//evil"}).headers["location"] == "/desk"


def test_every_page_of_the_studio_asks_who_comes(server: Running, agent: Agent) -> None:
    paths = [
        (method, re.sub(r"\{(\w+)(:\w+)?\}", r"\1", route.path))
        for create in (create_router, *(part.create_router for part in PARTS))
        for route in create(server.site.studio).routes
        if isinstance(route, APIRoute)
        for method in sorted(route.methods or ())
    ]
    assert paths
    with httpx.Client(base_url=server.url) as stranger:
        for method, path in paths:
            assert stranger.request(method, path).status_code in (303, 401), (method, path)
            headers = {"X-CSRF": agent.csrf}
            assert agent.web.request(method, path, headers=headers).status_code == 403, (method, path)
            if method == "POST":
                assert agent.web.request(method, path, headers={"X-CSRF": "of another"}).status_code == 403
