"""How long a candidate takes from the click to its report, and whether spoilt data are refused.

    python -m benchmarks.gate --var FOLDER [--swaps N]

Makes the first version in FOLDER if there is none, then a candidate as the studio does (a process of its own, and
others beside it), then N candidates whose data have the labels of two intents swapped, and prints what the gate says of
each. `same_as_live`: whether the candidate is to the last bit what `otvet train` made of the same data in one process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from bot.model_wiring import utc_now
from bot.models.records import TrainingJob
from bot.models.training import ARTICLE
from bot.models.training_jobs import ask, newest, own_command
from bot.settings import Settings
from bot.wiring import Installation
from nlu.library import examples_of, move_example
from nlu.models import ModelVersion


def swap_labels(installation: Installation, one: str, other: str) -> None:
    """Move every example of each intent to the other one, as an editor could."""

    async def work() -> None:
        await installation.migrate()
        async with installation.database.sessions.begin() as session:
            both = [
                (each.id, to) for own, to in ((one, other), (other, one)) for each in await examples_of(session, own)
            ]
            for example_id, to in both:
                await move_example(session, example_id, to, by="benchmark", at=utc_now())
        await installation.close()

    asyncio.run(work())
    del installation.database


async def _ask(installation: Installation) -> int:
    await installation.migrate()
    async with installation.database.sessions.begin() as session:
        job, _ = await ask(session, by="benchmark", at=utc_now())
        return job.id


async def _job(installation: Installation) -> TrainingJob:
    async with installation.database.sessions.reading() as session:
        return (await newest(session, 1))[0]


def click(installation: Installation) -> dict[str, object]:
    started = time.monotonic()
    with asyncio.Runner() as runner:
        number = runner.run(_ask(installation))
        subprocess.run(own_command(number), check=True, env=_environment(installation))  # noqa: S603 - our own
        seconds = time.monotonic() - started
        job = runner.run(_job(installation))
        runner.run(installation.close())
    live = installation.store.live()
    made = installation.store.show(job.version_id) if job.version_id else None
    return {
        "seconds": round(seconds, 1),
        "stages": job.stages,
        "state": job.state,
        "version": job.version_id,
        "same_as_live": bool(live and made and are_same(live, made)),
    }


def are_same(one: ModelVersion, other: ModelVersion) -> bool:
    """Whether all files of two versions say the same; archives of arrays have a date in them, which is not compared."""
    names = set(one.manifest["files"])
    return names == set(other.manifest["files"]) and all(
        _content(one.path / name) == _content(other.path / name) for name in names
    )


def _content(path: Path) -> object:
    if path.suffix != ".npz":
        return path.read_bytes()
    with np.load(path) as arrays:
        return {name: (arrays[name].dtype, arrays[name].tobytes()) for name in arrays.files}


def _environment(installation: Installation) -> dict[str, str]:
    return {**os.environ, "OTVET_VAR": str(installation.settings.var), "OTVET_DATA": str(installation.settings.data)}


def spoilt(installation: Installation, swaps: int) -> list[dict[str, object]]:
    names = sorted(name for name, outcome in installation.seed.outcomes.items() if outcome.article)
    names = [name for name in names if not name.startswith(ARTICLE)]
    dice = random.Random(0)  # noqa: S311 - no secret
    found = []
    for _ in range(swaps):
        one, other = dice.sample(names, 2)
        swap_labels(installation, one, other)
        version = installation.train(promote=False, workers=2)
        swap_labels(installation, one, other)
        report = installation.judge(version.id)
        worst = min(report.tests, key=lambda test: test.adjusted)
        found.append(
            {
                "swapped": [one, other],
                "accepted": report.accepted,
                "reasons": sorted({reason.kind for reason in report.reasons}),
                "lost": worst.lost,
                "won": worst.won,
                "adjusted_p": round(worst.adjusted, 5),
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--var", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--swaps", type=int, default=0)
    arguments = parser.parse_args()
    settings = Settings(_env_file=None, var=arguments.var.resolve(), data=arguments.data.resolve())
    installation = Installation(settings, lambda line: print(line, file=sys.stderr, flush=True))
    installation.prepare()
    result: dict[str, object] = {"click": click(Installation(settings))}
    if arguments.swaps:
        result["spoilt"] = spoilt(installation, arguments.swaps)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
