"""The page's server without a browser: its own requests, Gradio's API, and who is turned away."""

import base64
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image

from petsam_jax.files.rle import decode_rle
from petsam_jax.ui.guard import is_local
from petsam_jax.ui.image_service import ImageService
from petsam_jax.ui.limits import Limits
from tests.live_page import serving
from tests.red_predictor import RedPredictor, red_picture

RED = (30, 10, 42, 22)
FILE = red_picture(64, 36, RED)


@pytest.fixture(scope="module")
def studio():
    return ImageService(RedPredictor(), Limits(max_upload=100_000, waiting=4))


@pytest.fixture(scope="module")
def address(studio):
    with serving(studio) as address:
        yield address


@pytest.fixture(scope="module")
def web(address):
    with httpx.Client(base_url=address, timeout=20) as web:
        yield web


def state(web, **settings):
    picture = web.post("/studio/open", content=FILE).json()["picture"]
    click = {"clicks": [[36, 16, "auto"]]}
    return {"picture": picture, "objects": [click], "settings": settings}


def test_a_picture_goes_once_and_masks_come_back(web):
    opened = web.post("/studio/open", content=FILE).json()
    assert (opened["width"], opened["height"]) == (64, 36)
    answer = web.post("/studio/answer", json=state(web))
    assert answer.status_code == 200
    assert answer.json()["objects"][0]["reads"][0]["label"] == 1
    assert len(answer.content) < 4000
    saved = web.post("/studio/result", json={"state": state(web), "kind": "mask"})
    assert saved.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(saved.content)).size == (64, 36)
    upright = web.get("/studio/upright", params={"picture": opened["picture"]})
    assert Image.open(io.BytesIO(upright.content)).size == (64, 36)


