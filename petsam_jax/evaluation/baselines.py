"""Baselines without a model, to compare the model's scores with.

In: an example at its own resolution, and the average of training masks. Out: named scores.

    everything  the whole image
    mean_mask   where most training images have their pet, stretched over the image
    box         the tight box, filled
    ellipse     the ellipse in that box
    grabcut     GrabCut (Rother et al. 2004) from that box, where OpenCV is installed

The box is the one that the model gets, around the pet's own pixels. One that included the border
pixels would make weaker baselines: by 0.13 for the box and 0.07 for the ellipse.
"""

import importlib.util

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from PIL import Image

from petsam_jax.data.sources import Example, Source
from petsam_jax.evaluation.protocol import Scores, score_mask
from petsam_jax.evaluation.simulated_user import tight_box
from petsam_jax.mask_values import IGNORE, PET

# The mean mask: its side, and how many training masks, spread over the source, it averages.
MEAN_SIDE, MEAN_OF = 64, 1000
# Longest side of the image that GrabCut sees: about what the model sees. Full size takes ten
# times as long, seconds for each image, and gains 0.02 (0.834 for 0.812 on 238 test images).
GRABCUT_SIDE, GRABCUT_ROUNDS = 256, 5
MEAN_MASK, GRABCUT = "mean_mask", "grabcut"
# Scores of the box baseline are named iou/baseline_box and so on.
PREFIX = "baseline_"


def score_baselines(example: Example, mean: Float[np.ndarray, "s s"] | None) -> Scores:
    """IoU and IoU with the border as pet of every baseline; no mean mask if `mean` is None."""
    mask = example.mask
    box = tight_box(mask)
    pred_masks = {
        "everything": np.ones(mask.shape, bool),
        "box": filled_box(box, mask.shape),
        "ellipse": ellipse(box, mask.shape),
    }
    if mean is not None:
        shape = mask.shape[::-1]
        stretched = Image.fromarray(mean.astype(np.float32)).resize(
            shape, Image.Resampling.BILINEAR
        )
        pred_masks[MEAN_MASK] = np.asarray(stretched) > 0.5
    if has_opencv():
        pred_masks[GRABCUT] = grabcut(example.image, box)
    scores = {}
    for name, pred_mask in pred_masks.items():
        scores |= score_mask(pred_mask, mask, PREFIX + name)
    return scores


def mean_mask(source: Source) -> Float32[np.ndarray, "s s"]:
    """How often each place of a square image is pet, among the images that do not ignore it."""
    chosen = np.linspace(0, len(source) - 1, min(len(source), MEAN_OF)).round().astype(int)
    pet = counted = np.zeros((MEAN_SIDE, MEAN_SIDE), np.int64)
    for index in chosen.tolist():
        mask = Image.fromarray(source[index].mask)
        mask = np.asarray(mask.resize((MEAN_SIDE, MEAN_SIDE), Image.Resampling.NEAREST))
        pet, counted = pet + (mask == PET), counted + (mask != IGNORE)
    return (pet / np.maximum(counted, 1)).astype(np.float32)


def filled_box(box: Float32[np.ndarray, " 4"], shape: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """All pixels of a box, its last row and column included."""
    x0, y0, x1, y1 = box.astype(int)
    filled = np.zeros(shape, bool)
    filled[y0 : y1 + 1, x0 : x1 + 1] = True
    return filled


def ellipse(box: Float32[np.ndarray, " 4"], shape: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The pixels whose centre is in the ellipse that touches the box's outer edges."""
    x0, y0, x1, y1 = box.astype(float)
    y, x = np.ogrid[: shape[0], : shape[1]]
    across = (2 * x - (x0 + x1)) / (x1 - x0 + 1)
    down = (2 * y - (y0 + y1)) / (y1 - y0 + 1)
    return across**2 + down**2 <= 1


def has_opencv() -> bool:
    """Whether OpenCV, which GrabCut needs, is installed; it comes with the extra `eval`."""
    return importlib.util.find_spec("cv2") is not None


def grabcut(
    image: UInt8[np.ndarray, "h w 3"], box: Float32[np.ndarray, " 4"]
) -> Bool[np.ndarray, "h w"]:
    """GrabCut from a box, on an image reduced to `GRABCUT_SIDE`.

    The box itself where nothing is outside it that GrabCut could learn the background from.
    """
    import cv2

    full = Image.fromarray(image)
    factor = min(1.0, GRABCUT_SIDE / max(full.size))
    size = tuple(max(1, round(side * factor)) for side in full.size)
    filled = Image.fromarray(filled_box(box, image.shape[:2]))
    inside = np.asarray(filled.resize(size, Image.Resampling.NEAREST))
    if inside.all() or not inside.any():
        return np.asarray(filled)
    # Its clusters start from random numbers.
    cv2.setRNGSeed(0)
    labels = np.where(inside, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    colours = np.asarray(full.resize(size, Image.Resampling.BILINEAR))[..., ::-1]
    colours = np.ascontiguousarray(colours)
    cv2.grabCut(colours, labels, None, *models, GRABCUT_ROUNDS, cv2.GC_INIT_WITH_MASK)
    found = np.isin(labels, (cv2.GC_PR_FGD, cv2.GC_FGD)).astype(np.float32)
    return np.asarray(Image.fromarray(found).resize(full.size, Image.Resampling.BILINEAR)) > 0.5
