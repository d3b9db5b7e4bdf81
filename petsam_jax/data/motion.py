"""How the camera and the pet of a clip move, drawn at random: smooth curves as affine matrices.

In: what may happen (`Motion`) and where the pet is. Out: a matrix for each frame, and how far a
grid over it is bent.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from petsam_jax.data import paste, warp
from petsam_jax.data.augment import check_range
from petsam_jax.data.warp import Layer, Matrix

# Cells per side of the grid that bends a pet: coarse enough to move a leg or the head, not hairs.
BENDS = 4

Curve = Float[np.ndarray, " t"]


@dataclasses.dataclass(frozen=True)
class Motion:
    """How much happens in a clip; with zeros for all but `frames` it repeats one still."""

    frames: int = 4
    # How far the pet may move, as a share of the frame, and turn, in degrees.
    shift: float = 0.0
    rotation: float = 0.0
    # The pet may grow or shrink by a factor of 1 + zoom.
    zoom: float = 0.0
    # How far parts of it may move relative to the whole, as a share of the frame.
    bend: float = 0.0
    # The pet may get wider or narrower by a factor of 1 + turn, as when it turns round.
    turn: float = 0.0
    # The camera does this share of shift, rotation and zoom; all of it if the pet does not move.
    camera: float = 0.0
    # Brightness may change by a factor of 1 + light either way.
    light: float = 0.0
    # How often the pet moves against its background, and how often that is another image.
    cutout_prob: float = 0.0
    other_ground_prob: float = 0.0
    # How often something passes in front, and how often the pet leaves the frame.
    occlude_prob: float = 0.0
    exit_prob: float = 0.0

    def __post_init__(self):
        check_range(self, {"camera": 1, "shift": 1, "bend": 1}, {"frames": 1})


# Everything at once, at strengths that look right in `petsam preview`: a start for configs.
FULL = Motion(
    shift=0.25,
    rotation=15.0,
    zoom=0.25,
    bend=0.06,
    turn=0.6,
    camera=0.4,
    light=0.2,
    cutout_prob=0.6,
    other_ground_prob=0.5,
    occlude_prob=0.25,
    exit_prob=0.1,
)


def smooth_curve(rng: np.random.Generator, frames: int, limit: float) -> Curve:
    """A random parabola from 0 that stays within `limit` of 0."""
    time = np.linspace(0, 1, frames) if frames > 1 else np.zeros(1)
    straight, bend = rng.uniform(-1, 1, 2) * (0.75, 1)
    return limit * (straight * time + bend * time * (1 - time))


def camera_moves(rng: np.random.Generator, size: int, motion: Motion, share: float) -> list[Matrix]:
    """For each frame of a moving camera, the matrix from its pixels to those of the first frame."""
    shifts, angles, scales = _curves(rng, motion, share)
    middle = np.full(2, size / 2)
    return [
        warp.motion(middle, shift * size, angle, scale)
        for shift, angle, scale in zip(shifts, angles, scales, strict=True)
    ]


def _curves(rng: np.random.Generator, motion: Motion, share: float):
    shifts = np.stack([smooth_curve(rng, motion.frames, share * motion.shift) for _ in "xy"], 1)
    angles = smooth_curve(rng, motion.frames, share * np.deg2rad(motion.rotation))
    return shifts, angles, np.exp(smooth_curve(rng, motion.frames, share * np.log1p(motion.zoom)))


def inset(camera: list[Matrix], size: int) -> Matrix:
    """Shrinks the view about its centre, so that the camera always stays inside it."""
    corners = np.array([[0, 0], [0, size], [size, 0], [size, size]], float)
    reach = max(np.abs(warp.apply(moved, corners) - size / 2).max() for moved in camera)
    return warp.motion(np.full(2, size / 2), scale=min(1.0, size / 2 / reach))


def pet_steps(
    rng: np.random.Generator,
    layer: Layer,
    view: Matrix,
    size: int,
    motion: Motion,
    leaves: bool,
) -> list[Matrix]:
    """The pet's own motion in its image: for each frame, the matrix that moves it there."""
    box = paste.pet_box(layer)
    low, high = box.low * layer.image.size, box.high * layer.image.size
    shifts, angles, scales = _curves(rng, motion, 1.0)
    widths = np.exp(smooth_curve(rng, motion.frames, np.log1p(motion.turn)))
    shifts = shifts * size @ view[:, :2].T
    # A pet that is cut off at an edge must not move away from it and show the cut.
    shifts = np.where(box.cut_low, -np.abs(shifts), shifts)
    shifts = np.where(box.cut_high, np.abs(shifts), shifts)
    shifts = np.where(box.cut_low & box.cut_high, 0.0, shifts)
    if leaves:
        way = _way_out(rng, box, low, high, view, size, motion.frames)
        # Replaces other motion in that direction, which might keep a part in view.
        shifts = np.where(way.any(axis=0), way, shifts)
    about = np.where(box.cut_low, low, np.where(box.cut_high, high, (low + high) / 2))
    if (box.cut_low | box.cut_high).any():
        angles = np.zeros_like(angles)
    if box.cut_low[0] and box.cut_high[0]:
        widths = np.ones_like(widths)
    return [
        warp.motion(about, shift, angle, scale, width)
        for shift, angle, scale, width in zip(shifts, angles, scales, widths, strict=True)
    ]


def bends(
    rng: np.random.Generator, layer: Layer, size: int, motion: Motion, leaves: bool
) -> Float[np.ndarray, "t n n 2"]:
    """How far each corner of a grid moves in each frame, in pixels.

    A pet that is cut off stays stiff, since the cut would show, and so does one that leaves, since
    a part would stay behind.
    """
    box = paste.pet_box(layer)
    stiff = leaves or (box.cut_low | box.cut_high).any()
    limit = 0.0 if stiff else motion.bend * size
    corners = (BENDS + 1, BENDS + 1, 2)
    curves = [smooth_curve(rng, motion.frames, limit) for _ in range(np.prod(corners))]
    return np.stack(curves, axis=1).reshape(motion.frames, *corners)


def _way_out(
    rng: np.random.Generator,
    box: paste.Box,
    low: Float[np.ndarray, "2"],
    high: Float[np.ndarray, "2"],
    view: Matrix,
    size: int,
    frames: int,
) -> Float[np.ndarray, "t 2"]:
    """Shifts that take the pet out of view by a random frame, and then further away or back in."""
    corners = np.array([[0, 0], [0, size], [size, 0], [size, size]], float)
    seen = warp.apply(view, corners)
    # Left, up, right, down; never away from an edge that cuts the pet off.
    ways = np.concatenate([seen.min(axis=0) - high, seen.max(axis=0) - low])
    free = ~np.concatenate([box.cut_high, box.cut_low])
    if not free.any():
        return np.zeros((frames, 2))
    way = int(rng.choice(np.flatnonzero(free)))
    out = int(rng.integers(1, frames))
    time = np.arange(frames) / out
    pace = np.sin(np.pi / 2 * np.minimum(time, 2)) if rng.random() < 0.5 else time
    shifts = np.zeros((frames, 2))
    shifts[:, way % 2] = 1.1 * ways[way] * pace
    return shifts
