"""A Rasa project made of training data keeps everything that a Rasa user wrote."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from nlu.errors import RasaFailed
from nlu.rasa.engine import without_metadata
from nlu.rasa.project import DEFAULT, LIGHT, export_project, is_project, write_project
from nlu.training_data import from_rows, load_intents

SOURCE = """\
version: "3.1"
nlu:
# kept by hand
- intent: order_status
  metadata: {article: order-status}
  examples: |
    - where is my [parcel](thing)
    - order to [Kazan]{"entity": "city", "role": "to", "group": "1"}
- intent: faq/hours
  examples: |
    - when do you open
- synonym: parcel
  examples: |
    - package
- lookup: city
  examples: |
    - Omsk
- regex: number
  examples: |
    - \\d+
"""


def yaml(path: Path) -> dict[str, object]:
    return dict(YAML(typ="safe").load(path.read_text(encoding="utf-8")))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "intents"
    folder.mkdir()
    (folder / "en.yml").write_text(SOURCE)
    return folder


def test_a_project_has_the_data_a_domain_and_a_pipeline_with_the_encoder(source: Path, tmp_path: Path) -> None:
    data = load_intents(source)

    project = write_project(data, tmp_path / "project", tmp_path / "encoder")

    again = load_intents(project.data)
    assert [(each.raw, each.entities) for each in again.examples] == [(e.raw, e.entities) for e in data.examples]
    assert (again.synonyms, again.lookups, again.regexes) == (data.synonyms, data.lookups, data.regexes)
    domain = yaml(project.domain)
    assert domain["intents"] == ["order_status", "faq"]
    assert domain["entities"] == [{"city": {"roles": ["to"], "groups": ["1"]}}, "thing"]
    assert domain["responses"] == {"utter_faq/hours": [{"text": "faq/hours"}]}
    pipeline = yaml(project.config)["pipeline"]
    assert isinstance(pipeline, list)
    assert {"name": "otvet_featurizer.OtvetFeaturizer", "encoder": str(tmp_path / "encoder")} in pipeline
    assert (project.folder / "otvet_featurizer.py").is_file()


def test_a_pipeline_of_ones_own_is_taken_as_it_is(source: Path, tmp_path: Path) -> None:
    own = tmp_path / "config.yml"
    own.write_text("language: ru\npipeline:\n- name: WhitespaceTokenizer\n  case_sensitive: false\npolicies: []\n")

    config = yaml(write_project(load_intents(source), tmp_path / "p", tmp_path, own).config)

    assert (config["language"], config["pipeline"]) == (
        "ru",
        [{"name": "WhitespaceTokenizer", "case_sensitive": False}],
    )


@pytest.mark.parametrize("text", ["", "pipeline: []x", "pipeline: [a]", "language: en", "\x00"])
def test_what_is_no_configuration_is_refused_by_its_name(source: Path, tmp_path: Path, text: str) -> None:
    own = tmp_path / "own.yml"
    own.write_text(text)

    with pytest.raises(RasaFailed, match=r"own\.yml"):
        write_project(load_intents(source), tmp_path / "p", tmp_path, own)


@pytest.mark.parametrize("pipeline", [LIGHT, DEFAULT])
def test_the_shipped_pipelines_name_their_components(source: Path, tmp_path: Path, pipeline: Path) -> None:
    config = yaml(write_project(load_intents(source), tmp_path / "p", tmp_path, pipeline).config)

    assert config["pipeline"]


def test_an_exported_project_has_the_files_byte_for_byte_and_is_read_again(source: Path, tmp_path: Path) -> None:
    (source / "more").mkdir()
    (source / "more" / "en.yml").write_text("nlu:\n- intent: bye\n  examples: |\n    - bye\n    # soon\n")
    (source / "rows.jsonl").write_text('{"text": "hi", "intent": "hello"}\n')
    made = from_rows([("how do I return it", "article:return")])
    folder = tmp_path / "project"

    export_project(source, made, load_intents(source), folder, tmp_path)

    assert (folder / "data" / "en.yml").read_bytes() == (source / "en.yml").read_bytes()
    assert (folder / "data" / "more" / "en.yml").read_text().endswith("# soon\n")
    assert is_project(folder)
    assert set(load_intents(folder).intents) == {"order_status", "faq/hours", "bye", "hello", "article:return"}
    with pytest.raises(RasaFailed, match="is not empty"):
        export_project(source, made, load_intents(source), folder, tmp_path)


def test_rasa_is_not_told_what_concerns_otvet_alone(source: Path) -> None:
    data = without_metadata(load_intents(source))

    assert all(not spec.metadata for spec in data.intents.values())
    assert len(data.examples) == 3
