"""SAM2: prompts to masks, memories and whole clips equal the reference, in one compile."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from flax import nnx

from petsam_jax.models import memory_bank
from petsam_jax.models.image_encoder import ImageFeatures
from petsam_jax.models.mask_ops import mask_to_logits, shrink_mask
from petsam_jax.models.memory_bank import MemoryBank
from petsam_jax.models.position import sine_map
from petsam_jax.normalise import normalise
from tests.golden import (
    assert_close,
    golden,
    golden_model,
    hw_b_c,
    nchw,
    nhwc,
    outputs,
    shipped,
    shipped_model,
    shipped_params,
)

SIDE, OBJECTS, SLOTS = 128, 2, 4


class Jitted:
    """A model, each of its steps compiled once for each set of static arguments."""

    def __init__(self, model, compiled=None):
        self.graph, self.state = nnx.split(model)
        self.compiled = {} if compiled is None else compiled

    def __call__(self, step, *args, static=(), **kwargs):
        """`step` is the name of a method, or a function of the model."""
        if (step, static) not in self.compiled:

            def call(state, *args, **kwargs):
                model = nnx.merge(self.graph, state)
                run = partial(step, model) if callable(step) else getattr(model, step)
                return run(*args, **kwargs, **dict(static))

            self.compiled[step, static] = jax.jit(call)
        return self.compiled[step, static](self.state, *args, **kwargs)


def track_step(
    model,
    features,
    bank,
    frame,
    num_frames,
    points,
    labels,
    mask_input,
    has_mask,
    *,
    conditioning,
    initial,
    mask_prompt=None,
    reverse=False,
    evaluation=True,
):
    """A frame as the official code has it, by `SAM2.track_step`: the output and the bank after it.

    Objects that are `initial` read no memory; `mask_prompt` are masks at the image's size, which
    then are the output.
    """

    def decode(pix_feat):
        prompts = points, labels, mask_input, has_mask
        if mask_prompt is None:
            output = model.decode(
                pix_feat, features.high_res_feats, *prompts, evaluation=evaluation
            )
            return output, output.mask_logits
        large = rearrange(mask_to_logits(mask_prompt), "b h w 1 -> b 1 h w")
        return model.decode_mask(*features, mask_prompt), large

    output, memory = model.track_step(
        features,
        memory_bank.forget(bank, initial),
        frame,
        num_frames,
        decode,
        reverse=reverse,
        evaluation=evaluation,
    )
    return output, memory_bank.write(bank, memory, output.obj_ptr, frame, conditioning)


@pytest.fixture(scope="module")
def model():
    """With the shipped parameters, for behaviour."""
    return Jitted(shipped_model())


@pytest.fixture(scope="module")
def reference(model):
    """With the golden ones, for parity: of the same sizes, so that nothing compiles twice."""
    return Jitted(golden_model(), model.compiled)


def prompts(points=None, labels=None, mask_input=None, batch=OBJECTS, slots=SLOTS):
    """Prompts in `slots` fixed slots; the rest is empty."""
    at, kind = np.zeros((batch, slots, 2), np.float32), np.full((batch, slots), -1)
    if points is not None:
        at[:, : points.shape[1]], kind[:, : points.shape[1]] = points, labels
    has_mask = np.full(batch, mask_input is not None)
    if mask_input is None:
        mask_input = np.zeros((batch, SIDE // 4, SIDE // 4, 1), np.float32)
    return tuple(jnp.asarray(array) for array in (at, kind, mask_input, has_mask))


# From prompts to masks and pointers


def features(s):
    fine = jnp.asarray(nhwc(s["feat_s0"])), jnp.asarray(nhwc(s["feat_s1"]))
    return jnp.asarray(nhwc(s["backbone_features"])), fine


def case_prompts(s, case):
    if case.startswith("no_"):
        points = labels = None
    else:
        count = 1 if case == "click_multimask" else 2
        points, labels = s[f"point_coords_{count}"], s[f"point_labels_{count}"]
    mask_input = None
    if "lowmask" in case:
        mask_input = nhwc(s["mask_low_res_logits"])
    elif "fullmask" in case:
        mask_input = shrink_mask(jnp.asarray(nhwc(s["mask_full_res"]), jnp.float32))
    return prompts(points, labels, mask_input, batch=3)


# The argument `multimask`: only where the case is not what the number of points says.
CASES = {
    "click_multimask": None,
    "two_points_single": None,
    "click_lowmask_single": None,
    "no_point_fullmask": False,
    "no_prompt_multimask": None,
}


HEADS_INPUTS = {"backbone_features", "feat_s0", "feat_s1", "use_mask_as_output.mask"}
HEADS_INPUTS |= {f"point_{what}_{count}" for what in ("coords", "labels") for count in (1, 2)}
HEADS_INPUTS |= {"mask_full_res", "mask_low_res_logits"}


@pytest.fixture(scope="module")
def heads_found(reference):
    """What ours computes, under the names of the golden arrays."""
    s = golden("sam_heads")
    found = {"use_mask_as_output": heads_from_mask(reference, s)}
    found |= {case: heads_from_prompts(reference, s, case) for case in CASES}
    return {f"{case}.{name}": array for case in found for name, array in found[case].items()}


def heads_from_prompts(reference, s, case):
    multimask = CASES[case]
    if multimask is not None:
        multimask = jnp.full(3, multimask)
    got = reference("decode", *features(s), *case_prompts(s, case), multimask=multimask)
    found = {
        "low_res_masks": got.mask_logits,
        "obj_ptr": got.obj_ptr,
        "object_score_logits": got.object_logit,
        "high_res_masks": jax.image.resize(got.mask_logits, (3, 1, SIDE, SIDE), "bilinear"),
        "low_res_multimasks": got.mask_logits,
        "ious": got.iou_pred,
    }
    assert bool(got.multimask[0]) == case.endswith("_multimask")
    if case.endswith("_multimask"):
        found |= {"low_res_multimasks": got.all_logits[:, 1:], "ious": got.all_ious[:, 1:]}
    return found


def heads_from_mask(reference, s):
    mask = jnp.asarray(nhwc(s["use_mask_as_output.mask"]), jnp.float32)
    got = reference("decode_mask", *features(s), mask)
    return {
        "low_res_masks": got.mask_logits,
        "ious": got.iou_pred,
        "obj_ptr": got.obj_ptr,
        "object_score_logits": got.object_logit,
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", outputs("sam_heads", HEADS_INPUTS))
def test_heads_equal_reference(heads_found, name):
    assert_close("sam_heads", heads_found[name], golden("sam_heads")[name], name)


def test_gate_and_stability_are_options(model):
    """An image predictor gates nothing; training never swaps an unstable mask for another."""
    s = shipped("sam_heads")
    image, fine = features(s)
    clicks = case_prompts(s, "click_multimask")
    gated = model("decode", image, fine, *clicks)
    plain = model("decode", image, fine, *clicks, static=(("gated", False),))
    absent = np.asarray(gated.object_logit[:, 0] <= 0)
    assert absent.any() and not absent.all()
    assert (np.asarray(gated.mask_logits)[absent] == -1024).all()
    assert np.abs(plain.mask_logits).max() < 100
    np.testing.assert_array_equal(plain.mask_logits[~absent], gated.mask_logits[~absent])

    two = case_prompts(s, "two_points_single")
    training = model("decode", image, fine, *two, static=(("evaluation", False),))
    np.testing.assert_array_equal(training.mask_logits, training.all_logits[:, :1])


# Clips


@pytest.fixture(scope="module")
def t():
    return golden("track_step")


class Clip:
    """Replays a clip of the golden file and compares every array that the file has of a frame."""

    def __init__(self, model, t, name, num_frames, reverse=False, evaluation=True):
        self.model, self.t, self.name, self.num_frames = model, t, name, num_frames
        self.reverse = jnp.asarray(reverse)
        self.static = () if evaluation else (("evaluation", False),)
        self.bank = model("empty_bank", static=BANK)
        self.compared = set()

    def features(self, frame):
        rolled = np.roll(self.t["base_image_uint8_hwc"], (3 * frame, 2 * frame), (0, 1))
        return self.model("encode_image", normalise(rolled[None]))

    def step(self, frame, given=None, initial=False, mask=None, name=None):
        features = self.features(frame)
        conditioning = given is not None or mask is not None
        flags = {
            "conditioning": jnp.full(OBJECTS, conditioning),
            "initial": jnp.full(OBJECTS, initial),
            "reverse": self.reverse,
        }
        attended = self.model(
            "attend_memory",
            features.image_embed,
            self.bank if not initial else self.model("empty_bank", static=BANK),
            frame,
            self.num_frames,
            reverse=self.reverse,
            static=self.static,
        )
        if mask is not None:
            flags["mask_prompt"] = mask
        decoded, self.bank = self.model(
            track_step,
            features,
            self.bank,
            frame,
            self.num_frames,
            *(given or prompts()),
            **flags,
            static=self.static,
        )
        self.compare(name or f"{self.name}.frame{frame}", frame, features, attended, decoded)
        return decoded

    def compare(self, prefix, frame, features, attended, decoded):
        full = jax.image.resize(decoded.mask_logits, (OBJECTS, 1, SIDE, SIDE), "bilinear")
        found = {
            "pix_feat_with_mem": nchw(attended),
            "pred_masks": decoded.mask_logits,
            "pred_masks_high_res": full,
            "obj_ptr": decoded.obj_ptr,
            "object_score_logits": decoded.object_logit,
            "maskmem_features": nchw(self.memory(frame)),
            "maskmem_pos_enc": rearrange(sine_map(8, 8, 8), "h w c -> 1 c h w"),
            "vision_feat_level2_hw_b_c": hw_b_c(
                rearrange(features.image_embed, "b h w c -> b (h w) c")
            ),
            "vision_pos_level2_hw_b_c": rearrange(sine_map(8, 8, 32), "h w c -> (h w) 1 c"),
        }
        for array in [name for name in self.t if name.startswith(f"{prefix}.")]:
            assert_close(
                "track_step", found[array.removeprefix(f"{prefix}.")], self.t[array], array
            )
            self.compared.add(array)

    def memory(self, frame):
        """The memory that was written last under the frame's number."""
        for slots in self.bank:
            here = np.asarray(slots.valid[0] & (slots.frame[0] == frame))
            if here.any():
                return slots.memory[:, here.argmax()]
        raise AssertionError(f"frame {frame} was not written")

    def done(self):
        want = {name for name in self.t if name.startswith(f"{self.name}.")} - INPUTS
        assert self.compared == want, want - self.compared


