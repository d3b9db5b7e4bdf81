"""The size of the system that this project re-creates: SAM 2.1's base-plus trunk at 256 pixels.

    python train.py --config=configs/pets256.py

With `--config.model.dtype=bfloat16` a picture takes 0.55 s on 2 cores of an AMD EPYC 9004
(benchmarks/train.py), so that these 40 epochs of 3,680 pictures are about a day there. No run was
made to its end: what it reaches is not known.

`configs/pets256.py:seed` is that system as it was published, its attention windows included; where
nothing was published, it is SAM 2's training. Only where fresh weights start is not its own in all
(docs/architecture.md).
"""

from ml_collections import ConfigDict

from petsam_jax.config import ConfigError
from petsam_jax.train.param_rules import NO_DECAY, REFERENCE_NO_DECAY


def get_config(variant: str = "") -> ConfigDict:
    if variant not in ("", "seed"):
        raise ConfigError(f"no variant {variant!r}; the only one is seed")
    config = ConfigDict()
    config.model = _model()
    config.data = _data()
    config.prompts = _prompts()
    config.loss = _loss()
    config.optim = _optim()
    config.train = _train()
    config.eval = _eval()
    if variant == "seed":
        # Made for 1024 pixels; at 256 these pad the maps of the last two stages (49 GFLOP an image
        # in place of 33.5).
        config.model.image_encoder.trunk.window_sizes = (8, 4, 14, 7)
        _seed(config)
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
    # How much larger than SAM 2's the last weights of a mask prompt start. Its map is added to the
    # image embedding, over which it would vary ten times less: a fresh model then takes thousands
    # of pictures to hear it (IoU from a box after 1,400 pets 0.31, with the gain 0.55).
    model.prompt_encoder.mask_gain = 10.0

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


def _seed(config: ConfigDict) -> None:
    """The published recipe: batch 1, AdamW at 5e-6, 40 epochs, focal + dice + IoU."""
    config.train.update(batch_size=1, microbatches=1, clip_share=0.0, duration="40 epochs")
    config.loss.update(mask_kind="focal", mask_weight=20.0)
    for group in config.optim.groups.values():
        group.update(lr=5e-6, weight_decay=0.1, warmup="0 steps")
    config.optim.update(schedule="constant", clip_norm=0.1, b2=0.999)
    # There learned vectors and the norms of convolutions decay, too.
    config.optim.no_decay = REFERENCE_NO_DECAY
    config.model.prompt_encoder.mask_gain = 1.0
    # Whole pictures, varied as in SAM 2's training.
    augment = config.data.augment
    augment.update(crop=0.0, zoom_out=0.0, aspect=0.0, rotation=25.0, blur_prob=0.0)
    augment.update(brightness=0.1, contrast=0.05, saturation=0.05, hue=0.0, grayscale_prob=0.05)
    augment.update(paste_prob=0.0, others_prob=0.0, scene_prob=0.0)
    config.prompts.first.update(click_prob=0.5, box_prob=0.5, mask_prob=0.0, none_prob=0.0)
    config.prompts.first.update(centre_prob=0.0)
    config.prompts.correction.update(centre_prob=0.0, silent_prob=0.0)
    config.prompts.update(painted=False, gated=True, clip_mask_prob=0.0)
    config.prompts.update(longest_gap=0, refinements=0, carried=False)


