"""A session as a file: what was said and what was found, but neither the clip nor the model.

What is remembered of the last frames is in it too, so that tracking goes on as if it had never
stopped. The file is a zip of numpy arrays; `session` among them is JSON text. Raises
SessionError for what is no such file, or one of another clip or other weights.
"""

import io
import itertools
import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from petsam_jax.files.clip import Clip
from petsam_jax.predict.prompt_inputs import Prompt
from petsam_jax.predict.video.crops import View
from petsam_jax.predict.video.tracks import (
    Kept,
    PromptedFrame,
    RecentFrame,
    TrackedFrame,
    TrackedObject,
)

VERSION, READ_VERSIONS = 5, (4, 5)
COLUMNS = {"prompted": PromptedFrame._fields, "tracked": TrackedFrame._fields}
ARRAYS = {"prompted": ("logits", "obj_ptr", "memory"), "tracked": ("obj_ptr",)}
FRESH_ARRAYS = ("logits", "memory")
VIEWS = ("view", "memory_view")


class SessionError(ValueError):
    """A file that is no session, or does not belong to this clip or these weights."""


def save(
    path: Path,
    clip: Clip,
    objects: dict[int, TrackedObject],
    kept: list[Kept],
    fingerprint: str,
) -> None:
    """Write the file, whole or not at all; `kept` is what `RecentFrames.kept` says."""
    arrays: dict[str, np.ndarray] = {}
    for name in FRESH_ARRAYS:
        arrays[f"window/{name}"] = np.array([getattr(fresh, name) for _, _, fresh in kept])
    told = {
        "version": VERSION,
        "clip": {"name": clip.name, "size": list(clip.size), "count": clip.count},
        "weights": fingerprint,
        "window": [(frame, each, fresh.view) for frame, each, fresh in kept],
        "objects": [_tell(number, one, arrays) for number, one in objects.items()],
    }
    written = io.BytesIO()
    np.savez_compressed(written, session=np.array(json.dumps(told)), **arrays)
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_bytes(written.getvalue())
    os.replace(unfinished, path)


def _tell(number: int, one: TrackedObject, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """An object as JSON, columns of frames; what is not for JSON goes to `arrays`."""
    told: dict[str, Any] = {"id": number}
    for kind, records in (("prompted", one.prompted), ("tracked", one.tracked)):
        rows = [known._asdict() for known in records.values()]
        columns = {"frame": list(records)} | {n: [row[n] for row in rows] for n in COLUMNS[kind]}
        if "prompt" in columns:
            columns["prompt"] = [prompt.to_json() for prompt in columns["prompt"]]
        for name in ARRAYS[kind]:
            arrays[f"{number}/{kind}/{name}"] = np.array(columns.pop(name))
        told[kind] = columns
    return told


def read(path: Path) -> tuple[dict[str, Any], dict[int, TrackedObject], list[Kept]]:
    """The file's record of clip and weights, the objects, and what `RecentFrames` keeps."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            told = json.loads(str(arrays["session"]))
            if told["version"] not in READ_VERSIONS:
                raise SessionError(
                    f"{path}: version {told['version']}; expected one of {READ_VERSIONS}"
                )
            size = told["clip"]["size"]
            objects = {one["id"]: _object(one, size, arrays) for one in told["objects"]}
            fresh = zip(*(_rows(arrays[f"window/{name}"]) for name in FRESH_ARRAYS), strict=True)
            kept = [
                (frame, each, RecentFrame(*large, View(*view)))
                for (frame, each, view), large in zip(told["window"], fresh, strict=True)
            ]
    except SessionError:
        raise
    # Numpy and zipfile raise nearly anything on damaged files.
    except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise SessionError(f"{path}: no session, or a damaged one: {error!r}") from error
    return told, objects, kept


def _object(told: dict[str, Any], size: list[int], arrays) -> TrackedObject:
    one = TrackedObject()
    for kind, record, known in (
        ("prompted", PromptedFrame, one.prompted),
        ("tracked", TrackedFrame, one.tracked),
    ):
        columns = told[kind]
        for name in ARRAYS[kind]:
            columns[name] = _rows(arrays[f"{told['id']}/{kind}/{name}"])
        if "said" in columns:
            masks = zip(columns.pop("said"), columns["counts"], strict=True)
            columns["prompt"] = [_version_4_prompt(*given, mask, size) for given, mask in masks]
        elif "prompt" in columns:
            columns["prompt"] = [Prompt.from_json(given) for given in columns["prompt"]]
        for name in columns.keys() & VIEWS:
            columns[name] = [View(*view) for view in columns[name]]
        rows = zip(*(columns[name] for name in COLUMNS[kind]), strict=True)
        known.update(zip(columns["frame"], itertools.starmap(record, rows), strict=True))
    return one


def _rows(array: np.ndarray) -> list[np.ndarray]:
    """As copies, which do not hold on to all of the file."""
    return [row.copy() for row in array]


def _version_4_prompt(points, labels, box, is_mask: bool, counts: str, size) -> Prompt:
    """Version 4 has a column of these, and the mask of a mask prompt among the results alone."""
    given = {"points": points, "labels": labels, "box": box}
    return Prompt.from_json(given | ({"mask": (size, counts)} if is_mask else {}))


def check(path: Path, told: dict[str, Any], clip: Clip, fingerprint: str) -> None:
    """Raise SessionError where the file is of another clip or of other weights."""
    size, count = tuple(told["clip"]["size"]), told["clip"]["count"]
    if size != clip.size or None not in (count, clip.count) and count != clip.count:
        raise SessionError(
            f"{path}: of a clip of {count} frames of {size} (height, width), and {clip.name} has "
            f"{clip.count} of {clip.size}"
        )
    if told["weights"] != fingerprint:
        raise SessionError(
            f"{path}: made with other weights, whose memories these cannot read; open it with the "
            "weights that made it"
        )
