"""The embedding baselines through the command line: classes, forms, thresholds, the saved head, made images."""

import csv
import json
import logging
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import arguments, command, run_ids
from winclip_bench import records
from winclip_bench.data.demo import make_sample
from winclip_bench.encoding import ImageFile
from winclip_bench.errors import InputError
from winclip_bench.methods import linear_head
from winclip_bench.pipelines import augmenting, embedding

CLASSES = ("tile", "wood")
METHODS = ("prototypes", "linear_head")


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/{tile,wood} and test/{normal,anomaly}, the layout of the baselines."""
    root = tmp_path_factory.mktemp("pooled")
    for name in CLASSES:
        for index in range(5):
            _save(root / "parts" / "train" / name / f"{index}.png", make_sample(name, "good", "train", index)[0])
        for index in range(2):
            _save(
                root / "parts" / "test" / "normal" / f"{name}{index}.png", make_sample(name, "good", "test", index)[0]
            )
            stained = make_sample(name, "stain", "test", index)[0]
            _save(root / "parts" / "test" / "anomaly" / f"{name}{index}.png", stained)
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose cache the tests of this module share."""
    return tmp_path_factory.mktemp("runs")


def _save(path: Path, pixels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize((64, 64)).save(path)


def run(root: Path, results: Path, *more: object) -> dict[str, Any]:
    """The record of the one category."""
    given = [word for word in arguments(root, results) if not word.startswith("backbone.pretrained")]
    outcome = command(*given, "force=true", *more)
    assert outcome.code == 0, outcome.err
    found = sorted((results / "records").glob("*/*/*.json"), key=lambda path: path.stat().st_mtime_ns)
    return json.loads(found[-1].read_text())


def beside(results: Path, record: dict[str, Any], ending: str) -> Path:
    return results / "records" / record["dataset"] / record["run_id"] / f"{record['category']}.{ending}"


def rows_of(results: Path, record: dict[str, Any]) -> list[dict[str, str]]:
    return list(csv.DictReader(beside(results, record, "scores.csv").open(newline="")))


def refused(root: Path, results: Path, *more: object) -> str:
    outcome = command(*arguments(root, results, *more))
    assert outcome.code == 1
    assert "Traceback" not in outcome.err
    return outcome.err


@pytest.mark.parametrize("method", METHODS)
def test_references_are_drawn_by_class(pooled: Path, place: Path, method: str) -> None:
    record = run(pooled, place / method, f"method={method}", "k_shot=3")
    folders = [Path(reference["path"]).parent.name for reference in record["references"]]
    assert folders == ["tile"] * 3 + ["wood"] * 3


@pytest.mark.parametrize("method", METHODS)
def test_what_is_decided_is_what_is_counted(pooled: Path, place: Path, method: str) -> None:
    record = run(pooled, place / method, f"method={method}")
    rows, found = rows_of(place / method, record), record["summary"]
    cut = found["threshold"]["value"]
    assert cut == {"prototypes": -0.2, "linear_head": 0.0}[method]
    for row in rows:
        assert row["predicted"] == ("anomalous" if float(row["image_score"]) > cut else "normal")
    right = sum((row["predicted"] == "anomalous") == (row["label"] == "1") for row in rows)
    assert (found["total"], found["correct"], found["accuracy"]) == (8, right, right / 8)
    assert found["normal"]["total"] == found["anomaly"]["total"] == 4
    assert record["metrics"]["accuracy_binary"] == found["accuracy"]
    assert record["metrics"]["auroc_sp"] is not None


def test_a_category_with_one_class(place: Path, parts: Path) -> None:
    for method in METHODS:
        record = run(parts, place / "one", f"method={method}", "k_shot=3", "dataset.categories=[bolt]")
        assert {Path(reference["path"]).parent.name for reference in record["references"]} == {"good"}
        assert record["metrics"]["auroc_px"] is None
        assert "anomaly map" in record["undefined"]["auroc_px"]


def test_prototypes_score_is_bank_minus_class(pooled: Path, place: Path) -> None:
    record = run(pooled, place / "score", "method=prototypes")
    means = record["summary"]["average_scores"]
    for label, rows in (("normal", "0"), ("anomaly", "1")):
        scores = [float(row["image_score"]) for row in rows_of(place / "score", record) if row["label"] == rows]
        assert np.mean(scores) == pytest.approx(means[label]["anomaly_score"], abs=1e-6)
        turned = means[label]["anomaly_similarity"] - means[label]["normal_similarity"]
        assert turned == pytest.approx(means[label]["anomaly_score"], abs=1e-6)


@pytest.mark.parametrize("rule", ["conformal", "normal"])
def test_prototypes_are_calibrated_on_their_references(pooled: Path, place: Path, rule: str) -> None:
    given = ("method=prototypes", f"method.threshold_rule={rule}", "method.false_alarm_rate=0.2")
    cut = run(pooled, place / rule, *given)["summary"]["threshold"]
    assert (cut["rule"], cut["promised"]) == (rule, 0.2)
    assert cut["value"] is not None


def test_a_reference_is_left_out_of_its_prototype_and_of_the_bank() -> None:
    up, right, far = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0])
    classes = {"a": torch.stack([right, up]), "b": far[None]}
    banks = {"a": torch.stack([up, right]), "b": far[None]}
    # right: nearest is up, at 0; the bank without its copy, up, is right and far, on average 0.
    # up: nearest is right or far, at 0; the bank is up and far, on average ½.
    # far: its class is gone and the other one's diagonal is at −√½; the bank is up and right, on average −½.
    scores = embedding._left_out(classes, banks)
    np.testing.assert_allclose(scores, [0.0, 0.5, -0.5 + 0.5**0.5], atol=1e-6)
    with pytest.raises(InputError, match="k_shot=1 leaves no other reference"):
        embedding._left_out({"a": up[None]}, {"a": up[None]})


