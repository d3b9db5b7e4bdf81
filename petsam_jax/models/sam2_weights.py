"""Official SAM 2.1 weights: their names and layouts, and ours for each of them.

In: arrays with the names of the official state dictionary, in PyTorch's layouts. Out: ours.
Nothing is guessed: the error lists every name that is missing, unknown or misshapen, as the
reference spells it.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache

import jax.numpy as jnp
import numpy as np
from einops import rearrange

from petsam_jax.models.params import NamesError, Shapes, differences, raise_faults

# Arrays of each kind of module: (the reference's suffix, ours, the change of layout). A transposed
# convolution in PyTorch is the true transpose, out[2h+y, 2w+x] = in[h, w] kernel[y, x], and so is
# our `UpConv`: its kernel is not flipped.
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

# (prefix of the reference, ours): each line has a module or array of the reference, its name here
# ("=" if the same), and its kind, or for a single array the change of layout. {n} and {k} are
# numbers, {proj} a projection of an attention. A name that ends in [n] is row n of an array.
RULES = {
    ("image_encoder.trunk.", "image_encoder.trunk."): """
        patch_embed.proj           patch_embed  conv
        pos_embed                  =            1 c h w -> h w c
        pos_embed_window           =            1 c h w -> h w c
        blocks.{n}.norm{k}         =            norm
        blocks.{n}.attn.qkv        =            linear
        blocks.{n}.attn.proj       =            linear
        blocks.{n}.mlp.layers.{k}  =            linear
        blocks.{n}.proj            =            linear
    """,
    # The reference lists the levels of the neck from the deepest, we from the finest.
    ("image_encoder.neck.", "image_encoder.neck."): """
        convs.0.conv  convs.3  conv1x1
        convs.1.conv  convs.2  conv1x1
        convs.2.conv  convs.1  conv1x1
        convs.3.conv  convs.0  conv1x1
    """,
    # These two run once per image, not once per prompt, so here they belong to the image encoder.
    ("sam_mask_decoder.", "image_encoder."): """
        conv_s0  =  conv1x1
        conv_s1  =  conv1x1
    """,
    # Rows of point_embed: negative and positive click, top left and bottom right corner.
    ("sam_prompt_encoder.", "prompt_encoder."): """
        pe_layer.positional_encoding_gaussian_matrix  gaussian          two f -> two f
        point_embeddings.{n}                          point_embed[{n}]  vector
        not_a_point_embed                             =                 vector
        no_mask_embed                                 =                 vector
        mask_downscaling.0                            mask_conv1        conv
        mask_downscaling.1                            mask_norm1        norm
        mask_downscaling.3                            mask_conv2        conv
        mask_downscaling.4                            mask_norm2        norm
        mask_downscaling.6                            mask_conv3        conv1x1
    """,
    ("sam_mask_decoder.transformer.", "mask_decoder.transformer."): """
        layers.{n}.self_attn.{proj}                  =  linear
        layers.{n}.cross_attn_token_to_image.{proj}  =  linear
        layers.{n}.cross_attn_image_to_token.{proj}  =  linear
        layers.{n}.mlp.layers.{k}                    =  linear
        layers.{n}.norm{k}                           =  norm
        final_attn_token_to_image.{proj}             =  linear
        norm_final_attn                              =  norm
    """,
    ("sam_mask_decoder.", "mask_decoder."): """
        iou_token                                        =                             tokens
        mask_tokens                                      =                             tokens
        obj_score_token                                  =                             tokens
        output_upscaling.0                               upscale1                      upconv
        output_upscaling.1                               upscale_norm                  norm
        output_upscaling.3                               upscale2                      upconv
        output_hypernetworks_mlps.{n}.layers.{k}.weight  hypernetworks.kernel{k}[{n}]  o i -> i o
        output_hypernetworks_mlps.{n}.layers.{k}.bias    hypernetworks.bias{k}[{n}]    o -> o
        iou_prediction_head.layers.{n}                   iou_head.layers.{n}           linear
        pred_obj_score_head.layers.{n}                   object_score_head.layers.{n}  linear
    """,
    ("memory_encoder.", "memory_encoder."): """
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
        fuser.layers.{n}.dwconv      fuser.{n}.dwconv          depthwise
        fuser.layers.{n}.norm        fuser.{n}.norm            norm
        fuser.layers.{n}.pwconv{k}   fuser.{n}.pwconv{k}       linear
        fuser.layers.{n}.gamma       fuser.{n}.gamma           c -> c
        out_proj                     =                         conv1x1
    """,
    ("memory_attention.", "memory_attention."): """
        layers.{n}.self_attn.{proj}         =  linear
        layers.{n}.cross_attn_image.{proj}  =  linear
        layers.{n}.linear{k}                =  linear
        layers.{n}.norm{k}                  =  norm
        norm                                =  norm
    """,
    ("", ""): """
        mask_downsample          =  conv
        obj_ptr_proj.layers.{n}  =  linear
        obj_ptr_tpos_proj        =  linear
        maskmem_tpos_enc         =  t 1 1 c -> t c
        no_mem_embed             =  1 1 c -> c
        no_obj_ptr               =  1 c -> c
        no_obj_embed_spatial     =  1 c -> c
    """,
}
# A number without leading zeros: "01" would be a second name of 1.
NUMBER = "0|[1-9][0-9]*"
WILDCARDS = {"n": NUMBER, "k": NUMBER, "proj": "(?:q|k|v|out)_proj"}

# SAM 2.1 creates this array but never reads it: without memories it adds `no_mem_embed` to the
# image embedding and skips memory attention, which would use the position of that token. It has the
# shape of the array named beside it.
DROPPED = {"no_mem_pos_enc": "no_mem_embed"}


def _rules() -> Iterator[tuple[str, str, str]]:
    """The reference's name, ours, and the change of layout for each array in RULES."""
    for (their_prefix, our_prefix), table in RULES.items():
        for line in table.strip().splitlines():
            theirs, ours, kind = line.split(maxsplit=2)
            ours = theirs if ours == "=" else ours
            for their_suffix, our_suffix, layout in KINDS.get(kind, [("", "", kind)]):
                yield their_prefix + theirs + their_suffix, our_prefix + ours + our_suffix, layout


