"""Whole runs of the smallest model: they learn, log, stop, resume and refuse."""

import gc
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec
from PIL import Image

from petsam_jax.checkpoint import build_model, load_weights
from petsam_jax.cli import train
from petsam_jax.config import ConfigError, load_config
from petsam_jax.data.shapes import ShapesSource
from petsam_jax.train.device_batches import count_of_kind, is_clip_step
from petsam_jax.train.guards import TrainingDiverged, WorkdirError
from petsam_jax.train.loop import train_and_evaluate
from petsam_jax.train.metric_log import read_metrics
from petsam_jax.train.plan import initial_state, make_batches, make_plan
from petsam_jax.train.step import trainable

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SPEC = ROOT / "configs" / "tiny.py"
GROUPS = ("image_encoder", "prompt_encoder", "mask_decoder", "memory")
# Even smaller, since compiling takes most of the time.
SMALL = (
    "data.sources=('shapes:length=100,size=64',)",
    "data.size=64",
    "data.num_threads=1",
    "data.motion.frames=2",
    "model.image_encoder.trunk.stages=(1,1,1,1)",
    "model.image_encoder.trunk.global_att_blocks=(2,)",
    "model.image_encoder.trunk.window_sizes=(4,4,4,2)",
    "model.image_encoder.trunk.drop_path_rate=0.1",
    "model.mask_decoder.depth=1",
    "model.memory_attention.dropout=0.1",
    "prompts.rounds=1",
    "prompts.clip_rounds=0",
    "train.batch_size=8",
    "train.clip_batch_size=2",
    "train.microbatches=2",
    "train.clip_share=0.34",
    "train.duration=6 steps",
    "train.log_every=1",
    "train.checkpoint_every=2",
    "eval.every=6",
    "eval.examples=6",
    "eval.batch_size=4",
    "eval.clicks=(1,2)",
    "eval.clips=2",
    *(f"optim.groups.{group}.warmup=2 steps" for group in GROUPS),
)
# At the third step on images, the fourth of all; there is no third step on clips.
PART_NORMS = ("train.grad_parts_every=3",)
EPOCH = tuple(f"optim.groups.{group}.warmup=1 epochs" for group in GROUPS)


def small(*overrides):
    return load_config(SPEC, [*SMALL, *overrides])


def flags(*overrides):
    return [f"--config={SPEC}", *(f"--config.{o}" for o in (*SMALL, *overrides))]


