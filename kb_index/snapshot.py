"""A search index on disk: written beside the old one and swapped by replacing one small file.

FOLDER/current names the live version. FOLDER/VERSION/ holds manifest.json (encoder, counts, SHA-256 of each file),
articles.json, passages.json and one .npy file for each array: vectors, words, and for a large base the FAISS index.
A version is a large part, or the edits since one was made: small, and naming the large part that it belongs to. So an
edited article costs a few kilobytes of writing, and a process that has the large part reads only those.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from kb_index.articles import Article
from kb_index.encoder import Encoder
from kb_index.errors import ForeignSnapshotError, TornSnapshotError
from kb_index.lexical import LexicalIndex, Postings
from kb_index.passages import Passage
from kb_index.ranker import Ranker
from kb_index.search import SearchIndex
from kb_index.segment import ARTICLES, Lexicon, Segment, Vectors

Array = NDArray[Any]
_PASSAGES = TypeAdapter(tuple[Passage, ...])

_FORMAT = 2
_POINTER = "current"
_INDEXES = ("passages", "sentences", "questions", "parts", "question_parts")
_VECTORS = ("passages", "sentences", "bounds", "questions")
_MAPPED_BYTES = 256 << 20  # a larger array stays on disk and is read as needed


def save_index(index: SearchIndex, folder: Path) -> None:
    """Make `index` the one that `load_index(folder)` finds; the version before it is kept until the next save.

    One writer at a time: who may save from several processes holds a lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = live_version(folder)
    large = _write_part(folder, index, index.base, None)
    version = _write_part(folder, index, index.edits.segment, large) if index.edits else large
    pointer = folder / f".{_POINTER}-{os.getpid()}"
    _write(pointer, version.encode())
    pointer.replace(folder / _POINTER)
    kept = {version, large, before, _large_part(folder, before)}
    for old in (*folder.glob("v-*"), *folder.glob(".draft-*")):
        if old.name not in kept:
            shutil.rmtree(old, ignore_errors=True)


def live_version(folder: Path) -> str | None:
    """The name of the version saved last, or None. Cheap: one small file."""
    try:
        version = (folder / _POINTER).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return version if version.startswith("v-") and "/" not in version else None


