"""The check command: what it prints, every finding with the name of its file, and the exit code."""

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.builders import make_mvtec_category, paint, paint_mask
from tests.helpers import REPOSITORY
from winclip_bench.config import DatasetConfig
from winclip_bench.data import MAX_PIXELS
from winclip_bench.data.__main__ import main
from winclip_bench.data.official import official_counts


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def findings(self) -> list[str]:
        return [line for line in self.out.splitlines() if line.startswith(("error: ", "warning: "))]

    def row(self, kind: str) -> list[str]:
        """The cells after the kind of images."""
        (line,) = (line for line in self.out.splitlines() if f"| {kind} " in line)
        return [cell.strip() for cell in line.split("|")[3:-1]]


def run(*arguments: object) -> Outcome:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(map(str, arguments)))
    return Outcome(code, out.getvalue(), err.getvalue())


def check(root: Path, *settings: object) -> Outcome:
    return run("check", "dataset=folder", f"dataset.root={root}", f"runtime.cache_dir={root.parent}/cache", *settings)


@pytest.fixture
def bottle(tmp_path: Path) -> Path:
    return make_mvtec_category(tmp_path / "bottle")


def test_a_clean_dataset(bottle: Path) -> None:
    outcome = check(bottle)
    assert (outcome.code, outcome.err, outcome.findings) == (0, "", [])
    assert outcome.row("train/good") == ["3", "–", "9×7", "RGB", "–"]
    assert outcome.row("test/crack") == ["2", "–", "9×7", "RGB", "9.52% (9.52%–9.52%)"]
    assert "9 images, 0 errors, 0 warnings\n" in outcome.out
    assert "content digest " in outcome.out


def test_sizes_and_modes(bottle: Path) -> None:
    paint(bottle / "test/good/002.png", size=(5, 11))
    Image.new("L", (9, 7)).save(bottle / "test/good/003.png")
    outcome = check(bottle)
    assert outcome.row("test/good")[2:4] == ["2 sizes, 5–9×7–11", "L, RGB"]


def remove_mask(folder: Path) -> None:
    (folder / "ground_truth/crack/001_mask.png").unlink()


def truncate(folder: Path) -> None:
    path = paint(folder / "test/dent/001.png", size=(60, 60))
    path.write_bytes(path.read_bytes()[:3000])


def another_size(folder: Path) -> None:
    paint_mask(folder / "ground_truth/crack/000_mask.png", size=(18, 14))


def unreadable_mask(folder: Path) -> None:
    (folder / "ground_truth/crack/000_mask.png").write_text("no image")


def no_tests(folder: Path) -> None:
    (folder / "test").rename(folder / "other")


def broken_link(folder: Path) -> None:
    (folder / "train/good/009.png").symlink_to(folder / "nowhere.png")


def shared_mask(folder: Path) -> None:
    paint(folder / "test/crack/001.jpg", 99)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (remove_mask, "{folder}/test/crack/001.png is anomalous but has no mask, or several with its name; give it"),
        (truncate, "{folder}/test/dent/001.png: cannot be read as an image (image file is truncated"),
        (another_size, "{folder}/ground_truth/crack/000_mask.png: the mask has 18×14 pixels and its image 9×7"),
        (unreadable_mask, "{folder}/ground_truth/crack/000_mask.png: cannot be read as an image (cannot identify"),
        (no_tests, "category 'bottle' has no test images; put them into its test folder or leave it out"),
        (broken_link, "{folder}/train/good/009.png does not exist; restore the file or take it out"),
        (shared_mask, "{folder}/ground_truth/crack/001_mask.png is the mask of two images, 001.jpg and 001.png; "),
    ],
)
def test_errors(bottle: Path, change: Callable[[Path], None], error: str) -> None:
    change(bottle)
    outcome = check(bottle)
    assert outcome.code == 1
    (found,) = (line for line in outcome.findings if line.startswith("error: "))
    assert found.startswith("error: bottle: " + error.format(folder=bottle))
    assert " 1 errors, " in outcome.out


def orphan(folder: Path) -> None:
    paint_mask(folder / "ground_truth/crack/777_mask.png")


def empty_mask(folder: Path) -> None:
    paint_mask(folder / "ground_truth/crack/000_mask.png", value=0)


