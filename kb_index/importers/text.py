"""The text of a file in whatever encoding it was saved."""

from __future__ import annotations

import codecs

from charset_normalizer import from_bytes

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_LIKELY = ["utf_8", "utf_16", "utf_16_le", "utf_16_be", "cp1251", "koi8_r", "cp866", "cp1252"]
_SAMPLE = 200_000


def decode_text(data: bytes, stated: str | None = None) -> tuple[str, str] | None:
    """The text with its line ends made plain, and its encoding; None for what is no text.

    stated: what the file itself says, believed after a byte order mark and before a guess.
    """
    marked = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    for encoding in (marked, "utf-8", stated):
        text = _decoded(data, encoding)
        if text is not None and encoding:
            return text, encoding.removesuffix("-sig")
    guess = from_bytes(data[:_SAMPLE], cp_isolation=_LIKELY).best()
    text = _decoded(data, guess.encoding) if guess else None
    return (text, guess.encoding.replace("_", "-")) if guess and text is not None else None


def _decoded(data: bytes, encoding: str | None) -> str | None:
    try:
        text = data.decode(encoding or "ascii")
    except (UnicodeDecodeError, LookupError):
        return None
    # NUL is in no text, but half of the bytes of a UTF-16 that was taken for something else.
    return None if "\x00" in text else text.replace("\r\n", "\n").replace("\r", "\n")
