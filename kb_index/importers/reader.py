"""Everything under a path, read by a child process that may fail without harm."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath

from kb_index.errors import ImportSourceError
from kb_index.importers.base import LARGEST_FILE_BYTES, RESULT, Draft, Problem

SECONDS_PER_FILE = 120.0
MEMORY_BYTES = 1_000_000_000
"""Of the child process, its libraries included."""
MOST_FILES = 100_000
LARGEST_ARCHIVE_BYTES = 2_000_000_000
LARGEST_RESULT_BYTES = 200_000_000
"""Of what is read of one article, pictures included."""
MOST_PICTURE_BYTES = 500_000_000
"""Of all articles of one import, which are held in memory until they are written."""

_ASSETS = {
    *(".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".ico", ".bmp", ".avif", ".css", ".js", ".mjs", ".map"),
    *(".woff", ".woff2", ".ttf", ".eot", ".otf", ".mp4", ".webm", ".mp3", ".wav", ".xml", ".rss", ".yml", ".yaml"),
}
"""What lies beside articles and is none: taken where an article links to it, and not worth a line in the report."""

Progress = Callable[[int, int, str], None]
"""Told how many of how many files are read, and the next one's name."""


@dataclass(frozen=True)
class Place:
    """A file to read: on the disk, or inside of the archive at `path`. `name` is empty for a single file.

    `root` is what the user named; `path` and `folder`, within which links are followed, are absolute.
    """

    root: str
    name: str
    path: str
    folder: str
    member: str | None = None

    @property
    def shown(self) -> str:
        return f"{self.root}/{self.name}" if self.name else self.root


def read_path(
    path: Path,
    *,
    progress: Progress | None = None,
    seconds_per_file: float = SECONDS_PER_FILE,
    memory_bytes: int = MEMORY_BYTES,
) -> Iterator[Draft | Problem]:
    """Every article in a file, a folder or a zip. Blocks.

    Whatever is wrong with one file is a Problem, and the others are read. Raises ImportSourceError when there is
    nothing at the path.
    """
    if not path.exists():
        raise ImportSourceError(path, "there is no such file or folder", "Check the spelling")
    found = list(_places(path))
    total = sum(isinstance(each, Place) for each in found)
    done = pictures = 0
    with _Reader(seconds_per_file, memory_bytes) as reader:
        for each in found:
            if isinstance(each, Problem):
                yield each
                continue
            if progress:
                progress(done, total, each.shown)
            for result in reader.read(each):
                if isinstance(result, Draft):
                    pictures += sum(len(file.data) for file in result.files)
                    if result.files and pictures > MOST_PICTURE_BYTES:
                        note = f"its pictures were left out: more than {MOST_PICTURE_BYTES:,} bytes in one import"
                        yield replace(result, files=(), notes=(*result.notes, note))
                        continue
                yield result
            done += 1
    if progress:
        progress(total, total, "")


def _places(path: Path) -> Iterator[Place | Problem]:
    if path.is_file():
        yield from _file(path.resolve(), str(path), "")
        return
    count = 0
    root = path.resolve()
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        # What a browser saves beside a page: taken where the page links to it.
        saved = {f"{Path(name).stem}_files" for name in names if name.endswith((".html", ".htm"))}
        folders[:] = [name for name in folders if name not in saved]
        for name in list(folders):
            if (Path(folder) / name).is_symlink():
                folders.remove(name)
                yield _link(path / (Path(folder) / name).relative_to(root))
        for name in sorted(names):
            if name.startswith(".") or name in ("Thumbs.db", "desktop.ini"):
                continue
            file = Path(folder) / name
            inside = file.relative_to(root)
            if file.is_symlink():
                yield _link(path / inside)
                continue
            count += 1
            if count > MOST_FILES:
                yield Problem(str(path), f"has more than {MOST_FILES:,} files: the rest was left out", "Split it")
                return
            yield from _file(file, str(path), inside.as_posix())


def _link(path: Path) -> Problem:
    return Problem(str(path), "this is a symbolic link: it is not followed", "Copy what it leads to in its place")


def _file(file: Path, root: str, name: str) -> Iterator[Place | Problem]:
    shown = f"{root}/{name}" if name else root
    suffix = file.suffix.lower()
    try:
        size = file.stat().st_size
        if not file.is_file():
            yield Problem(shown, "this is no ordinary file", "Remove it")
        elif suffix == ".zip":
            yield from _members(file, shown)
        elif suffix in _ASSETS and name:
            return
        elif size > LARGEST_FILE_BYTES:
            yield Problem(
                shown, f"has {size:,} bytes, more than {LARGEST_FILE_BYTES:,}", "Split it, or shrink pictures"
            )
        else:
            folder = str(file)[: -len(name) - 1] if name else str(file.parent)
            yield Place(root, name, str(file), folder)
    except OSError as error:
        yield Problem(shown, f"can't be read ({error.strerror})", "Check the file and its rights")


