"""The intent engines on public test sets, on the same rows in one run: a JSON table, Markdown rows for RESULTS.md.

    python -m benchmarks.intents --data FOLDER [--set NAME ...] [--engine NAME ...] [--var FOLDER] [--no-companion]

FOLDER holds the files that SETS names. Test rows are read once; every threshold comes from the train rows.
"""

import argparse
import json
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from nlu.companion import CompanionEncoder
from nlu.encoder import load_encoder
from nlu.evaluation import embedded_trainer, evaluate_intents
from nlu.rasa.evaluation import rasa_trainer
from nlu.rasa.process import RasaPython
from nlu.rasa.project import PIPELINES
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
RASA_PIPELINES = {"rasa": "light", "rasa-default": "default"}
ENGINES = ("embedded", "embedded-deep", *RASA_PIPELINES)
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
    parser.add_argument("--engine", action="append", choices=ENGINES, help="may be repeated; default: embedded")
    parser.add_argument("--rasa", type=Path, default=Path(".venv-rasa"), help="the environment of `make rasa`")
    arguments = parser.parse_args()
    encoder = load_encoder(arguments.var / "encoder")
    companion = None if arguments.no_companion else CompanionEncoder()
    python = RasaPython(arguments.rasa, arguments.var / "encoder" / encoder.name)
    table: dict[str, dict[str, float | int | str | None]] = {}
    for name in arguments.set or SETS:
        rows = SETS[name]
        train, test = (load_intents(arguments.data / f"{file}.jsonl") for file in (rows.train, rows.test))
        for engine in arguments.engine or ENGINES[:1]:
            with ExitStack() as stack:
                if engine in ENGINES[:2]:
                    trainer = embedded_trainer(encoder, companion, deep=engine == "embedded-deep")
                else:
                    pipeline = PIPELINES[RASA_PIPELINES[engine]]
                    trainer = stack.enter_context(
                        rasa_trainer(python, encoder, companion=companion, pipeline=pipeline, progress=_progress)
                    )
                figures = evaluate_intents(train, test, trainer, engine=engine).figures()
            table[f"{name} | {engine}"] = figures
            print(json.dumps({"set": name} | figures), flush=True)
    print(json.dumps(table, indent=2))
    print(f"| set | engine | {' | '.join(COLUMNS)} |\n|---|---|{'---|' * len(COLUMNS)}")
    for name, figures in table.items():
        print(f"| {name} | {' | '.join(str(figures[column]) for column in COLUMNS)} |")


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
