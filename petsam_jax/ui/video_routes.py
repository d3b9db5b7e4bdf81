"""The video tab's requests, beside those of `routes`. What takes long answers in lines of JSON.

    POST studio/clip/open    `?clip=id`, a file       -> its size, length and speed
    POST studio/clip/answer  a state (video_state)    -> masks of the shown frame, words, time line
    POST studio/clip/track   a state, and if both ways -> {"total"}, then the answer of each frame
    POST studio/clip/save    a state and a style      -> {"total"}, then {"done"} frame by frame
    POST studio/clip/close   `?clip=id`               -> nothing; the page is being left
    GET  studio/clip/frame   `?clip=id&frame=n`       -> a JPEG
    GET  studio/clip/masks   `?clip=id&frame=n`       -> as `answer`, by what was said last
    GET  studio/clip/film    `?clip=id&name=...`      -> the video that was saved last

Who goes away in the midst of lines ends the work; an error there is a line {"error": words}.
"""

import json
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from petsam_jax.ui.cache import Expired
from petsam_jax.ui.http import WENT_WRONG, Busy, Workers, in_words, json_of, pieces_of
from petsam_jax.ui.request_fields import BadRequest
from petsam_jax.ui.video_service import Steps, VideoService
from petsam_jax.ui.video_state import read_clip_id, read_clip_state, read_film, read_tracking

log = logging.getLogger(__name__)


def clip_routes(studio: VideoService, workers: Workers) -> list[Route]:
    """All that the video tab asks."""
    lines = _Lines(studio, workers)

    async def open_clip(request: Request) -> Response:
        name = _clip(request)
        file = studio.new_file()
        try:
            with file.open("wb") as opened:
                async for piece in pieces_of(request, studio.limits.max_clip_upload):
                    opened.write(piece)
            opened = await workers.run(studio.open, name, file)
        finally:
            # Where it was not taken.
            file.unlink(missing_ok=True)
        # What the first click needs is compiled while the visitor looks at the clip.
        return JSONResponse(opened, background=BackgroundTask(studio.warm_up))

    async def answer(request: Request) -> Response:
        state = read_clip_state(await json_of(request))
        return JSONResponse(await workers.run(studio.answer, state))

    async def track(request: Request) -> Response:
        return lines.respond(studio.track, *read_tracking(await json_of(request)))

    async def save(request: Request) -> Response:
        return lines.respond(studio.save, *read_film(await json_of(request)))

    async def close(request: Request) -> Response:
        await run_in_threadpool(studio.clips.drop, _clip(request))
        return Response(status_code=204)

    async def frame(request: Request) -> Response:
        file = await run_in_threadpool(studio.picture, _clip(request), _frame(request))
        headers = {"Cache-Control": "private, max-age=3600"}
        return Response(file, media_type="image/jpeg", headers=headers)

    async def masks(request: Request) -> Response:
        found = await run_in_threadpool(studio.masks, _clip(request), _frame(request))
        return JSONResponse(found, headers={"Cache-Control": "no-store"})

    async def film(request: Request) -> Response:
        path = studio.clips.get(_clip(request)).film
        if path is None:
            raise BadRequest("film: none was made of this clip yet")
        stem = Path(request.query_params.get("name", "clip")).name[:100] or "clip"
        return FileResponse(path, filename=f"{stem}{path.suffix}")

    posts = {"open": open_clip, "answer": answer, "track": track, "save": save, "close": close}
    gets = {"frame": frame, "masks": masks, "film": film}
    return [
        Route(f"/studio/clip/{name}", in_words(handler), methods=[method])
        for method, handlers in (("POST", posts), ("GET", gets))
        for name, handler in handlers.items()
    ]


class _Lines:
    """Long work, a line of JSON for each step, ended when the visitor goes away."""

    def __init__(self, studio: VideoService, workers: Workers):
        self._studio, self._workers, self._running = studio, workers, 0

    def respond(self, start: Callable[..., Steps], *said) -> Response:
        """Raises Busy if too many are at it, and Expired."""
        if self._running >= self._studio.limits.trackings:
            raise Busy("too many clips are being tracked just now; this is tried again by itself")
        return StreamingResponse(self._lines(start(*said)), media_type="application/x-ndjson")

    async def _lines(self, steps: Steps) -> AsyncIterator[str]:
        self._running += 1
        try:
            while (told := await self._workers.in_turn(steps.next)) is not None:
                yield json.dumps(told) + "\n"
        except (Expired, ValueError) as error:
            yield json.dumps({"error": str(error), "gone": isinstance(error, Expired)}) + "\n"
        except Exception:
            log.exception("work on a clip failed")
            yield json.dumps({"error": WENT_WRONG}) + "\n"
        finally:
            self._running -= 1
            # Not waited for: who went away may have ended this function too.
            self._workers.begin(steps.close)


def _clip(request: Request) -> str:
    return read_clip_id(request.query_params.get("clip"))


def _frame(request: Request) -> int:
    said = request.query_params.get("frame", "")
    if not said.isdecimal():
        raise BadRequest(f"frame: {said!r:.40}; want a whole number")
    return int(said)
