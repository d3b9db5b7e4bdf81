"""The preview sheet: its size, its prompts, and the command's flags."""

import numpy as np
import pytest
from PIL import Image

from petsam_jax.cli.preview import main
from petsam_jax.data.augment import Augmentation
from petsam_jax.data.motion import Motion
from petsam_jax.data.shapes import ShapesSource
from petsam_jax.files.contact_sheet import GREEN, RED
from petsam_jax.train import preview


def test_a_sheet_has_a_row_an_example_and_prompts_on_each():
    source = ShapesSource(6, size=64)
    size, n = 64, 3
    motion = Motion(frames=2)
    drawn = np.asarray(preview.draw_sheet(source, n, size, 0, Augmentation(), motion))
    assert drawn.shape == (n * (size + preview.CAPTION), 4 * size, 3)
    rows = drawn.reshape(n, size + preview.CAPTION, 4 * size, 3)[:, preview.CAPTION :]
    stills = {source[index].image.tobytes() for index in range(6)}
    for row in rows:
        # Without augmentation the first cell is the image itself, and all frames are equal.
        assert row[:, :size].tobytes() in stills
        np.testing.assert_array_equal(row[:, 2 * size : 3 * size], row[:, 3 * size :])
        # Text has soft edges, so yellow is taken in a wide sense.
        red, green, blue = np.moveaxis(row[:, size : 2 * size].astype(int), -1, 0)
        assert ((red > 180) & (green > 150) & (blue < 90)).sum() > 10
        clicks = row[:, size : 2 * size].reshape(-1, 3)
        assert any((clicks == colour).all(axis=1).any() for colour in (RED, GREEN))


def test_the_program_writes_an_image(tmp_path, capsys):
    out = tmp_path / "sheet.png"
    spec = "shapes:length=8,size=32"
    flags = ["--source", spec, "--split", "all", "--n", "2", "--size", "32", "--out", str(out)]
    assert main(flags) == 0
    assert Image.open(out).size == (6 * 32, 2 * (32 + preview.CAPTION))
    assert str(out) in capsys.readouterr().out


def test_a_missing_source_is_reported_in_one_line(tmp_path, capsys):
    assert main(["--source", "nowhere", "--out", str(tmp_path / "sheet.png")]) == 1
    printed = capsys.readouterr().err
    assert (
        printed.startswith("preview: source 'nowhere': no such folder") and printed.count("\n") == 1
    )


def test_a_number_of_examples_below_one_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--source", "shapes", "--n", "0", "--out", str(tmp_path / "sheet.png")])
    assert "--n 0: set it to at least 1" in capsys.readouterr().err
