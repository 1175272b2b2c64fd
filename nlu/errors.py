"""Errors of `nlu`.

NluError
├── EncoderError
│   ├── EncoderUnavailable   the encoder cannot be prepared or loaded; `remedy` says what to do
│   └── EncodingError        the model failed on a text or gave a row that is not finite
├── TrainingDataError        training data cannot be read; `path`, `line`, `problem`, `remedy`
├── IntentLibraryError       the stored intents refuse
│   ├── UnknownIntent        `name`
│   ├── UnknownExample       `example_id`
│   ├── StaleIntent          somebody else has changed it: `name`, `expected_revision`, `revision`
│   ├── StaleExample         the same of an example: `example_id`
│   ├── IntentNameRefused    a name that is taken, or none: `name`, `problem`
│   └── ExampleRefused       a text that is no example: `text`, `problem`
├── FolderNotEmpty           files would be written where others lie; `folder`
├── ModelError
│   ├── NotEnoughData        too few intents or examples to train from
│   ├── EncoderMismatch      trained with another encoder; `trained_with`, `given`
│   ├── ModelNotFound        no such version, or none is live
│   └── ModelDamaged         the files of a version are missing, torn or of another format
└── RasaError
    ├── RasaNotInstalled     there is no environment with Rasa; `folder`
    ├── RasaFailed           Rasa gave up a training, or its configuration is none; `reason`
    └── RasaUnavailable      the server is down, too slow, or answers what is no prediction; `reason`
"""

from pathlib import Path


class NluError(Exception):
    """Root of everything that `nlu` raises on purpose."""


class EncoderError(NluError):
    """The encoder cannot do its work."""


class EncoderUnavailable(EncoderError):  # noqa: N818 - a state of the installation, not a failed call
    """The encoder `name` cannot be prepared or loaded."""

    def __init__(self, name: str, cause: str, remedy: str) -> None:
        super().__init__(f"encoder {name!r} is not available: {cause}. {remedy}")
        self.name = name
        self.cause = cause
        self.remedy = remedy


class EncodingError(EncoderError):
    """The model failed on a text or gave a row that is not finite."""


class TrainingDataError(NluError):
    """Training data cannot be read; `line` counts from 1, 0 means the file as a whole."""

    def __init__(self, path: Path, line: int, problem: str, remedy: str) -> None:
        super().__init__(f"{path}{f':{line}' if line else ''}: {problem}. {remedy}")
        self.path = path
        self.line = line
        self.problem = problem
        self.remedy = remedy


class IntentLibraryError(NluError):
    """The stored intents refuse; the message says what to do."""


class UnknownIntent(IntentLibraryError):  # noqa: N818 - as the others of this file
    def __init__(self, name: str) -> None:
        super().__init__(f"there is no intent {name!r}")
        self.name = name


class UnknownExample(IntentLibraryError):  # noqa: N818
    def __init__(self, example_id: int) -> None:
        super().__init__(f"there is no example {example_id}, or it was removed")
        self.example_id = example_id


class StaleIntent(IntentLibraryError):  # noqa: N818
    def __init__(self, name: str, expected_revision: int, revision: int) -> None:
        super().__init__(
            f"intent {name!r}: you changed revision {expected_revision}, but revision {revision} was saved meanwhile"
        )
        self.name = name
        self.expected_revision = expected_revision
        self.revision = revision


class StaleExample(IntentLibraryError):  # noqa: N818
    def __init__(self, example_id: int) -> None:
        super().__init__(f"example {example_id} was changed meanwhile, or its words stand somewhere again")
        self.example_id = example_id


class IntentNameRefused(IntentLibraryError):  # noqa: N818
    """code: `taken` or `bad_name`."""

    def __init__(self, name: str, problem: str, code: str) -> None:
        super().__init__(f"intent {name!r}: {problem}")
        self.name = name
        self.problem = problem
        self.code = code


class ExampleRefused(IntentLibraryError):  # noqa: N818
    """code: `many`, `no_words`, `long` or `unprintable`."""

    def __init__(self, text: str, problem: str, code: str) -> None:
        super().__init__(f"{text[:80]!r}: {problem}" if text else problem)
        self.text = text
        self.problem = problem
        self.code = code


class FolderNotEmpty(NluError):  # noqa: N818 - a state of the disk, not a failed call
    """Files would be written into a folder that holds some already."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} is not empty. Name a new folder.")
        self.folder = folder


class ModelError(NluError):
    """A trained model or the store of models cannot do what was asked; the message says what to do."""


class NotEnoughData(ModelError):  # noqa: N818 - a state of the data, not a failed call
    """There are too few intents or examples to train from."""


class EncoderMismatch(ModelError):  # noqa: N818 - a state of the installation, not a failed call
    """A model was trained on another encoder's vectors than the ones it is to be used with."""

    def __init__(self, trained_with: str, given: str) -> None:
        super().__init__(
            f"the model was trained with the encoder {trained_with}, this one is {given}. Train again: `otvet train`."
        )
        self.trained_with = trained_with
        self.given = given


class ModelNotFound(ModelError):  # noqa: N818 - a state of the store, not a failed call
    """There is no such model version, or none is live yet."""


class LiveChanged(ModelError):  # noqa: N818 - what somebody else did
    """Another version was made live than the one that whoever asked had before his eyes. Nothing was changed."""


class ModelDamaged(ModelError):  # noqa: N818 - a state of the store, not a failed call
    """The files of a model version are missing, torn or of another format."""


class RasaError(NluError):
    """The Rasa engine cannot do what was asked; the message says what to do."""


class RasaNotInstalled(RasaError):  # noqa: N818 - a state of the installation, not a failed call
    """There is no Python environment with Rasa in `folder`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"there is no Rasa in {folder}: run `make rasa`, or set OTVET_RASA_ENVIRONMENT to its folder")
        self.folder = folder


class RasaFailed(RasaError):  # noqa: N818 - what Rasa did
    """Rasa gave up, for `reason` in its own words, shortened."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"Rasa: {reason}")
        self.reason = reason


class RasaUnavailable(RasaError):  # noqa: N818 - a state of the server, not a failed call
    """The server is down, too slow, or answers what is no prediction."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the Rasa server is not available: {reason}")
        self.reason = reason
