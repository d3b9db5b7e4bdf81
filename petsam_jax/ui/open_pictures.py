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

from petsam_jax.image_predictor import Answer, EncodedImage
from petsam_jax.ui.limits import Limits

# Answers that are remembered per picture: undoing, switching masks and moving sliders are free.
REMEMBERED = 48


class Gone(LookupError):
    """No such picture is open: it was dropped, or never sent."""


class OpenPicture:
    """A file, what the model computed of it, and its latest answers."""

    def __init__(self, file: bytes, encoded: EncodedImage, pet: Answer):
        """`pet` is the answer to no prompt at all, with three masks."""
        self.file, self.encoded = file, encoded
        self.height, self.width = encoded.size
        self._answers: collections.OrderedDict[Hashable, Answer] = collections.OrderedDict()
        self._lock = threading.Lock()
        self.pet_logits: Float32[np.ndarray, "h w"] = pet.logits[pet.iou_pred.argmax()]
        # Three masks are the most that an answer has.
        self.nbytes = len(file) + encoded.nbytes + REMEMBERED * pet.logits.nbytes

    def remember(self, key: Hashable, answer: Callable[[], Answer]) -> Answer:
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


class OpenPictures:
    """The least recently used go first, once they hold too many bytes or were left for too long."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic):
        self._limits, self._clock = limits, clock
        self._pictures: collections.OrderedDict[str, tuple[OpenPicture, float]] = (
            collections.OrderedDict()
        )
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        with self._lock:
            return self._held()

    def __len__(self) -> int:
        return len(self._pictures)

    def get(self, name: str) -> OpenPicture:
        """Raises Gone."""
        with self._lock:
            self._drop_old()
            if name not in self._pictures:
                raise Gone("this picture is not open any more; send it again")
            picture = self._pictures.pop(name)[0]
            self._pictures[name] = picture, self._clock()
            return picture

    def add(self, picture: OpenPicture) -> str:
        """Its id. The newest stays even if it is larger than all that may be held."""
        name = picture_id(picture.file)
        with self._lock:
            self._pictures.pop(name, None)
            self._pictures[name] = picture, self._clock()
            self._drop_old()
            while self._held() > self._limits.cache_bytes and len(self._pictures) > 1:
                self._pictures.popitem(last=False)
        return name

    def sweep(self) -> None:
        """Drop what was left for too long, even if nobody asks for anything any more."""
        with self._lock:
            self._drop_old()

    def _drop_old(self) -> None:
        oldest = self._clock() - self._limits.keep_seconds
        while self._pictures:
            name, (_, used) = next(iter(self._pictures.items()))
            if used >= oldest:
                break
            del self._pictures[name]

    def _held(self) -> int:
        return sum(picture.nbytes for picture, _ in self._pictures.values())


def picture_id(file: bytes) -> str:
    """The name under which a file is open."""
    return hashlib.sha256(file).hexdigest()[:32]
