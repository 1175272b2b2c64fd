"""Fixtures that several kinds of test share."""

import os
from pathlib import Path

import pytest

from nlu.encoder import Encoder, load_encoder

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def encoder_folder() -> Path:
    """Where the tests keep the prepared encoder between runs."""
    return Path(os.environ.get("OTVET_TEST_CACHE", ROOT / "var" / "test-cache" / "encoder"))


@pytest.fixture(scope="session")
def encoder(encoder_folder: Path) -> Encoder:
    """The default encoder."""
    return load_encoder(encoder_folder)
