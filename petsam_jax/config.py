"""Configs: Python files with a `get_config`, overridden field by field on the command line.

    --config=configs/pets256.py              the file's get_config()
    --config=pets256                         a config of the package, wherever it is installed
    --config=configs/pets256.py:seed         get_config("seed"), a variant that the file defines
    --config.model.d_model=128               one field; the value must have the field's type

A field that does not exist or a value of another type is a ConfigError that names the nearest
field. Checkpoints keep the whole config as JSON (`to_json`, `from_json`).

Values are set by ml_collections, but its `config_flags` do not parse them. They (1.1.0) check no
element of a tuple ("stages=1,x" becomes ("1,x",)), refuse a source with options
("sources=shapes:size=64,length=9") and any field that is None, suggest fields of the same section
only, and need absl's flags, with its errors, beside argparse.
"""

import argparse
import ast
import contextlib
import difflib
import importlib.util
import inspect
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

HELP = "a config; --config.NAME=VALUE sets one of its fields"
BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
# `petsam_jax/configs` holds the files in an installed package, and is a link to `configs` in a copy
# of the repository. Where git makes no links, as on Windows, it is a text file.
FOLDERS = (Path(__file__).parent / "configs", Path(__file__).parents[1] / "configs")
# Modules that config files of version 0.1.0 import -> where they are now.
MOVED = {"petsam_jax.no_decay": "petsam_jax.train.param_rules"}


class ConfigError(ValueError):
    """A config that cannot be loaded: the message names the file or field and what to do."""


# Files


def packaged_configs() -> dict[str, Path]:
    """Name -> file of the configs that come with the package."""
    folder = next((folder for folder in FOLDERS if folder.is_dir()), FOLDERS[0])
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def find_config(path: Path) -> Path:
    """`path` itself if it exists; else NAME, NAME.py or configs/NAME.py of the package."""
    short = path.parent in (Path("."), Path("configs")) and path.suffix in ("", ".py")
    if path.is_file() or not short:
        return path
    return packaged_configs().get(path.stem, path)


def load_config(spec: str | Path, overrides: Iterable[str] = ()) -> ConfigDict:
    """The locked config of `spec`, "FILE.py" or "FILE.py:VARIANT", with overrides "a.b=value".

    Raises ConfigError for a missing file, a file without a config, and an invalid override.
    """
    path, variant = split_spec(str(spec))
    path = find_config(path)
    with _modules_of_0_1_0():
        get_config = _import_get_config(path)
        if variant is not None and not inspect.signature(get_config).parameters:
            raise ConfigError(f"--config={spec}: {path} has no variants; leave out :{variant}")
        try:
            config = get_config() if variant is None else get_config(variant)
        except ConfigError as error:
            raise ConfigError(f"--config={spec}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{path}: get_config() must return a ConfigDict, not {type(config)}")
    for override in overrides:
        _override(config, override, path)
    return config.lock()


def split_spec(spec: str) -> tuple[Path, str | None]:
    """Both parts of "FILE.py:VARIANT" or "NAME:VARIANT"; the variant may be None."""
    if spec.endswith(".py") or ":" not in spec:
        return Path(spec), None
    path, variant = spec.rsplit(":", 1)
    return Path(path), variant


def _import_get_config(path: Path):
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.py")], 1)
        advice = f"give the path of a .py file, or one of {', '.join(packaged_configs())}"
        hint = f"did you mean {path.parent / near[0]}?" if near else advice
        raise ConfigError(f"--config: {path}: no such file; {hint}")
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    if module_spec is None:
        raise ConfigError(f"--config: {path} is not a Python file; give the path of a .py file")
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    if not callable(getattr(module, "get_config", None)):
        raise ConfigError(f"--config: {path} has no function get_config(); see configs/tiny.py")
    return module.get_config


@contextlib.contextmanager
def _modules_of_0_1_0() -> Iterator[None]:
    """Let config files that `petsam export-config` of version 0.1.0 wrote import what they name."""
    added = [old for old in MOVED if old not in sys.modules]
    sys.modules.update({old: importlib.import_module(MOVED[old]) for old in added})
    try:
        yield
    finally:
        for old in added:
            del sys.modules[old]


