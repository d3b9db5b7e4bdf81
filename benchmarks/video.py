"""How fast objects are tracked through a clip, where the time goes, and how memory grows.

    python -m benchmarks.video                           # shipped weights, one object and four
    python -m benchmarks.video --clip davis/dog/frames   # a clip of your own
    python -m benchmarks.video --frames 10000 --small    # memory growth over a long stream

The first two print frames per second for a clip of 854 x 480 pixels, including its decoding and an
overlay in H.264, and the milliseconds of each stage of a frame: wall time, and CPU time of all
cores, which other work on the machine does not change. A frame takes less than the sum of its
stages, since they overlap. The last one tracks an object through a stream of generated frames and
prints how much the process grows after the first 200; `--small` uses a tiny model with random
weights.
"""

import argparse
import contextlib
import dataclasses
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from benchmarks import timing
from benchmarks.steps import random_model
from petsam_jax.config import load_config
from petsam_jax.data.shapes import ShapesSource
from petsam_jax.files.render import overlay
from petsam_jax.files.track_files import ClipFiles
from petsam_jax.files.video_reader import open_clip
from petsam_jax.files.video_writer import VideoWriter
from petsam_jax.predict.video.frame_masks import enlarge
from petsam_jax.predict.video.session import Session
from petsam_jax.predict.video.tracks import pack
from petsam_jax.predict.video_predictor import VideoPredictor

SIZE, FPS, COUNT = (480, 854), 24, 60
# Number of objects -> target in frames per second.
TARGETS = {1: 12, 4: 6}
# Frames that are timed together, since stages of neighbouring frames overlap.
CHUNK = 10
# Frames tracked before the one whose stages are timed.
BEFORE = 9
# The stream: frames until everything is compiled and allocated, and how many MB may follow.
SETTLED, MOST_GROWTH = 200, 50.0
STREAM_SIZE = (120, 214)


