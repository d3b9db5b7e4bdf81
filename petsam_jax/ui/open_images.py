"""The images that visitors have open, in memory only: nothing is written to disk.

An image's id is a hash of its file. So the same file from two visitors is one entry, and nobody can
reach an image without having its file. Once an image is closed, requests for it raise Expired; the
page still has the file and sends it again.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Hashable

import numpy as np
from cachetools import LRUCache
from jaxtyping import Float32

from petsam_jax.predict.image_predictor import EncodedImage, LowResPrediction
from petsam_jax.ui.cache import ByteLimitedCache
from petsam_jax.ui.limits import Limits

# Predictions kept per image, so that undo, another mask and the sliders need no computation.
MAX_PREDICTIONS = 48


class OpenImage:
    """A file, its encoding, and its latest predictions."""

    def __init__(self, file: bytes, encoded: EncodedImage, unprompted: LowResPrediction):
        """`unprompted` has three masks for no prompt at all."""
        self.file, self.encoded = file, encoded
        self.height, self.width = encoded.size
        self.pet_logits: Float32[np.ndarray, "h w"] = unprompted.logits[
            unprompted.iou_pred.argmax()
        ]
        self._predictions: LRUCache[Hashable, LowResPrediction] = LRUCache(MAX_PREDICTIONS)
        self._lock = threading.Lock()
        # No prediction has more than three masks.
        self.nbytes = len(file) + encoded.nbytes + MAX_PREDICTIONS * unprompted.logits.nbytes

    def cached(self, key: Hashable, predict: Callable[[], LowResPrediction]) -> LowResPrediction:
        """The prediction under that key, computed if it is not there."""
        with self._lock:
            if key in self._predictions:
                return self._predictions[key]
        prediction = predict()
        with self._lock:
            self._predictions[key] = prediction
        return prediction

    def close(self) -> None:
        """Nothing to do: it holds only memory."""


class OpenImages(ByteLimitedCache[OpenImage]):
    """Open images by the hash of their file."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic):
        super().__init__("photo", limits.cache_bytes, limits.keep_seconds, clock=clock)

    def add(self, image: OpenImage) -> str:
        """Returns its id."""
        name = image_id(image.file)
        self.put(name, image)
        return name


def image_id(file: bytes) -> str:
    """The id under which a file is open."""
    return hashlib.sha256(file).hexdigest()[:32]