INPUTS = {"mask_prompt.mask"}
BANK = (("batch", OBJECTS), ("height", SIDE), ("width", SIDE))


def click(t, name="click", mask_input=None):
    return prompts(t[f"{name}.coords"], t[f"{name}.labels"], mask_input)


@pytest.mark.slow
def test_click_then_track_then_correct(reference, t):
    clip = Clip(reference, t, "seq", 3)
    clip.step(0, click(t), initial=True)
    clip.step(1)
    earlier = clip.step(2).mask_logits
    clamped = rearrange(jnp.clip(earlier, -32, 32), "b 1 h w -> b h w 1")
    clip.step(2, click(t, "fix", clamped), name="seq.frame2_fix")
    clip.done()
    # The corrected frame is a conditioning frame now, and no longer among the tracked ones.
    frames = [set(np.asarray(slots.frame[0])[slots.valid[0]]) for slots in clip.bank]
    assert frames == [{0, 2}, {1}]


def test_memories_leave_the_window(reference, t):
    clip = Clip(reference, t, "long", 11)
    clip.step(0, click(t), initial=True)
    for frame in range(1, 11):
        clip.step(frame)
    clip.done()


def test_backwards(reference, t):
    clip = Clip(reference, t, "reverse", 8, reverse=True)
    clip.step(5, click(t), initial=True)
    clip.step(4)
    clip.step(3)
    clip.done()


