"""The training objective on clips: prompts on the first frame, then tracking by memory.

In: a model, clips with masks, and a key. Out: an `Outcome` for each frame and round. The first
frame is prompted and corrected as a single image is, for some clips the last one too; the frames
between are found by memory. SAM 2 (Ravi et al. 2024), appendix D, but for the numbers, which the
config sets.
"""

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float32, Int32, PRNGKeyArray, UInt8

from petsam_jax.mask_values import PET
from petsam_jax.models import memory_bank
from petsam_jax.models.image_encoder import ImageFeatures
from petsam_jax.models.mask_ops import MaskOutput, mask_to_logits, where_object
from petsam_jax.models.prompting import with_mask
from petsam_jax.models.prompts import Prompts, empty_prompts, set_mask
from petsam_jax.models.sam2 import SAM2
from petsam_jax.normalise import normalise
from petsam_jax.train.objective import (
    NextClick,
    Objective,
    Outcome,
    predicted_mask,
    prompt_rounds,
    random_click,
    trained_losses,
)
from petsam_jax.train.prompt_sampling import first_prompt, mask_prompt


def clip_outcome(
    model: SAM2,
    image: UInt8[Array, "b t h w 3"],
    mask: UInt8[Array, "b t h w"],
    key: PRNGKeyArray,
    objective: Objective,
) -> Outcome:
    """Prompts on the first frame, for some on the last too, and tracking in between.

    Prompted frames are encoded before any is tracked, as in SAM 2's training. For some objects the
    prompt is the true mask and is remembered as it is, however good the model's own output. The
    frames after the first are numbered as if others had been left out before them: the pointer of a
    prompted frame is read for as long as a clip goes on, so its age must take values beyond the
    length of a training clip.
    """
    key_drop, key_first, key_given, key_rounds, key_who, key_gap, key_track = jax.random.split(
        key, 7
    )
    batch, frames = image.shape[:2]
    gap = draw_gap(key_gap, objective.longest_gap)
    features = encode_frames(model, image, key_drop)

    twice = jax.random.bernoulli(key_who, objective.second_prompt_prob, (batch,)) & (frames > 2)
    who = jnp.stack([jnp.ones(batch, bool), twice])
    of_ends = jnp.stack([mask[:, 0], mask[:, -1]])
    flat = rearrange(of_ends, "n b h w -> (n b) h w")
    given = jax.random.bernoulli(key_given, objective.clip_mask_prob, (len(flat),))
    prompts = where_object(
        given, mask_as_prompt(flat), first_prompt(key_first, flat, **objective.first)
    )
    bank, logits, prompted = prompted_frames(
        model,
        jax.tree.map(lambda x: jnp.stack([x[0], x[-1]]), features),
        of_ends,
        model.empty_bank(batch, *image.shape[2:4], cond_slots=2, recent_slots=max(frames, 2)),
        jnp.stack([jnp.int32(0), frames - 1 + gap]),
        (prompts, jax.random.split(key_rounds, objective.clip_rounds), random_click(objective)),
        who,
        objective,
        rearrange(given, "(n b) -> n b", n=2),
    )
    # A pointer's age means the same as in tracking, where a clip is longer than these few frames.
    length = max(frames, model.max_obj_ptrs)
    begun = bank, logits[0]
    tracked = track_frames(model, features, mask, begun, twice, objective, key_track, length, gap)
    return jax.tree.map(lambda *x: jnp.concatenate(x), prompted, tracked)


def mask_as_prompt(mask: UInt8[Array, "b h w"]) -> Prompts:
    """The true mask as the only prompt."""
    return set_mask(empty_prompts(*mask.shape), mask_prompt(mask))


def draw_gap(key: PRNGKeyArray, longest: int) -> Int32[Array, ""]:
    """From 0 to `longest`, as many between 1 and 10 as between 10 and 100."""
    share = jax.random.uniform(key)
    return jnp.int32(jnp.expm1(share * jnp.log1p(longest)))


def encode_frames(
    model: SAM2, image: UInt8[Array, "b t h w 3"], key: PRNGKeyArray | None
) -> ImageFeatures:
    """The encodings of all frames, each array with a leading axis of frames."""
    flat = rearrange(image, "b t h w c -> (t b) h w c")
    features = model.encode_image(normalise(flat), key)
    return jax.tree.map(
        lambda x: rearrange(x, "(t b) h w c -> t b h w c", t=image.shape[1]), features
    )


