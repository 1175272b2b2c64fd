"""How an answer will look in each channel, before anybody gets it: by the channels' own fitting and formatting."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from bot.channels import whatsapp_text
from bot.channels.base import Option, OutboundMessage, fit
from bot.channels.site import SiteChannel
from bot.channels.telegram_limits import CAPABILITIES as TELEGRAM
from bot.channels.whatsapp import WhatsAppChannel
from bot.web.markup import render as render_markdown

CHANNELS = ("site", "telegram", "whatsapp")


@dataclass(frozen=True)
class Bubble:
    """One message. html: safe; `lines`: whether its line ends are to be shown as they are."""

    html: Markup
    lines: bool
    buttons: tuple[str, ...] = ()


def preview(text: str, labels: Sequence[str]) -> Mapping[str, Sequence[Bubble]]:
    """Channel → the messages that carry this light Markdown with these choices below it."""
    message = OutboundMessage(text, tuple(Option(str(number), label) for number, label in enumerate(labels)))
    return {
        "site": [
            Bubble(Markup(render_markdown(part.text)), False, _labels(part))  # noqa: S704 - rendered safely
            for part in fit(message, SiteChannel.capabilities)
        ],
        "telegram": [bubble for part in fit(message, TELEGRAM) for bubble in _telegram(part)],
        "whatsapp": [bubble for part in fit(message, WhatsAppChannel.capabilities) for bubble in _whatsapp(part)],
    }


def _labels(message: OutboundMessage) -> tuple[str, ...]:
    return tuple(option.label for option in message.options)


def _telegram(message: OutboundMessage) -> list[Bubble]:
    # aiogram takes seconds to import, and the studio may never be opened.
    from bot.channels.telegram_text import compose

    texts = [Markup(text.as_html()) for text in compose(message)]  # noqa: S704 - aiogram escapes
    return [Bubble(text, True, _labels(message) if text is texts[-1] else ()) for text in texts]


_CODE = re.compile(r"```(.+?)```|`([^`\n]+)`", re.DOTALL)
_BOLD = re.compile(r"(?<![\w*])\*(\S(?:[^*\n]*\S)?)\*(?![\w*])")


def _whatsapp(message: OutboundMessage) -> list[Bubble]:
    texts = whatsapp_text.compose(message)
    return [
        Bubble(_as_whatsapp_shows(text), True, _labels(message) if number == len(texts) else ())
        for number, text in enumerate(texts, 1)
    ]


def _as_whatsapp_shows(text: str) -> Markup:
    html = str(escape(text))
    html = _CODE.sub(lambda found: f"<code>{found[1] or found[2]}</code>", html)
    return Markup(_BOLD.sub(r"<b>\1</b>", html))  # noqa: S704 - escaped above
