"""A Rasa project made of training data: what `rasa train` of Rasa 3.6 reads, and any Rasa user can go on with."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from nlu.errors import FolderNotEmpty, RasaFailed
from nlu.training_data import TrainingData, load_intents, training_sources
from nlu.training_writer import to_rasa

HERE: Final = Path(__file__).parent
ENVIRONMENT: Final = HERE / "environment"
"""What is put on the module path of Rasa's Python: the featurizer, the program that Otvet starts, requirements.txt."""

LIGHT: Final = HERE / "pipelines" / "light.yml"
DEFAULT: Final = HERE / "pipelines" / "default.yml"
PIPELINES: Final[Mapping[str, Path]] = {"light": LIGHT, "default": DEFAULT}

_FEATURIZER: Final = "otvet_featurizer.OtvetFeaturizer"


@dataclass(frozen=True)
class Project:
    """The files of a Rasa project."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.yml"

    @property
    def domain(self) -> Path:
        return self.folder / "domain.yml"

    @property
    def data(self) -> Path:
        return self.folder / "data"


def is_project(folder: Path) -> bool:
    """Whether a folder is a Rasa user's project and no data folder of Otvet's own."""
    configured = (folder / "domain.yml").is_file() or (folder / "config.yml").is_file()
    return configured and (folder / "data").is_dir() and not (folder / "intents").is_dir()


def write_project(data: TrainingData, folder: Path, encoder: Path, pipeline: Path = LIGHT) -> Project:
    """Write a project into a folder, made if need be: `config.yml`, `domain.yml`, `data/nlu.yml`, the featurizer.

    `encoder` is the folder of the prepared encoder, and `pipeline` a Rasa configuration, of which the language and the
    pipeline are taken. Raises RasaFailed if it has none, OSError.
    """
    project = Project(folder)
    project.data.mkdir(parents=True, exist_ok=True)
    _write(project.config, _config(pipeline, encoder))
    _write(project.domain, _domain(data))
    (project.data / "nlu.yml").write_text(to_rasa(data), encoding="utf-8", newline="")
    shutil.copy(ENVIRONMENT / "otvet_featurizer.py", folder)
    return project


def export_project(
    source: Path, made: TrainingData, whole: TrainingData, folder: Path, encoder: Path, pipeline: Path = LIGHT
) -> Project:
    """Write a project for a Rasa user into an empty or missing folder.

    `source` is a folder of training data: its YAML is copied byte for byte, comments and all. `made` is what stands in
    no such file; `whole` is both. Raises FolderNotEmpty, TrainingDataError, OSError.
    """
    if folder.exists() and any(folder.iterdir()):
        raise FolderNotEmpty(folder)
    project = write_project(whole, folder, encoder, pipeline)
    (project.data / "nlu.yml").unlink()
    for path in training_sources(source):
        target = project.data / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".yml", ".yaml"):
            shutil.copy(path, target)
        else:
            target.with_suffix(".yml").write_text(to_rasa(load_intents(path)), encoding="utf-8", newline="")
    if made.examples:
        (project.data / "articles.yml").write_text(to_rasa(made), encoding="utf-8", newline="")
    shutil.copy(ENVIRONMENT / "requirements.txt", folder)
    return project


def _config(path: Path, encoder: Path) -> dict[str, Any]:
    try:
        given = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise RasaFailed(f"{path} cannot be read ({error})") from error
    pipeline = given.get("pipeline") if isinstance(given, dict) else None
    if not isinstance(pipeline, list) or not all(isinstance(each, dict) and each.get("name") for each in pipeline):
        raise RasaFailed(f"{path} has no `pipeline`, a list of components with names. Give a Rasa configuration.")
    for component in pipeline:
        if component["name"] == _FEATURIZER:
            component.setdefault("encoder", str(encoder.resolve()))
    return {
        "recipe": "default.v1",
        "assistant_id": given.get("assistant_id", "otvet"),
        "language": given.get("language", "en"),
        "pipeline": pipeline,
        "policies": [{"name": "RulePolicy"}],
    }


def _domain(data: TrainingData) -> dict[str, Any]:
    """Intents, entities and, since Rasa wants one for each retrieval intent, a response that says its name."""
    retrieval = [name for name in data.intents if "/" in name]
    intents = dict.fromkeys(name.split("/")[0] for name in data.intents)
    domain: dict[str, Any] = {
        "version": "3.1",
        "intents": list(intents),
        "entities": _entities(data),
    }
    if retrieval:
        domain["responses"] = {f"utter_{name}": [{"text": name}] for name in retrieval}
    return domain


def _entities(data: TrainingData) -> list[Any]:
    roles: dict[str, dict[str, set[str]]] = {}
    for example in data.examples:
        for entity in example.entities:
            kinds = roles.setdefault(entity.name, {})
            for kind, name in (("roles", entity.role), ("groups", entity.group)):
                if name:
                    kinds.setdefault(kind, set()).add(name)
    return [
        {name: {kind: sorted(values) for kind, values in kinds.items()}} if kinds else name
        for name, kinds in sorted(roles.items())
    ]


def _write(path: Path, value: Mapping[str, Any] | Sequence[Any]) -> None:
    yaml = YAML()
    yaml.width = 2**16
    stream = StringIO()
    yaml.dump(value, stream)
    path.write_text(stream.getvalue(), encoding="utf-8", newline="")
