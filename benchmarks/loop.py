"""A simulated month in which new questions appear, and the loop that closes them: gaps → articles and examples →
training. The share that is answered rightly, before and after, on questions that the loop has not seen. Prints JSON.

    python -m benchmarks.loop [--var FOLDER]

The demo's knowledge base begins without what its data knows of ten matters: five have no article at all, of five the
article stands there as the shop wrote it, but nobody knows yet how customers ask for it (no intent, no questions).
During the month half of these matters' examples come in as messages, together with all development questions of the
other matters. Each passes through the real models and the real decision. What is not answered goes to a person, who
answers with the shop's own text; who was answered wrongly says so. Then the messages are collected and grouped, and an
editor works through the groups of two and more, the largest first, as the studio lets him: he reads the ten typical
messages of a group, leaves out those that are about something else than most, and gives them to the article or intent
that they belong to, or writes the article from the agents' answers. The labels are known to the judge and to this
editor's eyes alone. Then a new version is trained.

Measured on: `examples`, the other half of the new matters' examples; `questions`, the evaluation's test questions of
the new matters, written independently of both; `others`, the test questions of all other matters and of none.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select

from bot.gaps import gaps
from bot.gaps.acts import GapActs, Text
from bot.gaps.records import Question as Open
from bot.models.evaluation import Question as Labelled
from bot.models.evaluation import judge, load_questions, summarise
from bot.settings import Settings
from bot.wiring import Installation
from handoff import desk
from handoff.lifecycle import TicketStatus
from handoff.records import Author, Message, Reason, Ticket
from kb_index.article_text import change_text, write_article
from kb_index.articles import Article
from kb_index.library import Library
from nlu import library
from nlu.features import fold

MISSING = ("delivery-pickup", "loyalty-earn", "business-account", "payment-methods", "account-login")
WORDINGS = ("return-how", "order-cancel", "promo-code", "warranty-claim", "delivery-reschedule")
NEW = frozenset((*MISSING, *WORDINGS))
BEGIN = datetime(2026, 11, 1, tzinfo=UTC)
AT_LEAST = 2
"""A group of fewer messages is left to another month."""
EVAL = Path("data/eval")


@dataclass(frozen=True)
class Shop:
    """What the shop knows and the assistant does not yet."""

    articles: Mapping[tuple[str, str], Article]
    leading: Mapping[str, str]
    """Article → the intent that leads to it, of those that are not new."""


async def forget(here: Installation) -> tuple[Shop, list[Labelled], list[Labelled]]:
    """Take the new matters out; the messages of the month about them, and those that are kept for the end."""
    data = await asyncio.to_thread(lambda: here.intents.training_data())
    stored = await asyncio.to_thread(lambda: here.articles.published())
    articles = {(article.id, article.lang): article for article in stored}
    article_of = {name: str(spec.metadata.get("article") or "") for name, spec in data.intents.items()}
    known: list[tuple[str, str, str]] = [
        (example.text, example.lang or "ru", article_of[example.intent])
        for example in data.examples
        if article_of.get(example.intent) in NEW
    ]
    known += [(text, article.lang, article.id) for article in stored if article.id in NEW for text in article.questions]
    unique = list({fold(text): row for row in known for text in (row[0],)}.values())
    rows = [Labelled(text, lang, frozenset({article}), None, "new") for text, lang, article in unique]
    async with here.database.sessions.begin() as session:
        for name, article in article_of.items():
            if article in NEW:
                await library.remove_intent(session, name, by="loop", at=BEGIN)
        kept = Library(session, author="loop", now=BEGIN)
        for article_id, lang in articles:
            if article_id in MISSING:
                await kept.set_status(article_id, lang, "archived")
            elif article_id in WORDINGS:
                present = await kept.revision(article_id, lang)
                text = change_text(present.text, questions=None)
                await kept.save(article_id, lang, text, expected_revision=present.number, minor=True)
    here.forget_seed()
    leading = {article: name for name, article in article_of.items() if article and article not in NEW}
    return Shop(articles, leading), rows[::2], rows[1::2]


async def month(here: Installation, messages: Sequence[Labelled], shop: Shop) -> dict[str, int]:
    """Let the messages come in, each from another customer."""
    verdicts = await asyncio.to_thread(judge, messages, here.understander(), here.topics)
    understood = [here.understander().understand(each.text, each.lang).record for each in messages]
    async with here.database.sessions.begin() as session:
        for number, (question, verdict, record) in enumerate(zip(messages, verdicts, understood, strict=True)):
            at = BEGIN + timedelta(days=28) * number / len(messages)
            lang = question.lang or "ru"
            chat = await desk.open_conversation(
                session, channel="site", account="", chat_id=f"customer-{number}", now=at
            )
            chat.lang = lang

            def say(author: Author, text: str, decision: Mapping[str, Any] | None, minute: int) -> None:
                moment = at + timedelta(minutes=minute)  # noqa: B023 - called at once
                session.add(
                    Message(
                        conversation_id=chat.id,  # noqa: B023
                        author=author,
                        agent_name="Anna" if author is Author.AGENT else None,
                        text=text,
                        decision=dict(decision) if decision else None,
                        sent_at=moment,
                        created_at=moment,
                        external_id=f"message-{number}" if minute == 0 and author is Author.CUSTOMER else None,  # noqa: B023
                    )
                )

            reply = {"answer": "answer", "flow": "answer", "reply": "answer"}.get(verdict.action, verdict.action)
            say(Author.CUSTOMER, question.text, {**record, "rule": verdict.rule}, 0)
            await session.flush()
            say(Author.ASSISTANT, "…", {"action": reply, "reason": "low_confidence"}, 0)
            settled = verdict.right or (verdict.action in ("reply", "flow") and not question.articles)
            if settled and verdict.action != "clarify":
                continue
            if verdict.action == "answer":
                say(Author.CUSTOMER, "…", {"rule": "answer_rejected"}, 1)
            elif verdict.action == "clarify" and not verdict.right:
                say(Author.CUSTOMER, "…", {"rule": "person_chosen"}, 1)
            elif verdict.right:
                continue
            await session.flush()
            told = next((shop.articles.get((article, lang)) for article in sorted(question.articles)), None)
            session.add(
                Ticket(
                    conversation_id=chat.id,
                    status=TicketStatus.RESOLVED,
                    reason=Reason.LOW_CONFIDENCE,
                    topic="unclear",
                    routed_by="default",
                    team="first-line",
                    level="L1",
                    priority="normal",
                    lang=lang,
                    subject=question.text[:200],
                    promised_at=at,
                    created_at=at + timedelta(minutes=1),
                    updated_at=at,
                    resolved_at=at + timedelta(hours=1),
                )
            )
            say(Author.AGENT, told.body if told else "Sorry, this is nothing that we do.", None, 9)
            await session.flush()
    return dict(Counter(verdict.action for verdict in verdicts))


async def edit(here: Installation, messages: Sequence[Labelled], shop: Shop) -> dict[str, Any]:
    """What an editor makes of the groups."""
    now = BEGIN + timedelta(days=29)
    done: Counter[str] = Counter()
    async with here.database.sessions.begin() as session:
        named = await session.execute(select(Open.id, Message.external_id).join(Message, Message.id == Open.message_id))
        label_of = {
            row.id: next(iter(sorted(messages[int(row.external_id.removeprefix("message-"))].articles)), "")
            for row in named
        }
        found = await gaps.find(session, gaps.Query(), now=now, limit=100_000)
        for line in found.lines:
            if line.count < AT_LEAST:
                continue
            sheet = await gaps.sheet(session, line.id, now=now)
            by_id = {each.id: each for each in sheet.asked}
            label = Counter(label_of[number] for number in sheet.typical).most_common(1)[0][0]
            ticked = [by_id[number] for number in sheet.typical if label_of[number] == label]
            texts = [Text(each.text, each.lang) for each in ticked]
            acts = GapActs(session, by="editor", now=now)
            articles = Library(session, author="editor", now=now)
            if not label:
                await acts.out_of_scope(line.id, texts)
                done["out of scope"] += 1
            elif label in shop.leading:
                await acts.add_examples(line.id, shop.leading[label], texts)
                done["examples"] += 1
            elif label in MISSING and (await articles.get(label, "ru")).article.status == "archived":
                # The archived one is what the shop knows: it is written anew, from what agents answered.
                for lang in ("ru", "en"):
                    replies = [r.text for each in sheet.asked for r in each.replies if each.lang == lang]
                    body = max(replies, key=len) if replies else shop.articles[label, lang].body
                    mine = tuple(dict.fromkeys(t.text for t in texts if t.lang == lang))
                    article = replace(
                        shop.articles[label, lang], body=body, questions=mine, status="published", path=None
                    )
                    present = await articles.revision(label, lang)
                    await articles.save(label, lang, write_article(article), expected_revision=present.number)
                await acts.dismiss(line.id, f"article {label} written")
                done["articles written"] += 1
            else:
                await acts.add_questions(line.id, label, texts)
                done["questions"] += 1
            await session.flush()
    return {"messages": found.messages, "groups": found.total, **done}


def figures(questions: Sequence[Labelled], here: Installation) -> dict[str, Any]:
    found = summarise(judge(questions, here.understander(), here.topics))
    keys = ("in_scope", "answered_right", "clarified_right", "handed_off", "answered_wrong", "oos_answered")
    return {key: found[key] for key in keys}


async def run(var: Path) -> dict[str, Any]:
    here = Installation(Settings(_env_file=None, var=var, data=Path("data")), lambda line: print(line, flush=True))
    await here.migrate()
    shop, during, examples = await forget(here)
    dev, test = (load_questions(EVAL / f"dialogue.{name}.jsonl") for name in ("dev", "test"))
    during += [question for question in dev if not question.articles & NEW and not question.topic]
    during.sort(key=lambda question: fold(question.text)[::-1])  # mixed, and always in the same way
    unseen = {
        "examples": examples,
        "questions": [question for question in test if question.articles & NEW],
        "others": [question for question in test if not question.articles & NEW],
    }
    seconds = {}
    started = time.perf_counter()
    await asyncio.to_thread(here.train, promote=True)
    seconds["first training"] = round(time.perf_counter() - started, 1)
    before = {name: await asyncio.to_thread(figures, own, here) for name, own in unseen.items()}
    came = await month(here, during, shop)
    started = time.perf_counter()
    kept = await here.gap_keeper.keep()
    seconds["collected and grouped"] = round(time.perf_counter() - started, 1)
    edited = await edit(here, during, shop)
    here.forget_seed()
    await asyncio.to_thread(here.sync_index)
    started = time.perf_counter()
    await asyncio.to_thread(here.train, promote=True)
    seconds["second training"] = round(time.perf_counter() - started, 1)
    await asyncio.to_thread(here.reload)
    after = {name: await asyncio.to_thread(figures, own, here) for name, own in unseen.items()}
    await here.close()
    return {
        "came": {"messages": len(during), "new": sum(bool(q.articles & NEW) for q in during), **came},
        "open": {"messages": kept.messages, "groups": kept.groups},
        "editor": edited,
        "seconds": seconds,
        "before": before,
        "after": after,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--var", type=Path, default=Path("var"), help="a folder with an encoder, kept between runs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "encoder").symlink_to((arguments.var / "encoder").resolve())
        table = asyncio.run(run(Path(folder)))
    print(json.dumps(table, ensure_ascii=False, indent=2))


if __name__ == "__main__":
    main()
