"""The page's server without a browser: its own requests, Gradio's API, and refused requests."""

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
from tests.red_predictor import RedPredictor, red_image

RED = (30, 10, 42, 22)
FILE = red_image(64, 36, RED)


@pytest.fixture(scope="module")
def service():
    return ImageService(RedPredictor(), Limits(max_upload=100_000, waiting=4))


@pytest.fixture(scope="module")
def address(service):
    with serving(service) as address:
        yield address


@pytest.fixture(scope="module")
def web(address):
    with httpx.Client(base_url=address, timeout=20) as web:
        yield web


def state(web, **settings):
    image = web.post("/petsam/image/open", content=FILE).json()["image"]
    click = {"clicks": [[36, 16, "auto"]]}
    return {"image": image, "objects": [click], "settings": settings}


def test_an_image_is_sent_once_and_masks_come_back(web):
    opened = web.post("/petsam/image/open", content=FILE).json()
    assert (opened["width"], opened["height"]) == (64, 36)
    masks = web.post("/petsam/image/segment", json=state(web))
    assert masks.status_code == 200
    assert masks.json()["objects"][0]["clicks"][0]["label"] == 1
    assert len(masks.content) < 4000
    saved = web.post("/petsam/image/export", json={"state": state(web), "kind": "mask"})
    assert saved.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(saved.content)).size == (64, 36)
    upright = web.get("/petsam/image/upright", params={"image": opened["image"]})
    assert Image.open(io.BytesIO(upright.content)).size == (64, 36)


@pytest.mark.parametrize(
    ("path", "sent", "status", "message"),
    [
        ("open", b"no image", 400, "not an image"),
        ("open", bytes(100_001), 400, "larger than 0.1 MB"),
        ("segment", b"{", 400, "not JSON"),
        ("segment", b"[" * 100_000, 400, "not JSON"),
        ("segment", b'{"image": "feed", "objects": [{"find": true}]}', 410, "send it again"),
        ("segment", b'{"image": "feed"}', 400, "objects: expected a list"),
        ("export", b'{"kind": "mask"}', 400, "request: expected a dictionary"),
        ("open", bytes(3_000_000), 413, "too large"),
    ],
)
def test_invalid_requests_are_refused_with_a_message(web, path, sent, status, message):
    response = web.post(f"/petsam/image/{path}", content=sent)
    assert response.status_code == status
    assert message in response.json()["error"]


def test_a_body_without_a_length_is_cut_off_once_too_large(web):
    def chunks():
        for _ in range(50):
            yield bytes(50_000)

    response = web.post("/petsam/image/open", content=chunks())
    assert response.status_code == 400 and "larger than" in response.json()["error"]


def test_internal_errors_have_a_message_without_details(web, service, caplog):
    request = state(web)
    request["objects"][0]["clicks"] = [[1, 1, "pet"]]
    service.predictor.delay = lambda: 1 / 0
    try:
        response = web.post("/petsam/image/segment", json=request)
    finally:
        service.predictor.delay = lambda: None
    assert response.status_code == 500
    assert "something went wrong" in response.json()["error"]
    assert "ZeroDivision" not in response.text and "ZeroDivision" in caplog.text


def test_requests_beyond_the_queue_are_refused(web, address, service):
    gate = threading.Event()
    request = state(web)
    service.predictor.delay = lambda: gate.wait(10)

    def send(x):
        body = request | {"objects": [{"clicks": [[x, 3, "pet"]]}]}
        return httpx.post(f"{address}/petsam/image/segment", json=body, timeout=20)

    with ThreadPoolExecutor(8) as visitors:
        responses = [visitors.submit(send, x) for x in range(7)]
        until = time.monotonic() + 20
        while sum(response.done() for response in responses) < 3 and time.monotonic() < until:
            time.sleep(0.02)
        # A hint does not wait at all.
        hint = web.post("/petsam/image/segment?hint=1", json=request)
        service.predictor.delay = lambda: None
        gate.set()
        statuses = sorted(response.result().status_code for response in responses)
    assert hint.status_code == 503
    assert statuses == [200] * 4 + [503] * 3
    assert send(50).status_code == 200


def test_requests_from_other_sites_are_refused(web, address):
    for site in ("cross-site", "same-site"):
        response = web.post("/petsam/image/open", content=FILE, headers={"Sec-Fetch-Site": site})
        assert response.status_code == 403
        call = web.post(
            "/gradio_api/call/segment", json={"data": []}, headers={"Sec-Fetch-Site": site}
        )
        assert call.status_code == 403
    # A foreign host name that resolves to this machine.
    response = web.get("/", headers={"Host": "evil.example:7860"})
    assert response.status_code == 421
    assert is_local("127.0.0.1") and is_local("::1") and not is_local("0.0.0.0")


def test_every_response_forbids_the_browser_to_load_from_elsewhere(web):
    script = "/petsam/files/browser/image_tab.js"
    for path in ("/", script, "/petsam/image/upright?image=x", "/config"):
        policy = web.get(path).headers["content-security-policy"]
        assert "default-src 'self'" in policy and "http" not in policy


