"""Builders of small datasets."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image


def paint(path: Path, seed: int = 0, size: tuple[int, int] = (9, 7)) -> Path:
    """A file of random RGB pixels, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def paint_mask(path: Path, value: int = 255, size: tuple[int, int] = (9, 7)) -> Path:
    """A grey file that is 0 but for its upper left 3×2 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0]), np.uint8)
    pixels[:2, :3] = value
    Image.fromarray(pixels).save(path)
    return path


def make_mvtec_category(folder: Path) -> Path:
    """Three training images, two good ones and two of each of two defects, with masks."""
    for number in range(3):
        paint(folder / f"train/good/{number:03}.png", number)
    for number in range(2):
        paint(folder / f"test/good/{number:03}.png", 10 + number)
        for seed, defect in ((20, "crack"), (30, "dent")):
            paint(folder / f"test/{defect}/{number:03}.png", seed + number)
            paint_mask(folder / f"ground_truth/{defect}/{number:03}_mask.png")
    return folder


VISA_COLUMNS = ("object", "split", "label", "image", "mask")


def write_visa_split(root: Path, rows: list[tuple[str, ...]], columns: tuple[str, ...] = VISA_COLUMNS) -> Path:
    path = root / "split_csv/1cls.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path
