"""Official names become ours, all or none, and the program reports what is wrong."""

import re
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from petsam_jax.checkpoint import load_weights, model_shapes
from petsam_jax.cli.convert import main, read_arrays
from petsam_jax.config import load_config
from petsam_jax.models import sam2_weights
from petsam_jax.models.params import NamesError, shapes
from petsam_jax.models.sam2 import SAM2
from petsam_jax.models.sam2_weights import (
    DROPPED,
    OFFICIAL_TO_OURS,
    from_official,
    official_shapes,
    our_name,
)
from tests.golden import shipped, shipped_config, shipped_params

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture(scope="module")
def tiny_shapes():
    return shapes(nnx.eval_shape(lambda: SAM2(**shipped_config(), rngs=nnx.Rngs(0))))


@pytest.fixture
def config_file(tmp_path):
    """A config file with the shipped model's sizes."""
    path = tmp_path / "sizes.py"
    path.write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n"
        f"    return ConfigDict({{'model': {shipped_config()!r}}}).lock()\n"
    )
    return path


def test_every_array_of_the_model_comes_from_the_reference(tiny_shapes):
    ours = from_official(shipped("params"), tiny_shapes)
    assert {name: array.shape for name, array in ours.items()} == tiny_shapes
    assert all(array.dtype == np.float32 for array in ours.values())


def test_no_number_is_lost_or_used_twice():
    theirs, ours = shipped("params"), shipped_params()
    kept = [array for name, array in theirs.items() if name not in DROPPED]
    assert sum(map(np.size, kept)) == sum(map(np.size, ours.values()))
    names = [our_name(name) for name in theirs if name not in DROPPED]
    assert None not in names
    assert len({name for name, _ in names}) == len(names)
    np.testing.assert_array_equal(
        np.sort(np.concatenate([array.ravel() for array in kept])),
        np.sort(np.concatenate([array.ravel() for array in ours.values()])),
    )


TRUNK, NECK, DECODER = "image_encoder.trunk", "image_encoder.neck", "sam_mask_decoder"
FUSER = "memory_encoder.fuser"
# (ours, one of its indices, the reference's name, the index there)
PLACES = [
    (f"{TRUNK}.patch_embed.kernel", (1, 2, 0, 5), f"{TRUNK}.patch_embed.proj.weight", (5, 0, 1, 2)),
    (f"{TRUNK}.pos_embed", (1, 2, 3), f"{TRUNK}.pos_embed", (0, 3, 1, 2)),
    (f"{NECK}.convs.0.kernel", (3, 7), f"{NECK}.convs.3.conv.weight", (7, 3, 0, 0)),
    ("prompt_encoder.point_embed", (2, 9), "sam_prompt_encoder.point_embeddings.2.weight", (0, 9)),
    (
        "mask_decoder.upscale1.kernel",
        (9, 1, 0, 3),
        f"{DECODER}.output_upscaling.0.weight",
        (9, 3, 1, 0),
    ),
    (
        "mask_decoder.hypernetworks.kernel2",
        (3, 8, 1),
        f"{DECODER}.output_hypernetworks_mlps.3.layers.2.weight",
        (1, 8),
    ),
    (f"{FUSER}.1.dwconv.kernel", (1, 6, 4), f"{FUSER}.layers.1.dwconv.weight", (4, 0, 1, 6)),
    ("maskmem_tpos_enc", (6, 5), "maskmem_tpos_enc", (6, 0, 0, 5)),
]


@pytest.mark.parametrize(("ours", "index", "theirs", "their_index"), PLACES)
def test_single_numbers_land_where_they_should(ours, index, theirs, their_index):
    assert shipped_params()[ours][index] == shipped("params")[theirs][their_index]


def test_every_fault_is_listed_at_once(tiny_shapes):
    arrays = dict(shipped("params"))
    arrays["sam_mask_decoder.surprise"] = np.zeros(3)
    arrays["image_encoder.trunk.blocks.7.norm1.weight"] = np.zeros(128)
    arrays["no_mem_embed"] = np.zeros(32)
    arrays["memory_attention.norm.bias"] = np.zeros(31)
    del arrays["obj_ptr_tpos_proj.weight"]
    del arrays["sam_prompt_encoder.point_embeddings.1.weight"]
    del arrays["sam_mask_decoder.output_hypernetworks_mlps.3.layers.1.bias"]
    with pytest.raises(NamesError) as error:
        from_official(arrays, tiny_shapes)
    for fault in (
        "unknown: sam_mask_decoder.surprise (3,)",
        "unknown: image_encoder.trunk.blocks.7.norm1.weight (128,)",
        "misshapen: no_mem_embed (32,), the model has (1, 1, 32)",
        "misshapen: memory_attention.norm.bias (31,), the model has (32,)",
        "missing: obj_ptr_tpos_proj.weight (8, 32)",
        "missing: sam_prompt_encoder.point_embeddings.1.weight (1, 32)",
        "missing: sam_mask_decoder.output_hypernetworks_mlps.3.layers.1.bias (32,)",
    ):
        assert fault in str(error.value)


