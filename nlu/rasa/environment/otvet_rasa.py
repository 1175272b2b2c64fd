"""Runs Rasa 3.6 as a child of Otvet: `otvet_rasa.py train` and `otvet_rasa.py serve`.

This file runs in Rasa's environment (Python 3.10) and imports nothing else of Otvet. What to do is read from standard
input as one line of JSON; when standard input ends, because the parent has closed it or has died in whatever way, the
process ends itself. Standard output has one JSON object a line: {"job": its place, "done": false or true} and
{"failed": reason}. Rasa's own words and progress bars go to standard error.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any, TextIO


def main() -> None:
    # Rasa prints to standard output too.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    wanted = json.loads(_read_line())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        if sys.argv[1] == "train":
            _train(wanted["jobs"], events)
        else:
            _serve(wanted)
    except BaseException as error:
        # Edge of the process: whatever it was, the parent is told in one line.
        if not isinstance(error, SystemExit) or error.code:
            print(json.dumps({"failed": f"{type(error).__name__}: {error}"}), file=events)
        raise


def _read_line() -> bytes:
    """The first line of standard input and no byte more."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(0, 1)):
        line += byte
    return line


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(3)


def _train(jobs: list[dict[str, Any]], events: TextIO) -> None:
    """Each job: `config`, `domain`, `data` → `model`; then the texts of the file `parse`, if any, → `parsed`."""
    import rasa.model_training
    import rasa.utils.common
    import rasa.utils.tensorflow.environment

    rasa.utils.common.configure_logging_and_warnings(None, None, warn_only_once=True, filter_repeated_logs=True)
    rasa.utils.tensorflow.environment.setup_tf_environment()
    for place, job in enumerate(jobs):
        print(json.dumps({"job": place, "done": False}), file=events)
        model = Path(job["model"])
        trained = rasa.model_training.train_nlu(
            job["config"], job["data"], str(model.parent), fixed_model_name=model.name, domain=job["domain"]
        )
        if trained is None:
            raise ValueError("Rasa found nothing to train on")
        if job.get("parse"):
            texts = json.loads(Path(job["parse"]).read_text(encoding="utf-8"))
            with Path(job["parsed"]).open("w", encoding="utf-8") as file:
                asyncio.run(_parse(str(model), texts, file))
        print(json.dumps({"job": place, "done": True}), file=events)


async def _parse(model: str, texts: list[str], file: TextIO) -> None:
    from rasa.core.agent import Agent

    agent = Agent.load(model)
    for text in texts:
        # As in Otvet's RasaClient: a leading slash would be a command.
        found = await agent.parse_message(text.lstrip().lstrip("/").strip())
        kept = {key: found[key] for key in ("intent", "intent_ranking", "response_selector") if key in found}
        file.write(json.dumps(kept) + "\n")


def _serve(wanted: dict[str, Any]) -> None:
    import rasa.__main__

    # The token is no argument of the process, so that nobody reads it from the list of processes.
    sys.argv = ["rasa", "run", "--enable-api", "-m", wanted["model"], "-i", "127.0.0.1", "-p", str(wanted["port"])]
    sys.argv += ["--auth-token", wanted["token"]]
    rasa.__main__.main()


if __name__ == "__main__":
    main()
