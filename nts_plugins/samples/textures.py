# SPDX-License-Identifier: Apache-2.0
"""Textures: photographs, and patterns made of noise. All repeat without a seam unless they say otherwise."""

from functools import lru_cache
from typing import Sequence, Tuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import map_coordinates

from nts_plugins.samples.color import to_linear
from nts_plugins.samples.photographs import load_photograph
from nts_plugins.samples.scene import Texture

Color = Sequence[float]
"""sRGB in [0, 1], as one would name a colour. A tuple, where the texture is remembered."""

remembered = lru_cache(maxsize=64)
"""Scenes share textures: one for all frames, and the same ones for the next scene of the same seed."""


def noise(shape: Tuple[int, ...], smoothness: float, seed: int, stretch: Sequence[float] = ()) -> NDArray[np.float32]:
    """Periodic noise with a power-law spectrum, mean 0 and standard deviation 1.

    Args:
        shape: of the result, any number of axes.
        smoothness: exponent of the amplitude spectrum: 0 white, 1 clouds with grain, 2 soft clouds.
        seed: of the noise.
        stretch: per axis, how many times slower the noise changes along it.
    """
    white = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    square = np.zeros((), np.float32)
    for k, n in enumerate(shape):
        frequencies = fft.rfftfreq(n) if k == len(shape) - 1 else fft.fftfreq(n)
        along = (frequencies * n * (stretch[k] if stretch else 1.0)).astype(np.float32) ** 2
        square = square + along.reshape([-1 if axis == k else 1 for axis in range(len(shape))])
    square.flat[0] = np.inf
    spectrum = np.asarray(fft.rfftn(white)) * square ** np.float32(-smoothness / 2.0)
    field = np.asarray(fft.irfftn(spectrum, shape), np.float32)
    return np.asarray(field / field.std(), np.float32)


def mix(low: Color, high: Color, part: NDArray) -> NDArray[np.float32]:
    """Blend two sRGB colours in linear light; ``part`` [...] is clipped to [0, 1]. Returns [..., 3]."""
    start, end = to_linear(low), to_linear(high)
    return np.asarray(start + (end - start) * np.clip(part, 0.0, 1.0).astype(np.float32)[..., None], np.float32)


@remembered
def photograph(name: str) -> Texture:
    """A photograph as it is; it does not repeat."""
    return Texture(to_linear(load_photograph(name)), repeat=False)


@remembered
def tinted(name: str, low: Color, high: Color) -> Texture:
    """A grey photograph between two colours, mirrored so that it repeats."""
    grey = load_photograph(name)[..., 0].astype(np.float32) / 255.0
    part = (grey - grey.min()) / (grey.max() - grey.min())
    picture = mix(low, high, part)
    picture = np.concatenate([picture, picture[:, ::-1]], axis=1)
    return Texture(np.concatenate([picture, picture[::-1]], axis=0))


@remembered
def plain(color: Color) -> Texture:
    """One colour."""
    return Texture(to_linear(color).reshape(1, 1, 3))


@remembered
def plaster(low: Color, high: Color, seed: int, size: int = 512) -> Texture:
    """Rough paint: clouds and grain between two colours."""
    part = 0.5 + 0.18 * noise((size, size), 1.1, seed) + 0.12 * noise((size, size), 0.3, seed + 1)
    return Texture(mix(low, high, part))


