"""What the tests of the whole share; none of them, nor any Python that they start, has a network."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import make_dataset
from tests.no_network import sitecustomize as no_network

pytest_plugins = ["tests.clip.models"]

os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, (str(Path(no_network.__file__).parent), os.environ.get("PYTHONPATH")))
)

# What takes longest comes first, so that no process of the tests ends with it.
LONGEST = ("test_reproduce.py", "test_slurm.py", "test_races.py", "test_determinism.py", "test_kill.py", "test_ray.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the modules by how long they take, as far as that matters."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of the categories ``bolt`` and ``wood_panel``; copy it before changing it."""
    return make_dataset(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="session")
def reached_for(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file in which it is noted what a test wanted from the network."""
    path = tmp_path_factory.mktemp("no_network") / "notes.txt"
    path.touch()
    os.environ[no_network.NOTES] = str(path)
    return path


@pytest.fixture(autouse=True)
def _nothing_is_reached_for(reached_for: Path) -> Iterator[None]:
    """A test that wants something from the network fails, also where whoever wanted it goes on without."""
    yield
    wanted = reached_for.read_text(encoding="utf-8")
    if wanted:
        reached_for.write_text("", encoding="utf-8")
        pytest.fail(wanted, pytrace=False)
