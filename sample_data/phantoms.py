"""Draws made-up bodies: chest films, chest slices, belly volumes and skin photographs.

Every picture is a sum of soft shapes on a grid whose sides run from -1 to 1, y pointing down.
Each function takes the random stream it draws from, so that equal streams give equal pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.special import expit

Array = NDArray[np.float64]
Length = Array | float
Random = np.random.Generator

PADDING = -2000  # stored value outside a CT scanner's round field of view


def grid(*shape: int) -> tuple[Array, ...]:
    """Coordinates of the pixel centres, the last axis first: x, y, and z for three axes."""
    axes = [(np.arange(size) + 0.5) / size * 2 - 1 for size in shape]
    return tuple(reversed(np.meshgrid(*axes, indexing="ij")))


def inside(signed: Array, softness: float) -> Array:
    """A soft mask: 1 where `signed` is well above 0, 0 well below, `softness` wide between."""
    return np.asarray(expit(signed / softness))


def ellipse(x: Array, y: Array, centre: tuple[float, float], radii: tuple[Length, Length]) -> Array:
    """How far within an ellipse: 1 in its centre, 0 on its border, negative outside."""
    return 1 - np.hypot((x - centre[0]) / radii[0], (y - centre[1]) / radii[1])


def blend(picture: Array, mask: Array, value: Array | float) -> Array:
    """`value` painted over `picture` where the mask is 1."""
    return picture * (1 - mask) + value * mask


def smooth_noise(random: Random, shape: tuple[int, ...], sigma: float) -> Array:
    """Noise with mean 0, variance 1 and a grain of `sigma` pixels."""
    noise = gaussian_filter(random.standard_normal(shape), sigma, mode="wrap")
    return np.asarray((noise - noise.mean()) / noise.std())


def spots(random: Random, allowed: NDArray[np.bool_], apart: int = 8) -> list[tuple[int, int]]:
    """One to three pixels of `allowed`, at least `apart` rows or columns from each other."""
    chosen: list[tuple[int, int]] = []
    places = random.permutation(np.argwhere(allowed))
    for row, column in places[: 40 * int(random.integers(1, 4)) : 40]:
        if all(max(abs(row - r), abs(column - c)) >= apart for r, c in chosen):
            chosen.append((int(row), int(column)))
    return chosen


def balls(
    random: Random, allowed: NDArray[np.bool_], diameters: tuple[float, float] = (4.5, 8)
) -> Array:
    """A soft mask of one to three round lesions, their diameters in pixels."""
    rows, columns = np.indices(allowed.shape)
    mask = np.zeros(allowed.shape)
    for row, column in spots(random, allowed):
        radius = random.uniform(*diameters) / 2
        distance = np.hypot(rows - row, columns - column)
        mask = np.maximum(mask, inside(radius - distance, 0.45))
    return mask


@dataclass(frozen=True)
class Chest:
    """One patient's build: what all films of a patient share. Lengths are in half image sides."""

    width: float
    lung_top: float
    diaphragm: float
    heart: float
    rib_spacing: float
    rib_slope: float
    rib_strength: float
    fat: float

    @classmethod
    def draw(cls, random: Random) -> Chest:
        """A build at random."""
        return cls(
            width=random.uniform(0.88, 1.0),
            lung_top=random.uniform(-0.84, -0.74),
            diaphragm=random.uniform(0.4, 0.58),
            heart=random.uniform(0.85, 1.15),
            rib_spacing=random.uniform(0.17, 0.22),
            rib_slope=random.uniform(0.25, 0.45),
            rib_strength=random.uniform(0.05, 0.1),
            fat=random.uniform(0.0, 0.08),
        )


def _posed(random: Random, size: int) -> tuple[Array, Array]:
    """Coordinates of a film: the patient stands a little turned, off centre, perhaps mirrored."""
    x, y = grid(size, size)
    angle = np.deg2rad(random.uniform(-5, 5))
    zoom = random.uniform(0.95, 1.06)
    x, y = x - random.uniform(-0.06, 0.06), y - random.uniform(-0.06, 0.06)
    x, y = (
        (x * np.cos(angle) + y * np.sin(angle)) * zoom,
        (y * np.cos(angle) - x * np.sin(angle)) * zoom,
    )
    return (-x if random.random() < 0.3 else x), y


