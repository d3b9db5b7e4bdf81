"""The loop of a run: when it saves, validates and prints, with a model that need not learn.

And runs of the smallest model with microbatches.
"""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from test_train import saved_arrays, small
from test_train_checkpoints import a_state

from petsam_jax.config import from_json, to_json
from petsam_jax.runtime import StopSignal
from petsam_jax.train.checkpoints import RunCheckpoints
from petsam_jax.train.device_batches import DeviceBatch, make_shardings
from petsam_jax.train.guards import WorkdirError, lock_workdir
from petsam_jax.train.loop import _Run, train_and_evaluate
from petsam_jax.train.losses import Losses
from petsam_jax.train.metric_log import read_metrics
from petsam_jax.train.step import CountedIous, Metrics
from petsam_jax.train.validation import Validation

pytestmark = pytest.mark.slow

ONE = Metrics(Losses(*map(np.float32, range(1, 6))), CountedIous(np.ones(2), np.ones(2)), 1.0)


class FakeValidation(Validation):
    def __init__(self, validate):
        self._validate = validate

    def __call__(self, weights):
        return self._validate(weights)


class Loop:
    """A run of eight steps, validated at each fourth, that only counts."""

    def __init__(self, workdir, *overrides, on_step=lambda step: None):
        self.config = small("train.duration=8 steps", "eval.every=4", *overrides)
        self.workdir, self.on_step = workdir, on_step
        self.stop, self.steps, self.validated = StopSignal(), [], []

    def take(self, step):
        return DeviceBatch(np.zeros((4, 8, 8, 3), np.uint8), None, ("a", "b"), "image", {})

    def _step(self, state, image, mask):
        step = int(state.step) + 1
        self.steps.append(step)
        self.on_step(step)
        return state._replace(step=jnp.int32(step)), ONE

    def validate(self, weights):
        """Scores rise with each validation."""
        self.validated.append(self.checkpoints.last.name)
        return {"iou_mean": 0.1 * len(self.validated)}, Image.new("RGB", (8, 8))

    def run(self, validate=None):
        replicated, _ = make_shardings()
        plan = SimpleNamespace(steps=8, optimizer=optax.sgd(1.0))
        batches = SimpleNamespace(take=self.take, devices=1)
        with RunCheckpoints(self.config, self.workdir) as self.checkpoints:
            state, template, _ = self.checkpoints.restore(*a_state(0), replicated)
            run = _Run(
                self.config,
                self.workdir,
                plan,
                template,
                batches,
                self.checkpoints,
                self.stop,
                replicated,
            )
            run.train_step = self._step
            return run.loop(state, FakeValidation(validate or self.validate), 8)

    def valid_lines(self):
        return [line["step"] for line in read_metrics(self.workdir) if "valid/iou_mean" in line]


@pytest.fixture
def workdir(tmp_path):
    """As `check_workdir` leaves it."""
    return tmp_path


def test_a_step_is_saved_before_it_is_validated(workdir, capsys):
    loop = Loop(workdir)
    assert loop.run() == {"iou_mean": 0.2}
    assert loop.validated == ["4", "8"] and loop.valid_lines() == [4, 8]
    assert loop.checkpoints.best.name == "8"
    assert "done: step 8 of 8" in capsys.readouterr().err


@pytest.mark.parametrize("at", [4, 8])
def test_a_failed_validation_loses_no_step_and_runs_at_the_next_start(at, workdir):
    def fail(weights):
        if loop.checkpoints.last.name == str(at):
            raise MemoryError("of the device")
        return loop.validate(weights)

    loop = Loop(workdir)
    with pytest.raises(MemoryError):
        loop.run(fail)
    assert loop.checkpoints.last.name == str(at) and loop.steps == list(range(1, at + 1))
    again = Loop(workdir)
    again.run()
    assert again.steps == list(range(at + 1, 9))
    assert again.validated == (["4", "8"] if at == 4 else ["8"])
    assert again.valid_lines() == [4, 8] and again.checkpoints.best.name == "8"
    third = Loop(workdir)
    assert third.run() == {} and not third.validated


