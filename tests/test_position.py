"""Positions: what they promise on any size, and parity; test_ops_golden.py has more of it."""

import jax.numpy as jnp
import numpy as np
import pytest

from petsam_jax.models.memory_attention import rotate_halves
from petsam_jax.models.position import (
    axial_rope,
    bicubic_matrix,
    fourier,
    fourier_map,
    resize_bicubic,
    sine_map,
)
from tests.golden import assert_close, golden, nhwc, shipped


@pytest.mark.parametrize(("old", "new"), [(7, 16), (7, 7), (14, 9), (5, 64)])
def test_bicubic_keeps_constants_and_is_symmetric(old, new):
    matrix = bicubic_matrix(old, new)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-6)


def test_bicubic_to_the_same_size_changes_nothing(rng):
    x = jnp.asarray(rng.normal(size=(7, 5, 3)), jnp.float32)
    np.testing.assert_allclose(resize_bicubic(x, 7, 5), x, atol=1e-6)


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_sine_map_equals_the_reference(level):
    name = f"neck.pos{level}"
    want = nhwc(golden("image_encoder")[name])
    assert_close("image_encoder", sine_map(*want.shape[1:])[None], want, name)


def test_sine_map_turns_y_in_the_first_half_and_x_in_the_second():
    x = sine_map(5, 7, 16)
    assert x.shape == (5, 7, 16)
    np.testing.assert_array_equal(x[:, :1, :8].repeat(7, axis=1), x[:, :, :8])
    np.testing.assert_array_equal(x[:1, :, 8:].repeat(5, axis=0), x[:, :, 8:])
    assert len(np.unique(x[:, 0, 0])) == 5


def test_a_product_of_rotated_tokens_depends_on_their_offset_only(rng):
    height, width, features = 5, 7, 16
    cos, sin = map(jnp.asarray, axial_rope(height, width, features))
    q, k = (np.tile(rng.normal(size=(1, 1, 1, features)), (1, 1, 35, 1)) for _ in range(2))
    turned = [rotate_halves(jnp.asarray(x, jnp.float32), cos, sin)[0, 0] for x in (q, k)]
    scores = np.asarray(turned[0] @ turned[1].T).reshape(height, width, height, width)
    base = scores[1, 2, 3, 5]
    for dy, dx in [(1, 1), (0, -2), (-1, 0)]:
        np.testing.assert_allclose(scores[1 + dy, 2 + dx, 3 + dy, 5 + dx], base, rtol=1e-4)
    # Another offset is another score, in x and in y.
    assert abs(scores[1, 2, 3, 4] - base) > 1e-2
    assert abs(scores[1, 2, 4, 5] - base) > 1e-2


def test_rotation_keeps_lengths_and_leaves_the_first_token(rng):
    cos, sin = map(jnp.asarray, axial_rope(3, 4, 8))
    x = jnp.asarray(rng.normal(size=(2, 3, 12, 8)), jnp.float32)
    turned = rotate_halves(x, cos, sin)
    np.testing.assert_allclose(jnp.square(turned).sum(-1), jnp.square(x).sum(-1), rtol=1e-5)
    np.testing.assert_array_equal(turned[:, :, 0], x[:, :, 0])


def test_fourier_equals_the_reference():
    prompt, gaussian = golden("prompt_encoder"), _gaussian(golden("params"))
    got = fourier(jnp.asarray(prompt["coords"]), gaussian, 128, 128)
    name = "coord_pe_of_coords_no_half_pixel_shift"
    assert_close("prompt_encoder", got, prompt[name], name)
    got = fourier_map(gaussian, 8, 8)[None]
    assert_close("prompt_encoder", got, nhwc(prompt["dense_pe"]), "dense_pe")


def _gaussian(params):
    name = "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
    return jnp.asarray(params[name])


def test_fourier_map_is_fourier_at_the_centre_of_each_cell():
    gaussian, height, width = _gaussian(shipped("params")), 6, 10
    cells = fourier_map(gaussian, height, width)
    centre = jnp.array([7.5 * 16, 2.5 * 16])
    at = fourier(centre, gaussian, 16 * height, 16 * width)
    np.testing.assert_allclose(cells[2, 7], at, atol=1e-5)


def test_fourier_tells_x_from_y():
    gaussian = _gaussian(shipped("params"))
    at = [fourier(jnp.array(p), gaussian, 64, 128) for p in ([10.0, 40.0], [40.0, 10.0])]
    assert jnp.abs(at[0] - at[1]).max() > 0.1
