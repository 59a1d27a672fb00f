"""Randomness and arithmetic that give the same bits on every machine.

Random numbers are raw words of a PCG64 stream, whose values numpy guarantees, unlike those of its distributions.
Images are computed in float64 with nothing but ``+ - * / sqrt floor`` and comparisons, one numpy call each: IEEE 754
rounds these correctly, so no maths library, vector width or fused instruction can change a bit. That is why there is
no ``sin``, ``exp``, ``hypot``, convolution or floating-point sum in this package, and why `wave` and `direction` exist.
"""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]  # [H, W], or [H, W, 3] for colours
Region = NDArray[np.bool_]  # [H, W]
T = TypeVar("T")


class Draws:
    """A stream of random numbers that depends on its key alone, so samples can be made in any order.

    >>> Draws("a", 1).integer(0, 1000) == Draws("a", 1).integer(0, 1000)
    True
    """

    def __init__(self, *key: str | int) -> None:
        digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
        self._bits = np.random.PCG64(int.from_bytes(digest, "little"))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """One number in [low, high)."""
        return low + (high - low) * float(self.units(1)[0])

    def units(self, *shape: int) -> Field:
        """Numbers in [0, 1) with 53 random bits each."""
        words = np.asarray(self._bits.random_raw(int(np.prod(shape))))
        return ((words >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(shape)

    def integer(self, low: int, high: int) -> int:
        """One integer in [low, high); both ends are small, so the bias of the remainder is not seen."""
        return low + int(self._bits.random_raw()) % (high - low)

    def choice(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.integer(0, len(options))]

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.uniform() < probability


def smooth(x: Field) -> Field:
    """The cubic 3x² − 2x³ on [0, 1], constant outside."""
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def wave(turns: Field) -> Field:
    """A sine made of parabolas, in [−1, 1], with period 1 and within 0.06 of sin(2π·turns).

    >>> wave(np.array([0.0, 0.25, 0.75, 1.25])).tolist()
    [0.0, 1.0, -1.0, 1.0]
    """
    u = 2.0 * (turns - np.floor(turns)) - 1.0
    return -4.0 * u * (1.0 - np.abs(u))


def direction(draws: Draws, spread: float = 1.0) -> tuple[float, float]:
    """A unit vector (cos, sin): within spread·90° of the x axis; 1 covers every undirected line, 2 the whole circle.

    From the rational parametrisation of the circle, so the angle is not quite uniform.
    """
    if spread > 1.0:
        c, s = direction(draws)
        return (-c, -s) if draws.chance(spread / 4.0) else (c, s)
    t = draws.uniform(-spread, spread)
    return (1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t)


def lerp(a: Field, b: Field, weight: Field) -> Field:
    """Colours between a (weight 0) and b (weight 1); a and b are [3] or [H, W, 3], the weight is [H, W]."""
    return a + (b - a) * weight[..., None]


def stretch(image: Field, size: int) -> Field:
    """Bilinear resampling of a square [h, h] or [h, h, 3] image to [size, size], pixel centres aligned as in PIL."""
    side = image.shape[0]
    at = np.clip((np.arange(size) + 0.5) * (side / size) - 0.5, 0.0, side - 1.0)
    low = np.minimum(np.floor(at).astype(np.intp), side - 2)
    part = at - low
    rows_part, columns_part = (
        part.reshape(-1, 1, *(1,) * (image.ndim - 2)),
        part.reshape(1, -1, *(1,) * (image.ndim - 2)),
    )
    rows = image[low] + (image[low + 1] - image[low]) * rows_part
    return rows[:, low] + (rows[:, low + 1] - rows[:, low]) * columns_part


def value_noise(draws: Draws, size: int, height: float, width: float | None = None) -> Field:
    """Smooth noise in (−1, 1): random values on a lattice of cells height × width pixels, interpolated."""

    def axis(cell: float) -> tuple[NDArray[np.intp], Field]:
        at = np.arange(size) / cell + draws.uniform()
        low = np.floor(at).astype(np.intp)
        return low, smooth(at - low)

    (y, y_part), (x, x_part) = axis(height), axis(width or height)
    lattice = draws.units(int(y[-1]) + 2, int(x[-1]) + 2) * 2.0 - 1.0
    rows = lattice[y] + (lattice[y + 1] - lattice[y]) * y_part[:, None]
    return rows[:, x] + (rows[:, x + 1] - rows[:, x]) * x_part[None, :]


def fractal_noise(draws: Draws, size: int, cell: float, octaves: int = 3) -> Field:
    """Value noise of halving cells and halving amplitudes, in (−2, 2)."""
    total = value_noise(draws, size, cell)
    for octave in range(1, octaves):
        total = total + value_noise(draws, size, cell * 0.5**octave) * 0.5**octave
    return total


def line_noise(draws: Draws, at: Field, length: int = 512) -> Field:
    """One-dimensional smooth noise in (−1, 1), read at any coordinates; unit cells, period `length`."""
    table = draws.units(length) * 2.0 - 1.0
    low = np.floor(at)
    index = low.astype(np.intp) % length
    a, b = table[index], table[(index + 1) % length]
    return a + (b - a) * smooth(at - low)


def cell_noise(draws: Draws, at: Field, length: int = 512) -> Field:
    """One random value in (−1, 1) per unit cell of any coordinates; period `length`."""
    table = draws.units(length) * 2.0 - 1.0
    return table[np.floor(at).astype(np.intp) % length]


def pixel_grid(size: int) -> tuple[Field, Field]:
    """The coordinates (y, x) of every pixel, each [size, size]."""
    axis = np.arange(size, dtype=np.float64)
    return np.repeat(axis[:, None], size, axis=1), np.repeat(axis[None, :], size, axis=0)
