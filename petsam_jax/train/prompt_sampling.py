"""Simulated prompts: a first click, box or mask, then corrections where the model errs.

In: masks (0 background, 1 pet, 2 ignored), predictions and a key. Out: `Prompts` of static shape,
so that neither a click more nor a missing box compiles anything anew. Everything runs under `jit`,
on a batch. Pixels are integer (x, y) indices held as float; the prompt encoder adds 0.5. The rules
are those of SAM 2 (Ravi et al. 2024) for training and RITM (Sofiiuk et al. 2021) for
evaluation.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32, PRNGKeyArray, UInt8

from petsam_jax.train.distance import centre_pixel, uniform_pixel

BACKGROUND, PET = 0, 1
NEGATIVE, POSITIVE, TOP_LEFT, BOTTOM_RIGHT, EMPTY = 0, 1, 2, 3, -1
BOX_SLOTS = 2
# Clicks that a picture is trained with at most, and that a predictor has room for without
# compiling anything anew.
CLICK_SLOTS = 16
# Model pixels to a pixel of `mask_input`.
STRIDE = 4
# By how many squared pixels a click seems farther away for each newer one.
AGE_DISTANCE = 1e-3

Click = tuple[Float32[Array, "b 2"], Int32[Array, " b"]]


class Prompts(NamedTuple):
    """What the model is told about each picture: n - 2 click slots, then 2 slots for a box."""

    points: Float32[Array, "b n 2"]
    labels: Int32[Array, "b n"]  # 1 in, 0 out, 2 and 3 box corners, -1 an empty slot
    mask_input: Float32[Array, "b h/4 w/4 1"]  # logits
    has_mask: Bool[Array, " b"]


def empty_prompts(batch: int, height: int, width: int, max_clicks: int = CLICK_SLOTS) -> Prompts:
    """No prompt at all for pictures of `height` x `width` pixels."""
    slots = max_clicks + BOX_SLOTS
    return Prompts(
        points=jnp.zeros((batch, slots, 2)),
        labels=jnp.full((batch, slots), EMPTY, jnp.int32),
        mask_input=jnp.zeros((batch, height // STRIDE, width // STRIDE, 1)),
        has_mask=jnp.zeros(batch, bool),
    )


def add_click(prompts: Prompts, point: Float32[Array, "b 2"], label: Int32[Array, " b"]) -> Prompts:
    """Write a click into the first free slot; label -1, or no slot left, changes nothing."""
    click_labels = prompts.labels[:, :-BOX_SLOTS]
    first_free = jnp.argmax(click_labels == EMPTY, axis=1)[:, None]
    slots = jnp.arange(prompts.labels.shape[1])[None]
    # Without a free slot argmax says 0, which the second condition then refuses.
    here = (slots == first_free) & (prompts.labels == EMPTY) & (label != EMPTY)[:, None]
    return prompts._replace(
        points=jnp.where(here[..., None], point[:, None], prompts.points),
        labels=jnp.where(here, label[:, None], prompts.labels),
    )


def set_box(prompts: Prompts, box: Float32[Array, "b 4"], present: Bool[Array, " b"]) -> Prompts:
    """Put x0, y0, x1, y1 into the box slots, or empty them where there is no box."""
    corners = jnp.where(present[:, None, None], box.reshape(-1, 2, 2), 0.0)
    labels = jnp.where(present[:, None], jnp.array([[TOP_LEFT, BOTTOM_RIGHT]]), EMPTY)
    return prompts._replace(
        points=prompts.points.at[:, -BOX_SLOTS:].set(corners),
        labels=prompts.labels.at[:, -BOX_SLOTS:].set(labels),
    )


def set_mask(
    prompts: Prompts,
    logits: Float32[Array, "b h4 w4 1"],
    present: Bool[Array, " b"] | None = None,
) -> Prompts:
    """Give a mask as logits: everyone, or those of whom one is `present`; the rest have none."""
    if present is None:
        present = jnp.ones(logits.shape[0], bool)
    logits = jnp.where(present[:, None, None, None], logits, 0.0)
    return prompts._replace(mask_input=logits, has_mask=present)


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
    """Move each side uniformly by up to `share` of the box and `bound` pixels, inside the picture.

    The defaults are SAM 2's, whose bound is made for pictures of 1024 pixels.
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
    small = (batch, height // STRIDE, width // STRIDE)
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
    """Draw for each picture a click, a jittered box, the mask or nothing.

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
    -1: the answer before is then all that is new. No ignored pixel and no pixel of an earlier
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
    # A key of its own, so that clicks are where they are without silence.
    key_silent = jax.random.fold_in(key_truth, 1)
    found &= ~jax.random.bernoulli(key_silent, silent_prob, found.shape)
    return _as_click(pixel, found, error)


def evaluation_click(
    mask: UInt8[Array, "b h w"], pred_mask: Bool[Array, "b h w"], prompts: Prompts
) -> Click:
    """RITM's published next click: the centre of the deeper error, positive where pet is missed.

    Depth is the exact distance to the error's edge, the picture's border being an edge; among
    equals false pet goes first, then the upper, then the left pixel. Pixels of earlier clicks are
    left out. Where RITM has no error left it clicks the picture's corner; here the label is then
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
    picture = jnp.arange(x.shape[0])[:, None]
    clicked = jnp.zeros((x.shape[0], height, width), bool)
    row = jnp.where(is_click, y, height)
    return clicked.at[picture, row, x].set(True, mode="drop", wrap_negative_indices=False)


def _as_click(pixel, found, error) -> Click:
    picture = jnp.arange(pixel.shape[0])
    label = jnp.where(error[picture, pixel[:, 1], pixel[:, 0]] > 0, POSITIVE, NEGATIVE)
    point = jnp.where(found[:, None], pixel, 0).astype(jnp.float32)
    return point, jnp.where(found, label, EMPTY)


def paint_prompts(
    prompts: Prompts,
    *,
    inside: float = 3.0,
    outside: float = -8.0,
    click: float = 10.0,
    radius: float = 0.045,
) -> Prompts:
    """Say clicks and box densely too, as logits in the mask input.

    A box is `inside` and `outside` all over, unless there is a mask already: fed-back logits know
    the box and say more. Over either, each click is a disc of +-`click` with a radius given as a
    share of the longer side; where discs overlap, the nearest click counts. Without any prompt:
    zeros, no mask.
    """
    _, height, width, _ = prompts.mask_input.shape
    # Centres of the mask input's cells in model pixels, where pixel 0 reaches from 0 to 1.
    ys, xs = (jnp.arange(side) * STRIDE + STRIDE / 2 for side in (height, width))
    has_box = prompts.labels[:, -BOX_SLOTS] == TOP_LEFT
    in_box = _in_box(prompts.points[:, -BOX_SLOTS:].reshape(-1, 4), ys, xs)
    boxed = jnp.where(has_box[:, None, None], jnp.where(in_box, inside, outside), 0.0)
    painted = jnp.where(prompts.has_mask[:, None, None], prompts.mask_input[..., 0], boxed)
    # At least half a cell's diagonal, so that a click on a small picture still reaches one cell.
    reach = max(radius * STRIDE * max(height, width), STRIDE / 2**0.5)
    in_disc, positive = _discs(prompts, ys, xs, reach)
    painted = jnp.where(in_disc, jnp.where(positive, click, -click), painted)
    return prompts._replace(
        mask_input=painted[..., None],
        has_mask=prompts.has_mask | (prompts.labels != EMPTY).any(axis=1),
    )


def _discs(prompts, ys, xs, reach) -> tuple[Bool[Array, "b h w"], Bool[Array, "b h w"]]:
    """Cells within `reach` of a click, and whether the nearest click is positive."""
    points, labels = prompts.points[:, :-BOX_SLOTS] + 0.5, prompts.labels[:, :-BOX_SLOTS]
    # Of two clicks on one pixel the newer counts: it is nearer by less than pixels can tell.
    age = AGE_DISTANCE * jnp.arange(labels.shape[1], 0, -1)
    across = jnp.square(points[..., 0, None] - xs[None, None])
    down = jnp.square(points[..., 1, None] - ys[None, None]) + age[None, :, None]

    def squared(label):
        down_to = jnp.where((labels == label)[..., None], down, jnp.inf)
        return (down_to[..., None] + across[:, :, None]).min(axis=1, initial=jnp.inf)

    positive, negative = squared(POSITIVE), squared(NEGATIVE)
    return jnp.minimum(positive, negative) <= reach**2, positive < negative


def _in_box(box, ys, xs) -> Bool[Array, "b h w"]:
    """Cells whose centre lies in the box, and the cell of the box's centre however small it is."""

    def between(first, last, centres):
        middle = (first + last + 1) / 2
        own = (jnp.floor(middle / STRIDE) + 0.5) * STRIDE
        low = jnp.minimum(first, own)[:, None]
        high = jnp.maximum(last + 1, own)[:, None]
        return (low <= centres[None]) & (centres[None] <= high)

    rows, columns = between(box[:, 1], box[:, 3], ys), between(box[:, 0], box[:, 2], xs)
    return rows[:, :, None] & columns[:, None, :]
