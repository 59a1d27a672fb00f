"""Painted defects: each takes a scene and gives the painted region and the colours inside it.

A painter decides where, how large and how strong from its draws; what it returns outside the region is ignored.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from winclip_bench.data.demo.draws import (
    Draws,
    Field,
    Region,
    direction,
    fractal_noise,
    lerp,
    pixel_grid,
    smooth,
    value_noise,
)
from winclip_bench.data.demo.scenes import SIZE, Scene, colour

Painting = tuple[Region, Field]


def spot(draws: Draws, scene: Scene) -> tuple[float, float]:
    """A random point (y, x) of the support, away from the border of the image."""
    inner = np.zeros_like(scene.support)
    inner[14:-14, 14:-14] = scene.support[14:-14, 14:-14]
    points = np.flatnonzero(inner)
    y, x = divmod(int(points[draws.integer(0, len(points))]), SIZE)
    return float(y), float(x)


def blob(draws: Draws, y0: float, x0: float, radius: float, *, rough: float, slim: float) -> Field:
    """An irregular ellipse: 1 in the middle, 0 on its outline, negative outside.

    rough is how far noise moves the outline, as a part of the radius; slim the least ratio of the axes, rooted.
    """
    y, x = pixel_grid(SIZE)
    c, s = direction(draws)
    flat = draws.uniform(slim, 1.0)
    u, v = (c * (x - x0) + s * (y - y0)) * flat / radius, (c * (y - y0) - s * (x - x0)) / (flat * radius)
    return 1.0 - np.sqrt(u * u + v * v) + rough * fractal_noise(draws, SIZE, 0.9 * radius, 2)


def stroke(points: list[tuple[float, float]], widths: list[float]) -> Field:
    """Signed depth in pixels (positive inside) of a polyline of (y, x) points with one width per segment."""
    depth = np.full((SIZE, SIZE), -100.0)
    for (y0, x0), (y1, x1), width in zip(points, points[1:], widths, strict=False):
        low_y, high_y = max(int(min(y0, y1)) - 6, 0), min(int(max(y0, y1)) + 8, SIZE)
        low_x, high_x = max(int(min(x0, x1)) - 6, 0), min(int(max(x0, x1)) + 8, SIZE)
        if low_y >= high_y or low_x >= high_x:
            continue
        y = np.arange(low_y, high_y, dtype=np.float64)[:, None] - y0
        x = np.arange(low_x, high_x, dtype=np.float64)[None, :] - x0
        dy, dx = y1 - y0, x1 - x0
        along = np.clip((y * dy + x * dx) / max(dy * dy + dx * dx, 1e-9), 0.0, 1.0)
        y, x = y - along * dy, x - along * dx
        part = depth[low_y:high_y, low_x:high_x]
        np.maximum(part, width / 2.0 - np.sqrt(y * y + x * x), out=part)
    return depth


def curve(draws: Draws, scene: Scene, length: float, bend: float) -> list[tuple[float, float]]:
    """Points (y, x) of a quadratic curve through a point of the support."""
    y, x = spot(draws, scene)
    c, s = direction(draws)
    sag, steps = draws.uniform(-bend, bend) * length, 14
    points = []
    for step in range(steps + 1):
        t = step / steps - 0.5
        off = sag * (1.0 - 4.0 * t * t)
        points.append((y + s * t * length + c * off, x + c * t * length - s * off))
    return points


def scratch(draws: Draws, scene: Scene) -> Painting:
    """One to three fine, nearly straight marks, paler or darker than the ground."""
    marks = 1 + draws.integer(0, 3)
    width = draws.uniform(1.6, 3.2)
    points = curve(draws, scene, draws.uniform(48.0, 110.0), 0.16)
    depth = np.full((SIZE, SIZE), -100.0)
    for mark in range(marks):
        shift_y, shift_x = mark * draws.uniform(3.0, 7.0), mark * draws.uniform(-7.0, 7.0)
        start, stop = (0, len(points)) if mark == 0 else (draws.integer(0, 5), draws.integer(9, len(points) + 1))
        shifted = [(y + shift_y, x + shift_x) for y, x in points[start:stop]]
        depth = np.maximum(depth, stroke(shifted, [width * draws.uniform(0.7, 1.15) for _ in shifted]))
    strength = draws.uniform(0.35, 0.8) * np.clip(0.45 + depth, 0.4, 1.0)
    pale = draws.chance(0.6)
    ground = colour(248, 246, 240) if pale else scene.image * 0.25
    painted = lerp(scene.image, ground, strength * (1.0 + 0.25 * value_noise(draws, SIZE, 5.0)))
    return depth > 0.0, painted


def crack(draws: Draws, scene: Scene) -> Painting:
    """A dark jagged fissure that thins out, with up to two branches."""
    y, x = spot(draws, scene)
    c, s = direction(draws, 2.0)
    widths: list[float] = []
    points = [(y, x)]
    steps, width = draws.integer(10, 18), draws.uniform(2.4, 4.0)
    for step in range(steps):
        t, length = draws.uniform(-1.1, 1.1), draws.uniform(4.0, 8.5)
        y, x = y + (s + t * c) * length, x + (c - t * s) * length
        points.append((y, x))
        widths.append(max(width * (1.0 - 0.75 * step / steps), 1.3))
    depth = stroke(points, widths)
    for _ in range(draws.integer(0, 3)):
        y, x = points[draws.integer(2, len(points) - 3)]
        side = draws.choice((-1.0, 1.0))
        branch = [(y, x)]
        for _ in range(draws.integer(3, 7)):
            t, length = side * draws.uniform(0.1, 1.6), draws.uniform(3.0, 7.0)
            y, x = y + (s + t * c) * length, x + (c - t * s) * length
            branch.append((y, x))
        depth = np.maximum(depth, stroke(branch, [draws.uniform(1.2, 1.9) for _ in branch]))
    strength = draws.uniform(0.5, 0.85) * np.clip(0.5 + 0.6 * depth, 0.45, 1.0)
    return depth > 0.0, lerp(scene.image, scene.image * 0.12 + 4.0, strength)


def hole(draws: Draws, scene: Scene) -> Painting:
    """A pit with a dark ground, a shaded wall on one side and a lit one on the other."""
    y0, x0 = spot(draws, scene)
    radius = draws.uniform(7.0, 16.0)
    depth = blob(draws, y0, x0, radius, rough=0.22, slim=0.75)
    y, x = pixel_grid(SIZE)
    slope = np.clip((0.6 * (x - x0) + 0.8 * (y - y0)) / radius, -1.2, 1.2)
    bottom = draws.choice(((30.0, 26.0, 24.0), (58.0, 46.0, 36.0), (84.0, 72.0, 62.0)))
    ground = colour(*bottom) * (1.0 + 0.3 * value_noise(draws, SIZE, 3.0))[..., None]
    inside = smooth(depth / draws.uniform(0.25, 0.6))
    wall = scene.image * (0.55 + 0.35 * slope)[..., None]
    return depth > 0.0, lerp(wall, ground, inside * draws.uniform(0.65, 0.97))


def stain(draws: Draws, scene: Scene) -> Painting:
    """A soaked-in patch of another colour with a darker tide mark; the ground shows through."""
    y, x = spot(draws, scene)
    depth = blob(draws, y, x, draws.uniform(11.0, 21.0), rough=0.4, slim=0.6)
    dye = draws.choice(((0.46, 0.32, 0.18), (0.24, 0.23, 0.25), (0.34, 0.48, 0.76), (0.86, 0.48, 0.20)))
    tide = smooth(depth / 0.08) * (1.0 - 0.35 * smooth((depth - 0.08) / 0.25))
    strength = draws.uniform(0.45, 0.95) * tide * (1.0 + 0.2 * value_noise(draws, SIZE, 6.0))
    return depth > 0.0, scene.image * (1.0 - strength[..., None] * (1.0 - colour(*dye)))


def patch_swap(draws: Draws, scene: Scene) -> Painting:
    """A patch cut out and put back turned by 90°, from another place of the same image."""
    y, x = spot(draws, scene)
    half_y, half_x = draws.integer(9, 20), draws.integer(9, 20)
    top, left = int(np.clip(y - half_y, 0, SIZE - 2 * half_y)), int(np.clip(x - half_x, 0, SIZE - 2 * half_x))
    from_top, from_left = draws.integer(0, SIZE - 2 * half_x), draws.integer(0, SIZE - 2 * half_y)
    patch = scene.image[from_top : from_top + 2 * half_x, from_left : from_left + 2 * half_y].swapaxes(0, 1)
    patch = patch[::-1] if draws.chance(0.5) else patch
    region = np.zeros((SIZE, SIZE), dtype=np.bool_)
    region[top : top + 2 * half_y, left : left + 2 * half_x] = True
    painted = scene.image.copy()
    painted[region] = (patch * draws.uniform(0.82, 1.12)).reshape(-1, 3)
    return region, painted


def missing_part(draws: Draws, scene: Scene) -> Painting:
    """A piece broken out of the edge of an object: what lies behind it is seen."""
    if scene.behind is None:
        raise ValueError("only objects can miss a part")
    inside = scene.support
    ring = inside & ~(np.roll(inside, 3, 0) & np.roll(inside, -3, 0) & np.roll(inside, 3, 1) & np.roll(inside, -3, 1))
    points = np.flatnonzero(ring)
    y, x = divmod(int(points[draws.integer(0, len(points))]), SIZE)
    depth = blob(draws, float(y), float(x), draws.uniform(10.0, 22.0), rough=0.3, slim=0.7)
    edge = 1.0 - smooth(depth / 0.12)
    return depth > 0.0, lerp(scene.behind, scene.image * 0.62, 0.8 * edge)


def dots(draws: Draws, scene: Scene) -> Painting:
    """A loose cluster of small specks of one colour."""
    y0, x0 = spot(draws, scene)
    ink = draws.choice(((28.0, 26.0, 26.0), (234.0, 230.0, 222.0), (164.0, 84.0, 36.0), (52.0, 82.0, 150.0)))
    y, x = pixel_grid(SIZE)
    depth = np.full((SIZE, SIZE), -100.0)
    spread, size = draws.uniform(12.0, 30.0), draws.uniform(1.8, 3.6)
    for _ in range(draws.integer(5, 14)):
        c, s = direction(draws, 2.0)
        away, radius = spread * draws.uniform(), size * draws.uniform(0.7, 1.5)
        dy, dx = y - (y0 + s * away), x - (x0 + c * away)
        depth = np.maximum(depth, radius - np.sqrt(dy * dy + dx * dx))
    strength = draws.uniform(0.55, 0.95) * np.clip(0.5 + 0.5 * depth, 0.5, 1.0)
    return depth > 0.0, lerp(scene.image, colour(*ink), strength)


def smear(draws: Draws, scene: Scene) -> Painting:
    """A wiped streak: the ground is dragged along one direction under a translucent film."""
    y0, x0 = spot(draws, scene)
    y, x = pixel_grid(SIZE)
    c, s = direction(draws)
    length, width = draws.uniform(26.0, 46.0), draws.uniform(6.0, 13.0)
    u, v = (c * (x - x0) + s * (y - y0)) / length, (c * (y - y0) - s * (x - x0)) / width
    streak = value_noise(draws, SIZE, 40.0)
    depth = 1.0 - u * u * u * u - v * v + 0.35 * streak + 0.25 * fractal_noise(draws, SIZE, 9.0, 2)
    dragged, reach = np.zeros_like(scene.image), 8
    rows, columns = np.arange(SIZE)[:, None], np.arange(SIZE)[None, :]
    for step in range(-reach, reach + 1):
        move_y, move_x = int(np.floor(step * 1.4 * s + 0.5)), int(np.floor(step * 1.4 * c + 0.5))
        dragged = dragged + scene.image[np.clip(rows + move_y, 0, SIZE - 1), np.clip(columns + move_x, 0, SIZE - 1)]
    film = draws.choice(((196.0, 192.0, 184.0), (70.0, 62.0, 54.0), (150.0, 132.0, 104.0)))
    wiped = lerp(dragged / (2.0 * reach + 1.0), colour(*film), np.clip(depth, 0.0, 1.0) * draws.uniform(0.3, 0.7))
    return depth > 0.0, lerp(scene.image, wiped, 0.35 + 0.65 * smooth(depth / 0.3))


DEFECTS: Final[dict[str, Callable[[Draws, Scene], Painting]]] = {
    "crack": crack,
    "dots": dots,
    "hole": hole,
    "missing_part": missing_part,
    "patch_swap": patch_swap,
    "scratch": scratch,
    "smear": smear,
    "stain": stain,
}
