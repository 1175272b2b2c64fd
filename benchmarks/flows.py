"""What a turn in a flow costs beside its lookup: reading the words, the engine, the texts.

python -m benchmarks.flows [--turns N]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bot.dialogue import DialogueState, Utterance
from bot.flows.engine import Tell
from bot.flows.format import load_flows
from bot.flows.stories import POLICY
from bot.flows.turns import FlowBook, decide_turn, glance
from bot.replies import Replies
from handoff.records import Owner

DATA = Path(__file__).parent.parent / "data"
COMMON = {"shop": "Klyon", "hours": "9–21", "privacy_url": "https://klyon.example/p", "first_reply_minutes": 10}
WAYS = {
    ("setup-guide", "en"): ["I have an iphone", "done", "ok", "next", "it does not help", "something else"],
    ("diagnosis", "ru"): ["стиралка", "не сливает воду", "готово", "не помогло", "с прошлого вторника", "4521"],
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--turns", type=int, default=3000)
    turns = arguments.parse_args().turns
    flows, _ = load_flows(DATA / "flows")
    book = FlowBook(flows, common={"ru": COMMON, "en": COMMON})
    replies = Replies((DATA / "replies",), {"ru": COMMON, "en": COMMON})
    now = datetime.now(UTC)
    spent: list[float] = []
    cpu: dict[str, list[float]] = {}

    def take(state: DialogueState, utterance: Utterance) -> DialogueState:
        begun, begun_cpu = time.perf_counter(), time.process_time()
        state = DialogueState.from_json(state.to_json())  # as between two turns
        glance(state, Owner.ASSISTANT, utterance, book, now)
        decision = decide_turn(state, Owner.ASSISTANT, utterance, (), {}, POLICY, book, now)
        for action in decision.actions:
            if isinstance(action, Tell):
                replies.join(action.parts, utterance.lang)
                for label in action.options.values():
                    replies.label(label, utterance.lang)
        spent.append((time.perf_counter() - begun) * 1000)
        cpu.setdefault("a date" if "вторника" in utterance.text else "any other", []).append(
            (time.process_time() - begun_cpu) * 1000
        )
        return decision.state

    while len(spent) < turns:
        now += timedelta(seconds=1)  # as no two turns have one moment, nothing is remembered between them
        for (flow, lang), said in WAYS.items():
            state = take(DialogueState(greeted=True), Utterance("choice", "", lang, choice=f"flow:start:{flow}"))
            for text in said:
                state = take(state, Utterance("text", text, lang))
    warm = sorted(spent[len(spent) // 10 :])
    figures = {
        "turns": len(spent),
        "p50_ms": round(statistics.median(warm), 3),
        "p95_ms": round(warm[int(len(warm) * 0.95)], 3),
        "p99_ms": round(warm[int(len(warm) * 0.99)], 3),
        "first_ms": round(spent[0], 1),
        "processor_ms_p95": {kind: round(statistics.quantiles(each, n=20)[18], 3) for kind, each in cpu.items()},
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