def _lungs(chest: Chest, x: Array, y: Array) -> tuple[Array, Array]:
    """Soft masks of the two lung fields, and where the diaphragm runs."""
    side = np.abs(x) / chest.width
    dome = chest.diaphragm + 0.9 * (side - 0.4) ** 2 - np.where(x < 0, 0.06, 0.0)
    bottom = inside(dome - y, 0.02)
    middle = (chest.lung_top + 0.8) / 2
    tall = 0.8 - middle
    outline = 1 - ((side - 0.42) / 0.36) ** 2 - np.abs((y - middle) / tall) ** 3
    return inside(outline, 0.06) * bottom, dome


def _ribs(chest: Chest, x: Array, y: Array) -> Array:
    """Back ribs falling outwards, and fainter front ribs falling inwards."""
    side = np.abs(x) / chest.width
    back = np.cos(2 * np.pi * (y - chest.rib_slope * side**1.6) / chest.rib_spacing)
    front = np.cos(2 * np.pi * (y + 0.6 * side - 0.05) / (chest.rib_spacing * 1.15))
    cage = inside(0.93 - side, 0.02) * inside(y - chest.lung_top - 0.02, 0.03)
    cage *= inside(0.75 - y, 0.08) * inside(side - 0.1, 0.03)
    return chest.rib_strength * cage * (inside(back - 0.35, 0.15) + 0.45 * inside(front - 0.5, 0.2))


def _effusion_film(random: Random, chest: Chest, x: Array, y: Array, dome: Array) -> Array:
    """A soft mask of fluid over one diaphragm, creeping up the side wall: the meniscus."""
    side = x * (1 if random.random() < 0.5 else -1) / chest.width
    depth = random.uniform(0.2, 0.5)
    creep = random.uniform(0.35, 0.6) * np.clip((side - 0.3) / 0.5, 0, 1) ** 2
    level = chest.diaphragm - depth - creep + 0.1
    fluid = inside(y - level, 0.035) * inside(side - 0.1, 0.03)
    return fluid * inside(dome + 0.05 - y, 0.03)


def radiograph(random: Random, chest: Chest, label: str, size: int = 64) -> NDArray[np.uint8]:
    """A chest film.

    Args:
        random: the film's own stream.
        chest: the patient's build.
        label: `normal`, `nodule` or `effusion`.
        size: side in pixels.

    Returns:
        (size, size) grey levels, dense is bright.
    """
    x, y = _posed(random, size)
    side = np.abs(x) / chest.width
    neck = -1.15 + 0.2 * inside(side - 0.25, 0.03) + 0.4 * np.clip(side - 0.25, 0, 1) ** 2
    body = inside(1.12 - side, 0.02) * inside(y - neck, 0.03)
    film = (0.6 + chest.fat + 0.08 * y) * body
    lungs, dome = _lungs(chest, x, y)
    vessels = smooth_noise(random, x.shape, 1.1) * np.exp(-np.abs(side - 0.2) / 0.3)
    air = 0.22 + 0.06 * side + chest.fat + 0.035 * vessels
    film = blend(film, lungs, air)
    heart = inside(ellipse(x, y, (0.13, 0.26), (0.36 * chest.heart, 0.34 * chest.heart)), 0.06)
    trunk = inside(0.15 + 0.04 * np.cos(5 * y) - side, 0.02) * body
    clear = lungs * (1 - heart) * (1 - trunk)
    film = blend(film, np.maximum(heart * body, trunk) * inside(dome + 0.1 - y, 0.04), 0.7)
    spine = inside(0.07 - np.abs(x), 0.02) * (1 + 0.4 * np.cos(2 * np.pi * y / 0.16))
    film += 0.05 * spine * body
    collar = np.abs(y - chest.lung_top - 0.08 + 0.22 * (side - 0.2)) < 0.035
    film += 0.09 * gaussian_filter(collar * (side < 0.75) * (side > 0.1), 0.7) * body
    if label == "effusion":
        fluid = _effusion_film(random, chest, x, y, dome)
        film = blend(film, fluid * body, 0.66 + chest.fat)
    film += _ribs(chest, x, y)
    if label == "nodule":
        deep = gaussian_filter(clear, 1.5) > 0.85
        film += random.uniform(0.26, 0.38) * balls(random, deep)
    film += 0.02 * smooth_noise(random, x.shape, 6) * body
    return _expose(random, gaussian_filter(film, 0.35))


