"""Occlusion: another pet, or a patch of an image, passes in front of a clip's pet."""

import numpy as np
from PIL import Image, ImageDraw

from petsam_jax.data import paste, warp
from petsam_jax.data.warp import Layer, Matrix
from petsam_jax.mask_values import BACKGROUND, PET

TRIES = 4
# Longer side of the occluder, as a share of the pet's.
SIDE = (0.5, 1.1)
# How far it moves per frame, as a share of the frame; vertically RISE times that.
STEP = (0.3, 0.7)
RISE = 0.4
# At most this share of the pet may be hidden in the first frame.
HIDDEN_AT_FIRST = 0.3

Frame = tuple[Image.Image, paste.Mask]


def pass_in_front(rng: np.random.Generator, frames: list[Frame], other: Layer) -> list[Frame]:
    """Move the pet of `other`, if it is whole, or an elliptic patch of it across a clip's pet.

    It moves in a straight line and meets the pet in a frame after the first. Without a pet in the
    first frame, or a line that leaves it visible there, the frames are returned unchanged.
    """
    image, mask = frames[0]
    size, y_x = image.size[0], np.argwhere(mask == PET)
    box = paste.pet_box(other)
    if box is None or (box.cut_low | box.cut_high).any() or rng.random() < 0.5:
        other = _patch(rng, other)
        box = paste.pet_box(other)
    if len(frames) < 2 or len(y_x) == 0 or box is None:
        return frames
    extent = (y_x.max(axis=0) + 1 - y_x.min(axis=0)).max() / size
    middle = (box.low + box.high) / 2
    for _ in range(TRIES):
        meet = int(rng.integers(1, len(frames)))
        there = np.argwhere(frames[meet][1] == PET)
        goal = (there if len(there) else y_x).mean(axis=0)[::-1] / size
        scale = (box.high - box.low).max() / (extent * rng.uniform(*SIDE))
        turn = rng.uniform(0, 2 * np.pi)
        step = rng.uniform(*STEP) * np.array([np.cos(turn), RISE * np.sin(turn)])
        centres = [middle - (goal + (t - meet) * step - 0.5) * scale for t in range(len(frames))]
        views = [
            warp.view_matrix(other.image.size, size, centre, (scale, scale)) for centre in centres
        ]
        first = np.asarray(warp.warp_mask(other.mask, views[0], size, BACKGROUND)) == PET
        if (first & (mask == PET)).sum() <= HIDDEN_AT_FIRST * len(y_x):
            return [
                _occlude(*frame, other, seen) for frame, seen in zip(frames, views, strict=True)
            ]
    return frames


def _occlude(image: Image.Image, mask: paste.Mask, other: Layer, view: Matrix):
    size = image.size[0]
    cut = np.asarray(warp.warp_mask(other.mask, view, size, BACKGROUND))
    if not (cut == PET).any():
        return image, mask
    over = warp.warp_image(other.image, view, size)
    return paste.put_in_front(image, mask, over, paste.pet_alpha(cut))


def _patch(rng: np.random.Generator, layer: Layer) -> Layer:
    """The image with a random ellipse as its mask."""
    mask = Image.new("L", layer.mask.size, BACKGROUND)
    half = rng.uniform(0.12, 0.4, 2)
    box = np.concatenate([0.5 - half, 0.5 + half]) * (layer.mask.size * 2)
    ImageDraw.Draw(mask).ellipse([float(side) for side in box], fill=PET)
    return layer._replace(mask=mask)
