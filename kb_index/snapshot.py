"""A search index on disk: written beside the old one and swapped by replacing one small file.

FOLDER/current names the live version; FOLDER/VERSION/ holds manifest.json (encoder, counts, SHA-256 of each file),
articles.json, passages.json and vectors.npz. What vectors alone do not need (words, FAISS) is rebuilt on loading.
"""

import hashlib
import io
import json
import os
import shutil
import zipfile
from dataclasses import asdict
from pathlib import Path
from tempfile import mkdtemp

import numpy as np

from kb_index.articles import Article
from kb_index.encoder import Encoder
from kb_index.errors import ForeignSnapshotError, TornSnapshotError
from kb_index.passages import Passage
from kb_index.ranker import Ranker
from kb_index.search import SearchIndex, Vectors

_FORMAT = 1
_POINTER = "current"
_FILES = ("articles.json", "passages.json", "vectors.npz")


def save_index(index: SearchIndex, folder: Path) -> None:
    """Make `index` the one that `load_index(folder)` finds; the version before it is kept until the next save."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    vectors = index.vectors
    np.savez(
        buffer,
        passages=vectors.passages,
        sentences=vectors.sentences,
        bounds=vectors.bounds,
        questions=vectors.questions,
    )
    contents = {
        "articles.json": json.dumps([_plain(article) for article in index.articles], ensure_ascii=False).encode(),
        "passages.json": json.dumps([asdict(passage) for passage in index.passages], ensure_ascii=False).encode(),
        "vectors.npz": buffer.getvalue(),
    }
    manifest = {
        "format": _FORMAT,
        "encoder": index.encoder.name,
        "encoder_fingerprint": index.encoder.fingerprint,
        "dim": index.encoder.dim,
        "articles": len(index.articles),
        "passages": len(index.passages),
        "questions": len(index.questions),
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    }
    contents["manifest.json"] = json.dumps(manifest, indent=1).encode()
    version = "v-" + hashlib.sha256(contents["manifest.json"]).hexdigest()[:16]
    before = _current(folder)
    if not (folder / version).is_dir() or not _is_whole(folder / version):
        draft = Path(mkdtemp(dir=folder, prefix=".draft-"))
        for name, content in contents.items():
            _write(draft / name, content)
        shutil.rmtree(folder / version, ignore_errors=True)
        draft.rename(folder / version)
    pointer = folder / f".{_POINTER}-{os.getpid()}"
    _write(pointer, version.encode())
    pointer.replace(folder / _POINTER)
    for old in folder.glob("v-*"):
        if old.name not in (version, before):
            shutil.rmtree(old, ignore_errors=True)


def load_index(folder: Path, encoder: Encoder, ranker: Ranker | None = None) -> SearchIndex:
    """The index saved last. Raises TornSnapshotError or ForeignSnapshotError; then build it from the articles."""
    version = _current(folder)
    if version is None:
        raise TornSnapshotError(folder, "no index is saved here")
    home = folder / version
    try:
        manifest = json.loads((home / "manifest.json").read_text("utf-8"))
        contents = {name: (home / name).read_bytes() for name in _FILES}
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        if manifest["sha256"] != sums:
            changed = ", ".join(name for name in _FILES if manifest["sha256"].get(name) != sums[name])
            raise TornSnapshotError(folder, f"cut short or altered: {changed}")
        if manifest["format"] != _FORMAT:
            raise ForeignSnapshotError(folder, "made by another version of this program")
        if (manifest["encoder_fingerprint"], manifest["dim"]) != (encoder.fingerprint, encoder.dim):
            raise ForeignSnapshotError(folder, f"made by the encoder {manifest['encoder']}, not by {encoder.name}")
        articles = [_article(kept) for kept in json.loads(contents["articles.json"])]
        passages = [
            Passage(**{**kept, "headings": tuple(kept["headings"])}) for kept in json.loads(contents["passages.json"])
        ]
        with np.load(io.BytesIO(contents["vectors.npz"]), allow_pickle=False) as kept:
            vectors = Vectors(kept["passages"], kept["sentences"], kept["bounds"], kept["questions"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise TornSnapshotError(folder, f"cannot be read ({error})") from error
    return SearchIndex(articles, passages, vectors, encoder, ranker)


def _current(folder: Path) -> str | None:
    try:
        version = (folder / _POINTER).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return version if version.startswith("v-") and "/" not in version else None


def _is_whole(home: Path) -> bool:
    try:
        sums = json.loads((home / "manifest.json").read_text("utf-8"))["sha256"]
        return all(hashlib.sha256((home / name).read_bytes()).hexdigest() == sums[name] for name in _FILES)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _plain(article: Article) -> dict[str, object]:
    return {**asdict(article), "path": str(article.path) if article.path else None}


def _article(kept: dict[str, object]) -> Article:
    path = kept["path"]
    questions = tuple(str(question) for question in kept["questions"])  # type: ignore[attr-defined]
    fields = {**kept, "questions": questions, "path": Path(str(path)) if path else None}
    return Article(**fields)  # type: ignore[arg-type]


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
