"""The mask decoder equals the reference's; a masked token is none; functions choose the mask."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden import assert_close, golden, golden_config, load_part, nhwc

from petsam_jax.models.decoded import enlarge
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
from petsam_jax.models.prompt_encoder import PromptEncoder

H, W, CHANNELS, TOKENS = 3, 5, 32, 4


def decoder(dtype="float32"):
    config = golden_config()["mask_decoder"]
    return MaskDecoder(CHANNELS, **config, dtype=dtype, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def reference():
    return load_part(decoder(), "mask_decoder")


@pytest.fixture(scope="module")
def encoder():
    return load_part(PromptEncoder(CHANNELS, 16, rngs=nnx.Rngs(0)), "prompt_encoder")


@pytest.fixture(scope="module")
def g():
    return golden("mask_decoder")


@pytest.fixture
def inputs(rng):
    """Two prompts with 4 tokens, the second with one of them masked."""
    shapes = [(2, H, W, 32), (H, W, 32), (2, TOKENS, 32), (2, H, W, 32)]
    image, image_pe, sparse, dense = (rng.normal(size=s).astype(np.float32) for s in shapes)
    mask = np.array([[True] * TOKENS, [True, True, False, True]])
    fine = [rng.normal(size=(2, n * H, n * W, c)).astype(np.float32) for n, c in [(4, 4), (2, 8)]]
    return image, image_pe, sparse, mask, dense, tuple(fine)


@partial(jax.jit, static_argnums=0)
def run(graph, params, *inputs):
    return nnx.merge(graph, params)(*inputs)


def decode(model, *inputs) -> DecoderOutput:
    return run(*nnx.split(model), *jax.tree.map(jnp.asarray, inputs))


def golden_inputs(g):
    """The inputs of `raw.*`: two images with a prompt each, every token counting."""
    image, pe, dense, *fine = (
        nhwc(g[name]) for name in ["image_embeddings", "image_pe", "dense", "feat_s0", "feat_s1"]
    )
    return image, pe[0], g["sparse"], np.ones(g["sparse"].shape[:2], bool), dense, tuple(fine)


def assert_output(got: DecoderOutput, g, prefix, masks, ious, tokens):
    for value, name in [
        (got.mask_logits, masks),
        (got.iou_pred, ious),
        (got.mask_tokens, tokens),
        (got.object_logit, "object_score_logits"),
    ]:
        assert_close("mask_decoder", value, g[f"{prefix}.{name}"], f"{prefix}.{name}")


def assert_same(got: DecoderOutput, want: DecoderOutput, atol=2e-5):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=atol, rtol=1e-5)


# Parity


def test_all_four_masks_equal_the_reference(reference, g):
    got = decode(reference, *golden_inputs(g))
    assert_output(got, g, "raw", "masks_all4", "ious_all4", "mask_tokens_all4")


@pytest.mark.parametrize(
    "case, choose",
    [
        ("eval.multimask_True", multimask_masks),
        ("eval.multimask_False", stable_mask),
        ("train.multimask_False", single_mask),
    ],
)
def test_choice_of_masks_equals_the_reference(reference, g, case, choose):
    got = choose(decode(reference, *golden_inputs(g)))
    assert_output(got, g, case, "masks", "ious", "sam_tokens")


def test_transformer_equals_the_reference(reference, g):
    image, pe, sparse, mask, dense = map(jnp.asarray, golden_inputs(g)[:5])
    tokens, token_mask = reference.all_tokens(sparse, mask)
    assert_close("mask_decoder", tokens, g["transformer.tokens_in"], "tokens_in")

    transformer = reference.transformer
    image, pe = (image + dense).reshape(2, -1, CHANNELS), pe.reshape(1, -1, CHANNELS)
    got = jax.jit(lambda *x: transformer.layers[0](*x))(tokens, tokens, token_mask, image, pe)
    for value, name in zip(got, ["layer0.queries", "layer0.keys"], strict=True):
        assert_close("mask_decoder", value, g[f"transformer.{name}"], name)
    got = jax.jit(lambda *x: transformer(*x))(tokens, token_mask, image, pe)
    for value, name in zip(got, ["tokens_out", "image_out_b_hw_c"], strict=True):
        assert_close("mask_decoder", value, g[f"transformer.{name}"], name)


def test_one_image_serves_several_prompts_as_in_the_reference(reference, encoder, g):
    image, pe, _, _, dense, fine = golden_inputs(g)
    sparse = g["repeat.sparse"]
    # Prompts without a mask.
    dense = np.broadcast_to(encoder.no_mask_embed[...], (3, *dense.shape[1:]))
    one = image[:1], pe, sparse, np.ones((3, 2), bool), dense, tuple(f[:1] for f in fine)
    got = decode(reference, *one)
    assert_output(multimask_masks(got), g, "repeat", "masks", "ious", "sam_tokens")


def test_stability_fallback_equals_the_reference(g):
    logits, ious = jnp.asarray(g["stability.logits_in"]), jnp.asarray(g["stability.ious_in"])
    got = stable_mask(DecoderOutput(logits, ious, jnp.zeros((4, 1)), jnp.zeros((4, 4, 2))))
    assert_close("mask_decoder", stability(logits[:, :1], 0.05), g["stability.scores"], "scores")
    assert_close("mask_decoder", got.mask_logits, g["stability.masks_out"], "masks_out")
    assert_close("mask_decoder", got.iou_pred, g["stability.ious_out"], "ious_out")


@pytest.mark.parametrize(
    "case, points, mask",
    [
        ("click_multimask", "1", None),
        ("two_points_single", "2", None),
        ("click_lowmask_single", "2", "mask_low_res_logits"),
        ("no_point_fullmask", None, "mask_full_res"),
        ("no_prompt_multimask", None, None),
    ],
)
def test_prompt_encoder_and_decoder_equal_the_reference(reference, encoder, case, points, mask):
    """Through our fixed slots: three pictures, 18 slots, of which two are used at most."""
    heads = golden("sam_heads")
    given = points and (heads[f"point_coords_{points}"], heads[f"point_labels_{points}"])
    slots, labels = np.zeros((3, 18, 2), np.float32), np.full((3, 18), -1, np.int32)
    if given:
        # In the last slots of all, since their place must not matter.
        slots[:, -given[1].shape[1] :], labels[:, -given[1].shape[1] :] = given
    mask_input = jnp.zeros((3, 32, 32, 1))
    if mask:
        mask_input = jnp.asarray(nhwc(heads[mask]), jnp.float32)
        mask_input = jax.image.resize(mask_input, (3, 32, 32, 1), "bilinear", antialias=True)
    prompt = run(*nnx.split(encoder), slots, labels, mask_input, np.full(3, bool(mask)))
    fine = tuple(nhwc(heads[name]) for name in ["feat_s0", "feat_s1"])
    pe = encoder.dense_pe(128, 128)
    output = decode(reference, nhwc(heads["backbone_features"]), pe, *prompt, fine)

    got = multimask_masks(output) if "multimask" in case else stable_mask(output)
    present = np.asarray(output.object_logit > 0)[..., None, None]
    masks = np.where(present, got.mask_logits, -1024.0)
    assert_close("sam_heads", masks, heads[f"{case}.low_res_multimasks"], case)
    assert_close("sam_heads", got.iou_pred, heads[f"{case}.ious"], case)
    score = heads[f"{case}.object_score_logits"]
    assert_close("sam_heads", output.object_logit, score, case)
    if "multimask" in case:
        best = np.where(present, best_mask(got).mask_logits, -1024.0)
        assert_close("sam_heads", best, heads[f"{case}.low_res_masks"], case)


@pytest.mark.parametrize(
    "ours, theirs",
    [
        ("transformer.norm_final_attn", "transformer.norm_final_attn"),
        ("transformer.layers.0.norm1", "transformer.layers.0.norm1"),
        ("upscale_norm", "output_upscaling.1"),
    ],
)
def test_norms_have_the_reference_epsilon(reference, ours, theirs):
    ops, name = golden("ops"), f"eps.sam_mask_decoder.{theirs}"
    norm = reference
    for step in ours.split("."):
        norm = norm[int(step)] if step.isdigit() else getattr(norm, step)
    x, want = (a if a.ndim == 3 else nhwc(a) for a in (ops[f"{name}.in"], ops[f"{name}.out"]))
    assert_close("ops", norm(jnp.asarray(x)), want, name)


# Tokens and images


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
