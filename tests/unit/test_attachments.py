"""Files: what they are is read from their bytes, and how they go out from what a platform takes."""

from __future__ import annotations

import io
import os
import time
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import openpyxl
import pytest

from bot.attachments import AttachmentStore, safe_name
from bot.channels.base import Capabilities, Medium, OutboundAttachment, OutboundMessage, fit
from bot.channels.telegram_limits import CAPABILITIES as TELEGRAM
from bot.channels.whatsapp import WhatsAppChannel
from bot.errors import FileGoneError, FileRefusedError, TooLargeError

PNG = b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\rIHDR" + b"\x00" * 60


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def spreadsheet() -> bytes:
    made = io.BytesIO()
    openpyxl.Workbook().save(made)
    return made.getvalue()


def archive() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr("a.txt", "a")
    return made.getvalue()


@pytest.mark.parametrize(
    ("content", "name", "mime_type", "kind"),
    [
        (PNG, "чек", "image/png", "photo"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(50), "x.exe", "image/jpeg", "photo"),
        (b"GIF89a" + bytes(50), "", "image/gif", "photo"),
        (b"%PDF-1.7\n1 0 obj", "x.png", "application/pdf", "document"),
        (b"OggS\0\2" + bytes(22) + b"\x01\x13OpusHead" + bytes(40), "", "audio/ogg", "audio"),
        (b"ID3\x04\0\0" + bytes(50), "", "audio/mpeg", "audio"),
        (b"\0\0\0\x20ftypM4A \0\0\2\0" + bytes(50), "", "audio/mp4", "audio"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(50), "", "video/mp4", "video"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50), "", "image/heif", "document"),
        (b"<html><script>alert(1)</script>", "photo.jpg", "text/html", "document"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "photo.png", "image/svg+xml", "document"),
        ("Привет, это список".encode() * 300, "список.csv", "text/plain", "document"),
        (b"a\x00b", "x.txt", "application/octet-stream", "document"),
        (b"", "x.png", "application/octet-stream", "document"),
    ],
)
async def test_the_type_is_read_from_the_bytes_and_no_name_is_believed(
    content: bytes, name: str, mime_type: str, kind: str, tmp_path: Path
) -> None:
    stored = await AttachmentStore(tmp_path, 100_000).store(chunks(content), name)
    assert (stored.mime_type, stored.kind) == (mime_type, kind)


async def test_a_name_chooses_only_among_the_types_that_the_bytes_allow(tmp_path: Path) -> None:
    store = AttachmentStore(tmp_path, 100_000)
    assert (await store.store(chunks(spreadsheet()), "Счёт.XLSX")).mime_type.endswith("spreadsheetml.sheet")
    assert (await store.store(chunks(archive()), "фото.zip")).mime_type == "application/zip"
    assert "png" not in (await store.store(chunks(archive()), "фото.png")).mime_type


async def test_what_a_process_that_was_killed_left_half_written_is_removed_after_a_day(tmp_path: Path) -> None:
    old, new = tmp_path / "incoming-old", tmp_path / "incoming-new"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (0, time.time() - 25 * 3600))
    kept = await AttachmentStore(tmp_path, 100).store(chunks(b"abc"), "a")
    assert sorted(path.name for path in files(tmp_path)) == sorted([kept.sha256, "incoming-new"])


async def test_a_file_is_kept_once_and_read_again_and_one_that_is_gone_is_told(tmp_path: Path) -> None:
    store = AttachmentStore(tmp_path, 100)
    first, second = await store.store(chunks(b"ab", b"c"), "a"), await store.store(chunks(b"abc"), "b")
    assert first.sha256 == second.sha256
    assert [part async for part in store.read(first.sha256)] == [b"abc"]
    assert files(tmp_path) == [await store.local(first.sha256)]
    with pytest.raises(FileGoneError):
        await store.local("0" * 64)
    with pytest.raises(TooLargeError):
        await store.store(chunks(b"x" * 60, b"x" * 60))
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("photo.png", "photo.png"),
        ("C:\\fakepath\\чек.pdf", "чек.pdf"),
        ("../../etc/passwd", "passwd"),
        ("a\r\nb\x00.txt", "ab.txt"),
        ("...", "file"),
        ("", "file"),
        ("x" * 300 + ".jpeg", "x" * 115 + ".jpeg"),
    ],
)
def test_file_names_are_made_harmless(given: str, kept: str) -> None:
    assert safe_name(given) == kept


