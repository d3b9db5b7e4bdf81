"""The size of the system that this project re-creates: SAM 2.1's base-plus trunk at 256 pixels.

    python train.py --config=configs/pets256.py

`configs/pets256.py:seed` is that system to the letter, its attention windows included.
"""

from ml_collections import ConfigDict

from petsam_jax.config import ConfigError


def get_config(variant: str = "") -> ConfigDict:
    if variant not in ("", "seed"):
        raise ConfigError(f"no variant {variant!r}; the only one is seed")
    config = ConfigDict()
    config.model = _model()
    if variant == "seed":
        # Made for 1024 pixels; at 256 these pad the maps of the last two stages (49 GFLOP an image
        # in place of 33.5).
        config.model.image_encoder.trunk.window_sizes = (8, 4, 14, 7)
    return config.lock()


def _model() -> ConfigDict:
    """The keywords of `SAM2`; 80,849,922 parameters and a fixed matrix of 256."""
    trunk = ConfigDict()
    # Channels after the patch embedding, doubled at each of the three later stages.
    trunk.embed_dim = 112
    # Attention heads of the first stage, doubled as the channels are.
    trunk.num_heads = 2
    # Blocks in each stage.
    trunk.stages = (2, 3, 16, 3)
    # Side of the attention windows of each stage, in tokens; these tile 256 pixels without padding.
    trunk.window_sizes = (8, 4, 16, 8)
    # Blocks, counted from 0, that attend over the whole map.
    trunk.global_att_blocks = (12, 16, 20)
    # Chance that a branch of the last block is skipped in training; it grows linearly to that.
    trunk.drop_path_rate = 0.1
    # Width of the feed-forward layers, in channels of their block.
    trunk.mlp_ratio = 4.0
    # Height and width of the learned position embedding, resized to each picture.
    trunk.pos_embed_size = (14, 14)

    model = ConfigDict()
    model.image_encoder = ConfigDict({"trunk": trunk})
    # Channels of the image embedding, of prompts, and of the decoder's tokens.
    model.d_model = 256

    model.prompt_encoder = ConfigDict()
    # Channels of a mask prompt before it has d_model of them.
    model.prompt_encoder.mask_channels = 16

    model.mask_decoder = ConfigDict()
    # Layers of the two-way transformer.
    model.mask_decoder.depth = 2
    # Attention heads of the two-way transformer.
    model.mask_decoder.num_heads = 8
    # Width of the two-way transformer's feed-forward layers.
    model.mask_decoder.mlp_dim = 2048
    # Width of the head that predicts the IoU.
    model.mask_decoder.iou_hidden = 256

    model.memory_encoder = ConfigDict()
    # Channels of a memory and of an object-pointer token; must divide d_model.
    model.memory_encoder.out_dim = 64

    model.memory_attention = ConfigDict()
    # Layers that attend from a frame to the memories.
    model.memory_attention.num_layers = 4
    # Width of their feed-forward layers.
    model.memory_attention.mlp_dim = 2048
    # Share of their activations dropped in training.
    model.memory_attention.dropout = 0.1

    # Memories of frames that a frame looks at: clicked frames and the most recent ones.
    model.num_memories = 7
    # Object pointers that a frame looks at.
    model.max_obj_ptrs = 16
    # Clicked frames among those memories.
    model.max_cond_frames = 4
    # What inputs of matrix products are rounded to: "float32" or "bfloat16".
    model.dtype = "float32"
    return model
