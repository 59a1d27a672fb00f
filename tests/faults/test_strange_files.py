"""Files of the store, of results and of a dataset that are not what their names say: nothing hangs or is mixed."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.faults.harness import Place, assert_whole, run, tree
from winclip_bench.features.__main__ import find_models, verify
from winclip_bench.features.shards import Item, Shards

Spoil = Callable[[Path], object]
SOON = 20.0  # seconds; what waits for a pipe waits for ever


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_device(path: Path) -> None:
    """It can be read, and has no end."""
    path.unlink()
    path.symlink_to("/dev/zero")


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").touch()


def as_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


@pytest.fixture(scope="session")
def finished(ground: tuple[Place, dict[str, bytes]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the cache and results of the quick run."""
    kept = tmp_path_factory.mktemp("finished")
    place = ground[0]
    assert run(place, place.words()).code == 0
    for folder in (place.cache, place.results):
        shutil.copytree(folder, kept / folder.name)
    return kept


@pytest.fixture
def full(place: Place, finished: Path) -> Place:
    """The place after the quick run."""
    shutil.copytree(finished, place.folder, dirs_exist_ok=True)
    return place


def shards(place: Place, ending: str) -> list[Path]:
    """Arrays or manifests of the store, of images and of prompts."""
    found = list(place.cache.glob(f"features/*/*/*{ending}"))
    assert len(found) >= 4
    return found


# The store


@pytest.mark.parametrize("ending", [".npy", ".json"])
def test_a_store_of_anything_but_files(full: Place, undisturbed: dict[str, bytes], ending: str) -> None:
    """Passed over with a warning each, computed again, and replaced where it can be."""
    shutil.rmtree(full.results)
    spoilt = shards(full, ending)
    for number, path in enumerate(spoilt):
        (as_pipe, as_device, as_loop, as_folder)[number % 4](path)
    ended = run(full, full.words(), patience=SOON)
    assert ended.code == 0, ended.err
    assert tree(full.results) == undisturbed
    unusable = {line.split()[1] for line in ended.warnings if "cannot be used" in line}
    assert unusable == {str(path.with_suffix(".npy")) for path in spoilt}
    # What could not be replaced is named by verify, and in nobody's way once it has been taken out.
    odd = [path for path in spoilt if not path.is_file() or path.is_symlink()]
    assert {fault.split(": ")[0] for fault in verify(find_models(full.cache))} == {
        str(path.with_suffix(".npy")) for path in odd
    }
    for path in odd:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.with_suffix(".json").unlink(missing_ok=True)
    assert_whole(full)
    shutil.rmtree(full.results)
    ended = run(full, full.words())
    assert ended.code == 0, ended.err
    assert ended.warnings == []
    assert tree(full.results) == undisturbed


def test_the_features_of_another_model(full: Place, undisturbed: dict[str, bytes]) -> None:
    """Whole, of the same images and of the same shape: only what they say of themselves tells them apart."""
    shutil.rmtree(full.results)
    spoilt = shards(full, ".json")
    for number, manifest in enumerate(spoilt):
        array = np.load(manifest.with_suffix(".npy"))
        items = [Item(**item) for item in json.loads(manifest.read_text())["items"]]
        foreign = full.folder / str(number) / ("0" * 16) / manifest.parent.name
        Shards(foreign).write(items, array + 1)
        for path in foreign.iterdir():
            shutil.copy(path, manifest.with_suffix(path.suffix))
        shutil.rmtree(full.folder / str(number))
    assert len(verify(find_models(full.cache))) == len(spoilt)
    ended = run(full, full.words())
    assert ended.code == 0, ended.err
    assert tree(full.results) == undisturbed
    assert len(ended.warnings) == len(spoilt)
    assert all(f"it was written for '{'0' * 16}/" in warning for warning in ended.warnings)
    assert_whole(full)


def test_features_from_before_manifests_said_whose_they_are(full: Place, undisturbed: dict[str, bytes]) -> None:
    shutil.rmtree(full.results)
    for manifest in shards(full, ".json"):
        content = json.loads(manifest.read_text())
        del content["folder"]
        manifest.write_text(json.dumps(content))
    ended = run(full, full.words())
    assert ended.code == 0, ended.err
    assert ended.warnings == []
    assert "0 images encoded" in ended.err
    assert tree(full.results) == undisturbed


# Results


def as_another_runs(path: Path) -> None:
    """A record of another configuration under this one's name."""
    record = json.loads(path.read_text())
    record["run_id"] = "0" * 12
    record["config"]["k_shot"] = 0
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("file", "spoil", "again"),
    [
        ("records/*/*/bolt.json", as_pipe, ["bolt"]),
        ("records/*/*/bolt.json", as_device, ["bolt"]),
        ("records/*/*/bolt.json", as_loop, ["bolt"]),
        ("records/*/*/bolt.json", as_another_runs, ["bolt"]),
        ("pictures/*/bolt/pictures.json", as_pipe, []),
    ],
)
def test_results_of_anything_but_files(
    full: Place, undisturbed: dict[str, bytes], file: str, spoil: Spoil, again: list[str]
) -> None:
    (path,) = full.results.glob(file)
    spoil(path)
    ended = run(full, full.words(), patience=SOON)
    assert ended.code == 0, ended.err
    assert [name for name in ("bolt", "wood_panel") if f"{name}: 4 test images" in ended.err] == again
    if not again:  # the page does without, and says so
        assert (
            "is not usable" in (full.results / "page").joinpath("folder", f"{path.parent.parent.name}.html").read_text()
        )
        path.unlink()
        assert run(full, full.words()).code == 0
    assert tree(full.results) == undisturbed


@pytest.mark.parametrize("spoil", [as_pipe, as_device, as_folder])
def test_a_cache_of_digests_of_anything_but_files(full: Place, undisturbed: dict[str, bytes], spoil: Spoil) -> None:
    path = full.cache / "file-digests.json"
    path.touch()
    spoil(path)
    ended = run(full, full.words(), patience=SOON)
    assert ended.code == 0, ended.err
    assert "finished before" in ended.err
    assert tree(full.results) == undisturbed


# The dataset


@pytest.mark.parametrize("spoil", [as_pipe, as_device])
@pytest.mark.parametrize("name", ["test/good/000.png", "ground_truth/crack/000_mask.png"])
def test_a_dataset_of_anything_but_files(place: Place, name: str, spoil: Spoil) -> None:
    own = Place(place.folder, shutil.copytree(place.root, place.folder / "parts"))
    spoil(own.root / "bolt" / name)
    ended = run(own, own.words(), patience=SOON)
    assert ended.code == 1
    (complaint,) = ended.complaints
    assert complaint.startswith("error: bolt: ")
    assert str(own.root / "bolt" / name) in complaint
    assert "a pipe or a device" in complaint
    assert [path.stem for path in own.results.glob("records/*/*/*.json")] == ["wood_panel"]
