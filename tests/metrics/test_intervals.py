"""Bootstrap against metrics computed anew on each resample, and what must hold of intervals and comparisons."""

import numpy as np
import pytest

from tests.metrics import reference
from winclip_bench.metrics import (
    difference,
    mean_over_classes,
    pixel_metrics,
    resample_pixels,
    resample_samples,
    sample_metrics,
    spread,
)
from winclip_bench.metrics.intervals import copies_per_image


def image_scores(seed, n=40, shift=1.0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) < n // 3
    return np.round(rng.standard_normal(n) + shift * labels, 1), labels


def maps_and_masks(seed, n=10, side=32, noise=1.0):
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, side, side), bool)
    for image in range(n // 2):
        y, x = rng.integers(0, side - 8, 2)
        masks[image, y : y + rng.integers(1, 8), x : x + rng.integers(1, 8)] = True
        masks[image, -1, -1] = image % 2
    return (noise * rng.standard_normal(masks.shape) + masks * rng.random((n, 1, 1)) * 3).astype(np.float32), masks


def copied(copies, *arrays):
    index = np.repeat(np.arange(len(copies)), copies)
    return [array[index] for array in arrays]


def test_copies_are_stratified_seeded_and_differ_by_category():
    anomalous = np.arange(11) < 4
    copies = copies_per_image(anomalous, 3000, seed=1)
    assert (copies[:, anomalous].sum(1) == 4).all()
    assert (copies[:, ~anomalous].sum(1) == 7).all()
    assert copies.mean(0) == pytest.approx(np.ones(11), abs=0.1)
    assert (copies == copies_per_image(anomalous, 3000, seed=1)).all()
    assert (copies != copies_per_image(anomalous, 3000, seed=2)).any()
    assert (copies != copies_per_image(anomalous, 3000, seed=1, category="bottle")).any()


def test_draws_of_samples_are_the_metrics_of_each_resample():
    scores, labels = image_scores(0)
    resampled = resample_samples(scores, labels, seed=3, resamples=120)
    assert resampled.values == sample_metrics(scores, labels).values
    for row, copies in enumerate(copies_per_image(labels, 120, seed=3)):
        wanted = reference.ranking(*copied(copies, scores, labels))
        for name, value in wanted.items():
            assert resampled.draws[f"{name}_sp"][row] == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("connectivity", [4, 8])
def test_draws_of_pixels_with_few_levels_are_the_metrics_of_each_resample(connectivity):
    maps, masks = maps_and_masks(1)
    maps = np.round(maps * 6)
    resampled = resample_pixels(
        lambda: zip(maps, masks, strict=True), seed=5, resamples=30, connectivity=connectivity, fpr_limits=(0.3, 0.01)
    )
    for row, copies in enumerate(copies_per_image(masks.any((1, 2)), 30, seed=5)):
        few = copied(copies, maps, masks)
        wanted = pixel_metrics(*few, connectivity=connectivity, fpr_limits=(0.3, 0.01)).values
        for name in ("auroc_px", "f1_px", "ap_px", "aupro", "aupro@0.01"):
            assert resampled.draws[name][row] == pytest.approx(wanted[name], abs=1e-12), name
    assert max(map(abs, resampled.rounding.values())) < 1e-12


def test_draws_of_pixels_with_many_levels_are_close_and_say_how_close():
    maps, masks = maps_and_masks(2, n=16, side=96)
    masks[:8, 30:60, 30:60] = True
    maps += masks
    resampled = resample_pixels(lambda: zip(maps, masks, strict=True), seed=5, resamples=8)
    assert len(np.unique(maps[masks])) > 5000
    for row, copies in enumerate(copies_per_image(masks.any((1, 2)), 8, seed=5)):
        wanted = pixel_metrics(*copied(copies, maps, masks)).values
        for name, value in wanted.items():
            assert resampled.draws[name][row] == pytest.approx(value, abs=2e-3), name
    assert all(abs(rounding) < 1e-3 for rounding in resampled.rounding.values())
    assert resampled.values == pixel_metrics(maps, masks).values


def test_resamples_of_pixels_and_samples_draw_the_same_images():
    maps, masks = maps_and_masks(3)
    labels = np.arange(10) < 5
    pixels = resample_pixels(lambda: zip(maps, masks, strict=True), labels=labels, seed=1, resamples=10, category="a")
    assert pixels.drawn == resample_samples(maps.max((1, 2)), labels, seed=1, resamples=10, category="a").drawn


def test_resamples_without_any_region_are_left_out():
    maps, masks = maps_and_masks(4, n=4)
    masks[1] = False  # an anomalous image whose mask is empty: one resample in four holds it twice
    resampled = resample_pixels(lambda: zip(maps, masks, strict=True), labels=[1, 1, 0, 0], seed=0, resamples=200)
    undefined = np.isnan(resampled.draws["aupro"])
    assert 20 < undefined.sum() < 80
    assert np.isfinite(resampled.intervals()["aupro"].low)


def test_intervals_hold_the_value_narrow_with_images_and_widen_with_the_level():
    small = resample_samples(*image_scores(1, n=30), seed=0, resamples=500)
    large = resample_samples(*image_scores(1, n=3000), seed=0, resamples=500)
    for name in small.values:
        narrow, wide = small.intervals(0.5)[name], small.intervals(0.99)[name]
        assert wide.low <= narrow.low <= narrow.high <= wide.high
        assert wide.low <= wide.value <= wide.high
        of_many = large.intervals(0.5)[name]
        assert of_many.high - of_many.low < narrow.high - narrow.low


def test_the_interval_of_auroc_covers_the_truth_about_as_often_as_it_says():
    # Scores N(1, 1) against N(0, 1): the true AUROC is Phi(1 / sqrt 2) = 0.76025.
    rng = np.random.default_rng(0)
    labels = np.arange(100) < 40
    covered = 0
    for seed in range(120):
        found = resample_samples(rng.standard_normal(100) + labels, labels, seed=seed, resamples=200)
        interval = found.intervals(0.9)["auroc_sp"]
        covered += interval.low <= 0.76025 <= interval.high
    assert 0.82 < covered / 120 < 0.97


def test_a_paired_difference_is_narrower_than_the_runs_themselves():
    scores, labels = image_scores(2, n=60)
    better = scores + 0.15 * labels
    first = resample_samples(better, labels, seed=0, category="nut")
    second = resample_samples(scores, labels, seed=0, category="nut")
    apart = difference(first, second)["auroc_sp"]
    assert apart.value == pytest.approx(first.values["auroc_sp"] - second.values["auroc_sp"])
    assert 0 <= apart.low <= apart.value <= apart.high
    own = second.intervals()["auroc_sp"]
    assert apart.high - apart.low < (own.high - own.low) / 2


def test_runs_that_were_not_drawn_alike_are_not_compared():
    scores, labels = image_scores(3)
    first = resample_samples(scores, labels, seed=0)
    others = [
        resample_samples(scores, labels, seed=1),
        resample_samples(scores, labels[::-1], seed=0),
        resample_samples(scores, labels, seed=0, resamples=10),
    ]
    for other in others:
        with pytest.raises(ValueError, match="drawn alike"):
            difference(first, other)


def test_mean_over_classes_leaves_undefined_ones_out_and_resamples_classes_apart():
    classes = {name: resample_samples(*image_scores(i), seed=0, category=name) for i, name in enumerate("abc")}
    classes["d"] = resample_samples([0.1, 0.2], [1, 1], seed=0, category="d")
    assert classes["d"].draws == {}
    mean = mean_over_classes(classes)
    values = [classes[name].values["auroc_sp"] for name in "abc"]
    assert mean.values["auroc_sp"] == pytest.approx(np.mean(values))
    widths = [i.high - i.low for i in (classes[name].intervals()["auroc_sp"] for name in "abc")]
    interval = mean.intervals()["auroc_sp"]
    assert interval.high - interval.low == pytest.approx(np.sqrt(np.square(widths).sum()) / 3, rel=0.15)
    assert mean.left_out == dict.fromkeys(mean.values, ("d",))
    assert difference(mean, mean)["ap_sp"].value == 0.0


def test_classes_that_share_a_draw_have_no_mean():
    one = resample_samples(*image_scores(0), seed=0)
    with pytest.raises(ValueError, match="share their draw"):
        mean_over_classes({"a": one, "b": one})


@pytest.mark.parametrize("fill", [True, False])
def test_nothing_to_resample_with_one_label_only(fill):
    masks = np.full((2, 3, 3), fill)
    resampled = resample_pixels(lambda: zip(np.zeros((2, 3, 3)), masks, strict=True), seed=0, resamples=5)
    assert set(resampled.values.values()) == {None}
    assert resampled.intervals() == {}


def test_spread_over_seeds():
    assert spread({0: 0.2, 1: 0.4, 2: 0.9}).mean == pytest.approx(0.5)
    assert spread({0: 0.2, 1: 0.4, 2: 0.9}).std == pytest.approx(np.sqrt((0.09 + 0.01 + 0.16) / 2))
    assert spread({0: 0.2}).std is None
    nothing = spread({"cable": None})
    assert (nothing.mean, nothing.count, nothing.left_out) == (None, 0, ("cable",))
