"""Invalid numbers of a training config are all named before a run starts."""

from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from petsam_jax.config import ConfigError, fields, load_config
from petsam_jax.train.config_checks import LIMITS, check_limits
from petsam_jax.train.loop import train_and_evaluate
from petsam_jax.train.plan import summarize
from petsam_jax.train.validation import higher_is_better

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize(
    "spec",
    ["tiny.py", "pets256.py", "pets256.py:seed", "pets256_small.py", "pets256_small.py:memory"],
)
def test_packaged_configs_are_valid(spec):
    check_limits(load_config(CONFIGS / spec))


@pytest.mark.parametrize(
    "override",
    [
        "data.size=0",
        "data.size=100",
        "data.num_threads=-1",
        "prompts.rounds=16",
        "prompts.rounds=-1",
        "prompts.clip_rounds=16",
        "prompts.second_prompt_prob=1.1",
        "prompts.correction.silent_prob=-0.1",
        "loss.dice_weight=-1.0",
        "optim.groups.memory.lr=-1e-3",
        "optim.groups.image_encoder.layer_decay=1.5",
        "optim.clip_norm=-1.0",
        "optim.b2=2.0",
        "train.batch_size=0",
        "train.batch_size=-8",
        "train.clip_batch_size=0",
        "train.microbatches=0",
        "train.microbatches=-2",
        "train.clip_share=1.5",
        "train.clip_share=-0.5",
        "train.ema_decay=1.5",
        "train.log_every=0",
        "train.checkpoint_every=0",
        "train.grad_parts_every=-1",
        "train.keep=0",
        "eval.every=0",
        "eval.examples=0",
        "eval.batch_size=0",
        "eval.clips=-1",
        "eval.clicks=()",
        "eval.clicks=(0,)",
        "eval.best=iou_maen",
        "eval.best=loss",
    ],
)
def test_an_invalid_value_is_named(override, tmp_path):
    config = load_config(CONFIGS / "pets256_small.py", [override])
    name = override.partition("=")[0]
    with pytest.raises(ConfigError, match=f"(?m)^  {name}=.*: (set it to|list|this run)"):
        check_limits(config)
    for start in (summarize, lambda config: train_and_evaluate(config, tmp_path / "run")):
        with pytest.raises(ConfigError, match=name):
            start(config)
    assert not (tmp_path / "run").exists()


def test_all_faults_are_reported_at_once():
    config = load_config(CONFIGS / "tiny.py", ["train.keep=0", "eval.every=0", "data.size=33"])
    with pytest.raises(ConfigError) as caught:
        check_limits(config)
    assert str(caught.value).count("\n") == 3


def test_edges_are_allowed():
    edges = ["prompts.rounds=15", "train.clip_share=1.0", "eval.clicks=(1,)", "optim.clip_norm=0.0"]
    check_limits(load_config(CONFIGS / "tiny.py", [*edges, "eval.best=iou_clip", "data.size=32"]))


def test_iou_clip_is_best_only_with_clips():
    for without in ("train.clip_share=0.0", "eval.clips=0"):
        config = load_config(CONFIGS / "pets256.py", [without, "eval.best=iou_clip"])
        with pytest.raises(ConfigError, match="eval.best='iou_clip'"):
            check_limits(config)
    assert "iou_clip" in higher_is_better(load_config(CONFIGS / "pets256.py"))


def test_every_limit_matches_a_field():
    """A renamed field would otherwise go unchecked."""
    known = fields(load_config(CONFIGS / "pets256.py"))
    unused = [p for p in LIMITS if not any(fnmatchcase(name, p) for name in known)]
    assert not unused
