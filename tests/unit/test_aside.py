"""Work in a second process."""

from __future__ import annotations

import os

import numpy as np
import pytest

from nlu.aside import Aside
from nlu.encoder import Encoder


def test_what_is_worked_out_aside_comes_back_and_changes_nothing_here() -> None:
    kept = [1]

    def work() -> tuple[int, list[int]]:
        kept.append(2)
        return os.getpid(), kept

    process, seen = Aside(work).result()
    assert process != os.getpid()
    assert (seen, kept) == ([1, 2], [1])


def test_work_that_is_not_apart_is_done_when_it_is_asked_for() -> None:
    aside = Aside(os.getpid, apart=False)
    assert aside.result() == os.getpid()


def test_what_goes_wrong_aside_is_raised_here(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise ValueError(f"in {os.getpid()}")

    with pytest.raises(ValueError, match=str(os.getpid())):
        Aside(work).result()
    assert "ValueError" in capfd.readouterr().err


def test_what_a_killed_process_did_not_do_is_done_here() -> None:
    here = os.getpid()

    def work() -> int:
        if os.getpid() != here:
            os._exit(9)
        return 7

    assert Aside(work).result() == 7


def test_the_encoder_works_on_both_sides(encoder: Encoder) -> None:
    texts = ["where is my order", "где мой заказ", "how do I pay"]
    before = encoder.encode(texts, "passage")  # its threads have begun
    aside = Aside(lambda: encoder.encode(texts, "passage"))
    assert np.array_equal(aside.result(), before)
