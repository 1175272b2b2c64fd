"""Where the models of a turn work: in threads of their own, so that the event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

Result = TypeVar("Result")


class ModelThreads:
    def __init__(self, count: int | None = None) -> None:
        """count: how many calls run at once; None: some more than there are cores."""
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="models")

    async def run(self, work: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
        """Off the event loop."""
        call = partial(copy_context().run, work, *arguments, **options)
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)
