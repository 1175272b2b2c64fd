"""The topic of a ticket: told from all that was said, learnt from tickets and from what agents corrected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from test_tickets import TICKETS, Room, room  # noqa: F401 - a fixture

from bot.masking import mask
from bot.models.corrections import as_example
from bot.models.topic_model import TopicModel, _fit, _newest, _squared
from bot.models.training import Seed, _taught, load_seed
from bot.models.understanding import topics_of
from bot.wiring import Installation
from handoff import desk
from handoff.corrections import Correction, corrections
from handoff.records import Author, Message
from handoff.routing import route
from nlu.errors import ModelDamaged
from nlu.remembering import RememberingEncoder
from nlu.training_data import Example

DATA = Path(__file__).parents[2] / "data"
ODD = (
    "the gazebo roof lets rain through",
    "gazebo poles bend in the wind",
    "our gazebo tore at the seam",
    "one leg of the gazebo wobbles",
    "gazebo curtain came loose",
    "the garden gazebo leans to one side",
    "rain gets into the gazebo",
    "the gazebo zip is stuck",
    "gazebo cloth has faded",
    "pegs of the gazebo snapped",
)
"""What the demo's topics know nothing of."""


@dataclass(frozen=True)
class School:
    """The demo's seed, with what trains its routing again in seconds."""

    seed: Seed
    train: Callable[..., TopicModel]

    def route(self, model: TopicModel, *texts: str) -> str:
        return route(self.seed.topics, model, texts).topic.id


@pytest.fixture(scope="module")
def school(demo: Installation, tmp_path_factory: pytest.TempPathFactory) -> School:
    seed = load_seed(DATA, DATA)
    taught, outcomes = _taught(seed)
    encoder = RememberingEncoder(demo.encoder, demo.settings.var / "encoder" / "training-vectors.npz")

    def train(
        more: Sequence[Example], tickets: Sequence[Example] = seed.tickets[::4], earlier: Path | None = None
    ) -> TopicModel:
        made = TopicModel.train(
            [*tickets, *more],
            topics=seed.topics,
            taught=taught,
            outcomes=outcomes,
            topic_of=topics_of(outcomes, seed.articles.articles),
            encoder=encoder,
            earlier=earlier,
        )
        assert made is not None
        return made

    return School(seed, train)


@pytest.fixture(scope="module")
def model(school: School) -> TopicModel:
    return school.train(())


def test_ten_corrections_move_a_topic(school: School, model: TopicModel) -> None:
    ask = "water drips from the gazebo onto the table"
    assert school.route(model, ask) != "business"
    taught = school.train([Example(text, "business", "en") for text in ODD])
    assert school.route(taught, ask) == "business"
    for text, topic in (("the courier is two hours late", "delivery"), ("мой аккаунт взломали", "account")):
        assert school.route(taught, text) == topic, "the others stay where they were"


def test_a_wish_for_a_person_hides_no_topic_and_alone_tells_none(school: School, model: TopicModel) -> None:
    assert school.route(model, "позовите человека, курьер не приехал") == "delivery"
    assert school.route(model, "operator please!! charged twice for one order") == "payment"
    for idle in ("оператора", "a human please", "здравствуйте", "thanks"):
        assert school.route(model, idle) == "unclear"
        ranked = model.rank([idle])
        assert ranked
        assert ranked[0][1] < model.threshold


def test_of_a_story_one_clause_tells_the_topic(school: School, model: TopicModel) -> None:
    story = "My aunt is eighty and lives alone. She waited in all day, she even baked. No courier came, nobody rang."
    assert school.route(model, story) == "delivery"


def test_all_that_was_said_counts_and_the_last_most(school: School, model: TopicModel) -> None:
    late, hacked = (
        "the courier was due at noon with my parcel and never came",
        "somebody broke into my account and changed the password",
    )
    assert school.route(model, "a human please", late) == "delivery", "the wish came after the matter"
    assert school.route(model, hacked, late) == "account"
    assert school.route(model, late, hacked) == "delivery"
    both = dict(model.rank([late, hacked]))
    assert both["account"] > dict(model.rank([late]))["account"]
    assert model.rank(["", " "]) == []
    assert sum(p for _, p in model.rank([late])) <= 1 + 1e-6


def test_probabilities_of_unseen_tickets_can_be_believed(model: TopicModel) -> None:
    sure = [each for each in model.rehearsed if each.probability >= 0.9]
    unsure = [each for each in model.rehearsed if each.probability < 0.6]
    assert sum(each.right for each in sure) / len(sure) > 0.9
    assert sum(each.right for each in unsure) / len(unsure) < 0.7
    assert sum(each.topic in each.named for each in model.rehearsed) / len(model.rehearsed) > 0.9, "or the runner-up"
    for lang in ("ru", "en"):
        figures = model.figures(lang)
        assert (figures["tickets_routed_right"] or 0) > 0.7, "of a quarter of the tickets"
        assert (figures["tickets_to_be_clarified"] or 0) <= 0.1


