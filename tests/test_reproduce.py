"""scripts/reproduce.sh from one end to the other, over small trees with the layouts of both datasets."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.builders import paint, paint_mask, write_visa_split
from tests.helpers import REPOSITORY, read_records
from winclip_bench.claims.published import default_folder, read_claims

# What keeps it small: the demo's weights, one draw, no pictures.
SMALL = ("backbone=demo", "seed=0", "pictures=0", "runtime.device=cpu", "runtime.workers=1")


def make_mvtec(root: Path) -> None:
    """The category bottle, of square images."""
    for number in range(9):
        paint(root / f"bottle/train/good/{number:03}.png", number, (60, 60))
    for number, name in enumerate(("good/000", "good/001", "broken_large/000", "contamination/000")):
        paint(root / f"bottle/test/{name}.png", 100 + number, (60, 60))
        if not name.startswith("good"):
            paint_mask(root / f"bottle/ground_truth/{name}_mask.png", size=(60, 60))


def make_visa(root: Path) -> None:
    """The category candle, of oblong images and masks of class codes."""
    rows: list[tuple[str, ...]] = []
    for number in range(11):
        image = f"candle/Data/Images/Normal/{number:04}.JPG"
        rows.append(("candle", "test" if number < 2 else "train", "normal", image, ""))
        paint(root / image, 200 + number, (72, 60))
    for number in range(2):
        image, mask = f"candle/Data/Images/Anomaly/{number:03}.JPG", f"candle/Data/Masks/Anomaly/{number:03}.png"
        rows.append(("candle", "test", "anomaly", image, mask))
        paint(root / image, 300 + number, (72, 60))
        paint_mask(root / mask, value=number + 1, size=(72, 60))
    write_visa_split(root, rows)


def reproduce(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script on folder/data with everything that it writes in folder, without a network."""
    offline = {"HF_HUB_OFFLINE": "1", "WINCLIP_BENCH_DATA": str(folder / "data"), "PYTHON": sys.executable}
    return subprocess.run(
        ["bash", REPOSITORY / "scripts" / "reproduce.sh", *SMALL, *arguments, f"results_dir={folder / 'results'}"],
        env={
            **os.environ,
            **offline,
            "WINCLIP_BENCH_CACHE": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
            **environment,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("reproduced")
    make_mvtec(folder / "data" / "mvtec")
    make_visa(folder / "data" / "visa")
    return folder, reproduce(folder)


Reproduced = tuple[Path, subprocess.CompletedProcess[str]]


def test_every_experiment_ends_in_records_and_verdicts(reproduced: Reproduced) -> None:
    folder, outcome = reproduced
    assert outcome.returncode == 0, outcome.stderr
    records = read_records(folder / "results").values()
    assert {(record["dataset"], record["category"]) for record in records} == {("mvtec", "bottle"), ("visa", "candle")}
    settings = [record["config"] for record in records]
    assert {config["k_shot"] for config in settings} == {0, 1, 2, 4, 8}
    assert {config["prompts"]["name"] for config in settings} >= {"normal_only", "two_plain", "states", "winclip"}
    assert {tuple(config["scales"]) for config in settings} == {(), (2,), (3,), (2, 3)}
    assert {config["method"]["aggregation"] for config in settings} == {"harmonic", "arithmetic"}
    for field in ("image_term", "text_score"):
        assert {config["method"][field] for config in settings} == {True, False}

    verdicts = json.loads((folder / "results" / "claims" / "claims.json").read_text(encoding="utf-8"))
    assert len(verdicts) > 0
    assert len(_verdicts(folder)) == len(read_claims(default_folder()))
    assert set(_verdicts(folder)) == {"not comparable", "not run"}  # little images and a little model prove nothing
    assert (folder / "results" / "index.html").is_file()


def _verdicts(folder: Path) -> list[str]:
    with (folder / "results" / "claims" / "claims.csv").open(encoding="utf-8", newline="") as file:
        return [row["verdict"] for row in csv.DictReader(file)]


def test_the_estimate_comes_first_and_counts_what_is_there(reproduced: Reproduced) -> None:
    _, outcome = reproduced
    lines = outcome.stdout.splitlines()
    assert re.match(r"runs +\d+ of 9 experiments$", lines[0])
    assert [line.split()[0] for line in lines[1:4]] == ["time", "memory", "disk"]
    # Four test images each, and of the nine training ones the largest k: 12 of mvtec, under both protocols; 12 of visa
    # squashed, and 8 as two tiles.
    assert "to encode 52 tiles once" in lines[1]


def test_again_it_computes_only_what_is_missing(reproduced: Reproduced) -> None:
    folder, _ = reproduced
    results = folder / "results"
    before = {path: path.stat().st_mtime_ns for path in results.glob("records/*/*/*.json")}
    lost = min(path for path in before if '"two_plain"' in path.read_text(encoding="utf-8"))
    lost.unlink()
    outcome = reproduce(folder, EXPERIMENTS="zero_shot few_shot prompt_ensembles")
    assert outcome.returncode == 0, outcome.stderr
    after = {path: path.stat().st_mtime_ns for path in results.glob("records/*/*/*.json")}
    assert after.keys() == before.keys()
    assert [path for path in before if after[path] != before[path]] == [lost]
    (computed,) = re.findall(r"^.* test images, .*$", outcome.stderr, re.MULTILINE)
    assert ", 0 images encoded" in computed


def test_without_the_data_it_asks_for_the_licence(tmp_path: Path) -> None:
    outcome = reproduce(tmp_path, EXPERIMENTS="zero_shot")
    assert outcome.returncode == 1
    assert "network  5.3 GB: MVTec AD" in outcome.stdout
    assert "--accept-licence" in outcome.stderr
    assert not (tmp_path / "results").exists()


def test_what_is_no_setting_is_refused(tmp_path: Path) -> None:
    outcome = reproduce(tmp_path, "--quick")
    assert outcome.returncode == 2
    assert "--quick" in outcome.stderr
    assert outcome.stdout == ""
