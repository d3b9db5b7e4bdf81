"""Masks through a clip, from prompts on any of its frames.

    predictor = VideoPredictor.from_checkpoint("runs/pets")
    session = predictor.open("dog.mp4")
    session.add_points(0, 1, points=[(320, 200)], labels=[1])
    for frame, object_ids, masks in session.propagate():
        ...
    session.add_points(57, 1, points=[(90, 50)], labels=[0])
    for frame, object_ids, masks in session.propagate(57):
        ...

Objects are named by any whole numbers; more may be added at any time. Coordinates are as in
`image_predictor`. Tracking is that of SAM 2 (Ravi et al. 2024), section 4, and its 2.1 code: each
object is tracked alone; the first prompt on a frame reads no memory, a correction of a tracked
frame does; the four nearest prompted frames are remembered, however far, and of the tracked ones
the last six in the direction of tracking, with pointers to more; the memory of a prompted frame is
made of a mask of 0 and 1; objects share no pixel; small holes are filled; an object that is
predicted to be absent has an empty mask. Two things are not SAM 2's: a tracked frame gets the last
frame's mask as a prompt, where the model was trained with it (`prompts.carried` of the config), and
where frames have more detail than the model's input, it is shown a view around the objects or the
prompt instead of the whole frame (`video/crops.py`).
"""

from pathlib import Path

from ml_collections import ConfigDict

from petsam_jax.checkpoint import load_model
from petsam_jax.files.clip import Clip
from petsam_jax.files.video_reader import ClipSource, open_clip
from petsam_jax.models.prompting import Prompting
from petsam_jax.models.sam2 import SAM2
from petsam_jax.predict.image_predictor import SHIPPED, ImagePredictor
from petsam_jax.predict.video import session_file
from petsam_jax.predict.video.session import Session
from petsam_jax.predict.video.tracker import Tracker
from petsam_jax.runtime import use_compilation_cache


class VideoPredictor:
    """Tracks objects; sessions on any number of clips share the model and what it compiles."""

    def __init__(
        self, config: ConfigDict, model: SAM2, *, binarise: bool = True, zoom: bool = True
    ):
        """The config is as for `ImagePredictor`.

        `binarise` makes memories of prompted frames from masks of 0 and 1, as SAM 2's video
        predictor does and its training does not. Without `zoom` the model is shown whole frames
        only, as in SAM 2.
        """
        self.config, self.images, self._zoom = config, ImagePredictor(config, model), zoom
        self._tracker = Tracker(model, config.data.size, Prompting.of(config.prompts), binarise)

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
        """Open a clip: path of a video or of a folder of frames, arrays, or an iterator of arrays.

        Raises ClipError, a ValueError, with what is wrong with the clip.
        """
        return Session(self.images, self._tracker, open_clip(source), self._zoom)

    def load_session(self, path: str | Path, source: ClipSource | Clip | None = None) -> Session:
        """Open a file of `Session.save_session`.

        `source` is needed if the clip was not opened by its path, or has moved. Raises
        SessionError, a ValueError, for a file that is no session, or of another clip or weights.
        """
        record, objects, recent = session_file.read(Path(path))
        clip = open_clip(record["clip"]["name"] if source is None else source)
        session_file.check(Path(path), record, clip, self._tracker.fingerprint)
        return Session(self.images, self._tracker, clip, self._zoom, objects, recent)
