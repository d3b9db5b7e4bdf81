"""Masks of an image: numpy in, numpy out, coordinates in the image's own pixels.

    predictor = ImagePredictor.from_checkpoint("runs/pets")
    predictor.set_image("cat.jpg")
    result = predictor.predict(points=[(320, 200)], labels=[1])
    result = predictor.predict(points=[(320, 200), (90, 50)], labels=[1, 0],
                               mask_input=result.low_res_logits[0])

An image is encoded once; a prompt then takes milliseconds. Images of other sizes and further points
never trigger recompilation (see `image_programs`, `prompt_inputs`). All methods may be called from
several threads; threads with images of their own pass them as `image`, since `set_image` remembers
one for the whole predictor.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float32, Shaped, UInt8
from ml_collections import ConfigDict
from PIL import Image

from petsam_jax.files.images import AnyImage, load_image
from petsam_jax.files.resample import stretch
from petsam_jax.models.image_encoder import ImageFeatures
from petsam_jax.models.position import MASK_STRIDE
from petsam_jax.models.prompts import EMPTY, LOGIT_LIMIT
from petsam_jax.predict.postprocess import fill_holes, logits_at_size, masks_at_size, remove_islands
from petsam_jax.predict.prompt_arrays import Numbers
from petsam_jax.predict.prompt_inputs import Prompt, model_prompts, power_of_two, read_prompts
from petsam_jax.predict.prompt_masks import mask_logits
from petsam_jax.runtime import use_compilation_cache

# The model and what compiles it are imported once there is one to load: who only names this class
# does not wait for them.
if TYPE_CHECKING:
    import petsam_jax.models.sam2

SHIPPED = Path(__file__).parents[1] / "weights" / "pets256_small"
# Images that an accelerator encodes at once; a CPU is as fast with one.
BATCH = 8


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedImage:
    """What is computed once per image. Immutable: any number of threads may use it."""

    size: tuple[int, int]  # height and width of the image, after its EXIF rotation
    features: ImageFeatures  # on the device; may still be computing

    @property
    def nbytes(self) -> int:
        """Memory of the features."""
        return sum(array.nbytes for array in jax.tree.leaves(self.features))


class Prediction(NamedTuple):
    """m masks (3, or the best 1) of H x W pixels; with a first axis if of n objects.

    With `return_logits`, `masks` are float32 logits.
    """

    masks: Shaped[np.ndarray, "*n m H W"]
    iou_pred: Float32[np.ndarray, "*n m"]
    object_score: Float32[np.ndarray, "*n"]  # probability that the object is there
    low_res_logits: Float32[np.ndarray, "*n m h w"]  # one of them is the next `mask_input`


class LowResPrediction(NamedTuple):
    """A `Prediction` at a quarter of the model's input, before it is enlarged and thresholded."""

    logits: Float32[np.ndarray, "*n m h w"]
    iou_pred: Float32[np.ndarray, "*n m"]
    object_score: Float32[np.ndarray, "*n"]


