"""The draw of references and the file that replaces it."""

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.builders import paint
from winclip_bench.data import Sample, draw_references, open_dataset, read_reference_file
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
    drawn = draw_references(train, 50, 0, "cup", replacement=True)
    assert set(drawn) == set(train)
    assert draw_references(train, 7, 0, "cup", replacement=True) == drawn[:7]


def test_no_references_need_no_training_images() -> None:
    assert draw_references([], 0, 0, "cup") == ()


@pytest.mark.parametrize("replacement", [True, False])
def test_no_training_images(replacement: bool) -> None:
    with pytest.raises(InputError) as raised:
        draw_references([], 4, 0, "cup", replacement)
    assert str(raised.value) == (
        "category 'cup' has no training images, and k_shot=4 needs some; add normal images to its train folder, "
        "name some with references.file, or set k_shot=0"
    )


def test_more_references_than_training_images() -> None:
    with pytest.raises(InputError, match=r"^category 'cup' has 3 training images; set k_shot=4 to at most that$"):
        draw_references(training(3), 4, 0, "cup")


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
