"""The training losses: pixel loss, dice, predicted IoU and object presence, as SAM 2 does.

In: mask logits of any resolution, scores, and masks (0 background, 1 pet, 2 ignored). Out: losses
of each object for one prompt, of static shape, so that prompts with one mask and with three go
through the same `lax.scan`; `combine` makes one number of all prompts and frames. The keyword
arguments of `prompt_losses` are the config's section `loss`; their defaults are SAM 2's (Ravi et
al. 2024, appendix D). All in float32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, UInt8

from petsam_jax.mask_values import IGNORE, PET
from petsam_jax.models.mask_ops import enlarge

MASK_KINDS = ("focal", "cross_entropy", "balanced")
IOU_KINDS = ("l1", "mse")
IOU_HEADS = ("all", "best")


class Losses(NamedTuple):
    """The parts before weighting, and their weighted sum."""

    mask: Float32[Array, "*b"]
    dice: Float32[Array, "*b"]
    iou: Float32[Array, "*b"]
    object: Float32[Array, "*b"]
    total: Float32[Array, "*b"]


class Truth(NamedTuple):
    """A mask, and how much each pixel counts."""

    pet: Bool[Array, "b h w"]
    weight: Float32[Array, "b h w"]  # 1, or 0 where ignored
    share: Float32[Array, "b h w"]  # of the mean over pixels; sums to 1, or 0 if all is ignored


def prompt_losses(
    mask_logits: Float[Array, "b m h2 w2"],
    iou_pred: Float[Array, "b m"],
    object_logit: Float[Array, "b 1"],
    mask: UInt8[Array, "b h w"],
    valid: Bool[Array, "b m"] | None = None,
    *,
    mask_weight: float = 20.0,
    dice_weight: float = 1.0,
    iou_weight: float = 1.0,
    object_weight: float = 1.0,
    mask_kind: str = "focal",
    alpha: float = 0.25,
    gamma: float = 2.0,
    iou_kind: str = "l1",
    iou_heads: str = "all",
    object_score: bool = True,
    object_alpha: float = -1.0,
    object_gamma: float = 0.0,
) -> Losses:
    """The losses of each object ("b") for the output of one prompt.

    Logits are enlarged to the mask's size. Of the masks that are `valid` (default: all) the one
    with the least `mask_weight` x pixel loss + `dice_weight` x dice is trained; without any, only
    presence is. An object without a pet pixel is absent and has the presence loss alone; a mask
    that is ignored everywhere has no loss.

    `mask_kind`: "focal" by `alpha` (negative: no weighting) and `gamma`, plain "cross_entropy", or
    "balanced", cross-entropy in which pet and background weigh the same. `iou_kind` "l1" or "mse";
    `iou_heads`: whether "all" valid predictions of the IoU are trained or that of the "best" mask.
    `object_score` False leaves presence out and trains the masks of absent objects as empty ones.
    Raises ValueError for another kind.
    """
    _one_of("mask_kind", mask_kind, MASK_KINDS)
    _one_of("iou_kind", iou_kind, IOU_KINDS)
    _one_of("iou_heads", iou_heads, IOU_HEADS)
    if mask_kind != "focal":
        alpha, gamma = -1.0, 0.0
    if valid is None:
        valid = jnp.ones(iou_pred.shape, bool)
    truth = read_mask(mask, balanced=mask_kind == "balanced")

    def terms(logits):
        logits = enlarge(logits, *mask.shape[1:])
        return pixel_loss(logits, truth, alpha, gamma), dice(logits, truth)

    # Chosen first, on values alone: one mask then needs a backward pass at full size, not three.
    values = jax.lax.stop_gradient(mask_logits)
    best = jnp.zeros((mask.shape[0], 1), int)
    if mask_logits.shape[1] > 1:
        pixel, overlap = terms(values)
        cost = mask_weight * pixel + dice_weight * overlap
        best = jnp.argmin(jnp.where(valid, cost, jnp.inf), axis=1)[:, None]
    chosen = jnp.take_along_axis(mask_logits, best[..., None, None], axis=1)
    # That pass starts from the small logits again: what it would otherwise keep, four full-size
    # arrays for each prompt, takes longer to store under `scan` than to compute.
    pixel, overlap = jax.checkpoint(terms)(chosen)

    errors = iou_error(enlarge(values, *mask.shape[1:]), iou_pred, truth, iou_kind)
    counted = valid if iou_heads == "all" else best == jnp.arange(valid.shape[1])[None]
    error = (errors * counted).sum(1) / jnp.maximum(counted.sum(1), 1)

    some, present = truth.weight.any((1, 2)), truth.pet.any((1, 2))
    trained = (present if object_score else some) & valid.any(1)
    presence = binary_focal(object_logit[:, 0], present, object_alpha, object_gamma)
    parts = (
        jnp.where(trained, pixel[:, 0], 0.0),
        jnp.where(trained, overlap[:, 0], 0.0),
        jnp.where(trained, error, 0.0),
        jnp.where(some & object_score, presence, 0.0),
    )
    weights = mask_weight, dice_weight, iou_weight, object_weight
    weighted = [weight * part for weight, part in zip(weights, parts, strict=True)]
    return Losses(*parts, total=sum(weighted[1:], weighted[0]))


def trained_masks(
    all_logits: Float[Array, "b n h w"],
    all_ious: Float[Array, "b n"],
    multimask: Bool[Array, " b"],
) -> tuple[Float[Array, "b n-1 h w"], Float[Array, "b n-1"], Bool[Array, "b n-1"]]:
    """Which of a decoder's masks a prompt trains: logits, scores and `valid` of `prompt_losses`.

    Those after the first for an unclear prompt (`multimask`), else the first alone.
    """
    unclear = multimask[:, None]
    logits = jnp.where(unclear[..., None, None], all_logits[:, 1:], all_logits[:, :1])
    ious = jnp.where(unclear, all_ious[:, 1:], all_ious[:, :1])
    return logits, ious, unclear | (jnp.arange(ious.shape[1]) == 0)[None]


def combine(losses: Losses, num_objects: Float[Array, ""] | float) -> Losses:
    """Sum over all axes (steps, frames, objects), divided by the number of objects.

    As in SAM 2 an absent object counts, and one prompted eight times counts once. The number is
    that of the whole batch, not of one device.
    """
    return jax.tree.map(lambda part: part.sum() / jnp.maximum(num_objects, 1.0), losses)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"loss.{name}={value!r}: expected one of {', '.join(allowed)}")


# Masks as truth


def read_mask(mask: UInt8[Array, "b h w"], *, balanced: bool = False) -> Truth:
    """`balanced`: pet and background have half of the mean each; all where one is missing."""
    pet, weight = mask == PET, (mask != IGNORE).astype(jnp.float32)
    share = _even(weight)
    if balanced:
        share = _even(_even(weight * pet) + _even(weight * ~pet))
    return Truth(pet, weight, share)


def _even(weight):
    total = weight.sum((1, 2), keepdims=True)
    return weight / jnp.where(total > 0, total, 1.0)


# Terms for each mask


def pixel_loss(
    logits: Float32[Array, "b m h w"], truth: Truth, alpha: float, gamma: float
) -> Float32[Array, "b m"]:
    """Mean of `binary_focal` over the pixels."""
    losses = binary_focal(logits, truth.pet[:, None], alpha, gamma)
    return (losses * truth.share[:, None]).sum((2, 3))


def binary_focal(
    logits: Float[Array, "*b"], positive: Bool[Array, "*#b"], alpha: float, gamma: float
) -> Float32[Array, "*b"]:
    """Cross-entropy times (probability of the wrong class) ** gamma (Lin et al. 2017).

    `alpha` weighs positives and 1 - `alpha` negatives; a negative one weighs nothing.
    """
    margin = jnp.where(positive, logits, -logits).astype(jnp.float32)
    loss = jax.nn.softplus(-margin)
    if gamma:
        wrong = jax.nn.sigmoid(-margin)
        loss = loss * (wrong * wrong if gamma == 2 else wrong**gamma)
    if alpha >= 0:
        loss = loss * jnp.where(positive, alpha, 1 - alpha)
    return loss


def dice(logits: Float32[Array, "b m h w"], truth: Truth) -> Float32[Array, "b m"]:
    """1 - (2 common + 1) / (both areas + 1), on probabilities."""
    prob = jax.nn.sigmoid(logits)
    pet = truth.weight * truth.pet
    common = (prob * pet[:, None]).sum((2, 3))
    areas = (prob * truth.weight[:, None]).sum((2, 3)) + pet.sum((1, 2))[:, None]
    return 1 - (2 * common + 1) / (areas + 1)


def iou_error(
    logits: Float32[Array, "b m h w"], iou_pred: Float[Array, "b m"], truth: Truth, kind: str
) -> Float32[Array, "b m"]:
    """How far the predicted IoU is from that of the mask `logits` > 0; that of two empty ones is 0.

    Zero where no pixel counts, for there is no IoU to predict.
    """
    found, counted = logits > 0, truth.weight[:, None] > 0
    pet = truth.pet[:, None]
    common = (found & pet & counted).sum((2, 3))
    either = ((found | pet) & counted).sum((2, 3))
    error = iou_pred.astype(jnp.float32) - common / jnp.maximum(either, 1)
    error = jnp.where(counted.any((2, 3)), error, 0.0)
    return jnp.abs(error) if kind == "l1" else jnp.square(error)
