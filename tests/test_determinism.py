"""Two runs of the same thing are the same thing; docs/determinism.md names the test of each promise."""

import csv
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import (
    REPOSITORY,
    arguments,
    command,
    counted_evaluations,
    differing,
    forget_stores,
    read_records,
    run_ids,
    tree,
    without,
)
from winclip_bench import runner
from winclip_bench.cli import compose
from winclip_bench.data.demo import make_sample

TOLERANCE = 1e-6  # of metrics, image scores and maps in fp32
OTHER_ARITHMETIC = 0.01  # of the demo model's maps in another precision or on another device; 0.0006 in bf16

TYPING = ("method=defect_types", "k_shot=3")
NORMAL = "method.threshold_rule=normal"
RUNS = {
    "zero-shot": ("k_shot=0",),
    "few-shot": ("k_shot=2",),
    "single": (*TYPING, "stage=single", NORMAL),
    "two": (*TYPING, "stage=two", "method.threshold_rule=conformal"),
    "two, winclip": (*TYPING, "stage=two", NORMAL, "method.first_stage=winclip"),
    "defects only": (*TYPING, "stage=defects_only", NORMAL),
    "prototypes": ("method=prototypes", "k_shot=3", NORMAL),
    "linear head": ("method=linear_head", "k_shot=3"),
    "bf16": ("k_shot=2", "runtime.precision=bf16"),
}


def run(root: Path, *more: object) -> None:
    """A run in the working folder, with trained weights and everything that can be written."""
    outcome = command(*settings(root, *more))
    assert outcome.code == 0, outcome.err


def settings(root: Path, *more: object) -> list[str]:
    """Relative places, so that equal runs in different working folders have equal configurations."""
    given = arguments(root, Path("results"), "save_maps=true", *more)
    return [word for word in given if not word.startswith("backbone.pretrained")]


def everything(root: Path) -> dict[str, bytes]:
    """What all of RUNS leave in the working folder, which is then without results again."""
    for more in RUNS.values():
        run(root, *more)
    return gathered()


def gathered() -> dict[str, bytes]:
    found = tree(Path("results"))
    shutil.rmtree("results")
    return found


@contextmanager
def inside(folder: Path) -> Iterator[Path]:
    """A working folder, in which no store is open and nothing is remembered yet."""
    folder.mkdir(parents=True, exist_ok=True)
    before = Path.cwd()
    os.chdir(folder)
    forget_stores()
    try:
        yield folder
    finally:
        os.chdir(before)
        forget_stores()


