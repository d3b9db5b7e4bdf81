"""The size that ships trained: pets256 with narrower parts, 8.7 M parameters.

    python train.py --config=configs/pets256_small.py

Where the numbers come from: at 256 pixels most of the work is the trunk's, and it falls with the
square of the width. 48 channels with the block counts of the official tiny size are a tenth of
pets256's trunk and leave the finest attention at 8x8 windows. The decoder runs eight times for
each picture that is trained on, so its width matters for time more than for size: half the
channels, and feed-forward layers four times as wide as their tokens, as in the trunk, in place of
eight. Memory attention is two layers; a clip of one kind of object needs no more.
"""

from pathlib import Path

from ml_collections import ConfigDict

from petsam_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config(Path(__file__).with_name("pets256.py"))
    model = config.model
    trunk = model.image_encoder.trunk
    trunk.embed_dim = 48
    trunk.num_heads = 1
    trunk.stages = (1, 2, 7, 2)
    trunk.global_att_blocks = (5, 7, 9)
    trunk.pos_embed_size = (7, 7)
    model.d_model = 128
    # 16 channels a head in the cross-attentions, as in pets256.
    model.mask_decoder.num_heads = 4
    model.mask_decoder.mlp_dim = 512
    model.mask_decoder.iou_hidden = 128
    model.memory_attention.num_layers = 2
    model.memory_attention.mlp_dim = 512
    model.dtype = "bfloat16"

    # A smaller model takes, and needs, a higher rate.
    for group in config.optim.groups.values():
        group.update(lr=1e-3, warmup="200 steps")
    # Three corrections in place of seven: in the same time the encoder sees half as many pictures
    # more, and it is the encoder that lags when a model starts from random weights.
    config.prompts.rounds = 3
    config.train.clip_share = 0.125
    config.train.duration = "6000 steps"
    config.eval.update(every=500, examples=150)
    return config
