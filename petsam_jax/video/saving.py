"""A session as a file: what was said and what was found, but neither the clip nor the model.

The file is a zip of numpy arrays; `session` among them is JSON text. Raises SessionError for what
is no such file, or one of another clip or other weights.
"""

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from petsam_jax.video.frames import Clip
from petsam_jax.video.records import Prompted, Said, Tracked, TrackedObject

VERSION = 1


class SessionError(ValueError):
    """A file that is no session, or does not belong to this clip or these weights."""


def save(path: Path, clip: Clip, objects: dict[int, TrackedObject], fingerprint: str) -> None:
    """Write the file, whole or not at all."""
    arrays: dict[str, np.ndarray] = {}
    told = {
        "version": VERSION,
        "clip": {"name": clip.name, "size": list(clip.size), "count": clip.count},
        "weights": fingerprint,
        "objects": [_tell(number, one, arrays) for number, one in objects.items()],
    }
    written = io.BytesIO()
    np.savez_compressed(written, session=np.array(json.dumps(told)), **arrays)
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_bytes(written.getvalue())
    os.replace(unfinished, path)


def _tell(number: int, one: TrackedObject, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """An object as JSON; what is not for JSON goes to `arrays`."""
    prompted = [known._asdict() | {"frame": frame} for frame, known in one.prompted.items()]
    tracked = [known._asdict() | {"frame": frame} for frame, known in one.tracked.items()]
    for name in ("logits", "obj_ptr", "memory"):
        arrays[f"{number}/prompted/{name}"] = np.array([each.pop(name) for each in prompted])
    arrays[f"{number}/tracked/obj_ptr"] = np.array([each.pop("obj_ptr") for each in tracked])
    for each in prompted:
        each["said"] = each["said"]._asdict()
    return {"id": number, "prompted": prompted, "tracked": tracked}


def read(path: Path) -> tuple[dict[str, Any], dict[int, TrackedObject]]:
    """What the file says of the clip and the weights, and the objects."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            told = json.loads(str(arrays["session"]))
            if told["version"] != VERSION:
                raise SessionError(f"{path}: of version {told['version']}; want {VERSION}")
            objects = {one["id"]: _object(one, arrays) for one in told["objects"]}
    except (KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise SessionError(f"{path}: no session, or a damaged one: {error!r}") from error
    except SessionError:
        raise
    except ValueError as error:
        raise SessionError(f"{path}: no session, or a damaged one: {error}") from error
    return told, objects


def _object(told: dict[str, Any], arrays) -> TrackedObject:
    one = TrackedObject()
    names = ("logits", "obj_ptr", "memory")
    kept = {name: arrays[f"{told['id']}/prompted/{name}"] for name in names}
    for index, each in enumerate(told["prompted"]):
        said = each.pop("said")
        points = tuple(map(tuple, said["points"]))
        box = said["box"] and tuple(said["box"])
        each["said"] = Said(points, tuple(said["labels"]), box, said["given"])
        here = {name: array[index] for name, array in kept.items()}
        one.prompted[each.pop("frame")] = Prompted(**each, **here)
    pointers = arrays[f"{told['id']}/tracked/obj_ptr"]
    for each, obj_ptr in zip(told["tracked"], pointers, strict=True):
        # A copy, which does not hold on to all pointers of the file.
        one.tracked[each.pop("frame")] = Tracked(**each, obj_ptr=obj_ptr.copy())
    return one


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
