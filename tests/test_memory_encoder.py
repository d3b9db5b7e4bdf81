"""The memory encoder equals the reference's; its gradients and other sizes and types work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from petsam_jax.models.memory_encoder import MemoryEncoder
from tests.golden import assert_close, golden, load_part, nchw, nhwc

CHANNELS, OUT = 32, 8


def encoder(dtype="float32", seed=0, **options):
    return MemoryEncoder(CHANNELS, OUT, dtype=dtype, rngs=nnx.Rngs(seed), **options)


@pytest.fixture(scope="module")
def g():
    return golden("memory_encoder")


@nnx.jit
def run(model, image_embed, mask_prob):
    return model(image_embed, mask_prob)


def sigmoid_mask(g):
    return jax.nn.sigmoid(nhwc(g["mask_logits"]))


@pytest.mark.parametrize(
    "array, options",
    [
        ("scaled_mask.features", {}),
        ("sigmoid_inside.features", {"mask_scale": 1.0, "mask_bias": 0.0}),
    ],
)
def test_features_equal_reference(g, array, options):
    model = load_part(encoder(**options), "memory_encoder")
    got = run(model, nhwc(g["pix_feat"]), sigmoid_mask(g))
    assert_close("memory_encoder", nchw(got), g[array], array)


def test_parts_equal_reference(g):
    model = load_part(encoder(), "memory_encoder")
    mask = nnx.jit(lambda part, x: part(x))(model.mask_downsampler, 20 * sigmoid_mask(g) - 10)
    assert_close("memory_encoder", nchw(mask), g["mask_downsampler_of_scaled_mask"])
    block = nnx.jit(lambda part, x: part(x))(model.fuser[0], nhwc(g["pix_feat"]))
    assert_close("memory_encoder", nchw(block), g["fuser_layer0_of_pix_feat"])


def test_layer_scale_starts_at_almost_nothing():
    gammas = np.concatenate([block.gamma[...] for block in encoder().fuser])
    np.testing.assert_array_equal(gammas, np.float32(1e-6))


def test_one_image_serves_several_masks_on_a_rectangle(rng):
    model = load_part(encoder(), "memory_encoder")
    image = rng.normal(size=(1, 4, 6, CHANNELS)).astype(np.float32)
    mask = rng.uniform(size=(3, 64, 96, 1)).astype(np.float32)
    got = run(model, image, mask)
    assert got.shape == (3, 4, 6, OUT)
    want = run(model, np.repeat(image, 3, axis=0), mask)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_gradients_reach_every_parameter(g):
    model = load_part(encoder(), "memory_encoder")
    graph, params = nnx.split(model)
    image = jnp.asarray(nhwc(g["pix_feat"]))

    @jax.jit
    def gradients(params):
        return jax.grad(lambda p: jnp.square(nnx.merge(graph, p)(image, sigmoid_mask(g))).sum())(
            params
        )

    norms = {
        ".".join(map(str, path)): float(jnp.abs(grad[...]).max())
        for path, grad in nnx.to_flat_state(gradients(params))
    }
    assert len(norms) == 40
    assert min(norms.values()) > 1e-4, norms


def test_bfloat16_is_close(g):
    full = run(load_part(encoder(), "memory_encoder"), nhwc(g["pix_feat"]), sigmoid_mask(g))
    half = load_part(encoder("bfloat16"), "memory_encoder")
    got = run(half, nhwc(g["pix_feat"]), sigmoid_mask(g))
    assert got.dtype == jnp.float32
    assert float(jnp.abs(got - full).mean() / jnp.abs(full).mean()) < 0.02
