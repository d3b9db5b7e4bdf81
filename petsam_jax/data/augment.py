"""Random variation of one image and its mask, for training from scratch on little data.

In: an example of any size. Out: `size` x `size` image and mask, still aligned. Geometry is one
affine view (`warp`), colour one matrix (`colour`). Pets of other examples are added in two ways, so
that only the prompt tells which one is the target: this pet is pasted on another image, whose own
pet then is background; or other pets are pasted beside, behind or partly over this one. A pet may
also be small in wide scenery, where most of the image must be left out.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from petsam_jax.data import colour, paste, warp
from petsam_jax.data.colour import ColourMatrix
from petsam_jax.data.scenery import scenery, small_view
from petsam_jax.data.sources import Example, Source
from petsam_jax.data.warp import Layer, Matrix
from petsam_jax.mask_values import BACKGROUND, PET

# Random views to try before falling back to the whole image, which keeps all of the pet.
VIEW_TRIES = 10


def check_range(settings, highest: dict[str, float | int], lowest: dict[str, float | int]) -> None:
    """Raise ValueError for a field out of bounds: 0, and 1 for a `_prob`, if not given here."""
    for field in dataclasses.fields(settings):
        value, low = getattr(settings, field.name), lowest.get(field.name, 0)
        high = highest.get(field.name, 1 if field.name.endswith("_prob") else np.inf)
        if not low <= value <= high:
            raise ValueError(f"{field.name}={value}: set it to at least {low} and at most {high}")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How much may happen; all zeros is the plain resize, which stretches to a square."""

    # A view holds from 1 - crop to 1 + zoom_out of the image's area.
    crop: float = 0.0
    zoom_out: float = 0.0
    # Width to height may change by a factor of 1 + aspect either way.
    aspect: float = 0.0
    # Share of the pet that a view must keep; of the view, where that is smaller than the pet.
    min_pet: float = 0.0
    flip_prob: float = 0.0
    # Degrees either way.
    rotation: float = 0.0
    # Factors within 1 +- the value; hue is a share of the colour circle either way.
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grayscale_prob: float = 0.0
    blur_prob: float = 0.0
    # Largest standard deviation of the blur, in output pixels.
    blur_sigma: float = 0.0
    # How often this pet is pasted on another image, and how often other pets are pasted around it.
    paste_prob: float = 0.0
    others_prob: float = 0.0
    # How often, instead of that, the pet is small in scenery without another pet.
    scene_prob: float = 0.0
    # At most this many other pets, each hiding at most this share of the visible target.
    max_others: int = 1
    max_hidden: float = 0.3

    def __post_init__(self):
        # A crop of everything leaves no view.
        highest = {"crop": 0.99, "brightness": 1, "contrast": 1, "saturation": 1}
        highest |= {"hue": 0.5, "min_pet": 1, "max_hidden": 1}
        check_range(self, highest, {"max_others": 1})


# Everything at once, at strengths that look right in `petsam preview`: a start for configs.
FULL = Augmentation(
    crop=0.6,
    zoom_out=0.1,
    aspect=0.3,
    min_pet=0.5,
    flip_prob=0.5,
    rotation=10.0,
    brightness=0.25,
    contrast=0.25,
    saturation=0.3,
    hue=0.04,
    grayscale_prob=0.1,
    blur_prob=0.2,
    blur_sigma=1.2,
    paste_prob=0.25,
    others_prob=0.25,
    scene_prob=0.2,
    max_others=2,
)


def augment(
    example: Example,
    rng: np.random.Generator,
    size: int,
    settings: Augmentation,
    others: Source | None = None,
) -> tuple[UInt8[np.ndarray, "size size 3"], UInt8[np.ndarray, "size size"]]:
    """A random image and mask of an example; pets and backgrounds to paste come from `others`.

    Where a view reaches beyond the image, the mask says ignore. Raises ValueError for an image and
    mask of different sizes.
    """
    layer = warp.to_layer(example)
    points = warp.pet_points(example.mask)
    matrix, in_scene = first_view(rng, layer, points, size, settings, others)
    image = warp.warp_image(layer.image, matrix, size)
    mask = np.array(warp.warp_mask(layer.mask, matrix, size))
    if others is not None and len(points):
        if in_scene:
            image, mask = paste.paste(image, mask, scenery(rng, others, size))
        elif rng.random() < settings.paste_prob:
            image, mask = _paste_elsewhere(rng, image, mask, others, settings)
        if rng.random() < settings.others_prob:
            for _ in range(rng.integers(settings.max_others) + 1):
                other = warp.to_layer(others[int(rng.integers(len(others)))])
                image, mask = paste.add_beside(rng, image, mask, other, settings.max_hidden)
    image = colour.recolour(image, draw_colour(rng, image, settings))
    if rng.random() < settings.blur_prob:
        image = colour.blur(image, rng.uniform(0, settings.blur_sigma))
    return np.array(image), mask


