"""The page: a Gradio app with a tab for pictures and one for clips, and the API `segment`.

What it looks like is in `browser`: `header.html`, a file for each tab, `page.css`, and scripts
that the browser loads as modules from `studio/files/browser`.
"""

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

# Read when Gradio is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.middleware import Middleware

from petsam_jax.ui.api import segment_function
from petsam_jax.ui.guard import Guard
from petsam_jax.ui.http import Workers
from petsam_jax.ui.image_service import ImageService
from petsam_jax.ui.model_info import Facts
from petsam_jax.ui.routes import studio_routes
from petsam_jax.ui.video_routes import clip_routes
from petsam_jax.ui.video_service import VideoService

SWEEP_SECONDS = 60
BROWSER = Path(__file__).parent / "browser"
# Imported when a tab is shown first; errors go to where the visitor sees them.
START = """
const base = new URL('studio/', document.baseURI).href;
import(base + 'files/browser/SCRIPT').then((app) => app.start(element, base)).catch((error) => {
  element.querySelector('[data-words]').textContent = 'The page did not start: ' + error.message;
});
"""
# Label, id, what is in `browser`, and what is shown there.
TABS = (
    ("Picture", "studio", "image_tab.html", "image_tab.js", "picture"),
    ("Video", "video", "video_tab.html", "video_tab.js", "frame"),
)
# A line of a tab's HTML that stands for a file which both tabs have a use for.
PART = re.compile(r"^ *<!-- (part_\w+\.html) -->\n", re.MULTILINE)
SANS = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]


def make_app(
    studio: ImageService, clips: VideoService, facts: Facts, host: str = "127.0.0.1"
) -> FastAPI:
    """The whole server; `facts` about the weights are shown in the page's head."""
    workers = Workers(studio.limits.waiting)
    most = int(studio.limits.max_upload * 1.4) + 1_000_000  # A file in base64, and around it.
    larger = {"/studio/clip/open": clips.limits.max_clip_upload}
    app = FastAPI(
        openapi_url=None,
        lifespan=lambda _: _sweeping(studio, clips),
        routes=[*studio_routes(studio, workers), *clip_routes(clips, workers)],
        middleware=[Middleware(Guard, host=host, max_body=most, larger=larger)],
    )
    return gr.mount_gradio_app(
        app,
        make_blocks(studio, clips, facts),
        path="/",
        server_name=host,
        ssr_mode=False,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        max_file_size=studio.limits.max_upload,
        favicon_path=str(BROWSER / "favicon.svg"),
        theme=gr.themes.Base(font=SANS, font_mono=["ui-monospace", "monospace"]),
        css_paths=[BROWSER / "page.css", BROWSER / "video.css"],
        app_kwargs={"openapi_url": None, "docs_url": None, "redoc_url": None},
    )


@contextlib.asynccontextmanager
async def _sweeping(studio: ImageService, clips: VideoService) -> AsyncIterator[None]:
    async def sweep() -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            studio.pictures.sweep()
            await asyncio.to_thread(clips.clips.sweep)

    task = asyncio.create_task(sweep())
    yield
    task.cancel()
    await asyncio.to_thread(clips.close)


def run(app: FastAPI, host: str, port: int, tell: Callable[[int], None]) -> None:
    """Serve until Ctrl-C; `tell` is called with the port, which is any if 0 was asked for.

    Raises OSError if the address is not to be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=512) as listening:
        tell(listening.getsockname()[1])
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)
        uvicorn.Server(config).run([listening])


def make_blocks(studio: ImageService, clips: VideoService, facts: Facts) -> gr.Blocks:
    """Gradio's part: the tabs and the API."""
    header = (BROWSER / "header.html").read_text("utf-8")
    with gr.Blocks(
        title="PetSAM", analytics_enabled=False, fill_width=True, delete_cache=(60, 600)
    ) as blocks:
        gr.HTML(
            html_template=header,
            js_on_load=None,
            apply_default_css=False,
            elem_id="header",
            facts=facts.quality or facts.size,
        )
        with gr.Tabs(elem_id="tabs"):
            # What is in a tab starts when it is first looked at.
            for label, name, body, script, shown in TABS:
                with gr.Tab(label):
                    gr.HTML(
                        html_template=_template(body),
                        js_on_load=START.replace("SCRIPT", script),
                        apply_default_css=False,
                        elem_id=name,
                        tab=name,
                        shown=shown,
                        most=clips.limits.max_clip_upload,
                    )
        gr.api(segment_function(studio), api_name="segment", concurrency_limit=1)
    blocks.queue(max_size=studio.limits.waiting, api_open=False)
    return blocks


def _template(name: str) -> str:
    """A file of `browser`, with its parts in place."""
    text = (BROWSER / name).read_text("utf-8")
    return PART.sub(lambda part: (BROWSER / part[1]).read_text("utf-8"), text)