def mask_of_good(folder: Path) -> None:
    paint_mask(folder / "ground_truth/good/001_mask.png")


def soft_mask(folder: Path) -> None:
    values = np.arange(63, dtype=np.uint8).reshape(7, 9)
    Image.fromarray(values).save(folder / "ground_truth/crack/000_mask.png")


def odd_mask_of_good(folder: Path) -> None:
    paint_mask(folder / "ground_truth/good/001_mask.png", size=(18, 14))


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (orphan, "{folder}/ground_truth/crack/777_mask.png: a mask that belongs to no test image"),
        (
            empty_mask,
            "{folder}/ground_truth/crack/000_mask.png: the empty mask of an anomalous image, which counts for image "
            "metrics, not for regions",
        ),
        (
            mask_of_good,
            "{folder}/ground_truth/good/001_mask.png: the mask of a good image is not empty; the image counts as "
            "normal all over",
        ),
        (
            soft_mask,
            "{folder}/ground_truth/crack/000_mask.png: the mask has soft edges, and all that is not 0 counts; "
            "dataset.mask_threshold sets a limit",
        ),
        (
            odd_mask_of_good,
            "{folder}/ground_truth/good/001_mask.png: the mask has 18×14 pixels and its image 9×7 (width×height); "
            "give them one size, or set dataset.resize_masks=true if they show the same section",
        ),
    ],
)
def test_warnings(bottle: Path, change: Callable[[Path], None], warning: str) -> None:
    change(bottle)
    outcome = check(bottle)
    assert outcome.findings == ["warning: bottle: " + warning.format(folder=bottle)]
    assert outcome.code == 0


def test_good_images_with_empty_masks_are_clean(bottle: Path) -> None:
    paint_mask(bottle / "ground_truth/good/001_mask.png", value=0)
    assert check(bottle).findings == []


def test_without_masks_training_and_defects(tmp_path: Path) -> None:
    paint(tmp_path / "cup/test/good/0.png")
    outcome = check(tmp_path / "cup")
    assert outcome.code == 0
    assert outcome.findings == [
        "warning: cup: all test images are normal; metrics that compare them with anomalous ones are undefined",
        "warning: cup: no training images; only k_shot=0 or references.file will do",
        "warning: cup: no masks; image metrics only",
    ]


def test_settings(bottle: Path) -> None:
    another_size(bottle)
    outcome = check(bottle, "dataset.resize_masks=true")
    assert outcome.code == 0
    mask = bottle / "ground_truth/crack/000_mask.png"
    assert outcome.findings == [
        f"warning: bottle: {mask}: the mask has another size than its image and is resized to it"
    ]
    soft_mask(bottle)
    outcome = check(bottle, "dataset.mask_threshold=60")
    assert (outcome.code, outcome.findings) == (0, [])
    assert outcome.row("test/crack")[-1].endswith("(4.76%–9.52%)")  # 60, 61 and 62 of 63 pixels; 6 of 63
    outcome = check(bottle, "dataset.max_pixels=62")
    assert outcome.code == 1
    assert len(outcome.findings) == 9
    assert "it has 9×7 pixels, and dataset.max_pixels allows 62" in outcome.findings[0]


def test_masks_paired_by_position(tmp_path: Path) -> None:
    """As the scripts that write meta.json do where one mask is missing."""
    make_mvtec_category(tmp_path / "bottle")
    (tmp_path / "bottle/ground_truth/crack/000_mask.png").unlink()
    shifted = {
        "img_path": "bottle/test/crack/000.png", "mask_path": "bottle/ground_truth/crack/001_mask.png",
        "specie_name": "crack", "anomaly": 1,
    }  # fmt: skip
    right = shifted | {"img_path": "bottle/test/crack/001.png", "mask_path": "bottle/ground_truth/dent/001_mask.png"}
    (tmp_path / "meta.json").write_text(json.dumps({"train": {}, "test": {"bottle": [shifted, right]}}))
    outcome = run("check", "dataset=meta_json", f"dataset.root={tmp_path}", f"runtime.cache_dir={tmp_path}/cache")
    root = tmp_path / "bottle"
    assert (
        f"warning: bottle: {root}/ground_truth/crack/001_mask.png is listed as the mask of {root}/test/crack/000.png, "
        f"but is called like that of another image"
    ) in outcome.findings
    assert not any("dent" in finding for finding in outcome.findings)


