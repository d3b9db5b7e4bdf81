"""Scenery without a pet, for a pet that is small in it; most photographs show little but the pet.

A model that has seen only such portraits takes grass for fur as soon as a dog runs over a meadow.
The scenery is a piece of another image without a pet, mirrored at its edges until it fills the
frame: real texture, at the cost of repetition.
"""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from petsam_jax.data import paste, warp
from petsam_jax.data.inpaint import fill_in
from petsam_jax.data.sources import Source, image_name
from petsam_jax.data.warp import Layer, Matrix
from petsam_jax.mask_values import BACKGROUND

# Longer side of a pet in a scene, as a share of the frame's.
SMALL_SIDE = (0.2, 0.75)
# Sides of the piece, as shares of its image's, and of the frame that it covers before mirroring.
PIECE = (0.15, 0.6)
COVERS = (0.4, 1.0)
# How much wider or narrower a pet gets than in its own image: the model sees every image as a
# square, be it 16:9 or 9:16.
STRETCH = 2.0
# Beyond this factor an enlarged pet would show its pixels.
MAX_ENLARGED = 1.5
# Images to try for a piece without a pet, and places to try in each.
IMAGE_TRIES = 3
PLACE_TRIES = 40


def scenery(rng: np.random.Generator, others: Source, size: int) -> Layer:
    """A frame of `size` x `size` pixels without a pet, its mask all background.

    If no drawn image has a large enough piece without a pet, the pet of the last one is inpainted.
    Images with a mask for each of several pets are skipped, since one mask does not show the other
    pets.
    """
    drawn = [int(index) for index in rng.integers(len(others), size=IMAGE_TRIES)]
    whole = [i for i in drawn if image_name(others.names[i]) == others.names[i]]
    for index in whole or drawn[:1]:
        layer = warp.to_layer(others[index])
        if whole and (piece := _free_piece(rng, layer)) is not None:
            side = max(8, round(size * rng.uniform(*COVERS)))
            image = Image.fromarray(_mirrored(rng, np.asarray(piece.resize((side, side))), size))
            break
    else:
        image = fill_in(layer).resize((size, size))
    return Layer(image, Image.new("L", (size, size), BACKGROUND))


def small_view(rng: np.random.Generator, layer: Layer, size: int) -> Matrix | None:
    """A view that shows the pet small.

    None if its image cuts off two opposite sides of it, or if it is already smaller there.
    """
    box = paste.pet_box(layer)
    if box is None or (box.cut_low & box.cut_high).any():
        return None
    view = paste.placed_view(rng, layer, box, size, SMALL_SIDE, STRETCH)
    return view if np.abs(view[:, :2]).max() > 1 / MAX_ENLARGED else None


def _free_piece(rng: np.random.Generator, layer: Layer) -> Image.Image | None:
    free = np.asarray(layer.mask) == BACKGROUND
    for _ in range(PLACE_TRIES):
        sides = np.maximum(1, (rng.uniform(*PIECE) * np.array(free.shape)).astype(int))
        top, left = (int(rng.integers(n + 1)) for n in np.array(free.shape) - sides)
        bottom, right = top + int(sides[0]), left + int(sides[1])
        if free[top:bottom, left:right].all():
            return layer.image.crop((left, top, right, bottom))
    return None


def _mirrored(
    rng: np.random.Generator, piece: UInt8[np.ndarray, "n n 3"], size: int
) -> UInt8[np.ndarray, "size size 3"]:
    before = rng.integers(0, size - len(piece) + 1, 2)
    after = size - len(piece) - before
    return np.pad(piece, [*zip(before, after, strict=True), (0, 0)], mode="symmetric")
