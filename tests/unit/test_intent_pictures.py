"""`otvet evaluate intents --pictures` draws what the report says."""

from pathlib import Path

import pytest
from PIL import Image

from nlu.evaluation import Confusion, IntentReport, ReliabilityBin
from nlu.pictures import draw


def report(said: tuple[Confusion, ...]) -> IntentReport:
    bins = [ReliabilityBin(0, 0.0, 0.0)] * 8 + [ReliabilityBin(3, 0.85, 1.0), ReliabilityBin(5, 0.95, 0.8)]
    return IntentReport(0.8, 0.9, 0.8, None, 0.8, None, 0.1, 0.5, 1.0, 2.0, 20, 10, "embedded", tuple(bins), said)


@pytest.mark.parametrize("mistakes", [0, 1, 60])
def test_both_pictures_are_drawn_for_no_few_and_many_mistakes(tmp_path: Path, mistakes: int) -> None:
    said = [Confusion("delivery", "delivery", 5), *(Confusion(f"intent {n}", "оплата", 1) for n in range(mistakes))]

    paths = draw(report(tuple(said)), tmp_path / "new" / "folder")

    assert [path.name for path in paths] == ["reliability.png", "confusions.png"]
    for path in paths:
        with Image.open(path) as picture:
            colours = picture.convert("RGB").getcolors(1 << 24)
            assert min(picture.size) > 300
            assert colours
            assert len(colours) > 10
