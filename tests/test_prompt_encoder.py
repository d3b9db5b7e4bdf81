"""The prompt encoder equals the reference's, and an empty slot is as good as none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from petsam_jax.models.params import weights
from petsam_jax.models.prompt_encoder import Constant, PromptEncoder
from petsam_jax.models.prompts import add_click, empty_prompts, set_box
from tests.golden import assert_close, golden, golden_params, load_part, nchw, nhwc, outputs, run

HEIGHT, WIDTH, CHANNELS = 64, 96, 32


def encoder(dtype="float32"):
    return PromptEncoder(CHANNELS, 16, dtype=dtype, rngs=nnx.Rngs(0))


@pytest.fixture
def prompt(rng):
    """Two images, the second without any point; both with a mask, of which one is switched on."""
    points = rng.uniform(0, HEIGHT - 1, (2, 6, 2)).astype(np.float32)
    labels = np.array([[1, 0, 1, -1, 2, 3], [-1] * 6], np.int32)
    mask = rng.normal(size=(2, HEIGHT // 4, WIDTH // 4, 1)).astype(np.float32)
    return points, labels, mask, np.array([True, False])


def embed(model, *prompt):
    return run(model, *map(jnp.asarray, prompt))


def counting(embed):
    """The tokens that count, of each image, in an order that does not depend on theirs."""
    tokens, mask = np.asarray(embed.sparse_embed), np.asarray(embed.sparse_mask)
    return [t[m][np.lexsort(t[m].T)] for t, m in zip(tokens, mask, strict=True)]


def test_the_gain_is_of_the_last_weights_of_a_mask_prompt_alone():
    loud = weights(PromptEncoder(CHANNELS, 16, mask_gain=3.0, rngs=nnx.Rngs(0)))
    for name, array in weights(encoder()).items():
        gain = 3.0 if name == "mask_conv3.kernel" else 1.0
        np.testing.assert_array_equal(loud[name], gain * array)


# Parity

INPUTS = {"coords", "labels", "boxes", "mask_logits"}


@pytest.fixture(scope="module")
def found():
    """What ours computes, under the names of the golden arrays."""
    g, model = golden("prompt_encoder"), load_part(encoder(), golden_params(), "prompt_encoder")
    labels, coords, corners = g["labels"], g["coords"], g["boxes"].reshape(2, 2, 2)
    # A box is two points: its corners.
    box = np.broadcast_to(np.array([[2, 3]]), (2, 2))

    def given(labels, coords, has_mask):
        mask = nhwc(g["mask_logits"])
        return embed(model, coords, labels.astype(np.int32), mask, np.full(2, has_mask))

    points, with_mask = given(labels, coords, False), given(labels, coords, True)
    both = given(np.concatenate([labels, box], 1), np.concatenate([coords, corners], 1), False)
    # Without slots, no token but the appended one, which SAM 2 does not have there.
    mask_only = given(np.zeros((2, 0)), np.zeros((2, 0, 2), np.float32), True)
    # A token is the code of its point, half a pixel on, and its label's embedding.
    some = np.where(labels < 0, 0, labels)
    placed = given(some, coords - 0.5, False).sparse_embed[:, :-1]
    return {
        "dense_pe": nchw(model.dense_pe(128, 128)[None]),
        "coord_pe_of_coords_no_half_pixel_shift": placed - model.point_embed[...][some],
        "points.sparse": points.sparse_embed,
        "points.dense_one_pixel": the_same_everywhere(points.dense_embed),
        "boxes.sparse": given(box, corners, False).sparse_embed[:, :2],
        "points_boxes.sparse": both.sparse_embed[:, :7],
        "points_mask.sparse": with_mask.sparse_embed,
        "points_mask.dense": nchw(with_mask.dense_embed),
        "mask_only.sparse_shape": mask_only.sparse_embed[:, :-1].shape,
        "mask_only.dense": nchw(mask_only.dense_embed),
    }


def the_same_everywhere(x):
    """A map's one vector."""
    np.testing.assert_array_equal(x, np.broadcast_to(x[:, :1, :1], x.shape))
    return x[:, 0, 0]


@pytest.mark.parametrize("name", outputs("prompt_encoder", INPUTS))
def test_every_array_equals_the_reference(found, name):
    assert_close("prompt_encoder", found[name], golden("prompt_encoder")[name], name)


def test_a_mask_alone_is_as_with_points(found):
    want = golden("prompt_encoder")["points_mask.dense"]
    assert_close("prompt_encoder", found["mask_only.dense"], want, "mask_only")


# Slots


def test_empty_slots_count_as_the_reference_has_them(prompt):
    """The appended token always counts; a image without points has a second one, no more."""
    mask = np.asarray(embed(encoder(), *prompt).sparse_mask)
    assert mask.tolist() == [
        [True, True, True, False, True, True, True],
        [True, False, False, False, False, False, True],
    ]


