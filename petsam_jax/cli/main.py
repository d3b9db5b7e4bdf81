"""The command `petsam`, also `python -m petsam_jax`: one name for all the programs here.

    petsam segment cat.jpg --out masks
    petsam demo

Each command is a module's `main`, which is imported only when it is asked for, so that help is
there at once. `petsam COMMAND --help` shows that command's flags with examples.
"""

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from petsam_jax import __version__, runtime


class Command(NamedTuple):
    """Where a command is, and what it does in a few words."""

    module: str
    words: str
    restarts: bool = False  # for the memory settings of `runtime`, which make training faster


COMMANDS = {
    "segment": Command("petsam_jax.cli.segment", "masks of pictures and folders, as files"),
    "track": Command("petsam_jax.cli.track", "follow an animal through a video"),
    "demo": Command("petsam_jax.cli.demo", "the page where a click cuts the pet out"),
    "train": Command("petsam_jax.cli.train", "train a model, or go on with a run", restarts=True),
    "evaluate": Command("petsam_jax.cli.evaluate", "figures of a checkpoint on held-out pictures"),
    "evaluate-video": Command("petsam_jax.cli.evaluate_video", "the same on videos"),
    "prepare": Command("petsam_jax.cli.prepare", "make Oxford-IIIT Pet ready for training"),
    "preview": Command("petsam_jax.cli.preview", "a sheet of what training sees"),
    "export-config": Command("petsam_jax.cli.export_config", "copy a config, to change it"),
    "export": Command("petsam_jax.cli.export", "the weights of a run as a small checkpoint"),
    "convert": Command("petsam_jax.cli.convert", "official SAM 2.1 weights as a checkpoint"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is that command's, and 2 if there is no such command."""
    given = sys.argv[1:] if argv is None else list(argv)
    first, rest = (given[0], given[1:]) if given else ("", [])
    if first in ("-h", "--help"):
        print(usage())
        return 0
    if first == "--version":
        print(f"petsam {__version__}")
        return 0
    if first not in COMMANDS:
        near = difflib.get_close_matches(first, COMMANDS, 1)
        advice = f"did you mean {near[0]}?" if near else "petsam --help lists the commands"
        print(f"petsam: no command {first!r}; {advice}" if first else usage(), file=sys.stderr)
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
    """What `petsam --help` prints."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"    {name:<{width}}{command.words}" for name, command in COMMANDS.items()]
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
