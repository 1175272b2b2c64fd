"""A real Rasa 3.6: trained, served, killed and served again; meanwhile the embedded engine answers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bot.doctor import _rasa
from bot.settings import Settings
from bot.wiring import Installation
from nlu.encoder import Encoder
from nlu.errors import RasaFailed, RasaNotInstalled, RasaUnavailable
from nlu.intents import IntentClassifier
from nlu.rasa.client import RasaClient
from nlu.rasa.engine import RasaClassifier, RasaModel, read_model_id
from nlu.rasa.process import RasaPython
from nlu.rasa.project import ENVIRONMENT, write_project
from nlu.rasa.server import START_SECONDS, RasaServer, RasaState, RemoteRasa
from nlu.training_data import TrainingData, load_intents

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
TEXTS = {
    "greeting": "hello|hi there|good morning|good evening to you|hey you|hello everybody|greetings|hi",
    "order_status": "where is my [parcel](thing)|when does my order come|track my order|status of order 17"
    "|has my parcel been sent|my parcel is late|where is the courier|is my order on its way",
    "refund": "I want my money back|refund please|when is my refund paid|give me a refund|return my money"
    "|how long does a refund take|the refund has not come|money back for order 12",
    "faq/hours": "when do you open|what are your opening hours|are you open on Sunday|when do you close"
    "|opening times please|are you open today|till when are you open|working hours",
    "faq/address": "where is your shop|what is your address|how do I find you|which street are you in"
    "|location of the store|where are you|directions to the shop|your postal address",
    "discount": "do you have discounts|any promo code|can I get it cheaper|is there a sale|student discount"
    "|voucher code|a coupon please|lower the price",
}


@pytest.fixture(scope="session")
def python(encoder: Encoder, encoder_folder: Path) -> RasaPython:
    """The environment of `make rasa`, made if it is missing (three minutes, once)."""
    done = subprocess.run(
        ["bash", ENVIRONMENT / "make.sh", ".venv-rasa"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        if os.environ.get("CI"):
            pytest.fail(done.stderr)
        pytest.skip(done.stderr)
    return RasaPython(ROOT / ".venv-rasa", encoder_folder / encoder.name, threads=1)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    path = tmp_path_factory.mktemp("data") / "en.yml"
    items = [
        f"- intent: {name}\n  examples: |\n" + "".join(f"    - {text}\n" for text in texts.split("|"))
        for name, texts in TEXTS.items()
    ]
    path.write_text("nlu:\n" + "".join(items))
    return load_intents(path)


@pytest.fixture(scope="session")
def told() -> list[str]:
    """What the training said while it went on."""
    return []


@pytest.fixture(scope="session")
def model(
    python: RasaPython,
    data: TrainingData,
    encoder: Encoder,
    told: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> RasaModel:
    """A small model of the pipeline that ships: vectors, entities, retrieval intents."""
    return RasaModel.train(data, encoder, tmp_path_factory.mktemp("rasa-model"), python, progress=told.append)


@pytest.fixture(scope="session")
def embedded(data: TrainingData, encoder: Encoder) -> IntentClassifier:
    return IntentClassifier.train(data, encoder)


@pytest.fixture(scope="session")
def states() -> list[RasaState]:
    return []


@pytest.fixture(scope="session")
def server(
    python: RasaPython, model: RasaModel, states: list[RasaState], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RasaServer]:
    server = RasaServer(python, tmp_path_factory.mktemp("rasa-server"), 5.0, states.append)
    server.use(model.archive, model.model_id)
    try:
        assert server.wait(), server.state
        yield server
    finally:
        server.close()


def test_the_featurizers_vectors_are_those_of_the_encoder(python: RasaPython, encoder: Encoder) -> None:
    texts = ["where is my parcel", "Где мой заказ?", "ok", "x" * 3000, "naïve 😀 \ud83d"]
    program = (
        "import json, sys; from pathlib import Path; from otvet_featurizer import SentenceEncoder\n"
        "encoder = SentenceEncoder(Path(sys.argv[1]))\n"
        "print(json.dumps([encoder.vector(text)[0].tolist() for text in json.loads(sys.argv[2])]))"
    )
    environment = {"PYTHONPATH": str(ENVIRONMENT), "PATH": os.environ["PATH"]}
    command: list[str | Path] = [python.python, "-W", "ignore", "-c", program, python.encoder, json.dumps(texts)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)

    cosines = np.sum(np.array(json.loads(done.stdout)) * encoder.encode(texts), axis=1)

    assert cosines.min() >= 0.999


def test_training_tells_its_epochs_and_rehearses_on_examples_that_it_left_out(
    model: RasaModel, told: list[str], data: TrainingData
) -> None:
    assert any("epoch 30 of 30" in line for line in told)
    rehearsed = [each for each in model.rehearsed if each]
    assert 6 <= len(rehearsed) < len(data.examples) / 2
    assert all(0 <= each.confidence <= 1 for each in rehearsed)


def test_rasa_answers_with_full_names_of_retrieval_intents_and_our_confidence(
    server: RasaServer, model: RasaModel, embedded: IntentClassifier
) -> None:
    classifier = RasaClassifier(server, model, embedded)

    known, far, empty = classifier.predict(["when do you open on Monday", "who won the election in France", "?!"])

    assert classifier.down is None
    assert known.intent == "faq/hours"
    assert {name for name, _ in known.ranking} == set(TEXTS)
    assert known.confidence > far.confidence
    assert empty.confidence == 0


def test_a_customers_slash_is_no_command_of_rasa(server: RasaServer) -> None:
    parsed = server.parse('/refund{"thing": "x"}')

    assert parsed.ranking[0][1] < 1


def test_a_saved_model_predicts_the_same(
    server: RasaServer, model: RasaModel, embedded: IntentClassifier, encoder: Encoder, tmp_path: Path
) -> None:
    before = model.archive
    try:
        model.save(tmp_path)
        loaded = RasaModel.load(tmp_path, encoder)
    finally:
        model.archive.replace(before)
        model.archive = before
    texts = ["is my parcel coming", "give me my money"]

    ours, again = (RasaClassifier(server, each, embedded).predict(texts) for each in (model, loaded))

    assert [each.intent for each in ours] == [each.intent for each in again]
    assert [each.confidence for each in ours] == pytest.approx([each.confidence for each in again], abs=1e-5)
    assert loaded.threshold() == model.threshold()


def test_nobody_may_ask_without_the_token(server: RasaServer) -> None:
    assert server._client is not None
    stranger = RasaClient(server._client.url, "", 5.0)
    try:
        with pytest.raises(RasaUnavailable, match="refuses the token"):
            stranger.parse("hello")
    finally:
        stranger.close()
    assert server.pid is not None
    said = Path(f"/proc/{server.pid}/cmdline").read_bytes()
    assert server._client._http.params["token"].encode() not in said


def test_a_model_that_was_trained_elsewhere_answers_by_its_address(
    server: RasaServer, embedded: IntentClassifier
) -> None:
    assert server._client is not None
    client = RasaClient(server._client.url, server._client._http.params["token"], 5.0)
    try:
        classifier = RasaClassifier(RemoteRasa(client), None, embedded)
        (prediction,) = classifier.predict(["I want a refund"])
    finally:
        client.close()

    assert classifier.down is None
    assert prediction.intent == "refund"
    assert 0 < prediction.confidence <= prediction.ranking[0][1]


def test_while_the_killed_server_is_away_the_embedded_engine_answers_and_it_is_said_once(
    server: RasaServer, model: RasaModel, embedded: IntentClassifier, states: list[RasaState]
) -> None:
    changes: list[str | None] = []
    classifier = RasaClassifier(server, model, embedded, changes.append)
    assert server.pid is not None
    before = server.pid
    states.clear()

    os.kill(before, signal.SIGKILL)
    away = [classifier.predict(["where is my parcel"])[0] for _ in range(3)]

    assert away == embedded.predict(["where is my parcel"]) * 3
    deadline = time.monotonic() + START_SECONDS
    while server.pid in (None, before) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert server.wait(), server.state
    classifier.predict(["where is my parcel"])
    assert [each is None for each in changes] == [False, True]
    # By SIGKILL, or as one that does not answer: a process as large as this is not gone at once.
    assert any("; it is started again in" in state.reason for state in states), states


def test_a_hanging_server_costs_one_message_the_time_limit_and_is_back_by_itself(
    server: RasaServer, model: RasaModel, embedded: IntentClassifier
) -> None:
    assert server.pid is not None
    classifier = RasaClassifier(server, model, embedded)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        for _ in range(10):
            classifier.predict(["where is my parcel"])
        seconds = time.monotonic() - started
    finally:
        os.kill(server.pid, signal.SIGCONT)

    assert classifier.down is not None
    assert "did not answer in time" in classifier.down
    assert 5 <= seconds < 9
    assert server.wait(30), server.state
    assert classifier.predict(["where is my parcel"])
    assert classifier.down is None


def test_the_server_dies_with_its_parent_even_when_that_is_killed(
    python: RasaPython, model: RasaModel, tmp_path: Path
) -> None:
    program = f"""
