"""What a training step asks of the model: prompts, corrections of its own errors, clips.

In: a model, pictures or clips with masks, and a key. Out: losses, and the IoU that the masks had.
A picture gets a first prompt and then correction clicks, each on the errors of the answer before,
which is fed back as logits with its gradient; all rounds share one image encoding. A clip gets that
on its first frame, and on a later one for some, and is tracked over the rest. SAM 2 (Ravi et al.
2024), appendix D, but for the numbers, which the config sets.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Float32, Int32, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from petsam_jax.metrics import iou
from petsam_jax.models import memory_bank
from petsam_jax.models.image_encoder import ImageFeatures
from petsam_jax.models.mask_ops import MaskOutput, enlarge, mask_to_logits, where_object
from petsam_jax.models.sam2 import SAM2
from petsam_jax.normalise import normalise
from petsam_jax.train.losses import PET, Losses, prompt_losses, trained_masks
from petsam_jax.train.prompt_sampling import (
    BOX_SLOTS,
    EMPTY,
    Click,
    Prompts,
    add_click,
    correction_click,
    empty_prompts,
    first_prompt,
    mask_prompt,
    paint_prompts,
    set_mask,
)

# Given a round's own data, the mask, the prediction and the prompts so far: where to click next.
NextClick = Callable[[Any, UInt8[Array, "b h w"], Bool[Array, "b h w"], Prompts], Click]


@dataclasses.dataclass(frozen=True)
class Objective:
    """The sections of a config that say what is trained for, and by which prompts.

    `first`, `correction` and `loss` are keywords of `first_prompt`, `correction_click` and
    `prompt_losses`; `paint` those of `paint_prompts`, or None for prompts as tokens alone. `rounds`
    corrections follow a picture's first prompt, `clip_rounds` that of a clip. `gated` cuts off the
    masks of objects that the model believes absent, as SAM 2 does.
    """

    first: dict
    correction: dict
    loss: dict
    paint: dict | None
    rounds: int = 7
    clip_rounds: int = 1
    # How often the last frame of a clip is prompted too.
    second_prompt_prob: float = 0.5
    # How often a prompted frame of a clip is given as its mask, which then is what is remembered.
    clip_mask_prob: float = 0.0
    # Most frames that are left out after a clip's first one, so that its object pointer gets old.
    longest_gap: int = 0
    gated: bool = False
    # Whether a tracked frame is shown the mask of the frame before, beside its memories.
    carried: bool = False
    # How often predictors feed an answer back before they give it, where nothing was clicked.
    refinements: int = 0

    @classmethod
    def of(cls, config: ConfigDict) -> "Objective":
        """The sections `prompts` and `loss` of a config."""
        prompts = config.prompts.to_dict()
        paint = prompts.pop("paint")
        painted = prompts.pop("painted")
        return cls(**prompts, loss=config.loss.to_dict(), paint=paint if painted else None)

    def say(self, prompts: Prompts) -> Prompts:
        """The prompts as the model takes them."""
        return prompts if self.paint is None else paint_prompts(prompts, **self.paint)


def feed_back(prompts: Prompts, decoded: MaskOutput) -> Prompts:
    """The same prompts with the answer to the last ones as their mask."""
    return carry(prompts, decoded.mask_logits)


def carry(prompts: Prompts, mask_logits: Float[Array, "b 1 h4 w4"]) -> Prompts:
    """The same prompts with these logits as their mask."""
    return set_mask(prompts, rearrange(mask_logits, "b 1 h w -> b h w 1"))


def decode_prompts(
    model: SAM2,
    pix_feat: Float[Array, "i h16 w16 c"],
    high_res_feats: tuple[Float[Array, "j h4 w4 c0"], Float[Array, "j h8 w8 c1"]],
    prompts: Prompts,
    objective: Objective,
    *,
    multimask: Bool[Array, " b"] | None = None,
    gated: bool = False,
    asked: Bool[Array, " b"] | None = None,
) -> MaskOutput:
    """The answer as all predictors give it; what is `gated` and `multimask` is in `SAM2.decode`.

    To a box, or to no prompt at all, the first answer is often half of the pet or all of the box.
    Given as a mask beside the same prompt it is mended, as in training after a round without a
    click; SAM 2 has no such step. A click says enough, and so does a mask that came with the
    prompt. The three masks and their IoUs stay those of the first answer. `asked` are the objects
    that have prompts to answer (default: all); the others are tracked.
    """

    def answer(prompts, multimask):
        said = objective.say(prompts)
        return model.decode(pix_feat, high_res_feats, *said, multimask=multimask, gated=gated)

    first = answer(prompts, multimask)
    if objective.refinements == 0:
        return first
    again = (prompts.labels[:, :-BOX_SLOTS] == EMPTY).all(axis=1) & ~prompts.has_mask
    if asked is not None:
        again &= asked

    def mend(_, decoded):
        mended = answer(feed_back(prompts, decoded), jnp.zeros_like(again))
        return where_object(again, mended, decoded)

    # No round at all where all were clicked: a click takes no longer for it.
    rounds = jnp.where(again.any(), objective.refinements, 0)
    mended = jax.lax.fori_loop(0, rounds, mend, first)
    return mended._replace(
        all_logits=first.all_logits, all_ious=first.all_ious, multimask=first.multimask
    )


class Outcome(NamedTuple):
    """Losses of each round or frame (s) and object, and how good the masks were."""

    losses: Losses
    counted: Bool[Array, "s b"]  # which of them belong to the example
    ious: Float32[Array, "s b"]


def picture_outcome(
    model: SAM2,
    image: UInt8[Array, "b h w 3"],
    mask: UInt8[Array, "b h w"],
    key: PRNGKeyArray,
    objective: Objective,
) -> Outcome:
    """A first prompt and `rounds` corrections on a batch of pictures."""
    key_drop, key_first, key_rounds = jax.random.split(key, 3)
    features = model.encode_image(normalise(image), key_drop)
    pix_feat = model.attend_memory(features.image_embed)
    prompts = first_prompt(key_first, mask, **objective.first)
    keys = jax.random.split(key_rounds, objective.rounds)
    _, losses, ious = prompt_rounds(
        model, pix_feat, features, mask, prompts, keys, _random_click(objective), objective
    )
    return Outcome(losses, jnp.ones(ious.shape, bool), ious)


def _random_click(objective: Objective) -> NextClick:
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
    Returns the last answer, and losses and IoUs of all, the first prompt's included.
    """
    number = jax.tree.leaves(rounds)[0].shape[0]
    of_several, of_one = partial(trained_losses, objective), partial(single_losses, objective)

    def answer(prompts, place):
        # After a mask or nothing, the first correction is the only point: still several masks.
        several = place <= 1
        few = (prompts.labels != EMPTY).sum(axis=1) <= 1
        decoded = model.decode(
            pix_feat,
            features.high_res_feats,
            *objective.say(prompts),
            multimask=few & several,
            gated=objective.gated,
            evaluation=False,
        )
        losses = jax.lax.cond(several, of_several, of_one, decoded, mask)
        pred, score = _seen(decoded, mask)
        if number:
            # The last answer is followed by a click too, which nothing reads.
            this_round = jax.tree.map(lambda x: x[jnp.minimum(place, number - 1)], rounds)
            prompts = add_click(prompts, *next_click(this_round, mask, pred, prompts))
        return feed_back(prompts, decoded), (decoded, losses, score)

    # One program for all answers, or it would compile for each anew what it decodes. Decoded once
    # more in the backward pass: to store and fetch what a round would keep for it takes longer than
    # the round.
    answer = jax.checkpoint(answer, prevent_cse=False)
    _, (decoded, losses, ious) = jax.lax.scan(answer, prompts, jnp.arange(number + 1))
    return jax.tree.map(lambda x: x[-1], decoded), losses, ious


