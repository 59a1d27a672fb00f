"""WinCLIP from Python: the same numbers as a run, arrays, pictures and paths alike, kept and loaded again."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import command, read_records
from winclip_bench.data.demo import make_sample
from winclip_bench.errors import InputError
from winclip_bench.estimator import WinCLIP


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A category in MVTec layout, of the demo's tiles; one image is not square."""
    root = tmp_path_factory.mktemp("parts") / "tile"
    for split, defect, count in (("train", "good", 4), ("test", "good", 2), ("test", "stain", 2)):
        (root / split / defect).mkdir(parents=True)
        for index in range(count):
            pixels = make_sample("tile", defect, split, index)[0]  # type: ignore[arg-type]
            Image.fromarray(pixels[: 120 if index else 160]).save(root / split / defect / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def fitted(parts: Path) -> WinCLIP:
    return WinCLIP().fit(sorted((parts / "train/good").iterdir()), class_name="tile")


def images_of(parts: Path) -> list[Path]:
    return sorted(parts.glob("test/*/*.png"))


@pytest.mark.parametrize("k", [0, 4])
def test_the_numbers_are_those_of_a_run(parts: Path, tmp_path: Path, k: int) -> None:
    overrides = ["dataset=folder", f"dataset.root={parts}", "backbone=demo", f"k_shot={k}", "save_maps=true"]
    done = command(*overrides, f"results_dir={tmp_path}", f"runtime.cache_dir={tmp_path / 'cache'}")
    assert done.code == 0, done.err
    (record,) = read_records(tmp_path).values()
    folder = tmp_path / "records" / "folder" / record["run_id"]
    rows = (folder / "tile.scores.csv").read_text().splitlines()[1:]
    maps = np.load(tmp_path / "maps" / record["run_id"] / "tile.npz")

    references = [parts / reference["path"] for reference in record["references"]]
    prediction = WinCLIP().fit(references, class_name="tile").predict(images_of(parts))
    assert len(rows) == len(prediction.scores) == 4
    for row, path, score, anomaly_map in zip(rows, images_of(parts), prediction.scores, prediction.maps, strict=True):
        key = path.relative_to(parts).as_posix()
        assert row.startswith(f"{key},")
        assert score == pytest.approx(float(row.rsplit(",", 1)[1]), abs=1e-5)
        np.testing.assert_allclose(anomaly_map, maps[key], atol=1e-5)


def test_arrays_pictures_and_paths_are_the_same(fitted: WinCLIP, parts: Path) -> None:
    path = images_of(parts)[0]
    picture = Image.open(path)
    scores = fitted.predict([path, str(path), picture, np.asarray(picture)]).scores
    assert len(set(scores)) == 1


def test_the_threshold_separates_and_is_kept(fitted: WinCLIP, parts: Path, tmp_path: Path) -> None:
    expected = fitted.predict(images_of(parts))
    assert expected.anomalous is not None
    assert fitted.threshold_ is not None
    np.testing.assert_array_equal(expected.anomalous, expected.scores > fitted.threshold_.value)
    fitted.save(tmp_path)
    for again in (WinCLIP.load(tmp_path), pickle.loads(pickle.dumps(fitted))):
        found = again.predict(images_of(parts))
        np.testing.assert_array_equal(found.scores, expected.scores)
        np.testing.assert_array_equal(found.anomalous, expected.anomalous)
    assert len(pickle.dumps(fitted)) < 20e6  # the references' features, not the model


def test_one_reference_or_none_gives_no_decision(parts: Path) -> None:
    references = sorted((parts / "train/good").iterdir())[:1]
    for some in ([], references):
        assert WinCLIP().fit(some, class_name="tile").predict(images_of(parts)).anomalous is None


def test_what_is_wrong_is_said(fitted: WinCLIP, parts: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not fitted"):
        WinCLIP().predict(images_of(parts))
    with pytest.raises(InputError, match="backbone=nothing is not known; choose one of demo"):
        WinCLIP("nothing")
    with pytest.raises(InputError, match="false_alarm_rate"):
        WinCLIP(false_alarm_rate=1.0)
    with pytest.raises(InputError, match=r"not float32 of \[4, 4, 3\]"):
        fitted.predict([np.zeros((4, 4, 3), np.float32)])
    with pytest.raises(InputError, match="holds no model"):
        WinCLIP.load(tmp_path)
    fitted.save(tmp_path)
    content = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**content, "weights_sha256": "0" * 64}))
    with pytest.raises(InputError, match="other weights"):
        WinCLIP.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match="holds no model"):
        WinCLIP.load(tmp_path)


def test_the_callers_random_state_is_left_alone(fitted: WinCLIP, parts: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    fitted.predict(images_of(parts)[:1])
    assert torch.equal(torch.rand(1), expected)
