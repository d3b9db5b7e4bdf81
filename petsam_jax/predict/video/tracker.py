"""The compiled half of tracking: three small programs that know nothing of clips.

In: a frame's features, a bank with a row for each object, prompts. Out: for each row logits, a
score, and the memory of the frame. `step` serves tracked and prompted frames alike. No frame,
direction or prompt triggers recompilation, nor does an object within the same power of two. The
computation is that of training (`models/prompting.py`, `SAM2.track_step`).
"""

import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Bool, Float32

from petsam_jax.models import memory_bank
from petsam_jax.models.image_encoder import ImageFeatures
from petsam_jax.models.mask_ops import mask_to_logits, shrink_mask
from petsam_jax.models.memory_bank import MemoryBank
from petsam_jax.models.position import EMBED_STRIDE
from petsam_jax.models.prompting import Prompting, decode_prompts
from petsam_jax.models.prompts import CLICK_SLOTS, LOGIT_LIMIT, Prompts, empty_prompts, set_mask
from petsam_jax.models.sam2 import SAM2
from petsam_jax.predict.image_programs import DECODER
from petsam_jax.predict.model_parts import ModelParts

# The parts of the model that each program reads.
MEMORY = ("memory_encoder", "no_obj_embed_spatial")
ATTENTION = ("memory_attention", "obj_ptr_tpos_proj", "maskmem_tpos_enc")
STEP = (*DECODER, *MEMORY, *ATTENTION)
USE_MASK = (*DECODER, *MEMORY, "mask_downsample")


class Position(NamedTuple):
    """A frame in its clip, and the direction of tracking."""

    frame: np.int32
    num_frames: np.int32
    reverse: np.bool_


class FrameOutput(NamedTuple):
    """Each object's mask on a frame, and its memory."""

    logits: Float32[Array, "b h w"]  # at stride 4
    iou_pred: Float32[Array, " b"]
    object_logit: Float32[Array, " b"]
    obj_ptr: Float32[Array, "b c"]
    memory: Float32[Array, "b h16 w16 e"]


class HostOutput(NamedTuple):
    """A `FrameOutput` in the host's memory."""

    logits: Float32[np.ndarray, "b h w"]
    iou_pred: Float32[np.ndarray, " b"]
    object_logit: Float32[np.ndarray, " b"]
    obj_ptr: Float32[np.ndarray, "b c"]
    memory: Float32[np.ndarray, "b h16 w16 e"]


def to_host(output: FrameOutput) -> HostOutput:
    """Wait for the device."""
    return HostOutput(*map(np.asarray, output))