@pytest.fixture(scope="module")
def cold(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """What all of RUNS leave that begin without a store, and the working folder, which has the store by now."""
    with inside(tmp_path_factory.mktemp("cold")) as place:
        found = everything(parts)
    kinds = {Path(name).suffix for name in found}
    assert kinds == {".json", ".csv", ".npz", ".safetensors", ".md", ".tex", ".webp", ".html"}
    counted = {ending: sum(name.endswith(ending) for name in found) for ending in (".types.npz", ".head.safetensors")}
    assert counted == {".types.npz": 2 * 4, ".head.safetensors": 2 * 1}  # two categories
    return place, found


def test_the_store_changes_no_byte(parts: Path, cold: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    """From a warm store, and without a usable one; what a process remembers, the order of a sweep tests."""
    place, expected = cold
    with inside(place), mock.patch.object(runner, "_backbone", side_effect=AssertionError("something was encoded")):
        assert differing(everything(parts), expected) == []
    with inside(tmp_path):
        Path("cache").write_text("a file, in which no folder can be made")
        assert differing(everything(parts), expected) == []


SOME = ("few-shot", "two", "linear head")


def some(root: Path, *more: object) -> None:
    for name in SOME:
        run(root, *RUNS[name], *more)


def content(found: dict[str, bytes]) -> dict[str, bytes]:
    """A tree without what says how its runs were asked for: ``config`` of the records, and the pages that show it."""
    kept = {name: value for name, value in found.items() if not name.endswith(".html")}
    for name, value in kept.items():
        if name.startswith("records/") and name.endswith(".json"):
            kept[name] = json.dumps(without(json.loads(value), "config")).encode()
    return kept


@pytest.fixture(scope="module")
def whole(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What SOME leave."""
    with inside(tmp_path_factory.mktemp("whole")):
        some(parts)
        return gathered()


@pytest.mark.parametrize(
    ("names", "environment"),
    [
        (RUNS, {"TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
        (SOME, {"TZ": "America/St_Johns", "LC_ALL": "C.UTF-8", "LANGUAGE": "tr"}),
    ],
    ids=["all, ASCII", "some, UTF-8"],
)
def test_fresh_processes_change_no_byte(
    request: pytest.FixtureRequest, parts: Path, tmp_path: Path, names: Sequence[str], environment: dict[str, str]
) -> None:
    """From an empty store; nor do the order of sets, the locale and the time zone."""
    script = "import json, sys\nfrom winclip_bench.cli import main\n"
    script += "for words in json.load(sys.stdin):\n    sys.argv = ['winclip-bench', *words]\n    assert main() == 0\n"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    inherited |= {"PYTHONHASHSEED": str(len(names)), "PYTHONPATH": str(REPOSITORY / "src")}
    inherited |= {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps([settings(parts, *more) for more in map(RUNS.__getitem__, names)]).encode("ascii"),
        capture_output=True,
        cwd=tmp_path,
        env=inherited | environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    expected = request.getfixturevalue("cold")[1] if names is RUNS else request.getfixturevalue("whole")
    assert differing(tree(tmp_path / "results"), expected) == []


def test_workers_change_no_byte(parts: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    for workers in (1, 4):
        with inside(tmp_path / str(workers)):
            some(parts, f"runtime.workers={workers}")
            assert differing(content(gathered()), content(whole)) == []


class _Shuffled:
    """What `os.scandir` gives, in another order."""

    def __init__(self, entries: list[Any]) -> None:
        self._entries = iter(entries)

    def __iter__(self) -> Iterator[Any]:
        return self._entries

    def __next__(self) -> Any:
        return next(self._entries)

    def __enter__(self) -> "_Shuffled":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._entries = iter(())


@contextmanager
def shuffled_folders(seed: int) -> Iterator[list[int]]:
    """Folders are listed in an order of chance; gives how many entries each listing had."""
    scandir, listdir, chance, sizes = os.scandir, os.listdir, random.Random(seed), []

    def scan(*place: Any) -> _Shuffled:
        with scandir(*place) as entries:
            found = sorted(entries, key=lambda _: chance.random())
        sizes.append(len(found))
        return _Shuffled(found)

    def names(*place: Any) -> list[Any]:
        return sorted(listdir(*place), key=lambda _: chance.random())

    with mock.patch.object(os, "scandir", scan), mock.patch.object(os, "listdir", names):
        yield sizes


def test_the_order_of_files_changes_no_byte(parts: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    for seed in range(2):
        with inside(tmp_path / str(seed)), shuffled_folders(seed) as sizes:
            some(parts)
            assert differing(gathered(), whole) == []
        assert max(sizes) > 2


def test_another_folder_written_in_another_order_changes_no_byte(
    parts: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    other = tmp_path / "elsewhere" / "the same parts"
    for number, path in enumerate(sorted((path for path in parts.rglob("*") if path.is_file()), reverse=True)):
        target = other / path.relative_to(parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
        os.utime(target, (10**9 + number, 10**9 + number))
    with inside(tmp_path):
        some(other)
        assert differing(content(gathered()), content(whole)) == []


@pytest.mark.parametrize("order", [("bolt", "wood_panel"), ("wood_panel", "bolt")])
def test_split_by_category_changes_no_byte(
    parts: Path, whole: dict[str, bytes], tmp_path: Path, order: tuple[str, str]
) -> None:
    """One category after the other, each with a memory of its own."""
    with inside(tmp_path):
        for category in order:
            forget_stores()
            some(parts, f"dataset.categories=[{category}]")
        assert differing(gathered(), whole) == []


def test_a_continued_run_changes_no_byte(parts: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    evaluate = runner.evaluate

    def interrupted(evaluation: Any, category: Any) -> Any:
        if category.name == "wood_panel":
            raise KeyboardInterrupt
        return evaluate(evaluation, category)

    with inside(tmp_path):
        with mock.patch.object(runner, "evaluate", interrupted):
            for name in SOME:
                assert command(*settings(parts, *RUNS[name])).code == 130
        forget_stores()
        with counted_evaluations() as evaluated:
            some(parts)
        assert evaluated == ["wood_panel"] * len(SOME)
        assert differing(gathered(), whole) == []


def states() -> tuple[Any, ...]:
    """Of the global generators of random, numpy and torch."""
    kind, words, *rest = np.random.get_state(legacy=True)  # noqa: NPY002  (it must not be touched)
    return random.getstate(), kind, words.tobytes(), rest, torch.get_rng_state().numpy().tobytes()


@pytest.fixture
def generators() -> Iterator[None]:
    """The global generators are put back."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    yield
    random.setstate(before[0])
    np.random.set_state(before[1])  # noqa: NPY002
    torch.set_rng_state(before[2])


@pytest.mark.usefixtures("generators")
def test_global_generators_are_neither_read_nor_changed(parts: Path, tmp_path: Path) -> None:
    """Neither by loading a model, trained or drawn, nor by drawing references, damaging copies or training a head."""
    found = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        before = states()
        with inside(tmp_path / str(seed)):
            runner._backbone.cache_clear()
            some(parts)
            command(*arguments(parts, Path("results"), "k_shot=1"))
            found.append(gathered())
        assert states() == before
    assert differing(*found) == []


def test_the_order_of_a_sweep_changes_no_byte(parts: Path, tmp_path: Path) -> None:
    """With one store for all jobs, and with one for each."""
    found = []
    for order in ("0,1,2", "2,1,0"):
        with inside(tmp_path / order):
            run(parts, "-m", f"k_shot={order}")
            found.append(content(gathered()))
    with inside(tmp_path / "alone"):
        for k in (1, 0, 2):
            run(parts, f"k_shot={k}", f"runtime.cache_dir=cache{k}")
        found.append(content(gathered()))
    assert differing(found[0], found[1]) == []
    assert differing(found[0], found[2]) == []


def read_numbers(results: Path) -> dict[tuple[str, str, str], float]:
    """Metrics and image scores by run, category and name."""
    found = {}
    for (run_id, category), record in read_records(results).items():
        for name, value in record["metrics"].items():
            if value is not None:
                found[run_id, category, name] = value
        with (results / f"records/folder/{run_id}/{category}.scores.csv").open(newline="") as file:
            found |= {(run_id, category, row["path"]): float(row["image_score"]) for row in csv.DictReader(file)}
    return found


def read_maps(results: Path) -> dict[str, np.ndarray]:
    """Anomaly maps by file and image."""
    found = {}
    for path in results.glob("maps/*/*.npz"):
        with np.load(path) as archive:
            found |= {f"{path.relative_to(results)}/{name}": archive[name] for name in archive}
    return {name: values for name, values in found.items() if values.dtype == np.float32}


def largest_difference(one: dict[Any, Any], other: dict[Any, Any]) -> float:
    """Over all numbers or arrays under the same names; the names must be the same."""
    assert one.keys() == other.keys()
    return max(float(np.abs(np.subtract(one[name], other[name])).max()) for name in one)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A category of the demo's images, every other one wide: defects of hundreds of pixels, so that two pixels that
    change places move no metric by as much as the tolerance."""
    root = tmp_path_factory.mktemp("tiles")
    for split, defect, count in (("train", "good", 3), ("test", "good", 2), ("test", "stain", 2), ("test", "crack", 1)):
        for index in range(count):
            pixels, region = make_sample("tile", defect, split, index)  # type: ignore[arg-type]
            size = (160, 160 - 32 * (index % 2))
            places = {f"{split}/{defect}/{index}.png": Image.fromarray(pixels)}
            if region.any():
                places[f"ground_truth/{defect}/{index}_mask.png"] = Image.fromarray(region)
            for name, image in places.items():
                (root / "tile" / name).parent.mkdir(parents=True, exist_ok=True)
                image.resize(size, Image.Resampling.NEAREST).save(root / "tile" / name)
    return root


def test_batch_size_and_threads_change_rounding_alone(tiles: Path, tmp_path: Path) -> None:
    """Some images have more than one tile, so that batches are not whole images either."""
    found = []
    for count, batch_size in ((1, 1), (1, 5), (2, 1)):
        with inside(tmp_path / f"{count}-{batch_size}"), threads(count):
            runner._backbone.cache_clear()
            some(tiles, f"runtime.batch_size={batch_size}")
            found.append((run_ids(Path("results")), read_numbers(Path("results")), read_maps(Path("results"))))
    runner._backbone.cache_clear()
    expected = found[0]
    assert len(expected[1]) > 50
    assert len(expected[2]) == 2 * 5
    for run_id, numbers, maps in found[1:]:
        assert run_id == expected[0]
        assert largest_difference(numbers, expected[1]) <= TOLERANCE
        assert largest_difference(maps, expected[2]) <= TOLERANCE


def test_precisions_are_runs_of_their_own(parts: Path, tmp_path: Path) -> None:
    """Their features are never mixed, and what they say of an image is nearly the same."""
    found = {}
    with inside(tmp_path):
        for precision in ("fp32", "bf16"):
            run(parts, "k_shot=2", f"runtime.precision={precision}")
            stores = {path.parent.name for path in Path("cache/features").glob("*/image")}
            found[precision] = run_ids(Path("results")), stores, read_maps(Path("results"))
            shutil.rmtree("results")
    full, half = found["fp32"], found["bf16"]
    assert full[0].isdisjoint(half[0])
    assert len(full[1]) == 1
    assert len(half[1]) == 2
    maps = [{name.split("/", 2)[2]: values for name, values in of.items()} for of in (full[2], half[2])]
    assert 0 < largest_difference(*maps) < OTHER_ARITHMETIC


def test_a_run_is_named_without_its_device(parts: Path, tmp_path: Path) -> None:
    """Nor are its features kept apart: the first device to store one decides for all."""
    named = {}
    with inside(tmp_path):
        for device, name in (("cpu", "cpu"), ("cuda", "a GPU")):
            with (
                mock.patch.object(torch.cuda, "is_available", return_value=device == "cuda"),
                mock.patch.object(torch.cuda, "get_device_name", return_value=name),
            ):
                evaluation, _ = runner.prepare(compose(settings(parts, "k_shot=1", f"runtime.device={device}")))
            assert evaluation.provenance["machine"]["device"] == name
            named[device] = evaluation.run_id, evaluation.encoder._images._folder
    assert len(set(named.values())) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU to compare with")
def test_a_gpu_says_nearly_the_same(tiles: Path, tmp_path: Path) -> None:
    """With a store for each."""
    found = {}
    with inside(tmp_path):
        for device in ("cpu", "cuda"):
            run(tiles, "k_shot=2", f"runtime.device={device}", f"runtime.cache_dir={device}")
            found[device] = run_ids(Path("results")), read_maps(Path("results"))
            shutil.rmtree("results")
    assert found["cpu"][0] == found["cuda"][0]
    assert largest_difference(found["cpu"][1], found["cuda"][1]) < OTHER_ARITHMETIC
