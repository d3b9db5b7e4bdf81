"""The configs that come with the package, by name, wherever it is installed.

    --config=pets256_small                NAME, NAME.py and configs/NAME.py are such a config
    --config=configs/pets256_small.py     where there is no file of that name

`petsam_jax/configs` is a link to `configs` in a copy of the repository, and holds the files in an
installed package.
"""

from pathlib import Path

# Where git makes no links, as on Windows, it is a file with the folder's name in it.
FOLDERS = (Path(__file__).parent / "configs", Path(__file__).parents[1] / "configs")


def packaged_configs() -> dict[str, Path]:
    """Name -> file."""
    folder = next((folder for folder in FOLDERS if folder.is_dir()), FOLDERS[0])
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def find_config(path: Path) -> Path:
    """The file that a flag means: `path` itself, where it is there or nothing else is meant."""
    short = path.parent in (Path("."), Path("configs")) and path.suffix in ("", ".py")
    if path.is_file() or not short:
        return path
    return packaged_configs().get(path.stem, path)
