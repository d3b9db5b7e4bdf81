"""A session as a file: prompts, masks and memories, but neither the clip nor the model.

The memories of recent frames are in it too, so that tracking goes on as if it had never stopped.
The file is a zip of numpy arrays; `session` among them is JSON text. Raises SessionError for a file
that is no session, or belongs to another clip or to other weights.
"""

import io
import itertools
import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from petsam_jax.files.clip import Clip
from petsam_jax.predict.prompt_inputs import Prompt
from petsam_jax.predict.video.clip_state import ClipState
from petsam_jax.predict.video.crops import View
from petsam_jax.predict.video.tracks import (
    PromptedFrame,
    RecentEntry,
    RecentFrame,
    TrackedFrame,
    TrackedObject,
)

# Version 4 is that of petsam-jax 0.1.0.
VERSION, READABLE = 5, (4, 5)
COLUMNS = {"prompted": PromptedFrame._fields, "tracked": TrackedFrame._fields}
ARRAYS = {"prompted": ("logits", "obj_ptr", "memory"), "tracked": ("obj_ptr",)}
RECENT_ARRAYS = ("logits", "memory")
VIEWS = ("view", "memory_view")


class SessionError(ValueError):
    """A file that is no session, or does not belong to this clip or these weights."""


def save(path: Path, clip: Clip, state: ClipState, fingerprint: str) -> None:
    """Write the file, whole or not at all; `fingerprint` is that of the weights."""
    arrays: dict[str, np.ndarray] = {}
    recent = state.recent_entries()
    for name in RECENT_ARRAYS:
        arrays[f"window/{name}"] = np.array([getattr(one, name) for _, _, one in recent])
    record = {
        "version": VERSION,
        "clip": {"name": clip.name, "size": list(clip.size), "count": clip.count},
        "weights": fingerprint,
        "window": [(frame, each, one.view) for frame, each, one in recent],
        "objects": [_object_record(each, state, arrays) for each in state.object_ids],
    }
    written = io.BytesIO()
    entries: dict[str, Any] = {"session": np.array(json.dumps(record)), **arrays}
    np.savez_compressed(written, **entries)
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_bytes(written.getvalue())
    os.replace(unfinished, path)


def _object_record(
    object_id: int, state: ClipState, arrays: dict[str, np.ndarray]
) -> dict[str, Any]:
    """An object for JSON, in columns by frame; large values are added to `arrays`."""
    result: dict[str, Any] = {"id": object_id}
    kinds: dict[str, Mapping[int, Any]] = {
        "prompted": state.prompted(object_id),
        "tracked": state.tracked(object_id),
    }
    for kind, frames in kinds.items():
        rows = [record._asdict() for record in frames.values()]
        columns = {"frame": list(frames)} | {n: [row[n] for row in rows] for n in COLUMNS[kind]}
        if "prompt" in columns:
            columns["prompt"] = [prompt.to_json() for prompt in columns["prompt"]]
        for name in ARRAYS[kind]:
            arrays[f"{object_id}/{kind}/{name}"] = np.array(columns.pop(name))
        result[kind] = columns
    return result


def read(path: Path) -> tuple[dict[str, Any], dict[int, TrackedObject], list[RecentEntry]]:
    """The record of clip and weights, for `check`; the objects; what recent frames keep."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            record = json.loads(str(arrays["session"]))
            if record["version"] not in READABLE:
                raise SessionError(
                    f"{path}: of version {record['version']}; expected one of {READABLE}"
                )
            size = record["clip"]["size"]
            objects = {each["id"]: _read_object(each, size, arrays) for each in record["objects"]}
            large: Iterable[Any] = zip(
                *(_rows(arrays[f"window/{name}"]) for name in RECENT_ARRAYS), strict=True
            )
            recent = [
                (frame, each, RecentFrame(logits, memory, View(*view)))
                for (frame, each, view), (logits, memory) in zip(
                    record["window"], large, strict=True
                )
            ]
    except SessionError:
        raise
    # Numpy and zipfile raise nearly anything on damaged files.
    except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise SessionError(f"{path}: not a session, or damaged: {error!r}") from error
    return record, objects, recent


def _read_object(record: dict[str, Any], size: list[int], arrays) -> TrackedObject:
    result = TrackedObject()
    kinds: dict[str, tuple[Any, dict]] = {
        "prompted": (PromptedFrame, result.prompted),
        "tracked": (TrackedFrame, result.tracked),
    }
    for kind, (make, frames) in kinds.items():
        columns = record[kind]
        for name in ARRAYS[kind]:
            columns[name] = _rows(arrays[f"{record['id']}/{kind}/{name}"])
        if "said" in columns:
            prompts = zip(columns["said"], columns["counts"], strict=True)
            columns["prompt"] = [_prompt_of_version_4(old, size, counts) for old, counts in prompts]
        elif "prompt" in columns:
            columns["prompt"] = [Prompt.from_json(fields) for fields in columns["prompt"]]
        for name in columns.keys() & VIEWS:
            columns[name] = [View(*view) for view in columns[name]]
        rows = zip(*(columns[name] for name in COLUMNS[kind]), strict=True)
        frames.update(zip(columns["frame"], itertools.starmap(make, rows), strict=True))
    return result


def _rows(array: np.ndarray) -> list[np.ndarray]:
    """The rows as copies, which do not hold on to the whole file."""
    return [row.copy() for row in array]


def _prompt_of_version_4(old: list, size: list[int], counts: str) -> Prompt:
    """Where the prompt was a mask, that is the result's mask, and stands only there."""
    points, labels, box, is_mask = old
    fields = {"points": points, "labels": labels, "box": box}
    return Prompt.from_json(fields | ({"mask": (size, counts)} if is_mask else {}))


def check(path: Path, record: dict[str, Any], clip: Clip, fingerprint: str) -> None:
    """Raise SessionError where the file belongs to another clip or to other weights."""
    size, count = tuple(record["clip"]["size"]), record["clip"]["count"]
    if size != clip.size or None not in (count, clip.count) and count != clip.count:
        raise SessionError(
            f"{path}: of a clip of {count} frames of {size} (height, width), but {clip.name} has "
            f"{clip.count} of {clip.size}"
        )
    if record["weights"] != fingerprint:
        raise SessionError(
            f"{path}: made with other weights, whose memories these cannot read; open it with the "
            "weights that made it"
        )
