"""Reference sets for many categories, and which of the references moves a category most, through the command line."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import Outcome, arguments, command, counted_evaluations, make_dataset, read_records, run_ids

HEADER = "dataset,category,k_shot,image_stems\n"
SETS = f"{HEADER}folder,bolt,1,002\nfolder,bolt,2,000 001\nfolder,wood_panel,2,002 000\nmvtec,bolt,2,000 002\n"


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """A CSV of sets of two images for both categories."""
    path = tmp_path / "sets.csv"
    path.write_text(SETS)
    return path


def used(results: Path) -> dict[tuple[str, int], list[str]]:
    """The references of every record, by category and k."""
    return {
        (name, record["config"]["k_shot"]): [reference["path"] for reference in record["references"]]
        for (_, name), record in read_records(results).items()
    }


def complaint(outcome: Outcome) -> str:
    """The one error of a command."""
    assert outcome.code == 1
    assert "Traceback" not in outcome.err
    (line,) = (line for line in outcome.err.splitlines() if line.startswith("error: "))
    return line.removeprefix("error: ")


def test_a_run_over_many_categories(parts: Path, sets: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    settings = (f"references.file={sets}", "k_shot=2")
    assert command(*arguments(parts, results, *settings)).code == 0
    assert used(results) == {
        ("bolt", 2): ["train/good/000.png", "train/good/001.png"],
        ("wood_panel", 2): ["train/good/002.png", "train/good/000.png"],
    }
    (run,) = run_ids(results)

    moved = tmp_path / "elsewhere" / "theirs.CSV"
    moved.parent.mkdir()
    moved.write_text(f"{SETS}folder,wood_panel,1,000\n")  # rows that the run does not use
    with counted_evaluations() as evaluated:
        for more in ("seed=7", "dataset.categories=[bolt]"):
            assert command(*arguments(parts, results, f"references.file={moved}", "k_shot=2", more)).code == 0
    assert not evaluated
    assert run_ids(results) == {run}

    sets.write_text(SETS.replace("bolt,2,000 001", "bolt,2,000 002"))
    assert command(*arguments(parts, results, *settings, "dataset.categories=[wood_panel]")).code == 0
    assert len(run_ids(results)) == 2

    (table,) = (results / "tables").glob(f"*{run}.md")
    assert "· k = 2 · references sets.csv ·" in table.read_text()
    assert "seed" not in table.name


def test_k_selects_the_set(parts: Path, sets: Path, tmp_path: Path) -> None:
    settings = (f"references.file={sets}", "dataset.categories=[bolt]")
    assert command("-m", *arguments(parts, tmp_path / "results", *settings, "k_shot=1,2")).code == 0
    assert used(tmp_path / "results") == {
        ("bolt", 1): ["train/good/002.png"],
        ("bolt", 2): ["train/good/000.png", "train/good/001.png"],
    }


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            ("k_shot=1",),
            "references.file={sets} has no set of k_shot=1 images for wood_panel of folder; add a row, or change "
            "k_shot, dataset.categories or dataset.name",
        ),
        (
            ("k_shot=2", "dataset.name=visa"),
            "references.file={sets} has no set of k_shot=2 images for bolt, wood_panel of visa; add a row, or change "
            "k_shot, dataset.categories or dataset.name",
        ),
        (
            ("k_shot=2", "dataset.name=mvtec", "dataset.categories=[wood_panel]"),
            "references.file={sets} has no set of k_shot=2 images for wood_panel of mvtec; add a row, or change "
            "k_shot, dataset.categories or dataset.name",
        ),
    ],
)
def test_sets_that_are_not_there(
    parts: Path, sets: Path, tmp_path: Path, settings: tuple[str, ...], sentence: str
) -> None:
    outcome = command(*arguments(parts, tmp_path / "results", f"references.file={sets}", *settings))
    assert complaint(outcome) == sentence.format(sets=sets)


def test_a_reference_of_a_set_that_is_also_a_test_image(sets: Path, tmp_path: Path) -> None:
    """The category with it fails, the other one finishes."""
    root, results = make_dataset(tmp_path / "parts"), tmp_path / "results"
    shutil.copy(root / "bolt/test/good/001.png", root / "bolt/train/good/001.png")
    outcome = command(*arguments(root, results, f"references.file={sets}", "k_shot=2"))
    assert complaint(outcome) == (
        "bolt: the reference train/good/001.png has the same content as the test image test/good/001.png; take one of "
        "them out"
    )
    assert [name for name, _ in used(results)] == ["wood_panel"]


def test_the_first_images(parts: Path, tmp_path: Path) -> None:
    base = arguments(parts, tmp_path / "results", "k_shot=2", "protocol.references=first")
    assert command("-m", *base, "seed=0,1").code == 0
    assert len(run_ids(tmp_path / "results")) == 1, "the seed is no part of a run whose references are the first ones"
    first = ["train/good/000.png", "train/good/001.png"]
    assert used(tmp_path / "results") == {("bolt", 2): first, ("wood_panel", 2): first}


def test_several_seeds_have_a_table_of_their_own(parts: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    outcome = command("-m", *arguments(parts, results, "k_shot=0,1", "seed=0,1,2"))
    assert outcome.code == 0
    runs: list[dict[str, Any]] = [record for record in read_records(results).values() if record["config"]["k_shot"]]
    assert len(runs) == 6
    (markdown,) = (results / "tables").glob("*-k1-seeds-*.md")
    assert "· 3 seeds ·" in markdown.read_text()
    assert "over the seeds 0, 1, 2;" in markdown.read_text()
    assert sorted(path.suffix for path in markdown.parent.glob(f"{markdown.stem}.*")) == [".csv", ".md", ".tex"]
    assert str(markdown) in outcome.out
    assert "over seeds" in (results / "tables" / "overview.md").read_text()
