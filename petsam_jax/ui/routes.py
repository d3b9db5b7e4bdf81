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

import io
from pathlib import Path

from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from petsam_jax.ui.http import Workers, body_of, in_words, json_of
from petsam_jax.ui.image_export import make_result
from petsam_jax.ui.image_service import ImageService
from petsam_jax.ui.page_state import read_state

HERE = Path(__file__).parent
FILES = {"browser": HERE / "browser", "examples": HERE / "examples"}


def studio_routes(studio: ImageService, workers: Workers) -> list[Route | Mount]:
    """All that the page asks of a studio."""

    async def open_image(request: Request) -> Response:
        file = await body_of(request, studio.limits.max_upload)
        return JSONResponse(await workers.run(studio.open, file))

    async def answer(request: Request) -> Response:
        state = read_state(await json_of(request))
        hint = request.query_params.get("hint") == "1"
        return JSONResponse(await workers.run(studio.answer, state, unless_busy=hint))

    async def result(request: Request) -> Response:
        file = await workers.run(make_result, studio, await json_of(request))
        return Response(file.data, media_type=file.mime)

    async def upright(request: Request) -> Response:
        name = request.query_params.get("picture", "")
        file = await run_in_threadpool(_as_jpeg, studio, name)
        return Response(file, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    posts = {"open": open_image, "answer": answer, "result": result}
    return [
        *(Route(f"/studio/{name}", in_words(f), methods=["POST"]) for name, f in posts.items()),
        Route("/studio/upright", in_words(upright), methods=["GET"]),
        *(Mount(f"/studio/files/{name}", StaticFiles(directory=at)) for name, at in FILES.items()),
    ]


def _as_jpeg(studio: ImageService, name: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(studio.pixels(name)).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()
