"""A place to break things in, and what an undisturbed run leaves there."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.harness import Events, Place, clear, run, tree
from tests.helpers import arguments, command

OLD = 2.1  # seconds, after which the digest of a file is remembered


@pytest.fixture(scope="session")
def warm(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """This process has imported everything and loaded the model, so that its children need not."""
    folder = tmp_path_factory.mktemp("warm")
    assert command(*arguments(parts, folder / "results", "k_shot=1", "save_maps=true", "pictures=2")).code == 0


@pytest.fixture(scope="session")
def ground(warm: None, parts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, dict[str, bytes]]:
    """The place of all tests, and the files that the quick run leaves there."""
    place = Place(tmp_path_factory.mktemp("faults"), parts)
    ended = run(place, place.words())
    assert ended.code == 0, ended.err
    left = tree(place.results)
    while time.time() - max(path.stat().st_ctime for path in parts.rglob("*")) < OLD:
        time.sleep(0.01)
    return place, left


@pytest.fixture(scope="session")
def events(ground: tuple[Place, dict[str, bytes]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """How many events the quick run has, by stage."""
    place = Place(tmp_path_factory.mktemp("events"), ground[0].root)
    ended = run(place, place.words(), Events().counted(place.folder / "events.json"))
    assert ended.code == 0, ended.err
    counts: dict[str, int] = json.loads((place.folder / "events.json").read_text())
    return counts


@pytest.fixture
def place(ground: tuple[Place, dict[str, bytes]]) -> Iterator[Place]:
    """The same folder for every test, because records keep their settings; nothing is in it but the dataset."""
    place, _ = ground
    clear(place)
    yield place
    clear(place)


@pytest.fixture
def undisturbed(ground: tuple[Place, dict[str, bytes]]) -> dict[str, bytes]:
    """The files that the quick run leaves at that place."""
    return ground[1]
