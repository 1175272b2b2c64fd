"""How fast and how well open messages are grouped, over the whole way: transcripts in a real database, collected,
encoded, grouped. Prints JSON.

    python -m benchmarks.gaps [--messages 10000] [--var FOLDER] [--bench FOLDER]

Texts are BANKING77's train rows (English, `--bench`), and in a second run the demo's examples in both languages; their
labels are known to nobody but the judge. `--var` is a folder with an encoder, kept between runs. What is measured:

- collect, encode, group: seconds of each step; group is what an editor waits for, since vectors are kept.
- v_measure, homogeneity, completeness: against the labels, every message counts, those that are alone as well.
- purity and covered: of the groups of at least three messages, the share of their messages that have the group's most
  frequent label, and the share of all messages that such groups hold.
- joined_right: a tenth of the messages comes after the grouping; the share that joins a group, and of these the share
  whose label is its most frequent one.
- both_languages: the share of groups of at least three messages with messages in both languages.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import homogeneity_completeness_v_measure
from sqlalchemy import insert, select

from bot.database import migrate, open_database
from bot.gaps.keeping import GapKeeper
from bot.gaps.records import Question
from bot.ledger import Sessions
from handoff.records import Author, Conversation, Message
from nlu.encoder import Encoder, load_encoder
from nlu.features import fold
from nlu.training_data import OUT_OF_SCOPE_INTENTS, Example, load_intents

NOW = datetime(2026, 11, 1, tzinfo=UTC)
LATER = 10
"""One of so many messages comes after the grouping."""
AT_LEAST = 3


async def write(sessions: Sessions, rows: Sequence[tuple[int, Example]]) -> None:
    """Transcripts of customers who each asked one thing that was handed off."""
    decision = {"rule": "low_confidence", "confidence": 0.1, "hits": [], "thresholds": {}}
    async with sessions.begin() as session:
        await session.execute(
            insert(Conversation),
            [
                {"channel": "site", "account": "", "chat_id": str(at), "created_at": NOW, "updated_at": NOW}
                for at, _ in rows
            ],
        )
        found = await session.execute(select(Conversation.chat_id, Conversation.id))
        ids = {row.chat_id: row.id for row in found}
        await session.execute(
            insert(Message),
            [
                {
                    "conversation_id": ids[str(at)],
                    "author": Author.CUSTOMER,
                    "text": example.text,
                    "decision": {**decision, "lang": example.lang or "en"},
                    "sent_at": NOW + timedelta(minutes=at),
                    "created_at": NOW + timedelta(minutes=at),
                    "external_id": str(at),
                }
                for at, example in rows
            ],
        )


async def measure(examples: Sequence[Example], encoder: Encoder, means: dict[str, Any]) -> dict[str, Any]:
    numbered = list(enumerate(examples))
    later = {at for at in range(len(examples)) if at % LATER == LATER - 1}
    with tempfile.TemporaryDirectory() as folder:
        engine, sessions = open_database(f"sqlite+aiosqlite:///{folder}/otvet.sqlite3")
        await migrate(engine)
        keeper = GapKeeper(sessions, encoder=lambda: encoder, means=lambda: means, article_of=dict, clock=lambda: NOW)
        await write(sessions, numbered)
        seconds: dict[str, float] = {}
        for name, step in (("collect", keeper.collect), ("encode", keeper.encode), ("group", keeper.group)):
            started = time.perf_counter()
            await step()
            seconds[name] = round(time.perf_counter() - started, 2)
        found = await _groups(sessions)
        result = {"messages": len(examples), "seconds": seconds, **quality(examples, found)}
        await engine.dispose()
    with tempfile.TemporaryDirectory() as folder:
        engine, sessions = open_database(f"sqlite+aiosqlite:///{folder}/otvet.sqlite3")
        await migrate(engine)
        keeper = GapKeeper(sessions, encoder=lambda: encoder, means=lambda: means, article_of=dict, clock=lambda: NOW)
        await write(sessions, [row for row in numbered if row[0] not in later])
        await keeper.keep()
        first = await _groups(sessions)
        await write(sessions, [row for row in numbered if row[0] in later])
        started = time.perf_counter()
        await keeper.collect()
        await keeper.encode()
        await keeper.group()
        result["seconds"]["later_tenth"] = round(time.perf_counter() - started, 2)
        result |= joining(examples, first, await _groups(sessions), later)
        await engine.dispose()
    return result


async def _groups(sessions: Sessions) -> dict[int, int]:
    """Number of the message → its group."""
    async with sessions.reading() as session:
        rows = await session.execute(
            select(Message.external_id, Question.gap_id).join(Message, Message.id == Question.message_id)
        )
        return {int(at or 0): gap for at, gap in rows if gap is not None}


def quality(examples: Sequence[Example], found: dict[int, int]) -> dict[str, Any]:
    labels = [examples[at].intent for at in sorted(found)]
    groups = [found[at] for at in sorted(found)]
    homogeneity, completeness, v_measure = homogeneity_completeness_v_measure(labels, groups)
    members: dict[int, list[int]] = defaultdict(list)
    for at, group in found.items():
        members[group].append(at)
    large = [own for own in members.values() if len(own) >= AT_LEAST]
    held = sum(map(len, large))
    right = sum(Counter(examples[at].intent for at in own).most_common(1)[0][1] for own in large)
    mixed = sum(len({examples[at].lang for at in own}) > 1 for own in large)
    return {
        "labels": len(set(labels)),
        "groups": len(members),
        "groups_of_3": len(large),
        "v_measure": round(v_measure, 3),
        "homogeneity": round(homogeneity, 3),
        "completeness": round(completeness, 3),
        "purity": round(right / max(1, held), 3),
        "covered": round(held / max(1, len(found)), 3),
        "both_languages": round(mixed / max(1, len(large)), 3),
    }


def joining(
    examples: Sequence[Example], first: dict[int, int], second: dict[int, int], later: set[int]
) -> dict[str, Any]:
    by_group: dict[int, Counter[str]] = defaultdict(Counter)
    for at, group in first.items():
        by_group[group][examples[at].intent] += 1
    joined = [at for at in later if second.get(at) in by_group]
    right = sum(by_group[second[at]].most_common(1)[0][0] == examples[at].intent for at in joined)
    stayed = sum(second.get(at) == group for at, group in first.items())
    return {
        "joined": round(len(joined) / len(later), 3),
        "joined_right": round(right / max(1, len(joined)), 3),
        "stayed": round(stayed / len(first), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--var", type=Path, default=Path("var"))
    parser.add_argument("--bench", type=Path, default=Path("../shared/bench"))
    arguments = parser.parse_args()
    encoder = load_encoder(arguments.var / "encoder")
    demo = [e for e in load_intents(Path("data/intents")).examples if e.intent not in OUT_OF_SCOPE_INTENTS]
    means = {
        lang: encoder.encode([fold(e.text) for e in demo if e.lang == lang][::4]).mean(axis=0) for lang in ("ru", "en")
    }
    table = {}
    banking = arguments.bench / "banking77.en.train.jsonl"
    if banking.exists():
        rows = load_intents(banking).examples
        order = np.random.default_rng(0).permutation(len(rows))[: arguments.messages]
        table["BANKING77"] = asyncio.run(measure([rows[at] for at in order], encoder, means))
    order = np.random.default_rng(0).permutation(len(demo))[: arguments.messages]
    table["demo, ru and en"] = asyncio.run(measure([demo[at] for at in order], encoder, means))
    print(json.dumps(table, ensure_ascii=False, indent=2))


if __name__ == "__main__":
    main()
