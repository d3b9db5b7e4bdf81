"""A short clip made from one photograph, to train the memory modules on still images.

In: an example. Out: t frames and masks. Either the whole image moves, as before a moving camera, or
the pet is cut out and moves against its own background, inpainted, or against another image.
Something may pass in front of it, and it may leave the frame, for good or to come back. The first
frame, which gets the prompt, shows it in its place.
"""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from petsam_jax.data import colour, paste, warp
from petsam_jax.data.augment import (
    Augmentation,
    backdrop_view,
    draw_colour,
    first_view,
)
from petsam_jax.data.inpaint import fill_in
from petsam_jax.data.motion import Motion, bends, camera_moves, inset, pet_steps, smooth_curve
from petsam_jax.data.occlude import pass_in_front
from petsam_jax.data.scenery import scenery
from petsam_jax.data.sources import Example, Source
from petsam_jax.data.warp import Layer, Matrix
from petsam_jax.mask_values import BACKGROUND, IGNORE

# Side of the scenery in sides of the frame: the camera sees a part of it, as sharp as the pet.
GROUND_SIZE = 1.5

Clip = tuple[
    UInt8[np.ndarray, "t size size 3"],
    UInt8[np.ndarray, "t size size"],
]


def make_clip(
    example: Example,
    rng: np.random.Generator,
    size: int,
    settings: Augmentation,
    motion: Motion,
    others: Source | None = None,
) -> Clip:
    """Frames and masks; `settings` vary the view and colour of the clip as a whole.

    Backgrounds, and what passes in front, come from `others`. An example without a pet pixel gets a
    moving camera and nothing else.
    """
    layer = warp.to_layer(example)
    points = warp.pet_points(example.mask)
    view, in_scene = first_view(rng, layer, points, size, settings, others)
    leaves = bool(rng.random() < motion.exit_prob) and motion.frames > 1
    cutout = bool(rng.random() < motion.cutout_prob) or leaves or in_scene
    cutout = cutout and len(points) > 0
    camera = camera_moves(rng, size, motion, motion.camera if cutout else 1.0)
    view = warp.compose(view, inset(camera, size))
    views = [warp.compose(view, moved) for moved in camera]
    if cutout:
        ground, ground_view = _ground(rng, layer, size, settings, motion, others, in_scene)
        ground_views = views if ground_view is None else _follow(ground_view, camera, size)
        grids = bends(rng, layer, size, motion, leaves)
        steps = pet_steps(rng, layer, view, size, motion, leaves)
        views = [
            warp.compose(warp.inverse(step), seen) for step, seen in zip(steps, views, strict=True)
        ]
        frames = [
            _paste_frame(_see(layer, seen, size, BACKGROUND), bend, _see(ground, behind, size))
            for seen, bend, behind in zip(views, grids, ground_views, strict=True)
        ]
    else:
        frames = [(image, np.array(mask)) for image, mask in (_see(layer, v, size) for v in views)]
    if others is not None and len(points) and rng.random() < motion.occlude_prob:
        frames = pass_in_front(rng, frames, warp.to_layer(others[int(rng.integers(len(others)))]))
    return _finish(rng, frames, settings, motion)


def _follow(view: Matrix, camera: list[Matrix], size: int) -> list[Matrix]:
    """The view of each frame of a moving camera."""
    view = warp.compose(view, inset(camera, size))
    return [warp.compose(view, moved) for moved in camera]


def _see(layer: Layer, view: Matrix, size: int, outside: int = IGNORE) -> Layer:
    image = warp.warp_image(layer.image, view, size)
    return Layer(image, warp.warp_mask(layer.mask, view, size, outside))


def _ground(
    rng: np.random.Generator,
    layer: Layer,
    size: int,
    settings: Augmentation,
    motion: Motion,
    others: Source | None,
    in_scene: bool,
) -> tuple[Layer, Matrix | None]:
    """A background without a pet and a view of it; None means the view of the pet's own image."""
    view = None
    if in_scene:
        ground = scenery(rng, others, round(GROUND_SIZE * size))
        view = warp.view_matrix(ground.image.size, size)
    elif others is not None and rng.random() < motion.other_ground_prob:
        ground, view = backdrop_view(rng, others, size, settings)
    else:
        ground = layer._replace(image=fill_in(layer))
    return ground._replace(mask=Image.new("L", ground.mask.size, BACKGROUND)), view


def _paste_frame(pet: Layer, bend: Float[np.ndarray, "n n 2"], behind: Layer):
    image, mask = warp.bend(pet, bend)
    return paste.paste(image, np.array(mask), behind)


def _finish(rng: np.random.Generator, frames: list, settings: Augmentation, motion: Motion) -> Clip:
    """Apply one colour change and one blur to the clip, and light that changes smoothly."""
    matrix = draw_colour(rng, frames[0][0], settings)
    light = np.exp(smooth_curve(rng, len(frames), np.log1p(motion.light)))
    sigma = rng.uniform(0, settings.blur_sigma) if rng.random() < settings.blur_prob else 0.0
    images = [
        colour.blur(colour.recolour(image, gain * matrix), sigma)
        for (image, _), gain in zip(frames, light, strict=True)
    ]
    return np.stack([np.asarray(image) for image in images]), np.stack([m for _, m in frames])
