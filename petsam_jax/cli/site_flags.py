"""Flags of `petsam demo` for a page that other sites show, or that a proxy passes on.

add_sites(parser)
args = parser.parse_args()
args.sites, args.hosts     # ["https://huggingface.co"], ["pets.example.org"]
"""

import argparse
import ipaddress
import re

LABEL = r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?"
NAME = rf"{LABEL}(\.{LABEL})*"
OTHER_SCRIPT = re.compile(r"[\w-]*[^\W\x00-\x7f][\w-]*")
HOST = re.compile(NAME)
# What Content-Security-Policy calls a host source, but for its path.
SITE = re.compile(rf"(https?://)?(\*\.)?(?P<name>{NAME})(:(?P<port>\d+))?")


def add_sites(parser: argparse.ArgumentParser) -> None:
    """`args.sites` and `args.hosts`, both empty unless given."""
    group = parser.add_argument_group("other sites and proxies (default: none)")
    group.add_argument(
        "--embed-in",
        dest="sites",
        action="extend",
        type=sites,
        default=[],
        metavar="SITE",
        help="site that may show the page in a frame, such as https://huggingface.co or "
        "https://*.example.org; repeat it, or separate sites by commas",
    )
    group.add_argument(
        "--allow-host",
        dest="hosts",
        action="extend",
        type=hosts,
        default=[],
        metavar="NAME",
        help="host name under which a proxy on this machine serves the page, such as "
        "pets.example.org; repeat it, or separate names by commas",
    )


def sites(text: str) -> list[str]:
    """Sites as the header frame-ancestors takes them."""
    return [_site(part) for part in text.split(",")]


def hosts(text: str) -> list[str]:
    """Host names in lower case, IPv6 addresses in brackets as in the header Host."""
    return [_host(part) for part in text.split(",")]


def _site(text: str) -> str:
    site = _ascii(text.strip().removesuffix("/"))
    match = SITE.fullmatch(site)
    if not match or int(match["port"] or 1) not in range(1, 65536):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected a site such as https://huggingface.co or https://*.example.org, "
            "without a path"
        )
    return site


def _host(text: str) -> str:
    host = _ascii(text.strip().removesuffix("."))
    try:
        address = ipaddress.ip_address(host.strip("[]"))
        return f"[{address}]" if address.version == 6 else str(address)
    except ValueError:
        pass
    if not HOST.fullmatch(host):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected a host name such as pets.example.org, without scheme, port or path"
        )
    return host


def _ascii(text: str) -> str:
    """In lower case, with labels of other scripts as browsers send them."""
    try:
        return OTHER_SCRIPT.sub(lambda label: label[0].encode("idna").decode(), text.lower())
    except UnicodeError:
        return text