def refusal(arrays, shapes):
    """The lines of the error, without the title."""
    with pytest.raises(NamesError) as error:
        from_official(arrays, shapes)
    return [line.strip() for line in str(error.value).splitlines()[1:]]


def test_a_missing_name_is_spelled_as_in_the_reference(tiny_shapes):
    theirs = shipped("params")
    for name in theirs.keys() - DROPPED.keys():
        rest = {other: array for other, array in theirs.items() if other != name}
        assert refusal(rest, tiny_shapes) == [f"missing: {name} {theirs[name].shape}"]


def test_a_wrong_shape_is_reported_as_in_the_reference(tiny_shapes):
    theirs = shipped("params")
    for name, array in theirs.items():
        wrong = array[..., None]
        faults = refusal({**theirs, name: wrong}, tiny_shapes)
        assert faults == [f"misshapen: {name} {wrong.shape}, the model has {array.shape}"]


def test_a_second_spelling_of_a_name_is_unknown(tiny_shapes):
    for number in ("01", "\N{ARABIC-INDIC DIGIT ONE}"):
        name = f"sam_prompt_encoder.point_embeddings.{number}.weight"
        assert our_name(name) is None
        faults = refusal({**shipped("params"), name: np.zeros((1, 32))}, tiny_shapes)
        assert faults == [f"unknown: {name} (1, 32)"]


def test_two_arrays_for_one_of_ours_are_refused(monkeypatch):
    no_obj_ptr = next(rule for rule in OFFICIAL_TO_OURS if rule[1] == "no_obj_ptr")
    monkeypatch.setattr(
        sam2_weights, "OFFICIAL_TO_OURS", [*OFFICIAL_TO_OURS, (re.compile("x"), *no_obj_ptr[1:])]
    )
    with pytest.raises(NamesError, match="two arrays for no_obj_ptr"):
        from_official({"no_obj_ptr": np.zeros((1, 4)), "x": np.ones((1, 4))})


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1e39])
def test_numbers_that_are_not_finite_are_refused(tiny_shapes, number):
    wrong = ["no_obj_ptr", "sam_prompt_encoder.point_embeddings.1.weight", "no_mem_pos_enc"]
    arrays = dict(shipped("params"))
    for name in wrong:
        arrays[name] = arrays[name].astype(np.float64)
        arrays[name].flat[3] = number
    assert refusal(arrays, tiny_shapes) == [f"not finite in float32: {n}" for n in sorted(wrong)]


@pytest.mark.parametrize("kind", [np.int8, np.complex64, str, object])
def test_only_real_numbers_are_weights(tiny_shapes, kind):
    array = shipped("params")["no_obj_ptr"].astype(kind)
    faults = refusal({**shipped("params"), "no_obj_ptr": array}, tiny_shapes)
    assert faults == [f"not floating point: no_obj_ptr {array.dtype}"]


def test_a_model_that_the_reference_has_no_names_for_is_refused(tiny_shapes):
    more = {"image_encoder.neck.convs.4.bias": (2,), "extra": (2, 3), "number": ()}
    with pytest.raises(NamesError) as error:
        official_shapes({**tiny_shapes, **more})
    for name, shape in more.items():
        assert f"not in the reference: {name} {shape}" in str(error.value)


def test_an_array_that_is_dropped_may_be_absent(tiny_shapes):
    arrays = {name: array for name, array in shipped("params").items() if name not in DROPPED}
    assert from_official(arrays, tiny_shapes).keys() == tiny_shapes.keys()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_the_program_makes_a_checkpoint(tmp_path, config_file, capsys, suffix):
    source, out = tmp_path / f"weights.{suffix}", tmp_path / "out"
    save = save_file if suffix == "safetensors" else lambda arrays, path: np.savez(path, **arrays)
    save(dict(shipped("params")), source)
    main([str(source), f"--config={config_file}", str(out)])
    assert re.search(r"out: 337 arrays, 625,850 parameters", capsys.readouterr().out)
    config, params = load_weights(out)
    assert config.model.d_model == 32
    for name, array in shipped_params().items():
        np.testing.assert_array_equal(params[name], array)
    with pytest.raises(SystemExit):
        main([str(source), f"--config={config_file}", str(out)])
    assert "out exists; choose another name" in capsys.readouterr().err


