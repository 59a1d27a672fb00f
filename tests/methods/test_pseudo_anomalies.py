"""Pseudo-anomalies: each kind damages what it should, a key alone decides, and no random state leaks in or out."""

import hashlib
import random
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from winclip_bench.methods.pseudo_anomalies import KINDS, damage, mirrored, pseudo_anomaly


def picture(width: int = 40, height: int = 30) -> Image.Image:
    """Every pixel different from its neighbours, none black, none clipped by a little noise."""
    rows, columns = np.mgrid[:height, :width]
    channels = [60 + (7 * rows + 3 * columns + shift) % 130 for shift in (0, 31, 77)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def changed(before: Image.Image, after: Image.Image) -> np.ndarray:
    return (np.asarray(before) != np.asarray(after)).any(-1)


def test_the_same_key_gives_the_same_pixels_on_every_machine() -> None:
    """A digest, not only a repetition. It may change only with a decision to make other pseudo-anomalies."""
    pixels = b"".join(damage(picture(), (kind,), 0, "brick", "a.png").tobytes() for kind in KINDS)
    pixels += pseudo_anomaly(picture(), 0, "brick", "a.png").tobytes() + mirrored(picture(), 0).tobytes()
    assert hashlib.sha256(pixels).hexdigest()[:16] == "447839d2fe737d3a"


def test_keys_differ_and_global_random_state_takes_no_part() -> None:
    made = []
    for seed in (0, 1):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        state = random.getstate()
        made.append(pseudo_anomaly(picture(), 7, "a").tobytes())
        assert random.getstate() == state
    assert made[0] == made[1]
    keys = [(7, "b"), (8, "a"), ("7", "a"), (7, "a", "")]
    assert len({made[0], *(pseudo_anomaly(picture(), *key).tobytes() for key in keys)}) == 5


def test_two_or_three_kinds_and_every_kind_at_times() -> None:
    """What was applied is found by trying all orders of two and three kinds."""
    source, counts, seen = picture(16, 12), set(), set()
    orders = [kinds for number in (2, 3) for kinds in permutations(KINDS, number)]
    for seed in range(12):
        made = pseudo_anomaly(source, seed)
        applied = [kinds for kinds in orders if damage(source, kinds, seed).tobytes() == made.tobytes()]
        assert applied
        counts.add(len(applied[0]))
        seen |= set(applied[0])
    assert counts == {2, 3}
    assert seen == set(KINDS)


def test_noise_is_as_strong_as_its_severity() -> None:
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    for severity in (0.1, 0.4):
        difference = np.asarray(damage(grey, ("noise",), 1, severity=severity)).astype(float) - 128
        assert difference.std() == pytest.approx(50 * severity, rel=0.03)
        assert abs(difference.mean()) < 0.5
        assert not (difference[..., 0] == difference[..., 1]).all()


def test_a_deformation_moves_pixels_within_one_rectangle() -> None:
    source = picture(60, 48)
    touched = changed(source, after := damage(source, ("deformation",), 3))
    rows, columns = (np.flatnonzero(touched.any(axis)) for axis in (1, 0))
    assert 0 < np.ptp(rows) < 48 // 3
    assert np.ptp(columns) < 60 // 3
    for row in rows:
        before, moved = (sorted(map(tuple, np.asarray(image)[row])) for image in (source, after))
        assert before == moved  # the same pixels in another order


def test_colours_fade_and_nothing_moves() -> None:
    source, after = picture(), damage(picture(), ("colour",), 5)
    before, faded = np.asarray(source).astype(float), np.asarray(after).astype(float)
    assert np.ptp(faded, axis=-1).mean() == pytest.approx(0.8 * 0.6 * 0.6 * np.ptp(before, axis=-1).mean(), rel=0.03)
    assert faded.mean() == pytest.approx(0.6 * before.mean(), rel=0.02)
    for channel in range(3):
        assert np.corrcoef(before[..., channel].ravel(), faded[..., channel].ravel())[0, 1] > 0.98
    assert np.asarray(damage(source, ("colour",), 5)).tobytes() == damage(source, ("colour",), 6).tobytes()


def test_deletion_leaves_one_to_three_black_rectangles() -> None:
    source = picture(80, 64)
    for seed in range(20):
        after = damage(source, ("deletion",), seed)
        touched = changed(source, after)
        assert not np.asarray(after)[touched].any()
        assert 64 // 8 * (80 // 8) <= touched.sum() <= 3 * (64 // 4) * (80 // 4)


def test_without_severity_only_deletion_does_anything() -> None:
    for kind in KINDS:
        assert changed(picture(), damage(picture(), (kind,), 1, severity=0.0)).any() == (kind == "deletion")


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 60), st.integers(8, 60), st.integers(0, 1000), st.floats(0, 1))
def test_any_size_gives_an_image_of_that_size_and_leaves_its_source_alone(width, height, seed, severity) -> None:
    source = picture(width, height)
    kept = source.tobytes()
    made = pseudo_anomaly(source, seed, severity=severity)
    assert (made.mode, made.size) == ("RGB", (width, height))
    assert source.tobytes() == kept


def test_the_originals_anomalies_are_not_damaged() -> None:
    before, after = np.asarray(picture()).astype(float), np.asarray(mirrored(picture(), 2)).astype(float)
    factor = (after / before[:, ::-1])[before[:, ::-1] * 1.5 < 255].mean()
    assert 0.5 <= factor < 1.5
    assert np.abs(after - np.clip(before[:, ::-1] * factor, 0, 255)).max() < 3


@pytest.mark.parametrize(
    ("image", "severity"), [(Image.new("L", (20, 20)), 0.4), (Image.new("RGB", (7, 20)), 0.4), (picture(), 1.5)]
)
def test_what_cannot_be_damaged_is_refused(image: Image.Image, severity: float) -> None:
    with pytest.raises(ValueError, match="pseudo-anomaly"):
        pseudo_anomaly(image, 0, severity=severity)
