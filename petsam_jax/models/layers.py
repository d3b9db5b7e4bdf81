"""What two or more components share, and the one home of what makes them fast on a CPU.

XLA's matrix product is as good as anyone's on a CPU; what loses time is layout copies and unusual
operations. So convolutions here are matrix products, attention keeps heads before tokens, and
`dense`, `attention` and `depthwise` bring a backward pass that copies nothing into another layout.
`python -m benchmarks.layers` shows what each is worth beside its plain formulation.

Numbers: matrix products round their inputs to `dtype` and accumulate in float32; everything else,
parameters and activations between layers included, is float32.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray

# Finite, so that a row of nothing but masked keys is an even mix and not NaN.
MASKED = -1e30
TRANSPOSE_CHUNK = 64
PIECE = 1 << 16


class Linear(nnx.Module):
    """`x @ kernel + bias` over the last axis."""

    def __init__(
        self, in_features: int, out_features: int, *, dtype: DTypeLike = "float32", rngs: nnx.Rngs
    ):
        self.kernel = nnx.Param(fresh_kernel(rngs, (in_features, out_features), in_features))
        self.bias = nnx.Param(jnp.zeros(out_features))
        self.dtype = jnp.dtype(dtype)

    def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
        return dense(x, self.kernel[...], self.bias[...], self.dtype)


class LayerNorm(nnx.Module):
    """Normalise the last axis; eps is 1e-6 in trunk, neck and convolutions, 1e-5 elsewhere."""

    def __init__(self, features: int, *, eps: float):
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.eps = eps

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        return layer_norm(x, self.scale[...], self.bias[...], self.eps)


class Conv(nnx.Module):
    """A strided convolution without overlap tricks: `kernel` h w i o, zero padding on all sides."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        size: int,
        *,
        stride: int,
        padding: int = 0,
        dtype: DTypeLike = "float32",
        rngs: nnx.Rngs,
    ):
        shape = (size, size, in_features, out_features)
        self.kernel = nnx.Param(fresh_kernel(rngs, shape, size * size * in_features))
        self.bias = nnx.Param(jnp.zeros(out_features))
        self.stride, self.padding, self.dtype = stride, padding, jnp.dtype(dtype)

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b rows columns o"]:
        return conv(x, self.kernel[...], self.bias[...], self.stride, self.padding, self.dtype)


class UpConv(nnx.Module):
    """A transposed convolution 2x2 of stride 2: each pixel becomes four. `kernel` is i h w o."""

    def __init__(
        self, in_features: int, out_features: int, *, dtype: DTypeLike = "float32", rngs: nnx.Rngs
    ):
        self.kernel = nnx.Param(fresh_kernel(rngs, (in_features, 2, 2, out_features), in_features))
        self.bias = nnx.Param(jnp.zeros(out_features))
        self.dtype = jnp.dtype(dtype)

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b 2*h 2*w o"]:
        kernel = rearrange(self.kernel[...], "i y x o -> i (y x o)")
        four = dense(x, kernel, jnp.tile(self.bias[...], 4), self.dtype)
        return rearrange(four, "b h w (y x o) -> b (h y) (w x) o", y=2, x=2)


