"""`otvet doctor`: what is wrong with an installation, and what to do about it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select

from bot.breaker import troubles
from bot.channels.terminal import TerminalChannel
from bot.errors import DeliveryError, OtvetError, StorageError
from bot.flows.format import Action
from bot.forum.records import ForumPerson, ForumTopic
from bot.helpdesk import SYNC, HelpDeskLink
from bot.hooks import hook_figures
from bot.ledger import InboxRow, InboxState, OutboxRow
from bot.model_wiring import utc_now
from bot.models.training import articles_folder
from bot.notifications import NOTIFY, notice_figures, shown_address
from bot.timers import Timer
from bot.whatsapp_record import stuck_webhooks
from bot.wiring import Installation
from handoff.errors import HandoffError, HelpDeskError
from handoff.staff import in_place_of, manned
from kb_index.articles import load_articles
from kb_index.errors import KnowledgeBaseError
from nlu.errors import NluError, RasaNotInstalled, RasaUnavailable
from nlu.rasa.server import read_state


@dataclass(frozen=True)
class Check:
    name: str
    ok: bool
    detail: str
    remedy: str = ""


async def examine(installation: Installation) -> list[Check]:
    """Run every check; a fault in one never hides the others."""
    checks: list[tuple[str, Callable[[Installation], Awaitable[Check]]]] = [
        ("data", _data),
        ("replies", _replies),
        ("database", _database),
        ("redis", _redis),
        ("encoder", _encoder),
        ("model", _model),
        ("rasa", _rasa),
        ("telegram", _telegram),
        ("forum", _forum),
        ("whatsapp", _whatsapp),
        ("platforms", _platforms),
        ("attachments", _attachments),
        ("notifications", _notifications),
        ("helpdesk", _helpdesk),
        ("mail", _mail),
        ("webhook", _webhook),
        ("lookups", _lookups),
        ("teams", _teams),
    ]
    found = []
    for name, check in checks:
        try:
            found.append(await check(installation))
        except (OtvetError, HandoffError, KnowledgeBaseError, NluError) as error:
            found.append(Check(name, False, str(error), "put right what the message names"))
        except Exception as error:  # noqa: BLE001 - a doctor that dies of the illness helps nobody
            found.append(Check(name, False, repr(error), "see the message; OTVET_LOG_LEVEL=DEBUG tells more"))
    await installation.close()
    return found


async def _data(installation: Installation) -> Check:
    seed = installation.seed
    articles = len({article.id for article in seed.articles.articles})
    detail = f"{installation.data}: {articles} articles, {len(seed.outcomes)} intents"
    problems = load_articles(articles_folder(installation.data)).problems
    faults = [*map(str, problems), *seed.warnings]
    if faults:
        return Check("data", False, f"{detail}; {'; '.join(faults)}", "correct the files, then `otvet train`")
    if not articles:
        return Check("data", False, detail, f"put articles under {installation.data / 'kb'}, then `otvet train`")
    return Check("data", True, detail)


async def _replies(installation: Installation) -> Check:
    named = {outcome.reply for outcome in installation.seed.outcomes.values() if outcome.reply}
    problems = installation.replies.problems(named)
    if problems:
        return Check("replies", False, "; ".join(map(str, problems)), "add or correct the template files")
    return Check("replies", True, "every template is there in both languages")


async def _lookups(installation: Installation) -> Check:
    file = installation.lookup_file
    if not file.lookups:
        return Check("lookups", True, "none: there is no lookups.yml in the data folder")
    steps = (step for flow in installation.flows.flows.values() for step in flow.steps.values())
    asked = {step.action for step in steps if isinstance(step, Action)}
    if unknown := asked - installation.lookups.file.names:
        return Check("lookups", False, f"flows ask for {', '.join(sorted(unknown))}", "describe them in lookups.yml")
    away = await installation.lookups.unreachable()
    if away:
        return Check("lookups", False, "; ".join(away), "see to the server, its name and the network")
    demo = "; the demo shop is among them" if installation.demo_shop else ""
    return Check("lookups", True, f"{len(file.lookups)} of {len(file.servers)} servers{demo}")


async def _database(installation: Installation) -> Check:
    await installation.migrate()
    async with installation.database.sessions.begin() as session:
        waiting = await session.scalar(select(func.count(InboxRow.id)).where(InboxRow.state == InboxState.PENDING))
        failed = await session.scalar(select(func.count(InboxRow.id)).where(InboxRow.state == InboxState.FAILED))
        # A terminal that was closed never comes back for its replies.
        queued = OutboxRow.channel != TerminalChannel.name
        unsent = await session.scalar(select(func.count(OutboxRow.id)).where(queued))
        oldest = await session.scalar(select(func.min(OutboxRow.due_at)).where(queued))
    name = installation.database.engine.dialect.name
    detail = f"{name}: {waiting} messages wait, {unsent} replies unsent, {failed} turns failed"
    late = oldest is not None and (utc_now() - oldest).total_seconds() > 300
    if late:
        return Check("database", False, detail, "replies wait for over 5 minutes: is `otvet serve` running?")
    return Check("database", True, detail)


async def _redis(installation: Installation) -> Check:
    if not installation.settings.redis_url.get_secret_value():
        return Check("redis", True, "off: OTVET_REDIS_URL is not set; one process needs none")
    from bot.shared_redis import RedisShared

    shared = installation.shared
    assert isinstance(shared, RedisShared)  # noqa: S101 - wiring makes it of this setting
    try:
        return Check("redis", True, await shared.ping())
    except Exception as error:  # noqa: BLE001 - whatever the server answers is the finding
        detail = f"{type(error).__name__}: {error}; nothing is lost, but rate limits and live updates are not shared"
        return Check("redis", False, detail, "start the server, or correct OTVET_REDIS_URL")


async def _encoder(installation: Installation) -> Check:
    encoder = await asyncio.to_thread(lambda: installation.encoder)
    return Check("encoder", True, f"{encoder.name or 'multilingual-e5-small'}, {encoder.dim} dimensions")


async def _model(installation: Installation) -> Check:
    live = installation.store.live()
    if live is None:
        return Check("model", False, "no version is live", "run `otvet train`")
    if live.manifest.get("encoder") != installation.encoder.fingerprint:
        return Check("model", False, f"{live.id} was trained with another encoder", "run `otvet train`")
    if not installation.is_current(live):
        return Check("model", False, f"{live.id} does not know the present data", "run `otvet train`")
    return Check("model", True, f"{live.id}, live")


async def _rasa(installation: Installation) -> Check:
    settings = installation.settings
    if settings.nlu_engine != "rasa":
        return Check("rasa", True, "off: OTVET_NLU_ENGINE is embedded")
    spare = "until then the embedded engine answers"
    if settings.rasa_url:
        try:
            model = await asyncio.to_thread(installation.rasa.client.model_id)
        except RasaUnavailable as error:
            return Check("rasa", False, error.reason, f"start that server or correct OTVET_RASA_URL; {spare}")
        live = installation.store.live()
        own = live is not None and live.manifest.get("rasa_model") == model
        return Check("rasa", True, f"{settings.rasa_url} has model {model}, {'ours' if own else 'trained elsewhere'}")
    try:
        installation.rasa.python.check()
    except RasaNotInstalled as error:
        return Check("rasa", False, f"{error}; {spare}", "run `make rasa`")
    live = installation.store.live()
    if live is None or live.manifest.get("engine") != "rasa":
        return Check("rasa", False, f"the live version has no Rasa model; {spare}", "run `otvet train --engine rasa`")
    state = read_state(installation.rasa.state_file)
    if state is None:
        return Check("rasa", True, "installed and trained; `otvet serve` starts the server")
    since = datetime.fromtimestamp(state.changed_at, UTC)
    detail = f"{state.reason} since {since:%Y-%m-%d %H:%M} UTC"
    if state.ready:
        return Check("rasa", True, f"the server is {detail}")
    return Check(
        "rasa", False, f"{detail}; {spare}", "it is started again by itself; the log of `otvet serve` says more"
    )


async def _telegram(installation: Installation) -> Check:
    from bot.channels.telegram import TelegramChannel

    token = installation.settings.telegram_token.get_secret_value()
    if not token:
        return Check("telegram", True, "off: OTVET_TELEGRAM_TOKEN is not set")
    settings = installation.settings
    channel = TelegramChannel(token, api_base=settings.telegram_api, proxy=settings.telegram_proxy)
    try:
        return Check("telegram", True, f"connected as {await channel.whoami()}")
    except Exception as error:  # noqa: BLE001 - whatever the platform answers is the finding
        return Check("telegram", False, str(error), "check OTVET_TELEGRAM_TOKEN and the way to api.telegram.org")
    finally:
        await channel.close()


async def _forum(installation: Installation) -> Check:
    if not installation.settings.forum_groups:
        return Check("forum", True, "off: OTVET_FORUM_GROUPS is not set")
    forum, faults, found = installation.forum, [], []
    for group_id in forum.groups:
        try:
            state = await forum.api.state(group_id)
        except DeliveryError as error:
            faults.append(f"{group_id}: {error}: add the bot to the group, and correct OTVET_FORUM_GROUPS")
            continue
        if not state.is_forum:
            faults.append(f"{state.title}: turn Topics on in the group's settings")
        if not state.is_admin:
            faults.append(f"{state.title}: make the bot an administrator")
        elif not state.manages_topics:
            faults.append(f"{state.title}: let the bot, as an administrator, manage topics")
        found.append(state.title)
    await installation.migrate()
    async with installation.database.sessions.reading() as session:
        people = await session.scalar(select(func.count(ForumPerson.telegram_id)))
        waiting = await session.scalar(
            select(func.count(ForumTopic.ticket_id)).where(ForumTopic.watched, ~ForumTopic.opened)
        )
        homeless = await forum.groups.homeless(session)
        stranded = await forum.groups.stranded(session)
    detail = f"{', '.join(found) or 'no group'}; {people} people linked, {waiting} tickets wait for their topic"
    if stranded:
        detail += (
            f"; {stranded} live tickets stand in groups that OTVET_FORUM_GROUPS no longer names: they get new topics"
        )
    if homeless:
        faults.append(f"no group takes the tickets of {', '.join(homeless)}: name the teams, or a group without teams")
    if faults:
        return Check("forum", False, f"{detail}; {'; '.join(faults)}", "see the message, then run this again")
    return Check("forum", True, detail)


async def _webhook(installation: Installation) -> Check:
    if not installation.settings.hook_url:
        return Check("webhook", True, "off: OTVET_HOOK_URL is not set")
    assert installation.hooks  # noqa: S101 - reading it checks the settings
    await installation.migrate()
    async with installation.database.sessions.begin() as session:
        waiting, dead, fault = await hook_figures(session)
    detail = f"{waiting} events wait, {dead} given up"
    if dead or fault:
        remedy = "see to the receiver, then `otvet webhooks retry`; `otvet webhooks list` shows them"
        return Check("webhook", False, f"{detail}; {fault}", remedy)
    return Check("webhook", True, detail)


async def _mail(installation: Installation) -> Check:
    if installation.email_proof is None:
        return Check("mail", True, "off: OTVET_MAIL is not set; customers of the site chat can't confirm an e-mail")
    if (shown := shown_address(installation.settings.mail.get_secret_value())) is None:
        return Check("mail", False, "OTVET_MAIL lacks a part", "write it as mailtos://user:password@smtp.host?from=…")
    return Check("mail", True, f"{shown}; a code in the site chat shows whether it sends")


async def _teams(installation: Installation) -> Check:
    await installation.migrate()
    tickets = installation.tickets
    async with installation.database.sessions.begin() as session:
        staffed = await manned(session)
    if not staffed:
        return Check("teams", True, "no agents yet: customers hear that nobody is available; `otvet agents add`")
    empty = {
        team: in_place_of(tickets.policy, tickets.topics, team, staffed)
        for team in sorted({topic.team for topic in tickets.topics.all.values()} - staffed)
    }
    if empty:
        named = ", ".join(
            f"{team} ({f'{other} stands in' if other in staffed else 'nobody stands in'})"
            for team, other in empty.items()
        )
        remedy = "`otvet agents add NAME --team TEAM`, or name another `team` for its topics in topics.yml"
        return Check("teams", False, f"teams without an agent: {named}", remedy)
    return Check("teams", True, f"{len(staffed)} teams have agents")


async def _helpdesk(installation: Installation) -> Check:
    if not installation.settings.helpdesk:
        return Check("helpdesk", True, "off: OTVET_HELPDESK is not set")
    await installation.migrate()
    async with installation.database.sessions.begin() as session:
        waiting = await session.scalar(select(func.count(Timer.id)).where(Timer.kind == SYNC))
        failing = await session.scalar(select(func.count(Timer.id)).where(Timer.kind == SYNC, Timer.failures > 0))
        refused = await session.scalars(
            select(HelpDeskLink.problem)
            .where(HelpDeskLink.problem.is_not(None), HelpDeskLink.gone_at.is_(None))
            .limit(3)
        )
        problems = list(refused)
    detail = f"{waiting} tickets wait to be brought there, {failing} of them after a failure"
    try:
        found = await installation.help_desk.check()
    except HelpDeskError as error:
        remedy = "check OTVET_HELPDESK_* and that it runs; what waits is brought there as soon as it answers"
        return Check("helpdesk", False, f"{error}; {detail}", remedy)
    if problems:
        remedy = "the rest went on; put right what the message names, there or in OTVET_HELPDESK_*"
        return Check("helpdesk", False, f"{detail}; refused for good: {'; '.join(map(str, problems))}", remedy)
    return Check("helpdesk", True, f"{installation.help_desk.name}: {found}; {detail}")


async def _notifications(installation: Installation) -> Check:
    await installation.migrate()
    async with installation.database.sessions.begin() as session:
        waiting, failed = await notice_figures(session, utc_now() - timedelta(days=1))
        errors = set(await session.scalars(select(Timer.error).where(Timer.kind == NOTIFY, Timer.failures > 0)))
    detail = f"{waiting} wait, {failed} given up in a day"
    if failed or errors:
        detail = "; ".join([detail, *sorted(error for error in errors if error)])
        return Check("notifications", False, detail, "`otvet notify test` tells which address fails")
    return Check("notifications", True, detail)


async def _whatsapp(installation: Installation) -> Check:
    channel = installation.whatsapp
    if channel is None:
        return Check("whatsapp", True, "off: OTVET_WHATSAPP_TOKEN is not set")
    try:
        numbers = [await channel.whoami(account) for account in channel.accounts]
    except Exception as error:  # noqa: BLE001 - whatever the platform answers is the finding
        return Check("whatsapp", False, str(error), "check OTVET_WHATSAPP_* and the way to graph.facebook.com")
    finally:
        await channel.close()
    await installation.migrate()
    async with installation.database.sessions.begin() as session:
        stuck = await stuck_webhooks(session, before=utc_now() - timedelta(minutes=5))
    if stuck:
        remedy = "see the log of `otvet serve` for the fault; Meta sends them again for 7 days"
        return Check("whatsapp", False, f"{'; '.join(numbers)}; {stuck} calls of Meta's not taken in whole", remedy)
    return Check("whatsapp", True, "; ".join(numbers))


async def _platforms(installation: Installation) -> Check:
    await installation.migrate()
    async with installation.database.sessions.reading() as session:
        found = await troubles(session)
    if not found:
        return Check("platforms", True, "no bot or number is known to be out of reach")
    detail = "; ".join(
        f"{each.channel} {each.account} since {each.since:%Y-%m-%d %H:%M} UTC ({each.why}), {each.waiting} wait"
        for each in found
    )
    remedy = "see the way to the platform, its status page, the proxy; nothing is lost, and sending goes on by itself"
    return Check("platforms", False, detail, remedy)


async def _attachments(installation: Installation) -> Check:
    bucket = installation.bucket
    if bucket is None:
        return Check("attachments", True, f"in {installation.attachments.folder}")
    try:
        await bucket.check()
    except StorageError as error:
        return Check("attachments", False, str(error), "check OTVET_ATTACHMENTS_BUCKET and OTVET_S3_*")
    return Check("attachments", True, f"in {installation.settings.attachments_bucket}")
