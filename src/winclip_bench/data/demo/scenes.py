"""What a normal image of each category looks like: crops of photographs, and surfaces and objects made from noise."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

import numpy as np
from PIL import Image

from winclip_bench.data.demo.draws import (
    Draws,
    Field,
    Region,
    cell_noise,
    direction,
    fractal_noise,
    lerp,
    line_noise,
    pixel_grid,
    smooth,
    stretch,
    value_noise,
    wave,
)
from winclip_bench.errors import InputError

SIZE: Final = 160

# The photographs are 512×512. A 3×3 raster of cells gives every pool ground from several corners of the picture, and
# no crop crosses the border of its cell, so nothing that one pool shows is ever seen in another.
CELL: Final = 170
POOL_CELLS: Final[dict[str, tuple[tuple[int, int], ...]]] = {
    "fit": ((0, 0), (1, 1), (2, 1), (2, 2)),
    "train": ((0, 2), (1, 0)),
    "test": ((0, 1), (1, 2), (2, 0)),
}

# sha256 of the decoded pixels: another release of scikit-image must not change the data unnoticed.
PHOTOGRAPHS: Final = {
    "brick": "664a145c5253f0d66db1a12776785f0ea35a44cc7447ffc933f6d6118dc58643",
    "grass": "b18dae4c68bf850a7a7b28a29d1846c76be890665117b57fd125fe29c4d4ede6",
    "gravel": "3d51ad45f789cd8b98534b7af6bce774e499ead45421135afd757358c7230009",
    "ihc": "c5b3ef509a92f16d4c29be8cf0300fe75d53e13a3ce650159db932caea8dcc1b",
}


@dataclass(frozen=True)
class Scene:
    """A normal image before the camera: colours [SIZE, SIZE, 3] in 0–255 and where a defect may lie.

    behind  what is seen where a part of an object is missing; None for textures
    """

    image: Field
    support: Region
    behind: Field | None = None


def colour(*rgb: float) -> Field:
    """A colour that broadcasts over an image."""
    return np.array(rgb, dtype=np.float64)


def tinted(draws: Draws, base: Field, amount: float) -> Field:
    """The colour made lighter or darker by up to ±amount, and its channels apart by up to a quarter of that."""
    return base * (1.0 + amount * draws.uniform(-1.0, 1.0) + 0.25 * amount * (draws.units(3) * 2.0 - 1.0))


@cache
def photograph(name: str) -> Field:
    """One of the photographs in scikit-image's wheel, [512, 512] or [512, 512, 3] in 0–255."""
    source = files("skimage") / "data" / f"{name}.png"
    try:
        with source.open("rb") as stream, Image.open(stream) as picture:
            pixels = np.asarray(picture)
    except OSError as error:
        raise InputError(f"{source} of scikit-image cannot be read ({error}): install scikit-image again.") from error
    if hashlib.sha256(pixels.tobytes()).hexdigest() != PHOTOGRAPHS[name]:
        raise InputError(f"{source} is not the picture that the demo data are made from: install scikit-image 0.26.")
    pixels = pixels.astype(np.float64)
    pixels.flags.writeable = False
    return pixels


def crop_rectangle(draws: Draws, pool: str) -> tuple[int, int, int]:
    """Top, left and side of a square inside one of the pool's cells."""
    row, column = draws.choice(POOL_CELLS[pool])
    side = draws.integer(124, 158)
    return row * CELL + draws.integer(0, CELL - side + 1), column * CELL + draws.integer(0, CELL - side + 1), side


def crop(draws: Draws, pool: str, name: str, turns: bool) -> Field:
    """A crop of a photograph, mirrored at random and, where the texture has no upright, turned by 90°."""
    top, left, side = crop_rectangle(draws, pool)
    piece = photograph(name)[top : top + side, left : left + side]
    piece = piece[::-1] if draws.chance(0.5) else piece
    piece = piece[:, ::-1] if draws.chance(0.5) else piece
    piece = piece.swapaxes(0, 1) if draws.chance(0.5) and turns else piece
    return stretch(piece, SIZE)


