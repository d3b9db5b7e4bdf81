"""Predictors without a model, for tests of the page: red is pet.

As with a model, a click on the pet adds a disc and one on background removes it. Masks are on a
grid of 64 x 64, as those of the smallest model, so everything between the model and the page is
tested, with masks that are easy to predict.
"""

import io
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from petsam_jax.files.images import load_image
from petsam_jax.files.video_reader import open_clip
from petsam_jax.files.video_writer import VideoWriter
from petsam_jax.predict.image_predictor import EncodedImage, ImagePredictor, LowResPrediction
from petsam_jax.predict.postprocess import masks_at_size
from petsam_jax.predict.prompt_inputs import Prompt, model_prompts, read_prompts
from petsam_jax.predict.video.propagation import FrameMasks
from petsam_jax.predict.video.session import Session
from petsam_jax.predict.video_predictor import VideoPredictor

CELLS = 64
DISC = 0.06  # of a side


class RedImage(EncodedImage):
    def __init__(self, size, logits):
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "logits", logits)

    @property
    def nbytes(self):
        return self.logits.nbytes


class RedPredictor(ImagePredictor):
    """`delay` is called before each prediction, `predicted` counts them."""

    def __init__(self, delay=lambda: None):
        self.size, self._image, self.delay, self.predicted = 4 * CELLS, None, delay, 0

    def encode(self, image):
        pixels = load_image(image)
        small = np.asarray(Image.fromarray(pixels).resize((CELLS, CELLS), Image.Resampling.BOX))
        red, green, blue = np.moveaxis(small.astype(np.float32), 2, 0)
        return RedImage(pixels.shape[:2], (red - np.maximum(green, blue) - 60) / 10)

    def predict_low_res(
        self,
        points=None,
        labels=None,
        boxes=None,
        mask_input=None,
        *,
        prompt=None,
        multimask=None,
        image=None,
    ):
        self.predicted += 1
        self.delay()
        prompts, fed_back, number = read_prompts(points, labels, boxes, mask_input, CELLS, prompt)
        read = model_prompts(prompts, image.size, self.size, fed_back)
        count = 3 if multimask else 1
        masks = []
        for row, prompt in enumerate(prompts):
            logits = (read.mask_input[row, ..., 0] if read.has_mask[row] else image.logits).copy()
            for (x, y), label in zip(prompt.points, prompt.labels, strict=True):
                logits[_disc(image.size, x, y)] = 8 if label else -8
            masks.append([logits + 4 * i for i in range(count)])
        ious = [np.array([0.9, 0.6, 0.3], np.float32)[:count]] * len(prompts)
        scores = np.full(len(prompts), 0.99, np.float32)
        found = LowResPrediction(np.array(masks, np.float32), np.array(ious), scores)
        return found if number is not None else LowResPrediction(*(x[0, ...] for x in found))


def _disc(size, x, y):
    height, width = size
    rows, columns = np.mgrid[:CELLS, :CELLS] + 0.5
    far = np.hypot(columns / CELLS - (x + 0.5) / width, rows / CELLS - (y + 0.5) / height)
    return far < DISC


def red_image(width, height, box, format="PNG", **options):
    """The file of a grey image that is red in the box x0 y0 x1 y1, sides included."""
    pixels = np.full((height, width, 3), 120, np.uint8)
    x0, y0, x1, y1 = box
    pixels[y0 : y1 + 1, x0 : x1 + 1] = 220, 30, 30
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


class RedVideo(VideoPredictor):
    """Tracks what is red; `delay` is called before each frame."""

    def __init__(self, delay=lambda: None):
        self.images, self.delay, self.sessions = RedPredictor(), delay, []

    def open(self, source):
        self.sessions.append(RedSession(self, open_clip(source)))
        return self.sessions[-1]


class RedSession(Session):
    """The prompt on the nearest frame counts on tracked frames too."""

    def __init__(self, predictor, clip):
        self.predictor, self.clip = predictor, clip
        self.prompts, self.found = {}, {}  # by object, by frame; masks

    @property
    def object_ids(self):
        return sorted(self.prompts)

    def prompt(self, frame, object_id):
        return self.prompts.get(object_id, {}).get(frame)

    def _add(self, frame, object_id, prompt, fed_back=False):
        self.clip.check(frame)
        self.prompts.setdefault(object_id, {})[frame] = prompt
        return self._mask(frame, prompt)

    def _mask(self, frame, prompt):
        images = self.predictor.images
        image = images.encode(self.clip.read(frame))
        clicks = Prompt(prompt.points, prompt.labels)
        low_res = images.predict_low_res(prompt=clicks, image=image)
        mask = masks_at_size(low_res.logits[0], *self.clip.size)
        if prompt.box is not None:
            x0, y0, x1, y1 = map(int, prompt.box)
            inside = np.zeros_like(mask)
            inside[y0 : y1 + 1, x0 : x1 + 1] = True
            mask &= inside
        return mask

    def clear_frame(self, frame, object_id=None):
        del self.prompts[object_id][frame]

    def remove_object(self, object_id):
        del self.prompts[object_id]
        self.found = {key: mask for key, mask in self.found.items() if key[1] != object_id}

    def propagate(self, start=None, end=None, *, reverse=False):
        step = -1 if reverse else 1
        start = 0 if start is None else start
        end = self.clip.count - 1 if end is None else end
        for frame in range(start, end + step, step):
            self.predictor.delay()
            for each, prompts in self.prompts.items():
                if frame not in prompts:
                    near = prompts[min(prompts, key=lambda at, frame=frame: abs(at - frame))]
                    clicks = Prompt(near.points, near.labels)
                    self.found[frame, each] = self._mask(frame, clicks)
            yield self.masks(frame)

    def masks(self, frame):
        self.clip.check(frame)
        masks = np.zeros((len(self.prompts), *self.clip.size), bool)
        for row, each in enumerate(self.object_ids):
            prompt = self.prompt(frame, each)
            if prompt is not None:
                mask = self._mask(frame, prompt)
            else:
                mask = self.found.get((frame, each), masks[row])
            masks[row] = mask & ~masks[:row].any(axis=0)
        return FrameMasks(frame, self.object_ids, masks)

    def scores(self, frame):
        known = [each for each in self.prompts if frame in self.prompts[each]]
        known += [each for at, each in self.found if at == frame]
        return dict.fromkeys(known, 0.99)


def red_clip(count=12, size=(160, 90), side=30, ending=".mp4", fps=12):
    """The file of a clip, and its red boxes x0 y0 x1 y1, which move right by 6 pixels per frame."""
    width, height = size
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"clip{ending}"
        boxes = [(10 + 6 * i, 30, 10 + 6 * i + side - 1, 30 + side - 1) for i in range(count)]
        with VideoWriter(path, (height, width), fps) as writer:
            for box in boxes:
                writer.write(np.array(Image.open(io.BytesIO(red_image(width, height, box)))))
        return path.read_bytes(), boxes
