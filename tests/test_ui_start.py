"""Starting the demo: its flags, what it prints about the weights, and one start with a model."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import httpx
import pytest

from petsam_jax.checkpoint import build_model, save_weights
from petsam_jax.cli import demo
from petsam_jax.config import load_config
from petsam_jax.models.params import weights
from petsam_jax.ui.limits import Limits
from petsam_jax.ui.model_info import measured_quality
from tests.red_predictor import red_image


def test_a_missing_checkpoint_says_how_to_get_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo.tempfile, "mkdtemp", lambda prefix: str(tmp_path / "cache"))
    monkeypatch.setattr(demo.signal, "signal", lambda *_: None)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    assert demo.main(["--ckpt", str(tmp_path / "none")]) == 1
    error = capsys.readouterr().err
    assert f"{tmp_path / 'none'}: no such checkpoint directory" in error
    assert "omit --ckpt to use the shipped weights" in error and "petsam train" in error


MEGAS = {
    "--max-upload": "max_upload",
    "--max-pixels": "max_pixels",
    "--cache": "cache_bytes",
    "--max-clip-upload": "max_clip_upload",
    "--max-clip-pixels": "max_clip_pixels",
    "--clip-cache": "clip_bytes",
}
NUMBERS = {
    "--max-clip-frames": "max_clip_frames",
    "--max-clips": "clips",
    "--max-tracking": "trackings",
    "--max-waiting": "waiting",
}


@pytest.mark.parametrize("flag", MEGAS | NUMBERS)
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "many"])
def test_limits_are_above_zero(flag, value, capsys):
    with pytest.raises(SystemExit):
        demo.parse_args([f"{flag}={value}"])
    assert f"{flag}: {value!r}: expected a" in capsys.readouterr().err


def test_each_flag_sets_its_limit_and_no_other(capsys):
    defaults = Limits()
    assert demo.limits_of(demo.parse_args([])) == defaults
    for flag, name in MEGAS.items():
        expected = dataclasses.replace(defaults, **{name: 1_500_000})
        assert demo.limits_of(demo.parse_args([flag, "1.5"])) == expected
    for flag, name in NUMBERS.items():
        expected = dataclasses.replace(defaults, **{name: 7})
        assert demo.limits_of(demo.parse_args([flag, "7"])) == expected
    with pytest.raises(SystemExit):
        demo.parse_args(["--help"])
    help_text = capsys.readouterr().out
    assert all(flag in help_text for flag in MEGAS | NUMBERS)
    assert "frames per video; default 3000" in help_text


def test_only_this_machine_can_connect_by_default():
    assert demo.parse_args([]).host == "127.0.0.1"


def test_quality_comes_from_a_report_or_from_the_training(tmp_path):
    step = tmp_path / "run" / "checkpoints" / "200"
    step.mkdir(parents=True)
    assert measured_quality(step) == ""
    names = ("none", "box", "click1", "click3")
    lines = [
        {"step": at, **{f"valid/iou_{name}": at / 1000 for name in names}} for at in (100, 200, 300)
    ]
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 300, "valid/io')
    assert measured_quality(step) == (
        "IoU 0.20 with no prompt, 0.20 with a box, 0.20 with 1 click, 0.20 with 3 clicks on "
        "validation images, step 200 of its training"
    )
    shipped = tmp_path / "shipped" / "0"
    shipped.mkdir(parents=True)
    report = {"n": 1234, "no_prompt_iou": 0.5, "box_iou": 0.75, "click_iou": [0.6, 0.7, 0.8] * 3}
    (tmp_path / "shipped" / "metrics.json").write_text(json.dumps(report))
    assert measured_quality(shipped) == (
        "IoU 0.50 with no prompt, 0.75 with a box, 0.60 with 1 click, 0.80 with 3 clicks, 0.70 "
        "with 5 clicks on 1,234 pets that it never saw"
    )
    (tmp_path / "shipped" / "metrics.json").write_text("{}")
    assert measured_quality(shipped) == ""


@pytest.mark.slow
def test_a_process_serves_a_checkpoint_and_ends_at_a_signal(tmp_path):
    config = load_config("configs/tiny.py")
    save_weights(tmp_path / "tiny", weights(build_model(config)), config)
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "demo.py", "--ckpt", str(tmp_path / "tiny"), "--port", "0"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        printed = {}
        for line in process.stdout:
            name, _, value = line.partition(":")
            printed[name] = value.strip()
            if name == "page":
                break
        assert printed["checkpoint"] == str(tmp_path / "tiny" / "0"), process.stderr.read()
        assert "M parameters" in printed["size"] and "MB on disk" in printed["size"]
        assert printed["quality"].startswith("not measured")
        web = httpx.Client(base_url=printed["page"].split()[0], timeout=60)
        opened = web.post("/petsam/image/open", content=red_image(90, 50, (10, 10, 40, 30))).json()
        state = {"image": opened["image"], "objects": [{"box": [5, 5, 60, 40]}]}
        masks = web.post("/petsam/image/segment", json=state).json()
        assert (masks["height"], masks["width"]) == (50, 90)
        assert list(tmp_path.glob("petsam-*"))
        web.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert "Traceback" not in process.stderr.read()
    # Uploads are deleted too.
    assert not list(tmp_path.glob("petsam-*"))
