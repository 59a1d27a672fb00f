"""Eight processes over one store and one results folder at the same moment: nothing fails, nothing is lost.

Whoever comes first, the results are those of the same commands one after the other.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from tests.data.builders import paint, paint_mask
from tests.helpers import arguments, differing, tree
from tests.processes import Command, Ended, Starter, starter

CATEGORIES = ("bolt", "nut", "plate", "rod")
ROUNDS = range(5)  # of each kind of race; the first without pauses


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four categories of few images."""
    folder = tmp_path_factory.mktemp("data")
    seed = count()
    for category in CATEGORIES:
        for name in ("train/good/0", "train/good/1", "train/good/2", "test/good/0", "test/crack/0"):
            paint(folder / category / f"{name}.png", next(seed), (32, 32))
        paint_mask(folder / category / "ground_truth/crack/0_mask.png", size=(32, 32))
    return folder


def given(root: Path, *more: object) -> Command:
    """A run in the working folder, with trained weights."""
    words = arguments(root, Path("results"), "pictures=1", "save_maps=true", "scales=[]", *more)
    return "run", tuple(word for word in words if not word.startswith("backbone.pretrained"))


DRAWS = [(f"k_shot={k}", f"seed={seed}") for k, seeds in ((0, 1), (1, 3), (2, 3), (3, 1)) for seed in range(seeds)]
SPLIT = [("k_shot=1", f"dataset.categories=[{category}]") for category in CATEGORIES]
RACES = {"the same": [("k_shot=1",)] * 8, "k and seed": DRAWS, "categories": [*SPLIT, *[("k_shot=1",)] * 4]}
READERS: list[Command] = [("report…", ("page",)), ("report…", ("tables",)), ("claims…", ())]
EVICTORS: list[Command] = [("features…", ("--cache-dir", "cache", "evict", "--all"))] * 2
EVICTORS += [("features…", ("--cache-dir", "cache", "list"))]
VERIFIER: Command = ("features…", ("--cache-dir", "cache", "verify"))


@pytest.fixture(scope="module")
def processes(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """Whoever is forked from this one has the model, the templates and everything else loaded."""
    folder = tmp_path_factory.mktemp("starter")
    with starter(folder, [given(root, "k_shot=1"), ("report", ("tables",)), ("claims", ())]) as started:
        yield started


@dataclass(frozen=True)
class Left:
    """What commands have left: the files of the results, and the features."""

    results: dict[str, bytes]
    features: dict[str, bytes]


@pytest.fixture(scope="module")
def serial(root: Path, processes: Starter, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Left]:
    """By kind of race, what the same commands leave one after the other."""
    left = {}
    for kind in ("the same", "k and seed"):
        folder = tmp_path_factory.mktemp("serial")
        for more in dict.fromkeys(RACES[kind]):
            assert_ended(processes.at_once(folder, [given(root, *more)]))
        left[kind] = Left(tree(folder / "results"), stored(folder / "cache"))
    left["categories"] = left["the same"]  # test_determinism.py: a run by categories is the run
    assert sum(name.endswith(".npz") for name in left["k and seed"].results) == 8 * len(CATEGORIES)
    return left


def assert_ended(ended: Iterable[list[Ended]]) -> None:
    """Everybody has succeeded, each time."""
    for each in ended:
        assert each
        for code, _, err in each:
            assert code == 0, err
            assert "Traceback" not in err


def stored(cache: Path) -> dict[str, bytes]:
    """The features by model, kind and key; a key that several shards hold must have the same in all of them."""
    found: dict[str, bytes] = {}
    for manifest in cache.glob("features/*/*/*.json"):
        rows, start = np.load(manifest.with_suffix(".npy")), 0
        for item in json.loads(manifest.read_bytes())["items"]:
            name = f"{manifest.parent.relative_to(cache)}/{item['key']}"
            own = rows[start : start + item["rows"]].tobytes()
            assert found.setdefault(name, own) == own, f"{name} is stored twice, and differently"
            start += item["rows"]
    return found


def of_runs(found: dict[str, bytes]) -> dict[str, bytes]:
    """What is one run's own: records and what lies beside them, maps and pictures."""
    return {name: content for name, content in found.items() if name.startswith(("records/", "maps/", "pictures/"))}


def assert_whole(processes: Starter, folder: Path) -> None:
    """The store is sound, and no temporary file has stayed."""
    ((code, out, _),) = processes.at_once(folder, [("features", ("--cache-dir", "cache", "verify"))])[0]
    assert code == 0, out
    assert " 0 damaged" in out
    assert list(folder.rglob(".*")) == []


@pytest.fixture(scope="module", params=RACES)
def raced(
    request: pytest.FixtureRequest, root: Path, processes: Starter, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, list[tuple[Path, list[list[Ended]]]]]:
    """Eight processes at once, several times: the kind of race, and each folder with how they ended."""
    commands = [given(root, *more) for more in RACES[request.param]]
    assert len(commands) == 8
    folders = [tmp_path_factory.mktemp("race") for _ in ROUNDS]
    return request.param, [
        (folder, processes.at_once(folder, commands, seed)) for seed, folder in zip(ROUNDS, folders, strict=True)
    ]


def test_who_comes_first_does_not_matter(
    processes: Starter, serial: dict[str, Left], raced: tuple[str, list[tuple[Path, list[list[Ended]]]]]
) -> None:
    """To records, what lies beside them, maps, pictures and features."""
    kind, rounds = raced
    for folder, ended in rounds:
        assert_ended(ended)
        assert [err for ((_, _, err),) in ended if "warning" in err] == []
        assert differing(of_runs(tree(folder / "results")), of_runs(serial[kind].results)) == []
        assert differing(stored(folder / "cache"), serial[kind].features) == []
        assert_whole(processes, folder)


def test_tables_and_pages_have_all_that_is_there(
    serial: dict[str, Left], raced: tuple[str, list[tuple[Path, list[list[Ended]]]]]
) -> None:
    kind, rounds = raced
    for folder, _ in rounds:
        assert differing(tree(folder / "results"), serial[kind].results) == []


def test_readers_and_evictors_disturb_nobody(
    root: Path, processes: Starter, serial: dict[str, Left], tmp_path: Path
) -> None:
    """While runs write, the store is evicted, verified and listed, and pages, tables and verdicts are made."""
    expected, runs = serial["categories"], [given(root, *more) for more in RACES["categories"]]
    for seed in ROUNDS:
        folder = tmp_path / str(seed)
        (folder / "results").mkdir(parents=True)
        (verified, *others) = processes.at_once(folder, [VERIFIER, *runs, *EVICTORS, *READERS], seed)
        assert_ended(others)
        assert [err for each in others[len(runs) :] for _, _, err in each if err] == []
        for _, out, err in verified:
            assert err == ""
            # An evictor can come between the two files of a shard, until the writer looks at it.
            assert all(line.endswith("it is gone") for line in out.splitlines() if ".npy" in line), out
        assert differing(of_runs(tree(folder / "results")), of_runs(expected.results)) == []
        left = stored(folder / "cache")
        assert left.items() <= expected.features.items()
        assert_whole(processes, folder)