@remembered
def bricks(seed: int, size: int = 1024, rows: int = 16, columns: int = 6) -> Texture:
    """Running bond: every brick has a colour of its own, mortar between."""
    y, x = np.mgrid[0:size, 0:size] / size
    row = np.floor(y * rows).astype(int)
    along = x * columns + 0.5 * (row % 2)
    column = np.floor(along).astype(int) % columns
    tone = np.random.default_rng(seed).uniform(0.0, 1.0, (rows, columns))[row, column]
    grain = noise((size, size), 0.8, seed + 1)
    wobble = 0.004 * noise((size, size), 1.5, seed + 2)
    edge_y = np.minimum(y * rows % 1.0, 1.0 - y * rows % 1.0) / rows + wobble
    edge_x = np.minimum(along % 1.0, 1.0 - along % 1.0) / columns + wobble
    face = mix((0.45, 0.22, 0.17), (0.76, 0.47, 0.36), tone * 0.8 + 0.12 * grain + 0.1)
    mortar = mix((0.62, 0.59, 0.54), (0.78, 0.75, 0.70), 0.5 + 0.2 * grain)
    inside = np.clip((np.minimum(edge_x, edge_y) - 0.0045) / 0.003, 0.0, 1.0)[..., None].astype(np.float32)
    return Texture(mortar * (1.0 - inside) + face * inside)


@remembered
def parquet(seed: int, size: int = 1024, blocks: int = 4, strips: int = 4) -> Texture:
    """Squares of wooden strips, every other square turned by a quarter. ``blocks`` must be even."""
    y, x = np.mgrid[0:size, 0:size] / size * blocks
    turned = (np.floor(x) + np.floor(y)) % 2 == 1
    across = np.where(turned, x, y) % 1.0 * strips
    strip = np.floor(across).astype(int)
    rng = np.random.default_rng(seed)
    tone = rng.uniform(0.0, 1.0, (blocks, blocks, strips))[np.floor(y).astype(int), np.floor(x).astype(int), strip]
    grain = noise((size, size), 0.9, seed + 1, (1.0, 0.12))
    grain = np.where(turned, grain.T, grain)
    wood = mix((0.44, 0.27, 0.15), (0.80, 0.58, 0.36), 0.15 + 0.6 * tone + 0.14 * grain)
    along = np.where(turned, y, x) % 1.0 * strips
    gap = np.minimum(np.minimum(across % 1.0, 1.0 - across % 1.0), np.minimum(along, strips - along))
    seam = np.clip(gap / 0.035, 0.35, 1.0)[..., None].astype(np.float32)
    return Texture(wood * seam)


@remembered
def boards(low: Color, high: Color, seed: int, count: int = 8, size: int = 512) -> Texture:
    """Painted or bare boards side by side, running along the picture's height."""
    _, x = np.mgrid[0:size, 0:size] / size * count
    board = np.floor(x).astype(int)
    tone = np.random.default_rng(seed).uniform(0.2, 0.8, count)[board]
    grain = noise((size, size), 0.9, seed + 1, (0.1, 1.0))
    seam = np.clip(np.minimum(x % 1.0, 1.0 - x % 1.0) / 0.04, 0.4, 1.0)[..., None].astype(np.float32)
    return Texture(mix(low, high, tone + 0.18 * grain) * seam)


@remembered
def wallpaper(low: Color, high: Color, seed: int, size: int = 512) -> Texture:
    """Printed flowers in a net of waving lines, on rough paper."""
    y, x = np.mgrid[0:size, 0:size] / size * 2.0 * np.pi
    net = np.minimum(np.abs(np.sin(x + 0.7 * np.sin(2 * y))), np.abs(np.sin(x - 0.7 * np.sin(2 * y))))
    flowers = np.zeros((size, size))
    for centre_x, centre_y in ((0.0, np.pi / 2), (0.0, 3 * np.pi / 2), (np.pi / 2, 0.0), (np.pi / 2, np.pi)):
        # The pattern repeats after half the width, so distances are taken on a circle of that length.
        right = np.arcsin(np.clip(np.sin(x - centre_x), -1.0, 1.0))
        down = np.angle(np.exp(1j * (y - centre_y)))
        petals = 0.42 + 0.14 * np.cos(6.0 * np.arctan2(down, right))
        flowers = np.maximum(flowers, np.clip((petals - np.hypot(right, down)) / 0.05, 0.0, 1.0))
    lines = np.clip((0.13 - net) / 0.05, 0.0, 1.0)
    part = np.maximum(flowers, 0.8 * lines)
    return Texture(mix(low, high, 0.1 + 0.8 * part + 0.07 * noise((size, size), 0.4, seed)))