@pytest.mark.parametrize(
    ("path", "sent", "status", "words"),
    [
        ("open", b"no picture", 400, "not an image"),
        ("open", bytes(100_001), 400, "more than 0.1 MB"),
        ("answer", b"{", 400, "not JSON"),
        ("answer", b"[" * 100_000, 400, "not JSON"),
        ("answer", b'{"picture": "feed", "objects": [{"find": true}]}', 410, "send it again"),
        ("answer", b'{"picture": "feed"}', 400, "objects: want a list"),
        ("result", b'{"kind": "mask"}', 400, "request: want a dictionary"),
        ("open", bytes(3_000_000), 413, "too large"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(web, path, sent, status, words):
    answer = web.post(f"/studio/{path}", content=sent)
    assert answer.status_code == status
    assert words in answer.json()["error"]


def test_a_body_without_a_length_ends_where_it_gets_too_large(web):
    def pieces():
        for _ in range(50):
            yield bytes(50_000)

    answer = web.post("/studio/open", content=pieces())
    assert answer.status_code == 400 and "more than" in answer.json()["error"]


def test_faults_inside_are_words_too_and_tell_nothing(web, studio, caplog):
    asked = state(web)
    asked["objects"][0]["clicks"] = [[1, 1, "pet"]]
    studio.predictor.delay = lambda: 1 / 0
    try:
        answer = web.post("/studio/answer", json=asked)
    finally:
        studio.predictor.delay = lambda: None
    assert answer.status_code == 500
    assert "something went wrong" in answer.json()["error"]
    assert "ZeroDivision" not in answer.text and "ZeroDivision" in caplog.text


def test_beyond_the_queue_visitors_are_asked_to_come_back(web, address, studio):
    gate = threading.Event()
    asked = state(web)
    studio.predictor.delay = lambda: gate.wait(10)

    def ask(x):
        said = asked | {"objects": [{"clicks": [[x, 3, "pet"]]}]}
        return httpx.post(f"{address}/studio/answer", json=said, timeout=20)

    with ThreadPoolExecutor(8) as visitors:
        answers = [visitors.submit(ask, x) for x in range(7)]
        until = time.monotonic() + 20
        while sum(answer.done() for answer in answers) < 3 and time.monotonic() < until:
            time.sleep(0.02)
        # A mere hint does not wait at all.
        hint = web.post("/studio/answer?hint=1", json=asked)
        studio.predictor.delay = lambda: None
        gate.set()
        statuses = sorted(answer.result().status_code for answer in answers)
    assert hint.status_code == 503
    assert statuses == [200] * 4 + [503] * 3
    assert ask(50).status_code == 200


def test_pages_of_other_sites_may_not_ask(web, address):
    for site in ("cross-site", "same-site"):
        answer = web.post("/studio/open", content=FILE, headers={"Sec-Fetch-Site": site})
        assert answer.status_code == 403
        call = web.post(
            "/gradio_api/call/segment", json={"data": []}, headers={"Sec-Fetch-Site": site}
        )
        assert call.status_code == 403
    # A name that was made to lead to this machine.
    answer = web.get("/", headers={"Host": "evil.example:7860"})
    assert answer.status_code == 421
    assert is_local("127.0.0.1") and is_local("::1") and not is_local("0.0.0.0")


def test_every_answer_forbids_the_browser_to_load_from_elsewhere(web):
    for path in ("/", "/studio/files/browser/image_tab.js", "/studio/upright?picture=x", "/config"):
        policy = web.get(path).headers["content-security-policy"]
        assert "default-src 'self'" in policy and "http" not in policy


@pytest.mark.parametrize(
    "path",
    [
        "/studio/files/browser/../page.py",
        "/studio/files/browser/%2e%2e/page.py",
        "/studio/files/browser/..%2f..%2fimage.py",
        "/studio/files/examples//etc/passwd",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=demo.py",
        "/file=/etc/passwd",
        "/openapi.json",
        "/docs",
        "/monitoring",
        "/monitoring/summary",
    ],
)
def test_no_other_file_and_no_inside_is_to_be_had(web, path):
    request = web.build_request("GET", path)
    # As it is, not as the client would tidy it.
    request.url = request.url.copy_with(raw_path=path.encode())
    assert web.send(request).status_code in (403, 404)


def test_segment_is_all_of_the_api(web):
    told = web.get("/gradio_api/info").json()
    assert list(told["named_endpoints"]) == ["/segment"] and not told["unnamed_endpoints"]
    parameters = told["named_endpoints"]["/segment"]["parameters"]
    assert [one["parameter_name"] for one in parameters] == ["picture", "points", "labels", "boxes"]
    assert told["named_endpoints"]["/segment"]["returns"][0]["type"]["type"] == "object"


def test_segment_by_gradio_client(address, studio, tmp_path):
    (tmp_path / "cat.png").write_bytes(FILE)
    client = Client(address, verbose=False, download_files=str(tmp_path))
    said = client.predict(
        picture=handle_file(tmp_path / "cat.png"),
        points=[[36, 16], [5, 30]],
        api_name="/segment",
    )
    assert said["size"] == [36, 64]
    (found,) = said["objects"]
    # Labels were read from the picture.
    assert found["labels"] == [1, 0]
    mask = decode_rle(found["rle"])
    picture = studio.pictures.get(studio.open(FILE)["picture"])
    own = studio.predictor.predict([(36, 16), (5, 30)], [1, 0], image=picture.encoded).masks[0]
    np.testing.assert_array_equal(mask, own)
    png = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["png"]))))
    np.testing.assert_array_equal(png > 0, mask)


def call(web, **arguments):
    """Plain HTTP, as the README has it."""
    event = web.post("/gradio_api/call/v2/segment", json=arguments).json()["event_id"]
    lines = web.get(f"/gradio_api/call/segment/{event}").text.splitlines()
    assert lines[0].startswith("event: ")
    return lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: ") or "null")


def test_segment_by_plain_http(web):
    text = base64.b64encode(FILE).decode()
    event, (said,) = call(web, picture=text, boxes=[[28, 8, 44, 24], [0, 0, 9, 9]])
    assert event == "complete" and len(said["objects"]) == 2
    event, (said,) = call(web, picture="data:image/png;base64," + text)
    assert event == "complete" and decode_rle(said["objects"][0]["rle"])[16, 36]


@pytest.mark.parametrize(
    "picture",
    [{"path": "/etc/hostname"}, {"path": "README.md"}, {}, {"path": 3}, "***", "aGVsbG8="],
)
def test_segment_opens_uploads_alone(web, picture):
    event, _ = call(web, picture=picture)
    assert event == "error"


def test_analytics_are_off():
    import gradio.analytics

    assert not gradio.analytics.analytics_enabled()
