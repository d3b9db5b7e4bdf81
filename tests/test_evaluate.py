"""The command `evaluate`: a whole report from a checkpoint and a folder, reproducible."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from petsam_jax.checkpoint import model_shapes, save_weights
from petsam_jax.cli import evaluate
from petsam_jax.config import load_config
from tests.fabricated import GOOD

FILES = ["best.jpg", "clicks.png", "examples.csv", "metrics.json", "timings.json", "worst.jpg"]


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory):
    """The smallest model with random weights."""
    config = load_config("configs/tiny.py", ["data.size=64"])
    rng = np.random.default_rng(0)
    shapes = model_shapes(config)
    params = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    directory = tmp_path_factory.mktemp("ckpt") / "saved"
    save_weights(directory, params, config)
    return directory


@pytest.fixture(scope="module")
def reports(ckpt, official, tmp_path_factory):
    """Two reports of the same run."""
    outs = [tmp_path_factory.mktemp("report") / name for name in ("one", "two")]
    for out in outs:
        flags = ["--ckpt", str(ckpt), "--data", str(official), "--out", str(out)]
        assert evaluate.main(flags) == 0
    return outs


@pytest.mark.slow
def test_a_report_has_all_its_files(reports):
    assert sorted(path.name for path in reports[0].iterdir()) == FILES
    assert Image.open(reports[0] / "worst.jpg").size == (1200, 2 * 218)


def test_two_runs_write_the_same_bytes(reports):
    for name in sorted(set(FILES) - {"timings.json"}):
        assert (reports[0] / name).read_bytes() == (reports[1] / name).read_bytes(), name


def test_metrics_hold_every_figure(reports):
    figures = json.loads((reports[0] / "metrics.json").read_text())
    assert figures["n"] == len(GOOD["test"]) and figures["split"] == "test" and figures["step"] == 0
    headline = ["no_prompt_iou", "box_iou", "box_jitter_iou", "noc85", "noc90"]
    assert all(figures["intervals95"][name][0] <= figures[name] for name in headline)
    assert len(figures["click_iou"]) == len(figures["intervals95"]["click_iou"]) == 20
    assert {"convention", "failures90", "boundary_f", "iou_border_as_pet"} < figures.keys()
    assert {"everything", "mean_mask", "box", "ellipse"} <= figures["baselines"].keys()
    assert list(figures["breakdown"]["species"]) == ["cat", "dog"]
    assert len(figures["robustness"]) == 7 and figures["left_out"] == {}
    timings = json.loads((reports[0] / "timings.json").read_text())
    assert 0 < timings["seconds_per_click"]["least"] <= timings["seconds_per_click"]["median"]


def test_every_example_has_its_row(reports):
    with open(reports[0] / "examples.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == GOOD["test"]
    figures = json.loads((reports[0] / "metrics.json").read_text())
    mean = np.mean([float(row["iou/box"]) for row in rows])
    assert mean == pytest.approx(figures["box_iou"], abs=2e-6)


@pytest.mark.slow
def test_validation_split_with_a_limit(ckpt, official, tmp_path, capsys):
    flags = ["--ckpt", str(ckpt), "--data", str(official), "--out", str(tmp_path)]
    assert evaluate.main([*flags, "--split", "valid", "--limit", "1"]) == 0
    figures = json.loads((tmp_path / "metrics.json").read_text())
    assert figures["n"] == figures["limit"] == 1 and figures["split"] == "valid"
    assert "box_iou" in capsys.readouterr().out


@pytest.mark.slow
def test_own_folder_with_an_example_left_out(ckpt, tmp_path, monkeypatch, capsys, rng):
    for part in ("images", "masks"):
        (tmp_path / "cats" / part).mkdir(parents=True)
    for name in ("a", "b"):
        image = rng.integers(0, 256, (30, 40, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / "cats" / "images" / f"{name}.png")
        mask = np.zeros((30, 40), np.uint8)
        mask[5:20, 4:15], mask[10:28, 20:38] = 1, 2
        Image.fromarray(mask).save(tmp_path / "cats" / "masks" / f"{name}.png")
    flags = ["--ckpt", str(ckpt), "--data", str(tmp_path / "cats"), "--out", str(tmp_path / "out")]
    assert evaluate.main(flags) == 1
    assert "no test split" in capsys.readouterr().err
    whole = evaluate.load_source

    def without_a_pet(spec, split):
        source = whole(spec, split)
        return source if split == "train" else _Emptied(source)

    monkeypatch.setattr(evaluate, "load_source", without_a_pet)
    assert evaluate.main([*flags, "--split", "all"]) == 0
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (figures["n"], figures["images"]) == (3, 2)
    assert figures["left_out"] == {"a#2": "no pet pixel in the mask"}
    assert figures["breakdown"]["species"] == {}


class _Emptied:
    """A source whose second example has no pet."""

    def __init__(self, source):
        self._source, self.names, self.groups = source, source.names, source.groups

    def __len__(self):
        return len(self._source)

    def __getitem__(self, index):
        example = self._source[index]
        if index == 1:
            example.mask[:] = 0
        return example


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "shapes", "--ckpt", "nowhere"], "nowhere: no such checkpoint directory"),
        (["--data", "nowhere", "--ckpt", "CKPT"], "no such folder"),
        (["--data", "shapes", "--ckpt", "CKPT", "--step", "7"], "no step 7"),
    ],
)
def test_missing_checkpoint_or_data_is_one_line(flags, message, ckpt, tmp_path, capsys):
    flags = [str(ckpt) if flag == "CKPT" else flag for flag in flags]
    assert evaluate.main([*flags, "--out", str(tmp_path / "out")]) == 1
    stderr = capsys.readouterr().err
    assert message in stderr and stderr.startswith("evaluate: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [["--limit", "0"], ["--step", "3"], ["--split", "half"], []])
def test_wrong_flags_are_refused(wrong, tmp_path, capsys):
    needed = ["--data", "shapes", "--out", str(tmp_path)] if wrong else ["--out", str(tmp_path)]
    with pytest.raises(SystemExit) as stopped:
        evaluate.main([*needed, *wrong])
    assert stopped.value.code == 2
    assert (wrong or ["--data"])[0] in capsys.readouterr().err
