"""Layouts on disk become the right table of samples, or one sentence."""

import os
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.builders import VISA_COLUMNS, make_mvtec_category, paint, paint_mask, write_visa_split
from winclip_bench.data import Category, Dataset, Sample, check_category, open_dataset, read_mask
from winclip_bench.errors import InputError


def the_category(dataset: Dataset) -> Category:
    (category,) = dataset.categories
    return category


def masks_of(category: Category) -> dict[str, str | None]:
    return {sample.key: sample.masks[0].name if sample.masks else None for sample in category.test if sample.label}


def test_mvtec_layout(mvtec: Path) -> None:
    (mvtec / "license.txt").write_text("")
    (mvtec / "papers").mkdir()
    dataset = open_dataset("mvtec", mvtec, "mvtec")
    assert (dataset.name, dataset.root) == ("mvtec", mvtec)
    assert [category.name for category in dataset.categories] == ["bottle", "screw"]
    bottle = dataset.categories[0]
    assert bottle.has_masks
    assert [sample.key for sample in bottle.train] == [f"train/good/{number:03}.png" for number in range(3)]
    assert [(sample.key, sample.defect, sample.label) for sample in bottle.test] == [
        ("test/crack/000.png", "crack", 1),
        ("test/crack/001.png", "crack", 1),
        ("test/dent/000.png", "dent", 1),
        ("test/dent/001.png", "dent", 1),
        ("test/good/000.png", "good", 0),
        ("test/good/001.png", "good", 0),
    ]
    assert bottle.test[3] == Sample(
        image=mvtec / "bottle/test/dent/001.png",
        key="test/dent/001.png",
        category="bottle",
        split="test",
        defect="dent",
        masks=(mvtec / "bottle/ground_truth/dent/001_mask.png",),
    )
    assert all(sample.masks == () for sample in bottle.test if not sample.label)
    assert bottle.orphans == ()
    check_category(bottle)


