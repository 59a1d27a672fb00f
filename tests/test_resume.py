"""Nothing that is finished is computed again, and what was interrupted continues to the same records."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from tests.data.builders import paint
from tests.helpers import (
    arguments,
    command,
    counted_evaluations,
    make_category,
    read_records,
    read_table,
    run_ids,
    without,
)
from winclip_bench import runner

PATIENCE = 120  # seconds until a process that should have written a record is given up


@pytest.fixture
def results(parts: Path, tmp_path: Path) -> Path:
    """A finished run over both categories, with maps."""
    assert command(*same_command(parts, tmp_path / "results")).code == 0
    return tmp_path / "results"


def same_command(root: Path, results: Path) -> list[str]:
    return arguments(root, results, "k_shot=1", "save_maps=true")


@contextmanager
def nothing_computed() -> Iterator[None]:
    """Neither a model is loaded nor a category evaluated meanwhile."""
    refusal = AssertionError("computed again")
    with (
        mock.patch.object(runner, "load_backbone", side_effect=refusal),
        mock.patch.object(runner, "_backbone", side_effect=refusal),
        counted_evaluations() as evaluated,
    ):
        yield
    assert evaluated == []


def contents(results: Path, *folders: str) -> dict[str, bytes]:
    """Every file below some folders of the results, by path."""
    return {
        str(path.relative_to(results)): path.read_bytes()
        for folder in folders
        for path in sorted((results / folder).rglob("*"))
        if path.is_file()
    }


def record_of(results: Path, category: str) -> Path:
    (path,) = (results / "records").glob(f"*/*/{category}.json")
    return path


def test_the_same_command_again_computes_nothing(parts: Path, results: Path) -> None:
    before = contents(results, "records", "maps", "tables")
    stamps = {name: (results / name).stat().st_mtime_ns for name in before if name.startswith("records")}
    with nothing_computed():
        outcome = command(*same_command(parts, results))
    assert outcome.code == 0
    assert contents(results, "records", "maps", "tables") == before
    assert {name: (results / name).stat().st_mtime_ns for name in stamps} == stamps
    assert "| mean" in outcome.out


@pytest.mark.parametrize("settings", [["runtime.batch_size=1"], ["dataset.categories=[bolt]"], ["tracker=none"]])
def test_other_words_for_the_same_run_compute_nothing(parts: Path, results: Path, settings: list[str]) -> None:
    before = contents(results, "records", "maps")
    with nothing_computed():
        assert command(*same_command(parts, results), *settings).code == 0
    assert contents(results, "records", "maps") == before


@pytest.mark.parametrize(
    "spoilt", ["{", "", "null", "[]", "half", '{"schema": 1}', "another schema", "another category", "not a number"]
)
def test_a_broken_record_is_computed_again(parts: Path, results: Path, spoilt: str) -> None:
    path = record_of(results, "bolt")
    whole = path.read_text(encoding="utf-8")
    before = read_records(results)
    replacement = {
        "half": whole[: len(whole) // 2],
        "another schema": whole.replace('"schema": 1', '"schema": 999'),
        "another category": whole.replace('"category": "bolt"', '"category": "nut"'),
        "not a number": whole.replace('"auroc_sp": ', '"auroc_sp": NaN, "other": '),
    }
    path.write_text(replacement.get(spoilt, spoilt), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != whole
    with counted_evaluations() as evaluated:
        outcome = command(*same_command(parts, results))
    assert outcome.code == 0
    assert evaluated == ["bolt"]
    assert "again" in outcome.err
    after = read_records(results)
    assert {place: without(record, "timing") for place, record in after.items()} == {
        place: without(record, "timing") for place, record in before.items()
    }


def test_leftover_temporary_files_do_not_disturb(parts: Path, results: Path) -> None:
    path = record_of(results, "bolt")
    before = read_records(results)
    half = path.read_bytes()[:100]
    path.unlink()
    for folder in (path.parent, results, results / "tables", results / "maps" / path.parent.name):
        (folder / ".0123456789abcdef.tmp").write_bytes(half)
    with counted_evaluations() as evaluated:
        assert command(*same_command(parts, results)).code == 0
    assert evaluated == ["bolt"]
    assert set(read_records(results)) == set(before)
    (run,) = run_ids(results)
    assert set(read_table(results, run)) == {"bolt", "wood_panel", "mean"}


def test_changed_content_is_a_new_run(parts: Path, tmp_path: Path) -> None:
    root = shutil.copytree(parts, tmp_path / "parts")
    assert command(*same_command(root, tmp_path / "results")).code == 0
    before = read_records(tmp_path / "results")
    target = root / "bolt/test/good/000.png"
    stamp = target.stat()
    size = stamp.st_size
    for seed in range(1000, 1200):  # an image of as many bytes, so that neither size nor time tells
        paint(target, seed, (64, 64))
        if target.stat().st_size == size:
            break
    os.utime(target, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with counted_evaluations() as evaluated:
        assert command(*same_command(root, tmp_path / "results")).code == 0
    assert evaluated == ["bolt", "wood_panel"]
    after = read_records(tmp_path / "results")
    assert len(after) == 4
    assert {place: after[place] for place in before} == before


def test_a_category_that_failed_is_tried_again(parts: Path, tmp_path: Path) -> None:
    """What was finished meanwhile counts, and the table is whole in the end."""
    evaluate = runner.evaluate

    def stumble(run: object, category: object) -> object:
        if getattr(category, "name", "") == "bolt":
            raise runner.InputError("not today")
        return evaluate(run, category)  # type: ignore[arg-type]

    with mock.patch.object(runner, "evaluate", stumble):
        assert command(*same_command(parts, tmp_path / "results")).code != 0
    (run,) = run_ids(tmp_path / "results")
    assert "mean (1 of 2)" in read_table(tmp_path / "results", run)
    with counted_evaluations() as evaluated:
        assert command(*same_command(parts, tmp_path / "results")).code == 0
    assert evaluated == ["bolt"]
    assert set(read_table(tmp_path / "results", run)) == {"bolt", "wood_panel", "mean"}


def test_killed_and_started_again_it_ends_with_the_same_records(tmp_path: Path) -> None:
    root, results = tmp_path / "parts", tmp_path / "results"
    for number in range(4):
        make_category(root / f"part_{number}", number)
    sweep = arguments(root, results, "-m", "k_shot=0,1", "save_maps=true")
    script = "import sys; from winclip_bench.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *sweep], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while not list(results.glob("records/*/*/*.json")):
            assert process.poll() is None, "it ended before it wrote a record"
            assert time.monotonic() < deadline, "no record was written"
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    survived = {name: content for name, content in contents(results, "records").items() if name.endswith(".json")}
    assert 0 < len(survived) < 8, "it was not killed half-way"

    with counted_evaluations() as evaluated:
        assert command(*sweep).code == 0
    assert len(evaluated) == 8 - len(survived)
    resumed, resumed_records = contents(results, "records", "maps", "tables"), read_records(results)
    assert {name: resumed[name] for name in survived} == survived

    # Once more in one go, and in the same place, because records keep their settings.
    shutil.rmtree(results)
    assert command(*sweep).code == 0
    whole, whole_records = contents(results, "records", "maps", "tables"), read_records(results)
    assert len(whole_records) == 8
    assert {place: without(record, "timing") for place, record in resumed_records.items()} == {
        place: without(record, "timing") for place, record in whole_records.items()
    }
    assert {name: content for name, content in resumed.items() if not name.endswith(".json")} == {
        name: content for name, content in whole.items() if not name.endswith(".json")
    }
