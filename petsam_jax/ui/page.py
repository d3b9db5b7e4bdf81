"""The page: a Gradio app with a tab for photos and one for videos, and the API `segment`.

Its looks and scripts are in `browser`: `header.html`, a file for each tab, style sheets, and
modules that the browser loads from `petsam/files/browser`.
"""

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

# Gradio reads it when it is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.middleware import Middleware

from petsam_jax.ui.api import segment_function
from petsam_jax.ui.guard import Access, Guard, is_local
from petsam_jax.ui.http import Workers
from petsam_jax.ui.image_service import ImageService
from petsam_jax.ui.model_info import ModelInfo
from petsam_jax.ui.routes import image_routes
from petsam_jax.ui.video_routes import video_routes
from petsam_jax.ui.video_service import VideoService

SWEEP_SECONDS = 60
BROWSER = Path(__file__).parent / "browser"
# Runs when a tab is first shown.
START = """
const base = new URL('petsam/', document.baseURI).href;
import(base + 'files/browser/SCRIPT').then((tab) => tab.start(element, base)).catch((error) => {
  element.querySelector('[data-message]').textContent = `Failed to start: ${error.message}`;
});
"""


class Tab(NamedTuple):
    label: str
    id: str
    html: str
    script: str


TABS = (
    Tab("Photo", "image-tab", "image_tab.html", "image_tab.js"),
    Tab("Video", "video-tab", "video_tab.html", "video_tab.js"),
)
# A line of a tab's HTML that stands for a file which both tabs share.
PART = re.compile(r"^ *<!-- (part_\w+\.html) -->\n", re.MULTILINE)
SANS = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]


def make_app(
    images: ImageService,
    videos: VideoService,
    info: ModelInfo,
    host: str = "127.0.0.1",
    allowed_hosts: Sequence[str] = (),
    sites: Sequence[str] = (),
) -> FastAPI:
    """The whole server, bound to `host`; see `Guard` for the rest."""
    workers = Workers(images.limits.waiting)
    # A file in base64, and what is around it.
    max_body = int(images.limits.max_upload * 1.4) + 1_000_000
    larger = {"/petsam/video/open": videos.limits.max_clip_upload}
    app = FastAPI(
        openapi_url=None,
        lifespan=lambda _: _sweeping(images, videos),
        routes=[*image_routes(images, workers), *video_routes(videos, workers)],
        middleware=[
            Middleware(Guard, Access(host, allowed_hosts, sites), max_body=max_body, larger=larger)
        ],
    )
    return gr.mount_gradio_app(
        app,
        make_blocks(images, videos, info, host),
        path="/",
        server_name=host,
        ssr_mode=False,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        max_file_size=images.limits.max_upload,
        favicon_path=str(BROWSER / "favicon.svg"),
        theme=gr.themes.Base(font=SANS, font_mono=["ui-monospace", "monospace"]),
        css_paths=[BROWSER / "page.css", BROWSER / "video.css"],
        app_kwargs={"openapi_url": None, "docs_url": None, "redoc_url": None},
    )


@contextlib.asynccontextmanager
async def _sweeping(images: ImageService, videos: VideoService) -> AsyncIterator[None]:
    async def sweep() -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            images.images.sweep()
            await asyncio.to_thread(videos.clips.sweep)

    task = asyncio.create_task(sweep())
    yield
    task.cancel()
    await asyncio.to_thread(videos.close)


def run(app: FastAPI, host: str, port: int, on_start: Callable[[int], None]) -> None:
    """Serve until Ctrl-C. Calls `on_start` with the port, which is a free one if `port` is 0.

    Raises OSError if the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=512) as listening:
        on_start(listening.getsockname()[1])
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)
        uvicorn.Server(config).run([listening])


def make_blocks(
    images: ImageService, videos: VideoService, info: ModelInfo, host: str = "127.0.0.1"
) -> gr.Blocks:
    """Gradio's part: the tabs and the API."""
    values = {
        "place": "this computer" if is_local(host) else "the server",
        "quality": info.quality or "Not measured.",
        "size": info.size,
        "max_bytes": videos.limits.max_clip_upload,
    }
    options = {"apply_default_css": False, **values}
    with gr.Blocks(
        title="PetSAM", analytics_enabled=False, fill_width=True, delete_cache=(60, 600)
    ) as blocks:
        header = _template("header.html")
        gr.HTML(html_template=header, js_on_load=None, elem_id="header", **options)
        with gr.Tabs(elem_id="tabs"):
            for tab in TABS:
                with gr.Tab(tab.label):
                    gr.HTML(
                        html_template=_template(tab.html),
                        js_on_load=START.replace("SCRIPT", tab.script),
                        elem_id=tab.id,
                        tab=tab.id,
                        **options,
                    )
        gr.api(segment_function(images), api_name="segment", concurrency_limit=1)
    blocks.queue(max_size=images.limits.waiting, api_open=False)
    return blocks


def _template(name: str) -> str:
    """A file of `browser`, with its parts in place."""
    text = (BROWSER / name).read_text("utf-8")
    return PART.sub(lambda part: (BROWSER / part[1]).read_text("utf-8"), text)
