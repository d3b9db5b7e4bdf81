"""Who may show the page in a frame, and under which names: nobody else, unless flags name them."""

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from petsam_jax.cli import demo
from petsam_jax.ui.guard import Access, Guard


def visit(access: Access, **headers):
    """The answer of a server behind the guard."""
    route = Route("/", lambda request: PlainTextResponse("page"), methods=["GET", "POST"])
    guard = Middleware(Guard, access, max_body=100, larger={})
    client = TestClient(Starlette(routes=[route], middleware=[guard]))
    return client.get("/", headers={"Host": "localhost", **headers})


@pytest.mark.parametrize(
    "given, sites",
    [
        ("https://huggingface.co", ["https://huggingface.co"]),
        ("https://HuggingFace.co/", ["https://huggingface.co"]),
        (
            "https://*.hf.space,https://huggingface.co",
            ["https://*.hf.space", "https://huggingface.co"],
        ),
        ("http://localhost:8888", ["http://localhost:8888"]),
        ("colab.research.google.com", ["colab.research.google.com"]),
        ("http://192.168.0.7:8888", ["http://192.168.0.7:8888"]),
        ("https://tierhaus-münchen.de", ["https://xn--tierhaus-mnchen-8vb.de"]),
    ],
)
def test_named_sites_may_show_the_page(given, sites):
    args = demo.parse_args(["--embed-in", given])
    assert args.sites == sites
    headers = visit(Access("127.0.0.1", args.hosts, args.sites)).headers
    policy = headers["content-security-policy"]
    assert policy.endswith(f"; frame-ancestors 'self' {' '.join(sites)}")
    # It would forbid what the policy allows.
    assert "x-frame-options" not in headers


@pytest.mark.parametrize(
    "given",
    ["", "*", "https://", "https://*", "https://a.org/path", "https://a.org; script-src *", "a b"]
    + [
        "'self'",
        "https://a.org,",
        "https://a.org:99999",
        "javascript:alert(1)",
        "https://a.org\r\nX: y",
    ]
    + ["https://user@a.org", "https://[::1]:80", "a..org", "-a.org", "https://a.org?x", "data:"],
)
def test_what_is_no_site_is_refused(given, capsys):
    with pytest.raises(SystemExit):
        demo.parse_args([f"--embed-in={given}"])
    assert "expected a site such as https://huggingface.co" in capsys.readouterr().err


def test_no_other_site_shows_the_page_by_default():
    args = demo.parse_args([])
    assert (args.sites, args.hosts) == ([], [])
    headers = visit(Access("0.0.0.0")).headers
    assert headers["content-security-policy"].endswith("; frame-ancestors 'self'")
    assert headers["x-frame-options"] == "SAMEORIGIN"


@pytest.mark.parametrize(
    "given, host",
    [
        ("pets.example.org", "pets.example.org"),
        ("Pets.Example.org.", "pets.example.org:8443"),
        ("pets.example.org", "PETS.example.org."),
        ("a.org,pets.example.org", "pets.example.org"),
        ("my_pets", "my_pets:80"),
        ("192.168.0.7", "192.168.0.7"),
        ("fd00::7", "[fd00::7]:7860"),
        ("[FD00::7]", "[fd00::7]"),
        ("tierhaus-münchen.de", "xn--tierhaus-mnchen-8vb.de"),
    ],
)
def test_a_proxy_may_pass_on_named_hosts(given, host):
    args = demo.parse_args(["--allow-host", given])
    assert visit(Access("127.0.0.1", args.hosts), Host=host).status_code == 200
    refused = visit(Access("127.0.0.1"), Host=host)
    assert refused.status_code == 421 and "--allow-host NAME" in refused.json()["error"]
    assert "x-frame-options" in refused.headers


@pytest.mark.parametrize(
    "given",
    ["", "*", "https://pets.example.org", "pets.example.org:80", "pets.example.org/x", "a b", "a,"]
    + ["*.example.org", "a..b", "-a", "a\r\nb", "user@a.org"],
)
def test_what_is_no_host_is_refused(given, capsys):
    with pytest.raises(SystemExit):
        demo.parse_args([f"--allow-host={given}"])
    assert "expected a host name such as pets.example.org" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["evil.example", "pets.example.org.evil.example", "", "[::2]"])
def test_other_hosts_stay_refused(host):
    assert visit(Access("127.0.0.1", ["pets.example.org"]), Host=host).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:7860", "127.0.0.1", "[::1]", "[::1]:80"])
def test_this_machine_keeps_its_names(host):
    assert visit(Access("127.0.0.1", ["pets.example.org"]), Host=host).status_code == 200


def test_flags_repeat():
    argv = ["--allow-host=a.org", "--allow-host=b.org", "--embed-in=a.org", "--embed-in=b.org"]
    args = demo.parse_args(argv)
    assert args.hosts == args.sites == ["a.org", "b.org"]
    assert demo.parse_args([]).hosts == []
