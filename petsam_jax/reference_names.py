"""The names and layouts of the official SAM 2.1, and which of ours each of them is.

In: arrays named as in the official state dictionary, PyTorch layouts. Out: ours. Nothing is
guessed: every name that is missing, unknown or misshapen is in the error.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np
from einops import EinopsError, rearrange

from petsam_jax.names import Shapes, check, differences

# What a kind of module keeps: (the reference's suffix, ours, the change of layout). A transposed
# convolution in PyTorch is the true transpose, out[2h+y, 2w+x] = in[h, w] kernel[y, x], and so is
# our `UpConv`: its kernel keeps its direction.
KINDS = {
    "linear": [(".weight", ".kernel", "o i -> i o"), (".bias", ".bias", "o -> o")],
    "conv": [(".weight", ".kernel", "o i h w -> h w i o"), (".bias", ".bias", "o -> o")],
    "conv1x1": [(".weight", ".kernel", "o i 1 1 -> i o"), (".bias", ".bias", "o -> o")],
    "depthwise": [(".weight", ".kernel", "c 1 h w -> h w c"), (".bias", ".bias", "c -> c")],
    "upconv": [(".weight", ".kernel", "i o h w -> i h w o"), (".bias", ".bias", "o -> o")],
    "norm": [(".weight", ".scale", "c -> c"), (".bias", ".bias", "c -> c")],
    "tokens": [(".weight", "", "n c -> n c")],
    "vector": [(".weight", "", "1 c -> c")],
}

# (prefix of the reference, ours): lines of a module or array of the reference, its name here ("="
# is the same), and its kind, or for a bare array the change of layout. "#" is any number, "@" a
# projection of an attention, \1 the first of these. A name that ends in [n] is row n of an array.
RULES = {
    ("image_encoder.trunk.", "image_encoder.trunk."): """
        patch_embed.proj      patch_embed    conv
        pos_embed             =              1 c h w -> h w c
        pos_embed_window      =              1 c h w -> h w c
        blocks.#.norm#        =              norm
        blocks.#.attn.qkv     =              linear
        blocks.#.attn.proj    =              linear
        blocks.#.mlp.layers.# =              linear
        blocks.#.proj         =              linear
    """,
    # The reference lists the levels of the neck deepest first; here the finest is first.
    ("image_encoder.neck.", "image_encoder.neck."): """
        convs.0.conv  convs.3  conv1x1
        convs.1.conv  convs.2  conv1x1
        convs.2.conv  convs.1  conv1x1
        convs.3.conv  convs.0  conv1x1
    """,
    # These two run once per image and not once per prompt, so they are the image encoder's here.
    ("sam_mask_decoder.", "image_encoder."): """
        conv_s0  =  conv1x1
        conv_s1  =  conv1x1
    """,
    # Rows of point_embed: negative and positive click, top left and bottom right corner.
    ("sam_prompt_encoder.", "prompt_encoder."): r"""
        pe_layer.positional_encoding_gaussian_matrix  gaussian         two f -> two f
        point_embeddings.#                            point_embed[\1]  vector
        not_a_point_embed                             =                vector
        no_mask_embed                                 =                vector
        mask_downscaling.0                            mask_conv1       conv
        mask_downscaling.1                            mask_norm1       norm
        mask_downscaling.3                            mask_conv2       conv
        mask_downscaling.4                            mask_norm2       norm
        mask_downscaling.6                            mask_conv3       conv1x1
    """,
    ("sam_mask_decoder.", "mask_decoder."): r"""
        transformer.layers.#.self_attn.@                  =                         linear
        transformer.layers.#.cross_attn_token_to_image.@  =                         linear
        transformer.layers.#.cross_attn_image_to_token.@  =                         linear
        transformer.layers.#.mlp.layers.#                 =                         linear
        transformer.layers.#.norm#                        =                         norm
        transformer.final_attn_token_to_image.@           =                         linear
        transformer.norm_final_attn                       =                         norm
        iou_token                                         =                         tokens
        mask_tokens                                       =                         tokens
        obj_score_token                                   =                         tokens
        output_upscaling.0                                upscale1                  upconv
        output_upscaling.1                                upscale_norm              norm
        output_upscaling.3                                upscale2                  upconv
        output_hypernetworks_mlps.#.layers.#.weight       hypernetworks.kernel\2[\1]  o i -> i o
        output_hypernetworks_mlps.#.layers.#.bias         hypernetworks.bias\2[\1]    o -> o
        iou_prediction_head.layers.#                      iou_head.layers.\1          linear
        pred_obj_score_head.layers.#                      object_score_head.layers.\1 linear
    """,
    ("memory_encoder.", "memory_encoder."): r"""
        mask_downsampler.encoder.0   mask_downsampler.convs.0  conv
        mask_downsampler.encoder.1   mask_downsampler.norms.0  norm
        mask_downsampler.encoder.3   mask_downsampler.convs.1  conv
        mask_downsampler.encoder.4   mask_downsampler.norms.1  norm
        mask_downsampler.encoder.6   mask_downsampler.convs.2  conv
        mask_downsampler.encoder.7   mask_downsampler.norms.2  norm
        mask_downsampler.encoder.9   mask_downsampler.convs.3  conv
        mask_downsampler.encoder.10  mask_downsampler.norms.3  norm
        mask_downsampler.encoder.12  mask_downsampler.proj     conv1x1
        pix_feat_proj                =                         conv1x1
        fuser.layers.#.dwconv        fuser.\1.dwconv           depthwise
        fuser.layers.#.norm          fuser.\1.norm             norm
        fuser.layers.#.pwconv#       fuser.\1.pwconv\2         linear
        fuser.layers.#.gamma         fuser.\1.gamma            c -> c
        out_proj                     =                         conv1x1
    """,
    ("memory_attention.", "memory_attention."): """
        layers.#.self_attn.@         =  linear
        layers.#.cross_attn_image.@  =  linear
        layers.#.linear#             =  linear
        layers.#.norm#               =  norm
        norm                         =  norm
    """,
    ("", ""): """
        mask_downsample       =  conv
        obj_ptr_proj.layers.# =  linear
        obj_ptr_tpos_proj     =  linear
        maskmem_tpos_enc      =  t 1 1 c -> t c
        no_mem_embed          =  1 1 c -> c
        no_obj_ptr            =  1 c -> c
        no_obj_embed_spatial  =  1 c -> c
    """,
}
WILDCARDS = {"#": r"(\d+)", "@": "((?:q|k|v|out)_proj)"}

# SAM 2.1 creates this array and nothing reads it: without memories it adds `no_mem_embed` to the
# image embedding and leaves memory attention out, where the position of that token would go.
DROPPED = {"no_mem_pos_enc"}


def _compile() -> Iterator[tuple[re.Pattern, str, str]]:
    for (their_prefix, our_prefix), table in RULES.items():
        for line in table.strip().splitlines():
            theirs, ours, kind = line.split(maxsplit=2)
            found = iter(range(1, 10))
            same = re.sub("[#@]", lambda _, found=found: rf"\{next(found)}", theirs)
            for old, new, layout in KINDS.get(kind, [("", "", kind)]):
                pattern = re.escape(their_prefix + theirs + old).replace(r"\#", "#")
                for sign, regex in WILDCARDS.items():
                    pattern = pattern.replace(sign, regex)
                template = our_prefix + (same if ours == "=" else ours) + new
                yield re.compile(pattern), template, layout


PATTERNS = tuple(_compile())


def our_name(reference: str) -> tuple[str, str] | None:
    """Our name of an array of the reference, and its change of layout; None where no rule fits.

    A name that ends in [n] is row n of an array.
    """
    for pattern, template, layout in PATTERNS:
        if match := pattern.fullmatch(reference):
            return match.expand(template), layout
    return None


def to_ours(
    arrays: Mapping[str, np.ndarray], shapes: Shapes | None = None
) -> dict[str, np.ndarray]:
    """The arrays of the reference by our names, in our layouts, float32.

    `shapes` are those of a model of ours (`checkpoint.model_shapes`); without them only names and
    layouts are checked. Raises NamesError with every name that is missing, unknown or misshapen.
    """
    faults, rows, made = [], defaultdict(dict), {}
    for reference, array in arrays.items():
        if reference in DROPPED:
            continue
        found = our_name(reference)
        if found is None:
            faults.append(f"unknown: {reference} {np.shape(array)}")
            continue
        name, layout = found
        try:
            converted = rearrange(np.asarray(array, np.float32), layout)
        except EinopsError:
            faults.append(f"misshapen: {reference} {np.shape(array)} is not `{layout}`")
            continue
        stacked, row = re.fullmatch(r"(.*?)(?:\[(\d+)\])?", name).groups()
        if row is None:
            made[name] = converted
        else:
            rows[stacked][int(row)] = converted
    for name, parts in rows.items():
        sizes = {part.shape for part in parts.values()}
        if sorted(parts) != list(range(len(parts))) or len(sizes) != 1:
            faults.append(f"misshapen: rows {sorted(parts)} of shapes {sizes} make no {name}")
        else:
            made[name] = np.stack([parts[n] for n in range(len(parts))])
    if shapes is not None:
        faults += differences(made, shapes)
    check("these arrays do not fit", faults)
    return {name: np.ascontiguousarray(array) for name, array in made.items()}
