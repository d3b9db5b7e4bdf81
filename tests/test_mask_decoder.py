"""The mask decoder equals the reference's; a masked token is none; functions choose the mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from petsam_jax.models.mask_decoder import (
    DecoderOutput,
    MaskDecoder,
    best_mask,
    chosen_mask,
    multimask_masks,
    single_mask,
    stability,
    stable_mask,
)
from petsam_jax.models.mask_ops import enlarge
from tests.golden import (
    assert_close,
    golden,
    golden_config,
    golden_params,
    load_part,
    nhwc,
    outputs,
    run,
    shipped_config,
)

H, W, CHANNELS, TOKENS = 3, 5, 32, 4


def decoder(dtype="float32"):
    config = shipped_config()["mask_decoder"]
    return MaskDecoder(CHANNELS, **config, dtype=dtype, rngs=nnx.Rngs(0))


@pytest.fixture
def inputs(rng):
    """Two prompts with 4 tokens, the second with one of them masked."""
    shapes = [(2, H, W, 32), (H, W, 32), (2, TOKENS, 32), (2, H, W, 32)]
    image, image_pe, sparse, dense = (rng.normal(size=s).astype(np.float32) for s in shapes)
    mask = np.array([[True] * TOKENS, [True, True, False, True]])
    fine = [rng.normal(size=(2, n * H, n * W, c)).astype(np.float32) for n, c in [(4, 4), (2, 8)]]
    return image, image_pe, sparse, mask, dense, tuple(fine)


def decode(model, *inputs) -> DecoderOutput:
    return run(model, *jax.tree.map(jnp.asarray, inputs))


def assert_same(got: DecoderOutput, want: DecoderOutput, atol=2e-5):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=atol, rtol=1e-5)


# Parity

INPUTS = {"image_embeddings", "feat_s0", "feat_s1", "sparse", "dense", "image_pe", "repeat.sparse"}
INPUTS |= {"stability.logits_in", "stability.ious_in"}


@pytest.fixture(scope="module")
def found():
    """What ours computes, under the names of the golden arrays."""
    g, params = golden("mask_decoder"), golden_params()
    config = golden_config()["mask_decoder"]
    reference = MaskDecoder(CHANNELS, **config, rngs=nnx.Rngs(0))
    load_part(reference, params, "mask_decoder")
    raw = decode(reference, *golden_inputs(g))
    return (
        named("raw", raw, "masks_all4", "ious_all4", "mask_tokens_all4")
        | named("eval.multimask_True", multimask_masks(raw))
        | named("eval.multimask_False", stable_mask(raw))
        | named("train.multimask_False", single_mask(raw))
        | transformer_steps(reference, g)
        | named("repeat", multimask_masks(three_prompts(reference, params, g)))
        | stability_alone(g)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", outputs("mask_decoder", INPUTS))
def test_every_array_equals_the_reference(found, name):
    assert_close("mask_decoder", found[name], golden("mask_decoder")[name], name)


def golden_inputs(g):
    """The inputs of `raw.*`: two images with a prompt each, every token counting."""
    image, pe, dense, *fine = (
        nhwc(g[name]) for name in ["image_embeddings", "image_pe", "dense", "feat_s0", "feat_s1"]
    )
    return image, pe[0], g["sparse"], np.ones(g["sparse"].shape[:2], bool), dense, tuple(fine)


def named(case, output: DecoderOutput, masks="masks", ious="ious", tokens="sam_tokens"):
    return {
        f"{case}.{masks}": output.mask_logits,
        f"{case}.{ious}": output.iou_pred,
        f"{case}.{tokens}": output.mask_tokens,
        f"{case}.object_score_logits": output.object_logit,
    }


def transformer_steps(reference, g):
    image, pe, sparse, mask, dense = map(jnp.asarray, golden_inputs(g)[:5])
    tokens, token_mask = reference.all_tokens(sparse, mask)
    transformer = reference.transformer
    image, pe = (image + dense).reshape(2, -1, CHANNELS), pe.reshape(1, -1, CHANNELS)
    layer = run(transformer.layers[0], tokens, tokens, token_mask, image, pe)
    out = run(transformer, tokens, token_mask, image, pe)
    names = ["tokens_in", "layer0.queries", "layer0.keys", "tokens_out", "image_out_b_hw_c"]
    arrays = tokens, *layer, *out
    return {f"transformer.{name}": array for name, array in zip(names, arrays, strict=True)}


def three_prompts(reference, params, g):
    """One image serves several prompts; they have no mask."""
    image, pe, _, _, dense, fine = golden_inputs(g)
    sparse = g["repeat.sparse"]
    dense = np.broadcast_to(params["prompt_encoder.no_mask_embed"], (3, *dense.shape[1:]))
    one = image[:1], pe, sparse, np.ones((3, 2), bool), dense, tuple(f[:1] for f in fine)
    return decode(reference, *one)


def stability_alone(g):
    logits, ious = jnp.asarray(g["stability.logits_in"]), jnp.asarray(g["stability.ious_in"])
    got = stable_mask(DecoderOutput(logits, ious, jnp.zeros((4, 1)), jnp.zeros((4, 4, 2))))
    return {
        "stability.scores": stability(logits[:, :1], 0.05),
        "stability.masks_out": got.mask_logits,
        "stability.ious_out": got.iou_pred,
    }


# Tokens and images


@pytest.mark.slow
def test_place_content_and_number_of_masked_tokens_change_nothing(inputs, rng):
    model = decoder()
    image, pe, sparse, mask, *rest = inputs
    want = decode(model, *inputs)
    junk = np.where(mask[..., None], sparse, rng.normal(size=sparse.shape) * 50)
    order = rng.permutation(TOKENS)
    more = np.pad(sparse, ((0, 0), (1, 2), (0, 0)), constant_values=3.0)
    more_mask = np.pad(mask, ((0, 0), (1, 2)))
    for tokens, counts in [
        (junk.astype(np.float32), mask),
        (sparse[:, order], mask[:, order]),
        (more, more_mask),
    ]:
        assert_same(decode(model, image, pe, tokens, counts, *rest), want)

    counted = decode(model, image, pe, sparse, np.ones_like(mask), *rest)
    assert np.abs(counted.mask_logits[1] - want.mask_logits[1]).max() > 1e-3


def test_one_image_for_all_prompts_equals_repeating_it(inputs):
    model = decoder()
    image, *rest, fine = inputs
    twice = [np.repeat(x[:1], 2, axis=0) for x in (image, *fine)]
    want = decode(model, twice[0], *rest, tuple(twice[1:]))
    got = decode(model, image[:1], *rest, tuple(x[:1] for x in fine))
    assert_same(got, want)
    assert got.mask_logits.shape == (2, 4, 4 * H, 4 * W)


def test_position_code_tells_cells_apart(inputs):
    """Without it, shuffling a map's cells shuffles the masks' 4x4 blocks; with it, it does not."""
    model = decoder()
    image, pe, sparse, mask, dense, _ = inputs
    fine = tuple(np.zeros((2, n * H, n * W, c), np.float32) for n, c in [(4, 4), (2, 8)])
    order = np.array([2, 0, 1])

    def difference(pe):
        straight = decode(model, image, pe, sparse, mask, dense, fine).mask_logits
        shuffled = image[:, order], pe, sparse, mask, dense[:, order], fine
        blocks = straight.reshape(2, 4, H, 4, 4 * W)[:, :, order].reshape(straight.shape)
        return np.abs(decode(model, *shuffled).mask_logits - blocks).max()

    assert difference(np.zeros_like(pe)) < 2e-5
    assert difference(pe) > 1e-2


# Choice


@pytest.fixture
def output(rng):
    """Four prompts; the single mask is stable for the first two, and unsure for the others."""
    logits = rng.normal(size=(4, 4, 8, 8)).astype(np.float32)
    logits[:2, 0] = np.sign(logits[:2, 0])
    logits[2:, 0] = np.abs(logits[2:, 0]) * 0.04
    ious = np.array([[0.9, 0.1, 0.5, 0.2]] * 3 + [[0.9, 0.3, 0.3, 0.3]], np.float32)
    tokens = rng.normal(size=(4, 4, 6)).astype(np.float32)
    return DecoderOutput(*map(jnp.asarray, (logits, ious, np.ones((4, 1), np.float32), tokens)))


def test_each_prompt_gets_its_own_choice_of_mask(output):
    """A stable single mask, the best of three, the best of three by fallback with token 0."""
    multimask = jnp.array([False, True, False, True])
    select = jax.jit(chosen_mask, static_argnames="evaluation")
    got = select(output, multimask, evaluation=True)
    for prompt, (mask, token) in enumerate([(0, 0), (2, 2), (2, 0), (1, 1)]):
        np.testing.assert_array_equal(got.mask_logits[prompt, 0], output.mask_logits[prompt, mask])
        np.testing.assert_array_equal(got.iou_pred[prompt, 0], output.iou_pred[prompt, mask])
        np.testing.assert_array_equal(got.mask_tokens[prompt, 0], output.mask_tokens[prompt, token])
    training = select(output, multimask, evaluation=False)
    np.testing.assert_array_equal(training.mask_logits[2, 0], output.mask_logits[2, 0])
    assert_same(
        select(output, multimask | True, evaluation=False), best_mask(multimask_masks(output))
    )


def test_empty_single_mask_is_stable(output):
    empty = output._replace(mask_logits=output.mask_logits.at[:, 0].set(-5.0))
    assert stability(empty.mask_logits, 0.05)[:, 0].tolist() == [1.0] * 4
    np.testing.assert_array_equal(stable_mask(empty).mask_logits[:, 0], empty.mask_logits[:, 0])


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_enlarging_is_bilinear_resizing(rng, factor):
    x = jnp.asarray(rng.normal(size=(2, 3, 5, 8)), jnp.float32)
    want = jax.image.resize(x, (2, 3, 5 * factor, 8 * factor), "bilinear")
    np.testing.assert_allclose(enlarge(x, 5 * factor, 8 * factor), want, atol=5e-6)


# Training and speed


@pytest.mark.slow
@pytest.mark.parametrize("dtype, rounding", [("float32", 1e-4), ("bfloat16", 0.1)])
def test_gradient_reaches_every_parameter(inputs, dtype, rounding):
    """All but the key biases: adding the same to every score of a row does not change a softmax."""
    graph, params = nnx.split(decoder(dtype))
    weights = np.random.default_rng(1)

    def loss(params):
        output = nnx.merge(graph, params)(*jax.tree.map(jnp.asarray, inputs))
        return sum((x * weights.normal(size=x.shape)).sum() for x in output)

    grads = nnx.to_pure_dict(jax.jit(jax.grad(loss))(params))
    names = {
        jax.tree_util.keystr(path, simple=True, separator="."): float(np.abs(grad).max())
        for path, grad in jax.tree_util.tree_leaves_with_path(grads)
    }
    assert all(np.isfinite(value) for value in names.values())
    key_biases = {name for name in names if name.endswith("k_proj.bias")}
    assert max(names[name] for name in key_biases) < rounding
    assert min(names[name] for name in names.keys() - key_biases) > 1e-4


@pytest.mark.slow
def test_bfloat16_is_close_to_float32(inputs):
    got, want = decode(decoder("bfloat16"), *inputs), decode(decoder(), *inputs)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == jnp.float32
        assert 0 < np.abs(a - b).max() < 0.05 * max(1.0, np.abs(b).max())


def test_no_choice_of_prompt_or_mask_compiles_anything_anew(inputs):
    model = decoder()

    @jax.jit
    def click(multimask, *inputs):
        return chosen_mask(model(*inputs), multimask, evaluation=True)

    image, pe, sparse, mask, *rest = jax.tree.map(jnp.asarray, inputs)
    for count in range(TOKENS + 1):
        tokens = jnp.broadcast_to((jnp.arange(TOKENS) < count)[None], mask.shape)
        click(jnp.array([count < 2, True]), image, pe, sparse, tokens, *rest)
    assert click._cache_size() == 1


def test_width_must_suit_the_upscaling():
    with pytest.raises(ValueError, match="d_model: 36 is not a multiple of 8"):
        MaskDecoder(36, num_heads=2, rngs=nnx.Rngs(0))
