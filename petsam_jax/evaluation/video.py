"""How well objects are tracked through clips with known masks, and what the memory is worth.

In: folders with `frames/` and `masks/`. Out: for each prompt, J (IoU) and F (the contour) of each
object's frames. As in DAVIS (Pont-Tuset et al. 2017), the first frame, which was prompted, and the
last one do not count.

    mask     the first frame's mask
    click1   a click in its centre
    click3   and two more in the centre of the largest error, as RITM (Sofiiuk et al. 2021) clicks

Two baselines have no memory:

    boxes    the image model on each frame, prompted with the box of its mask on the frame before
    still    the first frame's mask on all frames
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from petsam_jax.evaluation.simulated_user import next_click, tight_box
from petsam_jax.files.clip import Clip, ClipError
from petsam_jax.files.masks import VOID, decode_mask
from petsam_jax.files.video_reader import frame_files, open_clip
from petsam_jax.mask_values import IGNORE, PET
from petsam_jax.metrics import boundary_f, iou
from petsam_jax.predict.video_predictor import VideoPredictor

Masks = Bool[np.ndarray, "n h w"]


class KnownClip(NamedTuple):
    """A clip and the masks of its frames."""

    name: str
    clip: Clip
    masks: list[Path]
    object_ids: list[int]  # of the first frame

    def mask(self, frame: int, object_id: int) -> UInt8[np.ndarray, "h w"]:
        """0 background, 1 the object, 2 ignored; raises ClipError for a mask of another size."""
        numbers = decode_mask(self.masks[frame])
        if numbers.shape != self.clip.size:
            raise ClipError(
                f"{self.masks[frame]}: {numbers.shape} pixels (height, width), its frame has "
                f"{self.clip.size}"
            )
        return np.where(numbers == VOID, IGNORE, numbers == object_id).astype(np.uint8)


class Scores(NamedTuple):
    """The scores of one object on the t frames that count."""

    J: Float[np.ndarray, " t"]
    F: Float[np.ndarray, " t"]

    def means(self) -> dict[str, float]:
        j, f = float(self.J.mean()), float(self.F.mean())
        return {"J": j, "F": f, "J&F": (j + f) / 2}


def find_known_clips(folder: Path) -> list[KnownClip]:
    """The clip in this folder, or those in the folders in it. Raises ClipError if one is unfit."""
    folders = [folder] if (folder / "frames").is_dir() else sorted(folder.glob("*/"))
    folders = [one for one in folders if (one / "frames").is_dir() and (one / "masks").is_dir()]
    if not folders:
        raise ClipError(f"{folder}: no frames/ and masks/ in it, nor in a folder of it")
    return [_known_clip(one) for one in folders]


def _known_clip(folder: Path) -> KnownClip:
    frames, masks = (frame_files(folder / name) for name in ("frames", "masks"))
    if [file.stem for file in frames] != [file.stem for file in masks]:
        raise ClipError(
            f"{folder}: {len(frames)} frames and {len(masks)} masks; each frame needs a mask of "
            "the same name"
        )
    if len(frames) < 3:
        raise ClipError(f"{folder}: {len(frames)} frames; the first and the last do not count")
    numbers = np.unique(decode_mask(masks[0]))
    object_ids = [int(number) for number in numbers if number not in (0, VOID)]
    if not object_ids:
        raise ClipError(f"{masks[0]}: no object in the first frame's mask")
    return KnownClip(folder.name, open_clip(folder / "frames"), masks, object_ids)


# From a clip to the masks of its frames

Track = Callable[[VideoPredictor, KnownClip], Iterator[Masks]]


def track_after(prompt: Callable) -> Track:
    """Tracking after `prompt(session, object_id, mask)` has prompted the first frame."""

    def track(predictor: VideoPredictor, known: KnownClip) -> Iterator[Masks]:
        session = predictor.open(known.clip)
        for object_id in known.object_ids:
            prompt(session, object_id, known.mask(0, object_id))
        for _, _, masks in session.propagate(0):
            yield masks

    return track


def add_mask(session, object_id: int, mask: UInt8[np.ndarray, "h w"]) -> None:
    session.add_mask(0, object_id, mask == PET)


def add_clicks(number: int) -> Callable:
    """A simulated user who clicks `number` times, or until no error is left."""

    def prompt(session, object_id: int, mask: UInt8[np.ndarray, "h w"]) -> None:
        pred_mask, clicked = np.zeros(mask.shape, bool), np.zeros(mask.shape, bool)
        for _ in range(number):
            click = next_click(mask, pred_mask, clicked)
            if click is None:
                return
            clicked[click.y, click.x] = True
            pred_mask = session.add_points(0, object_id, [(click.x, click.y)], [click.label])

    return prompt


def track_boxes(predictor: VideoPredictor, known: KnownClip) -> Iterator[Masks]:
    """The image model, prompted with the box of its last mask; the box of a lost object stays.

    On the first frame it gets the true box.
    """
    boxes = [tight_box(known.mask(0, object_id)) for object_id in known.object_ids]
    for frame in range(known.clip.count):
        image = predictor.images.encode(known.clip.read(frame))
        masks = [predictor.images.predict(boxes=box, image=image).masks[0] for box in boxes]
        boxes = [
            tight_box(mask.astype(np.uint8)) if mask.any() else box
            for mask, box in zip(masks, boxes, strict=True)
        ]
        yield np.stack(masks)


def repeat_first(predictor: VideoPredictor, known: KnownClip) -> Iterator[Masks]:
    """The first frame's masks on every frame."""
    first = np.stack([known.mask(0, object_id) == PET for object_id in known.object_ids])
    for _ in range(known.clip.count):
        yield first


PROMPTS: dict[str, Track] = {
    "mask": track_after(add_mask),
    "click1": track_after(add_clicks(1)),
    "click3": track_after(add_clicks(3)),
}
BASELINES: dict[str, Track] = {"boxes": track_boxes, "still": repeat_first}


def score_clip(
    known: KnownClip, results: Iterator[Masks], on_frame: Callable[[int, Masks], None]
) -> dict[int, Scores]:
    """Each object's scores; `on_frame` is called with each frame's number and masks."""
    scores = {object_id: [] for object_id in known.object_ids}
    for frame, pred_masks in enumerate(results):
        on_frame(frame, pred_masks)
        if not 0 < frame < known.clip.count - 1:
            continue
        for object_id, pred_mask in zip(known.object_ids, pred_masks, strict=True):
            mask = known.mask(frame, object_id)
            scores[object_id].append((float(iou(pred_mask, mask)), boundary_f(pred_mask, mask)))
    return {number: Scores(*np.array(each).T) for number, each in scores.items()}
