"""`train.py` as programs: killed and started again, on eight devices, as two processes."""

import os
import signal
import socket
import time

import numpy as np
import pytest
from test_train import flags, saved_arrays, train_py

from petsam_jax.checkpoint import load_weights
from petsam_jax.train.metric_log import read_metrics

pytestmark = pytest.mark.slow

# Pictures alone: one program to compile. Float sums differ by the number of devices, and random
# numbers by that of parts, of which a device with one image has only one.
LEAN = ("train.clip_share=0.0", "train.microbatches=1", "eval.every=100")
SECONDS = 400
FLAGS = os.environ["XLA_FLAGS"]


def start(directory, workdir, *overrides, devices=1, more=()):
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": directory,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{FLAGS} --xla_force_host_platform_device_count={devices}",
    }
    return train_py(*flags(*LEAN, *overrides), "--workdir", workdir, *more, env=environment)


def finish(run):
    _, err = run.communicate(timeout=SECONDS)
    assert run.returncode == 0, err
    return err


def wait_for(path, run):
    end = time.monotonic() + SECONDS
    while not path.exists():
        assert run.poll() is None and time.monotonic() < end, run.stderr.read()
        time.sleep(0.02)


def losses(workdir):
    """Of each step that was logged; validations are left out."""
    lines = read_metrics(workdir)
    return {line["step"]: line["image/loss"] for line in lines if "image/loss" in line}


@pytest.fixture(scope="module")
def straight(compiled, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("straight")
    finish(start(compiled, workdir))
    return workdir


def test_a_run_stopped_and_killed_equals_an_uninterrupted_one_bit_for_bit(
    straight, compiled, tmp_path
):
    run = start(compiled, tmp_path)
    wait_for(tmp_path / "checkpoints" / "2", run)
    run.send_signal(signal.SIGTERM)
    assert "SIGTERM: saved and stopped at step" in finish(run)
    run = start(compiled, tmp_path)
    wait_for(tmp_path / "checkpoints" / "4", run)
    run.kill()
    run.communicate(timeout=SECONDS)
    finish(start(compiled, tmp_path))
    expected, got = saved_arrays(straight, 6), saved_arrays(tmp_path, 6)
    assert [name for name in expected if not np.array_equal(expected[name], got[name])] == []
    assert losses(tmp_path) == losses(straight)


def test_eight_devices_have_the_losses_of_one_and_their_checkpoint_opens_on_one(
    straight,
    compiled,
    tmp_path,
):
    # Batches of validation, of four, are filled up to eight.
    four = ("--max-steps", "4", "--config.eval.every=4")
    finish(start(compiled, tmp_path, devices=8, more=four))
    scores = [line for line in read_metrics(tmp_path) if "valid/iou_mean" in line]
    assert [line["step"] for line in scores] == [4]
    one, eight = losses(straight), losses(tmp_path)
    assert list(eight) == [1, 2, 3, 4]
    np.testing.assert_allclose(list(eight.values()), list(one.values())[:4], rtol=2e-4)
    finish(start(compiled, tmp_path))
    assert list(losses(tmp_path)) == list(losses(straight))


def test_two_processes_train_one_model_and_leave_one_log(compiled, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    hosts = ("--coordinator", f"127.0.0.1:{port}", "--num-processes", "2", "--process-id")
    runs = [start(compiled, tmp_path, more=(*hosts, number)) for number in range(2)]
    first, second = (finish(run) for run in runs)
    assert "done: step 6 of 6" in first and "done:" not in second
    assert list(losses(tmp_path)) == [1, 2, 3, 4, 5, 6]
    assert np.isfinite(list(losses(tmp_path).values())).all()
    _, arrays = load_weights(tmp_path)
    assert all(np.isfinite(array).all() for array in arrays.values())


def test_half_of_the_flags_for_hosts_are_refused(tmp_path):
    run = train_py(*flags(), "--workdir", tmp_path / "w", "--process-id", 1)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 2 and "give all three or none" in err
