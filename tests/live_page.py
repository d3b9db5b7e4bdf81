"""The page on a server in this process, with a predictor that takes red for a pet."""

import contextlib
import socket
import threading
import time

import uvicorn

from petsam_jax.ui.image_service import ImageService
from petsam_jax.ui.model_info import ModelInfo
from petsam_jax.ui.page import make_app
from petsam_jax.ui.video_service import VideoService
from tests.red_predictor import RedVideo

INFO = ModelInfo("runs/red", "0.0 M parameters", "IoU 1.00 with a click on red")


@contextlib.contextmanager
def serving(images: ImageService, videos: VideoService | None = None):
    """The address of a server that runs as long as the context."""
    app = make_app(images, videos or VideoService(RedVideo()), INFO)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)
