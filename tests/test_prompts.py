"""prompts.py: how clicks and boxes are painted into the mask input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from petsam_jax.models.prompts import add_click, empty_prompts, paint_prompts, set_box

# Compiled once for each set of numbers: op by op these take seconds a call.
paint = jax.jit(paint_prompts, static_argnames=("inside", "outside", "click", "radius"))
write = jax.jit(add_click)
put_box = jax.jit(set_box)


def painted(prompts, **kwargs):
    prompts = paint(prompts, **kwargs)
    return np.asarray(prompts.mask_input[..., 0]), np.asarray(prompts.has_mask)


def clicked(prompts, *clicks):
    for x, y, label in clicks:
        batch = len(prompts.has_mask)
        prompts = write(
            prompts,
            jnp.tile(jnp.array([[x, y]], jnp.float32), (batch, 1)),
            jnp.full(batch, label, jnp.int32),
        )
    return prompts


def test_no_prompts_paint_nothing():
    logits, has_mask = painted(empty_prompts(2, 64, 96))
    assert (logits == 0).all() and not has_mask.any() and logits.shape == (2, 16, 24)


def test_a_mask_alone_stays_as_it_is():
    logits = jax.random.normal(jax.random.key(0), (2, 16, 16, 1))
    prompts = empty_prompts(2, 64, 64)._replace(mask_input=logits, has_mask=jnp.array([True] * 2))
    got, has_mask = painted(prompts)
    np.testing.assert_array_equal(got, logits[..., 0])
    assert has_mask.all()


def test_box_is_painted_inside_and_outside_where_there_is_one():
    box = jnp.tile(jnp.array([[8.0, 16.0, 47.0, 31.0]]), (2, 1))
    prompts = put_box(empty_prompts(2, 64, 96), box, jnp.array([True, False]))
    got, has_mask = painted(prompts)
    want = np.full((16, 24), -8.0)
    want[4:8, 2:12] = 3
    np.testing.assert_array_equal(got, [want, np.zeros((16, 24))])
    np.testing.assert_array_equal(has_mask, [True, False])
    got, _ = painted(prompts, inside=1.0, outside=-2.0)
    np.testing.assert_array_equal(np.unique(got[0]), [-2, 1])


def test_the_smallest_box_still_paints_a_cell():
    for x, y in [(0, 0), (63, 63), (17, 30), (16, 31)]:
        box = jnp.array([[x, y, x, y]], jnp.float32)
        got, _ = painted(put_box(empty_prompts(1, 64, 64), box, jnp.array([True])))
        assert np.argwhere(got == 3).tolist() == [[0, y // 4, x // 4]]


@pytest.mark.parametrize("label, value", [(1, 10.0), (0, -10.0)])
def test_click_is_a_disc_of_its_radius(label, value):
    got, has_mask = painted(clicked(empty_prompts(1, 256, 256), (100, 57, label)))
    ys, xs = np.mgrid[:64, :64] * 4 + 2.0
    inside = np.hypot(xs - 100.5, ys - 57.5) <= 0.045 * 256
    np.testing.assert_array_equal(got[0], np.where(inside, value, 0.0))
    assert has_mask.all() and inside.sum() > 20


def test_a_click_on_a_small_image_reaches_its_cell():
    for x, y in [(0, 0), (31, 31), (3, 16), (12, 31)]:
        got, _ = painted(clicked(empty_prompts(1, 32, 32), (x, y, 1)), radius=0.0)
        assert got[0, y // 4, x // 4] == 10


def test_clicks_are_painted_over_fed_back_logits_and_over_the_box():
    box = jnp.tile(jnp.array([[8.0, 8.0, 55.0, 55.0]]), (2, 1))
    fed_back = jax.random.normal(jax.random.key(0), (2, 16, 16, 1))
    prompts = put_box(empty_prompts(2, 64, 64), box, jnp.array([True, True]))
    prompts = prompts._replace(mask_input=fed_back, has_mask=jnp.array([True, False]))
    bare, _ = painted(prompts)
    got, has_mask = painted(clicked(prompts, (20, 20, 0)))
    disc = got == -10
    np.testing.assert_array_equal(disc[0], disc[1])
    assert disc[0, 5, 5] and disc[0].sum() < 10 and has_mask.all()
    np.testing.assert_array_equal(got[0][~disc[0]], np.asarray(fed_back)[0, ..., 0][~disc[0]])
    np.testing.assert_array_equal(got[1][~disc[1]], bare[1][~disc[1]])
    assert set(np.unique(bare[1])) == {-8, 3}


def test_nearest_click_counts_and_of_two_on_one_pixel_the_newer():
    near = clicked(empty_prompts(1, 256, 256), (100, 100, 1), (112, 100, 0))
    got, _ = painted(near)
    assert got[0, 25, 25] == 10 and got[0, 25, 28] == -10
    same, _ = painted(clicked(empty_prompts(1, 256, 256), (100, 100, 1), (100, 100, 0)))
    assert same.max() == 0 and same[0, 25, 25] == -10


def test_painting_twice_is_painting_once():
    prompts = clicked(empty_prompts(1, 64, 64), (20, 30, 1), (50, 50, 0))
    once = paint(put_box(prompts, jnp.array([[8.0, 8, 40, 40]]), jnp.array([True])))
    np.testing.assert_array_equal(paint(once).mask_input, once.mask_input)


def test_painting_does_not_recompile_with_more_prompts():
    fresh, prompts = jax.jit(lambda p: paint_prompts(p)), empty_prompts(1, 64, 64)
    for i in range(4):
        fresh(prompts)
        prompts = clicked(prompts, (i, i, 1))
    fresh(put_box(prompts, jnp.ones((1, 4)), jnp.array([True])))
    assert fresh._cache_size() == 1