def everywhere() -> Region:
    """The support of a texture."""
    return np.ones((SIZE, SIZE), dtype=np.bool_)


def brick(draws: Draws, pool: str) -> Scene:
    """Paving bricks with pale joints."""
    grey = crop(draws, pool, "brick", turns=False)
    clay, joint = tinted(draws, colour(150, 84, 62), 0.10), tinted(draws, colour(205, 198, 186), 0.04)
    level = np.clip((grey - 60.0) / 130.0, 0.0, 1.0)
    return Scene(lerp(clay * 0.75, joint, level), everywhere())


def grass(draws: Draws, pool: str) -> Scene:
    """A lawn."""
    grey = crop(draws, pool, "grass", turns=True)
    dark, light = tinted(draws, colour(18, 40, 14), 0.08), tinted(draws, colour(196, 214, 138), 0.05)
    return Scene(lerp(dark, light, np.clip((grey - 20.0) / 210.0, 0.0, 1.0)), everywhere())


def gravel(draws: Draws, pool: str) -> Scene:
    """Crushed stone."""
    grey = crop(draws, pool, "gravel", turns=True)
    dark, light = tinted(draws, colour(50, 48, 47), 0.06), tinted(draws, colour(212, 208, 200), 0.03)
    return Scene(lerp(dark, light, np.clip((grey - 20.0) / 220.0, 0.0, 1.0)), everywhere())


def tissue(draws: Draws, pool: str) -> Scene:
    """Stained tissue under a microscope."""
    return Scene(crop(draws, pool, "ihc", turns=True) * tinted(draws, colour(0.97, 0.97, 0.97), 0.02), everywhere())


def fabric(draws: Draws, pool: str) -> Scene:
    """Plain weave of thick yarn."""
    y, x = pixel_grid(SIZE)
    pitch = draws.uniform(0.95, 1.05)
    c, s = direction(draws, 0.05)
    bend = 1.6 * value_noise(draws, SIZE, 60.0)
    u = (c * x + s * y + bend) / (9.4 * pitch) + draws.uniform()
    v = (c * y - s * x + 1.6 * value_noise(draws, SIZE, 60.0)) / (6.8 * pitch) + draws.uniform()
    column, row = np.floor(u), np.floor(v)
    across, along = 2.0 * (u - column) - 1.0, 2.0 * (v - row) - 1.0
    warp_on_top = (column + row) - 2.0 * np.floor((column + row) / 2.0) < 0.5
    round_warp = (1.0 - 0.75 * across * across) * (1.0 - 0.45 * along * along)
    round_weft = (1.0 - 0.75 * along * along) * (1.0 - 0.45 * across * across)
    fuzz = 0.10 * value_noise(draws, SIZE, 1.7)
    warp = tinted(draws, colour(88, 112, 158), 0.08) * (1.0 + 0.07 * cell_noise(draws, u))[..., None]
    weft = tinted(draws, colour(150, 168, 196), 0.08) * (1.0 + 0.07 * cell_noise(draws, v))[..., None]
    shade = np.where(warp_on_top, round_warp, round_weft) * 0.85 + 0.15 + fuzz
    return Scene(np.where(warp_on_top[..., None], warp, weft) * shade[..., None], everywhere())


def wood(draws: Draws, pool: str) -> Scene:
    """A planed board, the grain along x."""
    y, _ = pixel_grid(SIZE)
    drift = 16.0 * value_noise(draws, SIZE, 70.0, 190.0) + 2.0 * value_noise(draws, SIZE, 12.0, 60.0)
    depth = (y + drift) / draws.uniform(11.0, 15.0)
    depth = depth + 0.9 * line_noise(draws, depth * 0.45)
    ring = depth - np.floor(depth)
    late = smooth((ring - 0.15) / 0.75) * (1.0 - smooth((ring - 0.9) / 0.1))
    late = late * (0.75 + 0.25 * line_noise(draws, np.floor(depth) + 0.5))
    fibre = value_noise(draws, SIZE, 1.5, 34.0) + 0.7 * value_noise(draws, SIZE, 1.1, 12.0)
    light, dark = tinted(draws, colour(206, 162, 110), 0.07), tinted(draws, colour(142, 94, 54), 0.08)
    board = lerp(light, dark, np.clip(0.85 * late, 0.0, 1.0))
    return Scene(board * (1.0 + 0.07 * fibre + 0.04 * value_noise(draws, SIZE, 50.0))[..., None], everywhere())


