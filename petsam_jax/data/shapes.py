"""Generated shapes: textured blobs on textured ground, drawn from a seed without any file.

Every image holds one to five shapes, one of them the target; the others may lie over its edge, and
keep a model from calling every blob the pet. Example i depends only on i and on the source's
parameters other than its length.
"""

import numpy as np
from jaxtyping import Bool, Float, UInt8

from petsam_jax.data.sources import Example
from petsam_jax.mask_values import BACKGROUND, PET

KINDS = ("ellipse", "polygon", "star", "blob")
# Half the width of a shape, as a share of the image's.
RADIUS = (0.12, 0.35)
# A shape that would hide more than this share of the target is left out.
MAX_HIDDEN = 0.4
# Number of directions in the table of an outline.
ANGLES = 256
NOISE = 12


class ShapesSource:
    """`length` images of `size` x `size` pixels; the group is the kind of the target.

    Up to `others` shapes lie beside the target. `contrast` (per cent) is that of the waves in a
    texture: shapes differ by colour if it is low, only by pattern if it is 100. `ground` (per cent)
    is the brightness of the ground: if it is low, every pixel shows whether it belongs to a shape,
    and only the choice of the target is left to learn.
    """

    def __init__(
        self,
        length: int,
        size: int = 128,
        seed: int = 0,
        contrast: int = 100,
        ground: int = 100,
        others: int = 4,
    ):
        shares = 0 <= contrast <= 100 and 0 <= ground <= 100
        if length < 1 or size < 16 or seed < 0 or others < 0 or not shares:
            raise ValueError(
                "shapes: expected length >= 1, size >= 16, seed >= 0, contrast and ground in "
                f"0..100 and others >= 0, got length={length}, size={size}, seed={seed}, "
                f"contrast={contrast}, ground={ground}, others={others}"
            )
        self._length, self._size, self._seed = length, size, seed
        self._contrast, self._ground, self._others = contrast / 100, ground / 100, others
        self.names = tuple(f"shapes{seed}_{index:06d}" for index in range(length))
        self.groups = tuple(KINDS[index % len(KINDS)] for index in range(length))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self._length:
            raise IndexError(f"shapes: index {index} is not in 0..{self._length - 1}")
        rng = np.random.default_rng([self._seed, index])
        kinds = list(rng.choice(KINDS, rng.integers(self._others + 1)))
        target = int(rng.integers(len(kinds) + 1))
        kinds.insert(target, self.groups[index])
        image = _texture(rng, self._size, self._size, self._contrast, self._ground)
        mask = np.full((self._size, self._size), BACKGROUND, np.uint8)
        for place, kind in enumerate(kinds):
            inside, window = _shape(rng, str(kind), self._size)
            under = mask[window]
            if np.sum(under[inside] == PET) > MAX_HIDDEN * np.sum(mask == PET):
                continue
            image[window][inside] = _texture(rng, *inside.shape, self._contrast)[inside]
            under[inside] = PET if place == target else BACKGROUND
        return Example(image, mask, self.names[index], self.groups[index])


def _shape(
    rng: np.random.Generator, kind: str, size: int
) -> tuple[Bool[np.ndarray, "h w"], tuple[slice, slice]]:
    """A shape's pixels within a window, and the window; the shape's centre is inside the image."""
    radius = rng.uniform(*RADIUS) * size
    x, y = rng.uniform(0.15, 0.85, 2) * size
    left, top = (max(int(centre - radius), 0) for centre in (x, y))
    right, bottom = (min(int(centre + radius) + 2, size) for centre in (x, y))
    dy, dx = np.ogrid[top:bottom, left:right]
    dy, dx = dy - y, dx - x
    outline = np.roll(_outline(rng, kind), rng.integers(ANGLES)) * radius
    direction = ((np.arctan2(dy, dx) / (2 * np.pi)) % 1 * ANGLES).astype(int) % ANGLES
    return np.hypot(dx, dy) <= outline[direction], (slice(top, bottom), slice(left, right))


def _outline(rng: np.random.Generator, kind: str) -> Float[np.ndarray, " angles"]:
    """Distance from the centre to the edge in each direction, at most 1."""
    angle = np.linspace(0, 2 * np.pi, ANGLES, endpoint=False)
    corners = int(rng.integers(3, 7))
    if kind == "ellipse":
        flat = rng.uniform(0.4, 1)
        return flat / np.hypot(flat * np.cos(angle), np.sin(angle))
    if kind == "polygon":
        half = np.pi / corners
        return np.cos(half) / np.cos(angle % (2 * half) - half)
    if kind == "star":
        wave = np.abs((angle * (corners + 1) / np.pi) % 2 - 1)
        return 1 - rng.uniform(0.35, 0.6) * wave
    waves = np.arange(1, 6)
    phase = rng.uniform(0, 2 * np.pi, waves.size)
    bumps = np.cos(np.outer(angle, waves) + phase) @ (rng.uniform(0, 1, waves.size) / waves)
    return (1.8 + bumps) / (1.8 + bumps).max()


def _texture(
    rng: np.random.Generator, height: int, width: int, contrast: float, light: float = 1.0
) -> UInt8[np.ndarray, "h w 3"]:
    """Two colours in waves of a random direction and pitch, warped, shaded and grainy."""
    y, x = np.ogrid[:height, :width]
    turn, bend = rng.uniform(0, 2 * np.pi, 2)
    pitch = 2 * np.pi / rng.uniform(5, 40)
    warp = rng.uniform(0, 3) * np.sin(pitch / 3 * (x * np.sin(bend) + y * np.cos(bend)))
    blend = 0.5 + 0.5 * np.sin(pitch * (x * np.cos(turn) + y * np.sin(turn)) + warp)
    first, second = (light * rng.uniform(20, 235, (2, 3))).astype(np.float32)
    colour = first + blend[..., None].astype(np.float32) * (contrast * (second - first))
    grain = rng.integers(-NOISE, NOISE + 1, (height, width, 1), np.int8)
    return np.clip(colour + grain, 0, 255).astype(np.uint8)
