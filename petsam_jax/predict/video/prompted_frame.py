"""An object on a frame, predicted from its prompt.

In: a clip with what is known of its objects, and a prompt. Out: the record to be stored, and the
mask at the clip's size. A mask is taken as it is; other prompts are tried in one or two views.
"""

import numpy as np

from petsam_jax.predict.prompt_inputs import Prompt, model_prompts
from petsam_jax.predict.video.crops import MaskInView, View, first_views, is_cut_off, uncrop
from petsam_jax.predict.video.frame_masks import enlarge
from petsam_jax.predict.video.tracker import HostOutput, to_host
from petsam_jax.predict.video.tracker_inputs import TrackerInputs
from petsam_jax.predict.video.tracks import Mask, PromptedFrame, TrackedFrame, pack


def predict_prompt(
    inputs: TrackerInputs, frame: int, object_id: int, prompt: Prompt, fed_back: bool
) -> tuple[PromptedFrame, Mask]:
    """The prompt with its result, and the mask; `fed_back` feeds the last mask there back.

    Raises as `Clip.read` does for a frame that cannot be read.
    """
    before = inputs.state.at(frame, object_id)
    # The first prompt on a frame that was not tracked reads no memory, nor do those after it.
    initial = before.initial if isinstance(before, PromptedFrame) else before is None
    reverse = before is not None and before.reverse
    if prompt.mask is not None and not prompt.points:
        mask = prompt.mask.unpack()
        view, output = _use_mask(inputs, frame, object_id, mask)
    else:
        last = inputs.last_mask(frame, object_id) if fed_back else None
        views = _views(inputs, frame, prompt, initial, before if fed_back else None)
        # A prompt on a tracked frame reads the object's memories.
        ids = [] if initial else [object_id]
        outputs = [_predict(inputs, view, frame, ids, prompt, last, reverse) for view in views]
        view, output = _best(views, outputs, inputs.clip.size)
        mask = uncrop(enlarge(output.logits[0], view), view, inputs.clip.size)
    record = PromptedFrame(
        prompt,
        initial,
        reverse,
        pack(mask),
        output.logits[0],
        float(output.object_logit[0]),
        output.obj_ptr[0],
        output.memory[0],
        view,
        memory_view=view,
    )
    return record, mask


def _use_mask(
    inputs: TrackerInputs, frame: int, object_id: int, mask: Mask
) -> tuple[View, HostOutput]:
    others = [each for each in inputs.state.ids_on(frame) if each != object_id]
    view = inputs.view_around(frame, others, mask)
    features = inputs.encode(frame, view).features
    output = inputs.tracker.use_mask(features, inputs.model_mask(view.crop(mask)))
    return view, to_host(output)


def _views(
    inputs: TrackerInputs,
    frame: int,
    prompt: Prompt,
    initial: bool,
    before: PromptedFrame | TrackedFrame | None,
) -> list[View]:
    """The views to try, each with all of the prompt; `before` is the result to correct."""
    if not initial:
        view = inputs.view_around(frame, inputs.state.ids_on(frame))
        return [view if view.contains(prompt.coordinates) else inputs.full_view]
    if isinstance(before, PromptedFrame) and before.view.contains(prompt.coordinates):
        return [before.view]
    if not inputs.zoom:
        return [inputs.full_view]
    side = inputs.images.size
    return first_views(prompt.coordinates, prompt.box is not None, inputs.clip.size, side)


def _predict(
    inputs: TrackerInputs,
    view: View,
    frame: int,
    object_ids: list[int],
    prompt: Prompt,
    last: MaskInView | None,
    reverse: bool,
) -> HostOutput:
    """The prompted object in a view, from the memories of `object_ids`, that one or none."""
    prompts = model_prompts(
        [prompt.in_crop(view.left, view.top)],
        (view.height, view.width),
        inputs.images.size,
        None if last is None else last.in_view(view)[None],
    )
    memories = inputs.memories(object_ids, frame, reverse, without=frame)
    output = inputs.tracker.step(
        inputs.encode(frame, view).features,
        memories.bank,
        inputs.position(frame, reverse),
        prompts,
        initial=np.array([not object_ids]),
        prompted=np.array([True]),
    )
    return to_host(output)


def _best(
    views: list[View], outputs: list[HostOutput], size: tuple[int, int]
) -> tuple[View, HostOutput]:
    """The first, or one with a higher predicted IoU that is not cut off by its view."""
    best = views[0], outputs[0]
    for view, output in zip(views[1:], outputs[1:], strict=True):
        mask = MaskInView(output.logits[0], view, bool(output.object_logit[0] > 0), None)
        if output.iou_pred[0] > best[1].iou_pred[0] and not is_cut_off(mask, size):
            best = view, output
    return best
