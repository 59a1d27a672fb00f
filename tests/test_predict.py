"""`winclip-bench predict`: scores, decisions, heatmaps, and sentences for what is wrong."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import arguments, command
from winclip_bench import predict
from winclip_bench.data.demo import make_sample
from winclip_bench.methods import linear_head


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parts")
    for folder, defect, split, count in (("normal", "good", "train", 5), ("new", "good", "test", 2)):
        (root / folder).mkdir()
        for index in range(count):
            Image.fromarray(make_sample("tile", defect, split, index)[0]).save(root / folder / f"{index}.png")  # type: ignore[arg-type]
    Image.fromarray(make_sample("tile", "stain", "test", 0)[0][:120]).save(root / "new" / "staïned, <b>.png")
    (root / "new" / "notes.txt").write_text("no image")
    return root


def test_with_references(parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [str(parts / "new"), "--class-name", "tile", "--references", str(parts / "normal"), "--out", str(tmp_path)]
    assert predict.main([*given, "--false-alarm-rate", "0.2"]) == 0
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open(encoding="utf-8", newline="")))
    summary = json.loads((tmp_path / "predictions.json").read_text())
    assert [Path(row["path"]).name for row in rows] == ["0.png", "1.png", "staïned, <b>.png"]
    assert [row["score"] for row in rows] == [str(row["score"]) for row in summary["images"]]
    threshold = summary["threshold"]
    assert (threshold["rule"], threshold["promised"]) == ("conformal", 0.2)
    for row in rows:
        assert row["decision"] == ("anomalous" if float(row["score"]) > threshold["value"] else "normal")
    assert float(rows[2]["score"]) > max(float(row["score"]) for row in rows[:2])
    for row in rows:
        with Image.open(tmp_path / row["heatmap"]) as shown, Image.open(row["path"]) as original:
            assert shown.size == original.size
    printed = capsys.readouterr().out
    assert "from 5 references, conformal rule: promises 20% false alarms" in printed


def test_the_colours_are_where_the_defect_is(parts: Path, tmp_path: Path) -> None:
    image, mask = make_sample("tile", "stain", "test", 0)
    shown = predict.heatmap(Image.fromarray(image), mask.astype(np.float32), 0.0, 1.0)
    plain = predict.heatmap(Image.fromarray(image), np.zeros_like(mask, np.float32), 0.0, 1.0)
    changed = (np.asarray(shown) != np.asarray(plain)).any(-1)
    np.testing.assert_array_equal(changed, mask)


def test_without_references_nothing_is_decided(parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict.main([str(parts / "new" / "[01].png"), "--class-name", "tile", "--out", str(tmp_path)]) == 0
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open(encoding="utf-8", newline="")))
    assert [row["decision"] for row in rows] == ["", ""]
    assert "no decision: no references" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": "missing/*.png"}, "names no image"),
        ({"images": "{parts}/empty"}, "names no image"),
        ({"images": "{parts}/new/notes.txt"}, "notes.txt"),
        ({"references": "{parts}/nowhere"}, "names no image"),
        ({"backbone": "vit"}, "backbone=vit is not known"),
        ({"out": "{parts}/new/notes.txt/out"}, "cannot be written"),
    ],
)
def test_bad_input_is_one_sentence(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], message: str
) -> None:
    (parts / "empty").mkdir(exist_ok=True)
    given = {"images": f"{parts}/new/0.png", "out": str(tmp_path / "out"), "class-name": "tile"} | changes
    given = {name: value.replace("{parts}", str(parts)) for name, value in given.items()}
    images = given.pop("images")
    assert predict.main([images, *(part for name, value in given.items() for part in (f"--{name}", value))]) == 1
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a record of method=linear_head, and the images that it is about."""
    root = tmp_path_factory.mktemp("trained")
    for split, defect, count in (("train", "good", 4), ("test", "good", 2), ("test", "stain", 2)):
        (root / "parts" / "tile" / split / defect).mkdir(parents=True)
        for index in range(count):
            image = Image.fromarray(make_sample("tile", defect, split, index)[0])  # type: ignore[arg-type]
            image.crop((0, 0, 200, 140 + 60 * index)).save(root / "parts" / "tile" / split / defect / f"{index}.png")
    given = [word for word in arguments(root / "parts", root / "results") if not word.startswith("backbone.pretrained")]
    for protocol in ("paper", "original"):
        outcome = command(*given, "method=linear_head", "k_shot=3", f"protocol={protocol}")
        assert outcome.code == 0, outcome.err
    return root


def test_a_head_gives_the_scores_of_its_record(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted(trained.rglob("*.head.safetensors"))
    assert len(files) == 2
    for head in files:
        of_record = list(csv.DictReader(head.with_name("tile.scores.csv").open(newline="")))
        images = [str(trained / "parts" / "tile" / row["path"]) for row in of_record]
        assert predict.main([*images, "--head", str(head), "--out", str(tmp_path)]) == 0
        rows = list(csv.DictReader((tmp_path / "predictions.csv").open(newline="")))
        expected = [float(row["image_score"]) for row in of_record]
        np.testing.assert_allclose([float(row["score"]) for row in rows], expected, atol=1e-5)
        original = linear_head.from_bytes(head.read_bytes())[1]["training"] == "original"
        decided = [row["predicted"] for row in of_record]
        assert [row["decision"] for row in rows] == ([""] * 4 if original else decided)
        assert "heatmap" not in rows[0]
        assert not (tmp_path / "heatmaps").exists()
        printed = capsys.readouterr().out
        assert ("no decision: the original" if original else "threshold 0.0000 of the head of tile") in printed


def test_a_head_goes_with_its_own_backbone_only(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = next(trained.rglob("*.head.safetensors"))
    image = str(trained / "parts/tile/test/good/0.png")
    for more, said in (
        (
            ["--head", str(head), "--pretrained", "untrained"],
            "was trained on winclip-bench-demo with weights of sha256",
        ),
        (["--head", image], "is no head of method=linear_head"),
        (["--head", str(tmp_path / "none")], "is no head of method=linear_head"),
    ):
        assert predict.main([image, *more, "--out", str(tmp_path / "out")]) == 1
        printed = capsys.readouterr().err
        assert said in printed
        assert printed.count("\n") == 1
    for more in (["--class-name", "tile", "--head", str(head)], []):
        with pytest.raises(SystemExit):
            predict.main([image, *more, "--out", str(tmp_path / "out")])
