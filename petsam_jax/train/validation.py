"""Validation of a training run: how good masks are on held-out images, prompted as a user would.

In: weights, and batches of images and clips. Out: the mean IoU without a prompt, from a slightly
inaccurate box, and after clicks in the centre of the largest error (`evaluation_click`), each mask
being fed back to the next; and a sheet of some images. IoUs are at the model's resolution without
ignored pixels. All kinds of prompt share one image encoding and one compiled program.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8
from PIL import Image

from petsam_jax.data.pipeline import Batch, EvalBatch
from petsam_jax.mask_values import PET
from petsam_jax.metrics import iou
from petsam_jax.models.mask_ops import enlarge
from petsam_jax.models.prompting import decode_prompts, with_mask
from petsam_jax.models.prompts import (
    Prompts,
    add_click,
    empty_prompts,
    set_box,
)
from petsam_jax.models.sam2 import SAM2
from petsam_jax.normalise import normalise
from petsam_jax.train.clip_objective import (
    encode_frames,
    mask_as_prompt,
    prompted_frames,
    track_frames,
)
from petsam_jax.train.losses import prompt_losses
from petsam_jax.train.objective import Objective, Outcome
from petsam_jax.train.prompt_sampling import box_of_mask, evaluation_click, jitter_box
from petsam_jax.train.step import ModelTemplate
from petsam_jax.train.validation_sheet import SHEET_ROWS, draw_sheet, sheet_row


class Predictions(NamedTuple):
    """Predictions without a prompt, from a box, and after each click (s)."""

    masks: Bool[Array, "s b h w"]
    ious: Float[Array, "s b"]
    losses: Float[Array, "s b"]  # weighted as in training, of the selected mask
    prompts: Prompts  # each with a leading axis s


def predict_all(
    model: SAM2,
    image: UInt8[Array, "b h w 3"],
    mask: UInt8[Array, "b h w"],
    key: PRNGKeyArray,
    objective: Objective,
    clicks: int,
    box_jitter: float,
) -> Predictions:
    """Predict without a prompt, from a box, and after each of `clicks` clicks."""
    batch, height, width = mask.shape
    features = model.encode_image(normalise(image))
    pix_feat = model.attend_memory(features.image_embed)
    nothing = empty_prompts(batch, height, width, clicks)
    pet = mask == PET
    box = jitter_box(key, box_of_mask(pet), height, width, box_jitter, float(max(height, width)))
    boxed = set_box(nothing, box, pet.any(axis=(1, 2)))

    def predict(prompts):
        output = decode_prompts(
            model,
            pix_feat,
            features.high_res_feats,
            prompts,
            objective.prompting,
            gated=objective.prompting.gated,
        )
        found = enlarge(output.mask_logits, height, width)[:, 0] > 0
        losses = prompt_losses(
            output.mask_logits, output.iou_pred, output.object_logit, mask, **objective.loss
        )
        ious = iou(found, mask).astype(jnp.float32)
        predictions = Predictions(found, ious, losses.total, prompts)
        return with_mask(prompts, output.mask_logits), predictions

    def click(state, _):
        prompts, found = state
        clicked = add_click(prompts, *evaluation_click(mask, found, prompts))
        prompts, predictions = predict(clicked)
        return (prompts, predictions.masks), predictions

    _, unclicked = jax.lax.map(predict, jax.tree.map(lambda *x: jnp.stack(x), nothing, boxed))
    start = nothing, jnp.zeros_like(pet)
    _, clicked = jax.lax.scan(click, start, length=clicks)
    return jax.tree.map(lambda *x: jnp.concatenate(x), unclicked, clicked)


def track_clips(
    model: SAM2,
    image: UInt8[Array, "b t h w 3"],
    mask: UInt8[Array, "b t h w"],
    objective: Objective,
) -> Outcome:
    """Track clips from the mask of their first frame; `Outcome` has the t - 1 other frames (s)."""
    batch, frames = mask.shape[:2]
    features = encode_frames(model, image, key=None)
    bank = model.empty_bank(batch, *mask.shape[2:], cond_slots=1, recent_slots=max(frames, 2))
    everyone, no_rounds = jnp.ones(batch, bool), jnp.zeros(0)
    bank, logits, _ = prompted_frames(
        model,
        jax.tree.map(lambda x: x[:1], features),
        mask[None, :, 0],
        bank,
        jnp.zeros(1, jnp.int32),
        (mask_as_prompt(mask[:, 0]), no_rounds, None),
        everyone[None],
        objective,
        everyone[None],
    )
    length = max(frames, model.max_obj_ptrs)
    start = bank, logits[0]
    return track_frames(model, features, mask, start, ~everyone, objective, None, length)


def prompt_kinds(clicks: Iterable[int]) -> dict[str, int]:
    """Names of the prompts whose scores are reported, and their rows in `Predictions`."""
    return {"none": 0, "box": 1} | {f"click{n}": 1 + n for n in clicks}


class Validation:
    """The held-out images of a run, and the compiled programs that predict their masks."""

    def __init__(
        self,
        objective: Objective,
        template: ModelTemplate,
        sharding: jax.sharding.NamedSharding,
        images: Callable[[], Iterable[EvalBatch]],
        clips: Callable[[], Iterable[Batch]] | None = None,
        *,
        clicks: Sequence[int],
        box_jitter: float,
    ):
        """`images` and `clips` return the same batches each time; without `clips` none are tracked.

        Scores are reported after each of the numbers `clicks`; `box_jitter` is the error of the box
        as a share of its sides.
        """
        self._sharding, self._images, self._clips = sharding, images, clips
        self._clicks = clicks

        def run(weights, image, mask, key):
            model = template.model(weights)
            return predict_all(model, image, mask, key, objective, max(clicks), box_jitter)

        def run_clips(weights, image, mask):
            return track_clips(template.model(weights), image, mask, objective).ious

        # Every process gets all predictions.
        replicated = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
        self._run = jax.jit(run, out_shardings=replicated)
        self._run_clips = jax.jit(run_clips, out_shardings=replicated)

    def __call__(self, weights: Mapping[str, Array]) -> tuple[dict[str, float], Image.Image]:
        """Named scores and a sheet of the first images.

        The scores are the mean IoU of each kind of prompt, `iou_mean` over all kinds, their mean
        `loss`, and, with clips, `iou_clip` of all their frames but the first.
        """
        ious, losses = [], []
        rows: list = []
        for number, batch in enumerate(self._images()):
            found = self._run(weights, *self._put(batch), jax.random.key(number))
            ious.append(np.asarray(found.ious)[:, batch.valid])
            losses.append(np.asarray(found.losses)[:, batch.valid])
            if len(rows) < SHEET_ROWS:
                found = jax.tree.map(np.asarray, found)
                for i in range(len(batch.example)):
                    one = jax.tree.map(lambda x, i=i: x[:, i], found)
                    rows.append(
                        sheet_row(batch.image[i], batch.mask[i], one.masks, one.ious, one.prompts)
                    )
        kinds = prompt_kinds(self._clicks)
        mean_ious, mean_losses = (np.concatenate(x, axis=1).mean(axis=1) for x in (ious, losses))
        scores = {f"iou_{kind}": float(mean_ious[row]) for kind, row in kinds.items()}
        scores["iou_mean"] = float(mean_ious[list(kinds.values())].mean())
        scores["loss"] = float(mean_losses[list(kinds.values())].mean())
        if self._clips is not None:
            ious = [self._run_clips(weights, *self._put(batch)) for batch in self._clips()]
            scores["iou_clip"] = float(np.mean([np.asarray(iou) for iou in ious]))
        return scores, draw_sheet(rows)

    def _put(self, batch) -> list[Array]:
        return [jax.device_put(x, self._sharding) for x in (batch.image, batch.mask)]