@pytest.mark.parametrize("rule", ["oracle_youden", "oracle_f1"])
@pytest.mark.parametrize("method", METHODS)
def test_what_an_oracle_decides_is_named_so(pooled: Path, place: Path, method: str, rule: str) -> None:
    record = run(pooled, place / rule, f"method={method}", f"method.threshold_rule={rule}")
    decided = {name for name in record["metrics"] if name.endswith("_binary")}
    assert len(decided) == 4
    assert all(name.startswith("oracle_") for name in decided)


def test_a_head_is_the_same_twice_and_gives_its_scores_again(pooled: Path, place: Path) -> None:
    results = place / "head"
    record = run(pooled, results, "method=linear_head")
    content, rows = beside(results, record, "head.safetensors").read_bytes(), rows_of(results, record)
    again = run(pooled, results, "method=linear_head")
    assert again["run_id"] == record["run_id"]
    assert beside(results, again, "head.safetensors").read_bytes() == content
    assert rows_of(results, again) == rows

    head, about = linear_head.from_bytes(content)
    assert about["weights_sha256"] == record["provenance"]["weights_sha256"]
    assert (about["pixels"], about["non_square"], about["resize"]) == ("normalised", "tile", "pil")
    assert about["threshold"] == record["summary"]["threshold"]
    seen: list[torch.Tensor] = []
    train = embedding._train

    def noting(*given: Any, original: bool) -> Any:
        seen.append(given[4])
        return train(*given, original=original)

    with mock.patch.object(embedding, "_train", noting):
        run(pooled, results, "method=linear_head")
    assert head.logits(seen[0]).tolist() == pytest.approx([float(row["image_score"]) for row in rows], abs=1e-6)
    assert run(pooled, results, "method=linear_head", "seed=1")["run_id"] != record["run_id"]


def test_the_original_head_calls_every_image_normal(pooled: Path, place: Path) -> None:
    right = run(pooled, place / "forms", "method=linear_head")
    original = run(pooled, place / "forms", "method=linear_head", "protocol=original")
    rows = [rows_of(place / "forms", record) for record in (right, original)]
    assert not np.allclose(*[[float(row["image_score"]) for row in of] for of in rows])
    assert {row["predicted"] for row in rows[1]} == {"normal"}
    assert original["summary"]["accuracy"] == 0.5
    assert "every image normal" in original["summary"]["threshold"]["note"]


def test_the_original_prototypes_squash_what_is_not_square(place: Path, parts: Path) -> None:
    given = ("method=prototypes", "k_shot=2", "dataset.categories=[wood_panel]")
    counts = {
        protocol: run(parts, place / "squash", *given, f"protocol={protocol}")["counts"]["tiles"]
        for protocol in ("paper", "original")
    }
    assert counts["original"] == 4 < counts["paper"]
    assert len(run_ids(place / "squash")) == 2


def test_what_cannot_be_is_one_sentence(pooled: Path, place: Path, parts: Path) -> None:
    results, one = place / "refused", "dataset.categories=[bolt]"
    assert "one training image" in refused(parts, results, "method=linear_head", "k_shot=1", one)
    assert "set k_shot=9 to at most" in refused(pooled, results, "method=prototypes", "k_shot=9")
    calibrated = ("method.threshold_rule=conformal", "k_shot=1", one)
    assert "k_shot=1 leaves no other" in refused(parts, results, "method=prototypes", *calibrated)
    trained = refused(pooled, results, "method=linear_head", "method.threshold_rule=normal")
    assert "on which method=linear_head is trained" in trained


def test_made_images_are_kept_and_not_made_again(pooled: Path, tmp_path: Path) -> None:
    given = (pooled, tmp_path / "results", "method=prototypes")
    first = run(*given)
    made = sorted((tmp_path / "cache" / "made").rglob("*.png"))
    assert len(made) == 6  # of the first three images of either class
    times = [path.stat().st_mtime_ns for path in made]
    with mock.patch.object(augmenting, "pseudo_anomaly", side_effect=AssertionError("made again")):
        again = run(*given)
    assert [path.stat().st_mtime_ns for path in made] == times
    assert again["summary"] == first["summary"]


def test_a_cache_that_cannot_be_written_to_costs_a_warning(
    pooled: Path, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writable = run(pooled, place / "writable", "method=linear_head", "k_shot=2")

    def refuse(path: Path, content: Any) -> None:
        if "made" in path.parts:
            raise InputError(f"cannot write {path}")
        records.write_atomically(path, content)

    augmenting._scratch.cache_clear()
    gone = {path: path.read_bytes() for path in (place / "cache" / "made").rglob("*.png")}
    for path in gone:
        path.unlink()
    with mock.patch.object(augmenting, "write_atomically", refuse), caplog.at_level(logging.WARNING):
        refused_to = run(pooled, place / "read-only", "method=linear_head", "k_shot=2")
    assert refused_to["summary"] == writable["summary"]
    warnings = [message for message in caplog.messages if "are not kept" in message]
    assert len(warnings) == 1  # not one per image
    assert not list((place / "cache" / "made").rglob("*.png"))


def test_an_image_too_small_to_damage_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "small.png")
    with pytest.raises(InputError, match=r"small\.png cannot be damaged .* take it out"):
        augmenting.damaged_copy(ImageFile(tmp_path / "small.png", "0" * 64), 0, str(tmp_path), 10**6)