def _paste_elsewhere(
    rng: np.random.Generator,
    image: Image.Image,
    mask: paste.Mask,
    others: Source,
    settings: Augmentation,
) -> tuple[Image.Image, paste.Mask]:
    size = image.size[0]
    ground, view = backdrop_view(rng, others, size, settings)
    behind = Layer(
        warp.warp_image(ground.image, view, size), warp.warp_mask(ground.mask, view, size)
    )
    return paste.paste(image, mask, behind)


def resize(
    example: Example, size: int
) -> tuple[UInt8[np.ndarray, "size size 3"], UInt8[np.ndarray, "size size"]]:
    """Stretch image and mask to a square, without randomness, as evaluation does."""
    layer = warp.to_layer(example)
    matrix = warp.view_matrix(layer.image.size, size)
    image = warp.warp_image(layer.image, matrix, size)
    return np.array(image), np.array(warp.warp_mask(layer.mask, matrix, size))


def first_view(
    rng: np.random.Generator,
    layer: Layer,
    points: Float[np.ndarray, "n 2"],
    size: int,
    settings: Augmentation,
    others: Source | None,
) -> tuple[Matrix, bool]:
    """A view of an image, and whether the pet is small in it and needs scenery around it."""
    if others is not None and rng.random() < settings.scene_prob:
        small = small_view(rng, layer, size)
        if small is not None:
            return small, True
    return random_view(rng, layer, points, size, settings), False


def random_view(
    rng: np.random.Generator,
    layer: Layer,
    points: Float[np.ndarray, "n 2"],
    size: int,
    settings: Augmentation,
) -> Matrix:
    """A view that keeps enough of the pet; `points` are pixels of it."""
    flip = bool(rng.random() < settings.flip_prob)
    pet_area = (np.asarray(layer.mask) == PET).mean()
    for _ in range(VIEW_TRIES):
        area = rng.uniform(1 - settings.crop, 1 + settings.zoom_out)
        ratio = np.exp(rng.uniform(-0.5, 0.5) * np.log1p(settings.aspect))
        sides = np.sqrt(area) * np.array([ratio, 1 / ratio])
        angle = np.deg2rad(rng.uniform(-settings.rotation, settings.rotation))
        # Inside the image where the turned view is smaller than it, around it where it is larger.
        extent = warp.turned_extent(layer.image.size, sides, angle)
        centre = 0.5 + rng.uniform(-0.5, 0.5, 2) * (1 - extent)
        matrix = warp.view_matrix(layer.image.size, size, centre, sides, angle, flip)
        if not len(points):
            return matrix
        needed = settings.min_pet * min(1.0, area / max(pet_area, 1e-9))
        if warp.in_view(matrix, points, size).mean() >= needed:
            return matrix
    return warp.view_matrix(layer.image.size, size, flip=flip)


def backdrop_view(
    rng: np.random.Generator, others: Source, size: int, settings: Augmentation
) -> tuple[Layer, Matrix]:
    """Another image as background, its mask all background, and a view of it."""
    layer = warp.to_layer(others[int(rng.integers(len(others)))])
    layer = layer._replace(mask=Image.new("L", layer.mask.size, BACKGROUND))
    return layer, random_view(rng, layer, np.empty((0, 2)), size, settings)


def draw_colour(
    rng: np.random.Generator, image: Image.Image, settings: Augmentation
) -> ColourMatrix:
    return colour.random_colour(
        rng,
        colour.mean_grey(image),
        settings.brightness,
        settings.contrast,
        settings.saturation,
        settings.hue,
        settings.grayscale_prob,
    )
