"""The trunk equals the reference's, block by block; windows, drop path and sides behave."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from petsam_jax.models import hiera
from petsam_jax.models.hiera import (
    Hiera,
    MultiScaleBlock,
    WindowAttention,
    merge_windows,
    pad_to_windows,
    split_qkv,
    split_windows,
)
from petsam_jax.models.params import fill, shapes, weights
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

# 128 pixels are maps of 32, 16, 8 and 4 tokens a side; the last windows of the first need padding.
PADDED, TILING = (8, 4, 14, 7), (8, 4, 16, 8)


def small(windows=TILING, stages=(1, 1, 2, 1), global_att_blocks=(3,), seed=0, **options):
    """A trunk with weights of numpy: an initialisation's own draws take seconds to compile."""
    arguments = stages, windows, global_att_blocks
    model = nnx.eval_shape(lambda: Hiera(8, 1, *arguments, **options, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(seed)
    fill(model, {name: 0.3 * rng.normal(size=shape) for name, shape in shapes(model).items()})
    return model


def build(config, params, dtype="float32"):
    config = config["image_encoder"]["trunk"]
    outline = nnx.eval_shape(lambda: Hiera(**config, dtype=dtype, rngs=nnx.Rngs(0)))
    return load_part(outline, params, "image_encoder.trunk")


@pytest.fixture(scope="module")
def model():
    return build(shipped_config(), shipped_params())


def normal(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


# Parity


@jax.jit
def steps(trunk, image):
    """What the trunk computes on its way, under the names of the golden arrays."""
    patches = trunk.patch_embed(image)
    position = trunk.position(*patches.shape[1:3])[None]
    found = {"patch_embed_nhwc": patches, "pos_embed_nhwc": position}
    x = patches + position
    for index, block in enumerate(trunk.blocks):
        x = found[f"block{index}_nhwc"] = block(x)
    return found | {f"stage{index}": x for index, x in enumerate(trunk(image))}


@pytest.fixture(scope="module")
def found():
    g, reference = golden("hiera"), build(golden_config(), golden_params())
    return {
        f"{shape}.{name}": array if name.endswith("nhwc") else nchw(array)
        for shape in ("square", "rect")
        for name, array in steps(reference, nhwc(g[f"{shape}.image"])).items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", outputs("hiera", {"square.image", "rect.image"}))
def test_every_step_equals_the_reference(found, name):
    assert_close("hiera", found[name], golden("hiera")[name], name)


# Windows


@pytest.mark.parametrize("num_heads", [1, 2, 3])
@pytest.mark.parametrize(("side", "window"), [((7, 5), (3, 2)), ((1, 9), (4, 4)), ((6, 6), (3, 3))])
def test_merge_undoes_split(rng, side, window, num_heads):
    x = normal(rng, 2, *side, 6)
    padded = pad_to_windows(x, window)
    grid = padded.shape[1] // window[0], padded.shape[2] // window[1]
    assert all(
        0 <= new - old < w for new, old, w in zip(padded.shape[1:3], side, window, strict=True)
    )
    windows = split_windows(padded, window, num_heads)
    assert windows.shape == (
        2 * grid[0] * grid[1],
        num_heads,
        window[0] * window[1],
        6 // num_heads,
    )
    merged = merge_windows(windows, window, grid)
    np.testing.assert_array_equal(merged[:, : side[0], : side[1]], x)
    np.testing.assert_array_equal(merged, padded)
    # Padded by zeros alone. As numbers, since their sum depends on the order of its terms.
    assert jnp.count_nonzero(padded) == jnp.count_nonzero(x)


def test_windows_are_in_reading_order():
    x = jnp.arange(24.0).reshape(1, 4, 6, 1)
    windows = split_windows(x, (2, 3))
    np.testing.assert_array_equal(windows[1, 0, :, 0], [3, 4, 5, 9, 10, 11])
    np.testing.assert_array_equal(windows[2, 0, :, 0], [12, 13, 14, 18, 19, 20])


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 0), ("bfloat16", 2**-8)])
def test_split_qkv_and_its_gradient_equal_the_plain_formulation(rng, dtype, limit):
    qkv, window, grid = normal(rng, 2, 4, 9, 3 * 10), (2, 3), (2, 3)

    def plain(qkv):
        return tuple(split_windows(z, window, 2) for z in jnp.split(qkv, 3, axis=-1))

    # Under `checkpoint`, nothing that is kept for the backward pass is a plain number any more.
    split = jax.checkpoint(lambda qkv: split_qkv(qkv, window, grid, 2, dtype))
    got, got_vjp = jax.vjp(split, qkv)
    want, want_vjp = jax.vjp(plain, qkv)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
    grads = tuple(normal(rng, *z.shape) for z in want)
    np.testing.assert_allclose(got_vjp(grads)[0], want_vjp(grads)[0], rtol=limit)


def test_a_window_sees_itself_only_and_a_global_block_sees_all(rng):
    x = normal(rng, 1, 8, 12, 8)
    changed = x.at[:, 4:, 8:].add(1.0)
    for window, want in [(4, (slice(4, 8), slice(8, 12))), (0, (slice(0, 8), slice(0, 12)))]:
        attend = WindowAttention(
            8, 8, 2, pool=False, window=window, dtype="float32", rngs=nnx.Rngs(0)
        )
        moved = np.abs(run(attend, changed) - run(attend, x)).max(axis=(0, 3)) > 0
        expected = np.zeros((8, 12), bool)
        expected[want] = True
        np.testing.assert_array_equal(moved, expected)


def test_padding_counts_as_tokens(rng):
    """Keys and values of padding are the biases, and take their share of attention."""
    attend = WindowAttention(8, 8, 1, pool=False, window=4, dtype="float32", rngs=nnx.Rngs(0))
    attend.qkv.kernel[...] = jnp.zeros_like(attend.qkv.kernel[...]).at[:, 16:].set(jnp.eye(8))
    attend.proj.kernel[...] = jnp.eye(8)
    x = normal(rng, 1, 3, 3, 8)
    # All scores are equal, so each output is the mean of 16 values, of which 7 are zero.
    want = np.broadcast_to(np.asarray(x).sum((1, 2), keepdims=True) / 16, x.shape)
    np.testing.assert_allclose(run(attend, x), want, atol=1e-6)


def test_both_sets_of_windows_have_the_same_weights_and_agree_until_one_pads(rng):
    padded, tiling = (
        small(PADDED, global_att_blocks=()),
        small(TILING, seed=1, global_att_blocks=()),
    )
    assert shapes(padded) == shapes(tiling)
    fill(tiling, weights(padded))
    image = normal(rng, 1, 256, 256, 3)
    got, want = run(padded, image), run(tiling, image)
    assert [x.shape for x in got] == [(1, 256 // s, 256 // s, 2 * s) for s in (4, 8, 16, 32)]
    for a, b in zip(got[:2], want[:2], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    for a, b in zip(got[2:], want[2:], strict=True):
        assert np.isfinite(a).all() and np.abs(a - b).max() > 0.01


def test_a_window_of_the_map_s_size_is_global_attention(rng):
    windowed, whole = small(global_att_blocks=()), small(global_att_blocks=(3,))
    image = normal(rng, 1, 256, 256, 3)
    for a, b in zip(run(windowed, image), run(whole, image), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


# Arguments and sides


@pytest.mark.parametrize("side", [(48, 64), (64, 80), (33, 64), (16, 16)])
def test_sides_that_do_not_divide_are_refused(side):
    with pytest.raises(ValueError, match=rf"image: sides.*multiples of 32.*{side[0]}, {side[1]}"):
        small()(jnp.zeros((1, *side, 3)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": (1, 1, 2)}, "stages"),
        ({"stages": (1, 0, 2, 1)}, "stages"),
        ({"windows": (8, 4, 8)}, "window_sizes"),
        ({"windows": (8, 4, 7, 4)}, "window_sizes: the first three must be even"),
        ({"windows": (8, 4, 8, 0)}, "window_sizes"),
        ({"global_att_blocks": (5,)}, r"global_att_blocks: \[5\].*there are 5"),
        ({"global_att_blocks": (-1,)}, r"global_att_blocks: \[-1\]"),
    ],
)
def test_bad_sizes_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


@pytest.mark.slow
def test_each_picture_of_a_batch_is_alone_on_a_rectangle(model, rng):
    image = normal(rng, 2, 64, 96, 3)
    both, alone = run(model, image), run(model, image[1:])
    for stride, a, b in zip((4, 8, 16, 32), both, alone, strict=True):
        assert a.shape[:3] == (2, 64 // stride, 96 // stride)
        np.testing.assert_allclose(a[1:], b, atol=2e-5)


# Drop path


def test_drop_path_grows_linearly_from_none():
    trunk = small(stages=(1, 2, 3, 2), drop_path_rate=0.7)
    rates = [block.drop_path_rate for block in trunk.blocks]
    np.testing.assert_allclose(rates, np.arange(8) / 10)
    assert small(stages=(1, 1, 1, 1), global_att_blocks=()).blocks[3].drop_path_rate == 0


def test_drop_path_needs_a_key(rng):
    dropping, plain = small(drop_path_rate=0.5), small()
    image = normal(rng, 2, 64, 64, 3)
    want = run(plain, image)
    for a, b in zip(want, run(dropping, image), strict=True):
        np.testing.assert_array_equal(a, b)
    one, other, again = (run(dropping, image, jax.random.key(seed))[-1] for seed in (0, 1, 0))
    assert np.abs(one - other).max() > 0.01 and np.abs(one - want[-1]).max() > 0.01
    np.testing.assert_array_equal(one, again)


@pytest.mark.slow
def test_each_branch_of_each_block_has_its_own_draw(rng, monkeypatch):
    drawn = []
    monkeypatch.setattr(hiera, "drop_path", lambda x, rate, chance: drawn.append(chance) or x)
    small(drop_path_rate=0.5)(normal(rng, 3, 64, 64, 3), jax.random.key(0))
    assert np.unique(drawn).size == np.size(drawn) == 2 * 5 * 3
    assert np.min(drawn) >= 0 and np.max(drawn) < 1


def test_branches_of_samples_are_dropped_each_by_its_own_draw(rng):
    """At a rate of a half, a quarter of the samples lose both branches and are left as they are."""
    block = MultiScaleBlock(
        8,
        8,
        1,
        pool=False,
        window=2,
        drop_path_rate=0.5,
        mlp_ratio=2.0,
        dtype="float32",
        rngs=nnx.Rngs(0),
    )
    x = normal(rng, 1000, 2, 2, 8)
    chances = jax.random.uniform(jax.random.key(0), (2, 1000))
    untouched = (run(block, x, chances) == x).all(axis=(1, 2, 3))
    assert 0.2 < untouched.mean() < 0.3


# Training, types, compiling


def test_gradient_reaches_every_parameter(rng):
    graph, params = nnx.split(small((4, 4, 4, 2), drop_path_rate=0.1))
    image = normal(rng, 2, 96, 64, 3)

    @jax.jit
    def gradients(params):
        def loss(params):
            maps = nnx.merge(graph, params)(image, jax.random.key(0))
            return sum(jnp.square(x - 1).mean() for x in maps)

        return jax.grad(loss)(params)

    grads = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(gradients(params)))
    assert len(grads) == 4 + 5 * 12 + 3 * 2
    for path, grad in grads:
        assert np.isfinite(grad).all() and np.abs(grad).max() > 1e-6, path


def test_bfloat16_is_close_to_float32(model):
    half = build(shipped_config(), shipped_params(), "bfloat16")
    image = nhwc(shipped("hiera")["square.image"])
    for a, b in zip(run(half, image), run(model, image), strict=True):
        assert a.dtype == jnp.float32
        assert 0 < np.abs(a - b).mean() < 0.02 * np.abs(b).mean()


def test_the_same_shape_compiles_once(rng):
    graph, state = nnx.split(small())
    forward = jax.jit(lambda state, image: nnx.merge(graph, state)(image))
    for _ in range(3):
        forward(state, normal(rng, 1, 64, 64, 3))
    assert forward._cache_size() == 1
    forward(state, normal(rng, 1, 64, 96, 3))
    assert forward._cache_size() == 2
