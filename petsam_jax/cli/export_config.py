"""Copy a config that comes with the package, to change it and train with it.

    petsam export-config                        # which there are
    petsam export-config tiny --out my_configs
    petsam train --config=my_configs/tiny.py

A config that builds on another one needs it beside itself, so that one is copied too.
"""

import argparse
import ast
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from petsam_jax.config import ConfigError, packaged_configs


def export_config(name: str, out: Path) -> list[Path]:
    """Copy it and those that it builds on into a folder, and return the copies, itself first.

    Raises ConfigError for a name that there is not, and FileExistsError for a file that is there:
    then nothing is copied.
    """
    there = packaged_configs()
    if name not in there:
        raise ConfigError(f"no config {name!r}; there are {', '.join(there)}")
    text = there[name].read_text()
    wanted = [name, *(base for base in there if base != name and f'"{base}.py"' in text)]
    copies = [out / f"{each}.py" for each in wanted]
    for copy in copies:
        if copy.exists():
            raise FileExistsError(f"{copy} exists; choose another --out, or remove it")
    out.mkdir(parents=True, exist_ok=True)
    for each, copy in zip(wanted, copies, strict=True):
        shutil.copyfile(there[each], copy)
    return copies


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "petsam export-config",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="without it, all are listed")
    parser.add_argument("--out", type=Path, default=Path("."), metavar="DIR", help="default: here")
    args = parser.parse_args(argv)
    if args.name is None:
        for name, path in packaged_configs().items():
            words = ast.get_docstring(ast.parse(path.read_text())) or ""
            print(f"{name:<16}{words.partition(chr(10))[0]}")
        return 0
    try:
        copies = export_config(args.name, args.out)
    except (ConfigError, OSError) as error:
        print(f"export-config: {error}", file=sys.stderr)
        return 1
    print("\n".join(map(str, copies)))
    print(f"Train with it: petsam train --config={copies[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
