"""`otvet serve`: web, channels and workers in one process."""

from __future__ import annotations

import asyncio
import contextlib

import structlog
import uvicorn

from bot.channels.base import Channel
from bot.channels.site import SiteChannel
from bot.web.app import create_app
from bot.wiring import Installation, utc_now

log = structlog.get_logger()


async def serve(installation: Installation, host: str, port: int) -> None:
    """Serve until a signal comes; the turn in hand is finished, the rest waits in the ledger for the next start."""
    settings = installation.settings
    await installation.migrate()
    site = SiteChannel(installation.attachments, installation.shared)
    channels: list[Channel] = [site]
    if token := settings.telegram_token.get_secret_value():
        # aiogram takes seconds to import, and most starts of a trial have no token.
        from bot.channels.telegram import TelegramChannel

        channels.append(TelegramChannel(token, api_base=settings.telegram_api, proxy=settings.telegram_proxy))
    if installation.whatsapp is not None:
        channels.append(installation.whatsapp)
    assistant = installation.assistant(channels)
    await asyncio.to_thread(installation.understander)
    app = create_app(
        sessions=installation.database.sessions,
        receive=assistant.receive,
        clock=utc_now,
        site=site,
        shop={"ru": settings.shop_ru, "en": settings.shop_en},
        allowed_origins=tuple(origin.strip() for origin in settings.site_origins.split(",") if origin.strip()),
        messages_a_minute=settings.site_messages_a_minute,
        long_text_chars=settings.max_text_chars,
        webhooks=installation.webhooks(assistant).router,
    )
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=3,  # live connections never end by themselves
    )
    server = _AnnouncingServer(config, installation)
    work = [
        asyncio.create_task(assistant.run(), name="assistant"),
        asyncio.create_task(installation.follow()),
        asyncio.create_task(installation.shared.run()),
    ]
    try:
        serving = asyncio.create_task(server.serve())
        done, _ = await asyncio.wait([serving, *work], return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await serving
        for task in done:
            task.result()
    finally:
        for task in work:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*work, return_exceptions=True)
        await installation.close()


class _AnnouncingServer(uvicorn.Server):
    """Says where it listens, once it does."""

    def __init__(self, config: uvicorn.Config, installation: Installation) -> None:
        super().__init__(config)
        self._progress = installation.progress
        self._telegram = bool(installation.settings.telegram_token.get_secret_value())

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            telegram = "Telegram: on" if self._telegram else "Telegram: off, set OTVET_TELEGRAM_TOKEN to turn it on"
            self._progress(f"Otvet is ready: http://{host}:{port} (site chat). {telegram}. Ctrl+C stops it.")
