"""Neck and high-resolution maps equal the reference's; what the top-down path touches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from petsam_jax.models.image_encoder import FpnNeck, ImageEncoder
from petsam_jax.models.layers import upsample_nearest
from petsam_jax.models.position import sine_map
from tests.golden import (
    assert_close,
    golden,
    golden_config,
    golden_params,
    load_part,
    nchw,
    nhwc,
    outputs,
    run,
    shipped,
    shipped_config,
    shipped_params,
)

D_MODEL = 32


def build(config, params, dtype="float32", **changes):
    trunk = config["image_encoder"]["trunk"] | changes
    outline = nnx.eval_shape(lambda: ImageEncoder(trunk, D_MODEL, dtype=dtype, rngs=nnx.Rngs(0)))
    return load_part(outline, params, "image_encoder")


def shipped_encoder(dtype="float32", **changes):
    return build(shipped_config(), shipped_params(), dtype, **changes)


@pytest.fixture(scope="module")
def model():
    return shipped_encoder()


def normal(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def neck(top_down_levels=(2,), widths=(4, 8, 16, 32)):
    return FpnNeck(widths, 8, top_down_levels, dtype="float32", rngs=nnx.Rngs(0))


def maps(rng, height=16, width=24):
    return tuple(normal(rng, 1, height >> i, width >> i, 4 << i) for i in range(4))


@jax.jit
def levels(encoder, image):
    return encoder.neck.pyramid(encoder.trunk(image))


@pytest.fixture(scope="module")
def found():
    """What ours computes, under the names of the golden arrays."""
    reference = build(golden_config(), golden_params())
    image = nhwc(golden("image_encoder")["image"])
    features = run(reference, image)
    found = {
        "vision_features": features.image_embed,
        "forward_image.feat0_after_conv_s0": features.high_res_feats[0],
        "forward_image.feat1_after_conv_s1": features.high_res_feats[1],
    }
    for index, level in enumerate(levels(reference, image)):
        found[f"neck.feat{index}"] = level
        found[f"neck.pos{index}"] = sine_map(*level.shape[1:])[None]
    kept = 1 + len(features.high_res_feats)
    return {name: nchw(array) for name, array in found.items()} | {"n_levels_after_scalp": kept}


@pytest.mark.parametrize("name", outputs("image_encoder", {"image"}))
def test_every_array_equals_the_reference(found, name):
    assert_close("image_encoder", found[name], golden("image_encoder")[name], name)


def test_shapes_on_a_rectangle(model, rng):
    features = run(model, normal(rng, 2, 64, 96, 3))
    assert features.image_embed.shape == (2, 4, 6, D_MODEL)
    assert features.high_res_feats[0].shape == (2, 16, 24, D_MODEL // 8)
    assert features.high_res_feats[1].shape == (2, 8, 12, D_MODEL // 4)


def test_the_coarsest_map_reaches_stride_16_only(rng):
    model, x = neck(), maps(rng)
    changed = (*x[:3], x[3] + 1)
    moved = [np.abs(a - b).max() for a, b in zip(run(model, x), run(model, changed), strict=True)]
    assert moved[0] == moved[1] == 0 and moved[2] > 0.1


def test_top_down_adds_the_enlarged_level_above_and_all_that_it_got(rng):
    x = maps(rng)
    plain, one, all_ = (neck(levels).pyramid(x) for levels in ((), (2,), (0, 1, 2)))
    for level in (0, 1, 3):
        np.testing.assert_array_equal(plain[level], one[level])
    np.testing.assert_allclose(one[2], plain[2] + upsample_nearest(plain[3]), atol=1e-6)
    for level in (0, 1, 2):
        want = plain[level] + upsample_nearest(all_[level + 1])
        np.testing.assert_allclose(all_[level], want, atol=1e-6)


def test_an_unknown_argument_of_the_trunk_is_refused():
    trunk = shipped_config()["image_encoder"]["trunk"]
    with pytest.raises(TypeError, match="window_spec"):
        ImageEncoder({**trunk, "window_spec": (8, 4, 8, 4)}, D_MODEL, rngs=nnx.Rngs(0))


@pytest.mark.slow
def test_gradient_reaches_every_parameter(model, rng):
    graph, params = nnx.split(model)
    image = normal(rng, 1, 64, 32, 3)

    @jax.jit
    def gradients(params):
        def loss(params):
            return sum(
                jnp.square(x).mean() for x in jax.tree.leaves(nnx.merge(graph, params)(image))
            )

        return jax.grad(loss)(params)

    for path, grad in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(gradients(params))):
        name = jax.tree_util.keystr(path)
        if "neck" in name:
            assert np.abs(grad).min() > 0, f"{name}: each number counts"
        assert np.isfinite(grad).all() and np.abs(grad).max() > 1e-6, name


def test_a_key_turns_drop_path_on(model, rng):
    image = normal(rng, 2, 64, 96, 3)
    plain = run(model, image).image_embed
    dropped = run(shipped_encoder(drop_path_rate=0.5), image, jax.random.key(0)).image_embed
    assert np.abs(plain - dropped).max() > 0.01


def test_bfloat16_is_close_to_float32(model):
    half = shipped_encoder("bfloat16")
    image = nhwc(shipped("image_encoder")["image"])
    for a, b in zip(*(jax.tree.leaves(run(m, image)) for m in (half, model)), strict=True):
        assert a.dtype == jnp.float32
        assert 0 < np.abs(a - b).mean() < 0.02 * np.abs(b).mean()


def test_the_same_shape_compiles_once(model, rng):
    graph, state = nnx.split(model)
    forward = jax.jit(lambda state, image: nnx.merge(graph, state)(image))
    for _ in range(3):
        forward(state, normal(rng, 1, 64, 64, 3))
    assert forward._cache_size() == 1
