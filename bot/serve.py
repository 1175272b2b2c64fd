"""`otvet serve`: web, channels and workers, in one process or in several."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
from collections.abc import Coroutine
from enum import StrEnum
from typing import Any

import structlog
import uvicorn

from bot.assistant import Assistant
from bot.channels.base import Channel
from bot.channels.site import SiteChannel
from bot.model_wiring import utc_now
from bot.monitor import Monitor
from bot.web.app import create_app
from bot.web.desk_base import DeskWeb
from bot.wiring import Installation
from nlu.dates import prepare as prepare_days

log = structlog.get_logger()


class Role(StrEnum):
    ALL = "all"
    WEB = "web"
    """Pages, the chat's interface and webhooks: stores what comes in, and answers nothing by itself."""
    WORKER = "worker"
    """Turns, replies, timers, and the channels that are asked for messages."""


async def serve(installation: Installation, host: str, port: int, role: Role = Role.ALL) -> None:
    """Serve until a signal comes. What is in hand then is finished; the rest waits in the ledger for other workers,
    or for the next start."""
    installation.alone = role is Role.ALL
    await installation.migrate()
    site = SiteChannel(installation.attachments, installation.shared)
    channels = _channels(installation, site)
    assistant = installation.assistant(channels)
    monitor = installation.monitor(channels, answers=role is not Role.WEB)
    parts: dict[str, Coroutine[Any, Any, None]] = {"live updates": installation.shared.run()}
    parts |= {"flows": installation.follow_flows(), "models": installation.follow()}
    if role is not Role.WEB:
        await asyncio.to_thread(installation.understander)
        await asyncio.to_thread(prepare_days)
        parts["assistant"] = assistant.run()
        parts |= {"articles": installation.follow_articles(), "timers": installation.timers.run()}
        if (shop := installation.demo_shop) is not None:
            parts["demo shop"] = shop.run()
        parts |= {"desk": installation.run_desk(), "trainings": installation.run_trainings()}
        parts["gaps"] = installation.run_gaps()
    if installation.settings.metrics_port:
        parts["metrics"] = monitor.serve(installation.settings.metrics_host, installation.settings.metrics_port)
    server: uvicorn.Server | None = None
    if role is not Role.WORKER:
        _allow_many_connections()
        desk = installation.desk_web(site)
        parts["desk pages"] = desk.feed.run()
        web = _web(installation, site, assistant, monitor, desk, host, port)
        first = await installation.accounts.first_administrator()
        server = _AnnouncingServer(web, installation, role, first)
        parts["web"] = server.serve()
    else:
        parts["stop"] = _until_stopped()
        installation.progress("Otvet works: turns, replies, channels. Ctrl+C stops it.")
    tasks = {name: asyncio.create_task(work, name=name) for name, work in parts.items()}
    try:
        done, _ = await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
        if server is not None:
            server.should_exit = True
            await asyncio.wait([tasks["web"]])
        for task in done:
            task.result()
    finally:
        for task in tasks.values():
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        await installation.close()


def _channels(installation: Installation, site: SiteChannel) -> list[Channel]:
    settings = installation.settings
    channels: list[Channel] = [site]
    if token := settings.telegram_token.get_secret_value():
        # aiogram takes seconds to import, and most starts of a trial have no token.
        from bot.channels.telegram import TelegramChannel

        channels.append(
            TelegramChannel(
                token,
                api_base=settings.telegram_api,
                proxy=settings.telegram_proxy,
                webhook_url=settings.telegram_webhook_url,
                webhook_secret=settings.telegram_secret.get_secret_value(),
                uploads=installation.uploads,
                in_groups=installation.in_groups,
                elsewhere=installation.forum_intake.take if settings.forum_groups else None,
            )
        )
    if installation.whatsapp is not None:
        channels.append(installation.whatsapp)
    return channels


def _allow_many_connections() -> None:
    """Each open chat is a file to the system, which begins with as few as 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _web(
    installation: Installation,
    site: SiteChannel,
    assistant: Assistant,
    monitor: Monitor,
    desk: DeskWeb,
    host: str,
    port: int,
) -> uvicorn.Config:
    settings = installation.settings
    app = create_app(
        sessions=installation.database.sessions,
        receive=assistant.receive,
        clock=utc_now,
        site=site,
        shop={"ru": settings.shop_ru, "en": settings.shop_en},
        allowed_origins=tuple(origin.strip() for origin in settings.site_origins.split(",") if origin.strip()),
        messages_a_minute=settings.site_messages_a_minute,
        requests_a_minute=settings.requests_a_minute,
        events_a_minute=settings.hook_in_a_minute,
        max_streams=settings.site_streams,
        long_text_chars=settings.max_text_chars,
        webhooks=installation.webhooks(assistant).router,
        problems=monitor.problems,
        desk=desk,
        studio=installation.studio_web(desk),
        email=installation.email_proof,
    )
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_graceful_shutdown=3,  # live connections never end by themselves
    )


async def _until_stopped() -> None:
    """Return at the first signal to stop; a second one ends the process at once."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def stopped(number: signal.Signals) -> None:
        loop.remove_signal_handler(number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped, number)
    await stop.wait()


class _AnnouncingServer(uvicorn.Server):
    """Says where it listens, once it does."""

    def __init__(
        self, config: uvicorn.Config, installation: Installation, role: Role, first: str | None = None
    ) -> None:
        """first: by which the first administrator of the desk signs up."""
        super().__init__(config)
        self._first = first
        self._progress = installation.progress
        self._shop = installation.demo_shop if role is Role.ALL else None
        self._telegram = bool(installation.settings.telegram_token.get_secret_value())
        self._role = role

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            telegram = "Telegram: on" if self._telegram else "Telegram: off, set OTVET_TELEGRAM_TOKEN to turn it on"
            if self._role is Role.WEB:
                telegram = "Answers come from `otvet serve --role worker`"
            here = f"http://{host}:{port}"
            self._progress(f"Otvet is ready: {here} (site chat), {here}/desk (agents). {telegram}. Ctrl+C stops it.")
            if self._shop is not None:
                self._progress(f"The demo shop sends its codes to {self._shop.url}/outbox")
            if self._first:
                self._progress(f"The desk has no administrator yet: open {here}/desk/welcome/{self._first} (once)")