def prompted_frames(
    model: SAM2,
    features: ImageFeatures,
    mask: UInt8[Array, "n b h w"],
    bank: memory_bank.MemoryBank,
    numbers: Int32[Array, " n"],
    rounds: tuple[Prompts, Any, NextClick | None],
    who: Bool[Array, "n b"],
    objective: Objective,
    given: Bool[Array, "n b"] | None = None,
) -> tuple[memory_bank.MemoryBank, Float32[Array, "n b 1 h4 w4"], Outcome]:
    """Prompt and correct on n frames that read no memory; `who` are the objects to remember.

    `features` have a leading axis of frames, and `rounds` are the last three arguments of
    `prompt_rounds` for all objects of all frames, frame by frame. For those that are `given` the
    true mask is remembered in place of the output. Returns the bank, the logits that are
    remembered, and the outcome of all rounds, frame by frame.
    """

    # As one batch, which is compiled once.
    def flat(x):
        return rearrange(x, "n b ... -> (n b) ...")

    def by_frame(x):
        return rearrange(x, "(n b) ... -> n b ...", n=len(mask))

    features, masks, everyone = jax.tree.map(flat, features), flat(mask), flat(who)
    pix_feat = model.attend_memory(features.image_embed)
    output, losses, ious = prompt_rounds(model, pix_feat, features, masks, *rounds, objective)
    if given is not None:
        output = where_object(flat(given), _as_given(output, masks), output)
    memory = model.encode_memory(features.image_embed, output.mask_logits, output.object_logit)
    new = by_frame(memory), by_frame(output.obj_ptr)
    for place, remembered in enumerate(who):
        memory, obj_ptr = (x[place] for x in new)
        bank = _remember(bank, memory, obj_ptr, numbers[place], remembered, remembered)
    outcome = Outcome(losses, jnp.broadcast_to(everyone, ious.shape), ious)
    outcome = jax.tree.map(lambda x: rearrange(x, "s (n b) -> (n s) b", n=len(mask)), outcome)
    return bank, by_frame(output.mask_logits), outcome


def _as_given(output: MaskOutput, mask: UInt8[Array, "b h w"]) -> MaskOutput:
    """The output with the true mask for its own, as certain as a mask prompt is in tracking."""
    present = (mask == PET).any((1, 2)).astype(jnp.float32)
    return output._replace(
        mask_logits=rearrange(mask_prompt(mask), "b h w 1 -> b 1 h w"),
        object_logit=mask_to_logits(present)[:, None],
    )


def _remember(bank, memory, obj_ptr, frame, conditioning, who):
    return where_object(who, memory_bank.write(bank, memory, obj_ptr, frame, conditioning), bank)


def track_frames(
    model: SAM2,
    features: ImageFeatures,
    mask: UInt8[Array, "b t h w"],
    begun: tuple[memory_bank.MemoryBank, Float32[Array, "b 1 h4 w4"]],
    twice: Bool[Array, " b"],
    objective: Objective,
    key: PRNGKeyArray | None,
    num_frames: int,
    gap: memory_bank.Scalar = 0,
) -> Outcome:
    """All frames but the first by memory; not the last one where it was prompted.

    Where the config says so (`prompts.carried`), a frame gets the mask of the last one as a prompt,
    beside its memories: a memory has a cell for 16 x 16 pixels, and that a mask is nearly right,
    though not to the letter, is learned in fewer steps (MaskTrack, Perazzi et al. 2017, which
    learns from stills, too). SAM 2 has memories alone.

    `begun` is the bank and the logits of the first frame. `num_frames` is the length that ages of
    pointers are measured by; `gap` frames were left out after the first.
    """
    batch, frames, height, width = mask.shape
    no_prompts = empty_prompts(batch, height, width, max_clicks=1)
    prompting = objective.prompting

    def step(begun, this):
        (bank, last), (frame, features, mask) = begun, this
        prompts = no_prompts
        if prompting.carried:
            prompts = with_mask(no_prompts, jax.lax.stop_gradient(last))

        def decode(pix_feat):
            output = model.decode(
                pix_feat,
                features.high_res_feats,
                *prompts,
                gated=prompting.gated,
                evaluation=False,
            )
            return output, output.mask_logits

        output, memory = model.track_step(
            features,
            bank,
            frame,
            num_frames,
            decode,
            evaluation=False,
            key=None if key is None else jax.random.fold_in(key, frame),
        )
        counted = ~(twice & (frame == frames - 1 + gap))
        bank = _remember(bank, memory, output.obj_ptr, frame, ~counted, counted)
        losses = trained_losses(objective, output, mask)
        _, score = predicted_mask(output, mask)
        return (bank, output.mask_logits), Outcome(losses, counted, score)

    later = jax.tree.map(lambda x: x[1:], (features, rearrange(mask, "b t h w -> t b h w")))
    numbers: Int32[Array, " t"] = gap + jnp.arange(1, frames, dtype=jnp.int32)
    return jax.lax.scan(step, begun, (numbers, *later))[1]
