"""Addresses of servers as people write them, and whether a connection there is encrypted."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from trainyard.errors import InvalidArgument

DEFAULT_SERVER = "http://127.0.0.1:7433"
_DEFAULT_PORT = 7433


@dataclass(frozen=True)
class Habit:
    """What decides about an address without a scheme."""

    #: The servers of ``cli.toml``, as they are written there.
    stored: list[str]
    #: Whether an encrypted server is meant: there is a token to be sent, or a file of authorities to check it by.
    encrypts: bool

    def scheme(self, address: str) -> str:
        """``https`` where that was stored for this address. On loopback it is ``http`` otherwise: that is where open
        schedulers are. Elsewhere it is ``https`` for those who have a token, or have logged in somewhere."""
        encrypted = [server for server in self.stored if server.startswith("https://")]
        if any(server.removeprefix("https://").rstrip("/") == address for server in encrypted):
            return "https"
        if _is_loopback(address):
            return "http"
        return "https" if self.encrypts or encrypted else "http"


def is_here(url: str) -> bool:
    """Whether a URL is of this machine itself."""
    return _is_loopback(url.partition("://")[2])


def _is_loopback(address: str) -> bool:
    try:
        host = urlsplit(f"//{address}").hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_list(text: str) -> list[str]:
    """The addresses in a list with commas."""
    return [address.strip() for address in text.split(",") if address.strip()]


def server_url(text: str, habit: Habit) -> str:
    """The URL of a server. ``lab`` gets the usual port, and the scheme that `habit` says."""
    text = text.strip().rstrip("/")
    _refuse_without_brackets(text)
    bare = "://" not in text
    address = _with_port(text) if bare else text
    url = f"{habit.scheme(address)}://{address}" if bare else text
    try:
        parsed = urlsplit(url)
        # Reading the port checks it.
        host = parsed.hostname if parsed.port != 0 else None
    except ValueError:
        host, parsed = None, urlsplit("")
    usable = parsed.scheme in ("http", "https") and host and not parsed.netloc.endswith(":")
    more = parsed.path or parsed.query or parsed.fragment or parsed.username is not None
    if not usable or more or any(letter.isspace() for letter in url):
        raise InvalidArgument.of("server", f"is `{text}`, which is no address; write `{DEFAULT_SERVER}` or `lab:7433`")
    return url


def _with_port(address: str) -> str:
    try:
        has_port = urlsplit(f"//{address}").port is not None
    except ValueError:
        return address
    return address if has_port or address.endswith(":") else f"{address}:{_DEFAULT_PORT}"


def _refuse_without_brackets(text: str) -> None:
    host = text.partition("://")[2] or text
    try:
        ip = ipaddress.IPv6Address(host)
    except ValueError:
        return
    raise InvalidArgument.of(
        "server", f"is `{text}`, an address of IPv6; write it in brackets: `[{ip}]:{_DEFAULT_PORT}`"
    )


def grpc_target(url: str) -> str:
    """`host:port`, as gRPC and sockets want it."""
    parsed = urlsplit(url)
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    host = parsed.hostname or ""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def host_and_port(url: str) -> tuple[str, int]:
    """The same for a socket."""
    parsed = urlsplit(url)
    return parsed.hostname or "", parsed.port or (443 if parsed.scheme == "https" else 80)