class Depthwise(nnx.Module):
    """A 7x7 convolution of each channel with its own kernel, zero padded to the same size."""

    def __init__(self, features: int, size: int = 7, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(fresh_kernel(rngs, (size, size, features), size * size))
        self.bias = nnx.Param(jnp.zeros(features))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return depthwise(x, self.kernel[...]) + like(self.bias[...], x)


class Mlp(nnx.Module):
    """`depth` linear layers with an activation between them."""

    def __init__(
        self,
        in_features: int,
        hidden: int,
        out_features: int,
        depth: int = 2,
        *,
        activation: Callable = jax.nn.relu,
        dtype: DTypeLike = "float32",
        rngs: nnx.Rngs,
    ):
        sizes = [in_features, *[hidden] * (depth - 1), out_features]
        self.layers = nnx.List(
            Linear(i, o, dtype=dtype, rngs=rngs) for i, o in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.activation = activation

    def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class Attention(nnx.Module):
    """Multi-head attention with separate projections, `inner` channels wide over all heads."""

    def __init__(
        self,
        features: int,
        num_heads: int,
        *,
        inner: int | None = None,
        kv_features: int | None = None,
        dtype: DTypeLike = "float32",
        rngs: nnx.Rngs,
    ):
        """Raises ValueError if the heads do not divide `inner` (default `features`)."""
        inner, kv_features = inner or features, kv_features or features
        if inner % num_heads:
            raise ValueError(f"num_heads: {num_heads} heads do not divide {inner} channels")
        self.q_proj = Linear(features, inner, dtype=dtype, rngs=rngs)
        self.k_proj = Linear(kv_features, inner, dtype=dtype, rngs=rngs)
        self.v_proj = Linear(kv_features, inner, dtype=dtype, rngs=rngs)
        self.out_proj = Linear(inner, features, dtype=dtype, rngs=rngs)
        self.num_heads, self.dtype = num_heads, jnp.dtype(dtype)

    def __call__(
        self,
        q: Float[Array, "b n c"],
        k: Float[Array, "b s e"],
        v: Float[Array, "b s e"],
        mask: Bool[Array, "b s"] | None = None,
    ) -> Float[Array, "b n c"]:
        """`mask` is true for the keys that count."""
        q, k, v = self.q_proj(q), self.k_proj(k), self.v_proj(v)
        return self.attend(*(split_heads(x, self.num_heads) for x in (q, k, v)), mask)

    def attend(self, q, k, v, mask):
        """Attention over projected and split q, k, v, then the output projection."""
        return self.out_proj(merge_heads(attention(q, k, v, mask, self.dtype)))


def fresh_kernel(rngs: nnx.Rngs, shape: tuple[int, ...], fan_in: int) -> Float[Array, "*shape"]:
    """Normal numbers cut off at two standard deviations, of variance 1 / (3 fan_in).

    That is the variance that the reference starts from. With three times as much the trunk, which
    ends in no norm, hands the decoder maps so large that prompts, added to them, are not heard.

    Drawn in pieces of one size, since the program that draws is compiled for each size: a model of
    a hundred shapes then starts in two seconds and not in twenty.
    """
    key, size = rngs.params(), math.prod(shape)
    pieces = [_draw(jax.random.fold_in(key, i)) for i in range(math.ceil(size / PIECE))]
    numbers = pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces)
    # 0.8796 is the standard deviation that cutting off leaves of 1.
    return numbers[:size].reshape(shape) / (0.87962566 * math.sqrt(3 * fan_in))


@jax.jit
def _draw(key):
    return jax.random.truncated_normal(key, -2.0, 2.0, (PIECE,))


def split_heads(x: Float[Array, "b n c"], num_heads: int) -> Float[Array, "b k n d"]:
    return rearrange(x, "b n (k d) -> b k n d", k=num_heads)


def merge_heads(x: Float[Array, "b k n d"]) -> Float[Array, "b n c"]:
    return rearrange(x, "b k n d -> b n (k d)")


def like(vector: Float[Array, " c"], x: Float[Array, "*b c"]) -> Float[Array, "*ones c"]:
    """A vector of channels with axes of length 1 before it, so that it broadcasts over `x`."""
    return vector.astype(jnp.float32).reshape((1,) * (x.ndim - 1) + vector.shape)


def drop_path(
    x: Float[Array, "b *rest"], rate: float, key: PRNGKeyArray | None
) -> Float[Array, "b *rest"]:
    """Zero whole samples with probability `rate`, scale up the rest; without a key do nothing.

    Stochastic depth (Huang et al. 2016).
    """
    if key is None or rate == 0:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, (x.shape[0],) + (1,) * (x.ndim - 1))
    return jnp.where(kept, x / (1 - rate), 0.0)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, "*b c"], scale: Float[Array, " c"], bias: Float[Array, " c"], eps: float
) -> Float[Array, "*b c"]:
    """(x - mean) / sqrt(variance + eps) * scale + bias over the last axis, in float32."""
    return _layer_norm_forward(x, scale, bias, eps)[0]


def _layer_norm_forward(x, scale, bias, eps):
    mean = x.mean(-1, keepdims=True, dtype=jnp.float32)
    inverse = lax.rsqrt(jnp.square(x - mean).mean(-1, keepdims=True) + eps)
    return (x - mean) * inverse * like(scale, x) + like(bias, x), (x, mean, inverse, scale)