def test_order_of_listing_does_not_matter(mvtec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = open_dataset("mvtec", mvtec, "mvtec")
    scan = os.scandir

    class Backwards:
        def __init__(self, path: Path) -> None:
            with scan(path) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> "Backwards":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def __iter__(self) -> "Iterator[os.DirEntry[str]]":
            return iter(self.entries)

    monkeypatch.setattr(os, "scandir", Backwards)
    assert open_dataset("mvtec", mvtec, "mvtec") == expected


def test_stray_files_are_ignored(mvtec: Path) -> None:
    expected = open_dataset("mvtec", mvtec, "mvtec")
    for folder in ("", "bottle", "bottle/test", "bottle/test/crack", "bottle/ground_truth/crack", "bottle/train/good"):
        for stray in (".DS_Store", "Thumbs.db", "._000.png", "notes.txt"):
            (mvtec / folder / stray).write_bytes(b"stray")
    (mvtec / "bottle/test/.cache").mkdir()
    paint(mvtec / "bottle/test/.cache/000.png")
    (mvtec / "bottle/test/crack/folder.png").mkdir()
    assert open_dataset("mvtec", mvtec, "mvtec") == expected


def test_names_of_every_kind(tmp_path: Path) -> None:
    folder = tmp_path / "Gehäuse 2 (neu)"
    composed = unicodedata.normalize("NFC", "schräg é")
    decomposed = unicodedata.normalize("NFD", composed)
    paint(folder / "test/good/IMG 1.JPEG")
    paint(folder / f"test/Kratzer tief/{composed}.TIF")
    paint(folder / "test/Kratzer tief/a.b.Png")
    paint_mask(folder / f"ground_truth/Kratzer tief/{decomposed}_mask.PNG")
    paint_mask(folder / "ground_truth/Kratzer tief/a.b.bmp")
    category = the_category(open_dataset("folder", folder, "parts"))
    check_category(category)
    assert category.name == "Gehäuse 2 (neu)"
    assert masks_of(category) == {
        "test/Kratzer tief/a.b.Png": "a.b.bmp",
        f"test/Kratzer tief/{composed}.TIF": f"{decomposed}_mask.PNG",
    }


def test_masks_are_paired_by_stem_and_not_by_position(tmp_path: Path) -> None:
    for stem in ("000", "001", "002"):
        paint(tmp_path / f"part/test/crack/{stem}.jpg")
    for name in ("002_mask.png", "000.png", "001_mask.tif", "001.png", "999_mask.png"):
        paint_mask(tmp_path / "part/ground_truth/crack" / name)
    category = the_category(open_dataset("mvtec", tmp_path, "x"))
    assert masks_of(category) == {
        "test/crack/000.jpg": "000.png",
        "test/crack/001.jpg": "001_mask.tif",  # the one with _mask; 001.png may be a copy of the image
        "test/crack/002.jpg": "002_mask.png",
    }


def test_links_are_followed(mvtec: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "renamed").symlink_to(mvtec / "bottle")
    paint(tmp_path / "elsewhere.png")
    (mvtec / "bottle/test/good/linked.png").symlink_to(tmp_path / "elsewhere.png")
    (mvtec / "bottle/test/good/broken.png").symlink_to(tmp_path / "nowhere.png")
    category = the_category(open_dataset("mvtec", linked, "x"))
    assert category.name == "renamed"
    keys = [sample.key for sample in category.test if not sample.label]
    assert keys == [f"test/good/{stem}.png" for stem in ("000", "001", "broken", "linked")]


def test_categories_are_chosen_by_name(mvtec: Path) -> None:
    dataset = open_dataset("mvtec", mvtec, "mvtec", ["screw", "screw"])
    assert [category.name for category in dataset.categories] == ["screw"]
    assert len(open_dataset("mvtec", mvtec, "mvtec", []).categories) == 2


def test_folder_layout_of_one_or_many_categories(mvtec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = open_dataset("folder", mvtec, "parts")
    assert many.categories == open_dataset("mvtec", mvtec, "parts").categories
    one = open_dataset("folder", mvtec / "bottle", "parts")
    assert the_category(one) == many.categories[0]
    monkeypatch.chdir(mvtec / "bottle")
    assert the_category(open_dataset("folder", Path(), "parts")) == many.categories[0]
    monkeypatch.chdir(mvtec / "bottle/test")
    assert the_category(open_dataset("folder", Path(".."), "parts")).name == "bottle"


def test_folder_layout_without_masks_and_training(tmp_path: Path) -> None:
    for folder in ("good", "crack"):
        paint(tmp_path / f"cup/test/{folder}/0.png")
    category = the_category(open_dataset("folder", tmp_path, "cups"))
    check_category(category)
    assert (category.name, category.has_masks, category.train) == ("cup", False, ())
    assert [(sample.defect, sample.masks) for sample in category.test] == [("crack", ()), ("good", ())]


def test_folder_layout_with_classes_of_normal_parts(tmp_path: Path) -> None:
    for folder in ("train/cup", "train/plate", "test/normal", "test/anomaly"):
        paint(tmp_path / "tableware" / folder / "0.png")
    category = the_category(open_dataset("folder", tmp_path / "tableware", "x"))
    check_category(category)
    assert [(sample.key, sample.defect) for sample in category.train] == [
        ("train/cup/0.png", "good"),
        ("train/plate/0.png", "good"),
    ]
    assert [(sample.key, sample.defect) for sample in category.test] == [
        ("test/anomaly/0.png", "anomaly"),
        ("test/normal/0.png", "good"),
    ]


def test_training_images_with_defects_are_not_taken_for_normal_ones(mvtec: Path) -> None:
    paint(mvtec / "bottle/train/crack/000.png")
    bottle = open_dataset("mvtec", mvtec, "mvtec").categories[0]
    assert {sample.key.split("/")[1] for sample in bottle.train} == {"good"}


def test_visa_layout(visa: Path) -> None:
    category = the_category(open_dataset("visa", visa, "visa"))  # pcb1 is in the split file, not on disk
    check_category(category)
    assert (category.name, category.has_masks) == ("candle", True)
    assert [sample.key for sample in category.train] == ["Data/Images/Normal/0001.JPG", "Data/Images/Normal/0002.JPG"]
    assert [(sample.key, sample.defect, sample.split) for sample in category.test] == [
        ("Data/Images/Anomaly/000.JPG", "anomaly", "test"),
        ("Data/Images/Normal/0000.JPG", "good", "test"),
    ]
    anomalous = category.test[0]
    assert anomalous.image == visa / "candle/Data/Images/Anomaly/000.JPG"
    assert anomalous.masks == (visa / "candle/Data/Masks/Anomaly/000.png",)
    assert read_mask(anomalous.masks[0], (9, 7)).sum() == 6


# What concerns the whole dataset


def test_missing_root(tmp_path: Path) -> None:
    root = tmp_path / "nowhere"
    with pytest.raises(InputError) as raised:
        open_dataset("mvtec", root, "mvtec")
    assert str(raised.value) == f"{root} does not exist; set dataset.root to the folder of the dataset 'mvtec'"


def test_root_that_is_a_file(tmp_path: Path) -> None:
    root = paint(tmp_path / "image.png")
    with pytest.raises(InputError) as raised:
        open_dataset("folder", root, "parts")
    assert str(raised.value) == f"{root} is not a folder; set dataset.root to the folder of the dataset 'parts'"


@pytest.mark.parametrize("layout", ["mvtec", "folder"])
def test_empty_root(tmp_path: Path, layout: str) -> None:
    with pytest.raises(InputError) as raised:
        open_dataset(layout, tmp_path, "parts")
    assert str(raised.value) == (
        f"{tmp_path} holds no category in the layout {layout!r}; set dataset.root to the folder of the dataset 'parts'"
    )


def test_unknown_category(mvtec: Path) -> None:
    with pytest.raises(InputError) as raised:
        open_dataset("mvtec", mvtec, "mvtec", ["botle", "screw", "cable"])
    assert str(raised.value) == (
        f"dataset.categories names 'botle', 'cable', which {mvtec} does not have; it has bottle, screw"
    )


def test_unknown_layout(mvtec: Path) -> None:
    with pytest.raises(InputError, match=r"^dataset\.layout=coco is not known; choose one of btad, folder, .*, visa$"):
        open_dataset("coco", mvtec, "mvtec")


def test_visa_without_its_split_file(visa: Path) -> None:
    path = visa / "split_csv/1cls.csv"
    path.unlink()
    with pytest.raises(InputError) as raised:
        open_dataset("visa", visa, "visa")
    assert str(raised.value) == (f"{path} is missing; put VisA's official split file there or correct dataset.root")


def test_visa_without_any_category_on_disk(visa: Path) -> None:
    shutil.rmtree(visa / "candle")
    with pytest.raises(InputError, match="holds no category in the layout 'visa'"):
        open_dataset("visa", visa, "visa")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            ("candle", "test", "bad", "candle/a.JPG", ""),
            "line 2: expected split train or test and label normal or anomaly, not 'test', 'bad'",
        ),
        (
            ("candle", "val", "normal", "candle/a.JPG", ""),
            "line 2: expected split train or test and label normal or anomaly, not 'val', 'normal'",
        ),
        (
            ("candle", "train", "anomaly", "candle/a.JPG", "candle/m.png"),
            "line 2: an anomalous training image; use the one-class split, 1cls.csv",
        ),
        (
            ("candle", "test", "normal", "pcb1/a.JPG", ""),
            "line 2: the image path 'pcb1/a.JPG' does not begin with the object's folder 'candle'",
        ),
        (("candle",), "line 2: expected split train or test and label normal or anomaly, not '', ''"),
    ],
)
def test_visa_rows_that_cannot_be(visa: Path, row: tuple[str, ...], message: str) -> None:
    path = write_visa_split(visa, [row])
    with pytest.raises(InputError) as raised:
        open_dataset("visa", visa, "visa")
    assert str(raised.value) == f"{path}, {message}"


