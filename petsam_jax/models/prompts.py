"""Prompts as every part of the model takes them, in slots of static shape.

A further click or a missing box thus never triggers recompilation. Points are (x, y) indices of the
model's input pixels, held as float, (0, 0) being the centre of the upper left pixel. Everything
runs under `jit`, on a batch.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

from petsam_jax.models.position import MASK_STRIDE

# Labels of points: a click outside or inside the object, corners of a box, an empty slot.
NEGATIVE, POSITIVE, TOP_LEFT, BOTTOM_RIGHT, EMPTY = 0, 1, 2, 3, -1
BOX_SLOTS = 2
# Click slots of training and of predictors; more clicks than these recompile.
CLICK_SLOTS = 16
# Mask logits that are fed back are clipped to this, as in SAM 2.
LOGIT_LIMIT = 32.0
# By how many squared pixels a click seems farther away for each newer one.
AGE_DISTANCE = 1e-3


class Prompts(NamedTuple):
    """Prompts for each of b objects: n - 2 click slots, 2 slots for a box, and a mask."""

    points: Float32[Array, "b n 2"]
    labels: Int32[Array, "b n"]  # 1 in, 0 out, 2 and 3 box corners, -1 an empty slot
    mask_input: Float32[Array, "b h/4 w/4 1"]  # logits
    has_mask: Bool[Array, " b"]


def empty_prompts(batch: int, height: int, width: int, max_clicks: int = CLICK_SLOTS) -> Prompts:
    """No prompts, for images of `height` x `width` pixels."""
    slots = max_clicks + BOX_SLOTS
    return Prompts(
        points=jnp.zeros((batch, slots, 2)),
        labels=jnp.full((batch, slots), EMPTY, jnp.int32),
        mask_input=jnp.zeros((batch, height // MASK_STRIDE, width // MASK_STRIDE, 1)),
        has_mask=jnp.zeros(batch, bool),
    )


def add_click(prompts: Prompts, point: Float32[Array, "b 2"], label: Int32[Array, " b"]) -> Prompts:
    """Write a click into the first free slot; label -1, or no slot left, changes nothing."""
    click_labels = prompts.labels[:, :-BOX_SLOTS]
    first_free = jnp.argmax(click_labels == EMPTY, axis=1)[:, None]
    slots = jnp.arange(prompts.labels.shape[1])[None]
    # Without a free slot argmax is 0, which the second condition then rejects.
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
    """Set mask prompts, as logits: for all objects, or for those where one is `present` alone."""
    if present is None:
        present = jnp.ones(logits.shape[0], bool)
    logits = jnp.where(present[:, None, None, None], logits, 0.0)
    return prompts._replace(mask_input=logits, has_mask=present)


def paint_prompts(
    prompts: Prompts,
    *,
    inside: float = 3.0,
    outside: float = -8.0,
    click: float = 10.0,
    radius: float = 0.045,
) -> Prompts:
    """Clicks and box drawn into the mask input too, as logits.

    A box is `inside` and `outside` all over, unless there is a mask already: fed-back logits know
    the box and hold more. Over either, each click is a disc of +-`click` with a radius given as a
    share of the longer side; where discs overlap, the nearest click counts. Without any prompt:
    zeros, no mask.
    """
    _, height, width, _ = prompts.mask_input.shape
    # Centres of the mask input's cells in model pixels, where pixel 0 reaches from 0 to 1.
    ys, xs = (jnp.arange(side) * MASK_STRIDE + MASK_STRIDE / 2 for side in (height, width))
    has_box = prompts.labels[:, -BOX_SLOTS] == TOP_LEFT
    in_box = _in_box(prompts.points[:, -BOX_SLOTS:].reshape(-1, 4), ys, xs)
    boxed = jnp.where(has_box[:, None, None], jnp.where(in_box, inside, outside), 0.0)
    painted = jnp.where(prompts.has_mask[:, None, None], prompts.mask_input[..., 0], boxed)
    # At least half a cell's diagonal, so that a click on a small image still reaches one cell.
    reach = max(radius * MASK_STRIDE * max(height, width), MASK_STRIDE / 2**0.5)
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
        own = (jnp.floor(middle / MASK_STRIDE) + 0.5) * MASK_STRIDE
        low = jnp.minimum(first, own)[:, None]
        high = jnp.maximum(last + 1, own)[:, None]
        return (low <= centres[None]) & (centres[None] <= high)

    rows, columns = between(box[:, 1], box[:, 3], ys), between(box[:, 0], box[:, 2], xs)
    return rows[:, :, None] & columns[:, None, :]
