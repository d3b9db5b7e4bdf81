"""How well animals are followed through clips whose masks are known, and what that is worth.

In: folders with `frames/` and `masks/`. Out: for each way to say who is meant, J (IoU) and F (the
contour) of each object's frames, as DAVIS has them (Pont-Tuset et al. 2017): the first frame, which
was prompted, and the last one are left out.

    mask     the first frame's mask is given
    click1   a click in its middle
    click3   and two more where the answer is wrong, as RITM (Sofiiuk et al. 2021) clicks

Two answers without any memory are what the ways above must beat:

    boxes    the image model on each frame, prompted by the box of its mask on the frame before
    still    the first frame's mask on all frames
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from petsam_jax.evaluation.simulated_user import next_click, tight_box
from petsam_jax.files.masks import VOID, decode_mask
from petsam_jax.files.video_reader import Clip, ClipError, frame_files, open_clip
from petsam_jax.metrics import IGNORED, boundary_f, iou
from petsam_jax.predict.video_predictor import VideoPredictor

Masks = Bool[np.ndarray, "n h w"]


class KnownClip(NamedTuple):
    """A clip and the masks of its frames."""

    name: str
    clip: Clip
    masks: list[Path]
    object_ids: list[int]  # of the first frame

    def truth(self, frame: int, object_id: int) -> UInt8[np.ndarray, "h w"]:
        """0 background, 1 the object, 2 ignored; raises ClipError for a mask of another size."""
        numbers = decode_mask(self.masks[frame])
        if numbers.shape != self.clip.size:
            raise ClipError(
                f"{self.masks[frame]}: {numbers.shape} pixels (height, width), its frame has "
                f"{self.clip.size}"
            )
        return np.where(numbers == VOID, IGNORED, numbers == object_id).astype(np.uint8)


class Scores(NamedTuple):
    """Of each frame that counts (t)."""

    J: Float[np.ndarray, " t"]
    F: Float[np.ndarray, " t"]

    def means(self) -> dict[str, float]:
        j, f = float(self.J.mean()), float(self.F.mean())
        return {"J": j, "F": f, "J&F": (j + f) / 2}


def known_clips(folder: Path) -> list[KnownClip]:
    """The folder itself, or those in it; raises ClipError with what is missing where."""
    folders = [folder] if (folder / "frames").is_dir() else sorted(folder.glob("*/"))
    folders = [one for one in folders if (one / "frames").is_dir() and (one / "masks").is_dir()]
    if not folders:
        raise ClipError(f"{folder}: no folders frames/ and masks/ in it, nor in a folder of it")
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


# Ways


def by_memory(prompt: Callable) -> Callable[[VideoPredictor, KnownClip], Iterator[Masks]]:
    """Tracking from what `prompt(session, object_id, truth)` says about the first frame."""

    def track(predictor: VideoPredictor, known: KnownClip) -> Iterator[Masks]:
        session = predictor.open(known.clip)
        for object_id in known.object_ids:
            prompt(session, object_id, known.truth(0, object_id))
        for _, _, masks in session.propagate(0):
            yield masks

    return track


def give_mask(session, object_id: int, truth: UInt8[np.ndarray, "h w"]) -> None:
    session.add_mask(0, object_id, truth == 1)


def click(number: int) -> Callable:
    """A simulated user who clicks so many times, or until nothing is wrong."""

    def say(session, object_id: int, truth: UInt8[np.ndarray, "h w"]) -> None:
        found, clicked = np.zeros(truth.shape, bool), np.zeros(truth.shape, bool)
        for _ in range(number):
            at = next_click(truth, found, clicked)
            if at is None:
                return
            clicked[at.y, at.x] = True
            found = session.add_points(0, object_id, [(at.x, at.y)], [at.label])

    return say


def by_boxes(predictor: VideoPredictor, known: KnownClip) -> Iterator[Masks]:
    """The image model, prompted by the box of its last mask; one that is lost stays where it was.

    It is told the true box on the first frame.
    """
    boxes = [tight_box(known.truth(0, object_id)) for object_id in known.object_ids]
    for frame in range(known.clip.count):
        image = predictor.images.encode(known.clip.read(frame))
        masks = [predictor.images.predict(boxes=box, image=image).masks[0] for box in boxes]
        seen = [mask.astype(np.uint8) for mask in masks]
        boxes = [
            tight_box(mask) if mask.any() else box for mask, box in zip(seen, boxes, strict=True)
        ]
        yield np.stack(masks)


def still(predictor: VideoPredictor, known: KnownClip) -> Iterator[Masks]:
    """The first frame's masks, whatever happens."""
    first = np.stack([known.truth(0, object_id) == 1 for object_id in known.object_ids])
    for _ in range(known.clip.count):
        yield first


WAYS = {"mask": by_memory(give_mask), "click1": by_memory(click(1)), "click3": by_memory(click(3))}
BASELINES = {"boxes": by_boxes, "still": still}


def judge(
    known: KnownClip, answers: Iterator[Masks], look: Callable[[int, Masks], None]
) -> dict[int, Scores]:
    """Each object's scores; `look` gets each frame's number and masks."""
    scores = {object_id: [] for object_id in known.object_ids}
    for frame, masks in enumerate(answers):
        look(frame, masks)
        if not 0 < frame < known.clip.count - 1:
            continue
        for object_id, mask in zip(known.object_ids, masks, strict=True):
            truth = known.truth(frame, object_id)
            scores[object_id].append((float(iou(mask, truth)), boundary_f(mask, truth)))
    return {number: Scores(*np.array(each).T) for number, each in scores.items()}
