"""The size that ships trained: pets256 with narrower parts, 8.7 M parameters.

    python train.py --config=configs/pets256_small.py

is one run from random weights. The weights that ship were made in several, of which the first sees
2.6 times as many pictures in the same time, and the last two are mostly of clips:

    python train.py --config=configs/pets256_small.py:128px --workdir runs/small
    python train.py --config=configs/pets256_small.py --workdir runs/full \\
        --config.train.start_from=runs/small --config.train.clip_share=0.0
    python train.py --config=configs/pets256_small.py:memory-128px --workdir runs/memory-small \\
        --config.train.start_from=runs/full
    python train.py --config=configs/pets256_small.py:memory --workdir runs/memory \\
        --config.train.start_from=runs/memory-small

What each of them was, and what came out, is told in petsam_jax/weights/README.md: IoU on 238
pictures that were never seen 0.84 without a prompt, 0.90 from a box, 0.85 and 0.97 after one click
and five, in all from about eight hours of two CPU cores.

Where the numbers come from: at 256 pixels most of the work is the trunk's, and it falls with the
square of the width. 48 channels with the block counts of the official tiny size are a tenth of
pets256's trunk and leave the finest attention at 8x8 windows. The decoder runs four times for each
picture that is trained on, so its width matters for time more than for size: half the channels,
and feed-forward layers four times as wide as their tokens, as in the trunk, in place of eight.
Memory attention is two layers; a clip of one kind of object needs no more.
"""

from pathlib import Path

from ml_collections import ConfigDict

from petsam_jax.config import ConfigError, load_config

# Any of them, joined by "-".
VARIANTS = ("memory", "128px")


def get_config(variant: str = "") -> ConfigDict:
    chosen = set(filter(None, variant.split("-")))
    if not chosen <= set(VARIANTS):
        raise ConfigError(f"no variant {variant!r}; there are 128px, memory and memory-128px")
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
    config.train.microbatches = 1
    config.train.duration = "6000 steps"
    config.eval.update(every=500, examples=150)
    # The model sees a clip of 16:9 as a square, too, and its pets are small and blurred. Not in the
    # first run, on small pictures, which has enough to learn.
    if variant != "128px":
        config.data.augment.update(scene_prob=0.35, aspect=0.8, blur_prob=0.3)
    if "memory" in chosen:
        _memory(config)
    if "128px" in chosen:
        _small_pictures(config, "memory" in chosen)
    return config


def _memory(config: ConfigDict) -> None:
    """Clips in two of three steps.

    All else is trained on, too, slowly: what the memory makes of an image embedding is new to the
    decoder, and pets that move before other ground to the encoder; pictures in the other steps keep
    them to what they know. Whether an object is there at all is learned here, since pictures always
    have one.
    """
    groups = config.optim.groups
    for name, lr in dict(image_encoder=2e-4, prompt_encoder=4e-4, mask_decoder=4e-4).items():
        groups[name].lr = lr
    groups.memory.lr = 6e-4
    # The score's error is large at first, and all gradients are clipped together.
    config.loss.object_weight = 0.25
    # Small pets in scenery are what clips show most.
    config.data.augment.scene_prob = 0.4
    config.data.motion.turn = 0.8
    config.train.update(clip_share=0.67, clip_batch_size=2, duration="1200 steps")
    config.eval.update(clips=64, best="iou_clip")


def _small_pictures(config: ConfigDict, memory: bool) -> None:
    """Pictures of 128 pixels, of which a CPU sees 2.6 times as many a second."""
    config.data.size = 128
    # These tile the smaller maps.
    config.model.image_encoder.trunk.window_sizes = (8, 4, 8, 4)
    config.train.batch_size = 16
    if memory:
        config.train.update(clip_batch_size=8, duration="1500 steps")
    else:
        config.train.update(clip_share=0.0, duration="8000 steps")