def _pattern(template: str) -> re.Pattern:
    pattern = re.escape(template)
    for name, regex in WILDCARDS.items():
        pattern = pattern.replace(rf"\{{{name}\}}", f"(?P<{name}>{regex})")
    return re.compile(pattern)


OFFICIAL_TO_OURS = [(_pattern(theirs), ours, layout) for theirs, ours, layout in _rules()]
OURS_TO_OFFICIAL = [(_pattern(ours), theirs, layout) for theirs, ours, layout in _rules()]


def _translate(name: str, rules: list[tuple[re.Pattern, str, str]]) -> tuple[str, str] | None:
    for pattern, template, layout in rules:
        if match := pattern.fullmatch(name):
            return template.format(**match.groupdict()), layout
    return None


def our_name(reference: str) -> tuple[str, str] | None:
    """Our name of an array of the reference and its change of layout; None if no rule matches.

    A name that ends in [n] is row n of an array.
    """
    return _translate(reference, OFFICIAL_TO_OURS)


@cache
def official_name(ours: str) -> tuple[str, str] | None:
    """The inverse of `our_name`: the reference's name of an array or a row of ours."""
    return _translate(ours, OURS_TO_OFFICIAL)


def official_shapes(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The reference's names and shapes for a model of ours with these shapes, without DROPPED.

    Raises NamesError for arrays that the reference does not have.
    """
    official, faults = {}, []
    for name, shape in shapes.items():
        if official_name(name):
            parts = {name: shape}
        elif official_name(f"{name}[0]"):
            parts = {f"{name}[{row}]": shape[1:] for row in range(shape[0])}
        else:
            parts = {}
            faults.append(f"not in the reference: {name} {tuple(shape)}")
        for part, sizes in parts.items():
            if (found := official_name(part)) is None:
                faults.append(f"not in the reference: {part} {tuple(sizes)}")
                continue
            reference, layout = found
            their_axes, our_axes = (side.split() for side in layout.split("->"))
            size_of = dict(zip(our_axes, sizes, strict=True))
            official[reference] = tuple(size_of.get(axis, 1) for axis in their_axes)
    raise_faults("no official weights fit this model", faults)
    return official


def from_official(
    arrays: Mapping[str, np.ndarray], shapes: Shapes | None = None
) -> dict[str, np.ndarray]:
    """The arrays of the reference by our names, in our layouts, as float32.

    `shapes` are those of a model of ours (`checkpoint.model_shapes`); without them the arrays may
    be part of a model, if rows of one array are complete. Raises NamesError with every name that is
    missing, unknown, misshapen, or has numbers that are not finite.
    """
    raise_faults("these arrays do not fit", _faults(arrays, shapes))
    parts = {}
    for reference, array in arrays.items():
        if reference not in DROPPED and (found := our_name(reference)):
            name, layout = found
            if name in parts:
                raise NamesError(f"two arrays for {name}, one of them {reference}")
            parts[name] = np.ascontiguousarray(rearrange(np.asarray(array, np.float32), layout))
    made = {name: part for name, part in parts.items() if "[" not in name}
    stacks = Counter(name.split("[")[0] for name in parts if "[" in name)
    for name, rows in stacks.items():
        made[name] = np.stack([parts[f"{name}[{row}]"] for row in range(rows)])
    return made


def _faults(arrays: Mapping[str, np.ndarray], shapes: Shapes | None) -> list[str]:
    if shapes is None:
        unknown = [name for name in arrays if name not in DROPPED and our_name(name) is None]
        faults = [f"unknown: {name} {np.shape(arrays[name])}" for name in unknown]
    else:
        expected = official_shapes(shapes)
        unread = {name: expected[like] for name, like in DROPPED.items() if name in arrays}
        faults = differences(arrays, expected | unread)
    # A float64 that is too large for float32 becomes infinite.
    with np.errstate(over="ignore"):
        for name, array in arrays.items():
            if not jnp.issubdtype(array.dtype, jnp.floating):
                faults.append(f"not floating point: {name} {array.dtype}")
            elif not np.isfinite(np.asarray(array, np.float32)).all():
                faults.append(f"not finite in float32: {name}")
    return faults
