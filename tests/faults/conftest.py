"""A place to break things in, and what an undisturbed run leaves there."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.harness import Events, Place, run, tree
from tests.helpers import arguments, command


@pytest.fixture(scope="session")
def warm(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """This process has imported everything and loaded the model, so that its children need not."""
    folder = tmp_path_factory.mktemp("warm")
    assert command(*arguments(parts, folder / "results", "k_shot=1", "save_maps=true", "pictures=2")).code == 0


@pytest.fixture(scope="session")
def _ground(warm: None, parts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, dict[str, bytes]]:
    place = Place(tmp_path_factory.mktemp("faults"), parts)
    ended = run(place, place.words())
    assert ended.code == 0, ended.err
    return place, tree(place.results)


@pytest.fixture(scope="session")
def events(_ground: tuple[Place, dict[str, bytes]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """How many events the quick run has, by stage."""
    place = Place(tmp_path_factory.mktemp("events"), _ground[0].root)
    ended = run(place, place.words(), Events().counted(place.folder / "events.json"))
    assert ended.code == 0, ended.err
    counts: dict[str, int] = json.loads((place.folder / "events.json").read_text())
    return counts


@pytest.fixture
def place(_ground: tuple[Place, dict[str, bytes]]) -> Iterator[Place]:
    """The same folder for every test, because records keep their settings; nothing is in it but the dataset."""
    place, _ = _ground
    clear(place)
    yield place
    clear(place)


@pytest.fixture
def undisturbed(_ground: tuple[Place, dict[str, bytes]]) -> dict[str, bytes]:
    """The files that the quick run leaves at that place."""
    return _ground[1]


def clear(place: Place) -> None:
    """Take away all that runs have left."""
    for path in place.folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