def placed(draws: Draws, shift: float, zoom: float) -> tuple[Field, Field]:
    """Coordinates (y, x) with the object's centre at the origin and its size jittered."""
    y, x = pixel_grid(SIZE)
    scale = 1.0 / draws.uniform(1.0 - zoom, 1.0 + zoom)
    middle = (SIZE - 1) / 2.0
    return (y - middle - draws.uniform(-shift, shift)) * scale, (x - middle - draws.uniform(-shift, shift)) * scale


def coverage(distance: Field) -> Field:
    """How much of a pixel lies inside an edge, from the signed distance in pixels (negative inside)."""
    return np.clip(0.5 - distance, 0.0, 1.0)


def shadowed(ground: Field, distance: Field, depth: float) -> Field:
    """The ground with the soft shadow of an object whose shifted signed distance is given."""
    return ground * (1.0 - depth * (1.0 - smooth((distance + 4.0) / 12.0)))[..., None]


def tile(draws: Draws, pool: str) -> Scene:
    """A glazed tile with a painted rosette, set in mortar."""
    y, x = placed(draws, 3.0, 0.03)
    c, s = direction(draws, 0.03)
    y, x = c * y - s * x, c * x + s * y
    square = np.maximum(np.abs(x), np.abs(y)) - 68.0
    radius = np.sqrt(x * x + y * y)
    diamond = np.abs(x) + np.abs(y)
    glaze = tinted(draws, colour(226, 222, 208), 0.03)
    paint = tinted(draws, colour(62, 92, 142), 0.07)
    accent = tinted(draws, colour(196, 150, 80), 0.06)
    petals = (x * x - y * y) * (x * x - y * y) / np.maximum(radius * radius * radius * radius, 1.0)
    flower = coverage(radius - 14.0 - 18.0 * petals)
    ring = coverage(np.abs(radius - 42.0) - 2.4)
    corner = coverage(112.0 - diamond)
    face = glaze * (1.0 + 0.035 * fractal_noise(draws, SIZE, 26.0))[..., None]
    wash = 0.82 + 0.12 * value_noise(draws, SIZE, 9.0)
    face = lerp(face, paint, np.clip(flower * wash, 0.0, 1.0))
    face = lerp(face, accent, coverage(radius - 7.0) * 0.9)
    face = lerp(face, paint, np.clip(ring * wash, 0.0, 1.0))
    face = lerp(face, paint, np.clip(corner * wash, 0.0, 1.0))
    face = lerp(face, accent, coverage(np.abs(diamond - 104.0) - 1.4) * 0.8)
    bevel = smooth((square + 5.0) / 5.0)
    lit = np.where(np.abs(x) > np.abs(y), -x, -y)
    face = face * (1.0 + 0.16 * bevel * np.clip(lit / 40.0, -1.0, 1.0))[..., None]
    grain = 0.10 * value_noise(draws, SIZE, 2.2) + 0.06 * fractal_noise(draws, SIZE, 20.0)
    mortar = tinted(draws, colour(128, 122, 114), 0.04) * (1.0 + grain)[..., None]
    return Scene(lerp(mortar, face, coverage(square)), square < -1.0, mortar * 0.86)


