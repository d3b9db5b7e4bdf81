"""The video tab's requests, beside those of `routes`. Long tasks respond in lines of JSON.

    POST petsam/video/open      `?clip=id`, a file    -> its size, length and frame rate
    POST petsam/video/segment   a state (video_state) -> masks of the shown frame, timeline
    POST petsam/video/track     a state, and `both`   -> {"total"}, then the masks of each frame
    POST petsam/video/export    a state and options   -> {"total"}, then {"done"} for each frame
    POST petsam/video/close     `?clip=id`            -> nothing; sent when the page is left
    GET  petsam/video/frame     `?clip=id&frame=n`    -> a JPEG
    GET  petsam/video/masks     `?clip=id&frame=n`    -> as `segment`, by the prompts sent last
    GET  petsam/video/download  `?clip=id&name=...`   -> the video exported last

Disconnecting ends a long task. An error in one is a line {"error": message}.
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
from petsam_jax.ui.http import (
    INTERNAL_ERROR,
    Busy,
    Workers,
    read_chunks,
    read_json,
    with_errors,
)
from petsam_jax.ui.request_fields import BadRequest
from petsam_jax.ui.video_service import Steps, VideoService
from petsam_jax.ui.video_state import (
    read_clip_id,
    read_clip_state,
    read_tracking,
    read_video_export,
)

log = logging.getLogger(__name__)


def video_routes(service: VideoService, workers: Workers) -> list[Route]:
    """The routes of the video tab."""
    handlers = _Handlers(service, workers)
    posts = ("open", "segment", "track", "export", "close")
    gets = ("frame", "masks", "download")
    return [
        Route(f"/petsam/video/{name}", with_errors(getattr(handlers, name)), methods=[method])
        for method, names in (("POST", posts), ("GET", gets))
        for name in names
    ]


class _Handlers:
    """A method for each route."""

    def __init__(self, service: VideoService, workers: Workers):
        self._service, self._workers = service, workers
        self._long_tasks = 0

    async def open(self, request: Request) -> Response:
        name = _clip(request)
        file = self._service.new_file()
        try:
            with file.open("wb") as opened:
                async for chunk in read_chunks(request, self._service.limits.max_clip_upload):
                    opened.write(chunk)
            clip = await self._workers.run(self._service.open, name, file)
        finally:
            # It still has this name if it was refused.
            file.unlink(missing_ok=True)
        # Compile for the first click while the visitor looks at the clip.
        return JSONResponse(clip, background=BackgroundTask(self._service.warm_up))

    async def segment(self, request: Request) -> Response:
        state = read_clip_state(await read_json(request))
        return JSONResponse(await self._workers.run(self._service.segment, state))

    async def track(self, request: Request) -> Response:
        return self._stream(self._service.track, *read_tracking(await read_json(request)))

    async def export(self, request: Request) -> Response:
        return self._stream(self._service.export, *read_video_export(await read_json(request)))

    async def close(self, request: Request) -> Response:
        await run_in_threadpool(self._service.clips.drop, _clip(request))
        return Response(status_code=204)

    async def frame(self, request: Request) -> Response:
        jpeg = await run_in_threadpool(self._service.frame_jpeg, _clip(request), _frame(request))
        headers = {"Cache-Control": "private, max-age=3600"}
        return Response(jpeg, media_type="image/jpeg", headers=headers)

    async def masks(self, request: Request) -> Response:
        masks = await run_in_threadpool(self._service.masks, _clip(request), _frame(request))
        return JSONResponse(masks, headers={"Cache-Control": "no-store"})

    async def download(self, request: Request) -> Response:
        path = self._service.clips.get(_clip(request)).exported
        if path is None:
            raise BadRequest("download: this video was not exported yet")
        stem = Path(request.query_params.get("name", "clip")).name[:100] or "clip"
        return FileResponse(path, filename=f"{stem}{path.suffix}")

    def _stream(self, start: Callable[..., Steps], *arguments) -> Response:
        """A line of JSON for each step. Raises Busy for too many long tasks, and Expired."""
        if self._long_tasks >= self._service.limits.trackings:
            raise Busy("too many videos are being processed; retrying automatically")
        lines = self._lines(start(*arguments))
        return StreamingResponse(lines, media_type="application/x-ndjson")

    async def _lines(self, steps: Steps) -> AsyncIterator[str]:
        self._long_tasks += 1
        try:
            while (step := await self._workers.in_turn(steps.next)) is not None:
                yield json.dumps(step) + "\n"
        except (Expired, ValueError) as error:
            yield json.dumps({"error": str(error), "expired": isinstance(error, Expired)}) + "\n"
        except Exception:
            log.exception("a long task on a clip failed")
            yield json.dumps({"error": INTERNAL_ERROR}) + "\n"
        finally:
            self._long_tasks -= 1
            # Not awaited: a disconnect cancels this function too.
            self._workers.submit(steps.close)


def _clip(request: Request) -> str:
    return read_clip_id(request.query_params.get("clip"))


def _frame(request: Request) -> int:
    frame = request.query_params.get("frame", "")
    if not frame.isdecimal():
        raise BadRequest(f"frame: {frame!r:.40}; expected a whole number")
    return int(frame)
