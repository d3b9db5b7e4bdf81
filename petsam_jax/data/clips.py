"""A short clip out of one photograph: how the memory modules are trained on still images.

In: an example. Out: t frames, masks and whether the pet is seen. Either the whole image moves, as
before a moving camera, or the pet is cut out and moves against its own background, filled in, or
against another image. Something may pass in front of it, and it may leave the frame, for good or
to come back; in the first frame, which gets the prompt, it is at its place.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from petsam_jax.data import colour, paste, warp
from petsam_jax.data.augment import (
    Augmentation,
    backdrop_view,
    check_range,
    draw_colour,
    first_view,
)
from petsam_jax.data.inpaint import fill_in
from petsam_jax.data.occlude import pass_in_front
from petsam_jax.data.scenery import scenery
from petsam_jax.data.sources import BACKGROUND, Example, Source
from petsam_jax.data.warp import Layer, Matrix

# Cells on a side of the grid by which a pet bends: a leg or the head moves, not each hair.
BENDS = 4
# Of scenery, in sides of the frame: the camera then looks at a part of it, as sharp as the pet.
GROUND_SIZE = 1.5

Clip = tuple[
    UInt8[np.ndarray, "t size size 3"],
    UInt8[np.ndarray, "t size size"],
]
Path = Float[np.ndarray, " t"]


@dataclasses.dataclass(frozen=True)
class Motion:
    """How much happens in a clip; all zeros but `frames` repeats one still."""

    frames: int = 4
    # How far from its place the pet may get, as a share of the frame, and turn, in degrees.
    shift: float = 0.0
    rotation: float = 0.0
    # The pet may grow or shrink by a factor of 1 + zoom.
    zoom: float = 0.0
    # How far parts of it may get from where stiff motion has them, as a share of the frame.
    bend: float = 0.0
    # The pet may get wider or narrower by a factor of 1 + turn: one that turns round shows more or
    # less of its side.
    turn: float = 0.0
    # The camera does this share of shift, rotation and zoom, all of it where the pet does not move
    # on its own.
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


# Every kind at once, at strengths that look right on the sheets of `show`: a start for configs.
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


def make_clip(
    example: Example,
    rng: np.random.Generator,
    size: int,
    settings: Augmentation,
    motion: Motion,
    others: Source | None = None,
) -> Clip:
    """Frames and masks; `settings` vary the view and colour of the clip as a whole.

    Other images, for backgrounds and for what passes in front, come from `others`. An example
    without a pet pixel gets a moving camera and nothing else.
    """
    layer = warp.to_layer(example)
    points = warp.pet_points(example.mask)
    view, in_scene = first_view(rng, layer, points, size, settings, others)
    leaves = bool(rng.random() < motion.exit_prob) and motion.frames > 1
    cutout = bool(rng.random() < motion.cutout_prob) or leaves or in_scene
    cutout = cutout and len(points) > 0
    camera = _camera(rng, size, motion, motion.camera if cutout else 1.0)
    view = warp.compose(view, _inset(camera, size))
    views = [warp.compose(view, moved) for moved in camera]
    if cutout:
        ground_view = None
        if in_scene:
            ground = scenery(rng, others, round(GROUND_SIZE * size))
            ground_view = warp.view_matrix(ground.image.size, size)
        elif others is not None and rng.random() < motion.other_ground_prob:
            ground, ground_view = backdrop_view(rng, others, size, settings)
        if ground_view is None:
            ground, ground_views = layer._replace(image=fill_in(layer)), views
        else:
            ground_view = warp.compose(ground_view, _inset(camera, size))
            ground_views = [warp.compose(ground_view, moved) for moved in camera]
        ground = ground._replace(mask=Image.new("L", ground.mask.size, BACKGROUND))
        bends = _bends(rng, layer, size, motion, leaves)
        steps = _pet_steps(rng, layer, view, size, motion, leaves)
        views = [
            warp.compose(warp.inverse(step), seen) for step, seen in zip(steps, views, strict=True)
        ]
    frames = []
    for index, seen in enumerate(views):
        image = warp.warp_image(layer.image, seen, size)
        if cutout:
            seen_layer = Layer(image, warp.warp_mask(layer.mask, seen, size, BACKGROUND))
            image, mask = warp.bend(seen_layer, bends[index])
            mask = np.array(mask)
            behind = Layer(
                warp.warp_image(ground.image, ground_views[index], size),
                warp.warp_mask(ground.mask, ground_views[index], size),
            )
            image, mask = paste.paste(image, mask, behind)
        else:
            mask = np.array(warp.warp_mask(layer.mask, seen, size))
        frames.append((image, mask))
    if others is not None and len(points) and rng.random() < motion.occlude_prob:
        frames = pass_in_front(rng, frames, warp.to_layer(others[int(rng.integers(len(others)))]))
    return _finish(rng, frames, settings, motion)


def smooth_curve(rng: np.random.Generator, frames: int, limit: float) -> Path:
    """From 0 along a random parabola, never further than `limit` from 0."""
    time = np.linspace(0, 1, frames) if frames > 1 else np.zeros(1)
    straight, bend = rng.uniform(-1, 1, 2) * (0.75, 1)
    return limit * (straight * time + bend * time * (1 - time))


def _camera(rng: np.random.Generator, size: int, motion: Motion, share: float) -> list[Matrix]:
    """Where in the first frame each frame's pixels are, for a camera that shifts, turns, zooms."""
    shifts, angles, scales = _paths(rng, motion, share)
    middle = np.full(2, size / 2)
    return [
        warp.motion(middle, shift * size, angle, scale)
        for shift, angle, scale in zip(shifts, angles, scales, strict=True)
    ]