def _data() -> ConfigDict:
    data = ConfigDict()
    # Where pictures come from, as `petsam_jax.data.load` reads it; several are mixed.
    data.sources = ("tfds",)
    # Share of the pictures from each source.
    data.weights = (1.0,)
    # Side of the square that pictures are stretched to, in pixels.
    data.size = 256
    # Threads that read and augment.
    data.num_threads = 2
    # What is varied in each picture, as `data.augment.Augmentation` has it. Part of the area that a
    # view may leave out, and may add around the picture.
    data.augment = ConfigDict(dict(crop=0.6, zoom_out=0.1))
    # Change of width to height, and the part of the pet that a view must keep.
    data.augment.update(aspect=0.3, min_pet=0.5)
    # Chance of a mirror image, and degrees of rotation either way.
    data.augment.update(flip_prob=0.5, rotation=10.0)
    # Strengths of colour changes, and the chance of none.
    data.augment.update(
        brightness=0.25, contrast=0.25, saturation=0.3, hue=0.04, grayscale_prob=0.1
    )
    # Chance of a blur, and its largest standard deviation in pixels.
    data.augment.update(blur_prob=0.2, blur_sigma=1.2)
    # How often the pet stands in another picture, and how often other pets stand beside it: then
    # the prompt decides, and the model learns to listen.
    data.augment.update(paste_prob=0.25, others_prob=0.25, max_others=2)
    # How often the pet is small on ground that has no pet of its own, in a clip too.
    data.augment.scene_prob = 0.2
    # What happens in a clip that is made from a picture, as `data.motion.Motion` has it. Eight
    # frames are the fewest from which memories of every age are read. Mostly the pet moves before
    # another picture, which has a pet of its own: then memory alone tells which one is meant.
    data.motion = ConfigDict(dict(frames=8, shift=0.25, rotation=15.0, zoom=0.25, camera=0.4))
    data.motion.update(bend=0.06, turn=0.6, light=0.2, cutout_prob=0.8, other_ground_prob=0.7)
    data.motion.update(occlude_prob=0.25, exit_prob=0.1)
    return data


def _prompts() -> ConfigDict:
    prompts = ConfigDict()
    # Correction clicks after the first prompt of a picture, and of a prompted frame of a clip.
    prompts.rounds = 7
    prompts.clip_rounds = 1
    # How often the last frame of a clip is prompted besides the first.
    prompts.second_prompt_prob = 0.5
    # How often such a frame is given as its mask, which is remembered in place of the answer: what
    # is remembered is then worth listening to from the first step.
    prompts.clip_mask_prob = 0.5
    # Most frames that are taken to lie between a clip's first and second: object pointers of
    # prompted frames are read however old they are.
    prompts.longest_gap = 500
    # Whether a tracked frame is shown the mask of the one before, beside its memories; predictors
    # obey it. SAM 2 has memories alone, which take long to learn.
    prompts.carried = True
    # What the first prompt is; the rest of the odds is no prompt at all, so that the model finds
    # the pet by itself. A click is in the middle with centre_prob; a box is off by up to box_jitter
    # of its side and box_jitter_px pixels.
    prompts.first = ConfigDict(dict(click_prob=0.3, box_prob=0.45, mask_prob=0.05, none_prob=0.2))
    prompts.first.update(centre_prob=0.5, box_jitter=0.1, box_jitter_px=20.0)
    # Corrections: in the middle of the larger error with centre_prob, anywhere in the pet, however
    # good the answer was, with truth_prob. With silent_prob there is no click, and the answer is
    # fed back alone.
    prompts.correction = ConfigDict(dict(centre_prob=0.5, truth_prob=0.1, silent_prob=0.15))
    # How often predictors do that before they answer a box or no prompt at all.
    prompts.refinements = 2
    # Whether prompts are also painted into the mask input; predictors obey it.
    prompts.painted = True
    # Logits inside and outside a box, and in a disc around a click, whose radius is a share of the
    # side.
    prompts.paint = ConfigDict(dict(inside=3.0, outside=-8.0, click=10.0, radius=0.045))
    # Whether masks are cut off where the model believes the object absent. SAM 2 does; a model that
    # starts from random weights then learns nothing of a mask that its score happens to deny.
    prompts.gated = False
    return prompts


