"""Pictures of an intent report: whether confidence can be believed, and which intents are taken for which."""

from collections import Counter
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from nlu.evaluation import IntentReport

_MOST_INTENTS: Final = 25  # more names than this cannot be read


def draw(report: IntentReport, folder: Path) -> tuple[Path, Path]:
    """Write `reliability.png` and `confusions.png` into `folder`, made if need be; returns both. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "reliability.png", folder / "confusions.png"
    _reliability(report).savefig(paths[0], dpi=120)
    _confusions(report).savefig(paths[1], dpi=120)
    return paths


def _reliability(report: IntentReport) -> Figure:
    """Share of right answers against mean confidence, in tenths, above the number of messages in each."""
    figure = Figure(figsize=(6, 6.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    bins = [each for each in report.reliability if each.count]
    upper.plot([0, 1], [0, 1], color="grey", linestyle="--", label="as it should be")
    upper.plot([each.confidence for each in bins], [each.right for each in bins], marker="o", label="as it is")
    upper.set(ylabel="share right", xlim=(0, 1), ylim=(0, 1.02), title=f"Calibration error {report.ece:.3f}")
    upper.legend(loc="upper left")
    places = (np.arange(len(report.reliability)) + 0.5) / len(report.reliability)
    lower.bar(places, [each.count for each in report.reliability], width=0.09)
    lower.set(xlabel="confidence", ylabel="messages")
    return figure


def _confusions(report: IntentReport) -> Figure:
    """Each row an intent, as shares of its messages; of many intents those with the most mistakes."""
    mistakes: Counter[str] = Counter()
    for each in report.confusions:
        mistakes[each.intent] += each.count
        mistakes[each.predicted] += each.count
    names = sorted(name for name, _ in mistakes.most_common(_MOST_INTENTS))
    place = {name: number for number, name in enumerate(names)}
    totals: Counter[str] = Counter()
    shares = np.zeros((len(names), len(names)))
    for each in report.said:
        totals[each.intent] += each.count
        if each.intent in place and each.predicted in place:
            shares[place[each.intent], place[each.predicted]] += each.count
    shares /= np.array([max(1, totals[name]) for name in names]).reshape(-1, 1)
    size = 3.5 + 0.3 * len(names)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    if not names:
        axes.set(title="No mistakes", xticks=[], yticks=[])
        return figure
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    for row, column in zip(*np.nonzero(shares >= 0.005), strict=True):
        share = shares[row, column]
        colour = "white" if share > 0.5 else "black"
        axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=6, color=colour)
    axes.set(xlabel="was taken for", ylabel="is", title="Of 100 messages of an intent; the intents with most mistakes")
    figure.colorbar(image, shrink=0.6)
    return figure