def train_py(*argv, **options):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *map(str, argv)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A workdir trained for six steps without a stop, and its last scores."""
    workdir = tmp_path_factory.mktemp("straight")
    return workdir, train_and_evaluate(small(*PART_NORMS), workdir)


def saved_arrays(workdir, step):
    import orbax.checkpoint as ocp

    found = {}
    for item in ("params", "ema", "optimizer"):
        with ocp.StandardCheckpointer() as reader:
            tree = reader.restore(Path(workdir) / "checkpoints" / str(step) / item)
        found |= {f"{item}/{name}": np.asarray(array) for name, array in tree.items()}
    return found


def test_a_run_leaves_scores_logs_a_sheet_and_weights(straight):
    workdir, scores = straight
    kinds = ["iou_none", "iou_box", "iou_click1", "iou_click2"]
    assert list(scores)[:6] == [*kinds, "iou_mean", "loss"] and scores["loss"] > 0
    parts = [scores[name] for name in kinds]
    assert scores["iou_mean"] == pytest.approx(np.mean(parts)) and 0 <= min(parts) <= 1
    lines = read_metrics(workdir)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 6]
    # A third of the steps are clips: the third and the sixth.
    assert ["clip/loss" in line for line in lines[:6]] == [False, False, True] * 2
    for name in ("loss", "mask", "dice", "iou", "object", "grad_norm", "iou_first", "iou_last"):
        assert np.isfinite(lines[0][f"image/{name}"]) and np.isfinite(lines[2][f"clip/{name}"])
    assert lines[-1]["valid/iou_mean"] == scores["iou_mean"]
    with Image.open(workdir / "sheets" / "0000006.png") as sheet:
        assert sheet.size == (6 * 64, 6 * (64 + 14))
    config, arrays = load_weights(workdir)
    assert config.to_dict() == small(*PART_NORMS).to_dict()
    assert all(np.isfinite(array).all() for array in arrays.values())


def test_gradient_norms_of_loss_parts_are_logged_when_configured(straight):
    lines = read_metrics(straight[0])
    expected = {f"image/grad_norm_{part}" for part in ("mask", "dice", "iou", "object")}
    found = [{name for name in line if "grad_norm_" in name} for line in lines]
    assert found == [set()] * 3 + [expected] + [set()] * 3
    assert all(0 < lines[3][name] < np.inf for name in expected)


def test_the_newest_and_the_best_checkpoints_are_kept(straight):
    steps = sorted(int(path.name) for path in (straight[0] / "checkpoints").iterdir())
    assert steps == [4, 6]


def test_a_run_killed_twice_equals_one_that_never_stopped(straight, tmp_path):
    train_and_evaluate(small(), tmp_path, max_steps=3)
    # SIGKILL while a checkpoint is being written leaves its folder under another name.
    (tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir()
    train_and_evaluate(small("train.log_every=2"), tmp_path, max_steps=5)
    scores = train_and_evaluate(small(), tmp_path)
    assert scores == straight[1]
    expected, got = saved_arrays(straight[0], 6), saved_arrays(tmp_path, 6)
    assert list(expected) == list(got) and len(expected) > 500
    assert [name for name in expected if not np.array_equal(expected[name], got[name])] == []


def test_a_finished_run_is_not_changed(straight):
    before = (straight[0] / "metrics.jsonl").read_bytes()
    assert train_and_evaluate(small(), straight[0]) == {}
    assert (straight[0] / "metrics.jsonl").read_bytes() == before


def test_a_workdir_of_another_config_is_refused(straight):
    with pytest.raises(WorkdirError, match="loss.dice_weight: 1.0 -> 2.0"):
        train_and_evaluate(small("loss.dice_weight=2"), straight[0])


def test_a_non_finite_loss_stops_with_step_and_images(tmp_path):
    with pytest.raises(TrainingDiverged, match="lower optim.groups") as stopped:
        train_and_evaluate(small(*(f"optim.groups.{g}.lr=1e30" for g in GROUPS)), tmp_path)
    assert stopped.value.step == 2 and len(stopped.value.names) == 8


def test_batches_must_divide_among_devices():
    spread = NamedSharding(AbstractMesh((2,), ("data",)), PartitionSpec("data"))
    with pytest.raises(ConfigError, match="train.batch_size=3 does not divide among 2 devices"):
        make_batches(small("train.batch_size=3"), ShapesSource(4), spread)
    with pytest.raises(ConfigError, match="train.clip_batch_size=1 does not divide among 2"):
        make_batches(small("train.clip_batch_size=1"), ShapesSource(4), spread)
    # Batches that do not occur are not checked.
    for share, odd in ((0.0, "clip_batch_size"), (1.0, "batch_size")):
        batches = make_batches(
            small(f"train.clip_share={share}", f"train.{odd}=3"), ShapesSource(4), spread
        )
        assert list(batches.states()) == ["image" if share == 0 else "clip"]
        batches.close()


def test_a_start_that_failed_by_its_config_can_be_fixed(tmp_path):
    wrong = small("optim.groups.memory.warmup=9 steps")
    with pytest.raises(ValueError, match="shorten it"):
        train_and_evaluate(wrong, tmp_path)
    assert (tmp_path / "config.json").exists()
    train_and_evaluate(small(), tmp_path, max_steps=1)
    assert load_weights(tmp_path)[0].optim.groups.memory.warmup == "2 steps"


def test_a_resumed_run_does_not_need_the_checkpoint_it_started_from(straight, tmp_path):
    start = tmp_path / "start"
    shutil.copytree(straight[0], start)
    config = small(f"train.start_from={start}", "train.checkpoint_every=1")
    train_and_evaluate(config, tmp_path / "run", max_steps=1)
    shutil.rmtree(start)
    train_and_evaluate(config, tmp_path / "run", max_steps=2)
    assert saved_arrays(tmp_path / "run", 2)
    with pytest.raises(FileNotFoundError, match="start: no such checkpoint"):
        train_and_evaluate(config, tmp_path / "another", max_steps=1)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 1.0])
def test_clip_steps_are_spread_evenly(share):
    clips = np.cumsum([is_clip_step(i, share) for i in range(200)])
    assert np.abs(clips - share * np.arange(1, 201)).max() <= 1
    seen = {True: 0, False: 0}
    for step in range(200):
        seen[is_clip_step(step, share)] += 1
        assert count_of_kind(step, share) == seen[is_clip_step(step, share)]


def test_the_initial_state_holds_each_array_once():
    """Weights, AdamW's two averages and their moving average; the model itself is gone."""
    gc.collect()
    before = {id(array) for array in jax.live_arrays()}
    _, state, template = initial_state(small(), examples=42)
    gc.collect()
    new = [array for array in jax.live_arrays() if id(array) not in before]
    kept = jax.tree.leaves((state, template.frozen))
    assert sum(array.nbytes for array in new) == sum(array.nbytes for array in kept)
    assert sum(array.nbytes for array in kept) > 4 * 4 * sum(x.size for x in state.ema.values())