def load_index(
    folder: Path, encoder: Encoder, ranker: Ranker | None = None, *, previous: SearchIndex | None = None
) -> SearchIndex:
    """The index saved last. Raises TornSnapshotError or ForeignSnapshotError; then build it from the articles.

    Where `previous` has the same large part, only the edits are read.
    """
    version = live_version(folder)
    if version is None:
        raise TornSnapshotError(folder, "no index is saved here")
    try:
        manifest = _manifest(folder, version, encoder)
        large = str(manifest["beside"] or version)
        if previous and previous.encoder.fingerprint == encoder.fingerprint and _name(previous.base, encoder) == large:
            index = previous.with_encoder(encoder).with_ranker(ranker or previous.ranker)
        else:
            index = _large(folder, large, encoder, ranker)
        if not manifest["beside"]:
            return index.without_edits()
        articles, passages, arrays = _contents(folder, version, manifest)
        vectors = Vectors(*(arrays[f"vectors-{name}"] for name in _VECTORS))
        segment = Segment(articles, passages, vectors, encoder.dim, beside=index.base)
        return index.with_edits(segment, manifest["gone"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise TornSnapshotError(folder, f"cannot be read ({error})") from error


def _large(folder: Path, version: str, encoder: Encoder, ranker: Ranker | None) -> SearchIndex:
    manifest = _manifest(folder, version, encoder)
    articles, passages, arrays = _contents(folder, version, manifest)
    words = _texts(arrays["words"])
    counts = dict(zip(words, arrays["word-counts"].tolist(), strict=True))
    lexicon = Lexicon(**{name: _lexical(name, arrays, manifest) for name in _INDEXES}, counts=counts)
    segment = Segment(
        articles,
        passages,
        Vectors(*(arrays[f"vectors-{name}"] for name in _VECTORS)),
        encoder.dim,
        lexicon=lexicon,
        packed={name: arrays[f"faiss-{name}"] for name in ("passages", "questions") if f"faiss-{name}" in arrays},
    )
    _keep(segment, folder / version)
    return SearchIndex(segment, encoder, ranker, inverse=arrays.get("memory"))


def _write_part(folder: Path, index: SearchIndex, segment: Segment, beside: str | None) -> str:
    """Write what is not there yet; returns the version's name."""
    encoder = index.encoder
    gone = sorted(index.edits.gone) if index.edits and beside else []
    version = _name(segment, encoder, beside, gone)
    home = folder / version
    if (segment.kept_in == home and _sizes(home) == segment.kept_sizes) or _is_whole(home):
        _keep(segment, home)
        return version
    arrays: dict[str, Array] = {f"vectors-{name}": getattr(segment.vectors, name) for name in _VECTORS}
    lexical: dict[str, dict[str, float]] = {}
    if beside is None:
        arrays["words"] = _bytes(segment.lexicon.counts)
        arrays["word-counts"] = np.array(list(segment.lexicon.counts.values()), dtype=np.int64)
        for name in _INDEXES:
            one: LexicalIndex = getattr(segment.lexicon, name)
            own = one.postings
            arrays |= {
                f"{name}-terms": _bytes(one.terms),
                f"{name}-starts": own.starts,
                f"{name}-documents": own.documents,
                f"{name}-weights": own.weights,
            }
            lexical[name] = {"size": own.size, "mean_length": own.mean_length, "k1": own.k1, "b": own.b}
        for name, nearest in (("passages", segment.passage_index), ("questions", segment.question_index)):
            if (packed := nearest.packed()) is not None:
                arrays[f"faiss-{name}"] = packed
        if (inverse := index.base_memory.inverse) is not None:
            arrays["memory"] = inverse
    draft = Path(mkdtemp(dir=folder, prefix=".draft-"))
    try:
        for name, array in arrays.items():
            with (draft / f"{name}.npy").open("wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
        _write(draft / "articles.json", ARTICLES.dump_json(segment.articles))
        _write(draft / "passages.json", _PASSAGES.dump_json(segment.passages))
        manifest = {
            "format": _FORMAT,
            "encoder": encoder.name,
            "encoder_fingerprint": encoder.fingerprint,
            "dim": encoder.dim,
            "articles": len(segment.articles),
            "passages": len(segment.passages),
            "questions": len(segment.questions),
            "beside": beside,
            "gone": gone,
            "lexical": lexical,
            "sha256": {path.name: _sha256(path) for path in sorted(draft.iterdir())},
        }
        _write(draft / "manifest.json", json.dumps(manifest, indent=1).encode())
        shutil.rmtree(home, ignore_errors=True)
        draft.rename(home)
        _keep(segment, home)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return version


def _name(segment: Segment, encoder: Encoder, beside: str | None = None, gone: list[str] | None = None) -> str:
    """A version is named by what is in it: the same articles under the same encoder are the same version."""
    named = json.dumps([_FORMAT, segment.digest, encoder.fingerprint, beside, gone or []])
    return "v-" + hashlib.sha256(named.encode()).hexdigest()[:16]


def _keep(segment: Segment, home: Path) -> None:
    segment.kept_in, segment.kept_sizes = home, _sizes(home)


def _sizes(home: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in home.iterdir()} if home.is_dir() else {}


def _manifest(folder: Path, version: str, encoder: Encoder) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / version / "manifest.json").read_text("utf-8"))
    if manifest["format"] != _FORMAT:
        raise ForeignSnapshotError(folder, "made by another version of this program")
    if (manifest["encoder_fingerprint"], manifest["dim"]) != (encoder.fingerprint, encoder.dim):
        raise ForeignSnapshotError(folder, f"made by the encoder {manifest['encoder']}, not by {encoder.name}")
    return manifest


def _contents(
    folder: Path, version: str, manifest: Mapping[str, Any]
) -> tuple[tuple[Article, ...], tuple[Passage, ...], dict[str, Array]]:
    home = folder / version
    changed = [name for name, expected in manifest["sha256"].items() if _sha256(home / name) != expected]
    if changed:
        raise TornSnapshotError(folder, f"cut short or altered: {', '.join(changed)}")
    articles = ARTICLES.validate_json((home / "articles.json").read_bytes())
    passages = _PASSAGES.validate_json((home / "passages.json").read_bytes())
    arrays = {}
    for name in manifest["sha256"]:
        if name.endswith(".npy"):
            mapped = (home / name).stat().st_size > _MAPPED_BYTES
            arrays[name.removesuffix(".npy")] = np.load(
                home / name, mmap_mode="r" if mapped else None, allow_pickle=False
            )
    return articles, passages, arrays


def _lexical(name: str, arrays: Mapping[str, Array], manifest: Mapping[str, Any]) -> LexicalIndex:
    vocabulary = {term: number for number, term in enumerate(_texts(arrays[f"{name}-terms"]))}
    starts, documents, weights = (arrays[f"{name}-{part}"] for part in ("starts", "documents", "weights"))
    return LexicalIndex(vocabulary, Postings(starts, documents, weights, **manifest["lexical"][name]))


def _bytes(texts: Any) -> Array:
    """Texts without line ends, as bytes."""
    return np.frombuffer("".join(f"{text}\n" for text in texts).encode(), dtype=np.uint8)


def _texts(array: Array) -> list[str]:
    return array.tobytes().decode().split("\n")[:-1]


def _is_whole(home: Path) -> bool:
    try:
        sums = json.loads((home / "manifest.json").read_text("utf-8"))["sha256"]
        return all(_sha256(home / name) == expected for name, expected in sums.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _large_part(folder: Path, version: str | None) -> str | None:
    """The large part that a version of edits belongs to."""
    try:
        beside: str | None = json.loads((folder / str(version) / "manifest.json").read_text("utf-8"))["beside"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return beside


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