# Fields


def fields(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value of every field that is not a section."""
    found = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            found |= fields(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def _override(config: ConfigDict, override: str, path: Path) -> None:
    name, equals, text = override.partition("=")
    known = fields(config)
    if not equals:
        raise ConfigError(f"--config.{name}: no value; write --config.{name}=VALUE")
    if name not in known:
        inside = [field for field in known if field.startswith(f"{name}.")]
        if inside:
            raise ConfigError(f"--config.{name} is a section; its fields: {', '.join(inside)}")
        raise ConfigError(f"--config.{name}: no such field in {path}; {_nearest(name, known)}")
    config.update_from_flattened_dict({name: _parse(name, text, known[name])})


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(name, known, 1, 0.5)
    # Its last part finds a field that was given in the wrong section.
    last = {field: field.rpartition(".")[2] for field in known}
    close = difflib.get_close_matches(name.rpartition(".")[2], last.values(), 1, 0.8)
    near = near or [field for field in known if close and last[field] == close[0]]
    return f"did you mean --config.{near[0]}?" if near else f"fields: {', '.join(known)}"


def _parse(name: str, text: str, old: Any) -> Any:
    """`text` as a value of the type of the field's value; None takes any literal."""
    if isinstance(old, str):
        return text
    if isinstance(old, bool):
        if text.lower() in BOOLEANS:
            return BOOLEANS[text.lower()]
        raise ConfigError(f"--config.{name}={text}: expected true or false")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if old is None:
        return value
    if isinstance(old, tuple):
        value = tuple(value) if isinstance(value, list | tuple) else (value,)
        if old and any(not _fits(item, old[0]) for item in value):
            raise ConfigError(f"--config.{name}={text}: expected values like {old}")
        return tuple(type(old[0])(item) for item in value) if old else value
    if not _fits(value, old):
        raise ConfigError(f"--config.{name}={text}: expected {_a(old)} like the default, {old!r}")
    return type(old)(value)


def _fits(value, old) -> bool:
    """Whether a value may replace `old`: whole numbers may replace fractions."""
    if isinstance(value, bool) or isinstance(old, bool):
        return isinstance(value, bool) and isinstance(old, bool)
    return isinstance(value, int | float if isinstance(old, float) else type(old))


def _a(value) -> str:
    noun = type(value).__name__
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """One line for each field in which two configs differ; empty if they are equal."""
    before, after, absent = fields(old), fields(new), object()
    return [
        f"{name}: {before.get(name, 'not there')} -> {after.get(name, 'not there')}"
        for name in dict.fromkeys([*before, *after])
        if before.get(name, absent) != after.get(name, absent)
    ]


# Command line and JSON


def parse_args(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """Parse `--config=...` and `--config.NAME=VALUE` beside the parser's own flags.

    The result's `config` is the ConfigDict, `config_spec` its text on the command line. Errors end
    the program as argparse's own do, with status 2 and one line.
    """
    parser.add_argument("--config", required=True, metavar="FILE.py[:VARIANT]", help=HELP)
    # An abbreviation such as --conf would otherwise swallow --config.x.
    parser.allow_abbrev = False
    args, rest = parser.parse_known_args(argv)
    overrides = [flag.removeprefix("--config.") for flag in rest if flag.startswith("--config.")]
    args.config_spec = args.config
    try:
        args.config = load_config(args.config, overrides)
    except ConfigError as error:
        parser.error(str(error))
    unknown = [flag for flag in rest if not flag.startswith("--config.")]
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        near = difflib.get_close_matches(unknown[0].split("=")[0], flags, 1)
        hint = f"; did you mean {near[0]}?" if near else "; a config field is --config.NAME=VALUE"
        parser.error(f"unknown argument {unknown[0]}{hint}")
    return args


def to_json(config: ConfigDict) -> str:
    """The config as JSON text; tuples become lists."""
    return json.dumps(config.to_dict(), indent=1)


def from_json(text: str) -> ConfigDict:
    """The locked config of `to_json`; lists become tuples, since configs have no lists."""
    return ConfigDict(_tuples(json.loads(text))).lock()


def _tuples(value):
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
