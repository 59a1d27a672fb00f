"""Pictures: which are chosen, what they show, what they weigh, and what happens where they cannot be written."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage.draw import polygon2mask
from sklearn.metrics import roc_auc_score

from winclip_bench import pictures
from winclip_bench.data import Sample, file_sha256
from winclip_bench.errors import InputError

SCORED = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1)), min_size=1, max_size=20)


def arrays(images: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = zip(*images, strict=True)
    return np.array(scores), np.array(labels)


@given(SCORED)
def test_errors_average_to_what_auroc_lacks(images: list[tuple[int, int]]) -> None:
    scores, labels = arrays(images)
    errors = pictures.ranking_errors(scores, labels)
    if len(set(labels)) == 1:
        assert errors is None
        return
    assert errors is not None
    for label in (0, 1):
        assert errors[labels == label].mean() == pytest.approx(1 - roc_auc_score(labels, scores))


@given(SCORED, st.integers(1, 12))
def test_the_worst_of_both_labels_are_chosen(images: list[tuple[int, int]], limit: int) -> None:
    scores, labels = arrays(images)
    chosen = pictures.choose(scores, labels, limit)
    assert len(chosen) == len(set(chosen)) == min(limit, len(images))
    order = pictures.ranking(scores, labels)
    assert sorted(order) == list(range(len(images)))
    assert chosen == [place for place in order if place in chosen]
    for label in (0, 1):
        of_label = [place for place in order if labels[place] == label]
        kept = [place for place in chosen if labels[place] == label]
        assert kept == of_label[: len(kept)]
        assert len(kept) >= min(len(of_label), limit // 2)


def test_of_one_label_the_strangest_come_first() -> None:
    scores = np.array([0.2, 0.9, 0.5])
    assert pictures.ranking(scores, np.zeros(3)) == [1, 2, 0]
    assert pictures.ranking(scores, np.ones(3)) == [0, 2, 1]


def drawn(path: str, shape: tuple[int, int]) -> np.ndarray:
    """The mask that an outline encloses, holes left out."""
    mask = np.zeros(shape, bool)
    for part in re.findall(r"M([^MZ]+)Z", path):
        corners = np.array(part.split(), float).reshape(-1, 2)[:, ::-1]
        mask ^= polygon2mask(shape, corners - 0.5)
    return mask


def test_an_outline_encloses_its_mask() -> None:
    mask = np.zeros((120, 90), bool)
    mask[10:60, 20:50] = True
    mask[25:40, 30:40] = False  # a hole
    mask[100:, 70:] = True  # at the border
    found = drawn(pictures.outline(mask), mask.shape)
    assert (found & mask).sum() / (found | mask).sum() > 0.93
    assert pictures.outline(np.zeros((5, 5), bool)) == ""


def test_an_outline_stays_short() -> None:
    mask = np.random.default_rng(0).random((120, 120)) < 0.4
    assert 0 < len(pictures.outline(mask, 1500)) <= 1500


def test_colours_run_evenly_from_dark_to_light() -> None:
    ramp = pictures.coloured(np.linspace(0, 1, 64)[None], 0.0, 1.0)[0].astype(float)
    luminance = (ramp / 255) ** 2.2 @ [0.2126, 0.7152, 0.0722]
    lightness = np.cbrt(luminance)
    assert (np.diff(lightness) > 0).all()
    assert np.diff(lightness).max() < 3 * np.diff(lightness).mean()
    beyond = pictures.coloured(np.array([[-5.0, 0.0, 1.0, 9.0]]), 0.0, 1.0)[0]
    assert (beyond[0] == beyond[1]).all()
    assert (beyond[2] == beyond[3]).all()
    assert (pictures.coloured(np.ones((2, 2)), 1.0, 1.0) == beyond[0]).all()


def test_one_hot_pixel_does_not_set_the_scale() -> None:
    maps = [np.random.default_rng(seed).random((64, 64)) for seed in range(4)]
    maps[0][0, 0] = 1e6
    low, high = pictures.colour_scale(maps)
    assert 0 <= low < 0.02
    assert 0.98 < high <= 1


@pytest.fixture
def content(tmp_path: Path) -> pictures.Gallery:
    """Four images, 600 × 400, of smooth colours; maps that rise from left to right, each twice the one before."""
    ramp = np.tile(np.linspace(0, 1, 240, dtype=np.float32), (160, 1))
    samples, maps = [], []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        image = Image.linear_gradient("L").resize((600, 400)).convert("RGB")
        image.putpixel((0, 0), (number, 0, 0))  # each is another one
        image.save(path)
        kind = "good" if number < 2 else "hole"
        samples.append((Sample(path, f"test/{kind}/{number}.png", "bolt", "test", kind), file_sha256(path)))
        maps.append(ramp * 2.0**number)
    masks = [np.zeros((160, 240), bool) for _ in range(4)]
    masks[2][40:80, 60:120] = True
    return pictures.gallery(samples, [0.1, 0.2, 0.3, 0.4], [(600, 400)] * 4, maps, masks, limit=3, references={})


def test_what_is_written_is_read_back_and_small(tmp_path: Path, content: pictures.Gallery) -> None:
    results = tmp_path / "results"
    pictures.write(results, "0" * 12, "bolt", content)
    shown = pictures.read(results, "0" * 12, "bolt")
    assert shown == content.shown
    assert shown is not None
    assert (shown.total, len(shown.pictures)) == (4, 3)
    for number, picture in enumerate(shown.pictures):
        image = pictures.image_path(results, picture.sha256)
        assert Image.open(image).size == (224, 149)
        assert image.stat().st_size < 8000
        for own in (False, True):
            path = pictures.map_path(results, "0" * 12, "bolt", number, own=own)
            assert path.stat().st_size < 4000
            colours = np.asarray(Image.open(path).convert("RGB"))[32].astype(int)
            top = picture.high if own else shown.high
            assert picture.high is not None
            assert top is not None
            expected = pictures.coloured(np.array([[0.0, picture.high]]), 0.0 if own else shown.low or 0.0, top)[0]
            assert np.abs(colours[[1, -2]] - expected).max() < 30


def test_an_image_is_shared_and_not_decoded_again(tmp_path: Path, content: pictures.Gallery) -> None:
    pictures.write(tmp_path / "results", "0" * 12, "bolt", content)
    for image in content.images.values():
        image.unlink()
    pictures.write(tmp_path / "results", "1" * 12, "bolt", content)
    assert len(list((tmp_path / "results" / "pictures" / "images").iterdir())) == 3


def test_a_refusing_file_system_is_input_error(tmp_path: Path, content: pictures.Gallery) -> None:
    (tmp_path / "pictures").write_text("in the way")
    with pytest.raises(InputError, match="cannot write"):
        pictures.write(tmp_path, "0" * 12, "bolt", content)


def test_methods_without_maps_and_categories_without_masks(tmp_path: Path, content: pictures.Gallery) -> None:
    samples = [(Sample(p, p.name, "bolt", "test", "good"), sha) for sha, p in content.images.items()]
    bare = pictures.gallery(samples, [1.0] * 3, [(600, 400)] * 3, None, None, limit=9, references={})
    pictures.write(tmp_path / "results", "0" * 12, "bolt", bare)
    shown = pictures.read(tmp_path / "results", "0" * 12, "bolt")
    assert shown == bare.shown
    assert shown is not None
    assert {picture.error for picture in shown.pictures} == {None}
    assert shown.low is None


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"pictures": [{}], "total": 1, "low": 0, "high": 1}', '{"pictures": 3}', "\x80", "[" * 100_000],
)
def test_a_broken_index_is_named(tmp_path: Path, text: str) -> None:
    path = pictures.index_path(tmp_path, "0" * 12, "bolt")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(InputError, match=r"pictures\.json is not usable"):
        pictures.read(tmp_path, "0" * 12, "bolt")
    assert pictures.read(tmp_path, "0" * 12, "nut") is None


def test_an_outline_that_is_none_is_refused(tmp_path: Path, content: pictures.Gallery) -> None:
    pictures.write(tmp_path / "results", "0" * 12, "bolt", content)
    path = pictures.index_path(tmp_path / "results", "0" * 12, "bolt")
    path.write_text(path.read_text().replace('"outline":"M', '"outline":"url(#x)M'))
    with pytest.raises(InputError):
        pictures.read(tmp_path / "results", "0" * 12, "bolt")
