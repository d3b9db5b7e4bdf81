"""Ablation rows: commands that train.py takes, the same in the documents, run once and resumed."""

import json
import shlex
from pathlib import Path

import pytest

from benchmarks import ablation
from petsam_jax.config import differences, load_config

ROOT = Path(__file__).parents[1]
SCORES = dict(iou_none=0.4, iou_box=0.6, iou_click1=0.5, iou_click3=0.6, iou_click5=0.7)


def config_of(name):
    flags = ablation.arguments(name, "tfds", Path("out"))
    overrides = [flag.removeprefix("--config.") for flag in flags if flag.startswith("--config.")]
    return load_config(ROOT / ablation.CONFIG, overrides)


def write_log(workdir, step, **scores):
    workdir.mkdir(parents=True)
    lines = [{"step": 20, "images_per_second": 18.0}]
    lines.append({"step": step} | {f"valid/{name}": value for name, value in scores.items()})
    # A killed run may leave a partial line.
    text = "\n".join(map(json.dumps, lines)) + '\n{"step": 60'
    (workdir / "metrics.jsonl").write_text(text)


@pytest.mark.parametrize("name", ablation.ROWS)
def test_a_row_changes_its_own_fields_and_no_others(name):
    changed = {line.partition(":")[0] for line in differences(config_of("base"), config_of(name))}
    assert changed == {field.partition("=")[0] for field in ablation.ROWS[name].fields}
    first = config_of(name).prompts.first
    odds = (first.click_prob, first.box_prob, first.mask_prob, first.none_prob)
    assert sum(odds) == pytest.approx(1.0)


def test_the_document_has_the_command_of_every_row():
    text = (ROOT / "docs" / "training.md").read_text()
    base = ablation.arguments("base", "tfds", Path("runs/ablation"))
    joined = " ".join(text.replace("\\\n", " ").split())
    assert shlex.join(["python", "train.py", *base]) in joined
    for name, row in ablation.ROWS.items():
        added = shlex.join(ablation.arguments(name, "tfds", Path("out"))[len(base) :])
        cell = f"`{added}`" if added else ""
        assert f"| {name}: {row.words} | {cell} |" in text


def test_finished_rows_are_not_run_again(tmp_path, monkeypatch, capsys):
    out, ran = tmp_path / "out", []
    write_log(out / "base", 600, **SCORES)
    # Stopped before its end.
    write_log(out / "one-pet", 200, **SCORES)

    def train(name, data, folder, steps, max_steps):
        ran.append((name, data, steps, max_steps))
        (folder / name / "metrics.jsonl").unlink()
        (folder / name).rmdir()
        write_log(folder / name, 600, **SCORES | {"iou_box": 0.55})
        return 0

    monkeypatch.setattr(ablation, "run", train)
    flags = ["base", "one-pet", "--data", "pets", "--out", str(out)]
    assert ablation.main(flags) == 0
    assert ran == [("one-pet", "pets", 600, None)]
    printed = capsys.readouterr().out
    assert "| base | the recipe | 0.400 | 0.600 | 0.500 | 0.600 | 0.700 | 18.0 |" in printed
    assert "| 0.400 (+0.000) | 0.550 (-0.050) | 0.500 (+0.000)" in printed
    assert ablation.main([*flags, "--table"]) == 0 and len(ran) == 1


@pytest.mark.parametrize(("code", "expected"), [(3, 3), (0, 130)])
def test_a_row_that_was_stopped_ends_the_others(code, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ablation, "run", lambda *args: code)
    assert ablation.main(["base", "clips", "--out", str(tmp_path)]) == expected
    assert "base" in capsys.readouterr().err


def test_an_unknown_row_is_reported(capsys):
    with pytest.raises(SystemExit) as stopped:
        ablation.main(["basis"])
    assert stopped.value.code == 2
    assert "unknown row 'basis'; expected one of base, another-seed" in capsys.readouterr().err
