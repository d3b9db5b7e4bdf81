"""A predictor without a model, for tests of the page: what is red is the pet.

Clicks matter as they do to a model: one on the pet adds a disc, one on background takes it away.
The masks are on a grid of 64 x 64 as those of the smallest model, so all that is between them and
the page is tested; and where they must be is plain to see.
"""

import io

import numpy as np
from PIL import Image

from petsam_jax.image_predictor import Answer, EncodedImage, ImagePredictor
from petsam_jax.load_image import load_image

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
    """`delay` is called before each answer, `asked` counts them."""

    def __init__(self, delay=lambda: None):
        self.size, self._image, self.delay, self.asked = 4 * CELLS, None, delay, 0

    def encode(self, image):
        pixels = load_image(image)
        small = np.asarray(Image.fromarray(pixels).resize((CELLS, CELLS), Image.Resampling.BOX))
        red, green, blue = np.moveaxis(small.astype(np.float32), 2, 0)
        return RedImage(pixels.shape[:2], (red - np.maximum(green, blue) - 60) / 10)

    def answer(
        self, points=None, labels=None, boxes=None, mask_input=None, *, multimask=None, image=None
    ):
        self.asked += 1
        self.delay()
        logits = image.logits if mask_input is None else np.asarray(mask_input, np.float32)
        logits = logits.copy()
        for (x, y), label in zip(points or [], labels or [], strict=True):
            logits[_disc(image.size, x, y)] = 8 if label else -8
        number = 3 if multimask else 1
        masks = np.stack([logits + 4 * i for i in range(number)]).astype(np.float32)
        ious = np.array([0.9, 0.6, 0.3], np.float32)[:number]
        if np.ndim(boxes) == 2:
            several = len(boxes)
            return Answer(
                np.stack([masks] * several),
                np.stack([ious] * several),
                np.full(several, 0.99, np.float32),
            )
        return Answer(masks, ious, np.float32(0.99)[...])


def _disc(size, x, y):
    height, width = size
    rows, columns = np.mgrid[:CELLS, :CELLS] + 0.5
    far = np.hypot(columns / CELLS - (x + 0.5) / width, rows / CELLS - (y + 0.5) / height)
    return far < DISC


def red_picture(width, height, box, format="PNG", **options):
    """The bytes of a grey picture that is red in the box x0 y0 x1 y1, sides included."""
    pixels = np.full((height, width, 3), 120, np.uint8)
    x0, y0, x1, y1 = box
    pixels[y0 : y1 + 1, x0 : x1 + 1] = 220, 30, 30
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()
