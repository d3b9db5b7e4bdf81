"""Norm, activation, pooling, depthwise convolution: everything that is no matrix product.

All in float32, over one element or a few neighbours. Such work is bound by memory bandwidth, so
each backward pass stores as little as possible of the forward pass, and sweeps over it few times.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax
from jaxtyping import Array, Float


def per_channel(vector: Float[Array, " c"], x: Float[Array, "*b c"]) -> Float[Array, "*ones c"]:
    """A vector of channels with axes of length 1 before it, so that it broadcasts over `x`."""
    return vector.astype(jnp.float32).reshape((1,) * (x.ndim - 1) + vector.shape)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, "*b c"], scale: Float[Array, " c"], bias: Float[Array, " c"], eps: float
) -> Float[Array, "*b c"]:
    """(x - mean) / sqrt(variance + eps) * scale + bias over the last axis, in float32."""
    return _layer_norm_forward(x, scale, bias, eps)[0]


def _layer_norm_forward(x, scale, bias, eps):
    mean = x.mean(-1, keepdims=True, dtype=jnp.float32)
    inverse = lax.rsqrt(jnp.square(x - mean).mean(-1, keepdims=True) + eps)
    return (x - mean) * inverse * per_channel(scale, x) + per_channel(bias, x), (
        x,
        mean,
        inverse,
        scale,
    )


def _layer_norm_backward(eps, saved, grad):
    x, mean, inverse, scale = saved
    shape, channels = x.shape, x.shape[-1]
    x, mean, inverse, grad = (z.reshape(-1, z.shape[-1]) for z in (x, mean, inverse, grad))
    # All four sums are products: on a CPU XLA's reductions take longer and store more.
    # The precision keeps them sums of float32 numbers on every platform.
    product = partial(jnp.dot, precision="highest")
    normed = (x - mean) * inverse
    both, weights = grad * normed, scale.astype(jnp.float32)[:, None] / channels
    rows = jnp.ones((1, x.shape[0]))
    grad_scale, grad_bias = product(rows, both)[0], product(rows, grad)[0]
    shift, along = product(grad, weights), product(both, weights)
    grad_x = inverse * (grad * per_channel(scale, x) - shift - normed * along)
    return (
        grad_x.reshape(shape).astype(x.dtype),
        grad_scale.astype(scale.dtype),
        grad_bias.astype(scale.dtype),
    )


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@jax.custom_vjp
def gelu(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """x times the normal distribution function of x, exactly, not by the tanh approximation.

    The backward pass keeps x alone and is one sweep over it.
    """
    return x * _normal_cdf(x)


def _normal_cdf(x):
    return 0.5 + 0.5 * lax.erf(x * math.sqrt(0.5))


def _gelu_backward(x, grad):
    bell = jnp.exp(-0.5 * jnp.square(x))
    return (grad * (_normal_cdf_of(x, bell) + x * bell / math.sqrt(2 * math.pi)),)


# erfc(z) = (a1 t + ... + a5 t^5) exp(-z^2) with t = 1 / (1 + p z): Abramowitz and Stegun 1964,
# 7.1.26.
ERFC_P = 0.3275911
ERFC_A = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def _normal_cdf_of(x, bell):
    """The normal distribution function, to 1e-7, from `bell`, which is exp(-x^2 / 2).

    The derivative needs that exponential anyway. With `erf` XLA would share the forward pass's with
    the backward pass: one of the largest arrays, stored, kept and read back.
    """
    t = 1 / (1 + ERFC_P * math.sqrt(0.5) * jnp.abs(x))
    tail = 0.0
    for factor in reversed(ERFC_A):
        tail = (tail + 0.5 * factor) * t
    tail = tail * bell
    return jnp.where(x > 0, 1 - tail, tail)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


@jax.custom_vjp
def depthwise(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c"]
) -> Float[Array, "b h w c"]:
    """Each channel convolved with its own odd kernel, as a sum of shifted products."""
    return lax.platform_dependent(x, kernel, cpu=_stored_products, default=_products)


def _products(x, kernel):
    return sum(
        shifted * per_channel(kernel[y, x_], x) for y, x_, shifted in _shifts(x, kernel.shape[0])
    )


def _stored_products(x, kernel):
    """The same, computed once however many passes read it.

    XLA on a CPU would recompute the 49 products in each pass of the norm that follows, since they
    look cheap. It has to store what a conditional returns, and does not remove one with equal
    branches whose condition is unknown at compile time.
    """
    return lax.cond(x.ravel()[0] < 0, _products, _products, x, kernel)


def _shifts(x, size):
    """The zero-padded image shifted for each kernel element."""
    reach = size // 2
    padded = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    for dy in range(size):
        for dx in range(size):
            yield dy, dx, padded[:, dy : dy + x.shape[1], dx : dx + x.shape[2]]


def _depthwise_forward(x, kernel):
    return depthwise(x, kernel), (x, kernel)


def _depthwise_backward(saved, grad):
    x, kernel = saved
    size = kernel.shape[0]
    grad_kernel = jnp.stack([(s * grad).sum((0, 1, 2)) for _, _, s in _shifts(x, size)])
    return depthwise(grad, kernel[::-1, ::-1]), grad_kernel.reshape(kernel.shape)


depthwise.defvjp(_depthwise_forward, _depthwise_backward)


@jax.custom_vjp
def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h/2 w/2 c"]:
    """The largest of each 2x2; the first of equals gets the gradient."""
    x = _quads(x)
    rows = jnp.maximum(x[:, :, 0], x[:, :, 1])
    return jnp.maximum(rows[:, :, :, 0], rows[:, :, :, 1])


def _quads(x):
    return rearrange(x, "b (h y) (w x) c -> b h y w x c", y=2, x=2)


def _max_pool_forward(x):
    largest = max_pool(x)
    return largest, (x, largest)


def _max_pool_backward(saved, grad):
    x, largest = saved
    x = _quads(x)
    taken = jnp.zeros(largest.shape, bool)
    grads = []
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        here = (x[:, :, dy, :, dx] == largest) & ~taken
        taken |= here
        grads.append(jnp.where(here, grad, 0.0))
    return (rearrange(grads, "(y x) b h w c -> b (h y) (w x) c", y=2, x=2),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def upsample_nearest(x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
    """Each pixel becomes four equal ones."""
    b, h, w, c = x.shape
    wide = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c))
    return wide.reshape(b, 2 * h, 2 * w, c)
