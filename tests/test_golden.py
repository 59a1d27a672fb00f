"""The demo's committed records against a fresh run: whatever changes a number shows here.

Where a change is meant, make them anew with a clean checkout and look at the difference:

    rm -r results/examples && python run.py -m k_shot=0,4 results_dir=results/examples runtime.cache_dir=.cache
    rm -r results/examples/pictures results/examples/page results/examples/index.html
"""

import csv
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY, command, read_records

EXAMPLES = REPOSITORY / "results" / "examples"
CATEGORIES = ["brick", "wood"]  # seen and unseen by the model; all nine take long


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the demo's command, over some of its categories."""
    folder = tmp_path_factory.mktemp("demo")
    settings = ("-m", "k_shot=0,4", f"results_dir={folder / 'results'}", f"runtime.cache_dir={folder / 'cache'}")
    outcome = command(*settings, f"dataset.categories=[{','.join(CATEGORIES)}]")
    assert outcome.code == 0, outcome.err
    return folder / "results"


def test_the_runs_are_the_same_ones(fresh: Path) -> None:
    assert set(read_records(fresh)) == {key for key in read_records(EXAMPLES) if key[1] in CATEGORIES}


def test_metrics_counts_and_references(fresh: Path) -> None:
    golden = read_records(EXAMPLES)
    for key, record in read_records(fresh).items():
        assert record["metrics"] == pytest.approx(golden[key]["metrics"], abs=1e-4), key
        assert record["references"] == golden[key]["references"]
        for name in ("train", "test", "test_good", "test_anomalous", "regions", "defects"):
            assert record["counts"][name] == golden[key]["counts"][name]


def test_image_scores(fresh: Path) -> None:
    for path in fresh.glob("records/demo/*/*.scores.csv"):
        with path.open() as found, (EXAMPLES / path.relative_to(fresh)).open() as golden:
            for mine, theirs in zip(csv.DictReader(found), csv.DictReader(golden), strict=True):
                assert (mine["path"], mine["defect"], mine["label"]) == (
                    theirs["path"],
                    theirs["defect"],
                    theirs["label"],
                )
                assert float(mine["image_score"]) == pytest.approx(float(theirs["image_score"]), abs=1e-4)
