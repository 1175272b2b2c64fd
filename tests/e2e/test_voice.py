"""Voice messages, read by a service and by a command, and what happens when neither can."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from test_turns import World

from bot.channels.base import InboundAttachment
from bot.database import migrate
from bot.errors import SettingsError, TranscriptionError
from bot.transcriber import CommandTranscriber, HttpTranscriber, Transcriber

VOICE = b"OggS\0\2" + bytes(22) + b"\x01\x13OpusHead" + bytes(40)


class Service:
    """Speaks OpenAI's audio interface."""

    def __init__(self) -> None:
        self.base = ""
        self.heard: list[dict[str, object]] = []
        self.says: web.Response | None = None
        self.text = "where is my order"

    async def transcriptions(self, request: web.Request) -> web.Response:
        form = await request.post()
        file = form["file"]
        assert isinstance(file, web.FileField)
        self.heard.append(
            {
                "content": file.file.read(),
                "name": file.filename,
                "model": form["model"],
                "language": form.get("language"),
                "token": request.headers.get("Authorization"),
            }
        )
        return self.says or web.json_response({"text": f" {self.text}\n"})


@asynccontextmanager
async def service() -> AsyncIterator[Service]:
    made = Service()
    app = web.Application()
    app.router.add_post("/v1/audio/transcriptions", made.transcriptions)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    made.base = f"http://{host}:{port}"
    try:
        yield made
    finally:
        await runner.cleanup()


@pytest.fixture
async def heard() -> AsyncIterator[Service]:
    async with service() as made:
        yield made


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "voice.ogg"
    path.write_bytes(VOICE)
    return path


async def said(transcriber: Transcriber, path: Path, lang: str | None = None) -> str:
    return await transcriber.transcribe(path, file_name="voice.ogg", mime_type="audio/ogg", lang=lang)


class TestTheService:
    @pytest.mark.parametrize("address", ["", "/", "/v1", "/v1/audio/transcriptions"])
    async def test_it_gets_the_sound_and_gives_the_words(self, heard: Service, sound: Path, address: str) -> None:
        transcriber = HttpTranscriber(heard.base + address, token="T", model="small")
        assert await said(transcriber, sound, "ru") == "where is my order"
        assert heard.heard == [
            {"content": VOICE, "name": "voice.ogg", "model": "small", "language": "ru", "token": "Bearer T"}
        ]

    @pytest.mark.parametrize(
        ("status", "body"), [(500, "broken"), (401, "{}"), (200, "not json"), (200, "[]"), (200, "{}")]
    )
    async def test_what_is_no_answer_is_an_error(self, heard: Service, sound: Path, status: int, body: str) -> None:
        heard.says = web.Response(status=status, text=body)
        with pytest.raises(TranscriptionError):
            await said(HttpTranscriber(heard.base), sound)

    async def test_one_that_is_away_or_slow_is_an_error(self, sound: Path) -> None:
        with pytest.raises(TranscriptionError, match="reached"):
            await said(HttpTranscriber("http://127.0.0.1:9"), sound)

    def test_an_address_that_is_none_names_the_setting(self) -> None:
        with pytest.raises(SettingsError, match="OTVET_TRANSCRIBER_URL"):
            HttpTranscriber("whisper.local")


class TestTheCommand:
    def command(self, code: str, seconds: float = 10) -> CommandTranscriber:
        return CommandTranscriber(f"{sys.executable} -c '{code}'", seconds=seconds)

    async def test_it_is_given_the_file_and_writes_the_words(self, sound: Path) -> None:
        code = 'import sys; print(len(open(sys.argv[1], "rb").read()), "байт")'
        assert await said(self.command(code), sound) == f"{len(VOICE)} байт"

    @pytest.mark.parametrize("code", ["raise SystemExit(3)", "import time; time.sleep(60)"])
    async def test_one_that_fails_or_hangs_is_an_error_and_is_ended(self, sound: Path, code: str) -> None:
        with pytest.raises(TranscriptionError):
            await said(self.command(code, 1), sound)

    async def test_one_that_is_not_there_is_an_error(self, sound: Path) -> None:
        with pytest.raises(TranscriptionError):
            await said(CommandTranscriber("/no/such/command"), sound)


class Listening(World):
    """A world with a transcriber; the customer sends voice messages."""

    async def speak(self, key: str, content: bytes = VOICE, text: str = "") -> list[str]:
        self.channel.files[key] = content
        voice = InboundAttachment("voice", {"id": key}, mime_type="audio/ogg", size_bytes=len(content))
        return await self.hear(text, kind="attachment", attachments=(voice,), key=key)


@pytest.fixture
async def world(tmp_path: Path, heard: Service) -> AsyncIterator[Listening]:
    made = Listening(tmp_path)
    made.assistant._transcriber = HttpTranscriber(heard.base)
    await migrate(made.engine)
    yield made
    await made.engine.dispose()


async def test_what_is_said_is_answered_and_marked_and_the_sound_is_kept(world: Listening, heard: Service) -> None:
    assert any("My orders" in text for text in await world.speak("v1"))
    message = (await world.transcript())[0]
    assert (message.text, message.context) == ("where is my order", {"transcribed": True})
    (voice,) = message.attachments
    assert (voice.kind, voice.state) == ("voice", "stored")
    assert len(heard.heard) == 1


async def test_the_same_sound_is_read_once(world: Listening, heard: Service) -> None:
    await world.speak("v1")
    await world.speak("v2")
    assert len(heard.heard) == 1


async def test_what_cannot_be_read_is_acknowledged(world: Listening, heard: Service) -> None:
    heard.says = web.Response(status=503)
    (*_, reply) = await world.speak("v1")
    assert "голосовое сообщение получено" in reply
    message = (await world.transcript())[0]
    assert (message.text, message.context) == ("", None)


async def test_silence_is_acknowledged_too(world: Listening, heard: Service) -> None:
    heard.text = ""
    (*_, reply) = await world.speak("v1")
    assert "голосовое сообщение получено" in reply


async def test_at_a_handoff_the_words_and_the_sound_go_along(world: Listening, heard: Service) -> None:
    heard.text = "a person please"
    await world.speak("v1")
    async with world.sessions.begin() as session:
        packet = await world.desk.packet(session, 1)
    first = packet.transcript[0]
    assert (first.text, first.context, len(first.attachments)) == ("a person please", {"transcribed": True}, 1)


async def test_a_text_beside_it_stays_in_front(world: Listening) -> None:
    await world.speak("v1", text="about the blue one:")
    assert (await world.transcript())[0].text == "about the blue one:\nwhere is my order"


async def test_without_a_transcriber_nothing_changes(world: Listening) -> None:
    world.assistant._transcriber = None
    (*_, reply) = await world.speak("v1")
    assert "голосовое сообщение получено" in reply
