"""Voice messages as text: by a service that speaks OpenAI's audio interface, or by a command of the operator's own."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import httpx

from bot.errors import SettingsError, TranscriptionError

MAX_CHARS = 20_000


class Transcriber(Protocol):
    async def transcribe(self, path: Path, *, file_name: str, mime_type: str, lang: str | None) -> str:
        """What is said in a sound file; empty where nothing is. lang: the customer's, if it is known.

        Raises TranscriptionError.
        """


class HttpTranscriber:
    """POST to `/v1/audio/transcriptions`, which faster-whisper-server, LocalAI, vLLM and hosted services have."""

    def __init__(self, url: str, *, token: str = "", model: str = "whisper-1", seconds: float = 30) -> None:
        """url: the service's base address, or the whole one."""
        if not url.startswith(("http://", "https://")):
            raise SettingsError("OTVET_TRANSCRIBER_URL: expected an address that begins with http:// or https://")
        path = "/v1/audio/transcriptions"
        base = url.rstrip("/")
        self._url = base if base.endswith("/transcriptions") else base.removesuffix("/v1") + path
        self._model, self._seconds = model, seconds
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def transcribe(self, path: Path, *, file_name: str, mime_type: str, lang: str | None) -> str:
        fields = {"model": self._model, "response_format": "json", **({"language": lang} if lang else {})}
        try:
            content = await asyncio.to_thread(path.read_bytes)
            async with httpx.AsyncClient(timeout=self._seconds) as http:
                answer = await http.post(
                    self._url, headers=self._headers, data=fields, files={"file": (file_name, content, mime_type)}
                )
        except (httpx.HTTPError, OSError) as error:
            raise TranscriptionError(f"the transcriber can't be reached: {type(error).__name__}") from error
        if not answer.is_success:
            raise TranscriptionError(f"the transcriber answered {answer.status_code}")
        try:
            text = answer.json()["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise TranscriptionError("the transcriber answered without a text") from error
        return str(text).strip()[:MAX_CHARS]


class CommandTranscriber:
    """A command that is given the file's path as its last argument and writes the text."""

    def __init__(self, command: str, *, seconds: float = 30) -> None:
        self._command: Sequence[str] = shlex.split(command)
        if not self._command:
            raise SettingsError("OTVET_TRANSCRIBER_COMMAND: expected a command")
        self._seconds = seconds

    async def transcribe(self, path: Path, *, file_name: str, mime_type: str, lang: str | None) -> str:
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                str(path),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError as error:
            raise TranscriptionError(f"the transcriber's command can't be run: {error}") from error
        try:
            async with asyncio.timeout(self._seconds):
                said, _ = await process.communicate()
        except TimeoutError as error:
            raise TranscriptionError("the transcriber took too long") from error
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode:
            raise TranscriptionError(f"the transcriber's command ended with {process.returncode}")
        return said.decode(errors="replace").strip()[:MAX_CHARS]
