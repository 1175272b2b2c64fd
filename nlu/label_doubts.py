"""Examples whose intent is probably wrong, found by confident learning: Northcutt, Jiang, Chuang, "Confident learning:
estimating uncertainty in dataset labels", 2021, as `cleanlab` has it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from nlu.intents import OUTSIDE, IntentPrediction
from nlu.training_data import OUT_OF_SCOPE_INTENTS, Example

LEAST_EXAMPLES: Final = 2
"""Of a class with fewer nothing is known: none is left when one is left out."""


@dataclass(frozen=True)
class LabelDoubt:
    """quality: 0..1, how well the label fits; suggested: the intent that fits best."""

    text: str
    lang: str | None
    intent: str
    suggested: str
    quality: float


def doubtful(examples: Sequence[Example], left_out: Sequence[IntentPrediction]) -> list[LabelDoubt]:
    """The examples that are probably labelled wrongly, the worst first.

    left_out: the prediction for each example by a model that has not seen it. Takes about a second to import what
    it works with.
    """
    # Here: it brings pandas, and only a training needs it.
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    labels = [OUTSIDE if each.intent in OUT_OF_SCOPE_INTENTS else each.intent for each in examples]
    names = sorted({name for name in labels if labels.count(name) >= LEAST_EXAMPLES})
    at = {name: number for number, name in enumerate(names)}
    rows = [number for number, name in enumerate(labels) if name in at]
    if len(names) < 2:
        return []
    chances = np.full((len(rows), len(names)), 1e-9)
    for row, number in enumerate(rows):
        prediction = left_out[number]
        in_scope = min(1.0, prediction.confidence / max(prediction.ranking[0][1], 1e-9))
        for name, chance in prediction.ranking:
            if name in at:
                chances[row, at[name]] += chance * in_scope
        if OUTSIDE in at:
            chances[row, at[OUTSIDE]] += 1 - in_scope
    chances /= chances.sum(axis=1, keepdims=True)
    given = np.array([at[labels[number]] for number in rows])
    wrong = find_label_issues(given, chances, n_jobs=1)
    quality = get_label_quality_scores(given, chances)
    found = [
        LabelDoubt(
            text=examples[number].text,
            lang=examples[number].lang,
            intent=examples[number].intent,
            suggested=names[int(np.argmax(chances[row]))],
            quality=round(float(quality[row]), 4),
        )
        for row, number in enumerate(rows)
        if wrong[row] and int(np.argmax(chances[row])) != given[row]
    ]
    return sorted(found, key=lambda doubt: doubt.quality)
