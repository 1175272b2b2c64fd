"""A Rasa project made of training data keeps everything that a Rasa user wrote."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from bot.replies import Replies
from nlu.errors import FolderNotEmpty, RasaFailed
from nlu.rasa.engine import without_metadata
from nlu.rasa.migration import import_project
from nlu.rasa.project import DEFAULT, LIGHT, export_project, is_project, write_project
from nlu.training_data import from_rows, load_intents

BOTS = Path(__file__).parents[2].parent / "shared" / "rasa_data"
needs_bots = pytest.mark.skipif(not BOTS.is_dir(), reason=f"no public Rasa bots in {BOTS}: clone them there")

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
    with pytest.raises(FolderNotEmpty):
        export_project(source, made, load_intents(source), folder, tmp_path)


BOT = {
    "domain.yml": """\
intents: [greet, bye, order, joke]
responses:
  utter_hi:
  - text: Hello!
  - text: Hi there
  utter_help:
  - text: "Ask me {{ anything }}"
  utter_bye:
  - text: Bye, {name}
  utter_faq/hours:
  - text: From 9 to 21
""",
    "data/nlu.yml": """\
version: "3.1"
nlu:
# the first
- intent: greet   # often
  examples: |
    - hi
- intent: bye
  examples: |
    - bye
- intent: order
  examples: |
    - order a pizza
- intent: faq/hours
  examples: |
    - when do you open
- intent: joke
  metadata: {handoff: jokes}
  examples: |
    - a joke
""",
    "data/rules.yml": """\
rules:
- rule: bye
  steps:
  - intent: bye
  - action: utter_bye
- rule: form
  steps:
  - intent: order
  - action: order_form
  - active_loop: order_form
""",
    "data/stories.yml": """\
stories:
- story: hello
  steps:
  - intent: greet
  - action: utter_hi
  - action: utter_help
  - intent: order
  - action: order_form
""",
}


def test_a_rasa_bot_comes_over_with_its_answers_and_says_what_it_leaves(tmp_path: Path) -> None:
    for name, text in BOT.items():
        path = tmp_path / "bot" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    imported = import_project(tmp_path / "bot", tmp_path / "own", "en")

    assert imported.replies == {"greet": "rasa_greet", "faq/hours": "rasa_faq_hours"}
    replies = Replies((tmp_path / "own" / "replies",), {})
    assert replies.render("rasa_greet", "en") == "Hello!\n\nAsk me {{ anything }}"
    assert replies.render("rasa_faq_hours", "en") == "From 9 to 21"
    assert [line.split(":")[0] for line in imported.left] == ["intent bye", "intent order"]
    written = (tmp_path / "own" / "intents" / "nlu.en.yml").read_text()
    added = "  metadata:\n    reply: rasa_{}\n"
    expected = BOT["data/nlu.yml"].replace("# often\n", f"# often\n{added.format('greet')}")
    assert written == expected.replace("faq/hours\n", f"faq/hours\n{added.format('faq_hours')}")
    data = load_intents(tmp_path / "own" / "intents")
    assert data.intents["joke"].metadata == {"handoff": "jokes"}
    assert {each.lang for each in data.examples} == {"en"}
    with pytest.raises(FolderNotEmpty):
        import_project(tmp_path / "bot", tmp_path / "own", "en")


@needs_bots
@pytest.mark.parametrize(("bot", "greeting"), [("helpdesk-assistant", "Hallo!"), ("financial-demo", "")])
def test_a_public_bot_comes_over(bot: str, greeting: str, tmp_path: Path) -> None:
    project = BOTS / f"RasaHQ__{bot}"

    imported = import_project(project, tmp_path / "own", "en")

    before, after = load_intents(project), load_intents(tmp_path / "own" / "intents")
    assert [(each.raw, each.intent) for each in after.examples] == [(e.raw, e.intent) for e in before.examples]
    assert len(imported.replies) + len(imported.left) >= len(before.intents) - 2
    texts = [path.read_text() for path in (tmp_path / "own" / "replies").rglob("*.j2")]
    assert any(greeting in text for text in texts)


def test_rasa_is_not_told_what_concerns_otvet_alone(source: Path) -> None:
    data = without_metadata(load_intents(source))

    assert all(not spec.metadata for spec in data.intents.values())
    assert len(data.examples) == 3
