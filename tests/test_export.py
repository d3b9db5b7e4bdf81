"""Weights that ship: half the length, the same model."""

import numpy as np
import pytest

from petsam_jax.checkpoint import build_model, load_weights, save_weights
from petsam_jax.cli import export
from petsam_jax.config import load_config
from petsam_jax.models.params import weights


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    config = load_config("configs/tiny.py")
    params = {name: np.asarray(array) for name, array in weights(build_model(config)).items()}
    folder = tmp_path_factory.mktemp("export") / "run"
    save_weights(folder, params, config)
    return folder, params


@pytest.mark.slow
def test_exported_weights_are_half_as_large_and_equal_to_eleven_bits(saved, tmp_path, capsys):
    folder, params = saved
    export.main([str(folder), str(tmp_path / "out")])
    config, arrays = load_weights(tmp_path / "out")
    assert config.train.start_from == ""
    for name, array in params.items():
        assert arrays[name].dtype == np.float32
        np.testing.assert_allclose(arrays[name], array, rtol=2**-11, atol=1e-7)

    def size(path):
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())

    assert size(tmp_path / "out" / "0" / "params") < 0.6 * size(folder / "0" / "params")
    count = sum(array.size for array in params.values())
    assert f"{count:,} parameters" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "public"),
    [
        ("/home/ann/data/oxford-iiit-pet", "oxford-iiit-pet"),
        ("../cats/", "cats"),
        ("~/cats", "cats"),
        ("tfds", "tfds"),
        ("tfds:/home/ann/tensorflow_datasets", "tfds"),
        ("shapes:length=8,size=64", "shapes:length=8,size=64"),
        ("/data/shapes", "shapes"),
    ],
)
def test_sources_are_named_without_paths(source, public):
    assert export.public_name(source) == public


def test_no_path_of_this_machine_is_exported(saved, tmp_path):
    config = load_config("configs/tiny.py", ["train.start_from=/home/ann/runs/first"])
    with config.unlocked():
        config.data.sources = ("/home/ann/data/oxford-iiit-pet", "/home/ann/data/feral cats")
        config.data.weights = (0.7, 0.3)
    out = tmp_path / "out"
    export.save_public(out, saved[1], config)
    public, _ = load_weights(out)
    assert public.data.sources == ("oxford-iiit-pet", "feral cats")
    assert public.data.weights == (0.7, 0.3) and public.train.start_from == ""
    # The run's own config is as it was.
    assert config.train.start_from and config.data.sources[0].startswith("/home")
    written = [path for path in out.rglob("*") if path.is_file()]
    assert len(written) > 5
    for path in written:
        content = path.read_bytes()
        assert b"/home/ann" not in content and str(tmp_path).encode() not in content, path


def test_a_weight_that_float16_cannot_hold_is_named():
    with pytest.raises(ValueError, match=r"too large for float16: b$"):
        export.halve({"a": np.ones(2, np.float32), "b": np.full(2, 1e6, np.float32)})


def test_a_missing_run_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        export.main([str(tmp_path / "nowhere"), str(tmp_path / "out")])
    assert stopped.value.code == 1
    assert "nowhere" in capsys.readouterr().err