def test_memory_but_no_pointer_of_a_prompted_frame_to_come(reference, t):
    clip = Clip(reference, t, "two_cond", 8)
    clip.step(0, click(t), initial=True)
    clip.step(6, click(t), initial=True)
    clip.step(1)
    clip.step(2)
    clip.done()


@pytest.mark.slow
def test_training_reads_pointers_to_come(reference, t):
    clip = Clip(reference, t, "two_cond_train", 8, evaluation=False)
    clip.step(0, click(t), initial=True)
    clip.step(6, click(t), initial=True)
    clip.step(1)
    clip.done()


def test_mask_prompt(reference, t):
    clip = Clip(reference, t, "mask_prompt", 2)
    mask = jnp.asarray(nhwc(t["mask_prompt.mask"]), jnp.float32)
    clip.step(0, mask=mask, initial=True)
    clip.step(1)
    clip.done()


def test_all_frames_are_one_compiled_function(model):
    """Whatever the frame, the direction, the prompts and the number of conditioning frames."""
    model.compiled.pop((track_step, ()), None)
    t = shipped("track_step")
    clip = Clip(model, t, "free", 8)
    clip.step(0, click(t), initial=True)
    clip.step(1)
    clip.step(3, click(t, "fix"))
    clip.reverse, clip.num_frames = jnp.asarray(True), 5
    clip.step(2)
    assert model.compiled[track_step, ()]._cache_size() == 1


