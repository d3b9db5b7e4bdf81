"""`petsam`: its commands, and that help is printed without slow imports."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from petsam_jax import __version__
from petsam_jax.cli.export_config import main as export_config
from petsam_jax.cli.main import COMMANDS, Command, main
from petsam_jax.config import ConfigError, load_config, packaged_configs

ROOT = Path(__file__).parents[1]


def python(*argv, **options):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *map(str, argv)],
        capture_output=True,
        text=True,
        env=environment,
        **options,
    )


def test_help_imports_nothing_slow(tmp_path):
    slow = ["jax", "numpy", "scipy", "PIL", "flax", "tensorflow_datasets", "gradio"]
    for argv in (["--help"], ["--version"], ["segment", "--help"], ["demo", "--help"]):
        code = f"""
import contextlib, sys
from petsam_jax.cli.main import main
with contextlib.suppress(SystemExit):
    main({argv!r})
print("slow:", [name for name in {slow!r} if name in sys.modules])
"""
        result = python("-c", code, cwd=tmp_path)
        assert result.stdout.endswith("slow: []\n"), (argv, result.stdout[-200:], result.stderr)


def test_command_help_does_not_import_jax(tmp_path):
    slow = {"jax", "flax", "scipy", "orbax", "tensorflow_datasets", "gradio", "grain"}
    code = f"""
import contextlib, sys
from petsam_jax.cli.main import COMMANDS, main
for name in COMMANDS:
    with contextlib.suppress(SystemExit):
        main([name, "--help"])
    assert not {slow!r} & sys.modules.keys(), name
print(len(COMMANDS))
"""
    result = python("-c", code, cwd=tmp_path)
    assert result.stdout.endswith(f"\n{len(COMMANDS)}\n"), result.stderr


def test_runs_as_script_and_as_module(tmp_path):
    result = python("-m", "petsam_jax", "--version", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, f"petsam {__version__}\n")
    project = (ROOT / "pyproject.toml").read_text()
    assert 'petsam = "petsam_jax.cli.main:main"' in project


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"    {name} " in printed for name in COMMANDS)
    assert "petsam segment cat.jpg --point 320,200 --out masks" in printed


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_main(name):
    assert callable(importlib.import_module(COMMANDS[name].module).main)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["sgement"], "unknown command 'sgement'; did you mean segment?"),
        (["show"], "unknown command 'show'; did you mean preview?"),
        (["xyz"], "unknown command 'xyz'; petsam --help lists the commands"),
        ([], "usage: petsam COMMAND"),
    ],
)
def test_unknown_command_gets_a_suggestion(argv, words, capsys):
    assert main(argv) == 2
    printed = capsys.readouterr()
    assert words in printed.err and not printed.out


def test_flags_and_exit_code_are_passed_through(monkeypatch, tmp_path):
    (tmp_path / "made_up.py").write_text("def main(argv):\n    return len(argv)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(COMMANDS, "made-up", Command("made_up", "counts its flags"))
    assert main(["made-up", "--a", "b", "--help"]) == 3
    assert main(["made-up"]) == 0


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("petsam_jax.not_there", "petsam made-up: this version has no petsam_jax.not_there"),
        ("not_there.at_all", "petsam made-up: not_there is not installed; pip install not_there"),
    ],
)
def test_missing_module_is_reported(module, words, monkeypatch, capsys):
    monkeypatch.setitem(COMMANDS, "made-up", Command(module, "is not there"))
    assert main(["made-up"]) == 1
    assert capsys.readouterr().err == words + "\n"


# Built-in configs


@pytest.mark.parametrize("spec", ["tiny", "tiny.py", "configs/tiny.py"])
def test_configs_are_found_from_any_folder(spec, tmp_path, monkeypatch):
    expected = load_config(ROOT / "configs" / "tiny.py")
    monkeypatch.chdir(tmp_path)
    assert load_config(spec) == expected
    assert load_config("pets256:seed") == load_config("configs/pets256.py:seed")


def test_local_file_takes_precedence(tmp_path, monkeypatch):
    (tmp_path / "tiny.py").write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n"
        "    return ConfigDict({'mine': 1})\n"
    )
    monkeypatch.chdir(tmp_path)
    assert load_config("tiny.py").to_dict() == {"mine": 1}
    assert "model" in load_config("tiny")
    with pytest.raises(ConfigError, match="my_configs/tiny.py: no such file"):
        load_config("my_configs/tiny.py")
    with pytest.raises(ConfigError, match=f"or one of {', '.join(packaged_configs())}"):
        load_config("zebra")


@pytest.mark.parametrize("name", packaged_configs())
def test_copied_config_is_equal_and_self_contained(name, tmp_path, monkeypatch, capsys):
    out = tmp_path / "mine"
    assert export_config([name, "--out", str(out)]) == 0
    assert f"petsam train --config={out / name}.py" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    # A change of its base changes it.
    assert load_config(f"mine/{name}.py") == load_config(name)
    base = out / "pets256.py"
    base.write_text(base.read_text().replace("train.seed = 0", "train.seed = 7"))
    assert load_config(f"mine/{name}.py").train.seed == 7


def test_export_never_overwrites_a_file(tmp_path, capsys):
    (tmp_path / "pets256.py").write_text("mine")
    assert export_config(["tiny", "--out", str(tmp_path)]) == 1
    assert f"{tmp_path / 'pets256.py'} exists" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["pets256.py"]
    assert export_config(["zebra", "--out", str(tmp_path)]) == 1
    message = f"no config 'zebra'; there are {', '.join(packaged_configs())}\n"
    assert message in capsys.readouterr().err


def test_export_config_without_a_name_lists_all(capsys):
    assert export_config([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(packaged_configs())
    assert all(len(line.split()) > 4 for line in lines)
