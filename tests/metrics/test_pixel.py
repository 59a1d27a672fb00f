"""Pixel metrics against scikit-learn and brute force, their invariances, and the cases that have no answer."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.metrics import reference
from winclip_bench.metrics import PIXEL_METRICS, pixel, pixel_metrics, stream_pixel_metrics

LIMITS = (0.3, 0.05, 0.01, 1.0)


@st.composite
def data_sets(draw):
    """One to four small images of their own shapes; scores from a few values (ties) up to nearly continuous."""
    levels = draw(st.sampled_from([1, 2, 5, 50, 10**6]))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    shapes = draw(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=4))
    maps = [draw(arrays(np.int64, s, elements=st.integers(0, levels - 1))).astype(dtype) / levels - 0.3 for s in shapes]
    masks = [draw(arrays(np.bool_, s)) for s in shapes]
    pixels = reference.flat(masks)
    assume(pixels.any() and not pixels.all())
    return maps, masks


def smooth(rng, n=12, side=24, dtype=np.float64):
    """Continuous maps that are higher, not always, inside blob-shaped regions; half of the images are good."""
    maps = rng.standard_normal((n, side, side)).astype(dtype)
    masks = np.zeros(maps.shape, bool)
    for image in range(0, n, 2):
        for _ in range(rng.integers(1, 4)):
            y, x, h, w = rng.integers(0, side, 2).tolist() + rng.integers(1, 6, 2).tolist()
            masks[image, y : y + h, x : x + w] = True
    return (maps + masks * 1.5).astype(dtype), masks


def check(maps, masks, connectivity=8):
    measured = pixel_metrics(maps, masks, connectivity=connectivity, fpr_limits=LIMITS)
    wanted = reference.ranking(reference.flat(maps), reference.flat(masks))
    for name in ("auroc", "f1", "ap"):
        assert measured.values[f"{name}_px"] == pytest.approx(wanted[name], abs=1e-12), name
    for limit in LIMITS:
        brute = reference.aupro(maps, masks, limit, connectivity)
        assert measured.values[pixel.aupro_name(limit)] == pytest.approx(brute, abs=1e-12), limit
    assert measured.counts["regions"] == len(reference.regions_of(masks, connectivity))


@settings(max_examples=100, deadline=None)
@given(data_sets(), st.sampled_from([4, 8]))
def test_equals_scikit_learn_and_brute_force(data, connectivity):
    check(*data, connectivity)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("levels", [None, 12])
def test_equals_scikit_learn_and_brute_force_on_larger_maps(dtype, levels):
    maps, masks = smooth(np.random.default_rng(0), dtype=dtype)
    if levels:
        maps = np.round(maps * levels / 4).astype(dtype)
    check(maps, masks)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_scikit_learn_on_thousands_of_levels(dtype):
    maps, masks = smooth(np.random.default_rng(9), n=6, side=96, dtype=dtype)
    masks[0, 20:70, 30:80] = masks[2, :60, :60] = True
    measured = pixel_metrics(maps, masks)
    assert len(np.unique(maps[masks])) > 4096
    wanted = reference.ranking(maps.ravel(), masks.ravel())
    for name in ("auroc", "f1", "ap"):
        assert measured.values[f"{name}_px"] == pytest.approx(wanted[name], abs=1e-12), name
    for limit in (0.3, 0.05):
        by_regions = reference.aupro_by_regions(maps, masks, limit)
        assert measured.values[pixel.aupro_name(limit)] == pytest.approx(by_regions, abs=1e-12), limit


@settings(max_examples=60, deadline=None)
@given(data_sets())
def test_aupro_200_equals_the_usual_loop(data):
    maps, masks = ([m.astype(np.float64) for m in data[0]], data[1])
    wanted = reference.aupro_200(maps, masks)
    measured = pixel_metrics(maps, masks)
    if wanted is None:
        assert measured.values["aupro_200"] is None
        assert "aupro_200" in measured.undefined
    else:
        assert measured.values["aupro_200"] == pytest.approx(wanted, abs=1e-12)


def test_aupro_200_rounds_its_thresholds_to_the_type_of_the_maps():
    # Scores that lie on thresholds must stay on them, whatever the type they come in.
    rng = np.random.default_rng(1)
    levels = rng.integers(0, 201, (4, 16, 16))
    levels[0, 0, :2] = 0, 200
    masks = levels + rng.integers(-80, 80, levels.shape) > 150
    results = [pixel_metrics(m, masks).values["aupro_200"] for m in (levels, levels / 200, (levels / 200).astype("f4"))]
    assert results == pytest.approx([results[0]] * 3, abs=1e-14)
    assert results[0] == pytest.approx(reference.aupro_200(levels.astype(float), masks), abs=1e-12)


def test_aupro_200_depends_on_the_scale_of_scores_and_aupro_does_not():
    maps, masks = smooth(np.random.default_rng(2))
    plain, skewed = pixel_metrics(maps, masks).values, pixel_metrics(np.exp(3 * maps), masks).values
    assert plain["aupro"] == skewed["aupro"]
    assert abs(plain["aupro_200"] - skewed["aupro_200"]) > 0.05


EXACT = [name for name in PIXEL_METRICS if name != "aupro_200"]


def exact_values(maps, masks):
    values = pixel_metrics(maps, masks).values
    return [values[name] for name in EXACT]


@settings(max_examples=50, deadline=None)
@given(data_sets(), st.randoms(use_true_random=False))
def test_invariances(data, random):
    maps, masks = data
    values = exact_values(maps, masks)
    # A strictly increasing change of the scores: ranks, with ties kept.
    ranks = np.unique(reference.flat(maps), return_inverse=True)[1].astype(float)
    ends = np.cumsum([m.size for m in maps])[:-1]
    ranked = [r.reshape(m.shape) for r, m in zip(np.split(ranks**3 - 7, ends), maps, strict=True)]
    assert exact_values(ranked, masks) == values
    order = random.sample(range(len(maps)), len(maps))
    assert exact_values([maps[i] for i in order], [masks[i] for i in order]) == pytest.approx(values, abs=1e-14)
    turned = exact_values([m.T[::-1] for m in maps], [m.T[::-1] for m in masks])
    assert turned == pytest.approx(values, abs=1e-14)


@pytest.mark.parametrize("batch", [1, 5, 12])
@pytest.mark.parametrize("piece", [7, 1 << 20])
def test_streaming_in_batches_and_pieces_is_identical(batch, piece, monkeypatch):
    maps, masks = smooth(np.random.default_rng(3), dtype=np.float32)
    whole = pixel_metrics(maps, masks)
    monkeypatch.setattr(pixel, "PIECE", piece)
    monkeypatch.setattr(pixel, "PIXELS_PER_SEARCH", 0)
    starts = range(0, len(maps), batch)
    assert whole == stream_pixel_metrics(lambda: ((maps[i : i + batch], masks[i : i + batch]) for i in starts))


def test_streaming_refuses_images_that_are_gone_or_changed_at_the_second_pass():
    maps, masks = smooth(np.random.default_rng(4))
    once = iter(zip(maps, masks, strict=True))
    with pytest.raises(ValueError, match="second pass"):
        stream_pixel_metrics(lambda: once)


def test_maps_and_masks_are_left_alone():
    maps, masks = smooth(np.random.default_rng(5))
    before = maps.copy(), masks.copy()
    pixel_metrics(maps, masks)
    assert (maps == before[0]).all()
    assert (masks == before[1]).all()


def test_float64_is_not_rounded_and_types_may_differ():
    near = np.nextafter(1.0, 2.0)
    fine = np.array([[near, 1.0]])
    mask = np.array([[True, False]])
    assert pixel_metrics([fine], [mask]).values["auroc_px"] == 1.0
    coarse = np.array([[1.0, 0.0]], np.float32)
    both = pixel_metrics([fine, coarse, np.array([[2, 0]], np.uint8)], [mask, mask, mask])
    assert both.values["auroc_px"] == pytest.approx((3 + 2.5 + 3) / 9)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_largest_and_the_smallest_scores_and_both_zeros(dtype):
    largest, smallest = np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal
    scores = np.array([[largest, smallest, 0.0, -0.0, -smallest, -largest]], dtype)
    masks = [np.array([[True, True, True, False, False, False]])]
    values = pixel_metrics([scores], masks).values
    assert values["auroc_px"] == pytest.approx(8.5 / 9)
    assert values["ap_px"] == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert values["aupro_200"] is None


def test_masks_of_classes_are_anomalous_where_not_zero():
    maps, masks = smooth(np.random.default_rng(6))
    assert pixel_metrics(maps, masks) == pixel_metrics(maps, masks * np.uint8(255))


# Cases small enough to be worked out by hand.


def test_pro_weighs_regions_equally_and_pixels_of_a_region_equally():
    # Regions of one, two and two pixels. One normal pixel of four lies above the last region and below the others.
    maps = [np.array([[9.0, 0, 8, 8, 5, 1, 1, 4, 4]])]
    masks = [np.array([[True, False, True, True, False, False, False, True, True]])]
    measured = pixel_metrics(maps, masks, fpr_limits=(1.0,))
    assert measured.counts["regions"] == 3
    # PRO is 2/3 up to FPR 1/4, then 1.
    assert measured.values["aupro@1.0"] == pytest.approx(2 / 3 * 1 / 4 + 3 / 4)


def test_the_limit_cuts_a_tie_by_linear_interpolation():
    # Everything ties: the curve is the diagonal, and the mean of it up to 0.3 is 0.15.
    measured = pixel_metrics([np.full((2, 5), 0.7)], [np.arange(10).reshape(2, 5) < 2])
    assert measured.values["auroc_px"] == 0.5
    assert measured.values["aupro"] == pytest.approx(0.15)
    assert measured.values["ap_px"] == pytest.approx(0.2)
    assert measured.values["f1_px"] == pytest.approx(2 * 2 / (2 * 2 + 8))
    assert measured.thresholds["f1_px"] == pytest.approx(0.7)
    assert measured.values["aupro_200"] is None


@pytest.mark.parametrize(("connectivity", "regions"), [(4, 4), (8, 2)])
def test_diagonal_single_pixel_and_border_regions(connectivity, regions):
    mask = np.zeros((5, 5), bool)
    mask[0, 0] = mask[1, 1] = mask[2, 2] = True  # touch at corners, and the border
    mask[4, 4] = True  # one pixel in a corner of the image
    counts = pixel_metrics([mask * 1.0], [mask], connectivity=connectivity).counts
    assert counts["regions"] == regions
    check([np.random.default_rng(0).random((5, 5))], [mask], connectivity)


def test_regions_of_neighbouring_images_never_join():
    mask = np.ones((2, 1), bool)
    assert pixel_metrics([mask * 1.0, mask * 0.5, 0.0 * mask], [mask, mask, ~mask]).counts["regions"] == 2


def test_an_empty_mask_adds_only_normal_pixels():
    maps, masks = smooth(np.random.default_rng(7), n=4)
    masks[2] = False
    measured = pixel_metrics(maps, masks)
    assert measured.counts["images"] == 4
    assert measured.counts["images_with_regions"] == 1
    assert measured.counts["normal_pixels"] == (~masks).sum()


@pytest.mark.parametrize(("fill", "reason"), [(False, "no anomalous pixel"), (True, "no normal pixel")])
def test_undefined_with_one_label_only(fill, reason):
    measured = pixel_metrics(np.random.default_rng(0).random((2, 3, 3)), np.full((2, 3, 3), fill))
    assert measured.values == dict.fromkeys(PIXEL_METRICS)
    assert measured.undefined == dict.fromkeys(PIXEL_METRICS, reason)


def test_perfect_and_reversed_ranking():
    masks = np.zeros((3, 6, 6), bool)
    masks[0, :2, :3] = masks[1, 4, 4] = masks[1, 1, 1] = True
    noise = np.random.default_rng(0).random(masks.shape)
    perfect, reversed_ = pixel_metrics(noise + masks, masks).values, pixel_metrics(noise - masks, masks).values
    assert [perfect[name] for name in EXACT] == [1.0] * len(EXACT)
    assert reversed_["auroc_px"] == reversed_["aupro"] == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_name_their_image(bad):
    maps, masks = smooth(np.random.default_rng(8))
    maps[7, 3, 3] = bad
    with pytest.raises(ValueError, match=r"maps\[7\] has NaN or infinite"):
        pixel_metrics(maps, masks)


@pytest.mark.parametrize(
    ("maps", "masks", "words"),
    [
        ([], [], "no image"),
        (np.zeros((2, 3, 3)), np.zeros((3, 3, 3), bool), "2 maps and 3 masks"),
        ([np.zeros((3, 3)), np.zeros((3, 3))], [np.zeros((3, 3), bool), np.zeros((3, 4), bool)], r"maps\[1\]"),
        ([np.zeros((3, 3))], [np.zeros((3, 3))], "threshold"),
        ([np.zeros(3)], [np.zeros(3, bool)], "no image"),
        ([np.zeros((3, 0))], [np.zeros((3, 0), bool)], "no image"),
        ([np.zeros((3, 3), complex)], [np.zeros((3, 3), bool)], "real numbers"),
    ],
)
def test_bad_input_is_named(maps, masks, words):
    with pytest.raises(ValueError, match=words):
        pixel_metrics(maps, masks)


@pytest.mark.parametrize("settings_", [{"connectivity": 6}, {"fpr_limits": (0.0,)}, {"fpr_limits": (1.5,)}])
def test_bad_settings_are_refused(settings_):
    with pytest.raises(ValueError, match="not"):
        pixel_metrics([np.eye(2)], [np.eye(2, dtype=bool)], **settings_)


def test_importing_the_metrics_does_not_import_torch():
    code = "import sys, winclip_bench.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
