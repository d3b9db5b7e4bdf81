"""How much faster the building blocks of `models/layers.py` are than plain formulations.

    python -m benchmarks.layers

Each block and its plain formulation, at the sizes of a 256-pixel image, forward and
forward+backward, all four timed in turn. Milliseconds: median (min-max). The last columns are the
speed-ups. `tests/test_layer_gradients.py` checks that both give the same results.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import lax

from benchmarks import timing
from petsam_jax import runtime
from petsam_jax.models import layers


class Block(NamedTuple):
    """Our function, the plain one, and the shapes of their inputs."""

    name: str
    ours: Callable
    plain: Callable
    shapes: tuple[tuple[int, ...], ...]


def plain_dense(x, kernel, bias, dtype):
    y = jnp.matmul(x.astype(dtype), kernel.astype(dtype), preferred_element_type=jnp.float32)
    return y + layers.per_channel(bias, y)


def plain_attention(q, k, v, dtype):
    """With tokens before heads, as projections return them."""
    q, k, v = (rearrange(x, "b k n d -> b n k d").astype(dtype) for x in (q, k, v))
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)
    scores = product("bnkd,bskd->bkns", q, k) / q.shape[-1] ** 0.5
    weights = jax.nn.softmax(scores).astype(dtype)
    return rearrange(product("bkns,bskd->bnkd", weights, v), "b n k d -> b k n d")


def plain_layer_norm(x, scale, bias):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    y = (x - mean) * lax.rsqrt(variance + 1e-6)
    return y * layers.per_channel(scale, x) + layers.per_channel(bias, x)


def plain_conv(x, kernel, bias, dtype, stride=4, padding=3):
    y = lax.conv_general_dilated(
        x.astype(dtype),
        kernel.astype(dtype),
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y.astype(jnp.float32) + layers.per_channel(bias, y)


def plain_depthwise(x, kernel):
    return lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def up_conv(x, kernel, bias, dtype):
    """`UpConv` of a kernel i h w o."""
    kernel = rearrange(kernel, "i y x o -> i (y x o)")
    four = layers.dense(x, kernel, jnp.tile(bias, 4), dtype)
    return rearrange(four, "b h w (y x o) -> b (h y) (w x) o", y=2, x=2)


def plain_up_conv(x, kernel, bias, dtype):
    kernel = rearrange(kernel, "i y x o -> y x i o")[::-1, ::-1]
    axes = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_transpose(
        x.astype(dtype), kernel.astype(dtype), (2, 2), "VALID", dimension_numbers=axes
    )
    return y.astype(jnp.float32) + layers.per_channel(bias, y)


def plain_max_pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def blocks(dtype: jnp.dtype) -> list[Block]:
    """Batch 4 throughout; `dtype` is what matrix products round their inputs to."""

    def both(ours, plain):
        return (lambda *a: ours(*a, dtype)), (lambda *a: plain(*a, dtype))

    attention = both(lambda q, k, v, d: layers.attention(q, k, v, None, d), plain_attention)
    conv = both(lambda x, k, b, d: layers.conv(x, k, b, 4, 3, d), plain_conv)
    dense, up = both(layers.dense, plain_dense), both(up_conv, plain_up_conv)
    norm = partial(layers.layer_norm, eps=1e-6), plain_layer_norm
    gelu = layers.gelu, partial(jax.nn.gelu, approximate=False)
    windows, everywhere = (256, 2, 64, 56), (4, 8, 256, 56)
    return [
        Block("dense 64x64, 112 to 448", *dense, ((4, 64, 64, 112), (112, 448), (448,))),
        Block("dense 16x16, 448 to 1792", *dense, ((4, 16, 16, 448), (448, 1792), (1792,))),
        Block("attention, 8x8 windows of 64x64", *attention, (windows,) * 3),
        Block("attention, 16x16 tokens", *attention, (everywhere,) * 3),
        Block("layer_norm 64x64x112", *norm, ((4, 64, 64, 112), (112,), (112,))),
        Block("gelu 64x64x448", *gelu, ((4, 64, 64, 448),)),
        Block("max_pool 64x64x224", layers.max_pool, plain_max_pool, ((4, 64, 64, 224),)),
        Block("conv 7x7 stride 4 of 256x256", *conv, ((4, 256, 256, 3), (7, 7, 3, 112), (112,))),
        Block("UpConv 32x32, 64 to 32", *up, ((4, 32, 32, 64), (64, 2, 2, 32), (32,))),
        Block(
            "depthwise 7x7, 16x16x256",
            layers.depthwise,
            plain_depthwise,
            ((4, 16, 16, 256), (7, 7, 256)),
        ),
    ]


def measure(block: Block, seconds: float) -> list[timing.Timing]:
    """Forward of ours and plain, then forward+backward of ours and plain."""
    rng = np.random.default_rng(0)
    inputs = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in block.shapes]
    weight = jnp.asarray(rng.normal(size=jax.eval_shape(block.ours, *inputs).shape), jnp.float32)

    def gradient(function):
        def backward(weight, *inputs):
            return jax.vjp(function, *inputs)[1](weight)

        return partial(jax.jit(backward), weight, *inputs)

    both = {"ours": block.ours, "plain": block.plain}
    calls = {name: partial(jax.jit(function), *inputs) for name, function in both.items()}
    calls |= {f"{name} gradient": gradient(function) for name, function in both.items()}
    return list(timing.in_turn(calls, seconds).values())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.layers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each block (default: 2)")
    flags = parser.parse_args(argv)
    print(timing.setting(), end="\n\n", flush=True)
    rows = []
    for block in blocks(jnp.dtype(flags.dtype)):
        ours, plain, ours_both, plain_both = measure(block, flags.seconds)
        gains = plain.median / ours.median, plain_both.median / ours_both.median
        times = [ours, plain, ours_both, plain_both]
        rows.append([block.name, *map(str, times), *(f"{gain:.1f}x" for gain in gains)])
    header = [f"{flags.dtype}, batch 4, ms", "forward", "plain", "forward+backward", "plain"]
    print(timing.markdown([*header, "gain", "gain, both"], rows))


if __name__ == "__main__":
    runtime.prepare()
    main()
