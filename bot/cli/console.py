"""What every command of the terminal needs: the installation, a transaction, tables and JSON."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import structlog
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from bot.settings import load_settings

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from bot.wiring import Installation

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Result = TypeVar("Result")


def progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def configure_logging(level: str) -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def installation(*, quiet: bool = False) -> Installation:
    # Here and below, what is heavy is imported where it is used: `otvet --help` and `otvet tickets` need no models.
    from bot.wiring import Installation

    settings = load_settings()
    configure_logging("ERROR" if quiet else settings.log_level)
    return Installation(settings, progress)


@asynccontextmanager
async def transaction(installation: Installation) -> AsyncIterator[AsyncSession]:
    await installation.migrate()
    try:
        async with installation.database.sessions.begin() as session:
            yield session
    finally:
        await installation.close()


def run(work: Coroutine[Any, Any, Result]) -> Result:
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def print_json(value: object) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def table(rows: Sequence[Sequence[object]], head: Sequence[str]) -> None:
    shown = Table(*head, box=box.SIMPLE_HEAD)
    for row in rows:
        shown.add_row(*("" if cell is None else str(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else 200).print(shown)
