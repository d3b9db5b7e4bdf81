"""The layers of the package: which folder may import which, and what an import brings along.

Imports are read from the source, those inside functions too.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "petsam_jax"
# Folders and root modules, and what each may import beside itself.
MAY_IMPORT = {
    "mask_values": set(),
    "normalise": set(),
    "runtime": set(),
    "config": set(),
    "models": set(),
    "metrics": {"mask_values"},
    "files": {"mask_values", "runtime"},
    "data": {"files", "mask_values", "normalise"},
    "checkpoint": {"config", "models"},
    "train": {
        *("checkpoint", "config", "data", "files", "mask_values", "metrics", "models"),
        *("normalise", "runtime"),
    },
    "predict": {"checkpoint", "files", "mask_values", "models", "normalise", "runtime"},
    "evaluation": {"data", "files", "mask_values", "metrics", "models", "predict"},
}
# On top: they may import everything but each other's layer above.
MAY_IMPORT["ui"] = {"checkpoint", "files", "models", "predict"}
MAY_IMPORT["cli"] = {*MAY_IMPORT, "__init__"}
MAY_IMPORT["__init__"] = {"predict"}
MAY_IMPORT["__main__"] = {"cli"}
# Where commands of version 0.1.0 went.
POINTERS = {"convert", "export"}


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The layers that a file imports; `petsam_jax` itself is `__init__`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            # `from petsam_jax import runtime` names a layer, `import __version__` does not.
            whole = node.module == "petsam_jax"
            names = [
                f"{node.module}.{alias.name}" if whole else node.module for alias in node.names
            ]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "petsam_jax":
                first = rest.partition(".")[0]
                found.add(first if first in MAY_IMPORT else "__init__")
    return found


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if "configs" not in path.parts)


def test_every_file_belongs_to_a_layer():
    assert {layer(path) for path in SOURCES} == set(MAY_IMPORT) | POINTERS
    floor = [path for path in SOURCES if path.parent == PACKAGE]
    assert len(floor) <= 10, "the package's root floor fills up"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    name = layer(path)
    allowed = MAY_IMPORT.get(name, set()) | {name}
    assert imported(path) <= allowed, f"{path}: {name} may not import {imported(path) - allowed}"


def modules_after(statement: str) -> list[str]:
    """Our modules that a fresh interpreter has read after a statement."""
    program = f"{statement}; import sys; print(*[m for m in sys.modules if m[:10] == 'petsam_jax'])"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return run.stdout.split()


@pytest.mark.slow
def test_predicting_reads_nothing_of_training():
    found = modules_after("import petsam_jax.predict.image_predictor")
    layers = {name.split(".")[1] for name in found if "." in name}
    assert layers <= {"predict", "models", "files", "mask_values", "normalise", "runtime"}
    packages = {"petsam_jax", *(f"petsam_jax.{name}" for name in ("predict", "models", "files"))}
    assert len(set(found) - packages) <= 20, sorted(set(found) - packages)
