"""The embedded intent engine on public test sets: one run, one JSON table, Markdown rows for RESULTS.md.

    python -m benchmarks.intents --data FOLDER [--set NAME ...] [--var FOLDER] [--no-companion]

FOLDER holds the files that SETS names. Test rows are read once; every threshold comes from the train rows.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from nlu.companion import CompanionEncoder
from nlu.encoder import load_encoder
from nlu.evaluation import embedded_trainer, evaluate_intents
from nlu.training_data import load_intents


@dataclass(frozen=True)
class Rows:
    """Files of one set, without their `.jsonl`."""

    train: str
    test: str


SETS = {
    "BANKING77 5-shot": Rows("banking77-5shot.en.train", "banking77.en.test"),
    "BANKING77 10-shot": Rows("banking77-10shot.en.train", "banking77.en.test"),
    "BANKING77 full": Rows("banking77.en.train", "banking77.en.test"),
    "CLINC150 5-shot": Rows("clinc150-5shot.en.train", "clinc150.en.test"),
    "CLINC150 10-shot": Rows("clinc150-10shot.en.train", "clinc150.en.test"),
    "CLINC150 full": Rows("clinc150.en.train", "clinc150.en.test"),
    "HINT3 SOFMattress": Rows("hint3v1-sofmattress.en.train", "hint3v1-sofmattress.en.test"),
}
COLUMNS = (
    "n_train",
    "in_scope_accuracy",
    "accuracy",
    "macro_f1",
    "oos_recall",
    "mcc",
    "auroc",
    "ece",
    "coverage_at_95_precision",
    "train_seconds",
    "predict_ms_p50",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", action="append", choices=SETS, help="may be repeated; all by default")
    parser.add_argument("--var", type=Path, default=Path("var"))
    parser.add_argument("--no-companion", action="store_true", help="the multilingual encoder alone")
    arguments = parser.parse_args()
    encoder = load_encoder(arguments.var / "encoder")
    trainer = embedded_trainer(encoder, None if arguments.no_companion else CompanionEncoder())
    table = {}
    for name in arguments.set or SETS:
        rows = SETS[name]
        train, test = (load_intents(arguments.data / f"{file}.jsonl") for file in (rows.train, rows.test))
        figures = evaluate_intents(train, test, trainer).figures()
        table[name] = figures
        print(json.dumps({"set": name} | figures), flush=True)
    print(json.dumps(table, indent=2))
    print(f"| set | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    for name, figures in table.items():
        print(f"| {name} | {' | '.join(str(figures[column]) for column in COLUMNS)} |")


if __name__ == "__main__":
    main()