@remembered
def rug(seed: int, size: int = 512) -> Texture:
    """A rug with borders and a field of diamonds; it does not repeat."""
    y, x = np.mgrid[0:size, 0:size] / size
    edge = np.minimum(np.minimum(x, 1.0 - x), np.minimum(y, 1.0 - y))
    colors = np.array(
        [to_linear(c) for c in ((0.55, 0.12, 0.13), (0.13, 0.19, 0.36), (0.87, 0.79, 0.62), (0.72, 0.42, 0.16))]
    )
    u, v = x * 10.0, y * 10.0
    diamond = np.abs(u % 1.0 - 0.5) + np.abs(v % 1.0 - 0.5)
    cell = (np.floor(u) + np.floor(v)).astype(int) % 2
    index = np.where(diamond < 0.2, 2, np.where(diamond < 0.36, np.where(cell == 0, 3, 1), 0))
    band = np.floor(edge * 40.0).astype(int)
    teeth = (np.floor((x + y) * 32.0) % 2).astype(int)
    index = np.where(band == 0, 1, np.where(band == 1, 2, np.where(band == 2, np.where(teeth == 0, 3, 1), index)))
    index = np.where(band == 3, 2, index)
    weave = 1.0 + 0.10 * noise((size, size), 0.2, seed) + 0.05 * np.sin(x * size * np.pi / 2.0)
    return Texture((colors[index] * np.clip(weave, 0.6, 1.4)[..., None]).astype(np.float32).clip(0, 1), repeat=False)


@remembered
def mosaic(colors: Sequence[Color], seed: int, count: int = 16, size: int = 512) -> Texture:
    """Little square stones, each of one of the colours."""
    y, x = np.mgrid[0:size, 0:size] / size * count
    rng = np.random.default_rng(seed)
    pick = rng.integers(0, len(colors), (count, count))[y.astype(int), x.astype(int)]
    tone = rng.uniform(0.75, 1.0, (count, count))[y.astype(int), x.astype(int)]
    gap = np.minimum(np.minimum(x % 1, 1 - x % 1), np.minimum(y % 1, 1 - y % 1))
    inside = np.clip((gap - 0.04) / 0.05, 0.0, 1.0)[..., None]
    stones = np.array([to_linear(color) for color in colors])[pick] * tone[..., None]
    return Texture((to_linear((0.8, 0.78, 0.74)) * 0.6 * (1 - inside) + stones * inside).astype(np.float32))


@remembered
def crate(seed: int, size: int = 256) -> Texture:
    """One side of a wooden crate: planks in a frame with a brace; it does not repeat."""
    y, x = np.mgrid[0:size, 0:size] / size
    planks = boards((0.50, 0.34, 0.18), (0.82, 0.63, 0.40), seed, 5, size).texels
    frame = boards((0.40, 0.26, 0.13), (0.68, 0.49, 0.29), seed + 5, 5, size).texels
    edge = np.minimum(np.minimum(x, 1 - x), np.minimum(y, 1 - y))
    brace = np.abs(x - y) < 0.075
    picture = np.where((brace | (edge < 0.11))[..., None], frame, planks)
    line = (np.abs(edge - 0.11) < 0.008) | ((np.abs(np.abs(x - y) - 0.075) < 0.008) & (edge > 0.11))
    return Texture(np.where(line[..., None], picture * 0.35, picture).astype(np.float32), repeat=False)


def _on_sphere(size: int) -> NDArray[np.float64]:
    """[3, size, 2 size] unit vectors of a map of the globe."""
    polar = (np.arange(size)[:, None] + 0.5) / size * np.pi
    around = (np.arange(2 * size)[None] + 0.5) / size * np.pi - np.pi
    flat = np.sin(polar)
    parts = (flat * np.cos(around), flat * np.sin(around), np.cos(polar) + 0.0 * around)
    return np.stack(parts).astype(np.float64)


