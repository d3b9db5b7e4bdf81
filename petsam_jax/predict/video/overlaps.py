"""Masks of several objects that share no pixel, from the logits that they were made of."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32

from petsam_jax.predict.postprocess import logits_at_size


def apart(
    masks: Bool[np.ndarray, "n h w"], logits: Sequence[Float32[np.ndarray, "h4 w4"]]
) -> Bool[np.ndarray, "n h w"]:
    """Pixels of several masks go to the object whose logit is highest, as in SAM 2.

    As `postprocess.no_overlap`, but logits are compared only where masks overlap at all, and a hole
    that was filled in one mask stays with the object that is seen through it.
    """
    shared = masks.sum(axis=0, dtype=np.uint8) > 1
    if len(masks) < 2 or not shared.any():
        return masks
    height, width = masks.shape[1:]
    claims = np.stack([logits_at_size(each, height, width)[shared] for each in logits])
    claims = np.where(masks[:, shared], claims, -np.inf)
    masks = masks.copy()
    masks[:, shared] = np.arange(len(masks))[:, None] == claims.argmax(axis=0)
    return masks
