"""Configs are found by path and overridden by field; unknown fields and values are refused."""

import argparse
import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from petsam_jax.checkpoint import model_shapes
from petsam_jax.config import (
    ConfigError,
    differences,
    fields,
    from_json,
    load_config,
    parse_args,
    to_json,
)
from petsam_jax.train.param_rules import make_rules, to_steps

CONFIGS = Path(__file__).parents[1] / "configs"
FILE = '''
from ml_collections import ConfigDict


def get_config(variant="plain"):
    """A config with a field of each type."""
    config = ConfigDict()
    config.name, config.seed, config.none = variant, 3, None
    config.optim = ConfigDict({"rate": 0.1, "nesterov": False})
    config.model = ConfigDict({"d_model": 64, "stages": (1, 2), "widths": (1.5, 2.0)})
    return config.lock()
'''


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "made_up.py"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize(
    ("override", "name", "value"),
    [
        ("seed=7", "seed", 7),
        ("name=7", "name", "7"),
        ("name=a=b", "name", "a=b"),
        ("none=2.5", "none", 2.5),
        ("none=text", "none", "text"),
        ("optim.rate=1", "optim.rate", 1.0),
        ("optim.rate=3e-4", "optim.rate", 3e-4),
        ("optim.nesterov=True", "optim.nesterov", True),
        ("model.stages=3,4,5", "model.stages", (3, 4, 5)),
        ("model.stages=(3,4)", "model.stages", (3, 4)),
        ("model.stages=6", "model.stages", (6,)),
        ("model.widths=1,2.5", "model.widths", (1.0, 2.5)),
    ],
)
def test_an_override_takes_the_type_of_its_field(file, override, name, value):
    found = fields(load_config(file, [override]))[name]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.d_modle=1",
            "model.d_modle: no such field in .*did you mean --config.model.d_model",
        ),
        ("d_model=1", "did you mean --config.model.d_model"),
        ("optim.ratee=1", "did you mean --config.optim.rate"),
        ("zzzzzz=1", "no such field.*fields: model.d_model, .*seed"),
        ("model=1", "--config.model is a section; its fields: model.d_model, model.stages"),
        ("seed", "no value; write --config.seed=VALUE"),
        ("seed=1.5", "--config.seed=1.5: expected an int"),
        ("seed=true", "expected an int"),
        ("seed=True", "expected an int"),
        ("optim.rate=fast", "expected a float"),
        ("optim.nesterov=2", "expected true or false"),
        ("model.stages=1,x", "expected values like"),
        ("model.stages=1.5,2", "expected values like"),
    ],
)
def test_an_invalid_override_is_reported_with_advice(file, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(file, [override])


def test_a_variant_is_passed_on(file):
    assert load_config(f"{file}:seed").name == "seed"
    assert load_config(file).name == "plain"


def test_files_without_a_config_are_refused(tmp_path, file):
    with pytest.raises(
        ConfigError, match=r"made_upp\.py: no such file; did you mean .*made_up\.py"
    ):
        load_config(tmp_path / "made_upp.py")
    with pytest.raises(ConfigError, match="no such file; give the path"):
        load_config("nowhere/zzz.py")
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(ConfigError, match="not a Python file"):
        load_config(text)
    empty = tmp_path / "empty.py"
    empty.write_text("")
    with pytest.raises(ConfigError, match=r"no function get_config\(\)"):
        load_config(empty)
    single = tmp_path / "single.py"
    single.write_text("def get_config():\n    return {}\n")
    with pytest.raises(ConfigError, match="has no variants"):
        load_config(f"{single}:seed")
    with pytest.raises(ConfigError, match="must return a ConfigDict"):
        load_config(single)
    with pytest.raises(ConfigError, match="the only one is seed"):
        load_config(CONFIGS / "pets256.py:sead")


def test_a_config_is_locked(file):
    with pytest.raises(AttributeError):
        load_config(file).model.d_modle = 3


def test_json_keeps_everything(file):
    config = load_config(file, ["optim.rate=0.1"])
    again = from_json(to_json(config))
    assert isinstance(again, ConfigDict)
    assert fields(again) == fields(config)
    assert differences(config, again) == []
    with pytest.raises(AttributeError):
        again.model.d_modle = 3


def test_differences_are_listed_by_field(file):
    old, new = load_config(file), load_config(file, ["seed=4", "model.stages=3"])
    assert differences(old, new) == ["model.stages: (1, 2) -> (3,)", "seed: 3 -> 4"]
    del new.unlock().none
    assert "none: None -> not there" in differences(old, new)


def test_the_command_line_takes_overrides_beside_other_flags(file):
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir")
    args = parse_args(parser, [f"--config={file}:v", "--config.seed=9", "--workdir=w"])
    assert (args.config.seed, args.config.name, args.workdir) == (9, "v", "w")
    assert args.config_spec == f"{file}:v"


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--workdri=w", r"unknown argument --workdri=w; did you mean --workdir\?"),
        ("--config.sed=1", r"did you mean --config\.seed\?"),
        ("--conf.seed=1", "unknown argument"),
        ("stray", "unknown argument stray"),
    ],
)
def test_an_unknown_flag_ends_the_program_with_one_line(file, capsys, flag, message):
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir")
    with pytest.raises(SystemExit) as stop:
        parse_args(parser, [f"--config={file}", flag])
    assert stop.value.code == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("name", ["pets256", "pets256:seed", "pets256_small", "tiny"])