def test_a_stop_skips_the_validation_which_runs_at_the_next_start(workdir, capsys):
    loop = Loop(workdir)
    loop.on_step = lambda step: step == 4 and loop.stop._handle(15, None)
    assert loop.run() == {} and loop.steps == [1, 2, 3, 4] and not loop.validated
    assert "SIGTERM: saved and stopped at step 4 of 8" in capsys.readouterr().err
    again = Loop(workdir)
    again.run()
    assert again.validated == ["4", "8"] and again.steps == [5, 6, 7, 8]
    assert again.valid_lines() == [4, 8]


def test_a_stop_during_the_validation_takes_effect_right_after_it(workdir, capsys):
    def validate(weights):
        loop.stop._handle(15, None)
        return loop.validate(weights)

    loop = Loop(workdir)
    assert loop.run(validate) == {"iou_mean": 0.1} and loop.steps == [1, 2, 3, 4]
    assert loop.checkpoints.best.name == "4" == loop.checkpoints.last.name
    assert "SIGTERM: saved and stopped at step 4 of 8" in capsys.readouterr().err


def test_after_a_stop_during_a_save_no_step_follows(workdir, monkeypatch):
    save = RunCheckpoints.save

    def slow(checkpoints, state, *args):
        save(checkpoints, state, *args)
        if int(state.step) == 2:
            loop.stop._handle(15, None)

    monkeypatch.setattr(RunCheckpoints, "save", slow)
    loop = Loop(workdir)
    loop.run()
    assert loop.steps == [1, 2]


def test_a_signal_to_another_host_is_in_the_final_message(workdir, capsys):
    loop = Loop(workdir)
    loop.stop = SimpleNamespace(requested="", agreed=lambda step: "SIGINT" if step == 3 else "")
    loop.run()
    printed = capsys.readouterr().err
    assert "SIGINT: saved and stopped at step 3 of 8" in printed and "done" not in printed


@pytest.mark.parametrize(
    ("overrides", "warnings"),
    [
        (("train.microbatches=2",), []),
        (("train.microbatches=3", "train.clip_share=0.0"), ["train.batch_size=8 on 1 devices"]),
        (("train.microbatches=4", "train.clip_share=1.0"), ["train.clip_batch_size=2 on 1 dev"]),
    ],
)
def test_fewer_microbatches_than_configured_are_reported(overrides, warnings, workdir, capsys):
    Loop(workdir, *overrides).run()
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("train.microbatches")]
    assert len(lines) == len(warnings) and all(map(str.__contains__, lines, warnings))


# Whole runs


def test_a_stopped_run_with_microbatches_equals_an_uninterrupted_one(tmp_path):
    """The third of its four steps is of clips."""
    # Ends before the last step, whose validation would have to be compiled.
    config = small("train.microbatches=2", "eval.every=100")
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    train_and_evaluate(config, straight, max_steps=4)
    train_and_evaluate(config, resumed, max_steps=2)
    train_and_evaluate(config, resumed, max_steps=4)
    expected, got = saved_arrays(straight, 4), saved_arrays(resumed, 4)
    assert list(expected) == list(got) and len(expected) > 500
    assert [name for name in expected if not np.array_equal(expected[name], got[name])] == []

    def logged(workdir):
        own = ("time", "images_per_second")
        return [{k: x for k, x in line.items() if k not in own} for line in read_metrics(workdir)]

    lines = logged(straight)
    assert [line["step"] for line in lines] == [1, 2, 3, 4] and lines == logged(resumed)
    assert ["clip/loss" in line for line in lines] == [False, False, True, False]


def test_a_second_start_on_a_live_run_is_refused(tmp_path):
    unfinished = tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp"
    unfinished.mkdir(parents=True)
    (tmp_path / "config.json").write_text(to_json(small("train.seed=5")))
    with lock_workdir(tmp_path), pytest.raises(WorkdirError, match="in use"):
        train_and_evaluate(small(), tmp_path)
    assert unfinished.exists()
    # There is no checkpoint yet, so any config would be accepted; the live run keeps its own.
    assert from_json((tmp_path / "config.json").read_text()).train.seed == 5