def file(kind: str = "photo", mime_type: str = "image/png", size_bytes: int = 10) -> OutboundAttachment:
    return OutboundAttachment(kind, Path("x"), "x", mime_type, size_bytes)


MB = 1024 * 1024
WHATSAPP = WhatsAppChannel.capabilities


@pytest.mark.parametrize(
    ("capabilities", "sent", "carrier"),
    [
        (TELEGRAM, file(), "photo"),
        (TELEGRAM, file(size_bytes=11 * MB), "document"),
        (TELEGRAM, file("photo", "image/gif"), "document"),
        (TELEGRAM, file("audio", "audio/ogg"), "document"),
        (TELEGRAM, file("voice", "audio/ogg"), "voice"),
        (TELEGRAM, file("video", "video/webm"), "document"),
        (WHATSAPP, file(size_bytes=6 * MB), "document"),
        (WHATSAPP, file("photo", "image/webp"), "document"),
        (WHATSAPP, file("audio", "audio/ogg"), "audio"),
    ],
)
def test_a_file_goes_out_as_what_the_platform_shows_or_else_as_a_document(
    capabilities: Capabilities, sent: OutboundAttachment, carrier: str
) -> None:
    assert capabilities.carrier(sent) == carrier


@pytest.mark.parametrize(("capabilities", "limit"), [(TELEGRAM, "50 MB"), (WHATSAPP, "100 MB")])
def test_the_limit_is_told_before_anything_is_sent(capabilities: Capabilities, limit: str) -> None:
    with pytest.raises(FileRefusedError, match=limit):
        capabilities.carrier(file(size_bytes=101 * MB))
    with pytest.raises(FileRefusedError, match="no files"):
        Capabilities(max_text_chars=1, max_buttons=0).carrier(file())


def test_the_last_file_carries_the_text_unless_it_is_too_long_or_the_kind_has_none() -> None:
    def shape(text: str, *files: OutboundAttachment) -> list[tuple[int, str]]:
        parts = fit(OutboundMessage(text, attachments=files, quote="7"), WHATSAPP)
        assert [part.quote for part in parts] == ["7"] + [None] * (len(parts) - 1)
        return [(len(part.attachments), part.text[:3]) for part in parts]

    assert shape("Вот", file()) == [(1, "Вот")]
    assert shape("Вот", file(), file()) == [(1, ""), (1, "Вот")]
    assert shape("", file()) == [(1, "")]
    assert shape("Вот", file("voice", "audio/ogg")) == [(1, ""), (0, "Вот")]
    assert shape("слово " * 200, file()) == [(1, ""), (0, "сло")]
    assert shape("😀" * 500, file()) == [(1, ""), (0, "😀😀😀")], "an emoji counts twice"
    assert shape("Вот") == [(0, "Вот")]


def test_captions_are_never_longer_than_allowed() -> None:
    narrow = Capabilities(max_text_chars=100, max_buttons=0, media={"document": Medium(100)}, max_caption_chars=3)
    assert [part.text for part in fit(OutboundMessage("абвг", attachments=(file(),)), narrow)] == ["", "абвг"]


def test_photos_and_videos_that_follow_one_another_go_out_as_one_where_the_platform_has_albums() -> None:
    def shape(text: str, *files: OutboundAttachment) -> list[tuple[int, str]]:
        return [(len(part.attachments), part.text) for part in fit(OutboundMessage(text, attachments=files), TELEGRAM)]

    seen, film = file(), file("video", "video/mp4")
    assert shape("Вот", seen, film, seen) == [(3, "Вот")]
    assert shape("", seen, file("document", "text/plain"), seen, seen) == [(1, ""), (1, ""), (2, "")]
    assert shape("Вот", *[seen] * 12) == [(10, ""), (2, "Вот")]
    assert shape("", seen, file(size_bytes=11 * MB)) == [(1, ""), (1, "")], "what is too large for a photo is a file"
    assert shape("Вот", file("voice", "audio/ogg"), file("voice", "audio/ogg")) == [(1, ""), (1, "Вот")]
