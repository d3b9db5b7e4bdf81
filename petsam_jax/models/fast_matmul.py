"""Matrix products, and the operations built from them: `dense`, `attention`, `conv`.

XLA's matrix product is as fast as any on a CPU; time is lost in layout copies. So attention
keeps heads before tokens, a convolution is one product, and backward passes are written by hand,
with no cotangent that has to be copied into another layout.

Precision, one rule for the whole model: the products of a layer round their inputs to its `dtype`
and add up in float32. Of `dtype` float32 they are as precise as JAX makes products by default:
float32 on a CPU, but inputs rounded to TF32 on recent NVIDIA GPUs and to bfloat16 on TPUs;
`jax.config.update("jax_default_matmul_precision", "highest")` makes them float32 there too. Only
where a product stands for a sum or an interpolation (the gradients of norms, codes of positions,
resizing) is the highest precision requested on the spot: rounding would move points and pixels.
Everything else, parameters, softmax and the activations between layers included, is float32.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import lax
from jaxtyping import Array, Bool, Float, Float32

from petsam_jax.models.fast_elementwise import per_channel

# Finite, so that a row of nothing but masked keys is an even mix and not NaN.
MASKED = -1e30
# Rows that a transpose is made of at a time; any number from 8 to 256 takes as long.
TRANSPOSE_CHUNK = 64


def _dot(a, b, contract_a, contract_b, dtype, batch=0):
    """`dot_general` over the given axes with inputs of `dtype` and a float32 result."""
    axes = tuple(range(batch))
    dims = ((contract_a, contract_b), (axes, axes))
    a, b = a.astype(dtype), b.astype(dtype)
    return lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def dense(
    x: Float[Array, "*b i"],
    kernel: Float[Array, "i o"],
    bias: Float[Array, " o"],
    dtype: np.dtype,
) -> Float32[Array, "*b o"]:
    """`x @ kernel + bias`. Its weight gradient comes in the kernel's own layout.

    The derivative that JAX would make asks for it transposed, and XLA on a CPU then copies the
    whole cotangent to get it so.
    """
    y = _dot(x, kernel, (x.ndim - 1,), (0,), dtype)
    return y + per_channel(bias, y)


def _dense_forward(x, kernel, bias, dtype):
    return dense(x, kernel, bias, dtype), (x.astype(dtype), kernel, bias)


def _dense_backward(dtype, saved, grad):
    x, kernel, bias = saved
    leading = tuple(range(x.ndim - 1))
    grad_x = _dot(grad, kernel, (grad.ndim - 1,), (1,), dtype)
    x, rows = (z.reshape(-1, z.shape[-1]) for z in (x, grad))
    grad_kernel = _swapped_product(x, rows, dtype, swap_y=rows.shape[1] < x.shape[1])
    return grad_x, grad_kernel.astype(kernel.dtype), grad.sum(leading).astype(bias.dtype)


dense.defvjp(_dense_forward, _dense_backward)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def attention(
    q: Float[Array, "b k n d"],
    k: Float[Array, "b k s d"],
    v: Float[Array, "b k s e"],
    mask: Bool[Array, "b s"] | None,
    dtype: np.dtype,
) -> Float32[Array, "b k n e"]:
    """softmax(q k' / sqrt(d)) v, over the keys where `mask` is true; softmax in float32."""
    return _attention_forward(q, k, v, mask, dtype)[0]


def _attention_forward(q, k, v, mask, dtype):
    # Dividing the output by the sum touches n x d numbers where a softmax would n x s.
    q = (q * q.shape[-1] ** -0.5).astype(dtype)
    k, v = k.astype(dtype), v.astype(dtype)
    weights, inverse = _weights(q, k, mask, -1, dtype)
    out = _dot(weights, v, (3,), (2,), dtype, batch=2) * inverse
    return out, (q, k, v, mask, out)


def _attention_backward(dtype, saved, grad):
    """Recomputes the weights, as s x n: gradients of keys and values are then plain products.

    Storing them for each layer, the largest arrays of the forward pass, and reading them back takes
    longer (as in Dao et al. 2022). As n x s XLA would reuse those of the forward pass.
    """
    q, k, v, mask, out = saved
    weights, inverse = _weights(k, q, mask, -2, dtype)
    inverse = rearrange(inverse, "b k 1 n -> b k n 1")
    # The columns of `weights` are not divided by their sums, so the gradient is.
    scaled = (grad * inverse).astype(dtype)
    grad_v = _dot(weights, scaled, (3,), (2,), dtype, batch=2)
    shift = rearrange((grad * out).sum(-1, keepdims=True) * inverse, "b k n 1 -> b k 1 n")
    grad_scores = weights * (_dot(v, scaled, (3,), (3,), dtype, batch=2) - shift)
    grad_scores = grad_scores.astype(dtype)
    grad_k = _dot(grad_scores, q, (3,), (2,), dtype, batch=2)
    # Where there are that many more queries than channels, the keys are the smaller to transpose.
    swap_y = grad_scores.shape[-1] >= 2 * k.shape[-1]
    grad_q = _swapped_product(grad_scores, k, dtype, swap_y=swap_y)
    return grad_q * q.shape[-1] ** -0.5, grad_k, grad_v, None


def _weights(x, y, mask, keys, dtype):
    """exp(x y'), less the greatest of each query, and one over its sum; `keys` is their axis."""
    scores = _dot(x, y, (3,), (3,), dtype, batch=2)
    if mask is not None:
        shape = "b s -> b 1 1 s" if keys == -1 else "b s -> b 1 s 1"
        scores = jnp.where(rearrange(mask, shape), scores, MASKED)
    weights = jnp.exp(scores - scores.max(keys, keepdims=True))
    return weights.astype(dtype), 1 / weights.sum(keys, keepdims=True)


attention.defvjp(_attention_forward, _attention_backward)


# Gradients that are products of columns


def _swapped_product(x, y, dtype, *, swap_y):
    """x' y over the last two axes, for x of shape ... n i and y of shape ... n o.

    In bfloat16 XLA's product on a CPU is two to four times as fast on rows as on columns: there x,
    or y if `swap_y`, is transposed first; the caller knows which is cheaper.
    """
    plain = partial(_by_columns, dtype=dtype)
    if dtype == jnp.float32:
        return plain(x, y)
    by_rows = partial(_by_rows, dtype=dtype, swap_y=swap_y)
    return lax.platform_dependent(x, y, cpu=by_rows, default=plain)


def _by_columns(x, y, dtype):
    batch = x.ndim - 2
    return _dot(rearrange(x, "... n i -> ... i n"), y, (batch + 1,), (batch,), dtype, batch)


def _by_rows(x, y, dtype, swap_y):
    batch = x.ndim - 2
    if not swap_y:
        return _dot(_transposed(x), y, (batch + 1,), (batch,), dtype, batch)
    product = _dot(_transposed(y), x, (batch + 1,), (batch,), dtype, batch)
    # XLA would fold the transpose into the product, which is slow or, on a CPU, not implemented.
    return rearrange(lax.optimization_barrier(product), "... o i -> ... i o")


def _transposed(x):
    """The transpose of the last two axes, materialised.

    XLA would fold a plain one into the product; it does not see through one in two steps.
    """
    chunk = math.gcd(x.shape[-2], TRANSPOSE_CHUNK)
    if chunk == 1:
        return rearrange(x, "... n i -> ... i n")
    x = rearrange(x, "... (n chunk) i -> ... i n chunk", chunk=chunk)
    return rearrange(lax.optimization_barrier(x), "... i n chunk -> ... i (n chunk)")


# A convolution as one product


def conv(
    x: Float[Array, "b h w i"],
    kernel: Float[Array, "kh kw i o"],
    bias: Float[Array, " o"],
    stride: int,
    padding: int,
    dtype: np.dtype,
) -> Float32[Array, "b h//{stride} w//{stride} o"]:
    """A convolution of a square kernel, zeros on all sides, as one matrix product.

    Pixels are gathered in cells of stride x stride, and the kernel is zero-padded to whole
    cells: a patch is then a few neighbouring cells, each a contiguous run of memory. Raises
    ValueError unless stride divides the sides and there is a patch for each cell.
    """
    _check_conv(x.shape[1:3], kernel.shape[:2], stride, padding)
    cells = math.ceil(kernel.shape[0] / stride)
    fill = cells * stride - kernel.shape[0]
    kernel = jnp.pad(kernel, ((0, fill), (0, fill), (0, 0), (0, 0)))
    kernel = rearrange(
        kernel, "(my y) (mx x) i o -> (my mx y x i) o", my=cells, mx=cells, y=stride, x=stride
    )
    h, w = x.shape[1:3]
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


def _check_conv(sides, kernel, stride, padding):
    patches = [(side + 2 * padding - kernel[0]) // stride + 1 for side in sides]
    if kernel[0] != kernel[1] or any(side % stride for side in sides):
        fault = "the kernel must be square, and the stride divide both sides"
    elif patches != [side // stride for side in sides]:
        fault = f"that is {patches[0]} x {patches[1]} patches, and there must be one to each cell"
    else:
        return
    raise ValueError(
        f"conv: kernel {kernel[0]} x {kernel[1]}, stride {stride}, padding {padding} on "
        f"{sides[0]} x {sides[1]} pixels: {fault}"
    )
