"""What agents corrected, as training rows: the episode's words without what could tell who wrote them."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from bot.database import migrate, open_database
from bot.masking import mask
from handoff.corrections import Correction, corrections
from nlu.training_data import Example

MOST_CHARS = 600


def as_example(correction: Correction) -> Example:
    """The newest words first, as far as they go."""
    return Example(mask("\n".join(correction.texts)[:MOST_CHARS]), correction.topic, correction.lang)


def load_corrections(url: str) -> list[Example]:
    """From a database that nothing of this thread has open. Blocks."""

    async def work() -> list[Example]:
        engine, sessions = open_database(url)
        try:
            await migrate(engine)
            async with sessions.begin() as session:
                return [as_example(each) for each in await corrections(session)]
        finally:
            await engine.dispose()

    with ThreadPoolExecutor(max_workers=1) as pool:  # whether or not this thread has a loop already
        return pool.submit(asyncio.run, work()).result()
