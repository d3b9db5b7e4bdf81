"""benchmarks/model.py: every step of a tiny model, with its gradient, and the table of them."""

import numpy as np
import pytest

from benchmarks import model as benchmark
from benchmarks import steps
from benchmarks.steps import WHAT, random_model, size_config
from tests.small_model import small_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiny():
    return random_model(small_config().model.to_dict())


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch):
    monkeypatch.setattr(steps, "PIXELS", 64)


def test_every_step_is_measured(tiny):
    found = benchmark.measure_all(tiny, WHAT, False, 0.0)
    assert set(found) == {step.name for step in steps.model_steps(tiny)}
    for name, measured in found.items():
        least, median, most = (getattr(measured.timing, x) for x in ("least", "median", "most"))
        assert 0 < least <= median <= most, name
        assert measured.times_forward is None, name
        assert measured.scratch_megabytes > 0 and measured.process_megabytes > 0, name


def test_backward_stands_beside_forward_as_its_multiple(tiny):
    found = benchmark.measure_all(tiny, ["click"], True, 0.0)
    both = "click" + benchmark.BACKWARD
    assert list(found) == ["click", both]
    ratio = found[both].timing.median / found["click"].timing.median
    assert found[both].times_forward == ratio
    lines = benchmark.table("pets256_small", {"float32": found}).splitlines()
    assert f"{ratio:.2f}x |" in lines[3] and "x |" not in lines[2]
    assert len({line.count("|") for line in lines}) == 1


def test_figures_are_of_steps_that_there_are(tiny):
    names = [step.name for step in steps.model_steps(tiny)]
    names += [name + benchmark.BACKWARD for name in names]
    for size, figures in benchmark.FIGURES.items():
        assert set(figures) <= set(names), size


def test_hiera_tiny_is_the_official_tiny_trunk_in_the_size_of_pets256():
    tiny, large = (size_config(size, ["train.batch_size=3"]) for size in ("hiera_tiny", "pets256"))
    trunk = tiny.model.image_encoder.trunk
    assert (trunk.embed_dim, trunk.num_heads) == (96, 1)
    np.testing.assert_array_equal(trunk.stages, (1, 2, 7, 2))
    assert tiny.model.mask_decoder == large.model.mask_decoder
    assert tiny.train.batch_size == large.train.batch_size == 3
