"""The documents: every command and every Python example in them works.

Commands come from the fenced `sh` blocks. `RUNNERS` says how each is tested: in this process, on
small images and random weights; commands that take hours, downloads or a GPU only up to their flags
and config. A command that no pattern matches is a failure.
"""

import argparse
import importlib
import inspect
import json
import os
import re
import runpy
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petsam_jax.checkpoint import model_shapes, model_with_weights, save_weights
from petsam_jax.cli.main import main
from petsam_jax.config import load_config
from petsam_jax.data.load import load_train_and_valid
from petsam_jax.predict.image_predictor import ImagePredictor
from petsam_jax.train import plan
from tests.documents import DOCUMENTS, ROOT, blocks

SHELL = ("sh", "bash", "shell", "console", "")
SIZE = 64


def commands(path: Path) -> list[str]:
    """One per line, without comments and continuations; `a && b` are two."""
    lines = "\n".join(blocks(path, *SHELL)).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    parts = [shlex.join(part) for line in words for part in _split_at_and(line)]
    return list(dict.fromkeys(filter(None, parts)))


def _split_at_and(words: list[str]) -> list[list[str]]:
    parts = [[]]
    for word in words:
        if word == "&&":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


COMMANDS = list(dict.fromkeys(command for path in DOCUMENTS for command in commands(path)))


# What the commands run on