class ImagePredictor:
    """Predicts masks of the image that was set last, or of any other that was encoded."""

    def __init__(self, config: ConfigDict, model: "petsam_jax.models.sam2.SAM2"):
        """`config` has the size of the model's input and how its prompts are encoded."""
        from petsam_jax.models.prompting import Prompting
        from petsam_jax.predict.image_programs import ImagePrograms

        self.config, self.size = config, config.data.size
        self._programs = ImagePrograms(model, Prompting.of(config.prompts))
        self._image: EncodedImage | None = None

    @classmethod
    def from_checkpoint(
        cls,
        directory: str | Path | None = None,
        *,
        step: int | None = None,
        dtype: str | None = None,
    ) -> "ImagePredictor":
        """Open a checkpoint or a training run; None opens the weights that ship.

        It computes in `dtype`, float32 or bfloat16; None is what the model was trained in, but
        float32 where that is faster (see `compute_dtype`). Also turns on JAX's compilation cache,
        so that the next process starts faster (see `runtime`). Raises as `checkpoint.load_weights`,
        with the path and what is wrong there.
        """
        if directory is None and not SHIPPED.is_dir():
            raise FileNotFoundError(
                f"{SHIPPED}: no weights came with this copy; train some with `python train.py "
                "--config=configs/pets256_small.py` and pass the directory of that run"
            )
        from petsam_jax.checkpoint import load_model

        use_compilation_cache()
        return cls(*load_model(SHIPPED if directory is None else directory, step, dtype))

    # Images

    def encode(self, image: AnyImage) -> EncodedImage:
        """Encode an image: uint8 array (h, w[, 3 or 4]), Pillow image, path or bytes of a file.

        Raises UnfitImage, a ValueError, for a file that is no image, is damaged or has more than 40
        megapixels. Returns while the device is still computing.
        """
        return self.encode_many([image])[0]

    def encode_many(self, images: Iterable[AnyImage]) -> list[EncodedImage]:
        """Encode images of any sizes, several at once where that is faster."""
        size_and_input = [self._model_input(image) for image in images]
        most = 1 if jax.default_backend() == "cpu" else BATCH
        encoded = []
        for start in range(0, len(size_and_input), most):
            sizes, inputs = zip(*size_and_input[start : start + most], strict=True)
            batch = np.zeros((power_of_two(len(inputs)), self.size, self.size, 3), np.uint8)
            batch[: len(inputs)] = inputs
            features = self._programs.encode(batch)
            encoded += [EncodedImage(*one) for one in zip(sizes, features, strict=False)]
        return encoded

    def set_image(self, image: AnyImage) -> EncodedImage:
        """Encode an image, and remember it for calls without `image`."""
        # Not read back from `self`: another thread may have set its own meanwhile.
        encoded = self._image = self.encode(image)
        return encoded

    def set_images(self, images: Iterable[AnyImage]) -> list[EncodedImage]:
        """Encode images, and remember the last one; pass the others as `image`."""
        encoded = self.encode_many(images)
        self._image = encoded[-1] if encoded else self._image
        return encoded

    def _model_input(self, image: AnyImage) -> tuple[tuple[int, int], UInt8[np.ndarray, "s s 3"]]:
        """Height and width, and the image stretched to the model's square as in training."""
        pixels = load_image(image)
        return pixels.shape[:2], np.asarray(stretch(Image.fromarray(pixels), self.size))

    # Prompts

    def predict(
        self,
        points: Numbers | None = None,
        labels: Numbers | None = None,
        boxes: Numbers | None = None,
        mask_input: Numbers | None = None,
        *,
        prompt: Prompt | Sequence[Prompt] | None = None,
        multimask: bool | None = None,
        image: EncodedImage | None = None,
        mask_threshold: float = 0.0,
        return_logits: bool = False,
        fill_hole_area: int = 0,
        max_sprinkle_area: int = 0,
    ) -> Prediction:
        """Masks for points (x, y) with labels (1 in, 0 out), a box x0 y0 x1 y1 and earlier logits.

        One object: points (p, 2), labels (p,), boxes (4,), mask_input (h, w). Several objects: each
        with a first axis of objects, points padded with label -1. Or, instead of points and boxes,
        `prompt`: a `Prompt`, or a list with one per object. Raises ValueError for prompts that are
        malformed or outside the image.

        `multimask` True returns the decoder's three masks, False its single mask for a clear
        prompt, None the best of the three for at most one point (a box is two), else the single
        one; without clicks or a mask that one is refined (see `prompting.decode_prompts`). `image`
        defaults to the image that was set last. Holes and islands of up to the given number of
        image pixels are filled and removed, in masks but not in logits.
        """
        if return_logits and (fill_hole_area or max_sprinkle_area):
            raise ValueError("return_logits: logits have no holes or islands; set both areas to 0")
        image = self._current(image)
        low_res = self.predict_low_res(
            points, labels, boxes, mask_input, prompt=prompt, multimask=multimask, image=image
        )
        if return_logits:
            masks = logits_at_size(low_res.logits, *image.size)
        else:
            masks = masks_at_size(low_res.logits, *image.size, mask_threshold)
            masks = remove_islands(fill_holes(masks, fill_hole_area), max_sprinkle_area)
        logits = np.clip(low_res.logits, -LOGIT_LIMIT, LOGIT_LIMIT)
        return Prediction(masks, low_res.iou_pred, low_res.object_score, logits)

    def predict_low_res(
        self,
        points: Numbers | None = None,
        labels: Numbers | None = None,
        boxes: Numbers | None = None,
        mask_input: Numbers | None = None,
        *,
        prompt: Prompt | Sequence[Prompt] | None = None,
        multimask: bool | None = None,
        image: EncodedImage | None = None,
    ) -> LowResPrediction:
        """As `predict`, but not enlarged: for callers that keep many results and show few."""
        image = self._current(image)
        prompts, logits, number = read_prompts(
            points, labels, boxes, mask_input, self.size // MASK_STRIDE, prompt
        )
        model_input = model_prompts(prompts, image.size, self.size, logits)
        several = (model_input.labels != EMPTY).sum(axis=1) <= (1 if multimask is None else -1)
        decoded = self._programs.decode(image.features, model_input, several)
        masks, iou_pred, object_score = (np.asarray(x)[: len(prompts)] for x in decoded)
        which = slice(1, None) if multimask else slice(0, 1)
        masks, iou_pred = masks[:, which], iou_pred[:, which]
        if number is None:
            return LowResPrediction(masks[0], iou_pred[0], object_score[0, ...])
        return LowResPrediction(masks, iou_pred, object_score)

    def _current(self, image: EncodedImage | None) -> EncodedImage:
        """`image`, or the one that was set last."""
        image = image or self._image
        if image is None:
            raise RuntimeError("no image yet: call set_image first, or pass image=")
        return image

    def predict_pet(self, *, image: EncodedImage | None = None) -> Prediction:
        """The pet, found without any prompt: the best of three masks."""
        return self.predict(image=image)

    def mask_prompt(self, mask: Bool[np.ndarray, "H W"]) -> Float32[np.ndarray, "h w"]:
        """A mask at the image's size as a `mask_input`: logits of -10 and 10, as in training."""
        return mask_logits(mask, self.size // MASK_STRIDE)