def _layer_norm_backward(eps, saved, grad):
    x, mean, inverse, scale = saved
    shape, channels = x.shape, x.shape[-1]
    x, mean, inverse, grad = (z.reshape(-1, z.shape[-1]) for z in (x, mean, inverse, grad))
    # All four sums are products: XLA on a CPU takes longer, and stores more, to reduce the same.
    product = partial(jnp.dot, precision="highest")
    normed = (x - mean) * inverse
    both, weights = grad * normed, scale.astype(jnp.float32)[:, None] / channels
    rows = jnp.ones((1, x.shape[0]))
    grad_scale, grad_bias = product(rows, both)[0], product(rows, grad)[0]
    shift, along = product(grad, weights), product(both, weights)
    grad_x = inverse * (grad * like(scale, x) - shift - normed * along)
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

    The derivative needs that exponential anyway. By `erf` XLA would share the forward pass's with
    the backward pass: an array of the largest size there is, stored, kept and read again.
    """
    t = 1 / (1 + ERFC_P * math.sqrt(0.5) * jnp.abs(x))
    tail = 0.0
    for factor in reversed(ERFC_A):
        tail = (tail + 0.5 * factor) * t
    tail = tail * bell
    return jnp.where(x > 0, 1 - tail, tail)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


# Products whose gradients need no copy


def _dot(a, b, contract_a, contract_b, dtype, batch=0):
    """`dot_general` over the given axes with inputs of `dtype` and a float32 result."""
    axes = tuple(range(batch))
    dims = ((contract_a, contract_b), (axes, axes))
    a, b = a.astype(dtype), b.astype(dtype)
    return lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def dense(
    x: Float[Array, "*b i"], kernel: Float[Array, "i o"], bias: Float[Array, " o"], dtype
) -> Float[Array, "*b o"]:
    """`x @ kernel + bias`. Its weight gradient comes in the kernel's own layout.

    The derivative that JAX would make asks for it transposed, and XLA on a CPU then copies the
    whole cotangent to get it so.
    """
    y = _dot(x, kernel, (x.ndim - 1,), (0,), dtype)
    return y + like(bias, y)


def _dense_forward(x, kernel, bias, dtype):
    return dense(x, kernel, bias, dtype), (x.astype(dtype), kernel, bias)


def _dense_backward(dtype, saved, grad):
    x, kernel, bias = saved
    leading = tuple(range(x.ndim - 1))
    grad_x = _dot(grad, kernel, (grad.ndim - 1,), (1,), dtype)
    grad_kernel = _weight_gradient(*(z.reshape(-1, z.shape[-1]) for z in (x, grad)), dtype)
    return grad_x, grad_kernel.astype(kernel.dtype), grad.sum(leading).astype(bias.dtype)


def _weight_gradient(x, grad, dtype):
    """x' grad for n x i and n x o, by way of the transpose of the narrower of the two."""
    if x.shape[1] <= grad.shape[1] or dtype == jnp.float32:
        return _dot(_swap_last(x, dtype), grad, (1,), (0,), dtype)
    product = _dot(_swap_last(grad, dtype), x, (1,), (0,), dtype)
    # XLA would fold the transpose into the product, which is slow or, on a CPU, not implemented.
    return rearrange(lax.optimization_barrier(product), "o i -> i o")


def _swap_last(x, dtype):
    """The transpose of the last two axes, really made where dtype is narrow.

    In bfloat16 XLA's product on a CPU is two to four times as fast on rows as on columns, but it
    would undo a plain transpose; it does not see through one in two steps.
    """
    chunk = math.gcd(x.shape[-2], TRANSPOSE_CHUNK)
    if dtype == jnp.float32 or chunk == 1:
        return rearrange(x, "... n i -> ... i n")
    x = rearrange(x, "... (n chunk) i -> ... i n chunk", chunk=chunk)
    return rearrange(lax.optimization_barrier(x), "... i n chunk -> ... i (n chunk)")


dense.defvjp(_dense_forward, _dense_backward)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def attention(
    q: Float[Array, "b k n d"],
    k: Float[Array, "b k s d"],
    v: Float[Array, "b k s e"],
    mask: Bool[Array, "b s"] | None,
    dtype,
) -> Float[Array, "b k n e"]:
    """softmax(q k' / sqrt(d)) v, over the keys where `mask` is true; softmax in float32."""
    return _attention_forward(q, k, v, mask, dtype)[0]


