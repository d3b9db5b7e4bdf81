"""Made-up shapes at 128 pixels: trains in a minute or two on a CPU, and every test uses it.

    python train.py --config=configs/tiny.py

The model is pets256 in all its parts, with small numbers; 1.2 M parameters.
"""

from pathlib import Path

from ml_collections import ConfigDict

from petsam_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config(Path(__file__).with_name("pets256.py"))
    model = config.model
    trunk = model.image_encoder.trunk
    trunk.embed_dim = 24
    trunk.num_heads = 1
    trunk.stages = (1, 1, 2, 1)
    # 128 pixels are 32, 16, 8 and 4 tokens.
    trunk.window_sizes = (8, 4, 8, 4)
    trunk.global_att_blocks = (3,)
    trunk.drop_path_rate = 0.0
    trunk.pos_embed_size = (7, 7)
    model.d_model = 64
    model.mask_decoder.num_heads = 2
    model.mask_decoder.mlp_dim = 128
    model.mask_decoder.iou_hidden = 64
    model.memory_encoder.out_dim = 32
    model.memory_attention.num_layers = 1
    model.memory_attention.mlp_dim = 128
    model.memory_attention.dropout = 0.0
    return config
