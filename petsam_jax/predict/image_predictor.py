"""Masks from a checkpoint: numpy in, numpy out, coordinates in the picture's own pixels.

    predictor = ImagePredictor.from_checkpoint("runs/pets")
    predictor.set_image("cat.jpg")
    said = predictor.predict(points=[(320, 200)], labels=[1])
    said = predictor.predict(points=[(320, 200), (90, 50)], labels=[1, 0],
                             mask_input=said.low_res_logits[0])

A picture is encoded once; a prompt then takes milliseconds. Two programs are compiled, one for
pictures and one for prompts, each when it is first needed; neither a picture's size nor a further
point compiles anything anew (see `prompt_inputs`). All methods may be called from several
threads; threads that work on different pictures give them as `image`, since `set_image` remembers
one picture for the whole predictor.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float32, Shaped, UInt8
from ml_collections import ConfigDict
from PIL import Image

from petsam_jax.checkpoint import load_model
from petsam_jax.files.images import AnyImage, load_image
from petsam_jax.files.resample import stretch
from petsam_jax.models.image_encoder import ImageFeatures
from petsam_jax.models.layers import Conv, Linear, UpConv
from petsam_jax.models.position import MASK_STRIDE
from petsam_jax.models.prompting import Prompting, decode_prompts
from petsam_jax.models.prompts import EMPTY, Prompts
from petsam_jax.models.sam2 import SAM2
from petsam_jax.normalise import normalise
from petsam_jax.predict.postprocess import fill_holes, logits_at_size, masks_at_size, remove_islands
from petsam_jax.predict.prompt_arrays import Numbers
from petsam_jax.predict.prompt_inputs import Prompt, model_prompts, power_of_two, read_prompts
from petsam_jax.predict.prompt_masks import mask_logits
from petsam_jax.runtime import use_compilation_cache

SHIPPED = Path(__file__).parents[1] / "weights" / "pets256_small"
# What a step reads of the model: each array that a call passes costs it more than a microsecond.
ENCODER = ("image_encoder",)
DECODER = ("prompt_encoder", "mask_decoder", "obj_ptr_proj", "no_obj_ptr", "no_mem_embed")
# Pictures that an accelerator encodes at once; a CPU is as fast with one.
BATCH = 8
# Beyond this, logits that are fed back say nothing more, as in SAM 2.
LOGIT_LIMIT = 32.0


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedImage:
    """What is computed once per picture. Immutable: any number of threads may use it."""

    size: tuple[int, int]  # height and width of the picture, once it is turned as EXIF says
    features: ImageFeatures  # on the device; may still be computing

    @property
    def nbytes(self) -> int:
        """Memory of the features."""
        return sum(array.nbytes for array in jax.tree.leaves(self.features))


class Prediction(NamedTuple):
    """m masks (3, or the best 1) of a picture of H x W pixels; of n objects if asked for several.

    `masks` are logits instead, float32, if that was asked for.
    """

    masks: Shaped[np.ndarray, "*n m H W"]
    iou_pred: Float32[np.ndarray, "*n m"]
    object_score: Float32[np.ndarray, "*n"]  # probability that the object is there at all
    low_res_logits: Float32[np.ndarray, "*n m h w"]  # one of them is the next `mask_input`


class LowResPrediction(NamedTuple):
    """A `Prediction` at a quarter of the model's input, before it is enlarged and thresholded."""

    logits: Float32[np.ndarray, "*n m h w"]
    iou_pred: Float32[np.ndarray, "*n m"]
    object_score: Float32[np.ndarray, "*n"]


