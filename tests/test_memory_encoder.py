"""The memory encoder, alone and as SAM 2 calls it, equals the reference's; sizes and types work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from petsam_jax.models.memory_encoder import MemoryEncoder
from petsam_jax.models.position import sine_map
from tests.golden import (
    assert_close,
    golden,
    golden_model,
    golden_params,
    load_part,
    nchw,
    nhwc,
    outputs,
    run,
    shipped,
    shipped_params,
)

CHANNELS, OUT = 32, 8


def encoder(dtype="float32", seed=0, **options):
    return MemoryEncoder(CHANNELS, OUT, dtype=dtype, rngs=nnx.Rngs(seed), **options)


def shipped_encoder(dtype="float32"):
    return load_part(encoder(dtype), shipped_params(), "memory_encoder")


@pytest.fixture(scope="module")
def g():
    return shipped("memory_encoder")


def sigmoid_mask(g):
    return jax.nn.sigmoid(nhwc(g["mask_logits"]))


# Parity


@pytest.fixture(scope="module")
def found():
    """What ours computes, under the names of the golden arrays."""
    g, params = golden("memory_encoder"), golden_params()
    image, mask = nhwc(g["pix_feat"]), sigmoid_mask(g)
    model = load_part(encoder(), params, "memory_encoder")
    unscaled = load_part(encoder(mask_scale=1.0, mask_bias=0.0), params, "memory_encoder")
    found = {
        "scaled_mask.features": run(model, image, mask),
        "sigmoid_inside.features": run(unscaled, image, mask),
        "mask_downsampler_of_scaled_mask": run(model.mask_downsampler, 20 * mask - 10),
        "fuser_layer0_of_pix_feat": run(model.fuser[0], image),
        "pos_enc": np.repeat(sine_map(8, 8, OUT)[None], 2, axis=0),
    }
    return {name: nchw(array) for name, array in (found | new_memories(g)).items()}


def new_memories(g):
    """What SAM 2 makes of logits; that the mask comes from points counts where it is binarised."""
    arrays = nhwc(g["pix_feat"]), g["mask_logits"], g["object_score_logits"]
    encode = jax.jit(golden_model().encode_memory, static_argnames="binarise")
    found = {}
    for binarise, points in ((False, False), (False, True), (True, True)):
        name = f"encode_new_memory.binarize_{binarise}.from_pts_{points}.features"
        found[name] = encode(*map(jnp.asarray, arrays), binarise=binarise)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", outputs("memory_encoder", {"pix_feat", "mask_logits", "object_score_logits"})
)
def test_every_array_equals_the_reference(found, name):
    assert_close("memory_encoder", found[name], golden("memory_encoder")[name], name)


# Behaviour


def test_layer_scale_starts_at_almost_nothing():
    gammas = np.concatenate([block.gamma[...] for block in encoder().fuser])
    np.testing.assert_array_equal(gammas, np.float32(1e-6))


def test_one_image_serves_several_masks_on_a_rectangle(rng):
    model = shipped_encoder()
    image = rng.normal(size=(1, 4, 6, CHANNELS)).astype(np.float32)
    mask = rng.uniform(size=(3, 64, 96, 1)).astype(np.float32)
    got = run(model, image, mask)
    assert got.shape == (3, 4, 6, OUT)
    want = run(model, np.repeat(image, 3, axis=0), mask)
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.slow
def test_gradients_reach_every_parameter(g):
    model = shipped_encoder()
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
    full = run(shipped_encoder(), nhwc(g["pix_feat"]), sigmoid_mask(g))
    half = shipped_encoder("bfloat16")
    got = run(half, nhwc(g["pix_feat"]), sigmoid_mask(g))
    assert got.dtype == jnp.float32
    assert float(jnp.abs(got - full).mean() / jnp.abs(full).mean()) < 0.02
