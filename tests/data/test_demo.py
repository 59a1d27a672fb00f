"""The demo data: the same bits everywhere, exact masks, pools that share nothing, a folder that is whole or absent."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import python_path
from winclip_bench.data import demo
from winclip_bench.data.demo import draws, scenes
from winclip_bench.data.demo.defects import DEFECTS
from winclip_bench.errors import InputError

KINDS = [(category, defect) for category, defects in demo.CATEGORIES.items() for defect in defects]

# Of the decoded pixels of the samples below. It changes only together with demo.VERSION; print the new one with
#   PYTHONPATH=src:tests/data python -c "import test_demo; print(test_demo.digest_of_samples())"
GOLDEN = "7aaaef7acc8080341aaed50fd54ccbb5b60febe4d887206ae796ee41326b5be8"


def digest_of_samples():
    digest = hashlib.sha256()
    for category, defects in demo.CATEGORIES.items():
        samples = [("good", "fit", 0), ("good", "train", 0), *((defect, "test", 1) for defect in ("good", *defects))]
        for defect, split, index in samples:
            image, mask = demo.make_sample(category, defect, split, index)
            digest.update(image.tobytes() + mask.tobytes())
    return digest.hexdigest()


def test_the_pixels_are_the_same_on_every_machine():
    assert digest_of_samples() == GOLDEN


@pytest.mark.parametrize("split", ["fit", "test"])
@pytest.mark.parametrize(("category", "defect"), KINDS)
def test_the_mask_is_exactly_what_the_defect_changed(category, defect, split):
    image, mask = demo.make_sample(category, defect, split, 3)
    clean, same_mask = demo.make_sample(category, defect, split, 3, painted=False)
    assert image.dtype == np.uint8 and image.shape == (demo.SIZE, demo.SIZE, 3)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, same_mask)
    np.testing.assert_array_equal((image != clean).any(axis=2), mask)
    assert demo.AREA[0] <= mask.mean() <= demo.AREA[1]
    change = np.abs(image.astype(int) - clean).max(axis=2)[mask]
    assert change.min() >= 5 and change.mean() >= 15  # the light takes up to a fifth of the painted contrast


def test_good_images_have_an_empty_mask():
    image, mask = demo.make_sample("tile", "good", "test", 0)
    assert not mask.any()
    np.testing.assert_array_equal(image, demo.make_sample("tile", "good", "test", 0, painted=False)[0])


def test_every_part_of_the_key_gives_another_picture():
    keys = [("wood", "good", "test", 0, 0), ("wood", "good", "test", 1, 0), ("wood", "good", "train", 0, 0)]
    keys += [("wood", "good", "fit", 0, 0), ("wood", "good", "test", 0, 1), ("wood", "stain", "test", 0, 0)]
    assert len({demo.make_sample(*key[:4], seed=key[4])[0].tobytes() for key in keys}) == len(keys)


def test_a_sample_does_not_depend_on_what_was_made_before():
    first = demo.make_sample("button", "scratch", "test", 5)[0]
    demo.make_sample("button", "scratch", "test", 4)
    np.testing.assert_array_equal(demo.make_sample("button", "scratch", "test", 5)[0], first)


def test_normal_images_vary_less_than_categories_differ():
    means = {
        c: [demo.make_sample(c, "good", "test", i)[0].mean(axis=(0, 1)) for i in range(4)] for c in demo.CATEGORIES
    }
    within = np.mean([np.std(m, axis=0).mean() for m in means.values()])
    between = np.std([np.mean(m, axis=0) for m in means.values()], axis=0).mean()
    assert 1.0 < within < between / 2.0


# ---- pools


@pytest.mark.parametrize("category", ["brick", "grass", "gravel", "tissue"])
@pytest.mark.parametrize("pool", ["fit", "train", "test"])
def test_a_pool_shows_only_its_own_cells_of_a_photograph(monkeypatch, category, pool):
    cells = np.full((512, 512), -1.0)
    for number, corners in enumerate(scenes.POOL_CELLS.values()):
        for row, column in corners:
            block = cells[
                row * scenes.CELL : (row + 1) * scenes.CELL, column * scenes.CELL : (column + 1) * scenes.CELL
            ]
            assert (block == -1.0).all(), "a cell belongs to two pools"
            block[:] = number
    seen = []
    stretch = scenes.stretch
    monkeypatch.setattr(
        scenes, "photograph", lambda name: cells if name != "ihc" else np.repeat(cells[..., None], 3, 2)
    )
    monkeypatch.setattr(
        scenes, "stretch", lambda piece, size: (seen.append(set(piece.ravel())), stretch(piece, size))[1]
    )
    for index in range(60):
        scenes.SCENES[category](draws.Draws("pools", index), pool)
    assert len(seen) == 60
    assert set.union(*seen) == {float(list(scenes.POOL_CELLS).index(pool))}


def test_what_is_held_out_is_in_the_data():
    assert set(demo.HELD_OUT_CATEGORIES) < set(demo.CATEGORIES)
    seen = {c: set(d) - set(demo.HELD_OUT_DEFECTS) for c, d in demo.CATEGORIES.items()}
    assert set(demo.HELD_OUT_DEFECTS) < set(DEFECTS)
    assert all(len(defects) >= 3 for defects in seen.values())
    assert {defect for _, defect in KINDS} == set(DEFECTS)


def test_only_objects_can_miss_a_part():
    with pytest.raises(ValueError, match="only objects"):
        demo.make_sample("wood", "missing_part", "fit", 0)


# ---- arithmetic


def test_the_bit_stream_is_the_published_one():
    """PCG64 on a key's sha256, top 53 bits: written out again with Python integers."""
    state = np.random.PCG64(int.from_bytes(hashlib.sha256(b"a/1").digest(), "little"))
    words = [int(state.random_raw()) for _ in range(6)]
    np.testing.assert_array_equal(draws.Draws("a", 1).units(2, 3).ravel(), [(w >> 11) / 2**53 for w in words])