def test_half_precision_arrays_become_float32(tmp_path):
    path = tmp_path / "half.safetensors"
    save_file({"no_obj_ptr": np.ones((1, 4), jnp.bfloat16)}, path)
    assert from_official(read_arrays(path))["no_obj_ptr"].dtype == np.float32


def test_a_pytorch_file_is_not_read_as_npz(tmp_path):
    """The layout of torch.save's zip files, which are uncompressed."""
    path = tmp_path / "sam2.1.pt"
    with zipfile.ZipFile(path, "w") as file:
        for member in ("data.pkl", ".format_version", "byteorder", "data/0", "version"):
            file.writestr(f"sam2.1/{member}", b"\x80\x02}q\x00.")
    with pytest.raises(ValueError, match=r"data\.pkl in it is not an array.*torch\.load\(FILE"):
        read_arrays(path)


def test_an_npz_of_anything_but_arrays_of_numbers_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, model=np.array({"no_obj_ptr": np.zeros((1, 4))}))
    with pytest.raises(ValueError, match="a.npz: model holds Python objects, not numbers"):
        read_arrays(path)
    np.savez(path, model=np.zeros(9))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("model", file.read("model.npy"))
    with pytest.raises(ValueError, match="two arrays named model"):
        read_arrays(path)
    np.savez(path, model=np.zeros(9))
    path.write_bytes(path.read_bytes().replace(bytes(72), bytes(71) + b"x"))
    with pytest.raises(ValueError, match="model .* is damaged .*CRC"):
        read_arrays(path)


def test_the_program_reports_what_is_wrong(tmp_path, config_file, capsys):
    source, text, out = tmp_path / "a.npz", tmp_path / "a.pt", tmp_path / "out"
    np.savez(source, **shipped("params"))
    text.write_text("no weights")

    def failure(*args):
        with pytest.raises(SystemExit) as stop:
            main([*map(str, args)])
        assert stop.value.code != 0
        return capsys.readouterr().err

    config = f"--config={config_file}"
    assert "b.npz: no such file" in failure(tmp_path / "b.npz", config, out)
    assert "a.pt is neither .npz nor .safetensors" in failure(text, config, out)
    assert "--config" in failure(source, out)
    assert "no such file" in failure(source, "--config=nowhere.py", out)
    wrong = failure(source, config, "--config.model.d_model=64", out)
    assert "misshapen: no_obj_ptr (1, 32), the model has (1, 64)" in wrong
    assert not out.exists()


# Parameters of the official sizes, counted in the official code; without `no_mem_pos_enc` (256).
PARTS = {
    "image_encoder.trunk": (68_675_712, 26_849_472),
    "image_encoder.neck": (431_104, 369_664),
    "prompt_encoder": (6_220, 6_220),
    "mask_decoder": (4_215_109, 4_215_109),
    "memory_attention": (5_922_304, 5_922_304),
    "memory_encoder": (1_384_608, 1_384_608),
    "": (215_121 - 256, 215_121 - 256),
}


HIERA_TINY = [
    f"model.image_encoder.trunk.{field}"
    for field in ("embed_dim=96", "num_heads=1", "stages=1,2,7,2", "pos_embed_size=7,7",
                  "global_att_blocks=5,7,9")
]  # fmt: skip


def count_parts(config):
    counts = dict.fromkeys(PARTS, 0)
    for name, shape in model_shapes(config).items():
        if name == "prompt_encoder.gaussian":
            continue
        # The decoder's 1x1 convolutions belong to the image encoder here, but not in the table.
        name = name.replace("image_encoder.conv_s", "mask_decoder.conv_s")
        counts[next(part for part in PARTS if name.startswith(part))] += int(np.prod(shape))
    return counts


@pytest.mark.parametrize(("column", "total"), [(0, 80_850_178), (1, 38_962_498)])
def test_official_sizes_have_the_official_numbers_of_parameters(column, total):
    overrides = [] if column == 0 else HIERA_TINY
    counts = count_parts(load_config(CONFIGS / "pets256.py", overrides))
    assert counts == {part: numbers[column] for part, numbers in PARTS.items()}
    assert sum(counts.values()) + 256 == total


def test_the_small_sizes_are_small():
    small = sum(count_parts(load_config(CONFIGS / "pets256_small.py")).values())
    tiny = sum(count_parts(load_config(CONFIGS / "tiny.py")).values())
    assert small <= 12e6
    assert tiny <= 2e6