def _loss() -> ConfigDict:
    loss = ConfigDict()
    # Focal loss drives a fresh model to empty masks first; "balanced" cross-entropy makes it call
    # pet whatever is likelier than a pet is large, so that a box is filled for a long time.
    loss.mask_kind = "cross_entropy"
    # Weights of the parts; SAM 2 has 20 for focal loss, whose values are much smaller.
    loss.mask_weight = 2.0
    loss.dice_weight = 1.0
    loss.iou_weight = 1.0
    loss.object_weight = 1.0
    # Of focal loss: weight of pet pixels, and how much easy pixels are discounted.
    loss.alpha = 0.25
    loss.gamma = 2.0
    # Error of the predicted IoU: "l1" or "mse", of "all" masks or the "best".
    loss.iou_kind = "l1"
    loss.iou_heads = "all"
    return loss


def _group(pattern: str, lr: float) -> ConfigDict:
    """A part of the model: names, learning rate, weight decay, warm-up, decay by depth."""
    return ConfigDict(dict(pattern=pattern, lr=lr, weight_decay=0.05, warmup="500 steps"))


def _optim() -> ConfigDict:
    optim = ConfigDict()
    # Parts of the model by name: the most specific pattern counts. A learning rate of 0 freezes.
    optim.groups = ConfigDict()
    optim.groups.image_encoder = _group("image_encoder.*", 6e-4)
    # Factor of the learning rate from each block of the trunk to the one before it.
    optim.groups.image_encoder.layer_decay = 1.0
    optim.groups.prompt_encoder = _group("prompt_encoder.*", 6e-4)
    optim.groups.mask_decoder = _group("mask_decoder.*", 6e-4)
    optim.groups.memory = _group("*", 6e-4)
    # Parameters that do not decay, by patterns: biases, norms, layer scales and learned vectors.
    optim.no_decay = NO_DECAY
    # "cosine" down to end_factor of the peak, or "constant".
    optim.schedule = "cosine"
    optim.end_factor = 0.01
    # Largest norm of a gradient, over all parameters together; 0 for any.
    optim.clip_norm = 1.0
    # Averages of AdamW.
    optim.b1 = 0.9
    optim.b2 = 0.98
    return optim


def _train() -> ConfigDict:
    train = ConfigDict()
    # Pictures in a batch, over all devices and hosts.
    train.batch_size = 8
    # Parts that a batch is worked through in, one after another, for less memory: their mean
    # gradient makes the step. Fewer where a device's share of the batch cannot be divided so. Two
    # need a gigabyte less and no more time on a CPU; a GPU with room for all takes one.
    train.microbatches = 2
    # Clips in a batch, and the share of batches that are clips.
    train.clip_batch_size = 2
    train.clip_share = 0.25
    # Length of the run: "40 epochs" or "20000 steps".
    train.duration = "40 epochs"
    # A checkpoint to take the first weights from, for example those that ship, to train on with
    # pictures of your own; "" for random ones.
    train.start_from = ""
    # Start of all random numbers of the run.
    train.seed = 0
    # The averaged weights, which are validated and shipped, keep this much at each step.
    train.ema_decay = 0.999
    # Steps of each kind, pictures and clips, between looks at the gradient of each loss part alone,
    # which the log then has as grad_norm_mask and so on; 0 for none. A look takes as long as four
    # steps: so often it is 0.4 % of a run.
    train.grad_parts_every = 1000
    # Steps between lines of the log, and between checkpoints.
    train.log_every = 20
    train.checkpoint_every = 500
    # Checkpoints kept besides the best.
    train.keep = 2
    return train


def _eval() -> ConfigDict:
    eval_ = ConfigDict()
    # Steps between validations, and at most so many pictures of the held-out part in each.
    eval_.every = 1000
    eval_.examples = 200
    eval_.batch_size = 8
    # Where the run trains on clips: how many, made of such pictures, are followed from the mask in
    # their first frame.
    eval_.clips = 16
    # Clicks after which the IoU is reported.
    eval_.clicks = (1, 2, 3, 5)
    # Sides of the simulated box are off by up to this share of the box.
    eval_.box_jitter = 0.05
    # The metric that tells which checkpoint is the best; iou_clip where clips matter most.
    eval_.best = "iou_mean"
    return eval_
