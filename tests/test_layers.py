"""Building blocks: what they promise on any input; test_ops_golden.py has their parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from petsam_jax.models.layers import (
    Attention,
    Conv,
    Depthwise,
    Linear,
    Mlp,
    UpConv,
    attention,
    drop_path,
    max_pool,
    upsample_nearest,
)


def normal(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def test_a_row_of_masked_keys_only_is_finite_and_so_are_its_gradients(rng):
    q, k, v = (normal(rng, 2, 2, 5, 4) for _ in range(3))
    mask = jnp.zeros((2, 5), bool).at[0].set(True)

    def loss(q, k, v):
        return jnp.square(attention(q, k, v, mask, jnp.dtype("float32"))).sum()

    value, gradients = jax.value_and_grad(loss, argnums=(0, 1, 2))(q, k, v)
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(gradient).all() for gradient in gradients)


def test_what_a_masked_key_holds_changes_nothing(rng):
    attend = Attention(8, 2, kv_features=6, rngs=nnx.Rngs(0))
    q, k, v = normal(rng, 2, 5, 8), normal(rng, 2, 7, 6), normal(rng, 2, 7, 6)
    mask = jnp.asarray(rng.random((2, 7)) < 0.5).at[:, 0].set(True)
    hidden = jnp.where(mask[..., None], 0.0, 1e4)
    np.testing.assert_array_equal(attend(q, k, v, mask), attend(q, k + hidden, v - hidden, mask))
    kept = attend(q[:1], k[:1][:, mask[0]], v[:1][:, mask[0]])
    np.testing.assert_allclose(attend(q, k, v, mask)[:1], kept, atol=1e-5)


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="num_heads: 3 heads do not divide 8 channels"):
        Attention(8, 3, rngs=nnx.Rngs(0))


def test_large_scores_do_not_overflow(rng):
    q, k, v = (100 * normal(rng, 1, 1, 6, 4) for _ in range(3))
    out = attention(q, k, v, None, jnp.dtype("float32"))
    nearest = jnp.einsum("bknd,bksd->bkns", q, k).argmax(-1)
    np.testing.assert_allclose(out[0, 0], v[0, 0, nearest[0, 0]], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("module", ["linear", "conv", "upconv", "mlp", "attention"])
def test_half_precision_rounds_inputs_and_returns_float32(rng, module):
    def build(dtype):
        options = dict(dtype=dtype, rngs=nnx.Rngs(0))
        x = normal(np.random.default_rng(1), 2, 4, 6, 8)
        tokens = x.reshape(2, 24, 8)
        if module == "attention":
            return Attention(8, 2, **options)(tokens, tokens, tokens)
        return {
            "linear": Linear(8, 5, **options),
            "conv": Conv(8, 5, 3, stride=2, padding=1, **options),
            "upconv": UpConv(8, 5, **options),
            "mlp": Mlp(8, 16, 5, 3, **options),
        }[module](x)

    half, full = build("bfloat16"), build("float32")
    assert half.dtype == full.dtype == jnp.float32
    share = float(jnp.abs(half - full).max() / jnp.abs(full).max())
    assert 1e-5 < share < 2e-2


def test_depthwise_adds_its_bias(rng):
    module = Depthwise(3, 5, rngs=nnx.Rngs(0))
    module.bias[...] = jnp.array([1.0, 2.0, 3.0])
    out = module(jnp.zeros((1, 4, 4, 3)))
    np.testing.assert_array_equal(out, np.broadcast_to([1.0, 2.0, 3.0], (1, 4, 4, 3)))


def test_drop_path_drops_whole_samples_at_its_rate_and_keeps_the_mean(rng):
    x = 1 + jnp.abs(normal(rng, 4000, 3, 2))
    out = np.asarray(drop_path(x, 0.3, jax.random.uniform(jax.random.key(0), (4000,))))
    dropped = (out == 0).reshape(4000, -1)
    assert (dropped.all(1) == dropped.any(1)).all()
    # Three standard deviations of the share of 4000 draws.
    assert abs(dropped.all(1).mean() - 0.3) < 3 * np.sqrt(0.3 * 0.7 / 4000)
    kept = ~dropped.all(1)
    np.testing.assert_allclose(out[kept], np.asarray(x)[kept] / 0.7, rtol=1e-6)


def test_drop_path_without_chances_or_rate_changes_nothing(rng):
    x = normal(rng, 4, 3)
    np.testing.assert_array_equal(drop_path(x, 0.3, None), x)
    np.testing.assert_array_equal(drop_path(x, 0.0, jnp.zeros(4)), x)


def test_max_pool_and_upsample_on_a_hand_written_map():
    x = jnp.arange(8.0).reshape(1, 2, 4, 1)
    np.testing.assert_array_equal(max_pool(x)[0, :, :, 0], [[5, 7]])
    np.testing.assert_array_equal(
        upsample_nearest(x[:, :1, :2])[0, :, :, 0], [[0, 0, 1, 1], [0, 0, 1, 1]]
    )
