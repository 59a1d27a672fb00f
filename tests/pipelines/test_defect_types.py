"""Defect typing through the command line: stages, threshold rules, prompt sets, the original form, what is written."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.helpers import Outcome, arguments, command, make_category, read_records, run_ids
from winclip_bench.data.demo import make_sample

TYPES = ("scratch", "stain")


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A category with nine training images and a folder of test images for each of three classes; no masks."""
    root = tmp_path_factory.mktemp("tiles")
    for folder, split, count in (("good", "train", 9), ("good", "test", 3), *((name, "test", 2) for name in TYPES)):
        (root / "tile" / split / folder).mkdir(parents=True)
        for index in range(count):
            pixels = make_sample("tile", folder, split, index)[0]  # type: ignore[arg-type]
            Image.fromarray(pixels).resize((64, 64)).save(root / "tile" / split / folder / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose cache the tests of this module share."""
    return tmp_path_factory.mktemp("runs")


def typed(root: Path, results: Path, *more: object) -> tuple[dict[str, Any], Outcome]:
    """The one record of a run with trained weights, and how it went."""
    given = [word for word in arguments(root, results) if not word.startswith("backbone.pretrained")]
    outcome = command(*given, "method=defect_types", "force=true", *more)
    assert outcome.code == 0, outcome.err
    records = sorted((results / "records").glob("*/*/*.json"), key=lambda path: path.stat().st_mtime_ns)
    return json.loads(records[-1].read_text()), outcome


def rows_of(results: Path, record: dict[str, Any]) -> list[dict[str, str]]:
    path = results / "records" / record["dataset"] / record["run_id"] / f"{record['category']}.scores.csv"
    return list(csv.DictReader(path.open(newline="")))


def refused(root: Path, results: Path, *more: object) -> str:
    """The one line about the category in what a failing command says."""
    outcome = command(*arguments(root, results, "method=defect_types", *more))
    assert outcome.code == 1
    assert "Traceback" not in outcome.err
    return next(line for line in outcome.err.splitlines() if line.startswith("error: "))


def curated(path: Path, *defects: str, name: str = "mine") -> Path:
    content = {
        "name": name,
        "normal_states": ["[c]"],
        "anomalous_states": ["damaged [c]"],
        "defects": {defect: [f"[c] with a {defect}"] for defect in defects},
        "templates": ["a photo of a [s]."],
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_the_stages_of_the_same_features(tiles: Path, place: Path) -> None:
    results = place / "stages"
    found = {}
    for stage in ("single", "two", "defects_only"):
        record, outcome = typed(tiles, results, f"stage={stage}")
        assert stage == "single" or ", 0 images encoded" in outcome.err
        found[stage] = record, rows_of(results, record)
        assert record["typing"]["stage"] == stage
    assert len(run_ids(results)) == 3

    record, rows = found["single"]
    assert record["typing"]["threshold"] is None
    assert [row["predicted"] == "good" for row in rows] == [float(row["image_score"]) <= 0 for row in rows]

    record, two = found["two"]
    assert (record["typing"]["threshold"]["rule"], record["typing"]["threshold"]["value"]) == ("fixed", 0.0)
    assert [row["predicted"] == "good" for row in two] == [float(row["image_score"]) <= 0 for row in two]

    record, only = found["defects_only"]
    assert (record["typing"]["threshold"], record["typing"]["binary"], record["typing"]["oracle"]) == (None, None, {})
    assert record["typing"]["type"]["classes"] == list(TYPES)
    assert np.sum(record["typing"]["type"]["confusion"]) == 4
    assert [row["image_score"] for row in only] == [row["image_score"] for row in two]
    assert not {name for name in record["metrics"] if name.endswith("_binary")}
    for row, of_two in zip(only, two, strict=True):
        assert (row["predicted"] in TYPES) == (row["label"] == "1")
        if of_two["predicted"] != "good" and row["predicted"]:
            assert of_two["predicted"] == row["predicted"]


def test_the_record_counts_what_the_scores_file_says(tiles: Path, place: Path) -> None:
    record, _ = typed(tiles, place / "counted", "stage=two")
    rows, found = rows_of(place / "counted", record), record["typing"]["type"]
    assert found["classes"] == ["good", *TYPES]
    for row, counts in zip(found["classes"], found["confusion"], strict=True):
        told = [one["predicted"] for one in rows if one["defect"] == row]
        assert counts == [told.count(name) for name in found["classes"]]
    right = sum(row["defect"] == row["predicted"] for row in rows) / len(rows)
    assert record["metrics"]["accuracy_type"] == pytest.approx(right)
    assert record["metrics"]["auroc_px"] is None  # there are no masks, and types are named all the same


@pytest.mark.parametrize("first_stage", ["compositional", "winclip"])
@pytest.mark.parametrize(("rule", "k"), [("conformal", 9), ("normal", 9), ("normal", 2)])
def test_a_threshold_calibrated_on_references(tiles: Path, place: Path, first_stage: str, rule: str, k: int) -> None:
    record, _ = typed(
        tiles, place / "calibrated", "stage=two", f"method.first_stage={first_stage}", f"method.threshold_rule={rule}",
        f"k_shot={k}", "method.false_alarm_rate=0.1",
    )  # fmt: skip
    cut = record["typing"]["threshold"]
    assert (cut["rule"], cut["promised"], cut["inclusive"]) == (rule, 0.1, False)
    assert 0 <= cut["interval"][0] < cut["interval"][1] <= 1
    for row in rows_of(place / "calibrated", record):
        assert (row["predicted"] != "good") == (float(row["image_score"]) > cut["value"])
    assert "accuracy_type" in record["metrics"]


def test_copies_are_made_only_where_references_are_few_and_the_rule_uses_them(tiles: Path, tmp_path: Path) -> None:
    def made(rule: str, k: int) -> int:
        typed(tiles, tmp_path / "results", "stage=two", f"method.threshold_rule={rule}", f"k_shot={k}")
        return len(list((tmp_path / "cache" / "made").rglob("*.png")))

    assert made("conformal", 2) == 0
    assert made("normal", 9) == 0
    assert made("normal", 2) == 8


def test_too_few_references_promise_nothing_and_call_nothing_anomalous(tiles: Path, place: Path) -> None:
    record, _ = typed(tiles, place / "few", "stage=two", "method.threshold_rule=conformal", "k_shot=3")
    assert record["typing"]["threshold"]["value"] is None
    assert "takes 19" in record["typing"]["threshold"]["note"]
    assert {row["predicted"] for row in rows_of(place / "few", record)} == {"good"}


@pytest.mark.parametrize("rule", ["oracle_youden", "oracle_f1"])
def test_what_an_oracle_decides_is_named_so(tiles: Path, place: Path, rule: str) -> None:
    record, outcome = typed(tiles, place / rule, "stage=two", f"method.threshold_rule={rule}")
    decided = {name for name in record["metrics"] if name.endswith(("_type", "_binary"))}
    assert decided
    assert all(name.startswith("oracle_") for name in decided)
    assert "Left out: 1 with a threshold chosen on the test labels." in outcome.out
    assert record["typing"]["threshold"] == record["typing"]["oracle"][rule]["threshold"]


def test_the_original_form(tiles: Path, place: Path) -> None:
    right, _ = typed(tiles, place / "forms", "stage=two")
    original, _ = typed(tiles, place / "forms", "stage=two", "protocol=original")
    scores = [[float(row["image_score"]) for row in rows_of(place / "forms", of)] for of in (right, original)]
    assert not np.allclose(*scores)

    # A threshold below every score: good is never predicted. Its precision is undefined, and 0 in the original's means.
    extreme = ("stage=two", "method.threshold=-9")
    for protocol in ("paper", "original"):
        record, _ = typed(tiles, place / "forms", *extreme, f"protocol={protocol}")
        of = record["typing"]["type"]["per_class"]
        assert of["good"]["precision"] is None
        defined = [of[name]["precision"] for name in TYPES if of[name]["precision"] is not None]
        classes = len(defined) if protocol == "paper" else 3
        assert record["metrics"]["precision_macro_type"] == pytest.approx(sum(defined) / classes)


def test_a_curated_set_counts_by_what_it_says(tiles: Path, place: Path, tmp_path: Path) -> None:
    results = place / "curated"
    one = curated(tmp_path / "one.yaml", *TYPES)
    other = curated(tmp_path / "other.yaml", *TYPES, name="yours")
    more = curated(tmp_path / "more.yaml", *TYPES, "dent")
    runs = [typed(tiles, results, f"method.defect_prompts={path}")[0] for path in (one, other, more)]
    assert runs[0]["run_id"] == runs[1]["run_id"] != runs[2]["run_id"]
    assert runs[2]["typing"]["type"]["classes"] == ["good", *TYPES, "dent"]
    one.write_text(one.read_text().replace("damaged", "faulty"))
    assert typed(tiles, results, f"method.defect_prompts={one}")[0]["run_id"] != runs[0]["run_id"]


def test_a_curated_set_by_name(tmp_path: Path) -> None:
    root = make_category(tmp_path / "parts" / "hazelnut").parent
    (root / "hazelnut" / "test" / "dent").rename(root / "hazelnut" / "test" / "hole")
    shutil.rmtree(root / "hazelnut" / "ground_truth")
    record, _ = typed(root, tmp_path / "results", "method.defect_prompts=hazelnut_clip_cpe")
    assert record["typing"]["type"]["classes"] == ["good", "crack", "cut", "hole", "print"]
    assert record["typing"]["type"]["per_class"]["cut"]["support"] == 0


def test_what_cannot_be_is_one_sentence(tiles: Path, place: Path, tmp_path: Path) -> None:
    results = place / "refused"
    lacking = curated(tmp_path / "lacking.yaml", "scratch")
    assert "has no states for stain of 'tile'" in refused(tiles, results, f"method.defect_prompts={lacking}")
    assert "neither a set" in refused(tiles, results, "method.defect_prompts=walnut")
    assert "k_shot=0, but" in refused(tiles, results, "method.threshold_rule=normal")
    winclip = "method.first_stage=winclip"
    assert "at least 2" in refused(tiles, results, "method.threshold_rule=conformal", winclip, "k_shot=1")
    assert "lie in 0–1" in refused(tiles, results, winclip)
    typed(tiles, results, winclip, "method.threshold=0.5")


def test_categories_of_one_kind(tiles: Path, place: Path, tmp_path: Path) -> None:
    good = tmp_path / "good"
    shutil.copytree(tiles, good)
    for name in TYPES:
        shutil.rmtree(good / "tile" / "test" / name)
    assert "no defect to name" in refused(good, place / "good")

    bad = tmp_path / "bad"
    shutil.copytree(tiles, bad)
    shutil.rmtree(bad / "tile" / "test" / "good")
    oracle = "method.threshold_rule=oracle_f1"
    assert "has only one kind" in refused(bad, place / "oracle", oracle)
    outcome = command(*arguments(bad, place / "bad", "method=defect_types", "stage=defects_only"))
    (record,) = read_records(place / "bad").values()
    assert outcome.code == 1  # there is nothing to compare anomalous images with, and yet they have types
    assert record["metrics"]["auroc_sp"] is None
    assert record["metrics"]["accuracy_type"] is not None


def test_type_maps_are_kept_with_the_anomaly_maps(tiles: Path, place: Path) -> None:
    record, _ = typed(tiles, place / "maps", "stage=two", "save_maps=true")
    folder = place / "maps" / "maps" / record["run_id"]
    with (
        np.load(folder / "tile.types.npz", allow_pickle=False) as types,
        np.load(folder / "tile.npz", allow_pickle=False) as maps,
    ):
        assert types["classes"].tolist() == ["good", *TYPES]
        assert set(types) - {"classes"} == set(maps)
        for key in maps:
            assert types[key].dtype == np.uint8
            assert types[key].shape == maps[key].shape
            assert types[key].max() <= len(TYPES)
