"""Work in a second process that shares this one's memory: two cores for what Python does on one."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Generic, TypeVar

from threadpoolctl import threadpool_limits

Result = TypeVar("Result")


class Aside(Generic[Result]):
    """Begins `work` in a forked process, which sees the memory as it is now; what it changes there nobody sees.

    For a process that does nothing else: a fork of one that serves others copies locks that its threads hold.
    """

    def __init__(self, work: Callable[[], Result], *, apart: bool = True) -> None:
        """What `work` returns must be picklable. not apart: it is done where its result is asked for."""
        self._work = work
        self._pipe: Connection | None = None
        if not apart or "fork" not in multiprocessing.get_all_start_methods():
            return
        fork = multiprocessing.get_context("fork")
        self._pipe, theirs = fork.Pipe(duplex=False)
        self._process = fork.Process(target=_run, args=(work, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def result(self) -> Result:
        """Waits for it; called once. Where the process ended without one, the work is done here, and raises here what
        it raises."""
        if self._pipe is None:
            return self._work()
        try:
            found: Result = self._pipe.recv()
        except EOFError:
            return self._work()
        finally:
            self._pipe.close()
            self._process.join()
        return found


def _run(work: Callable[[], Result], pipe: Connection) -> None:
    with threadpool_limits(1):
        pipe.send(work())
