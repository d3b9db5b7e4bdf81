"""--device for hardware that JAX does not find or cannot use: one line with what is missing."""

import argparse
import os
import subprocess
import sys

import jax
import pytest

from petsam_jax.cli import arguments

CUDA = "JAX has no CUDA here; pip install 'petsam-jax[cuda]'"


@pytest.mark.parametrize(
    "platforms, has_cuda, fault, expected",
    [
        # As JAX raises without its plugin: no words at all.
        ("cuda", False, AssertionError(), CUDA),
        ("gpu", False, RuntimeError("Unable to initialize backend 'gpu'"), CUDA),
        ("cuda,cpu", False, AssertionError(), CUDA),
        ("cuda", True, RuntimeError("no CUDA-capable device\nmore"), "JAX finds no NVIDIA GPU"),
        ("tpu", False, RuntimeError("libtpu.so: not found"), "JAX finds no TPU; pip install"),
        ("rocm", False, RuntimeError("Unknown backend rocm"), "(Unknown backend rocm)"),
    ],
)
@pytest.mark.parametrize("flag", [True, False])
def test_a_missing_device_is_one_line(monkeypatch, platforms, has_cuda, fault, expected, flag):
    def devices():
        raise fault

    monkeypatch.setattr(jax, "devices", devices)
    monkeypatch.setattr(arguments, "_has_cuda", lambda: has_cuda)
    old = jax.config.jax_platforms
    jax.config.update("jax_platforms", platforms)
    try:
        device = platforms if flag else None
        with pytest.raises(ValueError) as raised:
            arguments.check_device(argparse.Namespace(device=device))
    finally:
        jax.config.update("jax_platforms", old)
    line = str(raised.value)
    source = f"--device {platforms}: " if flag else f"JAX_PLATFORMS={platforms}: "
    assert line.startswith(source) and expected in line and "\n" not in line
    assert "more" not in line and ("omit --device" if flag else "unset it") in line


def test_a_device_that_is_there_is_used():
    arguments.check_device()


@pytest.mark.parametrize(
    "argv",
    [
        ["segment", "cat.png", "--out", "masks"],
        ["track", "clip.gif", "--out", "out.mp4"],
        ["demo", "--port", "0"],
        ["evaluate", "--data", "images", "--out", "report"],
        ["evaluate-video", "--data", "clips"],
    ],
    ids=lambda argv: argv[0],
)
def test_every_command_with_the_flag_reports_it(argv, monkeypatch, tmp_path, capsys):
    from PIL import Image

    from petsam_jax.cli.main import main

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (32, 32), "red").save("cat.png")
    Image.new("RGB", (32, 32), "red").save("clip.gif")
    # Undone after the test, as is what the command sets.
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")

    def missing(args):
        raise ValueError(f"--device {args.device}: it is not here")

    monkeypatch.setattr(arguments, "check_device", missing)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert main([*argv, "--device", "tpu"]) == 1
    assert os.environ["JAX_PLATFORMS"] == "tpu"
    assert capsys.readouterr().err == f"{argv[0]}: --device tpu: it is not here\n"


@pytest.mark.slow
def test_cuda_that_is_not_installed(tmp_path):
    if arguments._has_cuda():
        pytest.skip("CUDA is installed")
    command = ["-m", "petsam_jax", "demo", "--device", "gpu", "--port", "0"]
    found = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert found.returncode == 1 and "Traceback" not in found.stderr
    assert f"demo: --device gpu: {CUDA}" in found.stderr
