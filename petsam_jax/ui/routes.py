"""The image tab's requests, beside Gradio's own: files in, masks out, at the speed of a click.

Gradio's events take 35 ms or more each way and can return stale data when clicks come fast; a plain
request takes a few milliseconds. The page sends its whole state to `segment`, one request at a
time; see `browser/client.js`.

    POST petsam/image/open     a file                -> its id and size
    POST petsam/image/segment  a state (page_state)  -> masks and messages; `?hint=1`: unless busy
    POST petsam/image/export   state and options     -> a file to save
    GET  petsam/image/upright  `?image=id`           -> a JPEG, where browsers cannot show the file
    GET  petsam/files/...      the page's scripts, styles and examples

Errors are {"error": message}: 400 for an invalid request, 410 for an image that is no longer open
(send it again), 503 for too many requests (try again).
"""

import io
from pathlib import Path

from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from petsam_jax.ui.http import Workers, read_body, read_json, with_errors
from petsam_jax.ui.image_export import export_image
from petsam_jax.ui.image_service import ImageService
from petsam_jax.ui.page_state import read_state

HERE = Path(__file__).parent
FOLDERS = ("browser", "examples")


def image_routes(service: ImageService, workers: Workers) -> list[Route | Mount]:
    """The routes of the image tab, and the page's files."""

    async def open_image(request: Request) -> Response:
        file = await read_body(request, service.limits.max_upload)
        return JSONResponse(await workers.run(service.open, file))

    async def segment(request: Request) -> Response:
        state = read_state(await read_json(request))
        hint = request.query_params.get("hint") == "1"
        return JSONResponse(await workers.run(service.segment, state, unless_busy=hint))

    async def export(request: Request) -> Response:
        file = await workers.run(export_image, service, await read_json(request))
        return Response(file.data, media_type=file.mime)

    async def upright(request: Request) -> Response:
        name = request.query_params.get("image", "")
        file = await run_in_threadpool(_jpeg, service, name)
        return Response(file, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    posts = {"open": open_image, "segment": segment, "export": export}
    return [
        *(
            Route(f"/petsam/image/{name}", with_errors(handler), methods=["POST"])
            for name, handler in posts.items()
        ),
        Route("/petsam/image/upright", with_errors(upright), methods=["GET"]),
        *(Mount(f"/petsam/files/{name}", StaticFiles(directory=HERE / name)) for name in FOLDERS),
    ]


def _jpeg(service: ImageService, name: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(service.pixels(name)).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()