def test_place_content_and_number_of_empty_slots_change_nothing(prompt):
    model = encoder()
    points, labels, *mask = prompt
    want = counting(embed(model, *prompt))
    assert [len(tokens) for tokens in want] == [6, 2]

    junk = np.where(labels[..., None] < 0, np.float32(np.inf), points)
    order = np.array([3, 5, 0, 2, 4, 1])
    more = np.pad(points, ((0, 0), (2, 3), (0, 0))), np.pad(labels, ((0, 0), (2, 3)), "constant")
    more[1][:, :2] = more[1][:, -3:] = -1
    for changed in [(junk, labels), (points[:, order], labels[:, order]), more]:
        for got, tokens in zip(counting(embed(model, *changed, *mask)), want, strict=True):
            np.testing.assert_allclose(got, tokens, atol=1e-6)


def test_takes_what_prompts_make():
    prompts = empty_prompts(1, HEIGHT, WIDTH, max_clicks=4)
    prompts = add_click(prompts, jnp.array([[5.0, 7.0]]), jnp.array([1]))
    prompts = set_box(prompts, jnp.array([[1.0, 2.0, 30.0, 40.0]]), jnp.array([True]))
    got = embed(encoder(), *prompts)
    assert got.sparse_embed.shape == (1, 7, CHANNELS)
    assert got.sparse_mask[0].tolist() == [True, False, False, False, True, True, True]
    assert got.dense_embed.shape == (1, HEIGHT // 16, WIDTH // 16, CHANNELS)


def test_mask_content_matters_only_where_there_is_a_mask(prompt, rng):
    model = encoder()
    points, labels, mask, has_mask = prompt
    before = embed(model, *prompt).dense_embed
    mask = rng.normal(size=mask.shape).astype(np.float32)
    after = embed(model, points, labels, mask, has_mask).dense_embed
    assert np.abs(before[0] - after[0]).max() > 0.1
    np.testing.assert_array_equal(before[1], after[1])
    np.testing.assert_array_equal(
        after[1], np.broadcast_to(model.no_mask_embed[...], after[1].shape)
    )


def test_axes_of_a_rectangle_are_not_mixed_up():
    """A point at a cell's centre has that cell's code, in either orientation."""
    model = encoder()
    for height, width in [(HEIGHT, WIDTH), (WIDTH, HEIGHT)]:
        pe = model.dense_pe(height, width)
        assert pe.shape == (height // 16, width // 16, CHANNELS)
        row, column = height // 16 - 1, 1
        point = np.array([[[column * 16 + 7.5, row * 16 + 7.5]]], np.float32)
        mask = np.zeros((1, height // 4, width // 4, 1), np.float32)
        got = embed(model, point, np.array([[1]], np.int32), mask, np.array([False]))
        code = got.sparse_embed[0, 0] - model.point_embed[...][1]
        np.testing.assert_allclose(code, pe[row, column], atol=1e-5)


# Training and speed


def test_gradient_reaches_every_parameter(prompt):
    graph, params, constants = nnx.split(encoder(), nnx.Param, Constant)

    def loss(params):
        got = nnx.merge(graph, params, constants)(*map(jnp.asarray, prompt))
        sparse = jnp.where(got.sparse_mask[..., None], got.sparse_embed, 0.0)
        return jnp.square(sparse).sum() + jnp.square(got.dense_embed).sum()

    grads = nnx.to_pure_dict(jax.jit(jax.grad(loss))(params))
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        # Each label occurs, so each row of the table is reached.
        rows = np.abs(grad).reshape(grad.shape[0], -1).max(1) if "point" in str(path) else grad
        assert np.isfinite(grad).all() and np.abs(rows).min() > 0, path
    assert list(nnx.to_pure_dict(constants)) == ["gaussian"]


def test_bfloat16_is_close_to_float32(prompt):
    got, want = embed(encoder("bfloat16"), *prompt), embed(encoder(), *prompt)
    assert got.dense_embed.dtype == jnp.float32
    # Points are not rounded at all.
    np.testing.assert_array_equal(got.sparse_embed, want.sparse_embed)
    scale = np.abs(want.dense_embed).max()
    assert 0 < np.abs(got.dense_embed - want.dense_embed).max() < 0.02 * scale


def test_no_prompt_compiles_anything_anew(prompt):
    model = encoder()
    run = jax.jit(lambda *p: model(*p))
    points, labels, mask, has_mask = map(jnp.asarray, prompt)
    for count in range(labels.shape[1] + 1):
        run(points, labels.at[:, count:].set(-1), mask, has_mask)
        run(points, labels, mask, ~has_mask)
    assert run._cache_size() == 1
