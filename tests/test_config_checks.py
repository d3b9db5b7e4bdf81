"""Invalid or changed fields of a training config are all named before a run starts."""

from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from petsam_jax.config import ConfigError, fields, load_config
from petsam_jax.train.config_checks import LIMITS, check_config, check_limits, higher_is_better
from petsam_jax.train.guards import WorkdirError
from petsam_jax.train.loop import train_and_evaluate
from petsam_jax.train.plan import summarize

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


# Resumed runs


def finish_a_step(workdir):
    (workdir / "checkpoints" / "5").mkdir(parents=True)


def config(**changes):
    config = ConfigDict({"model": {"width": 8, "stages": (1, 2)}, "train": {"lr": 0.1, "log": 10}})
    config.update_from_flattened_dict(changes)
    return config.lock()


def test_same_config_passes(tmp_path):
    for _ in range(2):
        check_config(tmp_path, config())
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_nothing_is_refused_before_the_first_checkpoint(tmp_path):
    """A run that failed because of its config can be started again with a fixed one."""
    check_config(tmp_path, config())
    other = config(**{"train.lr": 0.2})
    check_config(tmp_path, other)
    finish_a_step(tmp_path)
    check_config(tmp_path, other)
    with pytest.raises(WorkdirError, match="train.lr: 0.2 -> 0.1"):
        check_config(tmp_path, config())


def test_other_config_is_refused_with_all_differences(tmp_path):
    check_config(tmp_path, config())
    finish_a_step(tmp_path)
    before = (tmp_path / "config.json").read_text()
    other = config(**{"model.stages": (1, 3), "train.lr": 0.2})
    with pytest.raises(WorkdirError) as error:
        check_config(tmp_path, other)
    lines = [line.strip() for line in str(error.value).splitlines()]
    assert lines[1:3] == ["model.stages: (1, 2) -> (1, 3)", "train.lr: 0.1 -> 0.2"]
    assert str(tmp_path) in lines[0] and "choose a new --workdir" in lines[3]
    assert (tmp_path / "config.json").read_text() == before


def test_some_fields_may_change(tmp_path):
    check_config(tmp_path, config())
    finish_a_step(tmp_path)
    check_config(tmp_path, config(**{"train.log": 20}), ["train.log"])
    with pytest.raises(WorkdirError, match="train.log: 20 -> 10"):
        check_config(tmp_path, config())
    with pytest.raises(WorkdirError, match="train.lr") as error:
        check_config(tmp_path, config(**{"train.lr": 1.0}), ["train.log*"])
    assert "train.log:" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_damaged_config_is_named(tmp_path, text):
    finish_a_step(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WorkdirError, match="config.json is damaged"):
        check_config(tmp_path, config())