def _expose(random: Random, film: Array) -> NDArray[np.uint8]:
    """Grey levels of a film under a random exposure, with quantum noise."""
    film = np.clip(film, 0, 1) ** random.uniform(0.75, 1.35)
    film = film * random.uniform(0.8, 1.15) + random.uniform(-0.04, 0.1)
    film += random.uniform(0.008, 0.02) * random.standard_normal(film.shape)
    return np.clip(np.rint(film * 255), 0, 255).astype(np.uint8)


def chest_slice(random: Random, chest: Chest, label: str, size: int = 64) -> NDArray[np.int16]:
    """An axial CT slice of a patient on the back, the spine below.

    Args:
        random: the slice's own stream.
        chest: the patient's build.
        label: `normal`, `nodule` or `effusion`.
        size: side in pixels.

    Returns:
        (size, size) Hounsfield units within -1024..2047, `PADDING` outside the round field.
    """
    x, y = grid(size, size)
    field = np.hypot(x, y) > 1
    x, y = x - random.uniform(-0.04, 0.04), y - random.uniform(-0.05, 0.05)
    wide, deep = 0.86 * chest.width, random.uniform(0.6, 0.68)
    skin = ellipse(x, y, (0, 0), (wide, deep))
    wall = 0.07 + chest.fat
    slice_ = blend(np.full(x.shape, -1000.0), inside(skin, 0.02), -95.0)
    muscle = inside(skin - wall, 0.02)
    slice_ = blend(slice_, muscle, 45.0)
    slice_ = _add_bones(random, slice_, x, y, skin - wall, (wide, deep))
    lungs = _lung_sections(random, chest, x, y, (wide, deep))
    texture = 25 * smooth_noise(random, x.shape, 1.2)
    vessels = 320 * inside(smooth_noise(random, x.shape, 0.9) - 2.3, 0.2)
    if label == "effusion":
        slice_ = blend(slice_, lungs, 12.0)
        lungs *= 1 - _effusion_section(random, x, y, deep)
    slice_ = blend(slice_, lungs, -850 + texture + vessels + 60 * y)
    if label == "nodule":
        allowed = gaussian_filter(lungs, 1.2) > 0.9
        slice_ = blend(slice_, balls(random, allowed), random.uniform(20, 80))
    slice_ = gaussian_filter(slice_, 0.4) + random.uniform(8, 18) * random.standard_normal(x.shape)
    slice_[field] = PADDING
    return np.rint(np.where(field, slice_, np.clip(slice_, -1024, 2047))).astype(np.int16)


def _lung_sections(
    random: Random, chest: Chest, x: Array, y: Array, body: tuple[float, float]
) -> Array:
    """A soft mask of both lungs, the heart and the spine left out."""
    wide, deep = body
    shift = random.uniform(-0.03, 0.03)
    lungs = np.maximum(
        inside(ellipse(x, y, (-0.44 * wide, shift), (0.33 * wide, 0.68 * deep)), 0.04),
        inside(ellipse(x, y, (0.44 * wide, shift), (0.33 * wide, 0.68 * deep)), 0.04),
    )
    heart = ellipse(x, y, (0.1, -0.1), (0.3 * chest.heart, 0.24 * chest.heart))
    return lungs * (1 - inside(heart * random.uniform(0.8, 1.2), 0.04))