def test_epochs_become_steps():
    parameters = trainable(nnx.eval_shape(lambda: build_model(small())))
    config = small("train.batch_size=4", "train.duration=3 epochs", *EPOCH)
    plan = make_plan(config, parameters, examples=42)
    # 10.5 batches of 4 an epoch.
    assert plan.steps == 32 and plan.rules[list(parameters)[-1]].warmup == 11


# The program


def test_missing_data_is_reported_in_seconds_with_advice(tmp_path):
    start = time.monotonic()
    spec = ROOT / "configs" / "pets256.py"
    nowhere = {"TFDS_DATA_DIR": str(tmp_path / "none"), "PYTHONPROFILEIMPORTTIME": "1"}
    environment = os.environ | nowhere
    run = train_py(f"--config={spec}", "--workdir", tmp_path / "w", env=environment)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 1 and time.monotonic() - start < 20
    for part in ("petsam prepare --download", "petsam prepare --src", "configs/tiny.py"):
        assert part in err
    assert "Traceback" not in err and not (tmp_path / "w").exists()
    # What takes seconds to import has not been imported.
    imported = {line.rpartition("|")[2].strip() for line in err.splitlines()}
    assert "petsam_jax.cli.train" in imported and "jax" not in imported


def test_summary_prints_a_table_and_ends(tmp_path):
    run = train_py(*flags("optim.groups.memory.lr=0"), "--summary", cwd=tmp_path)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
    assert rows["memory_encoder"][1] == "frozen" and rows["mask_decoder"][1] == "0.001"
    assert not list(tmp_path.iterdir())


def test_hosts_are_joined_by_flags_variables_and_launchers(monkeypatch, tmp_path):
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given: joined.append(given))
    argv = [*flags(), "--summary"]
    assert train.main(argv) == 0 and joined == []
    by_flags = ["--coordinator=a:1", "--num-processes=2", "--process-id=0"]
    assert train.main([*argv, *by_flags]) == 0 and joined.pop() == ("a:1", 2, 0)
    variables = {"COORDINATOR_ADDRESS": "b:1", "NUM_PROCESSES": "3", "PROCESS_ID": "2"}
    for name, value in variables.items():
        monkeypatch.setenv(f"JAX_{name}", value)
    assert train.main(argv) == 0 and joined.pop() == ("b:1", 3, 2)
    monkeypatch.delenv("JAX_PROCESS_ID")
    with pytest.raises(SystemExit):
        train.main(argv)
    for name in ("COORDINATOR_ADDRESS", "NUM_PROCESSES"):
        monkeypatch.delenv(f"JAX_{name}")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert train.main(argv) == 0 and joined == []
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert train.main(argv) == 0 and joined.pop() == ()


def test_hosts_that_are_not_found_are_reported_in_one_line(monkeypatch, capsys):
    def lost(*_):
        raise RuntimeError("no answer from b:1")

    monkeypatch.setattr(jax.distributed, "initialize", lost)
    by_flags = ["--coordinator=b:1", "--num-processes=2", "--process-id=1"]
    assert train.main([*flags(), "--summary", *by_flags]) == 1
    assert "other processes were not found: no answer from b:1" in capsys.readouterr().err


def test_an_unknown_field_suggests_the_nearest(tmp_path):
    run = train_py(f"--config={SPEC}", "--config.train.batchsize=4", cwd=tmp_path)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 2 and "did you mean --config.train.batch_size?" in err