def _sphere_noise(size: int, smoothness: float, seed: int, scale: float = 12.0) -> NDArray[np.float64]:
    """Noise on a map of the globe, without a seam and without pinched poles: it is cut out of a block of noise."""
    block = noise((64, 64, 64), smoothness, seed)
    places = 32.0 + scale * _on_sphere(size)
    return np.asarray(map_coordinates(block, places, order=3, mode="grid-wrap"), np.float64)


@remembered
def marble(low: Color, high: Color, seed: int, size: int = 256) -> Texture:
    """Veined stone for a sphere."""
    bend = _sphere_noise(size, 1.6, seed, 10.0)
    x, y, z = _on_sphere(size)
    veins = np.abs(np.sin(4.0 * (x + 0.6 * y + 0.8 * z) + 1.8 * bend)) ** 0.35
    return Texture(mix(low, high, 0.05 + 0.9 * veins + 0.06 * _sphere_noise(size, 0.8, seed + 1, 24.0)))


@remembered
def globe(seed: int, size: int = 512) -> Texture:
    """Seas, land, mountains and ice for a sphere."""
    height = _sphere_noise(size, 2.0, seed, 16.0) + 0.25 * _sphere_noise(size, 1.2, seed + 1, 28.0)
    latitude = np.abs(_on_sphere(size)[2])
    sea = mix((0.05, 0.16, 0.38), (0.18, 0.47, 0.66), 0.8 + 0.5 * height)
    land = mix((0.24, 0.42, 0.16), (0.72, 0.60, 0.36), 0.6 * height + 0.1)
    picture = np.where((height > 0.1)[..., None], land, sea)
    lines = np.abs(np.sin(6.0 * np.arcsin(np.clip(_on_sphere(size)[2], -1, 1)))) < 0.03
    picture = np.where(lines[..., None], picture * 0.7, picture)
    ice = (latitude + 0.05 * height > 0.9)[..., None]
    return Texture(np.where(ice, to_linear((0.93, 0.95, 0.96)), picture).astype(np.float32))


@remembered
def beach_ball(size: int = 256) -> Texture:
    """Coloured wedges between white caps, for a sphere."""
    colors = np.array(
        [to_linear(c) for c in ((0.85, 0.15, 0.14), (0.95, 0.93, 0.88), (0.12, 0.35, 0.70), (0.96, 0.75, 0.12))]
    )
    v, u = np.mgrid[0:size, 0 : 2 * size] / size
    wedge = (np.floor(u * 4.0) % 4).astype(int)
    caps = (v < 0.08) | (v > 0.92)
    return Texture(np.where(caps[..., None], colors[1], colors[wedge]).astype(np.float32))


@remembered
def pottery(seed: int, size: int = 256) -> Texture:
    """Terracotta with painted bands and a zigzag, for the side of a cylinder."""
    v, u = np.mgrid[0:size, 0 : 2 * size] / size
    clay = mix((0.55, 0.27, 0.16), (0.80, 0.47, 0.31), 0.5 + 0.2 * noise((size, 2 * size), 0.8, seed))
    zigzag = np.abs((v - 0.5) * 6.0 - (np.abs(u * 8.0 % 1.0 - 0.5) * 4.0 - 1.0)) < 0.35
    band = (
        (np.abs(v - 0.22) < 0.03) | (np.abs(v - 0.78) < 0.03) | (np.abs(v - 0.13) < 0.012) | (np.abs(v - 0.87) < 0.012)
    )
    paint = mix((0.10, 0.09, 0.09), (0.25, 0.22, 0.20), 0.5 + 0.2 * noise((size, 2 * size), 0.5, seed + 1))
    return Texture(np.where((zigzag | band)[..., None], paint, clay).astype(np.float32))
