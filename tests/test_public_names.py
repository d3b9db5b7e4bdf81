"""The names of `petsam_jax` itself: there at once, loaded when first used."""

import subprocess
import sys

import pytest

import petsam_jax


def in_fresh_python(code):
    """What a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_the_package_takes_no_time_and_loads_nothing_slow():
    code = """
import sys, time
start = time.perf_counter()
import petsam_jax
seconds = time.perf_counter() - start
assert "ImagePredictor" in dir(petsam_jax)
print(seconds, [name for name in ("jax", "numpy") if name in sys.modules])
"""
    runs = [in_fresh_python(code) for _ in range(3)]
    assert min(float(seconds) for seconds, _ in runs) < 0.1
    assert all(loaded == "[]" for _, loaded in runs)


def test_the_public_names_are_the_classes():
    from petsam_jax import ImagePredictor, Prompt, VideoPredictor
    from petsam_jax.predict import image_predictor, prompt_inputs, video_predictor

    assert ImagePredictor is image_predictor.ImagePredictor
    assert Prompt is prompt_inputs.Prompt
    assert VideoPredictor is video_predictor.VideoPredictor
    assert set(petsam_jax.__all__) == {"ImagePredictor", "Prompt", "VideoPredictor"}
    assert set(petsam_jax.__all__) | {"__version__"} <= set(dir(petsam_jax))
    with pytest.raises(AttributeError, match="module 'petsam_jax' has no attribute 'Predictor'"):
        _ = petsam_jax.Predictor