def test_a_left_out_ticket_is_judged_as_if_it_and_those_like_it_had_never_been_learnt() -> None:
    random = np.random.default_rng(0)
    meaning = random.normal(size=(12, 30)).astype(np.float32)
    meaning[3] = meaning[7] + 0.05
    meaning /= np.linalg.norm(meaning, axis=1, keepdims=True)
    labels = np.arange(12) % 3

    words = csr_matrix(np.eye(12, dtype=np.float32))
    tried = np.arange(2, 12)
    ridge = np.linspace(0.05, 1, 12, dtype=np.float32)
    _, left_out = _fit(meaning, words, labels, 3, ridge=ridge, tried=tried)
    for gone in ([5], [3, 7]):
        kept = [row for row in range(12) if row not in gone]
        coefficients, _ = _fit(meaning[kept], words[kept], labels[kept], 3, ridge=ridge[kept], tried=np.arange(3))
        expected = _squared(meaning[gone] @ meaning[kept].T, (words[gone] @ words[kept].T).toarray()) @ coefficients
        assert left_out[np.isin(tried, gone)] == pytest.approx(expected, abs=1e-4)


def test_of_too_many_tickets_of_a_topic_the_newest_are_learnt() -> None:
    told = [Example(text, text[0], "en") for text in ("a1", "b1", "a2", "a3")]
    assert [row.text for row in _newest(told, 2)] == ["b1", "a2", "a3"]


def test_what_has_nothing_new_to_learn_is_not_learnt_again(school: School, model: TopicModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    same = school.train((), earlier=tmp_path)
    assert not same.rehearsed, "it was read, not made"
    assert same.rank(["the courier is two hours late"]) == model.rank(["the courier is two hours late"])
    assert (same.threshold, same.figures("en")) == (model.threshold, model.figures("en"))
    assert school.train([Example(ODD[0], "business", "en")], earlier=tmp_path).rehearsed


def test_a_bare_call_for_a_person_that_agents_moved_teaches_no_topic(school: School) -> None:
    moved = [Example(text, "payment", "en") for text in ("a human please", "operator", "agent now", "a person please")]
    assert school.route(school.train(moved), "a human please") == "unclear"


def test_a_version_keeps_its_routing_and_says_when_it_is_damaged(demo: Installation, tmp_path: Path) -> None:
    live = demo.store.live()
    assert live is not None
    assert {"topics/routing.json", "topics/lesson.npz", "topics/words.npz"} <= set(live.manifest["files"]), (
        "each with its hash"
    )
    assert live.manifest["tickets"] > 800
    assert isinstance(demo.understander().topics, TopicModel)
    (tmp_path / "routing.json").write_text("{}")
    with pytest.raises(ModelDamaged, match="Train again"):
        TopicModel.load(tmp_path, demo.encoder)


def test_what_could_tell_who_wrote_it_is_taken_out() -> None:
    said = "Пишите на anna.k@mail.example или +7 (916) 123-45-67, @anna_k, карта 4276 1600 1234 5678, https://x.example/u?id=7"
    assert mask(said) == "Пишите на <email> или <number>, <user>, карта <number>, <link>"
    assert mask("заказ 640981, 2 коробки из 5") == "заказ <number>, 2 коробки из 5"


async def test_what_agents_pass_on_becomes_training_rows(room: Room) -> None:  # noqa: F811
    async def say(chat: str, text: str, kind: str = "text") -> None:
        conversation = await room.conversation(chat)
        room.session.add(
            Message(
                conversation_id=conversation.id,
                author=Author.CUSTOMER,
                kind=kind,
                text=text,
                sent_at=room.now,
                created_at=room.now,
            )
        )
        await room.session.flush()

    async def ticket(chat: str, *said: str) -> int:
        for text in said:
            await say(chat, text)
            room.later(minutes=1)
        return (await room.ticket(said[-1], chat)).id

    first = await ticket("1", "старое обращение")
    await TICKETS.resolve(
        room.session, await desk.get_ticket(room.session, first), agent="Anna", now=room.later(hours=1)
    )
    room.later(minutes=1)
    await say("1", "Да, спасибо", kind="choice")
    passed = await ticket("1", "беседка протекает", "почта anna@mail.example, ответьте")
    stays = await ticket("2", "где заказ")
    held = await desk.get_ticket(room.session, passed)
    await say("1", "это уже после передачи")
    (await desk.get_conversation(room.session, 1)).updated_at = room.later(minutes=1)
    await TICKETS.transfer(room.session, held, "warranty", why="не наше", agent="Anna", now=room.now)
    await TICKETS.transfer(
        room.session, held, "returns", why="нет, это возврат", agent="Oleg", now=room.later(minutes=1)
    )
    found = await corrections(room.session)
    assert [each.ticket_id for each in found] == [passed]
    assert stays not in [each.ticket_id for each in found]
    assert found[0] == Correction(passed, "returns", "ru", ("почта anna@mail.example, ответьте", "беседка протекает"))
    example = as_example(found[0])
    assert (example.text, example.intent) == ("почта <email>, ответьте\nбеседка протекает", "returns")


def test_a_folder_without_tickets_learns_from_its_intents_and_articles(school: School) -> None:
    bare = school.train((), ())
    assert school.route(bare, "how do I pay by card") == "payment"
    assert school.route(bare, "хочу вернуть куртку") == "returns"
