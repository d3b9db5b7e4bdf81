"""Four mask proposals with their quality from an image embedding and a prompt.

In: image embedding, its position code, prompt tokens and map, high-resolution features. Out: of
each of the four mask tokens the mask logits at stride 4, a predicted IoU and the token, and a logit
for the presence of an object. Token 0 is for clear prompts, tokens 1 to 3 for
those that can mean several things; functions choose. SAM 2 (Ravi et al. 2024), appendix D.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32

from petsam_jax.models.layers import MAP_EPS, LayerNorm, Mlp, UpConv, gelu
from petsam_jax.models.mask_ops import where_object
from petsam_jax.models.two_way_transformer import TwoWayTransformer

# One for a clear prompt, and three for one that can mean several things.
MASKS = 4
# A mask is stable if thresholds of +-STABILITY_DELTA give masks with at least this IoU.
STABILITY_DELTA, STABILITY_THRESH = 0.05, 0.98


class DecoderOutput(NamedTuple):
    """m masks for each prompt: all four of the decoder, or those that a function chose."""

    mask_logits: Float32[Array, "b m h w"]  # at stride 4
    iou_pred: Float32[Array, "b m"]
    object_logit: Float32[Array, "b 1"]
    mask_tokens: Float32[Array, "b m c"]


class Hypernetworks(nnx.Module):
    """An MLP of three layers for each mask token, all in one product a layer.

    Of dtype float32 whatever the model's: it is a hundredth of the work, and XLA for CPUs does not
    have every product in bfloat16 with a batch axis. Weights start with a variance of 1 / fan_in,
    three times the reference's and that of all other layers; the weights that ship were trained
    from it.
    """

    def __init__(self, tokens: int, features: int, out: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.lecun_normal(in_axis=1, out_axis=2, batch_axis=0)
        self.kernel0 = nnx.Param(init(rngs.params(), (tokens, features, features)))
        self.bias0 = nnx.Param(jnp.zeros((tokens, features)))
        self.kernel1 = nnx.Param(init(rngs.params(), (tokens, features, features)))
        self.bias1 = nnx.Param(jnp.zeros((tokens, features)))
        self.kernel2 = nnx.Param(init(rngs.params(), (tokens, features, out)))
        self.bias2 = nnx.Param(jnp.zeros((tokens, out)))

    def __call__(self, mask_tokens: Float[Array, "b m c"]) -> Float[Array, "b m e"]:
        x = rearrange(mask_tokens, "b m c -> m b c")
        x = jax.nn.relu(self._layer(x, self.kernel0, self.bias0))
        x = jax.nn.relu(self._layer(x, self.kernel1, self.bias1))
        return rearrange(self._layer(x, self.kernel2, self.bias2), "m b e -> b m e")

    def _layer(self, x, kernel, bias):
        return jnp.einsum("mbi,mio->mbo", x, kernel[...].astype(jnp.float32)) + bias[...][:, None]


class MaskDecoder(nnx.Module):
    """Two-way transformer, upscaling with high-resolution features, one mask a token."""

    def __init__(
        self,
        d_model: int,
        *,
        depth: int = 2,
        num_heads: int = 8,
        mlp_dim: int = 2048,
        iou_hidden: int = 256,
        dtype: DTypeLike = "float32",
        rngs: nnx.Rngs,
    ):
        """Raises ValueError if `d_model` is not a multiple of 8, which the upscaling needs."""
        if d_model % 8:
            raise ValueError(f"d_model: {d_model} is not a multiple of 8; set it to one that is")
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        normal = nnx.initializers.normal(1.0)
        self.transformer = TwoWayTransformer(d_model, depth, num_heads, mlp_dim, **options)
        self.obj_score_token = nnx.Param(normal(rngs.params(), (1, d_model)))
        self.iou_token = nnx.Param(normal(rngs.params(), (1, d_model)))
        self.mask_tokens = nnx.Param(normal(rngs.params(), (MASKS, d_model)))
        self.upscale1 = UpConv(d_model, d_model // 4, **options)
        self.upscale_norm = LayerNorm(d_model // 4, eps=MAP_EPS)
        self.upscale2 = UpConv(d_model // 4, d_model // 8, **options)
        self.hypernetworks = Hypernetworks(MASKS, d_model, d_model // 8, rngs=rngs)
        self.iou_head = Mlp(d_model, iou_hidden, MASKS, 3, **options)
        self.object_score_head = Mlp(d_model, d_model, 1, 3, **options)

    def __call__(
        self,
        image_embed: Float[Array, "i h w c"],
        image_pe: Float[Array, "h w c"],
        sparse_embed: Float[Array, "b n c"],
        sparse_mask: Bool[Array, "b n"],
        dense_embed: Float[Array, "b h w c"],
        high_res_feats: tuple[Float[Array, "i 4*h 4*w s"], Float[Array, "i 2*h 2*w d"]],
    ) -> DecoderOutput:
        """All four masks of each prompt; `sparse_mask` is true for the prompt tokens that count.

        One image (i = 1) serves any number b of prompts and is read as it is; else i = b, and
        prompts for several images each come with their image repeated.
        """
        h, w, _ = image_pe.shape
        tokens, token_mask = self.all_tokens(sparse_embed, sparse_mask)
        image = rearrange(image_embed + dense_embed, "b h w c -> b (h w) c")
        positions = rearrange(image_pe, "h w c -> 1 (h w) c")
        tokens, image = self.transformer(tokens, token_mask, image, positions)

        mask_tokens = tokens[:, 2 : 2 + MASKS]
        image = rearrange(image, "b (h w) c -> b h w c", h=h, w=w)
        # Pixels before masks: the other way round, XLA would transpose all of `upscaled`.
        upscaled = rearrange(self.upscale(image, high_res_feats), "b h w e -> b (h w) e")
        mask_logits = jnp.einsum("ble,bme->blm", upscaled, self.hypernetworks(mask_tokens))
        return DecoderOutput(
            mask_logits=rearrange(mask_logits, "b (h w) m -> b m h w", h=4 * h),
            iou_pred=jax.nn.sigmoid(self.iou_head(tokens[:, 1])),
            object_logit=self.object_score_head(tokens[:, 0]),
            mask_tokens=mask_tokens,
        )

    def all_tokens(
        self, sparse_embed: Float[Array, "b n c"], sparse_mask: Bool[Array, "b n"]
    ) -> tuple[Float[Array, "b s c"], Bool[Array, "b s"]]:
        """Object score, IoU, masks, then the prompt; and which of them count."""
        tokens = [self.obj_score_token[...], self.iou_token[...], self.mask_tokens[...]]
        own = jnp.concatenate(tokens)[None]
        own = jnp.broadcast_to(own, (sparse_embed.shape[0],) + own.shape[1:])
        own_mask = jnp.ones(own.shape[:2], bool)
        return (
            jnp.concatenate([own, sparse_embed], axis=1),
            jnp.concatenate([own_mask, sparse_mask], axis=1),
        )

    def upscale(
        self,
        image: Float[Array, "b h w c"],
        high_res_feats: tuple[Float[Array, "i 4*h 4*w s"], Float[Array, "i 2*h 2*w d"]],
    ) -> Float[Array, "b 4*h 4*w e"]:
        """To stride 4, a high-resolution feature added on each step, before norm and activation."""
        stride4, stride8 = high_res_feats
        image = gelu(self.upscale_norm(self.upscale1(image) + stride8))
        return gelu(self.upscale2(image) + stride4)


# Which of the four masks


def chosen_mask(
    output: DecoderOutput, multimask: Bool[Array, " b"], *, evaluation: bool
) -> DecoderOutput:
    """One mask for each prompt: the best of three where `multimask`, else the single one.

    In evaluation a single mask that is not stable gives way to the best of three.
    """
    one = stable_mask(output) if evaluation else single_mask(output)
    return where_object(multimask, best_mask(multimask_masks(output)), one)


def multimask_masks(output: DecoderOutput) -> DecoderOutput:
    """The three proposals for a prompt that can mean several things: tokens 1 to 3."""
    return _tokens(output, slice(1, None))


def single_mask(output: DecoderOutput) -> DecoderOutput:
    """The mask for a prompt that is clear: token 0."""
    return _tokens(output, slice(0, 1))


def best_mask(output: DecoderOutput) -> DecoderOutput:
    """The mask of the highest predicted IoU, the first among equals."""
    best = jnp.argmax(output.iou_pred, axis=1)[:, None]
    return output._replace(
        mask_logits=jnp.take_along_axis(output.mask_logits, best[..., None, None], axis=1),
        iou_pred=jnp.take_along_axis(output.iou_pred, best, axis=1),
        mask_tokens=jnp.take_along_axis(output.mask_tokens, best[..., None], axis=1),
    )


def stable_mask(output: DecoderOutput) -> DecoderOutput:
    """The single mask where it is stable, else the best of the three; the token stays token 0's.

    For evaluation only.
    """
    one = single_mask(output)
    best = best_mask(multimask_masks(output))
    stable = stability(one.mask_logits, STABILITY_DELTA)[:, 0] >= STABILITY_THRESH
    return where_object(stable, one, best)._replace(mask_tokens=one.mask_tokens)


def stability(mask_logits: Float[Array, "b m h w"], delta: float) -> Float32[Array, "b m"]:
    """IoU of the masks at thresholds `delta` and -`delta`; 1 where both are empty."""
    inner = (mask_logits > delta).sum((2, 3))
    outer = (mask_logits > -delta).sum((2, 3))
    return jnp.where(outer > 0, inner / jnp.maximum(outer, 1), 1.0)


def _tokens(output: DecoderOutput, which: slice) -> DecoderOutput:
    return output._replace(
        mask_logits=output.mask_logits[:, which],
        iou_pred=output.iou_pred[:, which],
        mask_tokens=output.mask_tokens[:, which],
    )