# Official counts


def test_official_counts_are_the_published_ones() -> None:
    published = json.loads((REPOSITORY / "results/published/dataset_counts.json").read_text(encoding="utf-8"))
    assert official_counts()["mvtec"] == {
        name: {"train/good": content["train_good"], **{f"test/{kind}": n for kind, n in content["test"].items()}}
        for name, content in published["mvtec"].items()
    }
    assert official_counts()["visa"] == {
        name: {
            "train/good": content["train_normal"],
            "test/good": content["test_normal"],
            "test/anomaly": content["test_anomaly"],
        }
        for name, content in published["visa"].items()
    }
    assert official_counts().keys() == published.keys()


def test_a_partial_copy_of_mvtec(bottle: Path) -> None:
    paint(bottle / "train/good/900.jpg")
    root = bottle.parent
    outcome = run("check", "dataset=mvtec", f"dataset.root={root}", f"runtime.cache_dir={root}/cache")
    assert outcome.code == 0
    assert outcome.findings[0].startswith("warning: partial: 14 of 15 official categories are missing: cable, ")
    assert "warning: bottle: partial: test/broken_large has 0 of officially 20 images" in outcome.findings
    assert "warning: bottle: partial: train/good has 4 of officially 209 images" in outcome.findings
    assert outcome.row("test/broken_large") == ["0", "20", "–", "–", "–"]
    assert outcome.row("train/good")[:2] == ["4", "209"]
    assert "; a partial copy of the official release\n" in outcome.out


def test_a_category_that_the_official_dataset_does_not_have(tmp_path: Path) -> None:
    make_mvtec_category(tmp_path / "cup")
    outcome = run("check", "dataset=mvtec", f"dataset.root={tmp_path}", f"runtime.cache_dir={tmp_path}/cache")
    assert "warning: cup: 'cup' is no category of the official mvtec" in outcome.findings


def test_chosen_categories_are_looked_at_and_the_others_are_not_missing(bottle: Path) -> None:
    paint(make_mvtec_category(bottle.parent / "screw") / "test/crack/009.png")
    outcome = check(bottle.parent, "dataset.categories=[bottle]")
    assert (outcome.code, outcome.findings) == (0, [])
    assert "2 categories" in outcome.out


# The command


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["dataset=mvtek"], "the settings are not accepted: In 'config': Could not find 'dataset/mvtek'"),
        (["dataset.rooot=x"], "the settings are not accepted: Key 'rooot' not in 'DatasetConfig'"),
        (["dataset=folder"], "dataset.root is not set; set it to the folder that holds the dataset"),
        (["dataset=folder", "dataset.root=/nowhere/at/all"], "/nowhere/at/all does not exist; set dataset.root"),
        (["dataset.mask_threshold=256"], "dataset.mask_threshold=256 must be null or one of 1 to 255"),
        (["dataset.max_pixels=0"], "dataset.max_pixels=0 must be a number greater than 0"),
        (["=x"], "the settings are not accepted: "),
    ],
)
def test_settings_that_make_no_sense(arguments: list[str], reason: str) -> None:
    outcome = run("check", *arguments)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith(f"error: {reason}")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--help"], ["check", "--help"]])
def test_help(arguments: list[str]) -> None:
    outcome = run(*arguments)
    assert outcome.code == 0
    assert "python -m winclip_bench.data check" in outcome.out


@pytest.mark.parametrize("arguments", [["look"], ["chek", "dataset=mvtec"]])
def test_unknown_command(arguments: list[str]) -> None:
    outcome = run(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert "python -m winclip_bench.data check" in outcome.err


def test_names_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    folder = make_mvtec_category(tmp_path / "bolt\x1b[31m")
    orphan(folder)
    outcome = check(tmp_path)
    assert outcome.findings
    assert "\x1b" not in outcome.out + outcome.err


def test_the_default_size_limit_is_one_number() -> None:
    assert DatasetConfig().max_pixels == MAX_PIXELS
