"""Monitor: what it logs and prints of steps, and how it stops a run that diverges."""

import io
from types import SimpleNamespace

import numpy as np
import pytest

from petsam_jax.train import monitor
from petsam_jax.train.checkpoints import RunCheckpoints
from petsam_jax.train.device_batches import DeviceBatch
from petsam_jax.train.guards import TrainingDiverged
from petsam_jax.train.losses import Losses
from petsam_jax.train.metric_log import Progress, read_metrics
from petsam_jax.train.monitor import Monitor
from petsam_jax.train.step import CountedIous, Metrics


class Saved(RunCheckpoints):
    """Checkpoints at each tenth step, of which step 30 is the best."""

    best = "checkpoints/30"

    def __init__(self):
        pass

    def last_before(self, step):
        return f"checkpoints/{(step - 1) // 10 * 10}" if step > 10 else None


def metrics(loss=1.0, ious=(0.5, 0.5), share=(1.0, 1.0)):
    parts = Losses(*(np.float32(x) for x in (0.1, 0.2, 0.3, 0.4, loss)))
    total = np.where(share, np.multiply(ious, share), 0.0)
    return Metrics(parts, CountedIous(total, np.asarray(share)), np.float32(2.0))


def batch(kind="image"):
    """A batch of four, of which this process has two."""
    return DeviceBatch(np.zeros((4, 8, 8, 3), np.uint8), None, ("a", "b"), kind, {})


@pytest.fixture
def started(tmp_path):
    def start(log_every=10, step=0, total=1000):
        return Monitor(tmp_path, total, step, Saved(), log_every)

    return start


def test_an_iou_of_no_example_is_in_no_mean(started, tmp_path):
    with started(log_every=2) as run:
        for step, share in enumerate([(1.0, 0.0), (1.0, 0.25), (1.0, 0.0), (1.0, 0.0)], 1):
            run.add(step, batch("clip"), metrics(ious=(0.4, 0.8), share=share), {})
        run.flush()
    first, second = read_metrics(tmp_path)
    assert (first["clip/iou_first"], first["clip/iou_last"]) == pytest.approx((0.4, 0.8))
    assert second["clip/iou_first"] == pytest.approx(0.4) and "clip/iou_last" not in second


def test_steps_since_the_last_line_are_logged_at_the_end(started, tmp_path):
    with started() as run:
        for step in range(1, 13):
            run.add(step, batch(), metrics(loss=step), {})
        run.flush()
    lines = read_metrics(tmp_path)
    assert [(line["step"], line["image/loss"]) for line in lines] == [(10, 5.5), (12, 11.5)]


def test_the_steps_before_a_bad_one_are_logged(started, tmp_path):
    with pytest.raises(TrainingDiverged), started() as run:
        for step in range(1, 8):
            run.add(step, batch(), metrics(loss=np.nan if step == 7 else 1.0), {})
        run.flush()
    (line,) = read_metrics(tmp_path)
    assert line["step"] == 6 and line["image/loss"] == 1.0


def test_an_error_matters_more_than_one_of_writing_the_log(started):
    with pytest.raises(ZeroDivisionError), started() as run:
        run.add(1, batch(), metrics(), {})
        run.flush()
        run._log._lines.close()
        run._log._lines = open("/dev/full", "a", buffering=1)  # noqa: SIM115
        raise ZeroDivisionError


def test_an_error_begins_a_line_of_its_own(started, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    progress = Progress(1000, stream=screen)
    monkeypatch.setattr(monitor, "Progress", lambda *_, **__: progress)
    with pytest.raises(ZeroDivisionError), started() as run:
        run.add(1, batch(), metrics(), {})
        run.flush()
        raise ZeroDivisionError
    assert screen.getvalue().endswith("\n")


def test_the_progress_line_has_the_parts_of_the_loss(started, capsys):
    with started(total=1) as run:
        run.add(1, batch(), metrics(), {})
        run.flush()
    line = capsys.readouterr().err
    expected = dict(loss=1, iou_last=0.5, mask=0.1, dice=0.2, iou=0.3, object=0.4)
    assert "  ".join(f"image {name} {x}" for name, x in expected.items()) in line


def test_images_of_all_processes_are_counted(started, tmp_path, monkeypatch):
    clock = SimpleNamespace(monotonic=iter(range(100)).__next__)
    monkeypatch.setattr(monitor, "time", clock)
    with started(log_every=3) as run:
        for step in range(1, 4):
            run.add(step, batch(), metrics(), {})
        run.flush()
    assert read_metrics(tmp_path)[0]["images_per_second"] == 12.0


# Diverging runs


def test_a_checkpoint_from_before_the_losses_grew_is_named(started):
    """Image losses grow at step 401, every other step is of clips; found 100 steps later."""
    with pytest.raises(TrainingDiverged) as stopped, started() as run:
        for step in range(1, 1000):
            kind = "clip" if step % 2 else "image"
            run.add(step, batch(kind), metrics(loss=20.0 if step > 400 else 1.0), {})
    error = stopped.value
    assert 490 <= error.step < 510 and "the loss diverges" in str(error)
    # A window is 100 steps of one kind, which are 200 of all.
    since = error.step - 2 * 99
    assert error.checkpoint == Saved().last_before(since) == "checkpoints/300"
    assert "last good checkpoint is checkpoints/300, the best in validation checkpoints/30" in str(
        error
    )


def test_a_loss_that_is_not_finite_names_the_step_before(started):
    with pytest.raises(TrainingDiverged) as stopped, started(step=70) as run:
        for step in range(71, 100):
            run.add(step, batch(), metrics(loss=np.inf if step == 90 else 1.0), {})
    assert stopped.value.step == 90 and stopped.value.checkpoint == "checkpoints/80"
