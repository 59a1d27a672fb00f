"""The draw of references and the files that replace it: paths for one category, sets for many."""

import random
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.builders import paint
from winclip_bench.data import (
    Category,
    Sample,
    draw_references,
    open_dataset,
    read_reference_file,
    read_reference_sets,
)
from winclip_bench.data.references import Draw
from winclip_bench.errors import InputError


def training(count: int) -> list[Sample]:
    return [
        Sample(Path(f"/data/cup/train/good/{number:03}.png"), f"train/good/{number:03}.png", "cup", "train", "good")
        for number in range(count)
    ]


@given(count=st.integers(1, 30), seed=st.integers(0, 10**9), data=st.data())
def test_draws_are_nested_distinct_and_independent_of_order(count: int, seed: int, data: st.DataObject) -> None:
    train = training(count)
    everything = draw_references(train, count, seed, "cup")
    assert sorted(everything, key=lambda sample: sample.key) == train
    k = data.draw(st.integers(0, count))
    shuffled = data.draw(st.permutations(train))
    assert draw_references(shuffled, k, seed, "cup") == everything[:k]


def test_draw_is_the_same_for_ever() -> None:
    drawn = draw_references(training(20), 4, 0, "cup")
    assert [sample.key[-7:-4] for sample in drawn] == ["006", "001", "003", "011"]


def test_draw_depends_on_seed_and_category_and_on_nothing_else() -> None:
    train = training(30)
    drawn = draw_references(train, 10, 0, "cup")
    assert draw_references(train, 10, 1, "cup") != drawn
    assert draw_references(train, 10, 0, "plate") != drawn
    random.seed(5)
    state = random.getstate()
    assert draw_references(train, 10, 0, "cup") == drawn
    assert random.getstate() == state


def test_draw_is_uniform() -> None:
    """Over 3,000 seeds each of 6 images comes first 500 times; 100 are more than four standard deviations."""
    first = Counter(draw_references(training(6), 1, seed, "cup")[0].key for seed in range(3000))
    assert len(first) == 6
    assert all(abs(count - 500) < 100 for count in first.values())


def test_draw_with_replacement() -> None:
    train = training(3)
    drawn = draw_references(train, 50, 0, "cup", "with_replacement")
    assert set(drawn) == set(train)
    assert draw_references(train, 7, 0, "cup", "with_replacement") == drawn[:7]


@given(k=st.integers(1, 12), seed=st.integers(0, 10**9), train=st.permutations(training(12)))
def test_first_images_are_the_first_by_key_whatever_the_seed(k: int, seed: int, train: list[Sample]) -> None:
    assert draw_references(train, k, seed, "cup", "first") == tuple(training(k))


def test_no_references_need_no_training_images() -> None:
    assert draw_references([], 0, 0, "cup") == ()


@pytest.mark.parametrize("draw", get_args(Draw))
def test_no_training_images(draw: Draw) -> None:
    with pytest.raises(InputError) as raised:
        draw_references([], 4, 0, "cup", draw)
    assert str(raised.value) == (
        "category 'cup' has no training images, and k_shot=4 needs some; add normal images to its train folder, "
        "name some with references.file, or set k_shot=0"
    )


@pytest.mark.parametrize("draw", ["without_replacement", "first"])
def test_more_references_than_training_images(draw: Draw) -> None:
    with pytest.raises(InputError, match=r"^category 'cup' has 3 training images; set k_shot=4 to at most that$"):
        draw_references(training(3), 4, 0, "cup", draw)


def test_negative_k() -> None:
    with pytest.raises(InputError, match=r"^k_shot=-1 is negative; set it to 0 or more$"):
        draw_references(training(3), -1, 0, "cup")


def test_reference_file(mvtec: Path, tmp_path: Path) -> None:
    category = open_dataset("mvtec", mvtec, "mvtec", ["bottle"]).categories[0]
    own = paint(tmp_path / "lists/größe 1.png")
    absolute = paint(tmp_path / "elsewhere/a.png")
    path = tmp_path / "lists/references.txt"
    path.write_text(
        f"\ufeff# chosen by hand\n\n train/good/002.png \ngröße 1.png\r\n{absolute}\ntrain/good/000.png", "utf-8"
    )
    good = mvtec / "bottle/train/good"
    assert read_reference_file(path, category) == (good / "002.png", own, absolute, good / "000.png")


def test_reference_file_is_found_before_the_category(mvtec: Path) -> None:
    category = open_dataset("mvtec", mvtec, "mvtec", ["bottle"]).categories[0]
    near = paint(mvtec / "train/good/000.png")
    path = mvtec / "references.txt"
    path.write_text("train/good/000.png")
    assert read_reference_file(path, category) == (near,)


def test_reference_file_that_names_what_is_not_there(mvtec: Path, tmp_path: Path) -> None:
    category = open_dataset("mvtec", mvtec, "mvtec", ["bottle"]).categories[0]
    path = tmp_path / "references.txt"
    path.write_text("train/good/000.png\n# comment\ntrain/good/999.png\n")
    with pytest.raises(InputError) as raised:
        read_reference_file(path, category)
    assert str(raised.value) == (
        f"{path}, line 3: there is no image 'train/good/999.png' (looked in {tmp_path} or {mvtec / 'bottle'}); "
        f"correct the path"
    )


