"""SAM 2: the parts, and the steps that images, clips, training and tracking are made of.

    encode_image -> attend_memory -> decode -> encode_memory -> (write to the bank)

`track_step` is all but the first and the last, for one frame of a clip, in training and in the
tracker alike. Everything is jit-safe with shapes that depend on the image's size, the
number of objects and prompt slots only. SAM 2 (Ravi et al. 2024) as of 2.1.

One image may serve several objects: `image_embed` and `high_res_feats` then have a first axis
i = 1 and all else b objects; otherwise i = b.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, Int, PRNGKeyArray

from petsam_jax.models import memory_bank
from petsam_jax.models.image_encoder import ImageEncoder, ImageFeatures
from petsam_jax.models.layers import Conv, Linear, Mlp, per_channel
from petsam_jax.models.mask_decoder import MASKS, MaskDecoder, chosen_mask
from petsam_jax.models.mask_ops import (
    MaskOutput,
    mask_to_logits,
    resize_mask,
    shrink_mask,
    where_object,
)
from petsam_jax.models.memory_attention import MemoryAttention
from petsam_jax.models.memory_bank import MemoryBank, Scalar, Selection
from petsam_jax.models.memory_encoder import MemoryEncoder
from petsam_jax.models.position import EMBED_STRIDE, MASK_STRIDE, sine_map, sine_time
from petsam_jax.models.prompt_encoder import PromptEncoder
from petsam_jax.models.prompts import EMPTY

# The logit of every pixel where an object is predicted to be absent.
ABSENT = -1024.0

MaskLogits = Float[Array, "b 1 h2 w2"]


class SAM2(nnx.Module):
    """Image encoder, prompt encoder, mask decoder, memory encoder and memory attention."""

    def __init__(
        self,
        image_encoder: dict,
        d_model: int = 256,
        prompt_encoder: dict | None = None,
        mask_decoder: dict | None = None,
        memory_encoder: dict | None = None,
        memory_attention: dict | None = None,
        *,
        num_memories: int = 7,
        max_obj_ptrs: int = 16,
        max_cond_frames: int = 4,
        dtype: DTypeLike = "float32",
        rngs: nnx.Rngs,
    ):
        """The dictionaries are keywords of the parts.

        `num_memories`, `max_obj_ptrs` and `max_cond_frames` bound what a frame reads of the bank
        (`memory_bank.select`). Raises ValueError if pointers do not split into memory tokens.
        """
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        self.image_encoder = ImageEncoder(**image_encoder, d_model=d_model, **options)
        self.prompt_encoder = PromptEncoder(d_model, **(prompt_encoder or {}), **options)
        self.mask_decoder = MaskDecoder(d_model, **(mask_decoder or {}), **options)
        self.memory_encoder = MemoryEncoder(d_model, **(memory_encoder or {}), **options)
        memory_dim = self.memory_encoder.out_dim
        if d_model % memory_dim:
            raise ValueError(f"memory_encoder.out_dim: {memory_dim} does not divide {d_model}")
        self.memory_attention = MemoryAttention(
            d_model, memory_dim, **(memory_attention or {}), **options
        )
        self.mask_downsample = Conv(1, 1, MASK_STRIDE, stride=MASK_STRIDE, **options)
        self.obj_ptr_proj = Mlp(d_model, d_model, d_model, 3, **options)
        self.obj_ptr_tpos_proj = Linear(d_model, memory_dim, **options)
        init = nnx.initializers.truncated_normal(0.02)
        self.maskmem_tpos_enc = nnx.Param(init(rngs.params(), (num_memories, memory_dim)))
        self.no_mem_embed = nnx.Param(init(rngs.params(), (d_model,)))
        self.no_obj_ptr = nnx.Param(init(rngs.params(), (d_model,)))
        self.no_obj_embed_spatial = nnx.Param(init(rngs.params(), (memory_dim,)))
        self.max_obj_ptrs, self.max_cond_frames = max_obj_ptrs, max_cond_frames

    def encode_image(
        self, image: Float[Array, "b h w 3"], key: PRNGKeyArray | None = None
    ) -> ImageFeatures:
        """What is computed once per image; a key turns drop path on."""
        return self.image_encoder(image, key)

    def empty_bank(
        self, batch: int, height: int, width: int, *, cond_slots: int = 4, recent_slots: int = 15
    ) -> MemoryBank:
        """A bank for `batch` objects on images of `height` x `width` pixels."""
        size = height // EMBED_STRIDE, width // EMBED_STRIDE
        widths = self.memory_encoder.out_dim, self.no_obj_ptr.shape[0]
        slots = dict(cond_slots=cond_slots, recent_slots=recent_slots)
        return memory_bank.empty_bank(batch, *size, *widths, **slots)

    def attend_memory(
        self,
        image_embed: Float[Array, "i h w c"],
        bank: MemoryBank | None = None,
        frame: Scalar = 0,
        num_frames: Scalar = 1,
        *,
        reverse: Bool[Array, ""] | bool = False,
        evaluation: bool = True,
        key: PRNGKeyArray | None = None,
    ) -> Float32[Array, "b h w c"]:
        """The image embedding as the decoder takes it, conditioned on what is in the bank.

        Objects without memory, and single images (no bank), get a learned vector added instead.
        `num_frames` is the clip's length; for a live stream, anything from `max_obj_ptrs` on. In
        training (not `evaluation`) pointers of frames to come are read too, and a key turns dropout
        on.
        """
        alone = image_embed + per_channel(self.no_mem_embed[...], image_embed)
        if bank is None:
            return alone
        selected = memory_bank.select(
            bank,
            frame,
            reverse,
            num_memories=self.maskmem_tpos_enc.shape[0],
            max_obj_ptrs=self.max_obj_ptrs,
            max_cond_frames=self.max_cond_frames,
            past_only=evaluation,
        )
        memory, position, mask, num_pointers = self._memory_tokens(selected, num_frames)
        batch, (h, w, c) = memory.shape[0], image_embed.shape[1:]
        attended = self.memory_attention(
            jnp.broadcast_to(image_embed, (batch, h, w, c)),
            sine_map(h, w, c)[None],
            memory,
            position,
            mask,
            num_pointers=num_pointers,
            key=key,
        )
        remembers = selected.memory_valid.any(axis=1)[:, None, None, None]
        return jnp.where(remembers, attended, alone)

    def _memory_tokens(self, selected: Selection, num_frames: Scalar):
        """Maps, then pointers: tokens, their positions, which count, and how many are pointers."""
        memory = rearrange(selected.memory, "b m h w e -> b m (h w) e")
        tokens, dim = memory.shape[2:]
        cells = rearrange(sine_map(*selected.memory.shape[2:]), "h w e -> 1 1 (h w) e")
        time = self.maskmem_tpos_enc[...][selected.memory_age - 1]
        place = jnp.asarray(cells) + time[:, :, None]

        # A pointer is as wide as several memory tokens, and becomes as many.
        parts = selected.obj_ptr.shape[2] // dim
        pointers = rearrange(selected.obj_ptr, "b p (n e) -> b p n e", e=dim)
        span = jnp.clip(num_frames, 2, self.max_obj_ptrs) - 1
        ptr_time = sine_time(selected.ptr_time / span, selected.obj_ptr.shape[2])
        ptr_place = repeat(self.obj_ptr_tpos_proj(ptr_time), "b p e -> b p n e", n=parts)

        def sequence(maps, pointers):
            both = [rearrange(x, "b s n e -> b (s n) e") for x in (maps, pointers)]
            return jnp.concatenate(both, axis=1)

        valid = [
            jnp.repeat(selected.memory_valid, tokens, 1),
            jnp.repeat(selected.ptr_valid, parts, 1),
        ]
        number = selected.ptr_valid.shape[1] * parts
        return (
            sequence(memory, pointers),
            sequence(place, ptr_place),
            jnp.concatenate(valid, axis=1),
            number,
        )

    def decode(
        self,
        pix_feat: Float[Array, "i h w c"],
        high_res_feats: tuple[Float[Array, "j 4*h 4*w c0"], Float[Array, "j 2*h 2*w c1"]],
        points: Float[Array, "b n 2"],
        labels: Int[Array, "b n"],
        mask_input: Float[Array, "b 4*h 4*w 1"],
        has_mask: Bool[Array, " b"],
        *,
        multimask: Bool[Array, " b"] | None = None,
        gated: bool = True,
        evaluation: bool = True,
    ) -> MaskOutput:
        """Masks and object pointer from `attend_memory`'s features and a prompt.

        `multimask` says for which prompts to choose the best of three masks; default: those of at
        most one point, where a box is two. `gated` (tracking and training, not single images)
        makes all logits -1024 where the object is predicted to be absent. In evaluation a single
        mask that is not stable gives way to the best of three.
        """
        prompt = self.prompt_encoder(points, labels, mask_input, has_mask)
        height, width = (EMBED_STRIDE * side for side in pix_feat.shape[1:3])
        image_pe = self.prompt_encoder.dense_pe(height, width)
        # Objects of one image that remember different things have features of their own.
        fine = [jnp.broadcast_to(x, pix_feat.shape[:1] + x.shape[1:]) for x in high_res_feats]
        output = self.mask_decoder(pix_feat, image_pe, *prompt, (fine[0], fine[1]))
        if multimask is None:
            multimask = (labels != EMPTY).sum(axis=1) <= 1
        chosen = chosen_mask(output, multimask, evaluation=evaluation)
        present = output.object_logit > 0
        obj_ptr = self._pointer(self.obj_ptr_proj(chosen.mask_tokens[:, 0]), present)
        masks = [chosen.mask_logits, output.mask_logits]
        if gated:
            masks = [jnp.where(present[..., None, None], mask, ABSENT) for mask in masks]
        return MaskOutput(
            mask_logits=masks[0],
            iou_pred=chosen.iou_pred,
            object_logit=output.object_logit,
            obj_ptr=obj_ptr,
            all_logits=masks[1],
            all_ious=output.iou_pred,
            multimask=multimask,
        )

    def _pointer(self, obj_ptr, present):
        return jnp.where(present, obj_ptr, per_channel(self.no_obj_ptr[...], obj_ptr))

    def decode_mask(
        self,
        image_embed: Float[Array, "i h w c"],
        high_res_feats: tuple[Float[Array, "i 4*h 4*w c0"], Float[Array, "i 2*h 2*w c1"]],
        mask: Float[Array, "b 16*h 16*w 1"],
    ) -> MaskOutput:
        """A mask prompt of 0 and 1 is the output itself; the model adds the object pointer.

        `image_embed` is as from `encode_image`. An empty mask means that the object is absent.
        """
        b = mask.shape[0]
        nowhere = jnp.zeros((b, 1, 2)), jnp.full((b, 1), EMPTY)
        given = jnp.ones(b, bool)
        decoded = self.decode(
            image_embed,
            high_res_feats,
            *nowhere,
            self.mask_downsample(mask),
            given,
            multimask=~given,
        )
        present = (mask > 0).any(axis=(1, 2))
        logits = rearrange(shrink_mask(mask_to_logits(mask)), "b h w 1 -> b 1 h w")
        return MaskOutput(
            mask_logits=logits,
            iou_pred=jnp.ones((b, 1)),
            object_logit=mask_to_logits(present.astype(jnp.float32)),
            obj_ptr=self._pointer(decoded.obj_ptr, present),
            all_logits=repeat(logits, "b 1 h w -> b m h w", m=MASKS),
            all_ious=jnp.ones((b, MASKS)),
            multimask=~given,
        )

    def encode_memory(
        self,
        image_embed: Float[Array, "i h w c"],
        mask_logits: MaskLogits,
        object_logit: Float[Array, "b 1"],
        *,
        binarise: Bool[Array, " b"] | bool = False,
    ) -> Float32[Array, "b h w e"]:
        """The memory map of a frame, from `encode_image` and a mask of any resolution.

        `binarise`, for all objects or for some, makes the mask 0 or 1 first: SAM 2's video
        predictor does so on clicked frames.
        """
        height, width = (EMBED_STRIDE * side for side in image_embed.shape[1:3])
        logits = resize_mask(rearrange(mask_logits, "b 1 h w -> b h w 1"), height, width)
        prob, binary = jax.nn.sigmoid(logits), (logits > 0).astype(jnp.float32)
        if isinstance(binarise, bool):
            prob = binary if binarise else prob
        else:
            prob = where_object(binarise, binary, prob)
        memory = self.memory_encoder(image_embed, prob)
        absent = (object_logit <= 0)[..., None, None]
        return memory + jnp.where(absent, per_channel(self.no_obj_embed_spatial[...], memory), 0.0)

    def track_step(
        self,
        features: ImageFeatures,
        bank: MemoryBank | None,
        frame: Scalar,
        num_frames: Scalar,
        decode: Callable[[Float[Array, "b h w c"]], tuple[MaskOutput, MaskLogits]],
        *,
        reverse: Bool[Array, ""] | bool = False,
        binarise: Bool[Array, " b"] | bool = False,
        evaluation: bool = True,
        key: PRNGKeyArray | None = None,
    ) -> tuple[MaskOutput, Float32[Array, "b h w e"]]:
        """One frame of a clip: read the bank, decode, encode what was found.

        `decode` takes the features that `attend_memory` gives, and returns the output and the mask
        to remember, of any resolution. Returns that output and the memory; writing it to the bank
        is the caller's. The other arguments are those of the steps.
        """
        pix_feat = self.attend_memory(
            features.image_embed,
            bank,
            frame,
            num_frames,
            reverse=reverse,
            evaluation=evaluation,
            key=key,
        )
        output, mask_logits = decode(pix_feat)
        memory = self.encode_memory(
            features.image_embed, mask_logits, output.object_logit, binarise=binarise
        )
        return output, memory
