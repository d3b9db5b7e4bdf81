"""The size that ships trained: pets256 with narrower parts, 8.7 M parameters.

    python train.py --config=configs/pets256_small.py

is one run from random weights. The shipped weights were trained in several runs: the first sees
2.6 times as many images in the same time, the last two train mostly on clips:

    python train.py --config=configs/pets256_small.py:128px --workdir runs/small
    python train.py --config=configs/pets256_small.py --workdir runs/full \\
        --config.train.start_from=runs/small --config.train.clip_share=0.0
    python train.py --config=configs/pets256_small.py:memory-128px --workdir runs/memory-small \\
        --config.train.start_from=runs/full
    python train.py --config=configs/pets256_small.py:memory --workdir runs/memory \\
        --config.train.start_from=runs/memory-small

petsam_jax/weights/README.md describes each run and its results. IoU on 238 held-out images: 0.84
without a prompt, 0.90 from a box, 0.85 and 0.97 after one click and five, from about eight hours on
two CPU cores in all.

Why these numbers: at 256 pixels the trunk does most of the work, which falls with the square of its
width. 48 channels with the block counts of the official tiny size take a tenth of pets256's trunk
and keep the finest attention at 8x8 windows. The decoder runs four times for each training image,
so its width matters more for time than for size: half the channels, and feed-forward layers four
times as wide as their tokens, as in the trunk, instead of eight. Memory attention has two layers; a
clip of one kind of object needs no more.
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

    # A smaller model tolerates, and needs, a higher rate.
    for group in config.optim.groups.values():
        group.update(lr=1e-3, warmup="200 steps")
    # Three corrections instead of seven: in the same time the encoder sees 1.5 times the images,
    # and it is the encoder that lags when a model starts from random weights.
    config.prompts.rounds = 3
    config.train.clip_share = 0.125
    config.train.microbatches = 1
    config.train.duration = "6000 steps"
    config.eval.update(every=500, examples=150)
    # A 16:9 clip is also resized to a square, and its pets are small and blurred. Not in the first
    # run on small images, which has enough to learn.
    if variant != "128px":
        config.data.augment.update(scene_prob=0.35, aspect=0.8, blur_prob=0.3)
    if "memory" in chosen:
        _memory(config)
    if "128px" in chosen:
        _small_images(config, "memory" in chosen)
    return config


def _memory(config: ConfigDict) -> None:
    """Clips in two of three steps.

    Everything else is trained too, slowly: image embeddings conditioned on memory are new to the
    decoder, and pets in front of other backgrounds to the encoder; the image steps keep what they
    have learned. Whether an object is present is learned here, since images always have one.
    """
    groups = config.optim.groups
    for name, lr in dict(image_encoder=2e-4, prompt_encoder=4e-4, mask_decoder=4e-4).items():
        groups[name].lr = lr
    groups.memory.lr = 6e-4
    # The loss of the object score is large at first, and all gradients are clipped together.
    config.loss.object_weight = 0.25
    # Clips mostly show small pets in scenery.
    config.data.augment.scene_prob = 0.4
    config.data.motion.turn = 0.8
    config.train.update(clip_share=0.67, clip_batch_size=2, duration="1200 steps")
    config.eval.update(clips=64, best="iou_clip")


def _small_images(config: ConfigDict, memory: bool) -> None:
    """Images of 128 pixels, of which a CPU processes 2.6 times as many a second."""
    config.data.size = 128
    # These tile the smaller maps.
    config.model.image_encoder.trunk.window_sizes = (8, 4, 8, 4)
    config.train.batch_size = 16
    if memory:
        config.train.update(clip_batch_size=8, duration="1500 steps")
    else:
        config.train.update(clip_share=0.0, duration="8000 steps")
