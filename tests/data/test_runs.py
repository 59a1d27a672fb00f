"""What a run makes of odd data: refused before anything is encoded, or recorded with a remark."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from PIL import Image

from tests.data.builders import paint, paint_mask
from tests.helpers import Outcome, arguments, command, make_category, read_records, run_ids
from winclip_bench.clip import backbone

SIZE = (64, 64)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A root with the category bolt."""
    make_category(tmp_path / "parts/bolt", 1)
    return tmp_path / "parts"


def run(parts: Path, *settings: object) -> Outcome:
    return command(*arguments(parts, parts.parent / "results", *settings))


def the_record(parts: Path) -> dict[str, Any]:
    (record,) = read_records(parts.parent / "results").values()
    return record


def test_clean_data_have_no_remarks(parts: Path) -> None:
    assert run(parts).code == 0
    assert the_record(parts)["warnings"] == []
    assert "partial" not in the_record(parts)["counts"]


def test_a_mask_of_another_size_stops_before_anything_is_encoded(parts: Path) -> None:
    mask = paint_mask(parts / "bolt/ground_truth/dent/000_mask.png", size=(32, 32))
    with mock.patch.object(backbone.Backbone, "encode_images", side_effect=AssertionError("encoded in vain")):
        outcome = run(parts)
    assert outcome.code == 1
    assert (
        f"error: bolt: {mask}: the mask has 32×32 pixels and its image 64×64 (width×height); give them one size, "
        f"or set dataset.resize_masks=true if they show the same section\n"
    ) in outcome.err


def test_resized_masks_are_counted_and_no_other_run(parts: Path) -> None:
    assert run(parts).code == 0
    ids = run_ids(parts.parent / "results")
    assert run(parts, "dataset.resize_masks=true", "dataset.max_pixels=5000").code == 0
    assert run_ids(parts.parent / "results") == ids
    for name in ("dent", "crack"):
        paint_mask(parts / f"bolt/ground_truth/{name}/000_mask.png", size=(32, 32))
    assert run(parts, "dataset.resize_masks=true").code == 0
    (new,) = (record for (name, _), record in read_records(parts.parent / "results").items() if name not in ids)
    assert new["warnings"] == ["2 anomalous test images have a mask of another size, which was resized to theirs"]
    assert new["counts"]["regions"] == 2


def test_a_threshold_is_another_run(parts: Path) -> None:
    paint_mask(parts / "bolt/ground_truth/dent/000_mask.png", value=100, size=SIZE)
    assert run(parts).code == 0
    ids = run_ids(parts.parent / "results")
    assert the_record(parts)["counts"]["images_with_regions"] == 2
    assert run(parts, "dataset.mask_threshold=128").code == 0
    (new,) = (record for (name, _), record in read_records(parts.parent / "results").items() if name not in ids)
    assert new["counts"]["images_with_regions"] == 1


def test_the_size_limit(parts: Path) -> None:
    outcome = run(parts, "dataset.max_pixels=4095")
    assert outcome.code == 1
    assert "cannot be read as an image (it has 64×64 pixels, and dataset.max_pixels allows 4095)" in outcome.err
    assert run(parts, "dataset.max_pixels=4096").code == 0


def test_remarks_about_masks(parts: Path) -> None:
    paint_mask(parts / "bolt/ground_truth/good/000_mask.png", size=SIZE)
    paint_mask(parts / "bolt/ground_truth/good/001_mask.png", size=SIZE, value=0)
    paint_mask(parts / "bolt/ground_truth/dent/000_mask.png", size=SIZE, value=0)
    paint_mask(parts / "bolt/ground_truth/dent/007_mask.png", size=SIZE)
    assert run(parts).code == 0
    record = the_record(parts)
    assert record["warnings"] == [
        "1 anomalous test images have an empty mask; they count for image metrics, not for regions",
        "1 good test images have a mask that is not empty; they count as normal all over",
        "1 masks belong to no test image; `python -m winclip_bench.data check` names them",
    ]
    assert record["counts"]["images_with_regions"] == 1


def test_a_damaged_mask_of_a_good_image_changes_nothing(parts: Path) -> None:
    assert run(parts).code == 0
    before = the_record(parts)
    (parts / "bolt/ground_truth/good").mkdir()
    (parts / "bolt/ground_truth/good/000_mask.png").write_text("no image")
    assert run(parts, "force=true").code == 0
    assert the_record(parts)["metrics"] == before["metrics"]  # the one record: the run is the same


def test_without_masks_there_are_image_metrics_only(parts: Path) -> None:
    (parts / "bolt/ground_truth").rename(parts / "bolt/other")
    assert run(parts).code == 0
    record = the_record(parts)
    assert record["metrics"]["auroc_px"] is None
    assert record["undefined"]["auroc_px"] == "the category has no masks"
    assert record["metrics"]["auroc_sp"] is not None


def test_several_masks_of_one_image(tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    make_category(parts / "bolt", 1)
    for name in ("crack", "dent"):
        folder = parts / "bolt/ground_truth" / name
        (folder / "000_mask.png").unlink()
        paint_mask(folder / "000/000.png", size=SIZE)
        Image.new("L", SIZE).save(folder / "000/001.png")
        with Image.open(folder / "000/001.png") as mask:
            mask.putpixel((40, 40), 255)
            mask.save(folder / "000/001.png")
    assert run(parts, "dataset.layout=mvtec_loco").code == 0
    assert the_record(parts)["counts"]["regions"] == 4


def test_a_partial_copy_is_marked_in_records_and_tables(tmp_path: Path) -> None:
    make_category(tmp_path / "parts/bottle", 1)
    paint(tmp_path / "parts/bottle/test/good/900.png", 9, SIZE)
    outcome = run(tmp_path / "parts", "dataset.name=mvtec")
    assert outcome.code == 0
    record = the_record(tmp_path / "parts")
    assert record["counts"]["partial"] is True
    assert record["warnings"][0] == "partial dataset: 14 of 15 official categories are missing"
    assert record["warnings"][1].startswith("partial category: test/broken_large has 0 of officially 20 images; ")
    (table,) = (tmp_path / "results/tables").glob("mvtec-*.md")
    assert "bottle: partial dataset: 14 of 15 official categories are missing" in table.read_text(encoding="utf-8")
    assert "warning: bottle: partial dataset" in outcome.err
