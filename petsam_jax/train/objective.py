"""The training objective on images: a first prompt, then corrections of the model's errors.

In: a model, images with masks, and a key. Out: losses, and the IoU of the masks. An image gets a
first prompt and then correction clicks, each on the errors of the last mask, which is fed back as
logits with its gradient; all rounds share one image encoding. SAM 2 (Ravi et al. 2024), appendix D,
but for the numbers, which the config sets. Clips are in `clip_objective`.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from petsam_jax.metrics import iou
from petsam_jax.models.image_encoder import ImageFeatures
from petsam_jax.models.mask_ops import MaskOutput, enlarge
from petsam_jax.models.prompting import Prompting, with_mask
from petsam_jax.models.prompts import EMPTY, Prompts, add_click
from petsam_jax.models.sam2 import SAM2
from petsam_jax.normalise import normalise
from petsam_jax.train.losses import Losses, prompt_losses, trained_masks
from petsam_jax.train.prompt_sampling import Click, correction_click, first_prompt

# Given a round's own data, the mask, the prediction and the prompts so far: where to click next.
NextClick = Callable[[Any, UInt8[Array, "b h w"], Bool[Array, "b h w"], Prompts], Click]


@dataclasses.dataclass(frozen=True)
class Objective:
    """The config's sections `prompts` and `loss`: what is trained, and with which prompts.

    `first`, `correction` and `loss` are keywords of `first_prompt`, `correction_click` and
    `prompt_losses`.
    """

    first: dict
    correction: dict
    loss: dict
    prompting: Prompting = Prompting()
    # Corrections after the first prompt of an image, and of a clip's frame.
    rounds: int = 7
    clip_rounds: int = 1
    # How often the last frame of a clip is prompted too.
    second_prompt_prob: float = 0.5
    # How often a prompted frame of a clip gets its true mask, which then is what is remembered.
    clip_mask_prob: float = 0.0
    # Most frames that are left out after a clip's first one, so that its object pointer gets old.
    longest_gap: int = 0

    @classmethod
    def of(cls, prompts: ConfigDict, loss: ConfigDict) -> "Objective":
        """From these sections; raises TypeError for a field of `prompts` that nothing reads."""
        prompting = Prompting.of(prompts)
        fields = prompts.to_dict()
        for name in ("painted", *(field.name for field in dataclasses.fields(Prompting))):
            del fields[name]
        return cls(**fields, loss=loss.to_dict(), prompting=prompting)


class Outcome(NamedTuple):
    """Losses of each round or frame (s) and object, and the IoU of the masks."""

    losses: Losses
    counted: Bool[Array, "s b"]  # which of them belong to the example
    ious: Float32[Array, "s b"]


def image_outcome(
    model: SAM2,
    image: UInt8[Array, "b h w 3"],
    mask: UInt8[Array, "b h w"],
    key: PRNGKeyArray,
    objective: Objective,
) -> Outcome:
    """A first prompt and `rounds` corrections on a batch of images."""
    key_drop, key_first, key_rounds = jax.random.split(key, 3)
    features = model.encode_image(normalise(image), key_drop)
    pix_feat = model.attend_memory(features.image_embed)
    prompts = first_prompt(key_first, mask, **objective.first)
    keys = jax.random.split(key_rounds, objective.rounds)
    _, losses, ious = prompt_rounds(
        model, pix_feat, features, mask, prompts, keys, random_click(objective), objective
    )
    return Outcome(losses, jnp.ones(ious.shape, bool), ious)


def random_click(objective: Objective) -> NextClick:
    """The correction clicks of training; the data of a round is a key."""

    def click(key, mask, pred, prompts):
        return correction_click(key, mask, pred, prompts, **objective.correction)

    return click


def prompt_rounds(
    model: SAM2,
    pix_feat: Float[Array, "b h16 w16 c"],
    features: ImageFeatures,
    mask: UInt8[Array, "b h w"],
    prompts: Prompts,
    rounds: Any,
    next_click: NextClick | None,
    objective: Objective,
) -> tuple[MaskOutput, Losses, Float32[Array, "s b"]]:
    """Decode, click where it is wrong, decode again; `rounds` holds what `next_click` takes each.

    Where `rounds` has a first axis of 0 there is no click, and `next_click` may be None.
    Returns the last output, and losses and IoUs of all, the first prompt's included.
    """
    number = jax.tree.leaves(rounds)[0].shape[0]
    of_three, of_one = partial(trained_losses, objective), partial(single_losses, objective)

    def one_round(prompts, place):
        # After a mask or no prompt, the first correction is the only point: still unclear.
        first_two = place <= 1
        few = (prompts.labels != EMPTY).sum(axis=1) <= 1
        output = model.decode(
            pix_feat,
            features.high_res_feats,
            *objective.prompting.encode(prompts),
            multimask=few & first_two,
            gated=objective.prompting.gated,
            evaluation=False,
        )
        losses = jax.lax.cond(first_two, of_three, of_one, output, mask)
        pred, score = predicted_mask(output, mask)
        if number:
            # The last output is followed by a click too, which nothing reads.
            this_round = jax.tree.map(lambda x: x[jnp.minimum(place, number - 1)], rounds)
            prompts = add_click(prompts, *next_click(this_round, mask, pred, prompts))
        return with_mask(prompts, output.mask_logits), (output, losses, score)

    # A scan, or each round would be compiled again. Decoded once more in the backward pass: storing
    # and fetching what a round would keep for it takes longer than the round.
    one_round = jax.checkpoint(one_round, prevent_cse=False)
    _, (output, losses, ious) = jax.lax.scan(one_round, prompts, jnp.arange(number + 1))
    return jax.tree.map(lambda x: x[-1], output), losses, ious


def trained_losses(objective: Objective, output: MaskOutput, mask: UInt8[Array, "b h w"]) -> Losses:
    """The losses of the three masks where one of them is the output, else of the single one."""
    logits, ious, valid = trained_masks(output.all_logits, output.all_ious, output.multimask)
    return prompt_losses(logits, ious, output.object_logit, mask, valid, **objective.loss)


def single_losses(objective: Objective, output: MaskOutput, mask: UInt8[Array, "b h w"]) -> Losses:
    """The same where no output is one of three, for a third of the work."""
    logits, ious = output.all_logits[:, :1], output.all_ious[:, :1]
    return prompt_losses(logits, ious, output.object_logit, mask, **objective.loss)


def predicted_mask(
    output: MaskOutput, mask: UInt8[Array, "b h w"]
) -> tuple[Bool[Array, "b h w"], Float32[Array, " b"]]:
    """The output as a mask of the true one's size, without gradient, and its IoU."""
    height, width = mask.shape[1:]
    pred = enlarge(jax.lax.stop_gradient(output.mask_logits), height, width)[:, 0] > 0
    return pred, jnp.asarray(iou(pred, mask), jnp.float32)
