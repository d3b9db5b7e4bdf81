"""The size of the system that this project re-creates: SAM 2.1's base-plus trunk at 256 pixels.

    python train.py --config=configs/pets256.py

With `--config.model.dtype=bfloat16` an image takes 0.55 s on 2 cores of an AMD EPYC 9004
(benchmarks/train.py), so 40 epochs of 3,680 images take about a day there. It has never been
trained to the end, so the scores it reaches are unknown.

`configs/pets256.py:seed` is that system as published, including its attention windows; where
nothing was published it follows SAM 2's training. Only the initialization differs in part
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
        # Designed for 1024 pixels; at 256 they pad the maps of the last two stages: 49 GFLOP an
        # image instead of 33.5.
        config.model.image_encoder.trunk.window_sizes = (8, 4, 14, 7)
        _seed(config)
    return config.lock()


def _model() -> ConfigDict:
    """The keywords of `SAM2`: 80,849,922 parameters and a constant matrix of 256 numbers."""
    trunk = ConfigDict()
    # Channels after the patch embedding, doubled at each of the three later stages.
    trunk.embed_dim = 112
    # Attention heads of the first stage, doubled as the channels are.
    trunk.num_heads = 2
    # Blocks in each stage.
    trunk.stages = (2, 3, 16, 3)
    # Side of the attention windows of each stage, in tokens; these tile 256 pixels without padding.
    trunk.window_sizes = (8, 4, 16, 8)
    # Blocks, counted from 0, with global attention.
    trunk.global_att_blocks = (12, 16, 20)
    # Stochastic depth: the drop rate of the last block, to which it rises linearly from 0.
    trunk.drop_path_rate = 0.1
    # Width of the feed-forward layers, in channels of their block.
    trunk.mlp_ratio = 4.0
    # Height and width of the learned position embedding, which is resized to the image.
    trunk.pos_embed_size = (14, 14)

    model = ConfigDict()
    model.image_encoder = ConfigDict({"trunk": trunk})
    # Channels of the image embedding, of prompts, and of the decoder's tokens.
    model.d_model = 256

    model.prompt_encoder = ConfigDict()
    # Channels of the last hidden layer that embeds a mask prompt.
    model.prompt_encoder.mask_channels = 16
    # Factor by which the last weights of a mask prompt start larger than SAM 2's. Its map is added
    # to the image embedding, and would otherwise vary ten times less: a new model then takes
    # thousands of images to react to it (IoU from a box after 1,400 pets 0.31, with the gain 0.55).
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
    # Dropout rate of their activations.
    model.memory_attention.dropout = 0.1

    # Memories that a frame attends to: of prompted frames and of the most recent ones.
    model.num_memories = 7
    # Object pointers that a frame attends to.
    model.max_obj_ptrs = 16
    # Prompted frames among those memories.
    model.max_cond_frames = 4
    # Type to which inputs of matrix products are rounded: "float32" or "bfloat16".
    model.dtype = "float32"
    return model


def _seed(config: ConfigDict) -> None:
    """The published recipe: batch 1, AdamW at 5e-6, 40 epochs, focal + dice + IoU."""
    config.train.update(batch_size=1, microbatches=1, clip_share=0.0, duration="40 epochs")
    config.loss.update(mask_kind="focal", mask_weight=20.0)
    for group in config.optim.groups.values():
        group.update(lr=5e-6, weight_decay=0.1, warmup="0 steps")
    config.optim.update(schedule="constant", clip_norm=0.1, b2=0.999)
    # Learned vectors and the norms of convolutions decay too.
    config.optim.no_decay = REFERENCE_NO_DECAY
    config.model.prompt_encoder.mask_gain = 1.0
    # Whole images, augmented as in SAM 2's training.
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
    # Sources of images, as `petsam_jax.data.load` reads them; several are mixed.
    data.sources = ("tfds",)
    # Share of the images from each source.
    data.weights = (1.0,)
    # Side in pixels of the square that images are resized to.
    data.size = 256
    # Threads that read and augment.
    data.num_threads = 2
    # Augmentation of images, documented in `data.augment.Augmentation`. Share of the area that a
    # crop may leave out, and that it may add around the image.
    data.augment = ConfigDict(dict(crop=0.6, zoom_out=0.1))
    # Change of the aspect ratio, and the share of the pet that a crop must keep.
    data.augment.update(aspect=0.3, min_pet=0.5)
    # Probability of a horizontal flip, and the largest rotation in degrees.
    data.augment.update(flip_prob=0.5, rotation=10.0)
    # Strengths of colour changes, and the probability of a grayscale image.
    data.augment.update(
        brightness=0.25, contrast=0.25, saturation=0.3, hue=0.04, grayscale_prob=0.1
    )
    # Probability of a blur, and its largest standard deviation in pixels.
    data.augment.update(blur_prob=0.2, blur_sigma=1.2)
    # Probabilities that the pet is pasted into another image, and that other pets are pasted beside
    # it: then only the prompt tells which is meant, and the model learns to follow it.
    data.augment.update(paste_prob=0.25, others_prob=0.25, max_others=2)
    # Probability that the pet is small, in scenery without another pet; in clips too.
    data.augment.scene_prob = 0.2
    # Motion in a clip made from an image, documented in `data.motion.Motion`. Eight frames are the
    # fewest in which memories of every age are read. Mostly the pet moves in front of another image
    # with a pet of its own: then only memory tells which is meant.
    data.motion = ConfigDict(dict(frames=8, shift=0.25, rotation=15.0, zoom=0.25, camera=0.4))
    data.motion.update(bend=0.06, turn=0.6, light=0.2, cutout_prob=0.8, other_ground_prob=0.7)
    data.motion.update(occlude_prob=0.25, exit_prob=0.1)
    return data


def _prompts() -> ConfigDict:
    prompts = ConfigDict()
    # Correction clicks after the first prompt of an image, and of a prompted frame of a clip.
    prompts.rounds = 7
    prompts.clip_rounds = 1
    # Probability that the last frame of a clip is prompted as well as the first.
    prompts.second_prompt_prob = 0.5
    # Probability that a prompted frame gets its true mask, which is remembered in place of the
    # prediction: then memories are accurate from the first step.
    prompts.clip_mask_prob = 0.5
    # Largest number of frames assumed between a clip's first and second: object pointers of
    # prompted frames are read at any age.
    prompts.longest_gap = 500
    # Whether a tracked frame gets the mask of the one before as a prompt, beside its memories, in
    # predictors too. SAM 2 has memories only, which take long to learn.
    prompts.carried = True
    # Probabilities of first prompts; without one the model must find the pet. A click is in the
    # middle with centre_prob; a box is off by up to box_jitter of its side and box_jitter_px
    # pixels.
    prompts.first = ConfigDict(dict(click_prob=0.3, box_prob=0.45, mask_prob=0.05, none_prob=0.2))
    prompts.first.update(centre_prob=0.5, box_jitter=0.1, box_jitter_px=20.0)
    # Correction clicks: in the middle of the larger error with centre_prob, anywhere in the pet,
    # whatever the errors, with truth_prob. With silent_prob there is none, and the mask alone is
    # fed back.
    prompts.correction = ConfigDict(dict(centre_prob=0.5, truth_prob=0.1, silent_prob=0.15))
    # How often predictors feed the mask back before they return it, for a box or no prompt.
    prompts.refinements = 2
    # Whether prompts are also painted into the mask input, in predictors too.
    prompts.painted = True
    # Logits inside and outside a box, and in a disc around a click; its radius as a share of the
    # image's side.
    prompts.paint = ConfigDict(dict(inside=3.0, outside=-8.0, click=10.0, radius=0.045))
    # Whether masks are emptied if the model predicts that the object is absent. SAM 2 does; a model
    # with random weights then learns nothing from a mask that its score happens to reject.
    prompts.gated = False
    return prompts


def _loss() -> ConfigDict:
    loss = ConfigDict()
    # Focal loss drives a new model to empty masks at first; "balanced" cross-entropy makes it mark
    # all that is likelier pet than pets are large, so that boxes stay filled for a long time.
    loss.mask_kind = "cross_entropy"
    # Weights of the parts; SAM 2 has 20 for focal loss, which is much smaller.
    loss.mask_weight = 2.0
    loss.dice_weight = 1.0
    loss.iou_weight = 1.0
    loss.object_weight = 1.0
    # Focal loss: the weight of pet pixels, and the discount of easy pixels.
    loss.alpha = 0.25
    loss.gamma = 2.0
    # Error of the predicted IoU, "l1" or "mse", over "all" masks or the "best".
    loss.iou_kind = "l1"
    loss.iou_heads = "all"
    return loss


def _group(pattern: str, lr: float) -> ConfigDict:
    """A part of the model: its names, learning rate, weight decay and warm-up."""
    return ConfigDict(dict(pattern=pattern, lr=lr, weight_decay=0.05, warmup="500 steps"))


def _optim() -> ConfigDict:
    optim = ConfigDict()
    # Parts of the model by name; the most specific pattern applies. A learning rate of 0 freezes.
    optim.groups = ConfigDict()
    optim.groups.image_encoder = _group("image_encoder.*", 6e-4)
    # Factor of the learning rate from each block of the trunk to the one before it.
    optim.groups.image_encoder.layer_decay = 1.0
    optim.groups.prompt_encoder = _group("prompt_encoder.*", 6e-4)
    optim.groups.mask_decoder = _group("mask_decoder.*", 6e-4)
    optim.groups.memory = _group("*", 6e-4)
    # Parameters without weight decay: biases, norms, layer scales and learned vectors.
    optim.no_decay = NO_DECAY
    # "cosine" down to end_factor of the peak, or "constant".
    optim.schedule = "cosine"
    optim.end_factor = 0.01
    # Largest norm of the gradient over all parameters; 0 for no clipping.
    optim.clip_norm = 1.0
    # Decay rates of AdamW's averages.
    optim.b1 = 0.9
    optim.b2 = 0.98
    return optim


def _train() -> ConfigDict:
    train = ConfigDict()
    # Images in a batch, over all devices and hosts.
    train.batch_size = 8
    # Parts of a batch that are computed one after another to save memory; the step takes their mean
    # gradient. There are fewer if this does not divide a device's share of the batch. Two save a
    # gigabyte and cost no time on a CPU; with enough memory, use one on a GPU.
    train.microbatches = 2
    # Clips in a batch, and the share of batches that are clips.
    train.clip_batch_size = 2
    train.clip_share = 0.25
    # Length of the run: "40 epochs" or "20000 steps".
    train.duration = "40 epochs"
    # A checkpoint to start from, for example the shipped one, to fine-tune it on your own images;
    # "" for random weights.
    train.start_from = ""
    # Seed of all random numbers of the run.
    train.seed = 0
    # Decay of the average of the weights, which is what is validated and exported.
    train.ema_decay = 0.999
    # Steps of each kind, on images or clips, between logs of the gradient norm of each loss part
    # (grad_norm_mask and so on); 0 for none. Each takes as long as four steps, at this interval
    # 0.4 % of a run.
    train.grad_parts_every = 1000
    # Steps between lines of the log, and between checkpoints.
    train.log_every = 20
    train.checkpoint_every = 500
    # Newest checkpoints to keep, besides the best.
    train.keep = 2
    return train


def _eval() -> ConfigDict:
    eval_ = ConfigDict()
    # Steps between validations, and the most held-out images in each.
    eval_.every = 1000
    eval_.examples = 200
    eval_.batch_size = 8
    # Clips, made of held-out images, that are tracked from the mask of their first frame, if the
    # run trains on clips.
    eval_.clips = 16
    # Numbers of clicks after which the IoU is reported.
    eval_.clicks = (1, 2, 3, 5)
    # Sides of the simulated box are off by up to this share of the box.
    eval_.box_jitter = 0.05
    # The score that selects the best checkpoint; iou_clip if clips matter most.
    eval_.best = "iou_mean"
    return eval_
