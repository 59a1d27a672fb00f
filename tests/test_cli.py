"""The whole harness through its command line, on a small dataset with the demo's backbone."""

import csv
import io
import json
import os
import random
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest import mock

import numpy as np
import pytest

from tests.data.builders import paint
from tests.helpers import (
    SEVEN,
    Outcome,
    arguments,
    command,
    counted_evaluations,
    make_category,
    read_records,
    read_table,
    run_ids,
    without,
)
from winclip_bench import cli, runner, tracking
from winclip_bench.metrics import pixel_metrics, sample_metrics
from winclip_bench.pipelines.shared import Evaluation

SCORE_COLUMNS = ["path", "defect", "label", "image_score"]
IMAGES = ["test/crack/000.png", "test/dent/000.png", "test/good/000.png", "test/good/001.png"]


class Run:
    """A finished command and its results folder."""

    def __init__(self, results: Path, outcome: Outcome) -> None:
        self.results = results
        self.outcome = outcome
        self.records = read_records(results)

    def record(self, category: str, k_shot: int) -> dict[str, Any]:
        (found,) = (
            record
            for (_, name), record in self.records.items()
            if name == category and record["config"]["k_shot"] == k_shot
        )
        return found


@pytest.fixture(scope="module")
def sweep(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Zero-shot and with two references, with maps, as one sweep."""
    results = tmp_path_factory.mktemp("sweep") / "results"
    return Run(results, command(*arguments(parts, results, "-m", "k_shot=0,2", "save_maps=true")))


def run_id(*settings: object) -> str:
    """Name of the run that these arguments mean; nothing is evaluated."""
    found: list[str] = []

    def note(run: Evaluation, _: object) -> None:
        found.append(run.run_id)
        raise runner.InputError("only the name is wanted")

    with mock.patch.object(runner, "evaluate", note):
        outcome = command(*settings)
    assert found, outcome.err
    assert len(set(found)) == 1
    return found[0]


def scores_of(results: Path, run: str, category: str) -> list[dict[str, str]]:
    (path,) = (results / "records").glob(f"*/{run}/{category}.scores.csv")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@contextmanager
def scandir_backwards() -> Iterator[None]:
    """Folders list themselves in the opposite order meanwhile."""
    real = os.scandir

    @contextmanager
    def backwards(path: Any = ".") -> Iterator[Iterator[os.DirEntry[str]]]:
        with real(path) as entries:
            yield iter(sorted(entries, key=lambda entry: entry.name, reverse=True))

    with mock.patch.object(os, "scandir", backwards):
        yield


def test_a_sweep_finishes_with_a_table_per_run(sweep: Run) -> None:
    assert sweep.outcome.code == 0
    assert "Traceback" not in sweep.outcome.err
    assert {(name, record["config"]["k_shot"]) for (_, name), record in sweep.records.items()} == {
        ("bolt", 0), ("bolt", 2), ("wood_panel", 0), ("wood_panel", 2)
    }  # fmt: skip
    written = {str(path.relative_to(sweep.results)) for path in sweep.results.rglob("*") if path.is_file()}
    for run, category in sweep.records:
        assert f"records/folder/{run}/{category}.json" in written
        assert f"records/folder/{run}/{category}.scores.csv" in written
        assert f"records/folder/{run}/{category}.curves.csv" in written
        assert f"maps/{run}/{category}.npz" in written
    assert len([name for name in written if name.startswith("tables/")]) == 2 * 3 + 1
    assert len([name for name in written if name.startswith("jobs/")]) == 2
    assert len([name for name in written if name.startswith("sweeps/")]) == 1
    said = ("tables", "pictures", "page", "index.html", "jobs", "sweeps")
    told = [name for name in written if name.split("/")[0] not in said]
    assert len(told) == 4 * 4, "something else was left behind"


def test_what_a_record_holds(sweep: Run, parts: Path) -> None:
    for k_shot in (0, 2):
        record = sweep.record("wood_panel", k_shot)
        assert record["schema"] == 1
        assert record["dataset"] == "folder"
        assert set(SEVEN) <= set(record["metrics"])
        for name in SEVEN:
            assert 0 <= record["metrics"][name] <= 1
        assert record["undefined"] == {}
        counts = record["counts"]
        assert (counts["train"], counts["test"], counts["test_good"], counts["test_anomalous"]) == (3, 4, 2, 2)
        assert counts["defects"] == {"good": 2, "crack": 1, "dent": 1}
        assert len(record["references"]) == k_shot
        assert record["config"]["backbone"]["pretrained"] == "untrained"
        assert len(record["provenance"]["weights_sha256"]) == len(record["provenance"]["dataset_digest"]) == 64
        assert all(seconds >= 0 for seconds in record["timing"].values())
    paths = [reference["path"] for reference in sweep.record("wood_panel", 2)["references"]]
    assert len(set(paths)) == 2
    for path in paths:
        assert path.startswith("train/good/")
        assert (parts / "wood_panel" / path).is_file()


def test_what_a_scores_file_holds(sweep: Run) -> None:
    for (run, category), record in sweep.records.items():
        rows = scores_of(sweep.results, run, category)
        assert list(rows[0]) == SCORE_COLUMNS
        assert [row["path"] for row in rows] == IMAGES
        assert [row["defect"] for row in rows] == ["crack", "dent", "good", "good"]
        assert [row["label"] for row in rows] == ["1", "1", "0", "0"]
        measured = sample_metrics([float(row["image_score"]) for row in rows], [int(row["label"]) for row in rows])
        for name, value in measured.values.items():
            assert record["metrics"][name] == value


def test_the_metrics_are_those_of_the_saved_maps(sweep: Run) -> None:
    """Square images: maps at the size of the backbone's input, masks at the nearest pixel of it."""
    for k_shot in (0, 2):
        record = sweep.record("bolt", k_shot)
        with np.load(sweep.results / "maps" / record["run_id"] / "bolt.npz") as stored:
            maps = {key: stored[key] for key in stored}
        assert sorted(maps) == IMAGES
        for anomaly_map in maps.values():
            assert anomaly_map.dtype == np.float32
            assert anomaly_map.shape == (120, 120)
            assert 0 <= anomaly_map.min() <= anomaly_map.max() <= 1
        mask = np.zeros((120, 120), bool)
        mask[: round(2 * 120 / 64), : round(3 * 120 / 64)] = True  # the builder's 2×3 pixels of 64×64
        masks = [mask if "good" not in key else np.zeros_like(mask) for key in sorted(maps)]
        measured = pixel_metrics([maps[key] for key in sorted(maps)], masks)
        for name in ("auroc_px", "f1_px", "ap_px", "aupro"):
            assert record["metrics"][name] == pytest.approx(measured.values[name], abs=1e-12)


def test_maps_of_images_that_are_not_square_have_their_shape(sweep: Run) -> None:
    record = sweep.record("wood_panel", 0)
    with np.load(sweep.results / "maps" / record["run_id"] / "wood_panel.npz") as stored:
        shapes = {key: stored[key].shape for key in stored}
    # The builder takes turns between 64×64, 80×64 and 48×64 (width × height), training images first.
    assert shapes == {
        "test/good/000.png": (120, 120),
        "test/good/001.png": (120, 150),
        "test/crack/000.png": (160, 120),
        "test/dent/000.png": (120, 120),
    }
    assert record["counts"]["tiles"] == 1 + 2 + 2 + 1


def test_tables_have_a_row_per_class_and_their_mean(sweep: Run) -> None:
    for run in {run for run, _ in sweep.records}:
        rows = read_table(sweep.results, run)
        assert list(rows) == ["bolt", "wood_panel", "mean"]
        assert list(rows["mean"]) == ["objects", *SEVEN]
        for name in SEVEN:
            values = [100 * sweep.records[run, category]["metrics"][name] for category in ("bolt", "wood_panel")]
            assert [float(rows[category][name]) for category in ("bolt", "wood_panel")] == pytest.approx(values)
            assert float(rows["mean"][name]) == pytest.approx(fmean(values))
        assert run in sweep.outcome.out
    header = "| " + " | ".join(["objects", *SEVEN]) + " |"
    assert header in "\n".join(" ".join(line.split()) for line in sweep.outcome.out.splitlines())
    assert "untrained" in sweep.outcome.out
    overview = (sweep.results / "tables" / "overview.md").read_text()
    assert {run for run, _ in sweep.records} == {run for run, _ in sweep.records if run in overview}
    assert sweep.outcome.out.splitlines()[-1] == str(sweep.results / "index.html")


def test_results_are_on_standard_output_and_progress_is_not(sweep: Run) -> None:
    assert "test images" in sweep.outcome.err
    assert "test images" not in sweep.outcome.out
    assert "|" not in sweep.outcome.err


def test_a_job_of_a_sweep_equals_the_run_alone(sweep: Run, parts: Path, tmp_path: Path) -> None:
    assert command(*arguments(parts, tmp_path / "results", "k_shot=2", "save_maps=true")).code == 0
    alone = read_records(tmp_path / "results")
    assert len(alone) == 2
    for place, record in alone.items():
        assert without(record, "timing", "config") == without(sweep.records[place], "timing", "config")
        for name in (f"maps/{place[0]}/{place[1]}.npz", f"records/folder/{place[0]}/{place[1]}.scores.csv"):
            assert (tmp_path / "results" / name).read_bytes() == (sweep.results / name).read_bytes()


def test_the_working_folder_stays_clean(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    run = arguments(parts, Path("out/results"), "dataset.categories=[bolt]")
    assert command(*run).code == 0
    assert command("-m", *run, "seed=0,1").code == 0
    assert command("--cfg", "job").code == 0
    assert [path.name for path in here.iterdir()] == ["out"]
    assert {path.name for path in (here / "out").iterdir()} <= {"results", "cache"}


def test_the_demo_runs_from_nothing(tmp_path: Path) -> None:
    """Only its first category here: its whole takes long."""
    results = tmp_path / "results"
    base = (f"runtime.cache_dir={tmp_path / 'cache'}", f"results_dir={results}", "scales=[]")
    unknown = command(*base, "dataset.categories=[nothing]")
    assert unknown.code != 0
    known = unknown.err.rsplit("it has ", 1)[1].strip().split(", ")
    assert len(known) >= 4
    outcome = command(*base, f"dataset.categories=[{known[0]}]")
    assert outcome.code == 0, outcome.err
    ((_, category),) = read_records(results)
    assert category == known[0]
    assert "generated" in outcome.out


def test_a_subset_of_the_categories_is_the_same_run(parts: Path, tmp_path: Path) -> None:
    subset = arguments(parts, tmp_path / "results", "dataset.categories=[bolt]")
    assert command(*subset).code == 0
    assert [name for _, name in read_records(tmp_path / "results")] == ["bolt"]
    with counted_evaluations() as evaluated:
        assert command(*arguments(parts, tmp_path / "results")).code == 0
    assert evaluated == ["wood_panel"]
    (run,) = run_ids(tmp_path / "results")
    assert set(read_table(tmp_path / "results", run)) == {"bolt", "wood_panel", "mean"}


def test_a_subset_does_not_take_the_others_out_of_the_table(parts: Path, tmp_path: Path) -> None:
    """The table of a run is named after the run, so it is about the run and not about the last command."""
    assert command(*arguments(parts, tmp_path / "results")).code == 0
    (run,) = run_ids(tmp_path / "results")
    before = read_table(tmp_path / "results", run)
    assert command(*arguments(parts, tmp_path / "results", "dataset.categories=[bolt]")).code == 0
    after = read_table(tmp_path / "results", run)
    assert after["mean"] == before["mean"] if "mean" in after else "mean (1 of 2)" in after


def test_force_computes_again(parts: Path, tmp_path: Path) -> None:
    run = arguments(parts, tmp_path / "results", "dataset.categories=[bolt]")
    assert command(*run).code == 0
    first = read_records(tmp_path / "results")
    with counted_evaluations() as evaluated:
        assert command(*run, "force=true").code == 0
    assert evaluated == ["bolt"]
    again = read_records(tmp_path / "results")
    assert first.keys() == again.keys()
    for place in first:
        assert without(first[place], "timing", "config") == without(again[place], "timing", "config")


def test_maps_that_are_asked_for_later_are_written(parts: Path, tmp_path: Path) -> None:
    run = arguments(parts, tmp_path / "results", "dataset.categories=[bolt]")
    assert command(*run).code == 0
    assert command(*run, "save_maps=true").code == 0
    assert [path.name for path in (tmp_path / "results" / "maps").rglob("*.npz")] == ["bolt.npz"]


def test_what_is_no_part_of_a_runs_identity(parts: Path, tmp_path: Path) -> None:
    base = arguments(parts, tmp_path / "results", "k_shot=2")
    expected = run_id(*base)
    elsewhere = shutil.copytree(parts, tmp_path / "elsewhere" / "copy")
    link = tmp_path / "link"
    link.symlink_to(parts)
    other_settings: list[list[object]] = [
        [f"dataset.root={elsewhere}"],
        [f"dataset.root={link}"],
        [f"dataset.root={os.path.relpath(parts)}"],
        ["runtime.batch_size=1"],
        ["runtime.workers=1"],
        ["runtime.device=cpu"],
        [f"runtime.cache_dir={tmp_path / 'other_cache'}"],
        [f"results_dir={tmp_path / 'other_results'}"],
        ["tracker=wandb", "tracker.mode=disabled"],
        ["save_maps=true"],
        ["force=true"],
        ["dataset.categories=[wood_panel]"],
        ["scales=[2,2]"],
        ['dataset.class_names.wood_panel="wood panel"'],  # what it is called anyway
        ["backbone.name=another_name"],
        ["protocol.temperature=1e-2"],
    ]
    for settings in other_settings:
        assert run_id(*base, *settings) == expected, settings


def test_what_is_part_of_a_runs_identity(parts: Path, tmp_path: Path) -> None:
    base = arguments(parts, tmp_path / "results", "k_shot=2")
    other_settings: list[list[object]] = [
        [],
        ["k_shot=1"],
        ["k_shot=0"],
        ["seed=1"],
        ["scales=[2,3]"],
        ["scales=[]"],
        ['prompts.templates=["a photo of the [s]."]'],
        ['prompts.normal_states=["fine [c]"]'],
        ["dataset.class_names.bolt=screw"],
        ["dataset.name=other"],
        ["protocol.class_name=raw"],
        ["protocol.text_prototype=mean_of_raw"],
        ["protocol.temperature=0.07"],
        ["protocol.non_square=squash"],
        ["protocol.tile_stride=0.8"],
        ["protocol.resize=tensor"],
        ["protocol.patch_features=after_ln_post"],
        ["protocol.map_combination=sum"],
        ["protocol.mask_resize=bilinear"],
        ["protocol.references=with_replacement"],
        ["backbone.init_seed=1"],
    ]
    names = {run_id(*base, *settings): settings for settings in other_settings}
    assert len(names) == len(other_settings)


def test_what_the_files_hold_is_part_of_a_runs_identity(parts: Path, tmp_path: Path) -> None:
    root = shutil.copytree(parts, tmp_path / "parts")
    base = arguments(root, tmp_path / "results")
    names = [run_id(*base)]
    paint(root / "bolt/test/good/000.png", 77, (64, 64))
    names.append(run_id(*base))
    (root / "bolt/test/dent/000.png").rename(root / "bolt/test/crack/001.png")
    (root / "bolt/ground_truth/dent/000_mask.png").rename(root / "bolt/ground_truth/crack/001_mask.png")
    names.append(run_id(*base))
    (root / "wood_panel/train/good/002.png").unlink()
    names.append(run_id(*base))
    (root / "bolt").rename(root / "nut")
    names.append(run_id(*base))
    assert len(set(names)) == len(names)


def test_the_seed_is_no_part_of_a_zero_shot_run(parts: Path, tmp_path: Path) -> None:
    base = arguments(parts, tmp_path / "results")
    assert run_id(*base, "k_shot=0", "seed=0") == run_id(*base, "k_shot=0", "seed=5")
    assert run_id(*base, "k_shot=1", "seed=0") != run_id(*base, "k_shot=1", "seed=5")
    with counted_evaluations() as evaluated:
        assert command("-m", *base, "seed=0,1,2", "dataset.categories=[bolt]").code == 0
    assert evaluated == ["bolt"]


def test_references_are_nested_and_depend_on_the_seed(parts: Path, tmp_path: Path) -> None:
    base = arguments(parts, tmp_path / "results", "-m", "k_shot=2,3", "seed=0,1,2", "dataset.categories=[bolt]")
    assert command(*base, "scales=[]").code == 0
    drawn: dict[tuple[int, int], list[str]] = {}
    for record in read_records(tmp_path / "results").values():
        config = record["config"]
        drawn[config["k_shot"], config["seed"]] = [reference["path"] for reference in record["references"]]
    assert len(drawn) == 6
    for seed in range(3):
        assert drawn[2, seed] == drawn[3, seed][:2]
    assert len({tuple(drawn[3, seed]) for seed in range(3)}) > 1


@pytest.mark.parametrize("k_shot", [0, 2])
def test_neither_the_order_of_files_nor_the_batch_changes_results(
    sweep: Run, parts: Path, tmp_path: Path, k_shot: int
) -> None:
    root = tmp_path / "parts"
    files = sorted(path for path in parts.rglob("*") if path.is_file())
    random.Random(k_shot).shuffle(files)
    for file in files:
        target = root / file.relative_to(parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    base = [f"k_shot={k_shot}", "save_maps=true"]
    with scandir_backwards():
        assert command(*arguments(root, tmp_path / "same", *base)).code == 0
    same = read_records(tmp_path / "same")
    for place, record in same.items():
        assert without(record, "timing", "config") == without(sweep.records[place], "timing", "config")
        name = f"maps/{place[0]}/{place[1]}.npz"
        assert (tmp_path / "same" / name).read_bytes() == (sweep.results / name).read_bytes()

    for batch_size, workers in ((1, 1), (7, 3)):
        results = tmp_path / f"batch_{batch_size}"
        settings = (f"runtime.batch_size={batch_size}", f"runtime.workers={workers}")
        assert command(*arguments(parts, results, *base, *settings)).code == 0
        for place, record in read_records(results).items():
            # The table's metrics; aupro_200 hangs on thresholds that move with the smallest and the largest score.
            for metric in SEVEN:
                assert record["metrics"][metric] == pytest.approx(sweep.records[place]["metrics"][metric], abs=1e-6)
            for row, other in zip(scores_of(results, *place), scores_of(sweep.results, *place), strict=True):
                assert float(row["image_score"]) == pytest.approx(float(other["image_score"]), abs=1e-6)
            name = f"maps/{place[0]}/{place[1]}.npz"
            with np.load(results / name) as maps, np.load(sweep.results / name) as others:
                for key in maps:
                    np.testing.assert_allclose(maps[key], others[key], atol=1e-6)


def test_references_from_a_file(parts: Path, tmp_path: Path) -> None:
    listed = tmp_path / "references.txt"
    elsewhere = paint(tmp_path / "more" / "fine.png", 555, (64, 64))
    listed.write_text(f"# mine\ntrain/good/002.png\n\n{elsewhere}\ntrain/good/000.png\n")
    base = arguments(parts, tmp_path / "results", "dataset.categories=[bolt]", f"references.file={listed}")
    assert command("-m", *base, "k_shot=1,2", "seed=0,1").code == 0
    records = read_records(tmp_path / "results")
    assert len(records) == 2, "the seed is no part of a run whose references are listed"
    references = {record["config"]["k_shot"]: record["references"] for record in records.values()}
    assert [reference["path"] for reference in references[2]] == ["train/good/002.png", str(elsewhere)]
    assert references[1] == references[2][:1]

    drawn = run_id(*arguments(parts, tmp_path / "results", "dataset.categories=[bolt]", "k_shot=2"))
    listed_run = run_id(*base, "k_shot=2", "force=true")
    assert drawn != listed_run
    paint(elsewhere, 556, (64, 64))
    assert run_id(*base, "k_shot=2") not in {drawn, listed_run}


def test_listing_what_would_be_drawn_gives_the_same_numbers(sweep: Run, parts: Path, tmp_path: Path) -> None:
    record = sweep.record("bolt", 2)
    listed = tmp_path / "references.txt"
    listed.write_text("\n".join(reference["path"] for reference in record["references"]))
    settings = ("dataset.categories=[bolt]", "k_shot=2", f"references.file={listed}")
    assert command(*arguments(parts, tmp_path / "results", *settings)).code == 0
    (again,) = read_records(tmp_path / "results").values()
    assert again["metrics"] == record["metrics"]
    assert again["references"] == record["references"]


def test_one_category_folder_is_a_dataset(
    sweep: Run, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(*arguments(parts / "bolt", tmp_path / "results")).code == 0
    ((_, category),) = read_records(tmp_path / "results")
    assert category == "bolt"
    monkeypatch.chdir(parts / "bolt")
    with counted_evaluations() as evaluated:
        assert command(*arguments(Path(), tmp_path / "results")).code == 0
    assert evaluated == []


@pytest.mark.parametrize("scales", ["[]", "[3,2]", "[15]"])
def test_any_scales(parts: Path, tmp_path: Path, scales: str) -> None:
    base = arguments(parts, tmp_path / "results", f"scales={scales}", "dataset.categories=[bolt]")
    outcome = command("-m", *base, "k_shot=0,1")
    assert outcome.code == 0, outcome.err
    assert len(read_records(tmp_path / "results")) == 2


@pytest.mark.parametrize(
    "setting",
    [
        "protocol.class_name=raw",
        "protocol.text_prototype=mean_of_raw",
        "protocol.temperature=0.07",
        "protocol.non_square=squash",
        "protocol.tile_stride=0.2",
        "protocol.resize=tensor",
        "protocol.patch_features=after_ln_post",
        "protocol.map_combination=sum",
        'prompts.templates=["a photo of the [s]."]',
        "dataset.class_names.wood_panel=plank",
        "scales=[3]",
        "seed=1",
        "k_shot=1",
        "backbone.init_seed=3",
    ],
)
def test_every_setting_has_an_effect(sweep: Run, parts: Path, tmp_path: Path, setting: str) -> None:
    """A documented setting that nothing reads would leave the scores or the maps as they are."""
    base = arguments(parts, tmp_path / "results", "k_shot=2", "save_maps=true", "dataset.categories=[wood_panel]")
    assert command(*base, setting).code == 0
    ((run, category),) = read_records(tmp_path / "results")
    before = sweep.record(category, 2)["run_id"]
    assert run != before
    with (
        np.load(tmp_path / f"results/maps/{run}/{category}.npz") as maps,
        np.load(sweep.results / f"maps/{before}/{category}.npz") as others,
    ):
        changed = any(maps[key].shape != others[key].shape or (maps[key] != others[key]).any() for key in maps)
    assert changed or scores_of(tmp_path / "results", run, category) != scores_of(sweep.results, before, category)


def test_mask_resize_has_an_effect(sweep: Run, parts: Path, tmp_path: Path) -> None:
    base = arguments(parts, tmp_path / "results", "k_shot=2", "protocol.mask_resize=bilinear")
    assert command(*base).code == 0
    changed = [
        record["metrics"] != sweep.record(category, 2)["metrics"]
        for (_, category), record in read_records(tmp_path / "results").items()
    ]
    assert any(changed)


def test_with_replacement_takes_more_references_than_there_are(parts: Path, tmp_path: Path) -> None:
    base = arguments(parts, tmp_path / "results", "k_shot=5", "dataset.categories=[bolt]")
    assert command(*base).code != 0
    assert command(*base, "protocol.references=with_replacement").code == 0
    (record,) = read_records(tmp_path / "results").values()
    assert len(record["references"]) == 5


@pytest.mark.parametrize("mode", ["auto", "online", "offline"])
def test_the_trackers_settings_reach_it(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    payloads: list[dict[str, Any]] = []

    def note(payload: dict[str, Any]) -> str:
        payloads.append(payload)
        return "here is the mirror"

    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tracking, "_in_child", note)
    base = arguments(parts, tmp_path / "results", "dataset.categories=[bolt]", "tracker=wandb", f"tracker.mode={mode}")
    outcome = command(*base, "tracker.project=parts", "tracker.entity=us")
    assert outcome.code == 0
    assert "here is the mirror" in outcome.out
    ((run, _),) = read_records(tmp_path / "results")
    (payload,) = payloads
    assert (payload["id"], payload["mode"]) == (run, mode)
    assert (payload["project"], payload["entity"]) == ("parts", "us")
    assert payload["config"]["tracker"]["mode"] == mode
    json.dumps(payload)
    assert command(*base).code == 0
    assert len(payloads) == 1, "nothing new, nothing to mirror"


def test_a_tracker_that_fails_changes_no_result(
    sweep: Run, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> str:
        raise RuntimeError("no mirror today")

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(tracking, "_in_child", fail)
    outcome = command(*arguments(parts, tmp_path / "results", "dataset.categories=[bolt]", "tracker=wandb"))
    assert outcome.code == 0
    assert "no mirror today" in outcome.err
    assert "Traceback" not in outcome.err
    (record,) = read_records(tmp_path / "results").values()
    assert record["metrics"] == sweep.record("bolt", 0)["metrics"]


def test_a_job_that_breaks_does_not_hinder_the_others_of_a_sweep(parts: Path, tmp_path: Path) -> None:
    with mock.patch.object(runner, "run", side_effect=[RuntimeError("a fault of ours"), 0, 0]) as run:
        outcome = command(*arguments(parts, tmp_path / "results", "-m", "k_shot=0,1,2"))
    assert run.call_count == 3
    assert outcome.code != 0
    assert "a fault of ours" in outcome.err


@pytest.mark.parametrize("codes", [[1, 0], [0, 1]])
def test_the_exit_code_of_a_sweep_is_that_of_its_worst_job(parts: Path, tmp_path: Path, codes: list[int]) -> None:
    with mock.patch.object(runner, "run", side_effect=codes):
        assert command(*arguments(parts, tmp_path / "results", "-m", "k_shot=0,1")).code == 1


def test_an_interrupted_command_says_so(parts: Path, tmp_path: Path) -> None:
    with mock.patch.object(runner, "evaluate", side_effect=KeyboardInterrupt):
        outcome = command(*arguments(parts, tmp_path / "results"))
    assert outcome.code == 130
    assert "what is finished is kept. To continue: winclip-bench " in outcome.err
    assert "Traceback" not in outcome.err


def test_names_that_are_not_plain(tmp_path: Path) -> None:
    """Spaces, commas, quotes and letters of all kinds in the names of categories, defects and files."""
    root = tmp_path / "my parts"
    category = make_category(root / "Gehäuse 部品, “links”", 3)
    (category / "test/dent").rename(category / "test/tiefe Delle, 1")
    (category / "ground_truth/dent").rename(category / "ground_truth/tiefe Delle, 1")
    (category / "test/good/000.png").rename(category / 'test/good/a "b", c\n.png')
    outcome = command(*(a if "root=" not in a else f"dataset.root='{root}'" for a in arguments(root, tmp_path / "out")))
    assert outcome.code == 0, outcome.err
    ((run, name),) = read_records(tmp_path / "out")
    assert name == category.name
    rows = scores_of(tmp_path / "out", run, name)
    assert {row["defect"] for row in rows} == {"good", "crack", "tiefe Delle, 1"}
    assert 'test/good/a "b", c\n.png' in {row["path"] for row in rows}


def test_class_names_are_spoken_in_the_prompts(parts: Path, tmp_path: Path) -> None:
    """Named and unnamed categories whose prompts come to the same have the same scores."""
    root = tmp_path / "parts"
    for name in ("left_bolt", "right"):
        shutil.copytree(parts / "bolt", root / name)
    base = arguments(root, tmp_path / "results", 'dataset.class_names.right="left bolt"')
    assert command(*base).code == 0
    (run,) = run_ids(tmp_path / "results")
    assert scores_of(tmp_path / "results", run, "left_bolt") == scores_of(tmp_path / "results", run, "right")
    assert command(*base, "dataset.class_names.right=nut").code == 0
    (other,) = run_ids(tmp_path / "results") - {run}
    assert scores_of(tmp_path / "results", other, "left_bolt") == scores_of(tmp_path / "results", run, "left_bolt")
    assert scores_of(tmp_path / "results", other, "right") != scores_of(tmp_path / "results", run, "right")


def test_the_table_is_printed_whatever_the_terminal_can_show(parts: Path, tmp_path: Path) -> None:
    """Hours of computing do not end in a character that the terminal's encoding lacks."""
    bare = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    argv = ["winclip-bench", *arguments(parts, tmp_path / "results", "dataset.categories=[bolt]")]
    with mock.patch.object(sys, "argv", argv), mock.patch.object(sys, "stdout", bare):
        assert cli.main() == 0
    assert b"| mean" in bare.buffer.getvalue()  # type: ignore[attr-defined]


def test_a_class_name_for_nobody_is_noticed(parts: Path, tmp_path: Path) -> None:
    outcome = command(*arguments(parts, tmp_path / "results", "dataset.class_names.wood_pannel=plank"))
    assert "wood_pannel" in outcome.err


def test_the_layouts_without_masks_and_with_classes_in_train(parts: Path, tmp_path: Path) -> None:
    """``test/{good,crack}`` alone, and ``train/<class>`` with ``test/{normal,anomaly}``."""
    root = tmp_path / "loose"
    for source, target in (("test/good", "test/good"), ("test/crack", "test/crack")):
        shutil.copytree(parts / "bolt" / source, root / "typed" / target)
    for source, target in (
        ("train/good", "train/red"),
        ("test/dent", "train/blue"),
        ("test/good", "test/normal"),
        ("test/crack", "test/anomaly"),
    ):
        shutil.copytree(parts / "bolt" / source, root / "pooled" / target)
    outcome = command(*arguments(root, tmp_path / "results"))
    assert outcome.code == 0, outcome.err
    (run,) = run_ids(tmp_path / "results")
    for name in ("typed", "pooled"):
        record = read_records(tmp_path / "results")[run, name]
        for metric in SEVEN:
            assert (record["metrics"][metric] is None) == metric.endswith(("px", "aupro"))
    assert read_records(tmp_path / "results")[run, "pooled"]["counts"]["train"] == 4
    assert read_table(tmp_path / "results", run)["mean"]["aupro"] == "–"