def test_visa_split_file_of_another_kind(visa: Path) -> None:
    path = write_visa_split(visa, [], columns=VISA_COLUMNS[:4])
    with pytest.raises(InputError) as raised:
        open_dataset("visa", visa, "visa")
    assert str(raised.value) == f"{path}: has no column 'mask'; use the official 1cls.csv of VisA"
    path.write_bytes(b"object,split,label,image,mask\ncandle,\xff")
    with pytest.raises(InputError, match=r"1cls\.csv: cannot be read \(.*\); use the official 1cls\.csv of VisA$"):
        open_dataset("visa", visa, "visa")


def test_folder_that_cannot_be_listed(mvtec: Path) -> None:
    shutil.rmtree(mvtec / "bottle/train")
    (mvtec / "bottle/train").write_text("not a folder")
    with pytest.raises(InputError, match=r"bottle/train: cannot be listed \(.*\); make it a folder that can be read$"):
        open_dataset("mvtec", mvtec, "mvtec")


# What concerns one category


def check_one_of_two(root: Path, broken: str = "bottle") -> str:
    """What is said of the broken category; the other one passes."""
    sentence = ""
    for category in open_dataset("mvtec", root, "mvtec").categories:
        if category.name == broken:
            with pytest.raises(InputError) as raised:
                check_category(category)
            sentence = str(raised.value)
        else:
            check_category(category)
    return sentence


def test_anomalous_image_without_mask(mvtec: Path) -> None:
    (mvtec / "bottle/ground_truth/crack/001_mask.png").unlink()
    assert check_one_of_two(mvtec) == (
        f"{mvtec}/bottle/test/crack/001.png is anomalous but has no mask, or several with its name; "
        f"give it exactly one or take the image out"
    )


def test_anomalous_image_with_two_masks(mvtec: Path) -> None:
    paint_mask(mvtec / "bottle/ground_truth/crack/001_mask.bmp")
    assert "crack/001.png is anomalous but has no mask, or several" in check_one_of_two(mvtec)


def test_two_images_with_one_mask(mvtec: Path) -> None:
    paint(mvtec / "bottle/test/crack/001.jpg")
    assert check_one_of_two(mvtec) == (
        f"{mvtec}/bottle/ground_truth/crack/001_mask.png is the mask of two images, 001.jpg and 001.png; "
        f"rename one of them together with a mask of its own"
    )


def test_no_test_images(mvtec: Path) -> None:
    shutil.rmtree(mvtec / "bottle/test")
    assert check_one_of_two(mvtec) == (
        "category 'bottle' has no test images; put them into its test folder or leave it out"
    )


def test_image_listed_twice(visa: Path) -> None:
    row = ("candle", "test", "normal", "candle/Data/Images/Normal/0000.JPG", "")
    write_visa_split(visa, [row, row])
    with pytest.raises(InputError) as raised:
        check_category(the_category(open_dataset("visa", visa, "visa")))
    assert str(raised.value) == (
        f"{visa}/candle/Data/Images/Normal/0000.JPG is listed twice in category 'candle'; list it once"
    )


def test_normal_images_may_share_a_stem(tmp_path: Path) -> None:
    folder = make_mvtec_category(tmp_path / "bottle")
    paint(folder / "test/good/000.jpg")
    check_category(the_category(open_dataset("mvtec", tmp_path, "x")))
