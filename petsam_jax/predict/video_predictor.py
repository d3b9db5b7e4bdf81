"""Masks through a clip, from prompts on any of its frames.

    predictor = VideoPredictor.from_checkpoint("runs/pets")
    session = predictor.open("dog.mp4")
    session.add_points(0, 1, points=[(320, 200)], labels=[1])
    for frame, object_ids, masks in session.propagate():
        ...
    session.add_points(57, 1, points=[(90, 50)], labels=[0])
    for frame, object_ids, masks in session.propagate(57):
        ...

Objects are whatever whole numbers the caller names them by; more may come at any time. Coordinates
are as in `image_predictor`. SAM 2 (Ravi et al. 2024), section 4, as its 2.1 tracks: each object by
itself; a frame's first prompt reads no memory, a correction of a tracked frame does; frames with
prompts are remembered wherever they are, the nearest four of them, and of tracked ones the last
six in the direction of tracking, with pointers to more; the memory of a prompted frame is made of a
mask of 0 and 1; objects share no pixel; small holes are filled; an object that is judged absent has
an empty mask. What SAM 2 does not do: a tracked frame is also shown the mask of the frame before,
where the model was trained with it (`prompts.carried` of the config), and where frames have more
detail than the model's input, it is looked at around where the objects were, or what was prompted
is (`video.views`).
"""

from pathlib import Path

from ml_collections import ConfigDict

from petsam_jax.checkpoint import load_model
from petsam_jax.files.clip import Clip
from petsam_jax.files.video_reader import ClipSource, open_clip
from petsam_jax.models.sam2 import SAM2
from petsam_jax.predict.image_predictor import SHIPPED, ImagePredictor
from petsam_jax.predict.video import session_file
from petsam_jax.predict.video.session import Session
from petsam_jax.predict.video.tracker import Tracker
from petsam_jax.runtime import use_compilation_cache


class VideoPredictor:
    """A model. Sessions on any number of clips share it and what it compiles."""

    def __init__(
        self, config: ConfigDict, model: SAM2, *, binarise: bool = True, zoom: bool = True
    ):
        """The config is as for `ImagePredictor`.

        `binarise` makes memories of prompted frames from masks of 0 and 1, as SAM 2's video
        predictor does and its training does not. Without `zoom` all frames are looked at whole, as
        SAM 2 does.
        """
        self.config, self.images, self._zoom = config, ImagePredictor(config, model), zoom
        self._tracker = Tracker(config, model, binarise)

    @classmethod
    def from_checkpoint(
        cls,
        directory: str | Path | None = None,
        *,
        step: int | None = None,
        dtype: str | None = None,
    ) -> "VideoPredictor":
        """As `ImagePredictor.from_checkpoint`, and raises as that does."""
        use_compilation_cache()
        return cls(*load_model(SHIPPED if directory is None else directory, step, dtype))

    def open(self, source: ClipSource | Clip) -> Session:
        """A clip: the path of a video or of a folder of frames, arrays, or an iterator of arrays.

        Raises ClipError, a ValueError, with what is wrong with the clip (see `video.frames`).
        """
        return Session(self.images, self._tracker, open_clip(source), self._zoom)

    def load_session(self, path: str | Path, source: ClipSource | Clip | None = None) -> Session:
        """What `Session.save_session` wrote; of a clip without a path, or moved, with its source.

        Raises SessionError, a ValueError, where the file is none, or of another clip or weights.
        """
        told, objects, kept = session_file.read(Path(path))
        clip = open_clip(told["clip"]["name"] if source is None else source)
        session_file.check(Path(path), told, clip, self._tracker.fingerprint)
        return Session(self.images, self._tracker, clip, self._zoom, objects, kept)
