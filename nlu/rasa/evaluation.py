"""Rasa measured like the embedded engine: trained for real, asked over HTTP through a server of its own."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nlu.encoder import Encoder
from nlu.errors import RasaUnavailable
from nlu.evaluation import Trainer
from nlu.intents import IntentPrediction
from nlu.rasa.engine import RasaModel
from nlu.rasa.process import RasaPython
from nlu.rasa.project import LIGHT
from nlu.rasa.server import RasaServer
from nlu.training_data import TrainingData


class ServedModel:
    """A Rasa model and the server that has it; unlike RasaClassifier it has no spare, so figures are Rasa's alone."""

    def __init__(self, model: RasaModel, server: RasaServer) -> None:
        self._model = model
        self._server = server

    def predict(self, texts: Sequence[str]) -> list[IntentPrediction]:
        """Wait for the server if need be; raises RasaUnavailable."""
        if not self._server.wait():
            raise RasaUnavailable(self._server.state.reason)
        return self._model.judge(texts, [self._server.parse(each) for each in texts])

    def threshold(self, lang: str | None = None) -> float:
        return self._model.threshold(lang)


@contextmanager
def rasa_trainer(
    python: RasaPython,
    encoder: Encoder,
    *,
    companion: Encoder | None = None,
    pipeline: Path = LIGHT,
    timeout_seconds: float = 30.0,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[Trainer]:
    """The trainer of the Rasa engine. Only the model that was trained last answers; the server ends with the block.

    Training includes the rehearsal for the confidence; the first prediction waits for the server.
    """
    with tempfile.TemporaryDirectory(prefix="otvet-rasa-") as name:
        folder = Path(name)
        server = RasaServer(python, folder, timeout_seconds)
        models: list[RasaModel] = []

        def train(data: TrainingData) -> ServedModel:
            place = folder / str(len(models))
            place.mkdir()
            model = RasaModel.train(
                data, encoder, place, python, pipeline=pipeline, companion=companion, seed=seed, progress=progress
            )
            models.append(model)
            server.use(model.archive, model.model_id)
            return ServedModel(model, server)

        try:
            yield train
        finally:
            server.close()