def test_the_configs_of_the_repository_load(name):
    path, _, variant = name.partition(":")
    config = load_config(f"{CONFIGS / path}.py" + (f":{variant}" if variant else ""))
    trunk = config.model.image_encoder.trunk
    assert (
        trunk.window_sizes
        == {
            "pets256": (8, 4, 16, 8),
            "pets256:seed": (8, 4, 14, 7),
            "pets256_small": (8, 4, 16, 8),
            "tiny": (8, 4, 8, 4),
        }[name]
    )
    assert fields(from_json(to_json(config))) == fields(config)


@pytest.mark.parametrize("name", ["pets256.py", "pets256_small.py", "pets256_small.py:128px"])
def test_gradient_norms_of_loss_parts_take_less_than_a_hundredth_of_a_run(name):
    train = load_config(CONFIGS / name).train
    image_steps = to_steps(train.duration, 3_680 / train.batch_size) * (1 - train.clip_share)
    # Each takes as long as four steps.
    assert 5 <= image_steps // train.grad_parts_every < image_steps / 400


def test_every_field_has_a_comment_above_it():
    """Above itself or above the lines that it stands with; in the model, above itself."""
    lines = (CONFIGS / "pets256.py").read_text().splitlines()
    lines = lines[lines.index("def _model() -> ConfigDict:") :]
    sections = set()
    for number, line in enumerate(lines):
        assigned = re.match(r"    (\w+)\.[\w.]+(\(| = (?!ConfigDict\(\)))", line)
        if not assigned or assigned[1] in ("config", "augment", "group"):
            continue
        sections.add(assigned[1])
        above = lines[number - 1].strip()
        if assigned[1] not in ("model", "trunk"):
            stands_with = (text.strip() for text in reversed(lines[:number]))
            above = next(text for text in stands_with if text[:1] in ("", "#") or "def " in text)
        assert above.startswith("#") or '{"trunk": trunk}' in line, line
    assert sections == {"model", "trunk", "data", "prompts", "loss", "optim", "train", "eval_"}


def test_the_seed_is_the_published_recipe():
    config = load_config("configs/pets256.py:seed")
    assert (config.train.batch_size, config.data.size) == (1, 256)
    assert config.train.duration == "40 epochs" and config.train.clip_share == 0
    assert {group.lr for group in config.optim.groups.values()} == {5e-6}
    assert config.optim.schedule == "constant" and config.prompts.rounds == 7
    loss = config.loss
    assert (loss.mask_kind, loss.alpha, loss.gamma) == ("focal", 0.25, 2.0)
    assert (loss.mask_weight, loss.dice_weight, loss.iou_weight, loss.object_weight) == (
        20,
        1,
        1,
        1,
    )
    # Nothing of what this project adds: pasted pets, painted prompts, answers that are fed back.
    augment = config.data.augment
    assert not any(augment[name] for name in ("paste_prob", "others_prob", "scene_prob"))
    assert not config.prompts.painted and config.prompts.refinements == 0
    assert config.prompts.gated and not config.prompts.carried


@pytest.mark.parametrize("variant", ["memory", "memory-128px"])
def test_with_memory_all_other_parts_are_trained_slowly(variant):
    config = load_config(f"configs/pets256_small.py:{variant}")
    names = list(model_shapes(config))
    optim = config.optim
    rules = make_rules(names, optim.groups.to_dict(), optim.no_decay)
    rates = {}
    for name, rule in rules.items():
        rates.setdefault(name.partition(".")[0], set()).add(rule.lr)
    for part, known in rates.items():
        slow = part in ("image_encoder", "prompt_encoder", "mask_decoder")
        assert (max(known) < max(rates["memory_attention"])) == slow, part
        assert max(known) > 0
    assert config.train.clip_share > 0.5 and config.eval.best == "iou_clip"


def test_variants_combine_and_unknown_ones_are_refused():
    small, both = (load_config(f"configs/pets256_small.py:{v}") for v in ("128px", "memory-128px"))
    assert small.data.size == both.data.size == 128
    assert small.model.to_dict() == both.model.to_dict()
    assert small.train.clip_share == 0 < both.train.clip_share
    for wrong in ("64px", "memory-64px"):
        with pytest.raises(ConfigError, match=f"no variant '{wrong}'; there are 128px, memory"):
            load_config(f"configs/pets256_small.py:{wrong}")