@pytest.mark.parametrize(
    "path",
    [
        "/petsam/files/browser/../page.py",
        "/petsam/files/browser/%2e%2e/page.py",
        "/petsam/files/browser/..%2f..%2fnormalise.py",
        "/petsam/files/examples//etc/passwd",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=demo.py",
        "/file=/etc/passwd",
        "/openapi.json",
        "/docs",
        "/monitoring",
        "/monitoring/summary",
    ],
)
def test_other_files_and_gradio_internals_are_not_served(web, path):
    request = web.build_request("GET", path)
    # Unchanged, since the client would normalise it.
    request.url = request.url.copy_with(raw_path=path.encode())
    assert web.send(request).status_code in (403, 404)


def test_segment_is_the_whole_api(web):
    info = web.get("/gradio_api/info").json()
    assert list(info["named_endpoints"]) == ["/segment"] and not info["unnamed_endpoints"]
    parameters = info["named_endpoints"]["/segment"]["parameters"]
    names = [parameter["parameter_name"] for parameter in parameters]
    assert names == ["picture", "points", "labels", "boxes"]
    assert info["named_endpoints"]["/segment"]["returns"][0]["type"]["type"] == "object"


def test_segment_by_gradio_client(address, service, tmp_path):
    (tmp_path / "cat.png").write_bytes(FILE)
    client = Client(address, verbose=False, download_files=str(tmp_path))
    result = client.predict(
        picture=handle_file(tmp_path / "cat.png"),
        points=[[36, 16], [5, 30]],
        api_name="/segment",
    )
    assert result["size"] == [36, 64]
    (found,) = result["objects"]
    # The labels are automatic.
    assert found["labels"] == [1, 0]
    mask = decode_rle(found["rle"])
    image = service.images.get(service.open(FILE)["image"])
    own = service.predictor.predict([(36, 16), (5, 30)], [1, 0], image=image.encoded).masks[0]
    np.testing.assert_array_equal(mask, own)
    png = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["png"]))))
    np.testing.assert_array_equal(png > 0, mask)


def call(web, **arguments):
    """Plain HTTP, as in the README."""
    event = web.post("/gradio_api/call/v2/segment", json=arguments).json()["event_id"]
    lines = web.get(f"/gradio_api/call/segment/{event}").text.splitlines()
    assert lines[0].startswith("event: ")
    return lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: ") or "null")


def test_segment_by_plain_http(web):
    text = base64.b64encode(FILE).decode()
    event, (result,) = call(web, picture=text, boxes=[[28, 8, 44, 24], [0, 0, 9, 9]])
    assert event == "complete" and len(result["objects"]) == 2
    event, (result,) = call(web, picture="data:image/png;base64," + text)
    assert event == "complete" and decode_rle(result["objects"][0]["rle"])[16, 36]


def test_segment_takes_a_flat_box_and_points_with_an_axis_of_objects(web):
    text = base64.b64encode(FILE).decode()
    _, (flat,) = call(web, picture=text, boxes=[28, 8, 44, 24])
    _, (nested,) = call(web, picture=text, boxes=[[28, 8, 44, 24]])
    assert flat == nested and len(flat["objects"]) == 1
    points, labels = [[[36, 16]], [[37, 17]]], [[1], [1]]
    _, (several,) = call(web, picture=text, points=points, labels=labels)
    _, (automatic,) = call(web, picture=text, points=points)
    _, (one,) = call(web, picture=text, points=points[0], labels=labels[0])
    assert several == automatic and several["objects"][0] == one["objects"][0]
    assert [found["labels"] for found in several["objects"]] == labels


@pytest.mark.parametrize(
    "given, message",
    [
        ({"picture": "***"}, "picture: expected a file, or its bytes in base64"),
        ({"picture": "aGVsbG8="}, "picture: "),
        ({"picture": []}, "picture: expected a file"),
        ({"points": [["a", 2]]}, "points: not an array of numbers"),
        ({"points": [[1, 2], [3]]}, "points: not an array of numbers"),
        ({"points": [[999, 2]]}, "points: (999, 2) is outside the image"),
        ({"points": [[1, 2]], "labels": [7]}, "labels: [7.0]; expected 1 in, 0 out"),
        ({"points": [[[1, 2]]], "labels": [1]}, "labels: expected 1 lists"),
        ({"boxes": [1, 2, 3]}, "boxes: shape (3,); expected (4,)"),
    ],
)
def test_segment_names_what_is_wrong(web, given, message, caplog, capfd):
    given = {"picture": base64.b64encode(FILE).decode()} | given
    event, told = call(web, **given)
    assert event == "error" and message in str(told)
    assert "Traceback" not in caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "picture",
    [{"path": "/etc/hostname"}, {"path": "README.md"}, {}, {"path": 3}, "***", "aGVsbG8="],
)
def test_segment_opens_only_uploads(web, picture):
    event, _ = call(web, picture=picture)
    assert event == "error"


def test_analytics_are_off():
    import gradio.analytics

    assert not gradio.analytics.analytics_enabled()
