"""What an editor of intents needs besides the database: checks that keep up with what is changed, files in and out."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from nlu.errors import TrainingDataError
from nlu.library import training_data
from nlu.library_files import parse_files
from nlu.records import IntentRow
from nlu.training_checks import Finding, check_training_data
from nlu.training_data import TrainingData, merge

MOST_FILES = 500
MOST_BYTES = 40 * 2**20
_KINDS = (".yml", ".yaml", ".jsonl")


class IntentChecks:
    """What is doubtful in the training data: worked out in a thread when something has changed, for everybody."""

    def __init__(self) -> None:
        self._of: object = None
        self._findings: Sequence[Finding] = ()
        self._task: asyncio.Task[None] | None = None

    async def findings(self, session: AsyncSession) -> tuple[Sequence[Finding], bool]:
        """And whether they are of the present data; if they are not, that is being looked into."""
        state = tuple((await session.execute(select(func.count(), func.sum(IntentRow.revision)))).one())
        if state != self._of and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._look(await training_data(session), state))
        return self._findings, state == self._of

    async def _look(self, data: TrainingData, state: object) -> None:
        self._findings, self._of = await asyncio.to_thread(check_training_data, data), state


def read_upload(path: Path) -> TrainingData:
    """The training data of a file, or of all in a zip; what is none there is passed over. Blocks.

    Raises TrainingDataError.
    """
    data = path.read_bytes()
    if path.suffix.lower() != ".zip":
        if path.suffix.lower() not in _KINDS:
            raise TrainingDataError(Path(path.name), 0, "this is no training data", "Choose .yml, .jsonl or a zip.")
        return _checked(merge(parse_files({path.name: _text(data, path.name)}).values()), path.name)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [each for each in archive.infolist() if not each.is_dir() and _is_ours(each.filename)]
            if len(members) > MOST_FILES or sum(each.file_size for each in members) > MOST_BYTES:
                raise TrainingDataError(Path(path.name), 0, "too much is in it", "Leave the training data alone in it.")
            texts = {each.filename: _text(archive.read(each), each.filename) for each in members}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError) as error:
        raise TrainingDataError(Path(path.name), 0, "this zip can't be read", "Pack it again.") from error
    parts = parse_files(texts)
    return _checked(merge(parts[name] for name in sorted(parts)), path.name)


def _is_ours(name: str) -> bool:
    inside = PurePosixPath(name)
    hidden = any(part.startswith((".", "__")) for part in inside.parts)
    aside = {"tests", "eval", "replies", "flows", "topics", "kb"} & set(inside.parts[:-1])
    return inside.suffix.lower() in _KINDS and not hidden and not aside


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise TrainingDataError(Path(name), line, "not UTF-8", "Save the file as UTF-8.") from error


def _checked(data: TrainingData, name: str) -> TrainingData:
    if not data.examples:
        raise TrainingDataError(Path(name), 0, "no intent examples here", "Give a file with `nlu:` and `- intent:`.")
    return data