import time
from pathlib import Path
from nlu.rasa.process import RasaPython
from nlu.rasa.server import RasaServer
server = RasaServer(RasaPython(Path({str(python.folder)!r}), Path({str(python.encoder)!r})), Path({str(tmp_path)!r}), 5)
server.use(Path({str(model.archive)!r}), {model.model_id!r})
while server.pid is None:
    time.sleep(0.05)
print(server.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()

    deadline = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{child}").exists()


def test_ctrl_c_ends_a_training_with_its_child(python: RasaPython, data: TrainingData, tmp_path: Path) -> None:
    project = write_project(data, tmp_path / "project", python.encoder)
    job = {"config": str(project.config), "domain": str(project.domain), "data": str(project.data)}
    job["model"] = str(tmp_path / "model.tar.gz")
    # What is started in the background may have been told to ignore Ctrl+C.
    program = f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from nlu.rasa.process import RasaPython, run_training
python = RasaPython(Path({str(python.folder)!r}), Path({str(python.encoder)!r}))
run_training(python, [{job!r}], Path({str(tmp_path)!r}), print)
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE) as parent:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        deadline = time.monotonic() + 30
        while not children.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        child = int(children.read_text().split()[0])
        time.sleep(1)
        parent.send_signal(signal.SIGINT)
        parent.wait(20)

    assert parent.returncode != 0
    assert not Path(f"/proc/{child}").exists()
    assert not (tmp_path / "model.tar.gz").exists()


