"""Model versions appear whole or not at all, and the live one changes in one step."""

import multiprocessing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nlu.errors import LiveChanged, ModelDamaged, ModelNotFound
from nlu.models import Canary, InUse, ModelStore


class Clock:
    """A clock that is one second later each time it is read."""

    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models", Clock())


def write_version(store: ModelStore, content: str = "weights") -> str:
    with store.new_version() as draft:
        (draft.path / "head.txt").write_text(content)
        draft.manifest["seed"] = 7
    return draft.id


def test_an_empty_store_has_no_versions_and_none_live(store: ModelStore) -> None:
    assert (store.versions(), store.live_id(), store.live()) == ((), None, None)


def test_a_new_version_is_listed_with_its_manifest_but_is_not_live(store: ModelStore) -> None:
    first, second = write_version(store), write_version(store)

    assert [each.id for each in store.versions()] == [first, second]
    assert store.show(second).manifest["seed"] == 7
    assert store.live_id() is None


def test_a_training_that_fails_leaves_nothing_behind(store: ModelStore, tmp_path: Path) -> None:
    def fail() -> None:
        with store.new_version() as draft:
            (draft.path / "head.txt").write_text("half")
            raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        fail()

    assert list((tmp_path / "models").iterdir()) == []


def test_a_draft_in_progress_is_not_seen(store: ModelStore) -> None:
    with store.new_version() as draft:
        (draft.path / "head.txt").write_text("half")
        assert store.versions() == ()


def test_promotion_is_seen_by_another_store_on_the_same_folder(store: ModelStore, tmp_path: Path) -> None:
    version = write_version(store)
    store.promote(version)

    live = ModelStore(tmp_path / "models", Clock()).live()

    assert live is not None
    assert (live.id, (live.path / "head.txt").read_text()) == (version, "weights")


def test_rollback_returns_to_the_version_before(store: ModelStore) -> None:
    first, second = write_version(store), write_version(store)
    store.promote(first)
    store.promote(second)

    assert store.rollback().id == first
    assert store.live_id() == first
    with pytest.raises(ModelNotFound, match="before this one"):
        store.rollback()


def test_two_who_go_back_at_once_go_back_one_version(store: ModelStore) -> None:
    first, second, third = (write_version(store) for _ in range(3))
    for each in (first, second, third):
        store.promote(each)
    store.rollback(after=third)
    with pytest.raises(LiveChanged, match=second):
        store.rollback(after=third)
    with pytest.raises(LiveChanged):
        store.promote(third, after=third)
    assert store.live_id() == second


def test_a_version_with_a_changed_file_is_refused_and_the_live_one_stays(store: ModelStore) -> None:
    first, second = write_version(store), write_version(store)
    store.promote(first)
    (store.show(second).path / "head.txt").write_text("flipped")

    with pytest.raises(ModelDamaged, match=r"head\.txt"):
        store.promote(second)

    assert store.live_id() == first


def test_a_torn_manifest_hides_the_version(store: ModelStore) -> None:
    version = write_version(store)
    (store.show(version).path / "manifest.json").write_text('{"id": ')

    assert store.versions() == ()
    with pytest.raises(ModelDamaged, match="Train again"):
        store.show(version)


@pytest.mark.parametrize("version", ["", "..", "../models", "20300101T000001000000Z-ffff"])
def test_an_unknown_version_is_not_found(store: ModelStore, version: str) -> None:
    write_version(store)

    with pytest.raises(ModelNotFound, match="otvet models list"):
        store.promote(version)


def test_pruning_keeps_the_newest_the_live_one_and_the_one_before_it(store: ModelStore) -> None:
    ids = [write_version(store) for _ in range(5)]
    store.promote(ids[0])
    store.promote(ids[1])

    assert store.prune(keep=1) == (ids[2], ids[3])
    assert [each.id for each in store.versions()] == [ids[0], ids[1], ids[4]]


def _promote_each(folder: Path, ids: list[str]) -> None:
    store = ModelStore(folder, Clock())
    for version_id in ids:
        store.promote(version_id)


def test_processes_that_promote_at_once_forget_nothing(store: ModelStore, tmp_path: Path) -> None:
    ids = [write_version(store, str(number)) for number in range(20)]
    spawn = multiprocessing.get_context("spawn")
    others = [spawn.Process(target=_promote_each, args=(tmp_path / "models", part)) for part in (ids[:10], ids[10:])]
    for process in others:
        process.start()
    seen = set()
    while any(process.is_alive() for process in others):
        seen.add(store.live_id())  # never torn, whatever the others are at
    for process in others:
        process.join()

    assert [process.exitcode for process in others] == [0, 0]
    assert seen <= {None, *ids}
    assert {store.live_id(), *(store.rollback().id for _ in range(19))} == set(ids)


def test_a_version_on_trial_answers_beside_the_live_one_until_either_wins(store: ModelStore) -> None:
    first, second, third = (write_version(store) for _ in range(3))
    store.promote(first)
    store.try_out(second, 0.2)
    assert store.in_use() == InUse((first,), Canary(second, 0.2))
    store.try_out(second, 0.5)
    assert store.in_use().canary == Canary(second, 0.5)
    assert store.live_id() == first
    assert store.end_trial() == Canary(second, 0.5)
    assert store.in_use() == InUse((first,))
    assert store.end_trial() is None
    store.try_out(second, 0.5)
    store.promote(second)
    assert store.in_use() == InUse((first, second))
    store.try_out(third, 1)
    store.rollback()
    assert store.in_use() == InUse((first,))


def test_only_another_version_than_the_live_one_can_be_on_trial(store: ModelStore) -> None:
    first = write_version(store)
    with pytest.raises(ModelNotFound):
        store.try_out(first, 0.1)
    store.promote(first)
    with pytest.raises(ModelNotFound):
        store.try_out(first, 0.1)
    with pytest.raises(ValueError, match="share"):
        store.try_out(write_version(store), 0)


def test_what_is_on_trial_is_never_deleted(store: ModelStore) -> None:
    first, second, third = (write_version(store) for _ in range(3))
    store.promote(first)
    store.try_out(second, 0.1)
    assert store.prune(1) == ()
    assert [each.id for each in store.versions()] == [first, second, third]