class Tracker:
    """The steps of a model. Any number of threads may use it."""

    def __init__(self, model: SAM2, side: int, prompting: Prompting, binarise: bool):
        """`side` is that of the model's input in pixels.

        `binarise` makes memories of prompted frames from masks of 0 and 1, not of logits.
        """
        self.side, self._prompting, self._binarise = side, prompting, binarise
        # Whether the mask of each frame is a prompt on the next.
        self.carried = self._prompting.carried
        programs = {"step": STEP, "use_mask": USE_MASK, "remember_mask": MEMORY}
        self._parts = ModelParts(model, programs)
        self._step, self._use_mask = jax.jit(self._run_step), jax.jit(self._run_use_mask)
        self._remember_mask = jax.jit(self._run_remember_mask)
        self._no_prompts: dict[int, Prompts] = {}
        # Identifies the weights, whose memories others cannot read, but not how they are rounded.
        self.fingerprint = _fingerprint(nnx.to_pure_dict(nnx.state(model)))
        # Shapes of a memory and of a pointer, and how many of each a frame reads.
        cells = self.side // EMBED_STRIDE
        self.map_shape = cells, cells, model.memory_encoder.out_dim
        self.pointer_width = model.no_obj_ptr.shape[0]
        self.memories = model.maskmem_tpos_enc.shape[0] - 1
        self.pointers = model.max_obj_ptrs - 1

    def step(
        self,
        features: ImageFeatures,
        bank: MemoryBank,
        position: Position,
        prompts: Prompts,
        *,
        initial: Bool[np.ndarray, " b"],
        prompted: Bool[np.ndarray, " b"],
    ) -> FrameOutput:
        """Decode one frame for all rows; those that are `initial` read no memory."""
        rows = initial, prompted
        return self._step(self._parts["step"], features, bank, position, prompts, *rows)

    def use_mask(
        self, features: ImageFeatures, mask: Float32[np.ndarray, "1 h w 1"]
    ) -> FrameOutput:
        """The output for a known mask, of 0 and 1 at the size of the model's input."""
        return self._use_mask(self._parts["use_mask"], features, mask)

    def remember_mask(
        self,
        features: ImageFeatures,
        logits: Float32[np.ndarray, "1 h w"],
        object_logit: Float32[np.ndarray, " 1"],
    ) -> Float32[Array, "1 h16 w16 e"]:
        """The memory of a frame, from a mask alone."""
        return self._remember_mask(self._parts["remember_mask"], features, logits, object_logit)

    def no_prompts(self, rows: int) -> Prompts:
        """Empty prompts, in as many slots as `model_prompts` makes."""
        if rows not in self._no_prompts:
            empty = empty_prompts(rows, self.side, self.side, CLICK_SLOTS)
            self._no_prompts[rows] = jax.tree.map(np.asarray, empty)
        return self._no_prompts[rows]

    def _run_step(
        self, parameters, features, bank, position, prompts, initial, prompted
    ) -> FrameOutput:
        model = self._parts.model(parameters)
        limited = jnp.clip(prompts.mask_input, -LOGIT_LIMIT, LOGIT_LIMIT)

        def decode(pix_feat):
            output = decode_prompts(
                model,
                pix_feat,
                features.high_res_feats,
                prompts._replace(mask_input=limited),
                self._prompting,
                gated=self._prompting.gated,
                prompted=prompted,
            )
            return output, output.mask_logits

        output, memory = model.track_step(
            features,
            memory_bank.forget(bank, initial),
            position.frame,
            position.num_frames,
            decode,
            reverse=position.reverse,
            binarise=prompted if self._binarise else False,
        )
        iou_pred, object_logit = output.iou_pred[:, 0], output.object_logit[:, 0]
        return FrameOutput(output.mask_logits[:, 0], iou_pred, object_logit, output.obj_ptr, memory)

    def _run_use_mask(self, parameters, features, mask) -> FrameOutput:
        model = self._parts.model(parameters)
        small = shrink_mask(mask_to_logits(mask))
        present = (mask > 0).any(axis=(1, 2)).astype(jnp.float32)

        def decode(pix_feat):
            if self._prompting.paint is None:
                output = model.decode_mask(*features, mask)
            else:
                # With painted prompts masks were trained as prompts, never SAM 2's own way.
                prompts = set_mask(empty_prompts(1, self.side, self.side, max_clicks=1), small)
                output = model.decode(pix_feat, features.high_res_feats, *prompts)
            output = output._replace(object_logit=mask_to_logits(present))
            return output, rearrange(mask_to_logits(mask), "b h w 1 -> b 1 h w")

        output, memory = model.track_step(features, None, 0, 1, decode, binarise=self._binarise)
        object_logit = output.object_logit[:, 0]
        sure = jnp.ones_like(object_logit)
        return FrameOutput(small[..., 0], sure, object_logit, output.obj_ptr, memory)

    def _run_remember_mask(
        self, parameters, features, logits, object_logit
    ) -> Float32[Array, "1 h w e"]:
        model = self._parts.model(parameters)
        return model.encode_memory(features.image_embed, logits[:, None], object_logit[:, None])


def _fingerprint(arrays: dict) -> str:
    crc = 0
    for array in jax.tree.leaves(arrays):
        crc = zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data, crc)
    return f"{crc:08x}"
