"""Small datasets on disk."""

from pathlib import Path

import pytest

from tests.data.builders import make_mvtec_category, paint, paint_mask, write_visa_split


@pytest.fixture
def mvtec(tmp_path: Path) -> Path:
    """A root with the categories bottle and screw."""
    root = tmp_path / "mvtec"
    for name in ("screw", "bottle"):
        make_mvtec_category(root / name)
    return root


@pytest.fixture
def visa(tmp_path: Path) -> Path:
    """A root with the category candle, and a split file that also knows pcb1."""
    root = tmp_path / "visa"
    rows: list[tuple[str, ...]] = []
    for name in ("pcb1", "candle"):
        for number, split in enumerate(("test", "train", "train")):
            rows.append((name, split, "normal", f"{name}/Data/Images/Normal/{number:04}.JPG", ""))
        rows.append(
            (name, "test", "anomaly", f"{name}/Data/Images/Anomaly/000.JPG", f"{name}/Data/Masks/Anomaly/000.png")
        )
    write_visa_split(root, rows)
    for number in range(3):
        paint(root / f"candle/Data/Images/Normal/{number:04}.JPG", number)
    paint(root / "candle/Data/Images/Anomaly/000.JPG", 7)
    paint_mask(root / "candle/Data/Masks/Anomaly/000.png", value=3)
    return root
