"""Versions of the trained model in a folder: written beside the live one, sealed, promoted, rolled back.

A version is a folder `<id>/` with its files and `manifest.json`; `live.json` names the live one. A draft has a name
that begins with a dot and becomes visible by one rename when it is complete, so a torn version is never seen. Every
process that reads `live_id()` now and then follows a promotion without a restart.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from filelock import FileLock

from nlu.errors import LiveChanged, ModelDamaged, ModelNotFound

_MANIFEST: Final = "manifest.json"
_POINTER: Final = "live.json"
_ID: Final = re.compile(r"\d{8}T\d{12}Z-[0-9a-f]{4}")
_HISTORY: Final = 20


@dataclass(frozen=True)
class ModelVersion:
    """A sealed version. `id` sorts by age. `manifest` is what the training wrote, with `files`: name → SHA-256."""

    id: str
    path: Path
    created_at: datetime
    manifest: dict[str, Any]


@dataclass(frozen=True)
class Canary:
    """A version on trial: it answers a share of the conversations, 0 to 1, beside the live one."""

    id: str
    share: float


@dataclass(frozen=True)
class InUse:
    """The versions that answer; `history` are those that were made live, the live one last."""

    history: tuple[str, ...] = ()
    canary: Canary | None = None

    @property
    def live(self) -> str | None:
        return self.history[-1] if self.history else None


@dataclass
class ModelDraft:
    """A version being written: put files under `path` and figures into `manifest`, all JSON values."""

    id: str
    path: Path
    manifest: dict[str, Any] = field(default_factory=dict)


class ModelStore:
    """The model versions under one folder, which is created when it is first written to.

    `clock` gives the present as aware UTC. Safe for many processes that read, write and
    promote at once; all calls block on the disk.
    """

    def __init__(self, folder: Path, clock: Callable[[], datetime]) -> None:
        self._folder = folder
        self._clock = clock

    @contextmanager
    def new_version(self) -> Iterator[ModelDraft]:
        """Write a version: it is sealed when the block ends, and gone without a trace when the block raises.

        The new version is not live until `promote`.
        """
        created_at = self._clock()
        version_id = f"{created_at:%Y%m%dT%H%M%S%f}Z-{secrets.token_hex(2)}"
        path = self._folder / f".draft-{version_id}"
        path.mkdir(parents=True)
        try:
            draft = ModelDraft(version_id, path)
            yield draft
            manifest = draft.manifest | {"id": version_id, "created_at": created_at.isoformat()}
            manifest["files"] = {
                each.relative_to(path).as_posix(): _sha256(each) for each in sorted(path.rglob("*")) if each.is_file()
            }
            _write_durably(path / _MANIFEST, manifest)
            path.rename(self._folder / version_id)
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise

    def versions(self) -> tuple[ModelVersion, ...]:
        """Return all sealed versions, the oldest first; a version whose manifest cannot be read is left out."""
        versions = []
        for path in sorted(self._folder.glob("*")):
            if _ID.fullmatch(path.name):
                try:
                    versions.append(self._read(path))
                except ModelDamaged:
                    continue
        return tuple(versions)

    def show(self, version_id: str) -> ModelVersion:
        """Return one version; raises ModelNotFound, or ModelDamaged if its manifest cannot be read."""
        path = self._folder / version_id
        if not _ID.fullmatch(version_id) or not path.is_dir():
            raise ModelNotFound(f"there is no model version {version_id!r}; `otvet models list` shows all.")
        return self._read(path)

    def in_use(self) -> InUse:
        """Return what answers at present; cheap: one small file. Raises ModelDamaged."""
        try:
            pointer = json.loads((self._folder / _POINTER).read_text(encoding="utf-8"))
            canary = pointer.get("canary")
            return InUse(
                tuple(each for each in pointer["history"] if isinstance(each, str)),
                Canary(str(canary["id"]), float(canary["share"])) if canary else None,
            )
        except FileNotFoundError:
            return InUse()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelDamaged(
                f"{self._folder / _POINTER} cannot be read. Delete it, then `otvet models promote ID`."
            ) from error

    def live_id(self) -> str | None:
        """Return the id of the live version, or None before the first promotion. Cheap: one small file."""
        return self.in_use().live

    def live(self) -> ModelVersion | None:
        """Return the live version, or None before the first promotion; raises like `show`."""
        version_id = self.live_id()
        return None if version_id is None else self.show(version_id)

    def promote(self, version_id: str, *, after: str | None = None) -> ModelVersion:
        """Make a version live for everybody after checking all its files; raises ModelNotFound, ModelDamaged.

        after: the version that has to be live until then, else LiveChanged is raised.
        """
        version = self.show(version_id)
        self.verify(version)
        with self._lock():
            history = self.in_use().history
            _require(history, after)
            self._point(history if history[-1:] == (version_id,) else (*history, version_id))
        return version

    def try_out(self, version_id: str, share: float) -> ModelVersion:
        """Let a version answer this share of the conversations, above 0 and at most 1, in place of any other on trial.

        Raises ModelNotFound, also for the live version and before there is one, and ModelDamaged.
        """
        version = self.show(version_id)
        self.verify(version)
        if not 0 < share <= 1:
            raise ValueError(f"a share of {share}")
        with self._lock():
            history = self.in_use().history
            if history[-1:] in ((), (version_id,)):
                raise ModelNotFound(f"there is no other live version that {version_id} could be tried out beside.")
            self._point(history, Canary(version_id, share))
        return version

    def end_trial(self) -> Canary | None:
        """Let the live version answer everybody; returns what was on trial."""
        with self._lock():
            in_use = self.in_use()
            if in_use.canary:
                self._point(in_use.history)
        return in_use.canary

    def rollback(self, *, after: str | None = None) -> ModelVersion:
        """Make the version live, for everybody, that was live before; raises ModelNotFound where there is none.

        after: as for `promote`.
        """
        with self._lock():
            history = self.in_use().history
            _require(history, after)
            history = history[:-1]
            while history:
                try:
                    version = self.show(history[-1])
                    self.verify(version)
                except (ModelNotFound, ModelDamaged):
                    history = history[:-1]
                    continue
                self._point(history)
                return version
        raise ModelNotFound("no version was live before this one; `otvet models promote ID` chooses any.")

    def verify(self, version: ModelVersion) -> None:
        """Compare every file with the manifest; raises ModelDamaged naming the first that differs."""
        for name, digest in version.manifest["files"].items():
            try:
                intact = _sha256(version.path / name) == digest
            except OSError:
                intact = False
            if not intact:
                raise ModelDamaged(f"model version {version.id}: {name} is missing or changed. Train again.")

    def prune(self, keep: int) -> tuple[str, ...]:
        """Delete all but the newest `keep` versions, those that answer and the one that was live before.

        Returns the deleted ids.
        """
        versions, in_use = self.versions(), self.in_use()
        kept = {*in_use.history[-2:], *[each.id for each in versions[max(0, len(versions) - keep) :]]}
        if in_use.canary:
            kept.add(in_use.canary.id)
        gone = [each for each in versions if each.id not in kept]
        for version in gone:
            shutil.rmtree(version.path)
        return tuple(version.id for version in gone)

    def _read(self, path: Path) -> ModelVersion:
        try:
            manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
            created_at = datetime.fromisoformat(manifest["created_at"])
            if not isinstance(manifest["files"], dict):
                raise TypeError("files")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelDamaged(f"model version {path.name}: {_MANIFEST} cannot be read. Train again.") from error
        return ModelVersion(path.name, path, created_at, manifest)

    def drop_drafts(self) -> None:
        """Delete what trainings left that were killed. Only for whoever knows that none is at work."""
        for path in self._folder.glob(".draft-*"):
            shutil.rmtree(path, ignore_errors=True)

    def _lock(self) -> FileLock:
        """Held from reading the history to writing it: of two promotions at once neither forgets the other."""
        return FileLock(self._folder / f".{_POINTER}.lock")

    def _point(self, history: Sequence[str], canary: Canary | None = None) -> None:
        temporary = self._folder / f".{_POINTER}-{secrets.token_hex(4)}"
        _write_durably(temporary, {"history": history[-_HISTORY:], "canary": asdict(canary) if canary else None})
        temporary.replace(self._folder / _POINTER)


def _write_durably(path: Path, value: object) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=2)
        file.flush()
        os.fsync(file.fileno())


def _require(history: Sequence[str], live: str | None) -> None:
    if live is not None and history[-1:] != (live,):
        raise LiveChanged(f"version {history[-1] if history else 'none'} is live by now, not {live}. Look again.")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
