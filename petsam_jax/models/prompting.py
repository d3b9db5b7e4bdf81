"""How a model is prompted, the same in training and in every predictor.

In: `Prompts`, and features that `SAM2.attend_memory` made. Out: a `MaskOutput`. Three steps are not
SAM 2's own, and each is a field of the config's section `prompts`: clicks and boxes drawn into the
mask input (`painted`), masks refined by feeding them back (`refinements`), and the last frame's
mask as a prompt on the next (`carried`).
"""

import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float
from ml_collections import ConfigDict

from petsam_jax.models.mask_ops import MaskOutput, where_object
from petsam_jax.models.prompts import BOX_SLOTS, EMPTY, Prompts, paint_prompts, set_mask
from petsam_jax.models.sam2 import SAM2


@dataclasses.dataclass(frozen=True)
class Prompting:
    """The fields of the config's section `prompts` that a trained model is used with."""

    # Keywords of `paint_prompts`; None for prompts as tokens alone.
    paint: dict | None = None
    # Whether the masks of objects predicted to be absent are cut off in clips, as in SAM 2.
    gated: bool = False
    # Whether a tracked frame gets the last frame's mask as a prompt, beside its memories.
    carried: bool = False
    # How often a predictor feeds a mask back to refine it, where nothing was clicked.
    refinements: int = 0

    @classmethod
    def of(cls, prompts: ConfigDict) -> "Prompting":
        """From the config's section `prompts`."""
        return cls(
            paint=prompts.paint.to_dict() if prompts.painted else None,
            gated=prompts.gated,
            carried=prompts.carried,
            refinements=prompts.refinements,
        )

    def encode(self, prompts: Prompts) -> Prompts:
        """The prompts as `SAM2.decode` takes them."""
        return prompts if self.paint is None else paint_prompts(prompts, **self.paint)


def with_mask(prompts: Prompts, mask_logits: Float[Array, "b 1 h4 w4"]) -> Prompts:
    """The same prompts with these logits, of an earlier output, as their mask."""
    return set_mask(prompts, rearrange(mask_logits, "b 1 h w -> b h w 1"))


def decode_prompts(
    model: SAM2,
    pix_feat: Float[Array, "i h16 w16 c"],
    high_res_feats: tuple[Float[Array, "j h4 w4 c0"], Float[Array, "j h8 w8 c1"]],
    prompts: Prompts,
    prompting: Prompting,
    *,
    multimask: Bool[Array, " b"] | None = None,
    gated: bool = False,
    prompted: Bool[Array, " b"] | None = None,
) -> MaskOutput:
    """The masks that every predictor returns; `gated` and `multimask` as in `SAM2.decode`.

    From a box, or without any prompt, the first mask is often half of the pet or all of the box.
    Fed back beside the same prompt it is refined, as in training after a round without a click; SAM
    2 has no such step. A click is clear enough, and so is a mask that came with the prompt. The
    three masks and their IoUs stay those of the first output. `prompted` are the objects with
    prompts on this image (default: all); the others are tracked, and never refined.
    """

    def decode(prompts, multimask):
        encoded = prompting.encode(prompts)
        return model.decode(pix_feat, high_res_feats, *encoded, multimask=multimask, gated=gated)

    first = decode(prompts, multimask)
    if prompting.refinements == 0:
        return first
    unclear = (prompts.labels[:, :-BOX_SLOTS] == EMPTY).all(axis=1) & ~prompts.has_mask
    if prompted is not None:
        unclear &= prompted

    def refine(_, output):
        refined = decode(with_mask(prompts, output.mask_logits), jnp.zeros_like(unclear))
        return where_object(unclear, refined, output)

    # No round at all where all were clicked: a click takes no longer for it.
    rounds = jnp.where(unclear.any(), prompting.refinements, 0)
    refined = jax.lax.fori_loop(0, rounds, refine, first)
    return refined._replace(
        all_logits=first.all_logits, all_ious=first.all_ious, multimask=first.multimask
    )
