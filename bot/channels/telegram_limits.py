"""What Telegram can show and take. By itself, because aiogram takes seconds to import.

The limits are those of the documentation of the Bot API, of uploads to api.telegram.org.
"""

from __future__ import annotations

from bot.channels.base import Capabilities, Medium, Pace

_MB = 1024 * 1024
MAX_ALBUM = 10
CAPABILITIES = Capabilities(
    max_text_chars=4000,
    max_buttons=8,
    max_scale=16,
    media={
        "photo": Medium(10 * _MB, frozenset({"image/jpeg", "image/png", "image/webp"})),
        "animation": Medium(50 * _MB, frozenset({"image/gif", "video/mp4"})),
        "video": Medium(50 * _MB, frozenset({"video/mp4"})),
        "audio": Medium(50 * _MB, frozenset({"audio/mpeg", "audio/mp4"})),
        "voice": Medium(50 * _MB, frozenset({"audio/ogg", "audio/mpeg", "audio/mp4"})),
        "document": Medium(50 * _MB),
    },
    max_caption_chars=960,  # of 1024: the rest is for an agent's name
    quotes=True,
    edits=True,
    reactions=True,
    typing=True,
    # 30 a second in all, about one a second to a chat with short bursts, 20 a minute to a group: no window of that
    # length gets more.
    max_album=MAX_ALBUM,
    account_pace=Pace(1 / 26, burst=3),
    chat_pace=Pace(1.0, burst=3),
    group_pace=Pace(3.5, burst=3),
)
