"""Every hand-written backward pass equals the plain formula's, in float32 and within rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from flax import nnx
from jax import lax

from petsam_jax.models.layers import (
    UpConv,
    attention,
    conv,
    dense,
    depthwise,
    gelu,
    layer_norm,
    max_pool,
    per_channel,
    upsample_nearest,
)

FLOAT, HALF = jnp.dtype("float32"), jnp.dtype("bfloat16")
# In half precision each input is off by up to 2^-9 of itself, and errors of a sum partly cancel.
LIMITS = pytest.mark.parametrize(("dtype", "limit"), [(FLOAT, 2e-5), (HALF, 2e-2)])


def normal(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def plain_dense(x, kernel, bias):
    y = jnp.einsum("...i,io->...o", x, kernel, precision="highest")
    return y + per_channel(bias, y)


def plain_attention(q, k, v, mask):
    scores = jnp.einsum("bknd,bksd->bkns", q, k, precision="highest") / jnp.sqrt(q.shape[-1])
    if mask is not None:
        scores = jnp.where(mask[:, None, None], scores, -jnp.inf)
    return jnp.einsum("bkns,bksd->bknd", jax.nn.softmax(scores), v, precision="highest")


def plain_conv(x, kernel, bias, stride, padding, groups=1):
    padding = [(padding, padding)] * 2
    axes = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, None, None, axes, groups, precision="highest"
    )
    return y + per_channel(bias, y)


def plain_depthwise(x, kernel):
    size, features = kernel.shape[0], kernel.shape[2]
    zero = jnp.zeros(features)
    return plain_conv(x, kernel[:, :, None], zero, 1, size // 2, features)


def plain_max_pool(x):
    init = -jnp.inf
    return lax.reduce_window(x, init, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def with_gradients(function, weight, *arrays):
    """The result, and the gradients of its product with `weight` for all arrays."""

    def run(*arrays):
        result = function(*arrays)
        return (result * weight(result.shape)).sum(), result

    gradients, result = jax.jit(jax.grad(run, argnums=tuple(range(len(arrays))), has_aux=True))(
        *arrays
    )
    return [result, *gradients]


def assert_same_gradients(fast, plain, *arrays, limit=2e-5):
    """Largest difference within `limit` of the largest value, for the result and each gradient."""

    def weight(shape):
        return jnp.asarray(np.random.default_rng(7).normal(size=shape), jnp.float32)

    got, want = with_gradients(fast, weight, *arrays), with_gradients(plain, weight, *arrays)
    for index, (a, b) in enumerate(zip(got, want, strict=True)):
        assert a.shape == b.shape
        assert a.dtype == jnp.float32
        worst = float(jnp.abs(a - b).max() / jnp.abs(b).max())
        assert worst < limit, f"output {index} differs by {worst:.2e} of its largest value"


@pytest.mark.slow
@LIMITS
@pytest.mark.parametrize("shape", [(5,), (1,), (2, 3, 5), (128,), (4, 9, 16)])
def test_dense(rng, shape, dtype, limit):
    arrays = normal(rng, *shape, 9), normal(rng, 9, 11), normal(rng, 11)
    assert_same_gradients(lambda *a: dense(*a, dtype), plain_dense, *arrays, limit=limit)


@LIMITS
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "size", [(2, 3, 5, 7, 4), (1, 1, 1, 2, 2), (3, 2, 17, 9, 16), (2, 3, 64, 40, 8)]
)
def test_attention(rng, size, masked, dtype, limit):
    b, heads, n, s, d = size
    arrays = normal(rng, b, heads, n, d), normal(rng, b, heads, s, d), normal(rng, b, heads, s, d)
    mask = jnp.asarray(rng.random((b, s)) < 0.6).at[:, :2].set(True) if masked else None
    assert_same_gradients(
        lambda *a: attention(*a, mask, dtype),
        lambda *a: plain_attention(*a, mask),
        *arrays,
        limit=limit,
    )


def test_attention_to_one_key_is_its_value_and_asks_nothing_of_q_and_k(rng):
    q, k, v = normal(rng, 2, 1, 3, 4), normal(rng, 2, 1, 1, 4), normal(rng, 2, 1, 1, 4)
    out, vjp = jax.vjp(lambda *a: attention(*a, None, FLOAT), q, k, v)
    np.testing.assert_allclose(out, jnp.broadcast_to(v, out.shape), rtol=1e-6)
    grad_q, grad_k, _ = vjp(normal(rng, *out.shape))
    np.testing.assert_allclose(grad_q, 0, atol=1e-6)
    np.testing.assert_allclose(grad_k, 0, atol=1e-6)


@LIMITS
@pytest.mark.parametrize(
    ("size", "stride", "padding", "height", "width"),
    [(7, 4, 3, 12, 20), (3, 2, 1, 6, 10), (4, 4, 0, 8, 12), (2, 2, 0, 6, 2), (3, 1, 1, 5, 7)],
)
def test_conv(rng, size, stride, padding, height, width, dtype, limit):
    arrays = normal(rng, 2, height, width, 3), normal(rng, size, size, 3, 5), normal(rng, 5)
    assert_same_gradients(
        lambda *a: conv(*a, stride, padding, dtype),
        lambda *a: plain_conv(*a, stride, padding),
        *arrays,
        limit=limit,
    )


@pytest.mark.parametrize(
    ("size", "stride", "padding", "height", "width", "fault"),
    [
        (3, 1, 0, 6, 6, "that is 4 x 4 patches"),
        (3, 2, 0, 8, 8, "that is 3 x 3 patches"),
        (3, 2, 1, 7, 8, "stride divide both sides"),
        (3, 2, 1, 8, 7, "stride divide both sides"),
    ],
)
def test_conv_refuses_what_has_not_one_patch_a_cell(size, stride, padding, height, width, fault):
    x, kernel = jnp.zeros((1, height, width, 2)), jnp.zeros((size, size, 2, 3))
    with pytest.raises(ValueError, match=fault):
        conv(x, kernel, jnp.zeros(3), stride, padding, FLOAT)


@pytest.mark.parametrize("block", ["dense", "attention"])
def test_transposes_that_are_really_made_are_for_cpus_alone(rng, block):
    """By what other platforms would be given to compile, which asks for no such machine."""
    if block == "dense":
        arrays = normal(rng, 64, 9), normal(rng, 9, 4), normal(rng, 4)
    else:
        arrays = [normal(rng, 1, 2, 64, 4) for _ in range(3)]

    def loss(*arrays):
        fast = dense if block == "dense" else lambda *qkv: attention(*qkv[:3], None, qkv[3])
        return fast(*arrays, HALF).sum()

    traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(*arrays)
    for platform, made in (("cpu", True), ("cuda", False), ("tpu", False)):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("optimization_barrier" in text) == made, platform


@pytest.mark.parametrize(("size", "height", "width"), [(7, 5, 9), (3, 1, 4), (5, 8, 3)])
def test_depthwise(rng, size, height, width):
    arrays = normal(rng, 2, height, width, 6), normal(rng, size, size, 6)
    assert_same_gradients(depthwise, plain_depthwise, *arrays)


@LIMITS
def test_up_conv(rng, dtype, limit):
    module = UpConv(3, 5, dtype=dtype, rngs=nnx.Rngs(0))
    graph, _ = nnx.split(module)

    def fast(x, kernel, bias):
        module = nnx.merge(graph, {"kernel": kernel, "bias": bias})
        return module(x)

    def plain(x, kernel, bias):
        cells = jnp.einsum("bhwi,iyxo->bhywxo", x, kernel, precision="highest")
        y = rearrange(cells, "b h y w x o -> b (h y) (w x) o")
        return y + per_channel(bias, y)

    arrays = normal(rng, 2, 3, 5, 3), normal(rng, 3, 2, 2, 5), normal(rng, 5)
    assert_same_gradients(fast, plain, *arrays, limit=limit)


def test_max_pool(rng):
    assert_same_gradients(max_pool, plain_max_pool, normal(rng, 2, 6, 10, 3))


def test_max_pool_gives_the_gradient_of_equals_to_one_of_them():
    grad = jax.grad(lambda x: max_pool(x).sum())(jnp.zeros((1, 4, 2, 3)))
    assert grad.shape == (1, 4, 2, 3)
    np.testing.assert_array_equal(grad.reshape(2, 4, 3).sum(1), 1)
    assert set(np.unique(grad)) == {0, 1}


def test_gelu(rng):
    x = jnp.concatenate([5 * normal(rng, 7, 11).reshape(-1), jnp.array([0.0, 30.0, -30.0])])
    assert_same_gradients(gelu, lambda x: jax.nn.gelu(x, approximate=False), x, limit=1e-6)


@pytest.mark.parametrize("shape", [(6,), (2, 3, 5, 7), (1, 4, 5), (3, 64, 64, 12)])
def test_layer_norm(rng, shape):
    def plain(x, scale, bias):
        y = (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-3)
        return y * per_channel(scale, x) + per_channel(bias, x)

    # A mean far from zero, as the trunk's later blocks have it.
    arrays = normal(rng, *shape) + 3, normal(rng, shape[-1]), normal(rng, shape[-1])
    assert_same_gradients(lambda *a: layer_norm(*a, 1e-3), plain, *arrays)


def test_upsample_nearest(rng):
    def plain(x):
        return x.repeat(2, axis=1).repeat(2, axis=2)

    assert_same_gradients(upsample_nearest, plain, normal(rng, 2, 3, 5, 4))
