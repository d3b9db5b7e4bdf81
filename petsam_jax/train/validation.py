"""How good the masks are on held-out pictures, prompted as a user would, and a sheet to look at.

In: weights and a source. Out: the mean IoU without a prompt, from a box that is a little off, and
after clicks in the centre of the largest error (`prompts.evaluation_click`), each answer being fed
back to the next. At the model's resolution, ignored pixels left out. All kinds of prompt share one
image encoding and one compiled program.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8
from ml_collections import ConfigDict
from PIL import Image, ImageDraw

from petsam_jax.data.augment import Augmentation
from petsam_jax.data.motion import Motion
from petsam_jax.data.pipeline import make_eval_iterator, make_train_iterator
from petsam_jax.data.sources import Source, Subset
from petsam_jax.files.contact_sheet import RED, YELLOW, draw_errors, draw_mask
from petsam_jax.mask_values import PET
from petsam_jax.metrics import iou
from petsam_jax.models.mask_ops import enlarge
from petsam_jax.models.prompting import decode_prompts, with_mask
from petsam_jax.models.prompts import (
    BOTTOM_RIGHT,
    BOX_SLOTS,
    EMPTY,
    POSITIVE,
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

SHEET_ROWS, CAPTION = 8, 14
# The same clips at every validation.
CLIP_SEED = 0


class Predictions(NamedTuple):
    """What the model said to no prompt, to a box, and after each click (s)."""

    masks: Bool[Array, "s b h w"]
    ious: Float[Array, "s b"]
    losses: Float[Array, "s b"]  # weighted as in training, of the mask that was chosen
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
    """Nothing, a box, then `clicks` clicks one after the other."""
    batch, height, width = mask.shape
    features = model.encode_image(normalise(image))
    pix_feat = model.attend_memory(features.image_embed)
    nothing = empty_prompts(batch, height, width, clicks)
    pet = mask == PET
    box = jitter_box(key, box_of_mask(pet), height, width, box_jitter, float(max(height, width)))
    boxed = set_box(nothing, box, pet.any(axis=(1, 2)))

    def answer(prompts):
        decoded = decode_prompts(
            model,
            pix_feat,
            features.high_res_feats,
            prompts,
            objective.prompting,
            gated=objective.prompting.gated,
        )
        found = enlarge(decoded.mask_logits, height, width)[:, 0] > 0
        losses = prompt_losses(
            decoded.mask_logits, decoded.iou_pred, decoded.object_logit, mask, **objective.loss
        )
        said = Predictions(found, iou(found, mask).astype(jnp.float32), losses.total, prompts)
        return with_mask(prompts, decoded.mask_logits), said

    def click(state, _):
        prompts, found = state
        told, said = answer(add_click(prompts, *evaluation_click(mask, found, prompts)))
        return (told, said.masks), said

    _, unclicked = jax.lax.map(answer, jax.tree.map(lambda *x: jnp.stack(x), nothing, boxed))
    start = nothing, jnp.zeros_like(pet)
    _, clicked = jax.lax.scan(click, start, length=clicks)
    return jax.tree.map(lambda *x: jnp.concatenate(x), unclicked, clicked)


def track_clips(
    model: SAM2,
    image: UInt8[Array, "b t h w 3"],
    mask: UInt8[Array, "b t h w"],
    objective: Objective,
) -> Outcome:
    """Clips tracked from the mask of their first frame: the t - 1 others (s of `Outcome`)."""
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
    begun = bank, logits[0]
    return track_frames(model, features, mask, begun, ~everyone, objective, None, length)


def prompt_kinds(config: ConfigDict) -> dict[str, int]:
    """Names of the kinds of prompt that are reported, and their rows in `Predictions`."""
    return {"none": 0, "box": 1} | {f"click{n}": 1 + n for n in config.eval.clicks}


def tracks_clips(config: ConfigDict) -> bool:
    """Whether clips are tracked, too: where the run trains on some."""
    return bool(config.eval.clips and config.train.clip_share)


def higher_is_better(config: ConfigDict) -> list[str]:
    """Names of what `Validation` measures of which more is better."""
    names = [f"iou_{kind}" for kind in prompt_kinds(config)] + ["iou_mean"]
    return [*names, "iou_clip"] if tracks_clips(config) else names


class Validation:
    """The held-out pictures of a run, and the compiled programs that try them."""

    def __init__(
        self,
        config: ConfigDict,
        source: Source,
        objective: Objective,
        template: ModelTemplate,
        sharding: jax.sharding.NamedSharding,
    ):
        """At most `eval.examples` pictures, spread over the source, and `eval.clips` clips."""
        number = min(len(source), config.eval.examples)
        spread = np.linspace(0, len(source) - 1, number).round().astype(int)
        self._source = Subset(source, spread.tolist())
        self._config, self._sharding = config, sharding

        def run(weights, image, mask, key):
            model = template.model(weights)
            most, jitter = max(config.eval.clicks), config.eval.box_jitter
            return predict_all(model, image, mask, key, objective, most, jitter)

        def run_clips(weights, image, mask):
            return track_clips(template.model(weights), image, mask, objective).ious

        # Every process gets all of the answers.
        replicated = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
        self._run = jax.jit(run, out_shardings=replicated)
        self._run_clips = jax.jit(run_clips, out_shardings=replicated)

    def __call__(self, weights: Mapping[str, Array]) -> tuple[dict[str, float], Image.Image]:
        """Named means and a sheet of the first pictures.

        IoUs by kind of prompt; `iou_mean` is that of all kinds, and `loss` their mean loss;
        `iou_clip`, where the run trains on clips, the IoU of their frames after the first.
        """
        config = self._config
        # The last batch is filled up anyway; so all may be, to divide among the devices.
        devices = self._sharding.mesh.size
        batches = make_eval_iterator(
            self._source,
            batch_size=-(-config.eval.batch_size // devices) * devices,
            size=config.data.size,
            num_threads=config.data.num_threads,
        )
        ious, losses, rows = [], [], []
        for number, batch in enumerate(batches):
            said = self._run(weights, *self._put(batch), jax.random.key(number))
            ious.append(np.asarray(said.ious)[:, batch.valid])
            losses.append(np.asarray(said.losses)[:, batch.valid])
            if len(rows) < SHEET_ROWS:
                said = jax.tree.map(np.asarray, said)
                rows += [
                    _row(batch.image[i], batch.mask[i], jax.tree.map(lambda x, i=i: x[:, i], said))
                    for i in range(len(batch.example))
                ]
        kinds = prompt_kinds(config)
        means, lost = (np.concatenate(x, axis=1).mean(axis=1) for x in (ious, losses))
        named = {f"iou_{kind}": float(means[row]) for kind, row in kinds.items()}
        named["iou_mean"] = float(means[list(kinds.values())].mean())
        named["loss"] = float(lost[list(kinds.values())].mean())
        if tracks_clips(config):
            named["iou_clip"] = self._clips(weights)
        return named, _sheet(rows)

    def _clips(self, weights: Mapping[str, Array]) -> float:
        config = self._config
        size = config.train.clip_batch_size
        batches = make_train_iterator(
            self._source,
            batch_size=size,
            size=config.data.size,
            seed=CLIP_SEED,
            augmentation=Augmentation(**config.data.augment.to_dict()),
            motion=Motion(**config.data.motion.to_dict()),
            num_threads=config.data.num_threads,
        )
        try:
            ious = [
                np.asarray(self._run_clips(weights, *self._put(next(batches))))
                for _ in range(-(-config.eval.clips // size))
            ]
        finally:
            batches.close()
        return float(np.mean(ious))

    def _put(self, batch) -> list[Array]:
        return [jax.device_put(x, self._sharding) for x in (batch.image, batch.mask)]


# Pictures


def _row(image, mask, said: Predictions) -> list[tuple[str, Image.Image]]:
    """Captions and cells of one picture: itself, its mask, and the answers to four prompts."""
    last = len(said.ious) - 1
    shown = {"no prompt": 0, "box": 1, "1 click": 2}
    if last > 2:
        shown[f"{last - 1} clicks"] = last
    cells = [("picture", Image.fromarray(image)), ("truth", draw_mask(image, mask))]
    for name, number in shown.items():
        cell = draw_errors(image, mask, said.masks[number])
        draw_prompts(cell, jax.tree.map(lambda x, n=number: x[n], said.prompts))
        cells.append((f"{name}: {said.ious[number]:.2f}", cell))
    return cells


def draw_prompts(cell: Image.Image, prompts: Prompts) -> None:
    """Draw one picture's clicks, yellow for pet and red for background, and its box."""
    draw = ImageDraw.Draw(cell)
    clicks = prompts.points[:-BOX_SLOTS], prompts.labels[:-BOX_SLOTS]
    for (x, y), label in zip(*clicks, strict=True):
        if label != EMPTY:
            colour = YELLOW if label == POSITIVE else RED
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour, outline="black")
    if prompts.labels[-1] == BOTTOM_RIGHT:
        corners = prompts.points[-BOX_SLOTS:].reshape(-1)
        draw.rectangle([float(value) for value in corners], outline=YELLOW, width=2)


def _sheet(rows: list[list[tuple[str, Image.Image]]]) -> Image.Image:
    rows = rows[:SHEET_ROWS]
    width, height = rows[0][0][1].size
    height += CAPTION
    sheet = Image.new("RGB", (len(rows[0]) * width, len(rows) * height), "white")
    for y, row in enumerate(rows):
        for x, (caption, cell) in enumerate(row):
            sheet.paste(cell, (x * width, y * height + CAPTION))
            ImageDraw.Draw(sheet).text((x * width + 3, y * height + 1), caption, fill="black")
    return sheet