@pytest.mark.parametrize(("side", "size"), [(5, 5), (5, 9), (124, 160)])
def test_stretch_resamples_like_a_bilinear_filter_with_aligned_pixel_edges(side, size):
    image = np.random.default_rng(0).random((side, side))
    pillow = Image.fromarray(image.astype(np.float32)).resize((size, size), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(draws.stretch(image, size), np.asarray(pillow), atol=1e-5)
    colours = draws.stretch(np.dstack([image, 2.0 * image, 3.0 * image]), size)
    np.testing.assert_allclose(colours[..., 1], 2.0 * draws.stretch(image, size))


def test_wave_is_nearly_a_sine_and_directions_are_unit_vectors():
    turns = np.linspace(-2.0, 2.0, 401)
    np.testing.assert_allclose(draws.wave(turns), np.sin(2.0 * np.pi * turns), atol=0.06)
    stream = draws.Draws("directions")
    vectors = np.array([draws.direction(stream, 2.0) for _ in range(400)])
    np.testing.assert_allclose((vectors**2).sum(axis=1), 1.0)
    signs, counts = np.unique(np.sign(vectors), axis=0, return_counts=True)
    assert len(signs) == 4 and counts.min() > 50  # every quadrant


def test_noise_stays_in_its_range_and_has_no_jumps():
    noise = draws.value_noise(draws.Draws("noise"), 160, 20.0, 40.0)
    assert -1.0 < noise.min() < -0.5 and 0.5 < noise.max() < 1.0
    assert np.abs(np.diff(noise, axis=0)).max() <= 2.0 * 1.5 / 20.0  # the cubic is at most 1.5 times as steep as a line
    assert np.abs(np.diff(noise, axis=1)).max() <= 2.0 * 1.5 / 40.0


# ---- the folder


@pytest.fixture
def small(monkeypatch):
    """A data set of two categories, so that writing takes a moment."""
    monkeypatch.setattr(demo, "CATEGORIES", {"tile": ("crack",), "grass": ("stain",)})
    monkeypatch.setattr(demo, "REFERENCES", 2)
    monkeypatch.setattr(demo, "GOOD_TESTS", 1)
    monkeypatch.setattr(demo, "DEFECT_TESTS", 1)


def listing(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


EXPECTED = sorted(
    ["manifest.json"]
    + [
        f"{category}/{path}"
        for category, defect in (("tile", "crack"), ("grass", "stain"))
        for path in (
            "train/good/000.png",
            "train/good/001.png",
            "test/good/000.png",
            f"test/{defect}/000.png",
            f"ground_truth/{defect}/000_mask.png",
        )
    ]
)


def test_the_folder_has_mvtec_layout_and_lossless_pixels(small, tmp_path):
    root = demo.write_demo(tmp_path / "cache")
    assert root == tmp_path / "cache" / f"demo-v{demo.VERSION}"
    assert listing(root) == EXPECTED
    assert [path.name for path in root.parent.iterdir()] == [root.name]
    image, mask = demo.make_sample("tile", "crack", "test", 0)
    np.testing.assert_array_equal(np.asarray(Image.open(root / "tile/test/crack/000.png")), image)
    on_disk = np.asarray(Image.open(root / "tile/ground_truth/crack/000_mask.png"))
    np.testing.assert_array_equal(on_disk, mask * np.uint8(255))
    manifest = json.loads((root / "manifest.json").read_text())
    assert manifest["version"] == demo.VERSION and manifest["files"] == len(EXPECTED) - 1


def test_the_pooled_layout_holds_the_same_images(small, tmp_path):
    root = demo.write_pooled_demo(tmp_path)
    parts = [("train/{}", "000"), ("train/{}", "001"), ("test/normal", "{}_000")]
    anomalies = [
        f"pooled/test/anomaly/{part}_{defect}_{index:03d}.png"
        for part, defect in (("tile", "crack"), ("grass", "stain"))
        for index in range(demo.POOLED_DEFECT_TESTS)
    ]
    assert listing(root) == sorted(
        [
            "manifest.json",
            *(
                f"pooled/{folder.format(part)}/{name.format(part)}.png"
                for folder, name in parts
                for part in ("tile", "grass")
            ),
            *anomalies,
        ]
    )
    pixels = np.asarray(Image.open(root / "pooled/test/anomaly/grass_stain_001.png"))
    np.testing.assert_array_equal(pixels, demo.make_sample("grass", "stain", "test", 1)[0])


def test_a_finished_folder_is_not_touched_and_a_damaged_one_is_made_again(small, tmp_path):
    root = demo.write_demo(tmp_path)
    before = root.stat().st_ino, (root / "manifest.json").stat().st_mtime_ns
    assert demo.write_demo(tmp_path) == root
    assert (root.stat().st_ino, (root / "manifest.json").stat().st_mtime_ns) == before
    for lost in ("manifest.json", "tile/test/good/000.png"):
        (root / lost).unlink()
        demo.write_demo(tmp_path)
        assert listing(root) == EXPECTED
    assert len(list(tmp_path.iterdir())) == 1


def test_a_writer_that_dies_leaves_nothing_that_passes_for_the_data(small, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo, "_publish", killed)
        patch.setattr(demo.shutil, "rmtree", lambda *_, **__: None)  # as after SIGKILL: nobody cleans up
        with pytest.raises(KeyboardInterrupt):
            demo.write_demo(tmp_path)
    (leftover,) = tmp_path.iterdir()
    root = demo.write_demo(tmp_path)
    assert listing(root) == EXPECTED
    assert leftover.exists()  # it could belong to a living process
    old = leftover.stat().st_mtime - 2 * demo.ABANDONED
    os.utime(leftover, (old, old))
    (root / "manifest.json").unlink()
    demo.write_demo(tmp_path)
    assert not leftover.exists()


def test_who_comes_second_keeps_the_first_ones_folder(small, tmp_path, monkeypatch):
    write = demo._write

    def overtaken(work, files):
        monkeypatch.setattr(demo, "_write", write)
        demo.write_demo(tmp_path)  # another process finishes meanwhile
        (tmp_path / f"demo-v{demo.VERSION}" / "mine").touch()
        write(work, files)

    monkeypatch.setattr(demo, "_write", overtaken)
    root = demo.write_demo(tmp_path)
    assert listing(root) == sorted([*EXPECTED, "mine"])
    assert [path.name for path in tmp_path.iterdir()] == [root.name]


RACER = """
import sys
from pathlib import Path
from winclip_bench.data import demo

demo.CATEGORIES = {"tile": ("crack",), "grass": ("stain",)}
demo.REFERENCES, demo.GOOD_TESTS, demo.DEFECT_TESTS = 2, 1, 1
print("ready", flush=True)
sys.stdin.readline()
demo.write_demo(Path(sys.argv[1]))
"""


def test_processes_that_race_leave_one_whole_folder(tmp_path):
    package = str(Path(demo.__file__).parents[3])
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path)],
            env={**os.environ, "PYTHONPATH": python_path(package)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 2
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        racer.communicate()
    assert [racer.returncode for racer in racers] == [0, 0]
    (root,) = tmp_path.iterdir()
    assert listing(root) == EXPECTED


def test_a_cache_folder_that_cannot_be_written_is_named(small, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file.*runtime\.cache_dir"):
        demo.write_demo(tmp_path / "file" / "cache")


def test_another_photograph_is_refused(monkeypatch):
    monkeypatch.setitem(scenes.PHOTOGRAPHS, "brick", "0" * 64)
    scenes.photograph.cache_clear()
    with pytest.raises(InputError, match=r"brick\.png"):
        scenes.photograph("brick")


def test_the_size_of_the_test_split():
    images = sum(demo.GOOD_TESTS + demo.DEFECT_TESTS * len(defects) for defects in demo.CATEGORIES.values())
    assert images == 444


def test_contact_sheet(small, tmp_path):
    sheet = np.asarray(demo.contact_sheet(demo.write_demo(tmp_path), side=160))
    assert sheet.shape == (320, 320, 3)
    np.testing.assert_array_equal(sheet[:160, :160], demo.make_sample("tile", "good", "test", 0)[0])
    image, mask = demo.make_sample("tile", "crack", "test", 0)
    outlined = (sheet[160:, :160] != image).any(axis=2)
    assert outlined.any() and not (outlined & mask).any()