def trained_losses(
    objective: Objective, decoded: MaskOutput, mask: UInt8[Array, "b h w"]
) -> Losses:
    """Of the three masks where they are the answer, else of the single one."""
    logits, ious, valid = trained_masks(decoded.all_logits, decoded.all_ious, decoded.multimask)
    return prompt_losses(logits, ious, decoded.object_logit, mask, valid, **objective.loss)


def single_losses(objective: Objective, decoded: MaskOutput, mask: UInt8[Array, "b h w"]) -> Losses:
    """The same where no answer is one of three, for a third of the work."""
    logits, ious = decoded.all_logits[:, :1], decoded.all_ious[:, :1]
    return prompt_losses(logits, ious, decoded.object_logit, mask, **objective.loss)


def _seen(decoded: MaskOutput, mask):
    """Where an answer sees the pet, and the IoU of that."""
    pred = enlarge(jax.lax.stop_gradient(decoded.mask_logits), *mask.shape[1:])[:, 0] > 0
    return pred, iou(pred, mask).astype(jnp.float32)


# Clips


def clip_outcome(
    model: SAM2,
    image: UInt8[Array, "b t h w 3"],
    mask: UInt8[Array, "b t h w"],
    key: PRNGKeyArray,
    objective: Objective,
) -> Outcome:
    """Prompts on the first frame, for some on the last too, and tracking in between.

    Prompted frames are encoded before any is tracked, as in SAM 2's training. For some objects the
    prompt is the mask and is remembered as it is, however good the model's own answer. The frames
    after the first are numbered as if others had been left out before them: the pointer of a
    prompted frame is read for as long as a clip goes on, and what it says of its age, never above
    the length of such a clip otherwise, then means nothing that was learned.
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
        (prompts, jax.random.split(key_rounds, objective.clip_rounds), _random_click(objective)),
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
    prompting: tuple[Prompts, Any, NextClick | None],
    who: Bool[Array, "n b"],
    objective: Objective,
    given: Bool[Array, "n b"] | None = None,
) -> tuple[memory_bank.MemoryBank, Float32[Array, "n b 1 h4 w4"], Outcome]:
    """Prompt and correct on n frames that remember nothing; `who` are the objects to remember.

    `features` have a leading axis of frames, and `prompting` is of all objects of all frames, frame
    by frame. Of those that are `given` the true mask is remembered, in place of the answer. Returns
    the bank, the logits that are remembered, and the outcome of all answers, frame by frame.
    """

    # As one batch, which is compiled once.
    def flat(x):
        return rearrange(x, "n b ... -> (n b) ...")

    def by_frame(x):
        return rearrange(x, "(n b) ... -> n b ...", n=len(mask))

    features, masks, everyone = jax.tree.map(flat, features), flat(mask), flat(who)
    pix_feat = model.attend_memory(features.image_embed)
    decoded, losses, ious = prompt_rounds(model, pix_feat, features, masks, *prompting, objective)
    if given is not None:
        decoded = where_object(flat(given), _as_given(decoded, masks), decoded)
    memory = model.encode_memory(features.image_embed, decoded.mask_logits, decoded.object_logit)
    new = by_frame(memory), by_frame(decoded.obj_ptr)
    for place, wanted in enumerate(who):
        memory, obj_ptr = (x[place] for x in new)
        bank = _remember(bank, memory, obj_ptr, numbers[place], wanted, wanted)
    outcome = Outcome(losses, jnp.broadcast_to(everyone, ious.shape), ious)
    outcome = jax.tree.map(lambda x: rearrange(x, "s (n b) -> (n s) b", n=len(mask)), outcome)
    return bank, by_frame(decoded.mask_logits), outcome


def _as_given(decoded: MaskOutput, mask: UInt8[Array, "b h w"]) -> MaskOutput:
    """The answer with the truth for its mask, as sure as a given mask is in tracking."""
    present = (mask == PET).any((1, 2)).astype(jnp.float32)
    return decoded._replace(
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

    Where the objective says so, a frame is shown the mask of the one before, beside its memories: a
    memory has a cell for 16 x 16 pixels, and that a mask is to be believed, though not to the
    letter, is learned in fewer steps (MaskTrack, Perazzi et al. 2017, which learns from stills,
    too). SAM 2 has memories alone.

    `begun` is the bank and the logits of the first frame. `num_frames` is the length that ages of
    pointers are measured by; `gap` frames were left out after the first.
    """
    batch, frames, height, width = mask.shape
    nothing = empty_prompts(batch, height, width, max_clicks=1)

    def step(begun, seen):
        (bank, last), (frame, features, mask) = begun, seen
        pix_feat = model.attend_memory(
            features.image_embed,
            bank,
            frame,
            num_frames,
            evaluation=False,
            key=None if key is None else jax.random.fold_in(key, frame),
        )
        prompts = carry(nothing, jax.lax.stop_gradient(last)) if objective.carried else nothing
        decoded = model.decode(
            pix_feat,
            features.high_res_feats,
            *prompts,
            gated=objective.gated,
            evaluation=False,
        )
        counted = ~(twice & (frame == frames - 1 + gap))
        memory = model.encode_memory(
            features.image_embed, decoded.mask_logits, decoded.object_logit
        )
        bank = _remember(bank, memory, decoded.obj_ptr, frame, ~counted, counted)
        losses = trained_losses(objective, decoded, mask)
        _, score = _seen(decoded, mask)
        return (bank, decoded.mask_logits), Outcome(losses, counted, score)

    later = jax.tree.map(lambda x: x[1:], (features, rearrange(mask, "b t h w -> t b h w")))
    numbers: Int32[Array, " t"] = gap + jnp.arange(1, frames, dtype=jnp.int32)
    return jax.lax.scan(step, begun, (numbers, *later))[1]