# Behaviours


def clip_inputs(rng, height=SIDE, width=SIDE):
    """Random features of one image for two objects, and a bank with one frame of it."""
    h, w = height // 16, width // 16

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    fine = normal(1, 4 * h, 4 * w, 4), normal(1, 2 * h, 2 * w, 8)
    features = ImageFeatures(normal(1, h, w, 32), fine)
    mask_input = np.zeros((OBJECTS, 4 * h, 4 * w, 1), np.float32)
    points, labels, _, _ = prompts()
    return features, (points, labels, jnp.asarray(mask_input), jnp.zeros(OBJECTS, bool))


NOTHING = {"conditioning": jnp.zeros(OBJECTS, bool), "initial": jnp.zeros(OBJECTS, bool)}
FIRST = {"conditioning": jnp.ones(OBJECTS, bool), "initial": jnp.ones(OBJECTS, bool)}


def test_no_memory_is_a_learned_vector(model, rng):
    features, _ = clip_inputs(rng)
    alone = model("attend_memory", features.image_embed)
    vector = shipped_params()["no_mem_embed"]
    np.testing.assert_allclose(
        alone - features.image_embed, np.broadcast_to(vector, alone.shape), atol=1e-5
    )
    bank = model("empty_bank", static=BANK)
    empty = model("attend_memory", features.image_embed, bank, 3, 8)
    np.testing.assert_allclose(empty, np.repeat(alone, OBJECTS, axis=0), atol=1e-6)


@pytest.mark.slow
def test_content_of_invalid_slots_changes_nothing(model, rng):
    features, nothing = clip_inputs(rng)
    bank = model("empty_bank", static=BANK)
    _, bank = model(track_step, features, bank, 0, 3, *click(shipped("track_step")), **FIRST)

    def spoil(slots):
        def fill(x):
            valid = slots.valid.reshape(slots.valid.shape + (1,) * (x.ndim - 2))
            return jnp.where(valid, x, jnp.nan)

        return slots._replace(memory=fill(slots.memory), obj_ptr=fill(slots.obj_ptr))

    spoilt = MemoryBank(*map(spoil, bank))
    want, _ = model(track_step, features, bank, 1, 3, *nothing, **NOTHING)
    got, _ = model(track_step, features, spoilt, 1, 3, *nothing, **NOTHING)
    jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.slow
def test_rectangle(model, rng):
    features, nothing = clip_inputs(rng, 64, 96)
    size = (("batch", OBJECTS), ("height", 64), ("width", 96), ("recent_slots", 6))
    bank = model("empty_bank", static=size)
    points, labels, _, _ = click(shipped("track_step"))
    _, bank = model(track_step, features, bank, 0, 3, points, labels, *nothing[2:], **FIRST)
    decoded, bank = model(track_step, features, bank, 1, 3, *nothing, **NOTHING)
    assert decoded.mask_logits.shape == (OBJECTS, 1, 16, 24)
    assert bank.recent.memory.shape == (OBJECTS, 6, 4, 6, 8)