def washer(draws: Draws, pool: str) -> Scene:
    """A turned steel ring on a dark mat."""
    y, x = placed(draws, 7.0, 0.05)
    radius = np.sqrt(x * x + y * y)
    edge = np.maximum(radius - 60.0, 27.0 - radius)
    lx, ly = direction(draws, 1.0)
    facing = (x * lx + y * ly) / np.maximum(radius, 1.0)
    glint = facing * facing * facing * facing
    bevel_out, bevel_in = smooth((radius - 55.0) / 4.0), 1.0 - smooth((radius - 28.0) / 4.0)
    turning = line_noise(draws, radius * 1.3) * 0.05 + line_noise(draws, radius * 0.35) * 0.03
    slope = (-0.6 * x - 0.8 * y) / np.maximum(radius, 1.0)
    light = 0.60 + 0.26 * glint + turning + 0.20 * slope * (bevel_out - bevel_in)
    light = light + 0.02 * fractal_noise(draws, SIZE, 18.0)
    steel = tinted(draws, colour(206, 208, 212), 0.03) * light[..., None]
    mat = tinted(draws, colour(58, 62, 66), 0.06)
    mat = mat * (1.0 + 0.10 * value_noise(draws, SIZE, 1.8) + 0.05 * fractal_noise(draws, SIZE, 40.0))[..., None]
    cast = np.sqrt((x - 4.0) * (x - 4.0) + (y - 5.0) * (y - 5.0))
    mat = shadowed(mat, np.maximum(cast - 60.0, 27.0 - cast), 0.55)
    return Scene(lerp(mat, steel, coverage(edge)), edge < -0.5, mat)


def button(draws: Draws, pool: str) -> Scene:
    """A four-hole shirt button on linen."""
    y, x = placed(draws, 7.0, 0.05)
    c, s = direction(draws, 1.0)
    radius = np.sqrt(x * x + y * y)
    turned_y, turned_x = c * y - s * x, c * x + s * y
    hole_y, hole_x = np.abs(turned_y) - 13.0, np.abs(turned_x) - 13.0
    hole = np.sqrt(hole_x * hole_x + hole_y * hole_y) - 6.0
    slope = (-0.6 * x - 0.8 * y) / np.maximum(radius, 1.0)
    rim_up, rim_down = smooth((radius - 38.0) / 6.0), smooth((radius - 50.0) / 9.0)
    light = 0.86 - 0.22 * slope * rim_up * (1.0 - rim_down) + 0.24 * slope * rim_down
    light = light + 0.05 * (-0.6 * x - 0.8 * y) / 60.0
    light = light - 0.25 * (1.0 - smooth((hole + 0.5) / 3.0))
    swirl = fractal_noise(draws, SIZE, 34.0)
    marble = 0.5 + 0.5 * wave((turned_x + 22.0 * swirl) / 64.0)
    body = tinted(draws, colour(146, 54, 48), 0.12)
    body = lerp(body, body * 1.28, marble) * light[..., None]
    gloss_x, gloss_y = x + 27.0, y + 36.0
    gloss = 1.0 - smooth(np.sqrt(gloss_x * gloss_x + gloss_y * gloss_y) / 17.0)
    body = lerp(body, colour(255, 250, 244), 0.30 * gloss)
    pixel_y, pixel_x = pixel_grid(SIZE)
    thread = wave(pixel_x / 4.0 + 0.25 * value_noise(draws, SIZE, 30.0)) + wave(
        pixel_y / 4.0 + 0.25 * value_noise(draws, SIZE, 30.0)
    )
    linen = tinted(draws, colour(202, 196, 180), 0.03)
    linen = linen * (1.0 + 0.045 * thread + 0.05 * value_noise(draws, SIZE, 1.5, 14.0))[..., None]
    cast = np.sqrt((x - 3.0) * (x - 3.0) + (y - 4.0) * (y - 4.0)) - 58.0
    ground = shadowed(linen, cast, 0.45)
    solid = coverage(radius - 58.0) * coverage(-hole)
    through = lerp(ground, linen * 0.30, coverage(hole - 4.0))
    return Scene(lerp(through, body, solid), (radius < 57.5) & (hole > 0.5), ground)


SCENES: Final[dict[str, Callable[[Draws, str], Scene]]] = {
    "brick": brick,
    "button": button,
    "fabric": fabric,
    "grass": grass,
    "gravel": gravel,
    "tile": tile,
    "tissue": tissue,
    "washer": washer,
    "wood": wood,
}
