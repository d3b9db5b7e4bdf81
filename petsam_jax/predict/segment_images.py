"""Pictures in, files of their masks out: what `petsam segment` does once its flags are read.

While the device works on some pictures, threads read the next ones and write the last ones; no more
than that is held, however many pictures there are.
"""

import itertools
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, UInt8
from tqdm import tqdm

from petsam_jax.files.annotations import Labelled
from petsam_jax.files.find_images import ImageFile
from petsam_jax.files.formats import Style
from petsam_jax.files.images import UnfitImage, load_image
from petsam_jax.files.result_files import WholeRun, write_files
from petsam_jax.predict.image_predictor import BATCH, EncodedImage, ImagePredictor

# Threads that read, and as many that write.
THREADS = 2


class Said(NamedTuple):
    """The prompts for every picture, and what is done to the masks."""

    points: Sequence[tuple[float, float]] = ()
    labels: Sequence[int] = ()
    boxes: Sequence[tuple[float, float, float, float]] = ()  # beside points at most one
    mask: Bool[np.ndarray, "h w"] | None = None  # a first guess
    mask_threshold: float = 0.0
    fill_hole_area: int = 0
    max_sprinkle_area: int = 0
    min_score: float = 0.0  # objects that are there with a smaller probability are left out


def find_objects(predictor: ImagePredictor, image: EncodedImage, said: Said, name: str) -> Labelled:
    """The objects of one picture; raises ValueError for prompts that do not fit it."""
    prompts: dict[str, Any] = {}
    if said.points:
        prompts |= {"points": said.points, "labels": said.labels}
    if said.boxes:
        prompts["boxes"] = said.boxes if len(said.boxes) > 1 else said.boxes[0]
    if said.mask is not None:
        if said.mask.shape != image.size:
            (height, width), (mask_height, mask_width) = image.size, said.mask.shape
            raise ValueError(
                f"the picture has {width} x {height} pixels, the --mask {mask_width} x "
                f"{mask_height}; they must be equal"
            )
        prompts["mask_input"] = predictor.mask_prompt(said.mask)
    found = predictor.predict(
        **prompts,
        image=image,
        mask_threshold=said.mask_threshold,
        fill_hole_area=said.fill_hole_area,
        max_sprinkle_area=said.max_sprinkle_area,
    )
    score = found.object_score.reshape(-1)
    there = score >= said.min_score
    masks, iou_pred = found.masks.reshape(-1, *image.size), found.iou_pred.reshape(-1)
    return Labelled(name, masks[there], iou_pred[there], score[there])


class Run:
    """All pictures of a run, and how far it is."""

    def __init__(
        self,
        predictor: ImagePredictor,
        files: Sequence[ImageFile],
        out: Path,
        formats: Collection[str],
        style: Style,
        tell: Callable[[str], None] = lambda line: None,
    ):
        """`tell` gets a line for each picture as it is done."""
        self._predictor, self._files, self._tell = predictor, files, tell
        self._out, self._formats, self._style = out, formats, style
        self._whole, self._start, self._done = WholeRun(formats, style), 0.0, 0
        self.failures: dict[Path, str] = {}

    @property
    def done(self) -> int:
        """Pictures that are dealt with, the failed ones included."""
        return self._done

    def __call__(self, said: Said) -> None:
        """Write all files. What fails of a picture is in `failures`; OSError if it cannot write."""
        # An accelerator takes several pictures at once, and a CPU is as fast with one.
        most = 1 if jax.default_backend() == "cpu" else BATCH
        writing: list[Future] = []
        with ThreadPoolExecutor(THREADS) as pool:
            try:
                for batch in _batches(_read_ahead(self._files, 2 * most), most):
                    before, writing = writing, []
                    for file, image, found in self._found(batch, said):
                        job = self._out, file, self._formats, image, found, self._style
                        writing.append(pool.submit(write_files, *job))
                        self._whole.add(found)
                    _finish(before)
                _finish(writing)
            finally:
                # Also of a run that is stopped, for the pictures that are done.
                self._whole.write(self._out)

    def _found(
        self, batch: list[tuple[ImageFile, Future]], said: Said
    ) -> Iterator[tuple[ImageFile, UInt8[np.ndarray, "h w 3"], Labelled]]:
        pictures = []
        for file, reading in batch:
            try:
                pictures.append((file, reading.result()))
            except UnfitImage as unfit:
                self._fail(file, unfit.reason)
        encoded = self._predictor.encode_many([image for _, image in pictures])
        for (file, image), one in zip(pictures, encoded, strict=True):
            try:
                found = find_objects(self._predictor, one, said, file.label)
            except ValueError as error:
                self._fail(file, str(error))
                continue
            self._done += 1
            self._tell(f"{self._counted()} {file.path}: {_words(found)}")
            yield file, image, found

    def _fail(self, file: ImageFile, reason: str) -> None:
        self._done += 1
        self.failures[file.path] = reason
        self._tell(f"{self._counted()} {file.path}: FAILED: {reason}")

    def _counted(self) -> str:
        now, left = time.monotonic(), len(self._files) - self._done
        # Programs are compiled for the first picture, so that the pace begins with the second.
        self._start = now if self._done == 1 else self._start
        rest = ""
        if left and self._done > 1:
            seconds = (now - self._start) / (self._done - 1) * left
            rest = f", {tqdm.format_interval(seconds)} left"
        return f"[{self._done}/{len(self._files)}{rest}]"


def _read_ahead(files: Iterable[ImageFile], number: int) -> Iterator[tuple[ImageFile, Future]]:
    """The files in their order, each with its picture or the error; `number` are read ahead."""
    waiting: deque[tuple[ImageFile, Future]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        for file in files:
            waiting.append((file, pool.submit(load_image, file.path)))
            if len(waiting) > number:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()


def _batches(items: Iterator, size: int) -> Iterator[list]:
    while batch := list(itertools.islice(items, size)):
        yield batch


def _finish(writing: Iterable[Future]) -> None:
    for job in writing:
        job.result()


def _words(found: Labelled) -> str:
    """How much of the picture each object is and how good the model thinks its mask to be."""
    shares = found.masks.mean(axis=(1, 2)) if len(found.masks) else ()
    told = [
        f"{share:.1%} of it (IoU {iou:.2f} expected)" if share else "nothing found"
        for share, iou in zip(shares, found.iou_pred, strict=True)
    ]
    return "; ".join(told) or "nothing found"
