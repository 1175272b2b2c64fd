"""What a Rasa user wrote is read and written without loss: any data, and three public bots as they are."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nlu.errors import TrainingDataError
from nlu.training_checks import check_training_data
from nlu.training_data import Example, IntentSpec, TrainingData, load_intents, strip_entities
from nlu.training_writer import to_rasa, with_examples

BOTS = Path(__file__).parents[2].parent / "shared" / "rasa_data"
needs_bots = pytest.mark.skipif(not BOTS.is_dir(), reason=f"no public Rasa bots in {BOTS}: clone them there")

# Anything that UTF-8 can carry; Rasa strips an example's ends, so nothing there can be kept.
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
texts = anything.map(lambda text: text.strip("\n\r ")[:30].strip("\n\r ")).filter(bool)
marked = st.builds("{} [{}]({}) {}".format, texts, st.just("Kazan"), st.just("city:KZN"), texts)
names = texts.map(lambda text: text.strip()).filter(bool)
metadata = st.dictionaries(texts, st.one_of(texts, st.booleans(), st.integers()), max_size=2)


def _readable(raw: str) -> bool:
    try:
        strip_entities(raw)
    except TrainingDataError:
        return False
    return not raw.startswith("- ")


raws = st.one_of(texts, marked).filter(_readable)
lines = st.dictionaries(names, st.lists(texts.filter(_readable), min_size=1, max_size=3).map(tuple), max_size=2)


@st.composite
def training_data(draw: st.DrawFn) -> TrainingData:
    intents: dict[str, IntentSpec] = {}
    examples: list[Example] = []
    for name in draw(st.lists(names, min_size=1, max_size=3, unique=True)):
        intents[name] = IntentSpec(name, draw(metadata))
        for raw in draw(st.lists(raws, min_size=1, max_size=4)):
            text, entities = strip_entities(raw)
            own: Mapping[str, Any] = draw(st.one_of(st.just({}), metadata))
            examples.append(Example(text, name, raw=raw, entities=entities, metadata=own))
    return TrainingData(tuple(examples), intents, draw(lines), draw(lines), draw(lines))


def content(data: TrainingData) -> object:
    """Everything but the places in files."""
    return (
        [(each.raw, each.text, each.intent, each.entities, dict(each.metadata)) for each in data.examples],
        {name: dict(spec.metadata) for name, spec in data.intents.items()},
        dict(data.synonyms),
        dict(data.lookups),
        dict(data.regexes),
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=training_data())
def test_any_data_comes_back_from_a_file_as_it_went_in(tmp_path: Path, data: TrainingData) -> None:
    path = tmp_path / "nlu.yml"
    path.write_text(to_rasa(data), encoding="utf-8", newline="")

    again = load_intents(path)

    assert content(again) == content(data)
    assert to_rasa(again) == to_rasa(data)


def bot_files() -> list[Path]:
    return sorted(path for path in BOTS.rglob("*.yml") if "\nnlu:" in path.read_text(encoding="utf-8"))


@needs_bots
@pytest.mark.parametrize("path", bot_files(), ids=lambda path: str(path.relative_to(BOTS)))
def test_a_public_bots_file_is_written_back_byte_for_byte_when_nothing_changes(path: Path) -> None:
    with path.open(encoding="utf-8", newline="") as file:
        source = file.read()
    data = load_intents(path)

    for intent in data.intents:
        own = [each.raw for each in data.examples if each.intent == intent]
        assert with_examples(source, intent, own, path) == source


@needs_bots
@pytest.mark.parametrize(
    ("bot", "examples", "intents", "entities", "synonyms"),
    [
        ("RasaHQ__financial-demo", 578, 17, 258, 3),
        ("RasaHQ__helpdesk-assistant", 452, 14, 14, 1),
        ("RasaHQ__NLU-training-data", 1164, 47, 0, 0),
    ],
)
def test_a_public_bot_loads_as_a_whole_project(
    bot: str, examples: int, intents: int, entities: int, synonyms: int
) -> None:
    data = load_intents(BOTS / bot)

    assert (len(data.examples), len(data.intents)) == (examples, intents)
    assert sum(len(each.entities) for each in data.examples) == entities
    assert len(data.synonyms) == synonyms
    for example in data.examples:
        assert example.file is not None
        assert example.raw in example.file.read_text(encoding="utf-8").splitlines()[example.line - 1]


@needs_bots
def test_every_finding_about_a_public_bot_names_its_place_and_what_to_do() -> None:
    for bot in sorted(BOTS.iterdir()):
        found = check_training_data(load_intents(bot))
        assert found, bot
        for each in found:
            assert each.file is not None
            assert each.file.is_file()
            assert each.line >= 1
            assert each.remedy.endswith(".")


def test_the_old_formats_are_refused_with_the_converters_name(tmp_path: Path) -> None:
    old = {"rasa_nlu_data": {"common_examples": [{"text": "hi", "intent": "greet", "entities": []}]}}
    (tmp_path / "nlu.json").write_text(json.dumps(old))

    for path in (tmp_path / "nlu.json", tmp_path):
        with pytest.raises(TrainingDataError, match="rasa data convert nlu"):
            load_intents(path)


def test_a_project_is_read_without_its_tests_its_caches_and_its_other_json(tmp_path: Path) -> None:
    item = "nlu:\n- intent: {}\n  examples: |\n    - hi\n"
    for name in ("data/nlu/one.yml", "tests/nlu.yml", ".rasa/cache/nlu.yml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(item.format(name.split("/")[0].strip(".")))
    (tmp_path / "domain.yml").write_text("intents: [data]\n")
    (tmp_path / "package.json").write_text("{}")

    assert set(load_intents(tmp_path).intents) == {"data"}


@settings(max_examples=200, deadline=None)
@given(source=anything)
def test_any_text_is_either_read_or_refused_with_a_remedy(
    tmp_path_factory: pytest.TempPathFactory, source: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yml"
    for text in (source, f"nlu:\n{source}", f"nlu:\n- intent: a\n  examples: |\n{source}"):
        path.write_text(text, encoding="utf-8", newline="")
        with contextlib.suppress(TrainingDataError):
            assert load_intents(path).examples