def _add_bones(
    random: Random, slice_: Array, x: Array, y: Array, depth: Array, body: tuple[float, float]
) -> Array:
    """A vertebra with its canal, the breastbone, and ribs cut across around the cage."""
    wide, deep = body
    turn = np.arctan2(y / deep, x / wide)
    beat = np.cos(turn * int(random.integers(9, 13)) + random.uniform(0, 2 * np.pi))
    ribs = inside(0.05 - np.abs(depth - 0.06), 0.015) * inside(beat - 0.1, 0.15)
    slice_ = blend(slice_, ribs, 420.0)
    breastbone = inside(ellipse(x, y, (0, -0.78 * deep), (0.12, 0.05)), 0.1)
    slice_ = blend(slice_, breastbone, 350.0)
    vertebra = ellipse(x, y, (0, 0.55 * deep), (0.15, 0.12))
    slice_ = blend(slice_, inside(vertebra, 0.08), 520 - 300 * np.clip(vertebra, 0, 1))
    arch = inside(ellipse(x, y, (0, 0.78 * deep), (0.14, 0.1)), 0.1)
    slice_ = blend(slice_, arch, 480.0)
    return blend(slice_, inside(ellipse(x, y, (0, 0.76 * deep), (0.06, 0.05)), 0.15), 35.0)


def _effusion_section(random: Random, x: Array, y: Array, deep: float) -> Array:
    """A soft mask of fluid that lies in the back of one side, with a hollow surface."""
    side = x if random.random() < 0.5 else -x
    level = deep * random.uniform(0.1, 0.4) - 0.8 * (side - 0.42) ** 2
    return inside(y - level, 0.04) * inside(side, 0.02)


def belly_volume(
    random: Random, label: str, shape: tuple[int, int, int] = (40, 40, 12)
) -> tuple[Array, NDArray[np.uint8]]:
    """A belly with one bright organ.

    Args:
        random: the volume's own stream.
        label: `normal`, `nodule` (dark balls in the organ) or `effusion` (fluid around it).
        shape: voxels along x, y and z.

    Returns:
        The signal, at least 0 and about 900 at most, and a mask of the organ, 1 or 0; both of
        `shape`.
    """
    z, y, x = grid(*shape)  # the first axis of a volume is x
    taper = 1 - 0.06 * z**2
    body = inside(ellipse(x, y, (0, 0), (0.9 * taper, 0.72 * taper)), 0.03)
    volume = blend(np.full(shape, 12.0), body, 240 + 40 * smooth_noise(random, shape, 3))
    rim = body * (1 - inside(ellipse(x, y, (0, 0), (0.8 * taper, 0.62 * taper)), 0.03))
    volume = blend(volume, rim, 420.0)
    volume = blend(volume, inside(ellipse(x, y, (0, 0.42), (0.13, 0.12)), 0.1), 130.0)
    depth = _organ_depth(random, x, y, z)
    organ = inside(depth, 0.05)
    if label == "effusion":
        fluid = inside(depth + random.uniform(0.25, 0.4), 0.05) * body * (1 - rim)
        volume = blend(volume, fluid, 430.0)
    volume = blend(volume, organ, 640 + 25 * smooth_noise(random, shape, 1.5))
    if label == "nodule":
        volume = blend(volume, _organ_balls(random, depth > 0.35), 400.0)
    coil = 1 + 0.1 * random.uniform(-1, 1) * x + 0.1 * random.uniform(-1, 1) * y
    noise = 14 * random.standard_normal((2, *shape))
    return np.hypot(volume * coil + noise[0], noise[1]), (depth > 0).astype(np.uint8)


def _organ_depth(random: Random, x: Array, y: Array, z: Array) -> Array:
    """How far within a bumpy ellipsoid: positive inside."""
    centre = random.uniform(-0.4, -0.2), random.uniform(-0.15, 0.05), random.uniform(-0.2, 0.2)
    radii = random.uniform(0.32, 0.42), random.uniform(0.3, 0.4), random.uniform(0.65, 0.85)
    scaled = [(axis - c) / r for axis, c, r in zip((x, y, z), centre, radii, strict=True)]
    return 1 - np.sqrt(sum(axis**2 for axis in scaled)) + 0.12 * smooth_noise(random, x.shape, 4)


