"""The model's input: a square of RGB bytes, normalised on the device.

Images stay uint8 from the decoder to the device; every jitted step, in training, evaluation and
prediction, starts with `normalise`. An image becomes square by stretching, as in SAM 2.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, UInt8

# The published constants of ImageNet's training images, RGB in 0..1.
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
# The mean as a colour, which normalises to about zero: what warps show outside the image.
MEAN_COLOUR = tuple(round(255 * mean) for mean in IMAGE_MEAN)


def normalise(image: UInt8[Array | np.ndarray, "*b h w 3"]) -> Float32[Array, "*b h w 3"]:
    """The model's input from RGB bytes: (image / 255 - mean) / std; runs under jit."""
    mean, std = (
        jnp.broadcast_to(255 * jnp.array(value, jnp.float32), image.shape)
        for value in (IMAGE_MEAN, IMAGE_STD)
    )
    return (jnp.asarray(image).astype(jnp.float32) - mean) / std