def test_a_fault_of_rasa_is_one_line_with_its_reason(
    python: RasaPython, data: TrainingData, encoder: Encoder, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.yml"
    wrong.write_text("pipeline:\n- name: WhitespaceTokenizer\n- name: NoSuchClassifier\n")

    with pytest.raises(RasaFailed, match="NoSuchClassifier") as caught:
        RasaModel.train(data, encoder, tmp_path / "model", python, pipeline=wrong)

    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_server_that_was_not_started_says_so(python: RasaPython, tmp_path: Path) -> None:
    with pytest.raises(RasaUnavailable, match="not started"):
        RasaServer(python, tmp_path, 5.0).parse("hello")


def test_a_missing_environment_is_named_with_the_command_that_makes_it(
    model: RasaModel, encoder_folder: Path, tmp_path: Path
) -> None:
    nowhere = RasaPython(tmp_path / "none", encoder_folder)

    with pytest.raises(RasaNotInstalled, match="make rasa"):
        RasaServer(nowhere, tmp_path, 5.0).use(model.archive, model.model_id)


def test_another_version_is_loaded_into_the_running_server_and_back(
    server: RasaServer, model: RasaModel, embedded: IntentClassifier
) -> None:
    assert server.wait(), server.state
    before = server.pid
    other = model.archive.with_name("rehearsal.tar.gz")  # a real model too, on fewer intents

    server.use(other, read_model_id(other))
    meanwhile = RasaClassifier(server, model, embedded).predict(["refund please"])
    assert server.wait(), server.state
    promoted = server.model_id
    server.use(model.archive, model.model_id)
    assert server.wait(), server.state

    assert meanwhile == embedded.predict(["refund please"])
    assert (promoted, server.model_id) == (read_model_id(other), model.model_id)
    assert server.pid == before


async def test_an_installation_trains_both_engines_and_the_doctor_says_who_answers(
    python: RasaPython, encoder_folder: Path, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    (project / "data").mkdir(parents=True)
    (project / "kb" / "en").mkdir(parents=True)
    (project / "domain.yml").write_text("intents: [status, refund]\n")
    items = {"status": "order-status", "refund": "refund-time"}
    intents = {"status": TEXTS["order_status"], "refund": TEXTS["refund"]}
    for article in items.values():
        body = f"---\nid: {article}\ntitle: About {article}\nquestions: [what about {article}]\n---\nIt is so.\n"
        (project / "kb" / "en" / f"{article}.md").write_text(body)
    (project / "data" / "nlu.en.yml").write_text(
        "nlu:\n"
        + "".join(
            f"- intent: {name}\n  metadata: {{article: {items[name]}}}\n  examples: |\n"
            + "".join(f"    - {text}\n" for text in texts.split("|"))
            for name, texts in intents.items()
        )
    )
    config = tmp_path / "config.yml"
    config.write_text(
        "pipeline:\n- name: WhitespaceTokenizer\n- name: otvet_featurizer.OtvetFeaturizer\n"
        "- name: LogisticRegressionClassifier\n"
    )
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "encoder").symlink_to(encoder_folder)
    settings = Settings(
        _env_file=None,
        var=tmp_path / "var",
        data=project,
        nlu_engine="rasa",
        rasa_environment=python.folder,
        rasa_config=config,
        rasa_timeout_seconds=5,
    )
    installation = Installation(settings)
    try:
        await asyncio.to_thread(installation.train, promote=True)
        version = installation.store.live()
        assert version is not None
        assert version.manifest["engine"] == "rasa"
        assert {"intents/intents.json", "rasa/model.tar.gz", "rasa/rasa.json"} <= set(version.manifest["files"])
        assert installation.is_current(version)
        understander = installation.understander()
        classifier = understander.classifier
        assert isinstance(classifier, RasaClassifier)
        first = understander.understand("where is my parcel please").parts[0]
        assert classifier.down is not None  # Rasa takes its time to start, the customer need not
        await asyncio.to_thread(installation.rasa.wait)
        second = understander.understand("where is my parcel please").parts[0]
        assert classifier.down is None
        assert (first.intent, second.intent) == ("status", "status")
        assert (await _rasa(installation)).detail.startswith("the server is ready since")
    finally:
        await installation.close()
    stopped = await _rasa(Installation(settings))
    assert not stopped.ok
    assert "the embedded engine answers" in stopped.detail
