"""How many of the written questions that a flow stands for begin to be settled without a person.

    python -m benchmarks.settled --var VAR [--half dev|test]

Counted are the in-scope questions whose right article a flow with a lookup stands for. Settled: the first turn starts
the flow of the right article, or answers with the right article. Offered: it asks back, with the right one among the
choices. The rest goes to a person or somewhere wrong. Whether the customer then carries the flow through is not asked.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from bot.dialogue import Answer, Clarify, DialogueState, Handoff, Utterance
from bot.flows.turns import NO_FLOWS, decide_turn
from bot.model_wiring import utc_now
from bot.models.evaluation import load_questions
from bot.settings import Settings
from bot.wiring import Installation
from handoff.records import Owner

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--var", type=Path, required=True)
    parser.add_argument("--half", choices=("dev", "test"), default="test")
    chosen = parser.parse_args()
    installation = Installation(Settings(_env_file=None, var=chosen.var, data=ROOT / "data"))
    understander, book = installation.understander(), installation.flows
    questions = load_questions(ROOT / "data" / "eval" / f"dialogue.{chosen.half}.jsonl")
    counts = {"with flows": Counter[str](), "without": Counter[str]()}
    started = Counter[str]()
    for question in questions:
        understood = understander.understand(question.text, question.lang)
        said = Utterance("text", question.text, understood.lang)
        for name, flows in (("with flows", book), ("without", NO_FLOWS)):
            state, policy = DialogueState(greeted=True), understander.policy
            decision = decide_turn(state, Owner.ASSISTANT, said, understood.parts, {}, policy, flows, utc_now())
            begun = decision.state.flow
            right = begun is not None and bool(question.articles & set(book.flows[begun.flow].file.articles))
            if name == "with flows" and begun:
                started["right" if right else "wrong"] += 1
            if not question.articles & set(book.by_article):
                continue
            answered = {each.candidate.article_id for each in decision.actions if isinstance(each, Answer)}
            asked = {c.article_id for each in decision.actions if isinstance(each, Clarify) for c in each.candidates}
            if right or answered & question.articles:
                counts[name]["settled"] += 1
            elif asked & question.articles:
                counts[name]["offered"] += 1
            elif any(isinstance(each, Handoff) for each in decision.actions):
                counts[name]["person"] += 1
            else:
                counts[name]["other"] += 1
    print(json.dumps({**{name: dict(each) for name, each in counts.items()}, "flows_started": dict(started)}))


if __name__ == "__main__":
    main()
