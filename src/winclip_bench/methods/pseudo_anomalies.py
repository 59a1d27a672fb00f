"""Damaged copies of normal images, which stand in for anomalies that nobody has seen: an image and a seed in, one out.

The kinds are those of AISystem-2402 (github.com/PiLab-CAU/AISystem-2402): noise, a local deformation, a colour
distortion and deletion, two or three of them on one image. Random numbers come from a stream of their own, keyed by
whatever the caller gives, and images are computed in integers and elementary float64 arithmetic, so a key gives the
same pixels on every machine.
"""

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SEVERITY: Final = 0.4
KINDS: Final = ("noise", "deformation", "colour", "deletion")

Pixels = NDArray[np.float64]  # [H, W, 3], 0–255


def pseudo_anomaly(image: Image.Image, *key: str | int, severity: float = SEVERITY) -> Image.Image:
    """A damaged copy of an RGB image of at least 8 × 8 pixels: two or three kinds of damage, one after the other.

    key       what the damage depends on besides the image's size, e.g. seed, class and path; no global state takes part
    severity  0–1; how strong noise, deformation and colours are

    Raises ValueError for other images and severities.
    """
    stream = _Stream(*key)
    kinds = stream.shuffled(KINDS)[: stream.integer(2, 4)]
    return damage(image, kinds, *key, severity=severity)


def damage(image: Image.Image, kinds: tuple[str, ...], *key: str | int, severity: float = SEVERITY) -> Image.Image:
    """A copy of an RGB image damaged in these ways of `KINDS`, in this order; else as `pseudo_anomaly`.

    noise        Gaussian, standard deviation 50 × severity grey levels, on every channel of every pixel
    deformation  in a rectangle of a third of each side, rows slide along a triangle wave, by up to severity × its width
    colour       saturation × (1 − severity / 2), brightness and contrast × (1 − severity)
    deletion     one to three rectangles, an eighth to a quarter of each side, are black
    """
    if image.mode != "RGB" or min(image.size) < 8:
        raise ValueError(f"a pseudo-anomaly is made from an RGB image of at least 8 × 8 pixels, not {image}")
    if not 0 <= severity <= 1:
        raise ValueError(f"the severity of a pseudo-anomaly lies in 0–1, not at {severity}")
    pixels = np.asarray(image).astype(np.float64)
    for kind in kinds:
        pixels = _DAMAGE[kind](pixels, _Stream(kind, *key), severity)
    return Image.fromarray(np.floor(np.clip(pixels, 0.0, 255.0) + 0.5).astype(np.uint8))


def mirrored(image: Image.Image, *key: str | int) -> Image.Image:
    """What the original linear head learns as anomalous: an undamaged RGB image, mirrored, 0.5 to 1.5 times as bright.

    Nothing about such an image is anomalous: this is for reproducing that head's table and for nothing else.
    """
    pixels = np.asarray(image.convert("RGB")).astype(np.float64)[:, ::-1]
    factor = 0.5 + _Stream("mirrored", *key).unit()
    return Image.fromarray(np.floor(np.clip(pixels * factor, 0.0, 255.0)).astype(np.uint8))


class _Stream:
    """Random numbers that depend on a key alone: raw words of PCG64, whose values numpy guarantees for ever."""

    def __init__(self, *key: str | int) -> None:
        text = "\0".join(f"{type(part).__name__} {part}" for part in key)
        digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
        self._words = np.random.PCG64(int.from_bytes(digest))

    def units(self, count: int) -> NDArray[np.float64]:
        """Numbers in [0, 1)."""
        return (np.asarray(self._words.random_raw(count)) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def unit(self) -> float:
        return float(self.units(1)[0])

    def integer(self, low: int, high: int) -> int:
        """One of low, …, high − 1."""
        return low + int(self.unit() * (high - low))

    def shuffled(self, options: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(options[place] for place in np.argsort(self.units(len(options)), kind="stable"))

    def normal(self, *shape: int) -> NDArray[np.float64]:
        """Nearly Gaussian, variance 1: sums of twelve uniforms (Irwin and Hall), so that no logarithm is rounded."""
        total = np.full(shape, -6.0)
        for _ in range(12):
            total = total + self.units(total.size).reshape(shape)
        return total


def _noise(pixels: Pixels, stream: _Stream, severity: float) -> Pixels:
    return np.clip(pixels + 50.0 * severity * stream.normal(*pixels.shape), 0.0, 255.0)


def _deformation(pixels: Pixels, stream: _Stream, severity: float) -> Pixels:
    height, width = pixels.shape[0] // 3, pixels.shape[1] // 3
    top, left = stream.integer(0, pixels.shape[0] - height), stream.integer(0, pixels.shape[1] - width)
    region = pixels[top : top + height, left : left + width]
    rows = np.arange(height)[:, None]
    wave = np.minimum(rows, height - 1 - rows) * 2 / max(height - 1, 1)  # 0 at the upper and lower edge
    slide = np.floor(wave * severity * width + 0.5).astype(np.int64)
    bent = pixels.copy()
    bent[top : top + height, left : left + width] = region[rows, (np.arange(width)[None, :] - slide) % width]
    return bent


def _colour(pixels: Pixels, stream: _Stream, severity: float) -> Pixels:
    def grey(of: Pixels) -> Pixels:
        return (of[..., 0] * 299.0 + of[..., 1] * 587.0 + of[..., 2] * 114.0)[..., None] / 1000.0

    pale = grey(pixels) + (pixels - grey(pixels)) * (1.0 - severity / 2.0)
    dark = pale * (1.0 - severity)
    # The mean in whole grey levels is a sum of integers, which no order of summation changes.
    mean = int(np.floor(grey(dark)).astype(np.int64).sum()) // (dark.shape[0] * dark.shape[1])
    return mean + (dark - mean) * (1.0 - severity)


def _deletion(pixels: Pixels, stream: _Stream, severity: float) -> Pixels:
    left_over = pixels.copy()
    for _ in range(stream.integer(1, 4)):
        corner, size = [], []
        for side in pixels.shape[:2]:
            size.append(stream.integer(side // 8, side // 4 + 1))
            corner.append(stream.integer(0, side - size[-1] + 1))
        left_over[corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]] = 0.0
    return left_over


_DAMAGE = {"noise": _noise, "deformation": _deformation, "colour": _colour, "deletion": _deletion}
