"""A Rasa server may be slow, gone, foreign or mad: the client says what it is in one sentence, within its time."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlu.errors import RasaUnavailable
from nlu.rasa.client import Parsed, RasaClient
from nlu.rasa.server import RemoteRasa


class StandIn(ThreadingHTTPServer):
    """Answers as it is told and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body: bytes = b""
        self.status = 200
        self.delay_seconds = 0.0
        self.asked: list[tuple[str, bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(b'{"model_id": "m1"}')

    def do_POST(self) -> None:
        self._answer(self._stand_in.body)

    @property
    def _stand_in(self) -> StandIn:
        assert isinstance(self.server, StandIn)
        return self.server

    def _answer(self, body: bytes) -> None:
        said = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._stand_in.asked.append((self.path, said))
        time.sleep(self._stand_in.delay_seconds)
        self.send_response(self._stand_in.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    server = StandIn()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def client(stand_in: StandIn) -> Iterator[RasaClient]:
    client = RasaClient(stand_in.url, "s3cret", 0.5)
    yield client
    client.close()


def answer(**extra: object) -> bytes:
    ranking = [{"name": "faq", "confidence": 0.8}, {"name": "bye", "confidence": 0.2, "id": 7}]
    return json.dumps({"text": "x", "intent": ranking[0], "intent_ranking": ranking, "entities": []} | extra).encode()


def test_a_ranking_comes_back_best_first(stand_in: StandIn, client: RasaClient) -> None:
    stand_in.body = answer()

    assert client.parse("when do you open").ranking == (("faq", 0.8), ("bye", 0.2))
    path, said = stand_in.asked[0]
    assert path == "/model/parse?token=s3cret"
    assert json.loads(said) == {"text": "when do you open"}


def test_a_retrieval_intent_is_shared_out_among_its_full_names(stand_in: StandIn, client: RasaClient) -> None:
    ranked = [{"intent_response_key": "faq/hours", "confidence": 0.6}, {"intent_response_key": "faq/where"}]
    ranked += [{"intent_response_key": "chat/joke", "confidence": 0.4}]
    stand_in.body = answer(
        response_selector={"all_retrieval_intents": ["faq"], "default": {"response": {}, "ranking": ranked}}
    )

    assert client.parse("x").ranking == (("faq/hours", 0.8), ("bye", 0.2), ("faq/where", 0.0))


def test_no_more_than_the_limit_is_sent_and_no_command(stand_in: StandIn, client: RasaClient) -> None:
    stand_in.body = answer()
    client.parse(" //order_cancel" + "я" * 10_000 + "\ud83d")

    said = json.loads(stand_in.asked[0][1])["text"]
    assert said.startswith("order_cancelя")
    assert len(said) == 4000


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"<html>", 200, "no JSON"),
        (b"[1]", 200, "no prediction"),
        (b'{"intent_ranking": [{"name": "a", "confidence": NaN}]}', 200, "no prediction"),
        (b'{"intent_ranking": [{"name": "a", "confidence": 7}]}', 200, "no prediction"),
        (b'{"intent_ranking": "x"}', 200, "no prediction"),
        (b'{"message": "No agent loaded"}', 409, r"status 409 \(No agent loaded\)"),
        (b"x", 500, "status 500"),
        (b"", 401, "OTVET_RASA_TOKEN"),
        (b" " * 5_000_000, 200, "more than"),
    ],
)
def test_a_bad_answer_is_named(stand_in: StandIn, client: RasaClient, body: bytes, status: int, says: str) -> None:
    stand_in.body, stand_in.status = body, status

    with pytest.raises(RasaUnavailable, match=says) as caught:
        client.parse("hello")

    assert "s3cret" not in str(caught.value)


def test_a_slow_or_absent_server_costs_no_more_than_the_time_limit(stand_in: StandIn, client: RasaClient) -> None:
    stand_in.delay_seconds = 1.5
    started = time.monotonic()
    with pytest.raises(RasaUnavailable, match="in time"):
        client.parse("hello")
    assert time.monotonic() - started < 1.2

    nobody = RasaClient("http://127.0.0.1:9", "", 0.5)
    with pytest.raises(RasaUnavailable, match="cannot be reached"):
        nobody.parse("hello")
    nobody.close()


def test_a_failing_server_is_left_alone_for_ever_longer(stand_in: StandIn, client: RasaClient) -> None:
    now = [0.0]
    remote = RemoteRasa(client, lambda: now[0])
    stand_in.body, stand_in.status = b"", 500
    asked = []
    for second in range(20):
        now[0] = float(second)
        before = len(stand_in.asked)
        with pytest.raises(RasaUnavailable, match="status 500"):
            remote.parse("hello")
        asked += [second] if len(stand_in.asked) > before else []
    assert asked == [0, 1, 3, 7, 15]

    stand_in.body, stand_in.status, now[0] = answer(), 200, 100.0
    assert remote.parse("hello").ranking[0] == ("faq", 0.8)
    assert remote.model_id == "m1"


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["intent", "name", "confidence", "intent_ranking", "response_selector", "ranking", "x"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(value=json_values)
def test_whatever_a_server_answers_the_ranking_is_sound_or_it_is_refused(value: object) -> None:
    try:
        ranking = Parsed.model_validate(value).ranking
    except ValueError:
        return
    assert all(name and 0 <= probability <= 1 for name, probability in ranking)
    assert [probability for _, probability in ranking] == sorted((p for _, p in ranking), reverse=True)
