"""Rasa as a child process: it never outlives its parent, and its own words are kept short."""

import json
import os
import re
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nlu.errors import RasaFailed, RasaNotInstalled
from nlu.rasa.project import ENVIRONMENT

_EPOCHS: Final = re.compile(r"Epochs:.*?(\d+)/(\d+)")
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_KEPT_LINES: Final = 40
_STOP_SECONDS: Final = 5.0
_MAX_REASON: Final = 400


def is_installed(folder: Path) -> bool:
    """Whether a folder is an environment with Rasa 3.6's Python and Rasa in it."""
    return (folder / "bin" / "python").exists() and (folder / "lib/python3.10/site-packages/rasa/__init__.py").is_file()


@dataclass(frozen=True)
class RasaPython:
    """The environment that `make rasa` makes, and the encoder's folder for the featurizer. `threads`: 0 is all."""

    folder: Path
    encoder: Path
    threads: int = 0

    @property
    def python(self) -> Path:
        return self.folder.absolute() / "bin" / "python"

    def check(self) -> None:
        """Raises RasaNotInstalled."""
        if not is_installed(self.folder):
            raise RasaNotInstalled(self.folder)


class RasaProcess:
    """One run of otvet_rasa.py in Rasa's environment.

    The child reads its standard input until that ends, so it dies with this process however this one ends.
    `on_line` is told each line of Rasa's own words. Raises RasaNotInstalled.
    """

    def __init__(
        self,
        python: RasaPython,
        verb: str,
        wanted: Mapping[str, Any],
        folder: Path,
        on_line: Callable[[str], None] = lambda _: None,
    ) -> None:
        python.check()
        self._said: deque[str] = deque(maxlen=_KEPT_LINES)
        self._on_line = on_line
        self._failed: str | None = None
        self._child = subprocess.Popen(  # noqa: S603 - our own program in the environment of the operator's choice
            [python.python, ENVIRONMENT / "otvet_rasa.py", verb],
            cwd=folder,
            env=_environment(python),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl+C is for the parent, which then stops the child
        )
        self._reader = threading.Thread(target=self._read_words, name="rasa-words", daemon=True)
        self._reader.start()
        with suppress(BrokenPipeError):
            self._stdin.write(json.dumps(wanted).encode() + b"\n")
            self._stdin.flush()

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    @property
    def reason(self) -> str:
        """Why it ended, in one line."""
        if not self.running and not self._failed:
            self._reader.join(_STOP_SECONDS)
            with suppress(RasaFailed, ValueError):
                for _ in self.events():
                    pass
        if self._failed:
            return self._failed
        return self._last_words(self._child.poll())

    def _last_words(self, status: int | None) -> str:
        if status is not None and status < 0:
            return f"it was ended by {signal.Signals(-status).name}"
        errors = [line for line in self._said if "Error" in line or "Exception" in line]
        last = (errors or list(self._said) or ["it said nothing"])[-1]
        return f"it ended with status {status}: {last.strip()[:_MAX_REASON]}"

    def events(self) -> Iterator[Mapping[str, Any]]:
        """The child's events until it ends; a failure is raised as RasaFailed."""
        assert self._child.stdout is not None  # noqa: S101 - it was given above
        for line in self._child.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if "failed" in event:
                self._failed = " ".join(str(event["failed"]).split())[:_MAX_REASON]
            else:
                yield event
        status = self._child.wait()
        self._reader.join(_STOP_SECONDS)
        if self._failed:
            raise RasaFailed(self._failed)
        if status:
            raise RasaFailed(self._last_words(status))

    def stop(self) -> None:
        """End it: by closing its input, then by force. Safe to call again."""
        with suppress(BrokenPipeError, OSError):
            self._stdin.close()
        try:
            self._child.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._reader.join(_STOP_SECONDS)
        for stream in (self._child.stdout, self._child.stderr):
            if stream:
                stream.close()

    @property
    def _stdin(self) -> Any:
        return self._child.stdin

    def _read_words(self) -> None:
        """Keep the last lines; a progress bar rewrites its line with carriage returns."""
        assert self._child.stderr is not None  # noqa: S101 - it was given above
        rest = b""
        with suppress(ValueError, OSError):  # closed by `stop`
            while piece := os.read(self._child.stderr.fileno(), 65536):
                *whole, rest = re.split(rb"[\r\n]+", rest + piece)
                rest = rest[-65536:]
                for line in whole:
                    if text := _COLOUR.sub("", line.decode("utf-8", "replace")).strip():
                        self._said.append(text[:1000])
                        self._on_line(text)


def run_training(
    python: RasaPython, jobs: Sequence[Mapping[str, Any]], folder: Path, progress: Callable[[str], None]
) -> None:
    """Run training jobs (see otvet_rasa.py) one after another; `progress` is told each tenth of the epochs.

    Blocks for minutes; any exception, Ctrl+C included, stops the child first. Raises RasaFailed, RasaNotInstalled.
    """
    place = 0
    told = ""

    def on_line(line: str) -> None:
        nonlocal told
        if match := _EPOCHS.search(line):
            done, of = int(match[1]), int(match[2])
            now = f"  Rasa: training {place + 1} of {len(jobs)}, epoch {done} of {of}"
            if done and done % max(1, of // 10) == 0 and now != told:
                told = now
                progress(now)

    process = RasaProcess(python, "train", {"jobs": list(jobs)}, folder, on_line)
    try:
        for event in process.events():
            place = int(event.get("job", place))
    finally:
        process.stop()


def _environment(python: RasaPython) -> dict[str, str]:
    """The parent's environment without what would lead Rasa's Python astray or send data away."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "OTVET_", "VIRTUAL_ENV", "RASA_"))
    }
    threads = str(python.threads) if python.threads else ""
    return kept | {
        "PYTHONPATH": str(ENVIRONMENT),
        "PYTHONUNBUFFERED": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONWARNINGS": "ignore",
        "OTVET_ENCODER_FOLDER": str(python.encoder.absolute()),
        "RASA_TELEMETRY_ENABLED": "false",
        "RASA_MAX_CACHE_SIZE": "0",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "SQLALCHEMY_SILENCE_UBER_WARNING": "1",
        "CUDA_VISIBLE_DEVICES": "-1",
        **(
            {
                "TF_INTRA_OP_PARALLELISM_THREADS": threads,
                "TF_INTER_OP_PARALLELISM_THREADS": threads,
                "OMP_NUM_THREADS": threads,
            }
            if threads
            else {}
        ),
    }