def _organ_balls(random: Random, allowed: NDArray[np.bool_]) -> Array:
    """A soft mask of one to three balls of about 5 voxels, flattened along z."""
    indices = np.indices(allowed.shape)
    mask = np.zeros(allowed.shape)
    places = random.permutation(np.argwhere(allowed))[:: max(1, int(allowed.sum()) // 3)]
    for place in places[: int(random.integers(1, 4))]:
        i, j, k = (axis - int(at) for axis, at in zip(indices, place, strict=True))
        mask = np.maximum(mask, inside(2.6 - np.sqrt(i**2 + j**2 + (2 * k) ** 2), 0.3))
    return mask


def skin_photo(random: Random, label: str, size: int = 96) -> NDArray[np.uint8]:
    """A close photograph of skin.

    Args:
        random: the photograph's own stream.
        label: `normal`, `nodule` (a raised bright spot) or `effusion` (a diffuse red patch).
        size: side in pixels.

    Returns:
        (size, size, 3) red, green and blue.
    """
    x, y = grid(size, size)
    tone = np.array([[232, 190, 165], [205, 155, 125], [160, 112, 84]])[int(random.integers(3))]
    relief = 0.6 * smooth_noise(random, x.shape, 1.2) + smooth_noise(random, x.shape, 12)
    photo = tone[None, None] * (1 + 0.025 * relief[..., None])
    centre = random.uniform(-0.25, 0.25), random.uniform(-0.25, 0.25)
    ragged = 0.08 * smooth_noise(random, x.shape, 7)
    if label == "effusion":
        radii = random.uniform(0.5, 0.7), random.uniform(0.45, 0.65)
        patch = inside(ellipse(x, y, centre, radii) + 2.5 * ragged, 0.12)[..., None]
        photo = blend(photo, 0.75 * patch, photo * np.array([1.0, 0.66, 0.66]))
    if label == "nodule":
        photo = _add_dome(random, photo, x, y, centre, ragged)
    photo *= (1.04 - 0.22 * (x**2 + y**2))[..., None]
    photo = _add_hairs(random, photo, x, y)
    photo += 2 * random.standard_normal(photo.shape)
    return np.clip(np.rint(photo), 0, 255).astype(np.uint8)


def _add_dome(
    random: Random, photo: Array, x: Array, y: Array, centre: tuple[float, float], ragged: Array
) -> Array:
    """A pearly dome lit from above left, with its shadow and a highlight."""
    radius = random.uniform(0.3, 0.42)
    depth = ellipse(x, y, centre, (radius, radius * random.uniform(0.85, 1.15))) + ragged
    shadow = inside(ellipse(x, y, (centre[0] + 0.07, centre[1] + 0.07), (radius, radius)), 0.1)
    photo = photo * (1 - 0.2 * shadow[..., None])
    light = -(x - centre[0]) - (y - centre[1])
    pearly = 0.45 * photo + 0.55 * np.array([250, 205, 195])
    photo = blend(photo, inside(depth, 0.06)[..., None], pearly * (1 + 0.3 * light[..., None]))
    gleam = ellipse(x, y, (centre[0] - 0.3 * radius, centre[1] - 0.35 * radius), (0.08, 0.05))
    return blend(photo, 0.8 * inside(gleam, 0.3)[..., None], 255.0)


def _add_hairs(random: Random, photo: Array, x: Array, y: Array) -> Array:
    """Up to four thin, bent, dark hairs."""
    for _ in range(int(random.integers(0, 5))):
        angle, offset = random.uniform(0, np.pi), random.uniform(-0.7, 0.7)
        along = x * np.cos(angle) + y * np.sin(angle)
        across = y * np.cos(angle) - x * np.sin(angle) - offset
        hair = inside(0.012 - np.abs(across - random.uniform(-0.3, 0.3) * along**2), 0.006)
        photo = blend(photo, 0.7 * hair[..., None], np.array([60.0, 45.0, 38.0]))
    return photo
