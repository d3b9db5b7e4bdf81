"""The command `petsam`, also `python -m petsam_jax`: one entry point for all commands.

    petsam segment cat.jpg --out masks
    petsam demo

Each command is the `main` of a module that is imported only when the command runs, so that help
appears at once. `petsam COMMAND --help` shows that command's flags with examples.
"""

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from petsam_jax import __version__, runtime


class Command(NamedTuple):
    """The module of a command, and its line in the help."""

    module: str
    summary: str
    restarts: bool = False  # for the memory settings of `runtime`, which speed up training


COMMANDS = {
    "segment": Command("petsam_jax.cli.segment", "segment images or folders of images"),
    "track": Command("petsam_jax.cli.track", "track animals through a video"),
    "demo": Command("petsam_jax.cli.demo", "start the web demo"),
    "train": Command("petsam_jax.cli.train", "train a model, or resume a run", restarts=True),
    "evaluate": Command("petsam_jax.cli.evaluate", "evaluate a checkpoint on held-out images"),
    "evaluate-video": Command(
        "petsam_jax.cli.evaluate_video", "evaluate a checkpoint on annotated videos"
    ),
    "prepare": Command("petsam_jax.cli.prepare", "prepare Oxford-IIIT Pet for training"),
    "preview": Command("petsam_jax.cli.preview", "draw a sheet of augmented training examples"),
    "export-config": Command("petsam_jax.cli.export_config", "copy a built-in config, to edit it"),
    "export": Command("petsam_jax.cli.export", "export the averaged weights of a run"),
    "convert": Command("petsam_jax.cli.convert", "convert official SAM 2.1 weights"),
}

# Commands of 0.1.0 under their new names.
RENAMED = {"show": "preview"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; 2 if there is no such command."""
    given = sys.argv[1:] if argv is None else list(argv)
    first, rest = (given[0], given[1:]) if given else ("", [])
    if first in ("-h", "--help"):
        print(usage())
        return 0
    if first == "--version":
        print(f"petsam {__version__}")
        return 0
    if first not in COMMANDS:
        near = difflib.get_close_matches(RENAMED.get(first, first), COMMANDS, 1)
        advice = f"did you mean {near[0]}?" if near else "petsam --help lists the commands"
        print(f"petsam: unknown command {first!r}; {advice}" if first else usage(), file=sys.stderr)
        return 2
    command = COMMANDS[first]
    if command.restarts and argv is None:
        runtime.prepare()
    try:
        return importlib.import_module(command.module).main(rest) or 0
    except ModuleNotFoundError as missing:
        print(f"petsam {first}: {_advice(missing)}", file=sys.stderr)
        return 1


def usage() -> str:
    """The text of `petsam --help`."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"    {name:<{width}}{command.summary}" for name, command in COMMANDS.items()]
    examples = [
        "    petsam segment cat.jpg --point 320,200 --out masks --format mask,cutout",
        "    petsam segment photos --auto --out masks --format coco",
        "    petsam train --config=pets256_small --workdir=runs/pets",
    ]
    return "\n".join(
        [
            "usage: petsam COMMAND ... | petsam COMMAND --help | petsam --version\n",
            *lines,
            "\nexamples:\n",
            *examples,
        ]
    )


def _advice(missing: ModuleNotFoundError) -> str:
    name = missing.name or ""
    if name.partition(".")[0] == "petsam_jax":
        return f"this version has no {name}"
    return f"{name} is not installed; pip install {name.partition('.')[0]}"


if __name__ == "__main__":
    sys.exit(main())
