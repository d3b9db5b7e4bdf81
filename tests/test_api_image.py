"""Images as programs send them to the API: every common way to write base64, and uploads."""

import base64
import textwrap
from urllib.parse import quote

import pytest

from petsam_jax.ui import api_image
from petsam_jax.ui.api import read_prompts
from petsam_jax.ui.api_image import image_bytes
from petsam_jax.ui.request_fields import BadRequest

# With both of the letters that the alphabets differ in, and padding.
DATA = bytes(range(256)) + b"\xfb\xff\xfe~"
PLAIN = base64.b64encode(DATA).decode()
URL_SAFE = base64.urlsafe_b64encode(DATA).decode()
FORMS = {
    "plain": PLAIN,
    "unpadded": PLAIN.rstrip("="),
    "url safe": URL_SAFE,
    "url safe, unpadded": URL_SAFE.rstrip("="),
    "lines of 76, as in MIME": base64.encodebytes(DATA).decode(),
    "lines of CR LF": "\r\n".join(textwrap.wrap(PLAIN, 64)),
    "blanks and tabs": f" {PLAIN[:40]} \t{PLAIN[40:]}\n\n",
    "byte order mark": "\ufeff" + PLAIN,
    "data URL": "data:image/png;base64," + PLAIN,
    "data URL with a charset": "data:image/jpeg;charset=utf-8;base64," + PLAIN,
    "data URL with a name": 'data:image/jpeg;name="a cat.jpg";base64,' + PLAIN,
    "data URL without a type": "data:;base64," + PLAIN,
    "data URL in capitals": "DATA:IMAGE/PNG;BASE64," + PLAIN,
    "data URL after a blank": " data:image/png;base64,\n" + base64.encodebytes(DATA).decode(),
    "data URL, escaped": "data:image/png;base64," + quote(PLAIN, safe=""),
    "data URL without base64": "data:image/png," + quote(DATA, safe=""),
    "data URL, url safe": "data:image/png;base64," + URL_SAFE.rstrip("="),
    "only the end of a data URL": "base64," + PLAIN,
}


@pytest.mark.parametrize("form", FORMS)
def test_base64_is_read_in_every_form(form):
    assert image_bytes(FORMS[form]) == DATA
    assert image_bytes({"data": FORMS[form]}) == DATA


@pytest.mark.parametrize("form", [name for name in FORMS if name.startswith("data URL")])
def test_a_data_url_may_be_the_url_of_a_file(form):
    part = {"path": None, "url": FORMS[form], "meta": {"_type": "gradio.FileData"}}
    assert image_bytes(part) == DATA


@pytest.mark.parametrize(
    "sent, message",
    [
        ("", "it is empty"),
        ("data:image/png;base64,", "it is empty"),
        ("data:image/png", "a data URL without a comma"),
        ("***", "not base64"),
        ("AAAAA", "not base64"),
        ("AA=AA", "not base64"),
        ("größe", "not base64"),
        ("https://example.org/cat.jpg", "URLs are not fetched"),
        ({"url": "https://example.org/cat.jpg"}, "no such upload"),
        ("/etc/hostname.txt", "not base64"),
        ({"path": "/etc/hostname"}, "no such upload"),
        ({}, "expected a file"),
        ({"path": 3}, "expected a file"),
        (None, "expected a file"),
        (7, "expected a file"),
        ([], "expected a file"),
        ([PLAIN, PLAIN], "expected a file"),
    ],
)
def test_anything_else_is_refused(sent, message):
    with pytest.raises(BadRequest, match=f"^picture: .*{message}"):
        image_bytes(sent)


@pytest.fixture
def upload(tmp_path, monkeypatch):
    """A file in the folder of uploads."""
    monkeypatch.setattr(api_image, "get_upload_folder", lambda: str(tmp_path / "uploads"))
    (tmp_path / "uploads" / "a b").mkdir(parents=True)
    path = tmp_path / "uploads" / "a b" / "cat.png"
    path.write_bytes(DATA)
    return path


FILE_PARTS = {
    "path": lambda path: {"path": path, "meta": {"_type": "gradio.FileData"}},
    "path and url": lambda path: {"path": path, "url": f"http://x/gradio_api/file={path}"},
    "url": lambda path: {"url": f"http://localhost:7860/gradio_api/file={path}"},
    "escaped url": lambda path: {"url": f"http://localhost:7860/gradio_api/file={quote(path)}"},
    "only the path": lambda path: path,
    "what the upload returned": lambda path: [path],
    "list of a file": lambda path: [{"path": path}],
}


@pytest.mark.parametrize("part", FILE_PARTS)
def test_an_upload_is_read_once(upload, part):
    assert image_bytes(FILE_PARTS[part](str(upload))) == DATA
    assert not upload.exists()


def test_a_path_that_leaves_the_folder_is_no_upload(upload, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    (upload.parent / "link").symlink_to(tmp_path / "secret")
    for path in (upload.parent.parent.parent / "secret", upload.parent / "link"):
        for sent in ({"path": str(path)}, {"url": f"http://x/file={path}"}):
            with pytest.raises(BadRequest, match="no such upload"):
                image_bytes(sent)
    with pytest.raises(BadRequest):
        image_bytes({"path": f"{upload.parent}/../../secret"})
    assert (tmp_path / "secret").exists()


def test_prompts_of_several_objects():
    points, labels, boxes = (
        [[[1, 2]], [[3, 4], [5, 6]]],
        [[1], [1, 0]],
        [[0, 0, 9, 9], [1, 1, 8, 8]],
    )
    prompts = read_prompts(points, labels, boxes)
    assert [prompt.points for prompt in prompts] == [((1, 2),), ((3, 4), (5, 6))]
    assert [prompt.labels for prompt in prompts] == [(1,), (1, 0)]
    assert [prompt.box for prompt in prompts] == [(0, 0, 9, 9), (1, 1, 8, 8)]
    (one,) = read_prompts([[1, 2]], [1], [0, 0, 9, 9])
    assert (one.points, one.box) == (((1, 2),), (0, 0, 9, 9))
    with pytest.raises(BadRequest, match="boxes: 1 for the 2 objects"):
        read_prompts(points, labels, boxes[:1])
    with pytest.raises(BadRequest, match="boxes: only one together with points"):
        read_prompts([[1, 2]], [1], boxes)
