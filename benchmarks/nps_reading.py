"""What becomes of the message after a customer's 0 to 10: `python -m benchmarks.nps_reading --rows dev`.

Reasons (data/eval/reasons.*.jsonl) should be kept; messages of customers who want something (data/eval/dialogue.*.jsonl
but for `offtopic`) should never be. With the live model of OTVET_VAR, or of the test cache after `make test`.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from bot.cli.console import installation
from bot.desk.nps_reading import reads_as_reason
from bot.dialogue import DialogueState, Utterance
from bot.flows.turns import FlowBook, decide_turn
from bot.models.understanding import Understander
from handoff.records import Owner

DATA = Path(__file__).parent.parent / "data" / "eval"


def main(rows: Annotated[str, typer.Option(help="dev or test.")] = "dev", *, show: bool = False) -> None:
    """show: every row on the wrong side. Nothing is tuned on the rows of `test`."""
    here = installation()
    understander, book = here.understander(), here.flows

    def kept(row: dict[str, Any]) -> bool:
        return _reads(understander, book, row["text"], row["lang"])

    reasons, requests = (list(_read(DATA / f"{name}.{rows}.jsonl")) for name in ("reasons", "dialogue"))
    requests = [row for row in requests if row["kind"] != "offtopic"]
    for name, found in (("reasons", reasons), ("requests", requests)):
        verdicts = [(row, kept(row)) for row in found]
        by_lang = Counter(row["lang"] for row, is_kept in verdicts if is_kept)
        print(f"{name}: {sum(by_lang.values())} of {len(found)} kept as a reason; {dict(by_lang)}")
        if show:
            wrong = [row for row, is_kept in verdicts if is_kept is (name == "requests")]
            print(*(f"  {row['lang']} {row.get('kind', '')} {row['text']}" for row in wrong), sep="\n")


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _reads(understander: Understander, book: FlowBook, text: str, lang: str) -> bool:
    meant = understander.understand(text, lang)
    said = Utterance("text", text, meant.lang)
    state, now = DialogueState(greeted=True), datetime.now(UTC)
    decision = decide_turn(state, Owner.ASSISTANT, said, meant.parts, {}, understander.policy, book, now)
    return reads_as_reason(decision, text)


if __name__ == "__main__":
    typer.run(main)
