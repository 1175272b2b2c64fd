"""A Rasa server of our own: started, watched, restarted after ever longer pauses, stopped with this process."""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from nlu.errors import RasaError, RasaUnavailable
from nlu.rasa.client import Parsed, RasaClient
from nlu.rasa.process import RasaProcess, RasaPython

START_SECONDS: Final = 180.0
"""How long a server may take from its start until a model is loaded: on a busy machine TensorFlow alone takes 30 s."""

FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 60.0

_HEALTH_SECONDS: Final = 5.0
_FAILED_CHECKS: Final = 3
_STEADY_SECONDS: Final = 60.0  # a server that lived so long begins again with the first pause


@dataclass(frozen=True)
class RasaState:
    """`ready`, or why not. `changed_at` is the time.time() of the change."""

    ready: bool
    reason: str
    changed_at: float


class RasaSource(Protocol):
    """Where predictions come from. `parse` blocks for its time limit at most and raises RasaUnavailable."""

    def parse(self, text: str) -> Parsed: ...

    @property
    def model_id(self) -> str | None:
        """Of the model that answers; None while none does."""
        ...


class RasaServer:
    """Keeps one server alive on a free port of 127.0.0.1 with a token of its own.

    `use` says which model it is to have, and returns at once; until that one is loaded `parse` raises RasaUnavailable.
    `on_change` is told every change of the state, from another thread. Safe to call from several threads.
    """

    def __init__(
        self,
        python: RasaPython,
        folder: Path,
        timeout_seconds: float,
        on_change: Callable[[RasaState], None] = lambda _: None,
    ) -> None:
        self._python = python
        self._folder = folder
        self._timeout_seconds = timeout_seconds
        self._on_change = on_change
        self._wanted: tuple[Path, str] | None = None
        self._loaded: str | None = None
        self._process: RasaProcess | None = None
        self._client: RasaClient | None = None
        self._state = RasaState(False, "not started", time.time())
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._watcher: threading.Thread | None = None

    @property
    def state(self) -> RasaState:
        return self._state

    @property
    def model_id(self) -> str | None:
        return self._loaded if self._state.ready else None

    @property
    def pid(self) -> int | None:
        """Of the running process."""
        process = self._process
        return process.pid if process and process.running else None

    def use(self, model: Path, model_id: str) -> None:
        """Serve this model from now on. Raises RasaNotInstalled."""
        self._python.check()
        self._wanted = (model.absolute(), model_id)
        if self._loaded != model_id:
            self._set(False, "loading a model")
        self._wake.set()
        if self._watcher is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._watcher = threading.Thread(target=self._watch, name="rasa-watch", daemon=True)
            self._watcher.start()

    def wait(self, seconds: float = START_SECONDS) -> bool:
        """Wait until it is ready; False when it is not by then."""
        with self._changed:
            return self._changed.wait_for(lambda: self._state.ready or self._closing.is_set(), seconds)

    def parse(self, text: str) -> Parsed:
        client = self._client
        if not self._state.ready or client is None:
            raise RasaUnavailable(self._state.reason)
        try:
            return client.parse(text)
        except RasaUnavailable as error:
            # No other message waits for it until a look at its health has gone well.
            self._set(False, error.reason)
            self._wake.set()
            raise

    def close(self) -> None:
        """Stop the server; safe to call again."""
        self._closing.set()
        self._wake.set()
        if self._watcher:
            self._watcher.join()
            self._watcher = None
        self._set(False, "stopped")

    def _watch(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._closing.is_set():
            started = time.monotonic()
            try:
                self._start()
                self._mind()
                reason = "stopped"
            except (RasaError, OSError) as error:
                reason = error.reason if isinstance(error, RasaUnavailable) else str(error)
            finally:
                self._end()
            if self._closing.is_set():
                break
            if time.monotonic() - started > _STEADY_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            self._set(False, f"{reason}; it is started again in {pause:.0f} s")
            self._closing.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _start(self) -> None:
        """Start a process and wait until it has loaded the wanted model."""
        assert self._wanted is not None  # noqa: S101 - `use` sets it before the thread starts
        model, model_id = self._wanted
        port, token = _free_port(), secrets.token_urlsafe(32)
        wanted = {"model": str(model), "port": port, "token": token}
        self._set(False, "starting")
        self._process = RasaProcess(self._python, "serve", wanted, self._folder)
        self._client = RasaClient(f"http://127.0.0.1:{port}", token, self._timeout_seconds)
        deadline = time.monotonic() + START_SECONDS
        while not self._closing.is_set():
            if not self._process.running:
                raise RasaUnavailable(self._process.reason)
            if time.monotonic() > deadline:
                raise RasaUnavailable(f"no model was loaded in {START_SECONDS:.0f} s")
            try:
                self._loaded = self._client.model_id()
            except RasaUnavailable:
                self._closing.wait(0.3)
                continue
            self._ready(model_id)
            return

    def _mind(self) -> None:
        """Look after the running process; returns when closing, raises RasaUnavailable when it must be replaced."""
        failures = 0
        while not self._closing.is_set():
            process, client, wanted = self._process, self._client, self._wanted
            assert process is not None  # noqa: S101 - `_start` has set all three
            assert client is not None  # noqa: S101
            assert wanted is not None  # noqa: S101
            if not process.running:
                raise RasaUnavailable(process.reason)
            if self._loaded != wanted[1]:
                client.load(wanted[0])
                self._loaded = client.model_id()
                self._ready(wanted[1])
            try:
                self._loaded = client.model_id()
                self._ready(wanted[1])
                failures = 0
            except RasaUnavailable as error:
                failures += 1
                if failures >= _FAILED_CHECKS:
                    raise RasaUnavailable(f"it lives but does not answer: {error.reason}") from error
            # Checked often enough to notice at once that the process has died.
            for _ in range(int((_HEALTH_SECONDS if not failures else 1) / 0.25)):
                if self._wake.wait(0.25) or not process.running:
                    self._wake.clear()
                    break

    def _ready(self, model_id: str) -> None:
        if self._loaded != model_id:
            raise RasaUnavailable(f"it has loaded the model {self._loaded}, not {model_id}")
        if self._wanted and self._wanted[1] == model_id:
            self._set(True, "ready")

    def _end(self) -> None:
        self._loaded = None
        client, self._client = self._client, None
        if client:
            client.close()
        process, self._process = self._process, None
        if process:
            process.stop()

    def _set(self, ready: bool, reason: str) -> None:
        with self._changed:
            if (ready, reason) == (self._state.ready, self._state.reason):
                return
            self._state = RasaState(ready, reason, time.time())
            self._changed.notify_all()
        self._on_change(self._state)


class RemoteRasa:
    """A server elsewhere. After a failure it is left alone for ever longer pauses, so that no message waits for it."""

    def __init__(self, client: RasaClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._pause = FIRST_PAUSE_SECONDS
        self._until = 0.0
        self._model_id: str | None = None
        self._known_until = 0.0
        self._reason = ""

    @property
    def model_id(self) -> str | None:
        return self._model_id

    def parse(self, text: str) -> Parsed:
        now = self._clock()
        if now < self._until:
            raise RasaUnavailable(self._reason)
        try:
            if self._model_id is None or now >= self._known_until:
                self._model_id = self._client.model_id()
                self._known_until = now + _STEADY_SECONDS
            parsed = self._client.parse(text)
        except RasaUnavailable as error:
            self._reason = error.reason
            self._until = self._clock() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
            self._model_id = None
            raise
        self._pause = FIRST_PAUSE_SECONDS
        return parsed


def write_state(path: Path, state: RasaState, pid: int | None) -> None:
    """Leave a word for other processes (`otvet doctor`) about the server of this one."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    said = {"ready": state.ready, "reason": state.reason, "changed_at": state.changed_at, "pid": pid}
    temporary.write_text(json.dumps(said | {"parent": os.getpid()}), encoding="utf-8")
    temporary.replace(path)


def read_state(path: Path) -> RasaState | None:
    """What `write_state` left, or None where there is nothing or its process has gone."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        state = RasaState(bool(said["ready"]), str(said["reason"]), float(said["changed_at"]))
        os.kill(int(said["parent"]), 0)
    except PermissionError:  # it lives, as another user
        return state
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return state


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