def _members(archive: Path, shown: str) -> Iterator[Place | Problem]:
    """What is in a zip. Names that would lead out of it are reported, archives in archives left alone."""
    if archive.stat().st_size > LARGEST_ARCHIVE_BYTES:
        yield Problem(shown, f"is larger than {LARGEST_ARCHIVE_BYTES:,} bytes", "Split it")
        return
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        yield Problem(shown, f"can't be read as a zip ({error})", "Pack it anew")
        return
    if sum(member.file_size for member in members) > LARGEST_ARCHIVE_BYTES or len(members) > MOST_FILES:
        yield Problem(
            shown, f"unpacks to more than {LARGEST_ARCHIVE_BYTES:,} bytes or {MOST_FILES:,} files", "Split it"
        )
        return
    for member in sorted(members, key=lambda each: each.filename):
        path = PurePosixPath(member.filename.replace("\\", "/"))
        inside = f"{shown}/{member.filename}"
        if member.is_dir() or path.suffix.lower() in _ASSETS or "__MACOSX" in path.parts or path.name.startswith("."):
            continue
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            yield Problem(inside, "the name leads out of the archive", "Pack it anew, with plain names")
        elif member.flag_bits & 1:
            yield Problem(inside, "it needs a password", "Pack it without one")
        elif (member.external_attr >> 16) & 0o170000 == 0o120000:
            yield Problem(inside, "this is a symbolic link: it is not followed", "Pack what it leads to")
        elif path.suffix.lower() == ".zip":
            yield Problem(inside, "an archive in an archive is not read", "Unpack it first")
        elif member.file_size > LARGEST_FILE_BYTES:
            yield _too_large(inside, member.file_size)
        else:
            yield Place(shown, path.as_posix(), str(archive), str(archive.parent), member.filename)


def _too_large(shown: str, size: int) -> Problem:
    return Problem(shown, f"has {size:,} bytes, more than {LARGEST_FILE_BYTES:,}", "Split it, or shrink its pictures")


class _Reader:
    """One child after the other: a new one where the last one died or was stopped."""

    def __init__(self, seconds_per_file: float, memory_bytes: int) -> None:
        self._seconds = seconds_per_file
        self._memory = memory_bytes
        self._child: subprocess.Popen[bytes] | None = None
        self._pending = b""

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop()

    def read(self, place: Place) -> Iterator[Draft | Problem]:
        child = self._start()
        assert child.stdin is not None  # noqa: S101 - made with a pipe just above
        asked = asdict(place)
        until = time.monotonic() + self._seconds
        try:
            child.stdin.write(json.dumps(asked).encode() + b"\n")
            child.stdin.flush()
            while line := self._line(child, until):
                yield RESULT.validate_json(line)
        except TimeoutError:
            self._stop()
            yield Problem(place.shown, f"takes longer than {self._seconds:.0f} s to read", "Split it, or save it anew")
        except OSError:
            self._stop()
            yield Problem(place.shown, "reading it failed: it needs too much memory, or is damaged", "Save it anew")

    def _line(self, child: subprocess.Popen[bytes], until: float) -> bytes:
        """The next line without its end. Raises TimeoutError, and EOFError when the child has died."""
        assert child.stdout is not None  # noqa: S101 - made with a pipe
        parts = [self._pending]
        size = len(self._pending)
        while b"\n" not in parts[-1]:
            ready, _, _ = select.select([child.stdout], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise TimeoutError
            part = os.read(child.stdout.fileno(), 1 << 20)
            size += len(part)
            if not part or size > LARGEST_RESULT_BYTES:
                raise BrokenPipeError
            parts.append(part)
        line, _, self._pending = b"".join(parts).partition(b"\n")
        return line

    def _start(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self._pending = b""
            self._child = subprocess.Popen(  # noqa: S603 - this program's own module
                [sys.executable, "-m", "kb_index.importers.worker", str(self._memory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # Not this process's environment, which holds tokens.
                env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONUTF8": "1"},
                cwd="/",
            )
        return self._child

    def _stop(self) -> None:
        if self._child is None:
            return
        self._child.kill()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe:
                try:
                    pipe.close()
                except OSError:
                    continue  # what was not yet written to it is of no use any more
        self._child.wait()
        self._child = None
