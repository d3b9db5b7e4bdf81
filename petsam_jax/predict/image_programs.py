"""The compiled half of image prediction: two programs, each compiled when it is first needed.

In: images at the model's size, and prompts. Out: features, and masks at stride 4. A further image
or prompt of the same shapes never triggers recompilation.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, UInt8

from petsam_jax.models.image_encoder import ImageFeatures
from petsam_jax.models.prompting import Prompting, decode_prompts
from petsam_jax.models.prompts import LOGIT_LIMIT, Prompts
from petsam_jax.models.sam2 import SAM2
from petsam_jax.normalise import normalise
from petsam_jax.predict.model_parts import ModelParts

# The parts of the model that each program reads.
ENCODER = ("image_encoder",)
DECODER = ("prompt_encoder", "mask_decoder", "obj_ptr_proj", "no_obj_ptr", "no_mem_embed")


class ImagePrograms:
    """A model's steps for single images. Any number of threads may use it."""

    def __init__(self, model: SAM2, prompting: Prompting):
        self._prompting = prompting
        self.parts = ModelParts(model, {"encode": ENCODER, "decode": DECODER})
        self._encode, self._decode = jax.jit(self._encode_step), jax.jit(self._decode_step)

    def encode(self, image: UInt8[np.ndarray, "b h w 3"]) -> tuple[ImageFeatures, ...]:
        """The features of each image; returns while the device is still computing."""
        return self._encode(self.parts["encode"], image)

    def decode(
        self, features: ImageFeatures, prompts: Prompts, several: Bool[Array | np.ndarray, " b"]
    ) -> tuple[Float32[Array, "b 4 h w"], Float32[Array, "b 4"], Float32[Array, " b"]]:
        """Logits and predicted IoUs of the chosen mask and of the three, and the object's score.

        `several` are the objects for which the best of the three is chosen.
        """
        return self._decode(self.parts["decode"], features, prompts, several)

    def _encode_step(self, parameters: dict, image) -> tuple[ImageFeatures, ...]:
        features = self.parts.model(parameters).encode_image(normalise(image))
        return tuple(jax.tree.map(lambda x, i=i: x[i : i + 1], features) for i in range(len(image)))

    def _decode_step(self, parameters: dict, features: ImageFeatures, prompts: Prompts, several):
        model = self.parts.model(parameters)
        limited = jnp.clip(prompts.mask_input, -LOGIT_LIMIT, LOGIT_LIMIT)
        output = decode_prompts(
            model,
            model.attend_memory(features.image_embed),
            features.high_res_feats,
            prompts._replace(mask_input=limited),
            self._prompting,
            multimask=several,
        )
        logits = jnp.concatenate([output.mask_logits, output.all_logits[:, 1:]], axis=1)
        ious = jnp.concatenate([output.iou_pred, output.all_ious[:, 1:]], axis=1)
        return logits, ious, jax.nn.sigmoid(output.object_logit[:, 0])