def _attention_forward(q, k, v, mask, dtype):
    # Dividing the output by the sum touches n x d numbers where a softmax would n x s.
    q = (q * q.shape[-1] ** -0.5).astype(dtype)
    k, v = k.astype(dtype), v.astype(dtype)
    scores = _dot(q, k, (3,), (3,), dtype, batch=2)
    if mask is not None:
        scores = jnp.where(mask[:, None, None, :], scores, MASKED)
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    inverse = 1 / weights.sum(-1, keepdims=True)
    weights = weights.astype(dtype)
    out = _dot(weights, v, (3,), (2,), dtype, batch=2) * inverse
    return out, (q, k, v, weights, inverse, out)


def _attention_backward(dtype, saved, grad):
    q, k, v, weights, inverse, out = saved
    # Rows of `weights` were not divided by their sum, so the gradient is.
    scaled = (grad * inverse).astype(dtype)
    grad_v = _swapped_product(weights, scaled, dtype)
    shift = (grad * out).sum(-1, keepdims=True) * inverse
    grad_scores = weights * (_dot(scaled, v, (3,), (3,), dtype, batch=2) - shift)
    grad_scores = grad_scores.astype(dtype)
    grad_q = _dot(grad_scores, k, (3,), (2,), dtype, batch=2) * q.shape[-1] ** -0.5
    grad_k = _swapped_product(grad_scores, q, dtype)
    return grad_q, grad_k, grad_v, None


def _swapped_product(x, y, dtype):
    """x' y for b k n s and b k n d, by way of the transposes that hold fewer numbers."""
    s, d = x.shape[-1], y.shape[-1]
    if dtype == jnp.float32 or s < 2 * d:
        return _dot(_swap_last(x, dtype), y, (3,), (2,), dtype, batch=2)
    product = _dot(_swap_last(y, dtype), x, (3,), (2,), dtype, batch=2)
    # As in `_weight_gradient`, XLA would fold the transpose into the product.
    return rearrange(lax.optimization_barrier(product), "b k d s -> b k s d")


attention.defvjp(_attention_forward, _attention_backward)


# Convolutions and pooling as products, slices and reshapes


def conv(
    x: Float[Array, "b h w i"],
    kernel: Float[Array, "kh kw i o"],
    bias: Float[Array, " o"],
    stride: int,
    padding: int,
    dtype,
) -> Float[Array, "b rows columns o"]:
    """A convolution of a stride that divides the sides, as one matrix product.

    Pixels are gathered in cells of stride x stride, and the kernel is filled up with zeros to
    whole cells: a patch is then a few neighbouring cells, each a contiguous run of memory.
    """
    cells = math.ceil(kernel.shape[0] / stride)
    fill = cells * stride - kernel.shape[0]
    kernel = jnp.pad(kernel, ((0, fill), (0, fill), (0, 0), (0, 0)))
    kernel = rearrange(
        kernel, "(my y) (mx x) i o -> (my mx y x i) o", my=cells, mx=cells, y=stride, x=stride
    )
    b, h, w, i = x.shape
    rows, columns = h // stride, w // stride
    after = [(n + cells - 1) * stride - side - padding for n, side in ((rows, h), (columns, w))]
    x = lax.pad(
        x,
        jnp.zeros((), x.dtype),
        ((0, 0, 0), (padding, after[0], 0), (padding, after[1], 0), (0, 0, 0)),
    )
    x = rearrange(x, "b (h y) (w x) i -> b h w (y x i)", y=stride, x=stride)
    shifted = [
        x[:, my : my + rows, mx : mx + columns] for my in range(cells) for mx in range(cells)
    ]
    patches = shifted[0] if cells == 1 else jnp.concatenate(shifted, axis=-1)
    return dense(patches, kernel, bias, dtype)


@jax.custom_vjp
def depthwise(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c"]
) -> Float[Array, "b h w c"]:
    """Each channel convolved with its own odd kernel, as a sum of shifted products."""
    return lax.platform_dependent(x, kernel, cpu=_stored_products, default=_products)


def _products(x, kernel):
    return sum(shifted * like(kernel[y, x_], x) for y, x_, shifted in _shifts(x, kernel.shape[0]))


def _stored_products(x, kernel):
    """The same, computed once however many passes read it.

    XLA on a CPU would compute the 49 products anew in each pass of the norm that follows, since
    they look cheap. What a conditional returns it has to store; one whose branches are equal, and
    whose condition is not known before, stays.
    """
    return lax.cond(x.ravel()[0] < 0, _products, _products, x, kernel)


def _shifts(x, size):
    """The zero-padded picture as each kernel element sees it."""
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
    b, h, w, c = x.shape
    wide = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c))
    return wide.reshape(b, 2 * h, 2 * w, c)
