"""The pictures that visitors have open, in memory alone: nothing is written to disk.

A picture's id is a hash of its file, so the same file of two visitors is one entry, and nobody gets
at a picture whose file they do not have. What was dropped is said to be gone, and the page, which
still has the file, sends it again.
"""

import collections
import hashlib
import threading
import time
from collections.abc import Callable, Hashable

import numpy as np
from jaxtyping import Float32

from petsam_jax.predict.image_predictor import EncodedImage, LowResPrediction
from petsam_jax.ui.cache import Shelf
from petsam_jax.ui.limits import Limits

# Answers that are remembered per picture: undoing, switching masks and moving sliders are free.
REMEMBERED = 48


class OpenPicture:
    """A file, what the model computed of it, and its latest answers."""

    def __init__(self, file: bytes, encoded: EncodedImage, pet: LowResPrediction):
        """`pet` is the answer to no prompt at all, with three masks."""
        self.file, self.encoded = file, encoded
        self.height, self.width = encoded.size
        self._answers: collections.OrderedDict[Hashable, LowResPrediction] = (
            collections.OrderedDict()
        )
        self._lock = threading.Lock()
        self.pet_logits: Float32[np.ndarray, "h w"] = pet.logits[pet.iou_pred.argmax()]
        # Three masks are the most that an answer has.
        self.nbytes = len(file) + encoded.nbytes + REMEMBERED * pet.logits.nbytes

    def remember(self, key: Hashable, answer: Callable[[], LowResPrediction]) -> LowResPrediction:
        """The answer of that key, computed unless it is known."""
        with self._lock:
            if key in self._answers:
                self._answers.move_to_end(key)
                return self._answers[key]
        computed = answer()
        with self._lock:
            self._answers[key] = computed
            while len(self._answers) > REMEMBERED:
                self._answers.popitem(last=False)
        return computed

    def close(self) -> None:
        """Memory is all that it holds."""


class OpenPictures(Shelf[OpenPicture]):
    """By the hash of the file."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic):
        super().__init__("picture", limits.cache_bytes, limits.keep_seconds, clock=clock)

    def add(self, picture: OpenPicture) -> str:
        """Its id."""
        name = picture_id(picture.file)
        self.put(name, picture)
        return name


def picture_id(file: bytes) -> str:
    """The name under which a file is open."""
    return hashlib.sha256(file).hexdigest()[:32]
