"""The page's own requests, beside Gradio's: pictures in, masks out, as fast as a click wants it.

Gradio's events take 35 ms and more to go round, and hand over stale data when clicks come fast; a
plain request takes a few. So the page sends its whole state to `answer` and has at most one such
request under way; see `browser/client.js`.

    POST studio/open      a file's bytes         -> its id and size
    POST studio/answer    a state (page_state)   -> masks and words; `?hint=1`: only if nobody waits
    POST studio/result    a state and a style     -> a file to take home
    GET  studio/upright   `?picture=id`          -> the picture as a JPEG, for browsers that cannot
    GET  studio/files/... the page's scripts, styles and example pictures

Whatever goes wrong comes back as {"error": words}: 400 makes no sense, 410 picture is gone (send it
again), 503 too many are waiting (come back).
"""

import asyncio
import io
import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from petsam_jax.data.pictures import UnfitPicture
from petsam_jax.ui.fields import BadRequest
from petsam_jax.ui.limits import MAX_REQUEST, MEGA
from petsam_jax.ui.page_state import read_state
from petsam_jax.ui.results import make_result
from petsam_jax.ui.shelf import Gone
from petsam_jax.ui.studio import Studio

HERE = Path(__file__).parent
FILES = {"browser": HERE / "browser", "examples": HERE / "examples"}
# Two: while one waits for the model, the other packs masks.
WORKERS = 2

log = logging.getLogger(__name__)


class Busy(RuntimeError):
    """Too many requests are waiting."""


class Workers:
    """Threads that do the computing, and how many may wait for them."""

    def __init__(self, waiting: int):
        self._most, self._waiting = waiting, 0
        self._threads = ThreadPoolExecutor(WORKERS, thread_name_prefix="studio")

    async def run(self, work: Callable, *arguments, unless_busy: bool = False):
        """Raises Busy instead of waiting in too long a row, or in any row if `unless_busy`."""
        if self._waiting >= (1 if unless_busy else self._most):
            raise Busy("too many visitors are waiting just now; this is tried again by itself")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
        finally:
            self._waiting -= 1


def studio_routes(studio: Studio, workers: Workers) -> list[Route | Mount]:
    """All that the page asks of a studio."""

    async def open_picture(request: Request) -> Response:
        file = await _body(request, studio.limits.max_upload)
        return JSONResponse(await workers.run(studio.open, file))

    async def answer(request: Request) -> Response:
        state = read_state(await _json(request))
        hint = request.query_params.get("hint") == "1"
        return JSONResponse(await workers.run(studio.answer, state, unless_busy=hint))

    async def result(request: Request) -> Response:
        file = await workers.run(make_result, studio, await _json(request))
        return Response(file.data, media_type=file.mime)

    async def upright(request: Request) -> Response:
        name = request.query_params.get("picture", "")
        file = await run_in_threadpool(_as_jpeg, studio, name)
        return Response(file, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    posts = {"open": open_picture, "answer": answer, "result": result}
    return [
        *(Route(f"/studio/{name}", _in_words(f), methods=["POST"]) for name, f in posts.items()),
        Route("/studio/upright", _in_words(upright), methods=["GET"]),
        *(Mount(f"/studio/files/{name}", StaticFiles(directory=at)) for name, at in FILES.items()),
    ]


async def _body(request: Request, most: int) -> bytes:
    """At most so many bytes, however many come."""
    if int(request.headers.get("content-length", 0)) > most:
        raise UnfitPicture("picture", f"more than {most / MEGA:g} MB; make it smaller first")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most:
            raise UnfitPicture("picture", f"more than {most / MEGA:g} MB; make it smaller first")
    return bytes(body)


async def _json(request: Request) -> object:
    try:
        return json.loads(await _body(request, MAX_REQUEST))
    except (ValueError, RecursionError) as error:
        raise BadRequest("request: not JSON, or too large") from error


def _in_words(handler: Callable) -> Callable:
    """The handler with every error as a status and words for the page."""

    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except ClientDisconnect:
            return Response(status_code=499)
        except Gone as error:
            return JSONResponse({"error": str(error)}, 410)
        except Busy as error:
            return JSONResponse({"error": str(error)}, 503, {"Retry-After": "1"})
        except UnfitPicture as error:
            return JSONResponse({"error": error.reason}, 400)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
        except Exception:
            log.exception("%s failed", request.url.path)
            words = "something went wrong in here; the terminal of demo.py says what"
            return JSONResponse({"error": words}, 500)

    return handle


def _as_jpeg(studio: Studio, name: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(studio.pixels(name)).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()