class ImagePredictor:
    """A model and the picture that was set last."""

    def __init__(self, config: ConfigDict, model: SAM2):
        """The config says how large the input is and how prompts are said."""
        self.config, self.size = config, config.data.size
        self._prompting = Prompting.of(config)
        self._definition, state = nnx.split(rounded_model(model))
        arrays = nnx.to_pure_dict(state)
        self._outline = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arrays)
        self._encoder = {part: arrays[part] for part in ENCODER}
        self._decoder = {part: arrays[part] for part in DECODER}
        self._encode, self._decode = jax.jit(self._encode_step), jax.jit(self._decode_step)
        self._image: EncodedImage | None = None

    @classmethod
    def from_checkpoint(
        cls,
        directory: str | Path | None = None,
        *,
        step: int | None = None,
        dtype: str | None = None,
    ) -> "ImagePredictor":
        """Of a checkpoint or a training run's workdir; None for the weights that ship.

        It computes in `dtype`, float32 or bfloat16; None for what the model was trained in, but
        float32 where that is faster (see `compute_dtype`).

        From then on JAX keeps what it compiles, for the next process to find (see `runtime`).
        Raises as `checkpoint.load_weights` does, with the path and what is wrong there.
        """
        if directory is None and not SHIPPED.is_dir():
            raise FileNotFoundError(
                f"{SHIPPED}: no weights came with this copy; train some with `python train.py "
                "--config=configs/pets256_small.py` and give the directory of that run"
            )
        use_compilation_cache()
        return cls(*load_model(SHIPPED if directory is None else directory, step, dtype))

    # Pictures

    def encode(self, image: AnyImage) -> EncodedImage:
        """Encode a picture: uint8 array (h, w[, 3 or 4]), Pillow image, path or bytes of a file.

        Raises UnfitImage, a ValueError, for what is no picture, is damaged or has more than 40
        megapixels. Returns as soon as the device is at work.
        """
        return self.encode_many([image])[0]

    def encode_many(self, images: Iterable[AnyImage]) -> list[EncodedImage]:
        """Encode pictures of any sizes, several at once where the device gains by it."""
        size_and_input = [self._model_input(image) for image in images]
        most = 1 if jax.default_backend() == "cpu" else BATCH
        encoded = []
        for start in range(0, len(size_and_input), most):
            sizes, inputs = zip(*size_and_input[start : start + most], strict=True)
            batch = np.zeros((power_of_two(len(inputs)), self.size, self.size, 3), np.uint8)
            batch[: len(inputs)] = inputs
            features = self._encode(self._encoder, batch)
            encoded += [EncodedImage(*one) for one in zip(sizes, features, strict=False)]
        return encoded

    def set_image(self, image: AnyImage) -> EncodedImage:
        """Encode a picture, and remember it for calls that name none."""
        # Not read back from `self`: another thread may have set its own meanwhile.
        encoded = self._image = self.encode(image)
        return encoded

    def set_images(self, images: Iterable[AnyImage]) -> list[EncodedImage]:
        """Encode pictures, and remember the last one; give one of them as `image` to a call."""
        encoded = self.encode_many(images)
        self._image = encoded[-1] if encoded else self._image
        return encoded

    def _model_input(self, image: AnyImage) -> tuple[tuple[int, int], UInt8[np.ndarray, "s s 3"]]:
        """Height and width, and the image stretched to the model's square as in training."""
        pixels = load_image(image)
        return pixels.shape[:2], np.asarray(stretch(Image.fromarray(pixels), self.size))

    def _encode_step(
        self, parameters: dict, image: UInt8[Array, "b h w 3"]
    ) -> tuple[ImageFeatures, ...]:
        features = self._model(parameters).encode_image(normalise(image))
        return tuple(jax.tree.map(lambda x, i=i: x[i : i + 1], features) for i in range(len(image)))

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

        One object: points (p, 2), labels (p,), boxes (4,), mask_input (h, w). Several at once: each
        with a first axis of objects, points padded with label -1. Or, instead of points and boxes,
        `prompt`: a `Prompt`, or a list of them with an object each. Raises ValueError for prompts
        outside the image and for anything else that is no prompt.

        `multimask` True returns the decoder's three masks, False its single mask for a clear
        prompt, None the best of the three for at most one point (a box is two), else the single
        one. That one mask is refined where there were neither clicks nor a mask: it is fed back as
        often as the checkpoint's config says (see `prompting.decode_prompts`). `image` defaults to
        the image that was set last. Holes and islands of up to the given number of image pixels are
        filled and removed, in masks but not in logits.
        """
        if return_logits and (fill_hole_area or max_sprinkle_area):
            raise ValueError(
                "return_logits: only masks have holes and islands; set both areas to 0"
            )
        image = image or self._image
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
        image = image or self._image
        if image is None:
            raise RuntimeError("no image yet: call set_image first, or pass image=")
        prompts, logits, number = read_prompts(
            points, labels, boxes, mask_input, self.size // MASK_STRIDE, prompt
        )
        model_input = model_prompts(prompts, image.size, self.size, logits)
        several = (model_input.labels != EMPTY).sum(axis=1) <= (1 if multimask is None else -1)
        decoded = self._decode(self._decoder, image.features, model_input, several)
        logits, iou_pred, object_score = (np.asarray(x)[: len(prompts)] for x in decoded)
        which = slice(1, None) if multimask else slice(0, 1)
        logits, iou_pred = logits[:, which], iou_pred[:, which]
        if number is None:
            return LowResPrediction(logits[0], iou_pred[0], object_score[0, ...])
        return LowResPrediction(logits, iou_pred, object_score)

    def predict_pet(self, *, image: EncodedImage | None = None) -> Prediction:
        """The pet, found without any prompt: the best of three masks."""
        return self.predict(image=image)

    def mask_prompt(self, mask: Bool[np.ndarray, "H W"]) -> Float32[np.ndarray, "h w"]:
        """A mask at the image's size as a `mask_input`: logits of -10 and 10, as in training."""
        return mask_logits(mask, self.size // MASK_STRIDE)

    def _decode_step(
        self,
        parameters: dict,
        features: ImageFeatures,
        prompts: Prompts,
        several: Bool[Array, " b"],
    ) -> tuple[Float32[Array, "b 4 h w"], Float32[Array, "b 4"], Float32[Array, " b"]]:
        """Logits and predicted IoUs of the chosen mask and of the three, and the object's score."""
        model = self._model(parameters)
        limited = jnp.clip(prompts.mask_input, -LOGIT_LIMIT, LOGIT_LIMIT)
        decoded = decode_prompts(
            model,
            model.attend_memory(features.image_embed),
            features.high_res_feats,
            prompts._replace(mask_input=limited),
            self._prompting,
            multimask=several,
        )
        logits = jnp.concatenate([decoded.mask_logits, decoded.all_logits[:, 1:]], axis=1)
        ious = jnp.concatenate([decoded.iou_pred, decoded.all_ious[:, 1:]], axis=1)
        return logits, ious, jax.nn.sigmoid(decoded.object_logit[:, 0])

    def _model(self, parameters: dict) -> SAM2:
        """The model with some parts' arrays, which are all that a step may read."""
        return nnx.merge(self._definition, self._outline | parameters)


def rounded_model(model: SAM2) -> SAM2:
    """A copy with the kernels as products read them, so that no call has to round them again."""
    definition, state = nnx.split(model)
    # By way of the bare arrays: with `state` itself the copy would share the model's variables.
    rounded = nnx.merge(definition, nnx.to_pure_dict(state))
    for _, module in nnx.iter_modules(rounded):
        if isinstance(module, Linear | Conv | UpConv) and module.kernel.dtype != module.dtype:
            # By numpy, since JAX would compile a program for each shape.
            kernel = np.asarray(module.kernel[...], module.dtype)
            module.kernel.set_value(jax.device_put(kernel))
    return rounded