def _paths(rng: np.random.Generator, motion: Motion, share: float):
    shifts = np.stack([smooth_curve(rng, motion.frames, share * motion.shift) for _ in "xy"], 1)
    angles = smooth_curve(rng, motion.frames, share * np.deg2rad(motion.rotation))
    return shifts, angles, np.exp(smooth_curve(rng, motion.frames, share * np.log1p(motion.zoom)))


def _inset(camera: list[Matrix], size: int) -> Matrix:
    """Shrinks the view about its middle so that the camera, wherever it goes, stays inside it."""
    corners = np.array([[0, 0], [0, size], [size, 0], [size, size]], float)
    reach = max(np.abs(warp.apply(moved, corners) - size / 2).max() for moved in camera)
    return warp.motion(np.full(2, size / 2), scale=min(1.0, size / 2 / reach))


def _pet_steps(
    rng: np.random.Generator,
    layer: Layer,
    view: Matrix,
    size: int,
    motion: Motion,
    leaves: bool,
) -> list[Matrix]:
    """The pet's own motion in its image, a matrix from its place there to that of each frame."""
    box = paste.pet_box(layer)
    low, high = box.low * layer.image.size, box.high * layer.image.size
    shifts, angles, scales = _paths(rng, motion, 1.0)
    widths = np.exp(smooth_curve(rng, motion.frames, np.log1p(motion.turn)))
    shifts = shifts * size @ view[:, :2].T
    # A pet that is cut off at an edge must not move away from it, which would show the cut.
    shifts = np.where(box.cut_low, -np.abs(shifts), shifts)
    shifts = np.where(box.cut_high, np.abs(shifts), shifts)
    shifts = np.where(box.cut_low & box.cut_high, 0.0, shifts)
    if leaves:
        way = _way_out(rng, box, low, high, view, size, motion.frames)
        # In place of other motion along it, which might keep a part in view.
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


def _bends(
    rng: np.random.Generator, layer: Layer, size: int, motion: Motion, leaves: bool
) -> Float[np.ndarray, "t n n 2"]:
    """How far each corner of a grid is moved in each frame, in pixels.

    A pet that is cut off stays stiff, since the cut would show, and so does one that leaves, of
    which a part would stay.
    """
    box = paste.pet_box(layer)
    stiff = leaves or (box.cut_low | box.cut_high).any()
    limit = 0.0 if stiff else motion.bend * size
    corners = (BENDS + 1, BENDS + 1, 2)
    paths = [smooth_curve(rng, motion.frames, limit) for _ in range(np.prod(corners))]
    return np.stack(paths, axis=1).reshape(motion.frames, *corners)


def _way_out(
    rng: np.random.Generator,
    box: paste.Box,
    low: Float[np.ndarray, "2"],
    high: Float[np.ndarray, "2"],
    view: Matrix,
    size: int,
    frames: int,
) -> Float[np.ndarray, "t 2"]:
    """Shifts that take the pet out of view by some frame, and then further or back in."""
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


def _finish(rng: np.random.Generator, frames: list, settings: Augmentation, motion: Motion) -> Clip:
    """One colour for the clip, light that changes smoothly, one blur."""
    matrix = draw_colour(rng, frames[0][0], settings)
    light = np.exp(smooth_curve(rng, len(frames), np.log1p(motion.light)))
    sigma = rng.uniform(0, settings.blur_sigma) if rng.random() < settings.blur_prob else 0.0
    images = [
        colour.blur(colour.recolour(image, gain * matrix), sigma)
        for (image, _), gain in zip(frames, light, strict=True)
    ]
    return np.stack([np.asarray(image) for image in images]), np.stack([m for _, m in frames])
