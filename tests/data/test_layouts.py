"""The layouts of public datasets, on small copies of their folders, and tables that nobody vouches for."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.builders import VISA_COLUMNS, paint, paint_mask, write_visa_split
from winclip_bench.data import Category, check_category, open_dataset, read_ground_truth
from winclip_bench.data.layouts import LAYOUTS
from winclip_bench.errors import InputError


def the_category(layout: str, root: Path) -> Category:
    (category,) = open_dataset(layout, root, "x").categories
    check_category(category)
    return category


def listed(category: Category) -> list[tuple[str, str, list[str]]]:
    """Key, defect and names of the masks of every test image."""
    return [(sample.key, sample.defect, [mask.name for mask in sample.masks]) for sample in category.test]


def refusal(layout: str, root: Path) -> str:
    with pytest.raises(InputError) as raised:
        open_dataset(layout, root, "x")
    return str(raised.value)


def test_btad(tmp_path: Path) -> None:
    for name in ("train/ok/0001.bmp", "test/ok/0000.bmp", "test/ko/0000.bmp", "test/ko/0001.bmp"):
        paint(tmp_path / "03" / name)
    paint_mask(tmp_path / "03/ground_truth/ko/0000.bmp")
    paint_mask(tmp_path / "03/ground_truth/ko/0001.png")
    category = the_category("btad", tmp_path)
    assert (category.name, [sample.key for sample in category.train]) == ("03", ["train/ok/0001.bmp"])
    assert listed(category) == [
        ("test/ko/0000.bmp", "ko", ["0000.bmp"]),
        ("test/ko/0001.bmp", "ko", ["0001.png"]),
        ("test/ok/0000.bmp", "good", []),
    ]


def test_mvtec_loco(tmp_path: Path) -> None:
    folder = tmp_path / "pushpins"
    names = ("train/good/000", "validation/good/000", "test/good/000")
    for name in (*names, "test/logical_anomalies/000", "test/structural_anomalies/000"):
        paint(folder / f"{name}.png")
    first = paint_mask(folder / "ground_truth/logical_anomalies/000/000.png")
    second = paint_mask(folder / "ground_truth/logical_anomalies/000/001.png", value=254)
    corner = np.zeros((7, 9), np.uint8)
    corner[6, 8] = 254
    Image.fromarray(corner).save(second)
    paint_mask(folder / "ground_truth/structural_anomalies/000/000.png")
    (folder / "defects_config.json").write_text("[]")
    category = the_category("mvtec_loco", tmp_path)
    assert [sample.key for sample in category.train] == ["train/good/000.png"]
    assert listed(category) == [
        ("test/good/000.png", "good", []),
        ("test/logical_anomalies/000.png", "logical_anomalies", ["000.png", "001.png"]),
        ("test/structural_anomalies/000.png", "structural_anomalies", ["000.png"]),
    ]
    assert category.test[1].masks == (first, second)
    assert category.orphans == ()
    union = read_ground_truth(category.test[1].masks, (9, 7))
    assert union.sum() == 7
    assert union[6, 8]
    assert union[:2, :3].all()


def test_mvtec_ad_2(tmp_path: Path) -> None:
    folder = tmp_path / "can"
    for name in ("train/good/000_regular", "validation/good/000_regular", "test_public/good/000_regular"):
        paint(folder / f"{name}.png")
    for name in ("test_public/bad/000_regular", "test_private/000_regular", "test_private_mixed/000_mixed"):
        paint(folder / f"{name}.png")
    paint_mask(folder / "test_public/ground_truth/bad/000_regular_mask.png")
    category = the_category("mvtec_ad_2", tmp_path)
    assert [sample.key for sample in category.train] == ["train/good/000_regular.png"]
    assert listed(category) == [
        ("test_public/bad/000_regular.png", "bad", ["000_regular_mask.png"]),
        ("test_public/good/000_regular.png", "good", []),
    ]
    assert category.has_masks


@pytest.mark.parametrize("ending", ["", "_mask"])
def test_mpdd_and_dtd_synthetic_are_laid_out_as_mvtec(tmp_path: Path, ending: str) -> None:
    for name in ("train/good/000", "test/good/000", "test/bad/000"):
        paint(tmp_path / "Woven_001" / f"{name}.png")
    paint_mask(tmp_path / f"Woven_001/ground_truth/bad/000{ending}.png")
    assert listed(the_category("mvtec", tmp_path)) == [
        ("test/bad/000.png", "bad", [f"000{ending}.png"]),
        ("test/good/000.png", "good", []),
    ]


def make_kolektor(root: Path) -> Path:
    for number, (split, value) in enumerate([("train", 0), ("train", 255), ("test", 255), ("test", 0)]):
        paint(root / split / f"1000{number}.png", number)
        paint_mask(root / split / f"1000{number}_GT.png", value=value)
    return root


def test_kolektor_sdd2(tmp_path: Path) -> None:
    paint_mask(make_kolektor(tmp_path) / "test/10009_GT.png")
    category = the_category("kolektor_sdd2", tmp_path)
    assert category.name == "kolektor_sdd2"
    assert [sample.key for sample in category.train] == ["train/10000.png"]  # 10001 is defective
    assert listed(category) == [
        ("test/10002.png", "defect", ["10002_GT.png"]),
        ("test/10003.png", "good", []),
    ]
    assert category.orphans == (tmp_path / "test/10009_GT.png",)


def test_kolektor_sdd2_without_a_label(tmp_path: Path) -> None:
    (make_kolektor(tmp_path) / "test/10002_GT.png").unlink()
    assert refusal("kolektor_sdd2", tmp_path) == (
        f"{tmp_path}/test/10002.png has no mask 10002_GT.png beside it, which says whether it is normal; "
        f"restore the mask or take the image out"
    )


def test_orphans_and_masks_of_good_images(tmp_path: Path) -> None:
    for name in ("test/good/000", "test/crack/000"):
        paint(tmp_path / "bottle" / f"{name}.png")
    for name in ("good/000", "crack/000_mask", "crack/001_mask", "dent/000_mask"):
        paint_mask(tmp_path / "bottle/ground_truth" / f"{name}.png")
    (tmp_path / "bottle/ground_truth/crack/.DS_Store").write_text("")
    category = the_category("folder", tmp_path / "bottle")
    assert [path.relative_to(tmp_path / "bottle/ground_truth").as_posix() for path in category.orphans] == [
        "crack/001_mask.png",
        "dent/000_mask.png",
    ]
    assert listed(category)[1] == ("test/good/000.png", "good", ["000.png"])


# meta.json


def entry(path: str, mask: str = "", specie: str = "good", anomaly: Any = 0) -> dict[str, Any]:
    return {"img_path": path, "mask_path": mask, "cls_name": "cup", "specie_name": specie, "anomaly": anomaly}


def write_meta(root: Path, test: Any, train: Any = None) -> Path:
    (root / "meta.json").write_text(json.dumps({"train": {} if train is None else train, "test": test}))
    return root / "meta.json"


def test_meta_json(tmp_path: Path) -> None:
    crack = entry("cup/test/crack/0.png", "cup/ground_truth/crack/0_mask.png", "crack", 1)
    good = entry("cup/test/good/0.png")
    train = [entry("cup/train/good/1.png"), entry("cup/train/good/0.png")]
    write_meta(tmp_path, {"cup": [good, crack]}, {"cup": train})
    category = the_category("meta_json", tmp_path)
    assert [sample.key for sample in category.train] == ["train/good/0.png", "train/good/1.png"]
    assert listed(category) == [("test/crack/0.png", "crack", ["0_mask.png"]), ("test/good/0.png", "good", [])]
    assert category.test[0].image == tmp_path / "cup/test/crack/0.png"


def test_meta_json_without_species_masks_and_folders(tmp_path: Path) -> None:
    """As it is written for VisA, whose species are empty, and for sets without masks, whose mask is a folder."""
    write_meta(tmp_path, {"brain": [entry("no/a.png"), entry("yes/a.png", "ground_truth/", "", 1)], "empty": []})
    category = the_category("meta_json", tmp_path)
    assert (category.name, category.has_masks) == ("brain", False)
    assert listed(category) == [("no/a.png", "good", []), ("yes/a.png", "anomaly", [])]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read ("),
        ("[" * 100_000, "cannot be read ("),
        ("[]", "has no object 'test' of categories; write it as AnomalyCLIP does"),
        ('{"test": {"cup": {}}}', "test is no object of lists by category; write it as AnomalyCLIP does"),
        ('{"test": {"cup": [3]}}', ", test, 'cup', entry 0: is no object; write it as AnomalyCLIP does"),
        ('{"test": {"": [{"img_path": "a.png", "anomaly": 0}]}}', "entry 0: the category has no name; give it one"),
        ('{"test": {"cup": [{"img_path": "a.png", "anomaly": 2}]}}', "entry 0: anomaly must be 0 or 1, not 2"),
        ('{"test": {"cup": [{"img_path": "a.png"}]}}', "entry 0: anomaly must be 0 or 1, not None"),
        ('{"test": {"cup": [{"img_path": "a.png", "anomaly": []}]}}', "entry 0: anomaly must be 0 or 1, not []"),
        ('{"test": {"cup": [{"img_path": 3, "anomaly": 0}]}}', "entry 0: img_path, mask_path and specie_name must be"),
        (
            '{"test": {"cup": [{"img_path": "a.png", "anomaly": 1, "specie_name": "good"}]}}',
            "entry 0: anomaly is 1 and specie_name 'good'; correct one of them",
        ),
        (
            '{"test": {}, "train": {"cup": [{"img_path": "a.png", "anomaly": 1}]}}',
            "train, 'cup', entry 0: an anomalous training image; training images are references",
        ),
    ],
)
def test_meta_json_of_another_kind(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "meta.json").write_text(content)
    sentence = refusal("meta_json", tmp_path)
    assert sentence.startswith(str(tmp_path / "meta.json"))
    assert message in sentence


@pytest.mark.parametrize("layout", ["meta_json", "manifest"])
def test_missing_table(tmp_path: Path, layout: str) -> None:
    name = {"meta_json": "meta.json", "manifest": "manifest.csv"}[layout]
    assert refusal(layout, tmp_path).startswith(f"{tmp_path / name} is missing; ")


HOSTILE = ["/etc/passwd", "../up.png", "cup/../../up.png", "cup/a\0.png", "\ud800.png", "."]


@pytest.mark.parametrize("path", [*HOSTILE, ""])
def test_paths_in_meta_json_stay_within_the_root(tmp_path: Path, path: str) -> None:
    write_meta(tmp_path, {"cup": [entry(path)]})
    where = f"{tmp_path}/meta.json, test, 'cup', entry 0"
    complaint = f"{where}: the path {path!r} does not lead to a file in {tmp_path}; write it from there, without .."
    assert refusal("meta_json", tmp_path) == complaint


@pytest.mark.parametrize("path", HOSTILE)
def test_masks_in_meta_json_stay_within_the_root(tmp_path: Path, path: str) -> None:
    write_meta(tmp_path, {"cup": [entry("cup/a.png", path, "crack", 1)]})
    assert f"the path {path!r} does not lead to a file in {tmp_path}" in refusal("meta_json", tmp_path)


def test_paths_in_the_split_file_of_visa_stay_within_the_root(visa: Path) -> None:
    write_visa_split(visa, [("candle", "test", "normal", "candle/../../up.png", "")], VISA_COLUMNS)
    assert "line 2: the path 'candle/../../up.png' does not lead to a file in" in refusal("visa", visa)


def test_keys_are_unique_where_not_all_images_are_in_the_folder_of_their_category(tmp_path: Path) -> None:
    write_meta(tmp_path, {"cup": [entry("cup/a.png"), entry("a.png")]})
    assert [sample.key for sample in the_category("meta_json", tmp_path).test] == ["a.png", "cup/a.png"]


# manifest.csv


def write_manifest(root: Path, *rows: tuple[str, ...]) -> Path:
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows(rows)
    return root / "manifest.csv"


def test_manifest(tmp_path: Path) -> None:
    write_manifest(
        tmp_path,
        ("label", "path", "split", "defect", "mask", "category", "camera"),
        ("normal", "a/1.png", "train", "", "", "bolt", "left"),
        ("0", "a/2.png", "test", "", "", "bolt", "left"),
        ("Anomalous", "b, c/3.png", "test", "dent", "masks/x.png", "bolt", "left"),
        ("1", "b/4.png", "test", "", "masks/y.png", "bolt", "right"),
        ("good", "n/1.png", "test", "", "", "nut", "right"),
    )
    bolt, nut = open_dataset("manifest", tmp_path, "x").categories
    assert [sample.key for sample in bolt.train] == ["a/1.png"]
    assert listed(bolt) == [
        ("a/2.png", "good", []),
        ("b, c/3.png", "dent", ["x.png"]),
        ("b/4.png", "anomaly", ["y.png"]),
    ]
    assert (nut.name, nut.has_masks) == ("nut", False)


def test_manifest_of_the_least(tmp_path: Path) -> None:
    root = tmp_path / "my parts"
    root.mkdir()
    write_manifest(root, ("path", "split", "label"), ("1.png", "test", "anomaly"))
    category = the_category("manifest", root)
    assert (category.name, category.has_masks, listed(category)) == ("my parts", False, [("1.png", "anomaly", [])])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("path", "label")], ": has no column 'split'; it needs path, split, label"),
        (
            [("path", "split", "label"), ("a", "val", "normal")],
            ", line 2: expected split train or test and label normal or anomalous, not 'val', 'normal'",
        ),
        (
            [("path", "split", "label"), ("a", "test", "broken")],
            ", line 2: expected split train or test and label normal or anomalous, not 'test', 'broken'",
        ),
        (
            [("path", "split", "label", "defect"), ("a", "test", "anomalous", "good")],
            ", line 2: the label is 'anomalous' and the defect 'good'; correct one of them",
        ),
        ([("path", "split", "label"), ("../a", "test", "normal")], ", line 2: the path '../a' does not lead to a file"),
        ([("path", "split", "label"), ("a", "train", "anomaly")], ", line 2: an anomalous training image; "),
    ],
)
def test_manifest_that_cannot_be(tmp_path: Path, rows: list[tuple[str, ...]], message: str) -> None:
    path = write_manifest(tmp_path, *rows)
    assert refusal("manifest", tmp_path).startswith(f"{path}{message}")


def test_manifest_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_bytes(b"path,split,label\n\xff.png,test,normal\n")
    assert "manifest.csv: cannot be read (" in refusal("manifest", tmp_path)


@pytest.mark.parametrize("layout", sorted(LAYOUTS.keys() - {"visa", "meta_json", "manifest"}))
def test_every_layout_says_where_it_found_nothing(tmp_path: Path, layout: str) -> None:
    (tmp_path / "papers").mkdir()
    assert refusal(layout, tmp_path).startswith(f"{tmp_path} holds no category in the layout {layout!r}; ")
