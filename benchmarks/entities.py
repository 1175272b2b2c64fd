"""How well messages fill slots: precision, recall and F1 over (slot, value) pairs of written utterances.

    python -m benchmarks.entities [--half dev|test] [--json] [--wrong]

A value counts when slot and value are exactly those of the row, so a number that is taken for an order's costs both
precision and, where another was meant, recall. `--wrong` shows the mistakes, of the development half alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from pydantic import TypeAdapter

from nlu.entities import SlotType, find_entities

EVAL = Path(__file__).parents[1] / "data" / "eval"
DAYS = ("bought", "when")
"""Of the two a row wants the one that it names."""


@dataclass(frozen=True)
class Figures:
    utterances: int
    right: int
    found: int
    told: int
    exact: int
    """Utterances all of whose slots are right."""
    ms: tuple[float, ...]

    @property
    def f1(self) -> float:
        return 2 * self.right / (self.found + self.told)

    def to_json(self) -> dict[str, Any]:
        return {
            "utterances": self.utterances,
            "slots": self.told,
            "precision": round(self.right / self.found, 4),
            "recall": round(self.right / self.told, 4),
            "f1": round(self.f1, 4),
            "exact": round(self.exact / self.utterances, 4),
            "ms_p50": round(median(self.ms), 2),
            "ms_p95": round(quantiles(self.ms, n=20)[-1], 2),
        }


def measure(lang: str, half: str, *, wrong: bool = False) -> Figures:
    given = json.loads((EVAL / "entities.slots.json").read_text("utf-8"))
    slots: Mapping[str, SlotType] = TypeAdapter(dict[str, SlotType]).validate_python(given["slots"])
    now = datetime.fromisoformat(given["now"])
    rows = [json.loads(line) for line in (EVAL / f"entities.{lang}.{half}.jsonl").read_text("utf-8").splitlines()]
    find_entities("two weeks ago", lang, slots, now)  # the library of days is loaded once
    right = found = told = exact = 0
    ms = []
    for row in rows:
        wanted = {name: slot for name, slot in slots.items() if name not in DAYS or name == row["day"]}
        begun = time.perf_counter()
        got = {each.slot: each.value for each in find_entities(row["text"], lang, wanted, now, asked=row.get("asked"))}
        ms.append((time.perf_counter() - begun) * 1000)
        right += len(got.items() & row["slots"].items())
        found += len(got)
        told += len(row["slots"])
        exact += got == row["slots"]
        if wrong and got != row["slots"]:
            print(f"{lang} {row['text']!r} asked={row.get('asked')}: {got} instead of {row['slots']}")
    return Figures(len(rows), right, found, told, exact, tuple(ms))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--half", choices=("dev", "test"), default="test")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--wrong", action="store_true")
    chosen = parser.parse_args()
    results = {
        lang: measure(lang, chosen.half, wrong=chosen.wrong and chosen.half == "dev").to_json() for lang in ("ru", "en")
    }
    if chosen.json:
        print(json.dumps(results))
        return
    for lang, figures in results.items():
        print(lang, " ".join(f"{name}={value}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