@pytest.fixture(scope="module")
def tiny_weights():
    """Config and arrays of the smallest model."""
    config = load_config("tiny", [f"data.size={SIZE}"])
    rng = np.random.default_rng(0)
    shapes = model_shapes(config)
    return config, {name: rng.normal(0, 0.1, shape).astype("f4") for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def predictor(tiny_weights):
    config, arrays = tiny_weights
    return ImagePredictor(config, model_with_weights(config, arrays))


@pytest.fixture(scope="module")
def run_folder(tiny_weights, tmp_path_factory):
    """A checkpoint for commands that open a run."""
    folder = tmp_path_factory.mktemp("run") / "pets"
    config, arrays = tiny_weights
    save_weights(folder, arrays, config)
    return folder


def write_image(path: Path, rng) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Large enough for the README's points and boxes.
    Image.fromarray(rng.integers(0, 256, (480, 640, 3), np.uint8)).save(path)


@pytest.fixture
def workspace(tmp_path, monkeypatch, predictor, run_folder, rng):
    """A working folder with the files that the commands name, and small weights for all of them."""
    for name in ("cat.jpg", "photos/a.jpg", "photos/b.jpg"):
        write_image(tmp_path / name, rng)
    mask = np.zeros((40, 50), np.uint8)
    mask[10:30, 10:40] = 255
    for number in range(12):
        for part, pixels in (("images", rng.integers(0, 256, (40, 50, 3))), ("masks", mask)):
            path = tmp_path / "DIR_OF_IMAGES" / part / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    for part in ("petsam_jax", "configs", "docs", "train.py", "demo.py", "benchmarks"):
        (tmp_path / part).symlink_to(ROOT / part)
    (tmp_path / "runs").mkdir()
    for name in ("pets", "small", "mine"):
        (tmp_path / "runs" / name).symlink_to(run_folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ImagePredictor, "from_checkpoint", lambda *_, **__: predictor)
    return tmp_path


# How commands run: each function gets the words after the program, and pytest's request


class _Parsed(Exception):
    """Ends a program once its flags are parsed."""


def parse_flags(module: str, argv: list[str], monkeypatch) -> argparse.Namespace:
    """The parsed flags of a program, which stops there."""
    parse, seen = argparse.ArgumentParser.parse_args, []

    def parse_only(parser, given=None, namespace=None):
        seen.append(parse(parser, argv if given is None else given, namespace))
        raise _Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    program = importlib.import_module(module)
    # Some benchmarks parse before `main`.
    start = getattr(program, "parse", program.main)
    monkeypatch.setattr("sys.argv", [module, *argv])
    with pytest.raises(_Parsed):
        start(argv) if inspect.signature(start).parameters else start()
    return seen[0]


def installs(argv, request):
    """The extra exists in pyproject.toml; `.ci/run` installs it."""
    extras = re.fullmatch(r"\.(?:\[(\w+)\])?", argv[-1])
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert extras and argv[:-1] == ["install", "-e"]
    assert extras[1] is None or extras[1] in known["optional-dependencies"]


def calls_the_page(argv, request):
    """The URL and the arguments exist; `test_ui_web` makes the call."""
    from petsam_jax.ui.api import segment_function
    from petsam_jax.ui.image_service import ImageService

    url = next(word for word in argv if word.startswith("http://"))
    assert re.fullmatch(r"http://[\d.:]+/gradio_api/call/(v2/segment|segment/EVENT_ID)", url)
    if "-d" in argv:
        body = json.loads(argv[argv.index("-d") + 1])
        assert set(body) <= set(
            inspect.signature(segment_function(object.__new__(ImageService))).parameters
        )


SUITE = 'pip install -e ".[test]" && pytest'


def in_ci(argv, request):
    """`.ci/run` runs it; the tests and the marker that it selects exist."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    markers = project["tool"]["pytest"]["ini_options"].get("markers", ())
    if words := [word for word in argv if word.startswith("not ")]:
        assert any(marker.startswith(words[0].removeprefix("not ")) for marker in markers)
    assert all((ROOT / word).exists() for word in argv if word.startswith("tests/"))
    text = (ROOT / ".ci" / "run").read_text()
    command = request.node.callspec.params["command"]
    assert (SUITE if command.startswith("pytest") else command) in text
    assert SUITE in (ROOT / "README.md").read_text()


def trains(argv, request):
    """Everything up to the first step: the config, its overrides, the optimiser's rules."""
    monkeypatch = request.getfixturevalue("monkeypatch")
    hosts, described = [], []
    from petsam_jax.cli import train

    monkeypatch.setattr(train, "join_hosts", lambda *given: hosts.append(given))
    monkeypatch.setattr(plan, "summarize", lambda config: described.append(config) or "")
    argv = [word for word in argv if word != "--summary"]
    assert train.main([*argv, "--summary"]) == 0
    (config,) = described
    assert ("--num-processes=2" in argv) == (None not in hosts[0])
    if "runs/large" in " ".join(argv):
        # For machines with eight GPUs.
        sizes = config.train.batch_size, config.train.clip_batch_size
        assert all(size % 8 == 0 for size in sizes)
    if config.data.sources == ("DIR_OF_IMAGES",):
        assert sum(map(len, load_train_and_valid(config.data))) == 12
    if config.train.start_from.startswith("petsam_jax"):
        # Raises ConfigError if the weights that ship are those of another architecture.
        plan.initial_model(config)


def prints_summary(argv, request):
    """`--summary` itself."""
    assert main(["train", *argv]) == 0
    assert "image_encoder" in request.getfixturevalue("capsys").readouterr().out


def segments(argv, request):
    workspace = request.getfixturevalue("workspace")
    assert main(["segment", *argv]) == 0
    masks = workspace / "masks"
    assert list(masks.rglob("*_*.*")) or list(masks.glob("coco.json"))


def runs(name):
    """Run the command itself."""

    def run(argv, request):
        assert not main([name, *argv])

    return run


def parses(module):
    """Only parse the flags: the command takes hours, a clip, or a server."""

    def parse(argv, request):
        flags = parse_flags(module, argv, request.getfixturevalue("monkeypatch"))
        given = [word for word in argv if not word.startswith("-")]
        values = {str(value) for value in vars(flags).values()}
        assert all(any(word.partition(",")[0] in value for value in values) for word in given)

    return parse


def prepares(argv, request):
    """An existing data set is left as it is, so nothing is downloaded."""
    data_dir = request.getfixturevalue("data_dir")
    argv = [str(request.getfixturevalue("official")) if word == "DIR" else word for word in argv]
    from petsam_jax.cli.prepare import main

    assert main([*argv, "--data-dir", str(data_dir)]) == 0
    assert "train 5, test 2; already there" in request.getfixturevalue("capsys").readouterr().out


def previews(argv, request):
    """Everything but the drawing, which takes seconds and has its own tests."""
    from petsam_jax.cli.preview import main
    from petsam_jax.train import preview

    data_dir, monkeypatch = (request.getfixturevalue(name) for name in ("data_dir", "monkeypatch"))
    drawn = []

    def draw(source, *numbers):
        drawn.append(len(source))
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr(preview, "draw_sheet", draw)
    argv = [f"tfds:{data_dir}" if word == "tfds" else word for word in argv]
    assert main(argv) == 0 and drawn and Path("sheet.png").is_file()


def converts(argv, request):
    """Up to the input file, which only users have."""
    from petsam_jax.cli import convert

    with pytest.raises(SystemExit) as stopped:
        convert.main(argv)
    printed = request.getfixturevalue("capsys").readouterr().err
    assert stopped.value.code == 1 and "IN.safetensors: no such file" in printed


def prints_help(argv, request):
    """Only its help: the script starts the demo and a browser."""
    script = shlex.split(request.node.callspec.params["command"])[1]
    request.getfixturevalue("monkeypatch").syspath_prepend(ROOT / "docs")
    program = runpy.run_path(str(ROOT / script))
    with pytest.raises(SystemExit) as stopped:
        program["main"]([*argv, "--help"])
    assert stopped.value.code == 0


def exists(argv, request):
    """A script of the repository that needs root or tools outside of it."""
    script = ROOT / shlex.split(request.node.callspec.params["command"])[0]
    assert os.access(script, os.X_OK)


def installs_hooks(argv, request):
    """The hooks run the linter's own commands."""
    assert argv == ["install"]
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert "ruff check --fix" in hooks and "ruff format" in hooks


# By the first pattern that matches the start of a command
RUNNERS = {
    "pip ": installs,
    "pytest": in_ci,
    "ruff ": in_ci,
    "mypy": in_ci,
    "python train.py .*--summary": prints_summary,
    "python train.py ": trains,
    "python demo.py": parses("petsam_jax.cli.demo"),
    "petsam demo ": parses("petsam_jax.cli.demo"),
    "petsam segment ": segments,
    "petsam track ": parses("petsam_jax.cli.track"),
    "petsam evaluate ": parses("petsam_jax.cli.evaluate"),
    "petsam evaluate-video ": parses("petsam_jax.cli.evaluate_video"),
    "petsam export-config ": runs("export-config"),
    "petsam export ": runs("export"),
    "petsam convert ": converts,
    "petsam prepare ": prepares,
    "petsam preview ": previews,
    r"python -m (benchmarks\.\w+)": None,
    r"python docs/make_\w+\.py": prints_help,
    r"\.ci/": exists,
    "pre-commit ": installs_hooks,
    "curl ": calls_the_page,
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_command_works(command, workspace, capsys, request):
    found = [(re.match(pattern, command), runner) for pattern, runner in RUNNERS.items()]
    found = [(match, runner) for match, runner in found if match]
    assert found, f"no runner for `{command}`: add one to RUNNERS"
    match, runner = found[0]
    runner = runner or parses(match[1])
    words = shlex.split(command)
    # The program is `python -m MODULE`, `python SCRIPT`, `petsam COMMAND` or a single word.
    first = 3 if words[1:2] == ["-m"] else 2 if words[0] in ("python", "petsam") else 1
    runner(words[first:], request)


def test_every_runner_is_used():
    for pattern in RUNNERS:
        assert any(re.match(pattern, command) for command in COMMANDS), pattern


def test_broken_commands_fail(workspace, request):
    for command in ("segment cat.jpg --out masks --fromat mask", "segment no.jpg --out masks"):
        try:
            code = main(shlex.split(command))
        except SystemExit as stopped:
            code = stopped.code
        assert code
    with pytest.raises(SystemExit):
        trains(["--config=configs/tiny.py", "--config.data.sise=64"], request)
    with pytest.raises(SystemExit):
        parses("benchmarks.model")(["--size", "pets512"], request)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_python_examples_run(path, workspace):
    for text in blocks(path, "python"):
        code = compile(text, str(path), "exec")
        # The API client needs a running page and tracking takes long; both have their own tests.
        if "gradio_client" not in text and "dog.mp4" not in text:
            exec(code, {})
