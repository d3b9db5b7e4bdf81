"""Where things are, as numbers: pure functions of static sizes or of coordinates.

Coordinates are (x, y) in pixels, the centre of the first pixel at 0.5. Maps and rotations are in
reading order: token t of a map of width w is at x = t mod w, y = t div w.
"""

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Float32

# Pixels of the image to a cell of the image embedding, and of masks within the model.
EMBED_STRIDE, MASK_STRIDE = 16, 4
TEMPERATURE = 10_000.0


def sine_map(height: int, width: int, features: int) -> Float32[np.ndarray, "h w c"]:
    """The 2-D sine encoding of DETR as SAM 2 has it: y, then x; sine and cosine interleaved.

    Positions are 1..N over N + 1e-6, times 2 pi.
    """
    half = features // 2
    pitch = TEMPERATURE ** (2 * (np.arange(half) // 2) / half)

    def encode(side):
        angle = np.arange(1, side + 1) / (side + 1e-6) * 2 * np.pi
        angle = angle[:, None] / pitch
        return np.stack([np.sin(angle[:, 0::2]), np.cos(angle[:, 1::2])], axis=-1).reshape(side, -1)

    y = np.broadcast_to(encode(height)[:, None], (height, width, half))
    x = np.broadcast_to(encode(width)[None], (height, width, half))
    return np.concatenate([y, x], axis=-1).astype(np.float32)


def sine_time(time: Float[Array, "*b"], features: int) -> Float[Array, "*b c"]:
    """A sine encoding of one number: all sines, then all cosines."""
    half = features // 2
    pitch = TEMPERATURE ** (2 * (np.arange(half) // 2) / half)
    angle = time[..., None] / jnp.asarray(pitch, jnp.float32).reshape((1,) * time.ndim + (half,))
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def fourier(
    points: Float[Array, "*b 2"], gaussian: Float[Array, "2 f"], height: int, width: int
) -> Float[Array, "*b 2*f"]:
    """Random Fourier features (Tancik et al. 2020) of (x, y) in pixels of a height x width image.

    `gaussian` is drawn once and fixed; it must be saved with the model.
    """
    unit = (
        2
        * points
        / jnp.array([width, height], jnp.float32).reshape((1,) * (points.ndim - 1) + (2,))
        - 1
    )
    # Two products and a sum: a matrix product would round the coordinates where bfloat16 or TF32 is
    # the default.
    frequencies = gaussian.reshape((2,) + (1,) * (points.ndim - 1) + (-1,))
    angle = 2 * np.pi * (unit[..., :1] * frequencies[0] + unit[..., 1:] * frequencies[1])
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def fourier_map(gaussian: Float[Array, "2 f"], height: int, width: int) -> Float[Array, "h w 2*f"]:
    """`fourier` at the centre of each cell of a map.

    The angle at (x, y) is that at (x, middle) plus that at (middle, y), so that sines along one row
    and one column suffice, by sin(a + b) = sin a cos b + cos a sin b.
    """
    along_x = np.stack([np.arange(width) + 0.5, np.full(width, height / 2)], axis=-1)
    along_y = np.stack([np.full(height, width / 2), np.arange(height) + 0.5], axis=-1)
    # Spread by products, since XLA would recompute every cell's sine inside a broadcast.
    x_of_cell = np.tile(np.eye(width, dtype=np.float32), (height, 1))
    y_of_cell = np.repeat(np.eye(height, dtype=np.float32), width, axis=0)

    def spread(of_cell, line):
        code = fourier(jnp.asarray(line, jnp.float32), gaussian, height, width)
        return jnp.split(jnp.matmul(of_cell, code, precision="highest"), 2, axis=-1)

    (sin_x, cos_x), (sin_y, cos_y) = spread(x_of_cell, along_x), spread(y_of_cell, along_y)
    code = [sin_x * cos_y + cos_x * sin_y, cos_x * cos_y - sin_x * sin_y]
    return rearrange(jnp.concatenate(code, axis=-1), "(h w) c -> h w c", h=height)


def axial_rope(
    height: int, width: int, features: int
) -> tuple[Float32[np.ndarray, "l f"], Float32[np.ndarray, "l f"]]:
    """Cosine and sine of the rotation of each pair of channels (Su et al. 2021) on a 2-D map.

    The first half of the features/2 pairs turns with x, the second with y.
    """
    pitch = 1 / TEMPERATURE ** (np.arange(0, features, 4)[: features // 4] / features)
    y, x = np.divmod(np.arange(height * width), width)
    angle = np.concatenate([np.outer(x, pitch), np.outer(y, pitch)], axis=-1)
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def bicubic_matrix(old: int, new: int, a: float = -0.75) -> Float32[np.ndarray, "new old"]:
    """Cubic convolution (Keys 1981) from `old` to `new` samples, borders clamped, no antialias.

    `jax.image.resize` has A = -0.5 and renormalises at the border instead.
    """
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centre).astype(int) - 1
    matrix = np.zeros((new, old))
    for tap in range(4):
        distance = np.abs(centre - (first + tap))
        near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
        far = a * (distance**3 - 5 * distance**2 + 8 * distance - 4)
        weight = np.where(distance <= 1, near, far)
        np.add.at(matrix, (np.arange(new), np.clip(first + tap, 0, old - 1)), weight)
    return matrix.astype(np.float32)


def resize_bicubic(
    x: Float[Array, "h w c"], height: int, width: int
) -> Float[Array, "{height} {width} c"]:
    """A map resized by `bicubic_matrix` on both axes."""
    rows, columns = bicubic_matrix(x.shape[0], height), bicubic_matrix(x.shape[1], width)
    return jnp.einsum("yh,hwc,xw->yxc", rows, x, columns, precision="highest")
