"""A simulated month in small: every clock against minutes counted one by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import month


async def test_every_clock_of_a_month_is_right(tmp_path: Path) -> None:
    found = await month.simulate(tmp_path, 800, seed=7, tables=False)
    assert found["wrong"] == 0
    assert found["tickets"] == 800
    assert int(str(found["clocks"])) > 1600


async def test_the_same_in_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(month, "DAYS", 3)
    found = await month.simulate(tmp_path, 60, seed=7, tables=True)
    assert found["wrong"] == 0
    assert int(str(found["alarms"])) > 10


async def test_a_wrong_clock_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(month.PROMISED, "orders", (11, 30, 720))
    found = await month.simulate(tmp_path, 100, seed=7, tables=False)
    assert int(str(found["wrong"])) > 0
