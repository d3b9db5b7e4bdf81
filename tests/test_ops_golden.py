"""What the parts are made of equals the official numbers: every array of ops.npz."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from petsam_jax.models.hiera import pad_to_windows, split_windows
from petsam_jax.models.layers import LayerNorm, UpConv, gelu, upsample_nearest
from petsam_jax.models.position import resize_bicubic, sine_time
from petsam_jax.models.sam2 import SAM2
from petsam_jax.models.sam2_weights import our_name
from tests.golden import assert_close, golden, golden_config, nchw, nhwc, outputs

# Where a norm's epsilon shows: its input, its output and the epsilon, in the name of one such norm.
NORMS = [name[4:-3] for name in golden("ops") if name.startswith("eps.") and name[-3:] == ".in"]
INPUTS = {
    "bicubic.in",
    "bilinear.in",
    "aa.in",
    "gelu.in",
    "convtranspose.in",
    "convtranspose.weight_in_out_kh_kw",
    "convtranspose.bias",
    "sine1d.in",
    "window.in_nhwc",
    *(f"eps.{name}.in" for name in NORMS),
}


@pytest.fixture(scope="module")
def found():
    """What ours makes of the inputs, under the names of the golden arrays."""
    ops = golden("ops")
    found = {
        "nearest2x": nchw(upsample_nearest(jnp.asarray(nhwc(ops["bilinear.in"])))),
        "gelu.out_exact_erf": gelu(jnp.asarray(ops["gelu.in"])),
        "convtranspose.out": nchw(up_conv(ops)(jnp.asarray(nhwc(ops["convtranspose.in"])))),
        "sine1d.out_dim32": sine_time(jnp.asarray(ops["sine1d.in"]), 32),
    }
    return found | bicubic(ops) | bilinear(ops) | windows(ops) | norms(ops)


@pytest.mark.slow
@pytest.mark.parametrize("name", outputs("ops", INPUTS))
def test_every_array_equals_the_reference(found, name):
    want = golden("ops")[name]
    if name.endswith(".eps"):
        # The limits are far above it.
        assert found[name] == want
    else:
        assert_close("ops", found[name], want, name)


def up_conv(ops):
    """The kernel keeps its direction: it is not flipped as that of a convolution would be."""
    module = UpConv(4, 2, rngs=nnx.Rngs(0))
    module.kernel[...] = jnp.asarray(np.moveaxis(ops["convtranspose.weight_in_out_kh_kw"], 1, -1))
    module.bias[...] = jnp.asarray(ops["convtranspose.bias"])
    return module


def bicubic(ops):
    x = jnp.asarray(nhwc(ops["bicubic.in"])[0])
    sizes = (16, 16), (32, 32), (12, 20), (64, 64)
    return {f"bicubic.to_{h}x{w}": nchw(resize_bicubic(x, h, w)[None]) for h, w in sizes}


def bilinear(ops):
    """Of JAX, so what is tested is that it is the right function to call."""
    found = {}
    for source, target, antialias in [
        ("aa.in", "aa.bilinear_antialias_to_8x8", True),
        ("aa.in", "aa.bilinear_antialias_to_20x12", True),
        ("aa.in", "aa.bilinear_no_antialias_to_8x8", False),
        ("bilinear.in", "bilinear.to_32x32", False),
    ]:
        x = jnp.asarray(ops[source])
        found[target] = jax.image.resize(x, ops[target].shape, "linear", antialias=antialias)
    return found


def windows(ops):
    padded = pad_to_windows(jnp.asarray(ops["window.in_nhwc"]), (3, 3))
    split = split_windows(padded, (3, 3))[:, 0]
    return {
        "window.padded_hw": padded.shape[1:3],
        "window.partition3": split.reshape(-1, 3, 3, split.shape[-1]),
    }


def norms(ops):
    """Each kind of norm as the model is built with it, and with the weights that it has there."""
    model = nnx.eval_shape(lambda: SAM2(**golden_config(), rngs=nnx.Rngs(0)))
    params, found = golden("params"), {}
    for name in NORMS:
        eps = part_of(model, our_name(f"{name}.weight")[0].removesuffix(".scale")).eps
        x = ops[f"eps.{name}.in"]
        norm = LayerNorm(x.shape[1 if x.ndim == 4 else -1], eps=eps)
        norm.scale[...] = jnp.asarray(params[f"{name}.weight"])
        norm.bias[...] = jnp.asarray(params[f"{name}.bias"])
        out = nchw(norm(jnp.asarray(nhwc(x)))) if x.ndim == 4 else norm(jnp.asarray(x))
        found |= {f"eps.{name}.eps": eps, f"eps.{name}.out": out}
    return found


def part_of(module, path):
    for step in path.split("."):
        module = module[int(step)] if step.isdigit() else getattr(module, step)
    return module
