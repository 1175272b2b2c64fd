"""A ticket reaches everybody that it concerns, by the program as it is run: a CRM by webhook, agents, a help desk."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_helpdesk import Site
from test_hooks import SECRET, Receiver
from test_notifications import Box

ROOT = Path(__file__).parents[2]
OTVET = str(Path(sys.executable).parent / "otvet")
pytestmark = pytest.mark.e2e
pytest.importorskip("helpdesk", reason="pip install django-helpdesk")


@contextlib.contextmanager
def serving(environment: dict[str, str], folder: Path) -> Iterator[None]:
    command = [OTVET, "serve", "--port", "0"]
    with subprocess.Popen(command, env=environment, cwd=folder, stderr=subprocess.PIPE) as process:
        assert process.stderr
        seen = []
        for line in process.stderr:
            seen.append(line.decode())
            if b"Otvet is ready" in line:
                break
        else:
            raise AssertionError("".join(seen))
        yield
        process.terminate()
        log = process.stderr.read().decode()
        process.wait(timeout=30)
        assert "secret" not in log, "no address is told"


def until(found: Callable[[], Any], seconds: float = 90) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.3)
    raise AssertionError("it does not come")


def test_a_ticket_makes_a_crm_record_tells_the_team_and_is_answered_from_the_help_desk(
    trained: Path, tmp_path: Path
) -> None:
    box, receiver, folder = Box(), Receiver(), tmp_path / "helpdesk"
    folder.mkdir()
    site = Site(folder)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTVET_")}
    environment = kept | {
        "OTVET_VAR": str(trained),
        "OTVET_DATA": str(ROOT / "data"),
        "OTVET_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path / 'otvet.sqlite3'}",
        "OTVET_HOOK_URL": receiver.url,
        "OTVET_HOOK_SECRET": SECRET,
        "OTVET_HOOK_PRIVATE": "true",
        "OTVET_HELPDESK": "django-helpdesk",
        "OTVET_HELPDESK_URL": site.url,
        "OTVET_HELPDESK_USER": "otvet",
        "OTVET_HELPDESK_PASSWORD": "secret",
        "OTVET_HELPDESK_POLL_SECONDS": "1",
        "OTVET_HELPDESK_AGENT": "Klyon",
    }

    def otvet(*arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            [OTVET, *arguments], input=stdin.encode(), capture_output=True, env=environment, cwd=tmp_path, timeout=200
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    agent = httpx.Client(base_url=f"{site.url}/api/", auth=("agent", "secret"), timeout=10)
    try:
        otvet("notify", "team", "*", box.address("team"))
        otvet("chat", "--json", stdin="где мой заказ\nпозовите человека\n")
        with serving(environment, tmp_path):
            record = until(lambda: [event for event in receiver.events if event["type"] == "ticket.created"])[0]["data"]
            assert (record["ticket_id"], record["channel"], record["reason"]) == (1, "terminal", "asked_for_person")
            assert "новое обращение" in until(lambda: box.bodies)[0]
            there = until(lambda: agent.get("tickets/").json()["results"])[0]
            assert "где мой заказ" in there["description"]
            comment = {"ticket": there["id"], "comment": "Уже едет", "public": True}
            agent.post("followups/", json=comment).raise_for_status()

            def answered() -> bool:
                transcript = json.loads(otvet("tickets", "show", "1", "--json"))["transcript"]
                return ("Klyon", "Уже едет") in [(row["agent_name"], row["text"]) for row in transcript]

            until(answered)
        assert "New 1, answers 1" in otvet("shift-report", "--hours", "1", "--lang", "en")
    finally:
        agent.close()
        site.stop()
        for server in (box.server, receiver.server):
            server.shutdown()
            server.server_close()
