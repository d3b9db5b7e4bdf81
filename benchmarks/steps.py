"""Models with random weights, and their steps with inputs, for several benchmarks."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from petsam_jax.config import load_config
from petsam_jax.models import memory_bank
from petsam_jax.models.image_encoder import ImageFeatures
from petsam_jax.models.mask_ops import enlarge
from petsam_jax.models.memory_bank import MemoryBank
from petsam_jax.models.params import fill, shapes
from petsam_jax.models.prompts import Prompts, add_click, empty_prompts
from petsam_jax.models.sam2 import SAM2

PIXELS, BATCH = 256, 8
SIZES = ("pets256", "pets256_small", "hiera_tiny")
WHAT = ("encoder", "click", "memory", "tracking")
# Prompted frame 0 and tracked frames 1 to 15 are remembered: 7 memories and 16 pointers.
FRAME = 16


class Step(NamedTuple):
    """A function of the model and of `inputs`; `what` is its name on the command line.

    `parts` names the parts of the model that it reads, by default all: each array that a call
    passes costs more than a microsecond.
    """

    what: str
    name: str
    function: Callable
    inputs: tuple
    parts: tuple[str, ...] = ()


def size_config(size: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of one of SIZES."""
    if size != "hiera_tiny":
        return load_config(f"configs/{size}.py", overrides)
    trunk = "model.image_encoder.trunk"
    tiny = [f"{trunk}.embed_dim=96", f"{trunk}.num_heads=1", f"{trunk}.stages=(1,2,7,2)"]
    tiny += [f"{trunk}.global_att_blocks=(5,7,9)", f"{trunk}.pos_embed_size=(7,7)"]
    return load_config("configs/pets256.py", [*tiny, *overrides])


def random_model(keywords: dict) -> SAM2:
    """A model with random weights; proper initialisation would take longer than measuring."""
    model = nnx.eval_shape(lambda: SAM2(**keywords, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    fill(
        model,
        {
            name: rng.normal(size=shape).astype(np.float32) * 0.02 + name.endswith(".scale")
            for name, shape in shapes(model).items()
        },
    )
    return model


def full_bank(model: SAM2, rng: np.random.Generator) -> MemoryBank:
    """A bank with all slots in use, as frame FRAME reads it."""
    bank = model.empty_bank(1, PIXELS, PIXELS, cond_slots=1)
    slots = bank.recent.frame.shape[1]

    def fill_slots(slots, frames):
        return slots._replace(
            memory=_normal(rng, *slots.memory.shape),
            obj_ptr=_normal(rng, *slots.obj_ptr.shape),
            frame=jnp.asarray(frames, jnp.int32)[None],
            valid=jnp.ones_like(slots.valid),
        )

    recent = [frame if frame else slots for frame in range(slots)]
    return MemoryBank(fill_slots(bank.conditioning, [0]), fill_slots(bank.recent, recent))


def _normal(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def model_steps(model: SAM2) -> list[Step]:
    """The steps of clicking and tracking."""
    rng = np.random.default_rng(1)
    image = _normal(rng, BATCH, PIXELS, PIXELS, 3)
    outline = jax.eval_shape(lambda image: model.encode_image(image), image[:1])
    features = jax.tree.map(lambda x: _normal(rng, *x.shape), outline)
    embed, none = features.image_embed, empty_prompts(1, PIXELS, PIXELS)
    one_click = add_click(none, jnp.array([[99.0, 99.0]]), jnp.array([1]))
    bank, frame = full_bank(model, rng), jnp.int32(FRAME)
    logits, present = _normal(rng, 1, 1, PIXELS, PIXELS), jnp.ones((1, 1))
    attend = embed, bank, frame, 2 * frame
    encoder, encode = ("image_encoder",), SAM2.encode_image
    decoder = "prompt_encoder", "mask_decoder", "obj_ptr_proj", "no_obj_ptr", "no_mem_embed"
    attention = "memory_attention", "obj_ptr_tpos_proj", "maskmem_tpos_enc", "no_mem_embed"
    memory = "memory_encoder", "no_obj_embed_spatial"
    return [
        Step("encoder", "image encoder", encode, (image[:1],), encoder),
        Step("encoder", f"image encoder, batch {BATCH}", encode, (image,), encoder),
        Step("click", "click", click, (features, one_click), decoder),
        Step("memory", "memory encoder", SAM2.encode_memory, (embed, logits, present), memory),
        Step("memory", "memory attention", SAM2.attend_memory, attend, attention),
        Step("tracking", "tracked frame", track, (image[:1], bank, frame, none)),
    ]


def click(model: SAM2, features: ImageFeatures, prompts: Prompts):
    """From a prompt to three masks at the image's size."""
    pix_feat = model.attend_memory(features.image_embed)
    decoded = model.decode(pix_feat, features.high_res_feats, *prompts, gated=False)
    return enlarge(decoded.all_logits[:, 1:], PIXELS, PIXELS), decoded.all_ious


def track(model: SAM2, image: jax.Array, bank: MemoryBank, frame: jax.Array, prompts: Prompts):
    """A frame without prompts, including its encoding."""
    features = model.encode_image(image)

    def decode(pix_feat):
        output = model.decode(pix_feat, features.high_res_feats, *prompts)
        return output, output.mask_logits

    output, memory = model.track_step(features, bank, frame, 2 * frame, decode)
    return output, memory_bank.write(bank, memory, output.obj_ptr, frame, jnp.zeros(1, bool))
