"""What the tests of the whole share."""

from pathlib import Path

import pytest

from tests.helpers import make_dataset

pytest_plugins = ["tests.clip.models"]


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of the categories ``bolt`` and ``wood_panel``; copy it before changing it."""
    return make_dataset(tmp_path_factory.mktemp("parts"))