def test_reference_file_that_names_a_test_image(mvtec: Path, tmp_path: Path) -> None:
    category = open_dataset("mvtec", mvtec, "mvtec", ["bottle"]).categories[0]
    (tmp_path / "link.png").symlink_to(mvtec / "bottle/test/good/001.png")
    path = tmp_path / "references.txt"
    path.write_text("link.png\n")
    with pytest.raises(InputError) as raised:
        read_reference_file(path, category)
    assert str(raised.value) == f"{path}, line 1: 'link.png' is a test image of 'bottle'; name another image"


def test_reference_file_without_images_or_missing(mvtec: Path, tmp_path: Path) -> None:
    category = open_dataset("mvtec", mvtec, "mvtec", ["bottle"]).categories[0]
    path = tmp_path / "references.txt"
    with pytest.raises(
        InputError, match=r"^references\.file=.*references\.txt cannot be read \(.*\); name a text file"
    ):
        read_reference_file(path, category)
    path.write_text("# nothing\n\n")
    with pytest.raises(InputError, match=r"^references\.file=.*references\.txt names no image; write one path a line$"):
        read_reference_file(path, category)


HEADER = "dataset,category,k_shot,image_stems\n"


def category(name: str, train: str = "000 001 002", test: str = "") -> Category:
    """A category of images with these stems; the test images are all good."""
    samples = {
        split: tuple(
            Sample(Path(f"/data/{name}/{split}/good/{stem}.png"), f"{split}/good/{stem}.png", name, split, "good")
            for stem in stems.split()
        )
        for split, stems in (("train", train), ("test", test))
    }
    return Category(name, **samples)


def sets(path: Path, text: str, k: int, *categories: Category) -> dict[str, list[str]]:
    """The stems that a CSV gives for each category of the dataset `mvtec`."""
    path.write_text(text, "utf-8")
    found = read_reference_sets(path, "mvtec", k, categories)
    return {name: [Path(sample.key).stem for sample in samples] for name, samples in found.items()}


def test_sets_are_those_of_the_dataset_and_k(tmp_path: Path) -> None:
    text = (
        f"\ufeff{HEADER}mvtec,bottle,1,002\r\nmvtec,bottle,2,001 000\nvisa,bottle,2,7 8\nmvtec,wood,2,wood_1  größe\n"
        "mvtec,not_there,2,5 6\n"
    )
    bottle = category("bottle", test="000 001 002")  # a test image of the same name is another image
    wood = category("wood", "wood_1 größe")
    path = tmp_path / "sets.csv"
    assert sets(path, text, 2, bottle, wood) == {"bottle": ["001", "000"], "wood": ["wood_1", "größe"]}
    assert sets(path, text, 1, bottle, wood) == {"bottle": ["002"]}
    assert sets(path, text, 4, bottle, wood) == {}


def test_columns_may_be_more_and_in_another_order(tmp_path: Path) -> None:
    text = 'image_stems,note,k_shot,category,dataset\n"000 002","a, b",2,bottle,mvtec\n'
    assert sets(tmp_path / "sets.csv", text, 2, category("bottle")) == {"bottle": ["000", "002"]}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "dataset,category,k,image_stems\n",
            "references.file={path} has no column k_shot; its first line must name the columns dataset, category, "
            "k_shot, image_stems",
        ),
        (
            "",
            "references.file={path} has no column dataset, category, k_shot, image_stems; its first line must name the "
            "columns dataset, category, k_shot, image_stems",
        ),
        (f"{HEADER}visa,x,two,000\n", "{path}, line 2: k_shot is 'two'; set it to the number of images"),
        (f"{HEADER}visa,x\n", "{path}, line 2: k_shot is ''; set it to the number of images"),
        (
            f"{HEADER}mvtec,bottle,2,000 001\nmvtec,bottle,2,000 002\n",
            "{path}, line 3: a second set of 2 images for 'bottle'; keep one of them",
        ),
        (
            f"{HEADER}mvtec,bottle,2,000,001\n",
            "{path}, line 2: 1 image stems where k_shot is 2; correct one of them",
        ),
        (
            f"{HEADER}\nmvtec,bottle,2,001 001\n",
            "{path}, line 3: the stem '001' stands there twice; name 2 different images",
        ),
        (
            f"{HEADER}mvtec,bottle,2,001 009\n",
            "{path}, line 2: 'bottle' has no training image '009'; correct the stem",
        ),
        (
            f"{HEADER}mvtec,bottle,2,001 800\n",
            "{path}, line 2: '800' is a test image of 'bottle'; name a training image",
        ),
        (
            f"{HEADER}mvtec,bottle,2,001 003\n",
            "{path}, line 2: '003' is the stem of several training images of 'bottle' (train/good/003.png, "
            "train/good/003.png); rename one",
        ),
    ],
)
def test_sets_that_are_wrong(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "sets.csv"
    with pytest.raises(InputError) as raised:
        sets(path, text, 2, category("bottle", "000 001 002 003 003", "800"))
    assert str(raised.value) == sentence.format(path=path)


@pytest.mark.parametrize("content", [None, b"dataset,category\xff", b'dataset,category,k_shot,image_stems\n"open'])
def test_sets_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "sets.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"^references\.file=.*sets\.csv cannot be read \(.*\); name a CSV of ref"):
        read_reference_sets(path, "mvtec", 2, [category("bottle")])
