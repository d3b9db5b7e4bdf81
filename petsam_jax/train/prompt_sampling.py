"""Simulated prompts: a first click, box or mask, then corrections where the model errs.

In: masks (`mask_values`), predictions and a key. Out: `Prompts`, and clicks to add to them. Runs
under `jit`, on a batch. The rules are those of SAM 2 (Ravi et al. 2024) for training and of RITM
(Sofiiuk et al. 2021) for evaluation.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32, PRNGKeyArray, UInt8

from petsam_jax.mask_values import BACKGROUND, PET
from petsam_jax.models.position import MASK_STRIDE
from petsam_jax.models.prompts import (
    CLICK_SLOTS,
    EMPTY,
    NEGATIVE,
    POSITIVE,
    Prompts,
    add_click,
    empty_prompts,
    set_box,
    set_mask,
)
from petsam_jax.train.distance import centre_pixel, uniform_pixel

# A point and its label for each image; label -1 is no click.
Click = tuple[Float32[Array, "b 2"], Int32[Array, " b"]]


def box_of_mask(region: Bool[Array, "b h w"]) -> Float32[Array, "b 4"]:
    """Least and greatest pixel index of the region, x0, y0, x1, y1; zeros for an empty one."""

    def ends(occupied):
        last = occupied.shape[1] - 1 - jnp.argmax(occupied[:, ::-1], axis=1)
        return jnp.argmax(occupied, axis=1), last

    x0, x1 = ends(region.any(axis=1))
    y0, y1 = ends(region.any(axis=2))
    found = region.any(axis=(1, 2))[:, None]
    return jnp.where(found, jnp.stack([x0, y0, x1, y1], axis=1), 0).astype(jnp.float32)


def jitter_box(
    key: PRNGKeyArray,
    box: Float32[Array, "b 4"],
    height: int,
    width: int,
    share: float = 0.1,
    bound: float = 20.0,
) -> Float32[Array, "b 4"]:
    """Move each side uniformly by up to `share` of the box and `bound` pixels, inside the image.

    The defaults are SAM 2's, whose bound is made for images of 1024 pixels.
    """
    size = box[:, 2:] - box[:, :2]
    limit = jnp.tile(jnp.minimum(size * share, bound), (1, 2))
    moved = box + limit * jax.random.uniform(key, box.shape, minval=-1.0, maxval=1.0)
    last = jnp.array([[width, height, width, height]]) - 1.0
    return jnp.clip(moved, 0.0, last)


def mask_prompt(mask: UInt8[Array, "b h w"]) -> Float32[Array, "b h/4 w/4 1"]:
    """The mask as logits of +-10, as SAM 2 feeds it, and 0 where the truth is unknown."""
    batch, height, width = mask.shape
    prob = jnp.select([mask == BACKGROUND, mask == PET], [0.0, 1.0], 0.5)
    small = (batch, height // MASK_STRIDE, width // MASK_STRIDE)
    return jax.image.resize(20.0 * prob - 10.0, small, "bilinear", antialias=True)[..., None]


def first_prompt(
    key: PRNGKeyArray,
    mask: UInt8[Array, "b h w"],
    *,
    click_prob: float = 0.5,
    box_prob: float = 0.5,
    mask_prob: float = 0.0,
    none_prob: float = 0.0,
    centre_prob: float = 0.0,
    box_jitter: float = 0.1,
    box_jitter_px: float = 20.0,
    max_clicks: int = CLICK_SLOTS,
) -> Prompts:
    """Draw for each image a click, a jittered box, the mask or nothing.

    A click lies in the pet, in its centre with `centre_prob`. Without a pet pixel a click is a
    negative one on background, as in SAM 2; so is a box, which has nothing to enclose; the mask is
    an empty mask. Without background either (all ignored) a click is no prompt. Raises ValueError
    unless the first four probabilities sum to 1.
    """
    probs = {"click": click_prob, "box": box_prob, "mask": mask_prob, "none": none_prob}
    if min(probs.values()) < 0 or abs(sum(probs.values()) - 1) > 1e-6:
        given = ", ".join(f"{name}_prob={value}" for name, value in probs.items())
        raise ValueError(f"{given}: set them to be at least 0 and to sum to 1")
    batch, height, width = mask.shape
    key_kind, key_click, key_box = jax.random.split(key, 3)
    kind = jax.random.choice(key_kind, 4, (batch,), p=jnp.array(list(probs.values())))
    pet = mask == PET
    boxed = (kind == 1) & pet.any(axis=(1, 2))
    clicked = (kind <= 1) & ~boxed
    masked = kind == 2
    prompts = empty_prompts(batch, height, width, max_clicks)
    nothing = jnp.zeros_like(pet)
    point, label = correction_click(key_click, mask, nothing, prompts, centre_prob=centre_prob)
    prompts = add_click(prompts, point, jnp.where(clicked, label, EMPTY))
    box = jitter_box(key_box, box_of_mask(pet), height, width, box_jitter, box_jitter_px)
    prompts = set_box(prompts, box, boxed)
    return set_mask(prompts, mask_prompt(mask), masked)


def correction_click(
    key: PRNGKeyArray,
    mask: UInt8[Array, "b h w"],
    pred_mask: Bool[Array, "b h w"],
    prompts: Prompts,
    *,
    centre_prob: float = 0.0,
    truth_prob: float = 0.0,
    silent_prob: float = 0.0,
    centre_stride: int = 4,
) -> Click:
    """A click for training, uniform over all wrong pixels: 1 on missed pet, 0 on false pet.

    With `centre_prob` it is the centre of the deeper kind of error, found on every
    `centre_stride`-th pixel, where errors that thin exist. With `truth_prob` the prediction counts
    as empty, so that the click is anywhere in the pet. With `silent_prob` there is no click, label
    -1: the fed-back mask is then all that is new. No ignored pixel and no pixel of an earlier
    click is ever chosen. Nothing wrong: a negative click on background, as in SAM 2; no background
    either: label -1.
    """
    key_truth, key_uniform, key_centre = jax.random.split(key, 3)
    from_truth = jax.random.bernoulli(key_truth, truth_prob, mask.shape[:1])
    error = error_region(mask, pred_mask & ~from_truth[:, None, None])
    free = ~clicked_pixels(prompts, *mask.shape[1:])
    wrong = (error != 0) & free
    something = wrong.any(axis=(1, 2), keepdims=True)
    candidates = jnp.where(something, wrong, (mask == BACKGROUND) & free)
    pixel, found = uniform_pixel(key_uniform, candidates)
    if centre_prob > 0:
        skip = slice(centre_stride // 2, None, centre_stride)
        centre, deep = centre_pixel(error[:, skip, skip], free[:, skip, skip])
        centred = deep & jax.random.bernoulli(key_centre, centre_prob, deep.shape)
        pixel = jnp.where(centred[:, None], centre * centre_stride + centre_stride // 2, pixel)
    # A key of its own, so that the other clicks are the same whatever `silent_prob` is.
    key_silent = jax.random.fold_in(key_truth, 1)
    found &= ~jax.random.bernoulli(key_silent, silent_prob, found.shape)
    return _as_click(pixel, found, error)


def evaluation_click(
    mask: UInt8[Array, "b h w"], pred_mask: Bool[Array, "b h w"], prompts: Prompts
) -> Click:
    """RITM's published next click: the centre of the deeper error, positive where pet is missed.

    Depth is the exact distance to the error's edge, the image's border being an edge; among
    equals false pet goes first, then the upper, then the left pixel. Pixels of earlier clicks are
    left out. Where RITM has no error left it clicks the image's corner; here the label is then
    -1.
    """
    error = error_region(mask, pred_mask)
    return _as_click(*centre_pixel(error, ~clicked_pixels(prompts, *mask.shape[1:])), error)


def error_region(
    mask: UInt8[Array, "b h w"], pred_mask: Bool[Array, "b h w"]
) -> Int32[Array, "b h w"]:
    """1 where pet is missed, -1 where background is taken for pet, 0 where right or ignored."""
    missed = (mask == PET) & ~pred_mask
    false = (mask == BACKGROUND) & pred_mask
    return missed.astype(jnp.int32) - false.astype(jnp.int32)


def clicked_pixels(prompts: Prompts, height: int, width: int) -> Bool[Array, "b h w"]:
    """The pixels that hold a click; box corners are none."""
    x, y = jnp.moveaxis(jnp.floor(prompts.points).astype(jnp.int32), -1, 0)
    is_click = (prompts.labels == NEGATIVE) | (prompts.labels == POSITIVE)
    image = jnp.arange(x.shape[0])[:, None]
    clicked = jnp.zeros((x.shape[0], height, width), bool)
    row = jnp.where(is_click, y, height)
    return clicked.at[image, row, x].set(True, mode="drop", wrap_negative_indices=False)


def _as_click(pixel, found, error) -> Click:
    image = jnp.arange(pixel.shape[0])
    label = jnp.where(error[image, pixel[:, 1], pixel[:, 0]] > 0, POSITIVE, NEGATIVE)
    point = jnp.where(found[:, None], pixel, 0).astype(jnp.float32)
    return point, jnp.where(found, label, EMPTY)