@pytest.mark.slow
def test_bfloat16_is_close(model, rng):
    half = Jitted(shipped_model(dtype="bfloat16"))
    features, nothing = clip_inputs(rng)
    found = []
    for each in (model, half):
        bank = each("empty_bank", static=BANK)
        _, bank = each(track_step, features, bank, 0, 3, *click(shipped("track_step")), **FIRST)
        found.append(each("attend_memory", features.image_embed, bank, 1, 3))
    full, rounded = found
    assert rounded.dtype == jnp.float32
    assert float(jnp.abs(rounded - full).mean() / jnp.abs(full).mean()) < 0.05


# Adding the same to every score of a query does not change its softmax, so that the biases of the
# decoder's keys have no gradient but rounding. Those of memory attention turn with the key's place.
KEY_BIASES = {
    f"mask_decoder.transformer.{attention}.k_proj.bias"
    for attention in (
        "layers.0.self_attn",
        "layers.0.cross_attn_token_to_image",
        "layers.0.cross_attn_image_to_token",
        "layers.1.self_attn",
        "layers.1.cross_attn_token_to_image",
        "layers.1.cross_attn_image_to_token",
        "final_attn_token_to_image",
    )
}
# Of the largest gradient: rounding is a tenth of it, the smallest gradient that is real ten times.
ROUNDING = 1e-6


def untouched(grads):
    """Names of the parameters that have no gradient, or nothing but rounding."""
    flat = {
        ".".join(map(str, p)): float(jnp.abs(g[...]).max()) for p, g in nnx.to_flat_state(grads)
    }
    assert all(np.isfinite(value) for value in flat.values())
    return {name for name, value in flat.items() if value <= ROUNDING * max(flat.values())}


def waves(*arrays):
    """A loss that no symmetry makes flat."""
    return sum(
        (x * jnp.sin(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape)).mean() for x in arrays
    )


@pytest.mark.slow
def test_gradients_reach_every_parameter_of_a_clip(rng):
    """Clicks and a box with a mask on one frame, nothing on the next.

    Only `mask_downsample` has none, as nobody gave a mask for an answer, and the biases of keys.
    """
    graph, params, rest = nnx.split(shipped_model(), nnx.Param, ...)
    image = jnp.asarray(rng.normal(size=(1, SIDE, SIDE, 3)), jnp.float32)
    points = np.float32([[[9, 9], [90, 80]], [[9, 9], [90, 80]]])
    logits = rng.normal(size=(OBJECTS, SIDE // 4, SIDE // 4, 1)).astype(np.float32)
    first = prompts(points, np.array([[0, 1], [2, 3]]), logits)
    first = (*first[:3], jnp.array([True, False]))

    def loss(params):
        model = nnx.merge(graph, params, rest)
        features, bank = model.encode_image(image), model.empty_bank(OBJECTS, SIDE, SIDE)
        one, bank = track_step(model, features, bank, 0, 2, *first, **FIRST, evaluation=False)
        two, bank = track_step(model, features, bank, 1, 2, *prompts(), **NOTHING, evaluation=False)
        memory = bank.recent.memory
        outputs = one.all_ious, two.all_logits, two.all_ious, two.object_logit, two.obj_ptr
        return waves(*outputs, memory)

    found = untouched(jax.jit(jax.grad(loss))(params))
    assert found == {"mask_downsample.kernel", "mask_downsample.bias"} | KEY_BIASES


@pytest.mark.slow
def test_gradients_reach_the_convolution_of_given_masks(rng):
    """Where the decoder sees an object, that is; elsewhere the pointer is `no_obj_ptr`."""
    model = shipped_model()
    bias = model.mask_decoder.object_score_head.layers[2].bias
    bias[...] = bias[...] + 20
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    features, _ = clip_inputs(rng)
    mask = jnp.asarray(rng.uniform(size=(OBJECTS, SIDE, SIDE, 1)) > 0.5, jnp.float32)

    def loss(params):
        return waves(nnx.merge(graph, params, rest).decode_mask(*features, mask).obj_ptr)

    found = untouched(jax.jit(jax.grad(loss))(params))
    assert not {"mask_downsample.kernel", "mask_downsample.bias"} & found
