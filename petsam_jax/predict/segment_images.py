"""Images in, files of their masks out: what `petsam segment` does once its flags are read.

While the device works on some images, threads read the next ones and write the last ones. No more
than these are held, however many images there are.
"""

import itertools
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from petsam_jax.files.annotations import Labelled
from petsam_jax.files.find_images import ImageFile
from petsam_jax.files.formats import Style
from petsam_jax.files.images import UnfitImage, load_image
from petsam_jax.files.result_files import WholeRun, write_files
from petsam_jax.predict.image_predictor import BATCH, EncodedImage, ImagePredictor
from petsam_jax.predict.prompt_inputs import Prompt

# Threads that read, and as many that write.
THREADS = 2


class MaskOptions(NamedTuple):
    """What becomes of predicted masks; the first three are as `ImagePredictor.predict` has them."""

    mask_threshold: float = 0.0
    fill_hole_area: int = 0
    max_sprinkle_area: int = 0
    min_score: float = 0.0  # objects with a smaller probability of being there are dropped


def find_objects(
    predictor: ImagePredictor,
    image: EncodedImage,
    prompts: Sequence[Prompt],
    options: MaskOptions,
    name: str,
) -> Labelled:
    """The objects of one image, one per prompt; raises ValueError for prompts that do not fit."""
    found = predictor.predict(
        prompt=prompts,
        image=image,
        mask_threshold=options.mask_threshold,
        fill_hole_area=options.fill_hole_area,
        max_sprinkle_area=options.max_sprinkle_area,
    )
    kept = found.object_score >= options.min_score
    return Labelled(name, found.masks[kept, 0], found.iou_pred[kept, 0], found.object_score[kept])


class SegmentRun:
    """Segments images one after the other and writes their files."""

    def __init__(
        self,
        predictor: ImagePredictor,
        files: Sequence[ImageFile],
        out: Path,
        formats: Collection[str],
        style: Style,
        report: Callable[[str], None] = lambda line: None,
    ):
        """`report` is called with a line for each image that is done."""
        self._predictor, self._files, self._report = predictor, files, report
        self._out, self._formats, self._style = out, formats, style
        self._whole, self._start, self._done = WholeRun(formats, style), 0.0, 0
        self.failures: dict[Path, str] = {}

    @property
    def done(self) -> int:
        """How many images were processed, failed ones included."""
        return self._done

    def __call__(self, prompts: Sequence[Prompt], options: MaskOptions) -> None:
        """Write all files, of the objects that these prompts find in each image.

        Images that fail are in `failures`, with the reason. Raises OSError if it cannot write.
        """
        # An accelerator takes several images at once, and a CPU is as fast with one.
        most = 1 if jax.default_backend() == "cpu" else BATCH
        writing: list[Future] = []
        with ThreadPoolExecutor(THREADS) as pool:
            try:
                for batch in _batches(_read_ahead(self._files, 2 * most), most):
                    before, writing = writing, []
                    for file, image, found in self._found(batch, prompts, options):
                        job = self._out, file, self._formats, image, found, self._style
                        writing.append(pool.submit(write_files, *job))
                        self._whole.add(found)
                    _finish(before)
                _finish(writing)
            finally:
                # Also when the run is interrupted, for the images so far.
                self._whole.write(self._out)

    def _found(
        self,
        batch: list[tuple[ImageFile, Future]],
        prompts: Sequence[Prompt],
        options: MaskOptions,
    ) -> Iterator[tuple[ImageFile, UInt8[np.ndarray, "h w 3"], Labelled]]:
        images = []
        for file, reading in batch:
            try:
                images.append((file, reading.result()))
            except UnfitImage as unfit:
                self._fail(file, unfit.reason)
        encoded = self._predictor.encode_many([image for _, image in images])
        for (file, image), one in zip(images, encoded, strict=True):
            try:
                found = find_objects(self._predictor, one, prompts, options, file.label)
            except ValueError as error:
                self._fail(file, str(error))
                continue
            self._done += 1
            self._report(f"{self._position()} {file.path}: {_words(found)}")
            yield file, image, found

    def _fail(self, file: ImageFile, reason: str) -> None:
        self._done += 1
        self.failures[file.path] = reason
        self._report(f"{self._position()} {file.path}: FAILED: {reason}")

    def _position(self) -> str:
        now, left = time.monotonic(), len(self._files) - self._done
        # The first image compiles the programs, so the pace is that of the others.
        self._start = now if self._done == 1 else self._start
        rest = ""
        if left and self._done > 1:
            seconds = (now - self._start) / (self._done - 1) * left
            rest = f", {tqdm.format_interval(seconds)} left"
        return f"[{self._done}/{len(self._files)}{rest}]"


def _read_ahead(files: Iterable[ImageFile], number: int) -> Iterator[tuple[ImageFile, Future]]:
    """The files in their order, each with its image or the error; `number` are read ahead."""
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
    """Each object's share of the image, and the IoU that the model predicts for its mask."""
    shares = found.masks.mean(axis=(1, 2)) if len(found.masks) else ()
    parts = [
        f"{share:.1%} of the image (predicted IoU {iou:.2f})" if share else "nothing found"
        for share, iou in zip(shares, found.iou_pred, strict=True)
    ]
    return "; ".join(parts) or "nothing found"