def generated(count: int, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """An image of shapes, seen by a moving camera."""
    height, width = size
    side = round(1.2 * max(size))
    image = ShapesSource(1, side, seed=3)[0].image
    for number in range(count):
        turn = 2 * np.pi * number / COUNT
        x = round((side - width) * (0.5 + 0.5 * np.cos(turn)))
        y = round((side - height) * 0.5 * (1 + 0.2 * np.sin(turn)))
        yield image[y : y + height, x : x + width]


def write_clip(source: Path | None, path: Path) -> None:
    """A video of the frames of `source`, resized to SIZE, or of generated ones."""
    height, width = SIZE
    clip = open_clip(source or list(generated(COUNT, SIZE)))
    with VideoWriter(path, SIZE, FPS) as video:
        for number in range(min(COUNT, clip.count)):
            frame = Image.fromarray(clip.read(number)).resize((width, height))
            video.write(np.asarray(frame))


def prompt(session: Session, objects: int) -> None:
    """Boxes side by side, one per object."""
    height, width = session.clip.size
    edges = np.linspace(0.1 * width, 0.9 * width, objects + 1)
    for number, (left, right) in enumerate(itertools.pairwise(edges), start=1):
        session.add_box(0, number, (left, 0.2 * height, right - 9, 0.9 * height))


@dataclasses.dataclass
class Times:
    """Wall and CPU seconds per call."""

    wall: list[float] = dataclasses.field(default_factory=list)
    cpu: list[float] = dataclasses.field(default_factory=list)

    @contextlib.contextmanager
    def measured(self, calls: int = 1) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall.append((time.perf_counter() - wall) / calls)
        self.cpu.append((time.process_time() - cpu) / calls)


def track(predictor: VideoPredictor, path: Path, out: Path, objects: int, taken: Times) -> float:
    """Track objects through a video into another; return the share of pixels in masks."""
    session = predictor.open(path)
    prompt(session, objects)
    clip, covered = session.clip, []
    found = session.propagate(0)
    with ClipFiles(out, ("overlay",), clip.size, clip.fps) as files:
        for _ in range(clip.count // CHUNK):
            with taken.measured(CHUNK):
                for frame, _, masks in itertools.islice(found, CHUNK):
                    files.add(frame, clip.read(frame), masks)
                    covered.append(masks.mean(axis=(1, 2)).sum())
    return float(np.mean(covered))


def stages(
    predictor: VideoPredictor, path: Path, out: VideoWriter, objects: int
) -> dict[str, Callable]:
    """The stages of a frame, each as a call that returns when it is done."""
    session = predictor.open(path)
    prompt(session, objects)
    *_, last = itertools.islice(session.propagate(0), BEFORE)
    inputs, images = session._inputs, predictor.images
    tracker, clip = inputs.tracker, session.clip
    frame, image = BEFORE, clip.read(BEFORE)
    ids = session.object_ids
    last_masks = [inputs.last_mask(last.frame, each) for each in ids]
    view = inputs.view_of(last_masks)
    crop = view.crop(image)
    features = images.encode(crop).features
    memories = inputs.memories(ids, frame, False)
    rows = len(memories.bank.recent.frame)
    no = np.zeros(rows, bool)
    position, prompts = inputs.position(frame, False), tracker.no_prompts(rows)

    def step():
        output = tracker.step(features, memories.bank, position, prompts, initial=no, prompted=no)
        return jax.tree.map(np.asarray, output)

    masks, drawn = last.masks, overlay(image, last.masks)
    # Opened again, since a clip caches the frames that it decoded last.
    reopened, numbers = open_clip(path), itertools.cycle(range(clip.count))
    return {
        "decode": lambda: reopened.read(next(numbers)),
        "resize": lambda: images._model_input(crop),
        "encode image": lambda: jax.block_until_ready(images.encode(crop).features),
        "memory, mask, memory": step,
        "enlarge, fill holes": lambda: [enlarge(each.logits, each.view) for each in last_masks],
        "run lengths": lambda: [pack(mask) for mask in masks],
        "lay over": lambda: overlay(image, masks),
        "write": lambda: out.write(drawn),
    }


def speed(flags: argparse.Namespace) -> None:
    """The first two tables."""
    predictor = VideoPredictor.from_checkpoint(flags.ckpt)
    with tempfile.TemporaryDirectory() as directory:
        path, out = Path(directory) / "clip.mp4", Path(directory) / "out.mp4"
        write_clip(flags.clip, path)
        whole = {number: Times() for number in flags.objects}
        covered = {n: track(predictor, path, out, n, Times()) for n in flags.objects}
        for _ in range(flags.rounds):
            for number in flags.objects:
                track(predictor, path, out, number, whole[number])
        rows = [
            [
                str(number),
                f"{1 / statistics.median(taken.wall):.1f}",
                f"{1 / min(taken.wall):.1f}",
                f"{1e3 * statistics.median(taken.cpu):.0f}",
                f"{TARGETS.get(number, '')}",
                f"{covered[number]:.0%}",
            ]
            for number, taken in whole.items()
        ]
        header = ["objects", "frames/s", "best", "CPU ms a frame", "target frames/s", "covered"]
        print(timing.markdown(header, rows), "\n")
        print(timing.markdown(*profile(predictor, path, out, flags)))


def profile(
    predictor: VideoPredictor, path: Path, out: Path, flags: argparse.Namespace
) -> tuple[list[str], list[list[str]]]:
    """Milliseconds of each stage, in wall and CPU time."""
    columns = {}
    for number in flags.objects:
        with VideoWriter(out, SIZE, FPS) as video:
            calls = stages(predictor, path, video, number)
            taken = {name: Times() for name in calls}
            for call in calls.values():
                call()
            for _ in range(flags.calls):
                for name, call in calls.items():
                    with taken[name].measured():
                        call()
        columns[number] = taken
    rows = [
        [name]
        + [
            f"{1e3 * statistics.median(seconds):.1f}"
            for number in flags.objects
            for seconds in (columns[number][name].wall, columns[number][name].cpu)
        ]
        for name in columns[flags.objects[0]]
    ]
    header = [f"{n} {kind} ms" for n in flags.objects for kind in ("wall", "CPU")]
    return ["stage"] + header, rows


def megabytes() -> float:
    """Memory of the process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def growth(flags: argparse.Namespace) -> float:
    """Track an object through a stream; return the growth in megabytes after the first frames."""
    if flags.small:
        config = load_config("configs/tiny.py")
        predictor = VideoPredictor(config, random_model(config.model.to_dict()))
    else:
        predictor = VideoPredictor.from_checkpoint(flags.ckpt)
    session = predictor.open(generated(flags.frames, STREAM_SIZE if flags.small else SIZE))
    prompt(session, 1)
    settled, start = 0.0, time.perf_counter()
    for frame, _, _ in session.propagate(0):
        if frame == SETTLED:
            settled = megabytes()
        if frame >= SETTLED and frame % (flags.frames // 10) == 0:
            rate = frame / (time.perf_counter() - start)
            grown = megabytes() - settled
            print(f"{frame} frames, {rate:.0f} frames/s: {grown:+.1f} MB", flush=True)
    return megabytes() - settled


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.video",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ckpt", type=Path, help="default: the weights that ship")
    parser.add_argument("--clip", type=Path, help="a video or a folder (default: generated shapes)")
    parser.add_argument("--objects", type=int, nargs="+", default=list(TARGETS))
    parser.add_argument(
        "--rounds", type=int, default=2, help="passes through the clip (default: 2)"
    )
    parser.add_argument("--calls", type=int, default=20, help="calls of each stage (default: 20)")
    parser.add_argument("--frames", type=int, help="length of a stream, to measure memory growth")
    parser.add_argument("--small", action="store_true", help="track the stream with a tiny model")
    return parser.parse_args(argv)


def main(flags: argparse.Namespace) -> None:
    print(timing.setting(), end="\n\n", flush=True)
    if flags.frames is None:
        speed(flags)
        return
    grown = growth(flags)
    print(f"{grown:+.1f} MB after the first {SETTLED} frames; target: less than {MOST_GROWTH:.0f}")


if __name__ == "__main__":
    main(parse())
