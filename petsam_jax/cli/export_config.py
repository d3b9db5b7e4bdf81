"""Copy a config of the package to a file that you can edit and train with.

    petsam export-config                        # list the configs
    petsam export-config tiny --out my_configs
    petsam train --config=my_configs/tiny.py

If the config builds on another one, that one is copied beside it too.
"""

import argparse
import ast
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from petsam_jax.config import ConfigError, packaged_configs


def export_config(name: str, out: Path) -> list[Path]:
    """Copy a config and those it builds on into a folder; return the copies, its own first.

    Raises ConfigError for an unknown name, and FileExistsError if a file exists; then nothing is
    copied.
    """
    known = packaged_configs()
    if name not in known:
        raise ConfigError(f"no config {name!r}; there are {', '.join(known)}")
    text = known[name].read_text()
    needed = [name, *(base for base in known if base != name and f'"{base}.py"' in text)]
    copies = [out / f"{each}.py" for each in needed]
    for copy in copies:
        if copy.exists():
            raise FileExistsError(f"{copy} exists; choose another --out, or remove it")
    out.mkdir(parents=True, exist_ok=True)
    for each, copy in zip(needed, copies, strict=True):
        shutil.copyfile(known[each], copy)
    return copies


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "petsam export-config",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="omit it to list all configs")
    parser.add_argument(
        "--out", type=Path, default=Path("."), metavar="DIR", help="default: the current folder"
    )
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
    print(f"Train with: petsam train --config={copies[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
