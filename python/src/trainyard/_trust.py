"""Whom to trust: servers of the authority that the token's pin names, or of a file of authorities.

gRPC for Python checks servers by a list of authorities only. So the authority's certificate is fetched first, over a
connection that nobody vouches for, and counts if its key has the pin. What was fetched is then the only authority of
the connection that the token goes through.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import http.client
import ssl
import threading
from dataclasses import dataclass

import grpc

from trainyard import _address, _certificate
from trainyard._answer import NO_ANSWER, Answer
from trainyard._settings import Settings
from trainyard._steps import CallFailed
from trainyard.errors import InvalidArgument, UntrustedServer

_PIN_BYTES = 16
#: A certificate of an authority is below 1 KiB.
_LONGEST_PEM = 1 << 16


@dataclass(frozen=True)
class Trust:
    """What an encrypted connection is checked by; None for a connection in plaintext."""

    credentials: grpc.ChannelCredentials | None
    #: The name that the server's certificate is for, where it need not be the address.
    name: str | None = None


def trust_for(settings: Settings, server: str, timeout: float) -> Trust:
    """Finds out how to check `server`. Blocks for `timeout` seconds at most; sends nothing secret."""
    if not server.startswith("https://"):
        return Trust(None)
    if settings.ca is not None:
        try:
            authorities = settings.ca.read_bytes()
        except OSError as error:
            raise InvalidArgument.of("ca", f"{settings.ca} cannot be read: {error.strerror}") from None
        if b"-----BEGIN CERTIFICATE-----" not in authorities:
            raise InvalidArgument.of("ca", f"{settings.ca} has no certificate in PEM; name the file of an authority")
        return Trust(grpc.ssl_channel_credentials(authorities))
    pin = settings.credential.pin if settings.credential else None
    address = server.removeprefix("https://")
    if pin is None:
        why = "" if settings.credential is None else ": the token is not one of Trainyard's"
        raise InvalidArgument.of(
            "server",
            f"is `{server}`, and nothing says which server to trust{why}; log in with `yard login {address}`, give a "
            "token with `Client(token=...)` or YARD_TOKEN, or name the file of its authority with `Client(ca=...)`",
        )
    authority, shown = _ask_within(timeout, server)
    if not _has_pin(authority, pin):
        raise UntrustedServer(
            f"the server at {server} is another cluster's, or somebody sits between: its authority has another key "
            "than the token names; the token was not sent. Check the address; if the cluster was set up anew, ask an "
            f"admin for a new token and run `yard login {address}`"
        )
    # The authority is the cluster's own and signs for its schedulers alone: whatever name it has signed will do.
    names = _certificate.names(shown)
    return Trust(grpc.ssl_channel_credentials(authority), names[0] if names else None)


def _has_pin(pem: bytes, pin: bytes) -> bool:
    try:
        key = _certificate.public_key(ssl.PEM_cert_to_DER_cert(pem.decode("ascii").strip()))
    except ValueError:
        return False
    return hashlib.sha256(key).digest()[:_PIN_BYTES] == pin


def _ask_within(timeout: float, server: str) -> tuple[bytes, bytes]:
    """Asks in a thread of its own, which nobody waits for when the time is up. Looking a name up knows no limit, and
    each address of a host and each part of an answer has a limit of its own."""
    result: concurrent.futures.Future[tuple[bytes, bytes]] = concurrent.futures.Future()

    def ask() -> None:
        try:
            result.set_result(_ask(server, timeout))
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=ask, name="trainyard-authority", daemon=True).start()
    try:
        return result.result(timeout)
    except concurrent.futures.TimeoutError:
        raise CallFailed(Answer("UNAVAILABLE", NO_ANSWER, is_answer=False)) from None


def _ask(server: str, timeout: float) -> tuple[bytes, bytes]:
    """The authority's certificate as the server gives it (PEM), and the one that the server shows (DER)."""
    context = ssl.create_default_context()
    # Nothing is sent here that matters, and nothing is believed that has not the pin.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    host, port = _address.host_and_port(server)
    connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
    try:
        connection.connect()
        shown = connection.sock.getpeercert(binary_form=True) or b""
        connection.request("GET", "/ca.pem")
        response = connection.getresponse()
        text = response.read(_LONGEST_PEM)
    except ssl.SSLError as error:
        plain = (
            "the server does not speak TLS"
            if error.reason in _PLAINTEXT
            else f"no encrypted connection: {error.reason}"
        )
        raise UntrustedServer(
            f"the server at {server} cannot be reached: {plain}; nothing was sent. A scheduler that listens on "
            f'loopback alone needs no login: `Client("http://{server.removeprefix("https://")}")`'
        ) from None
    except UnicodeError:
        # Before it is looked up: a part of the name is empty, or too long.
        raise InvalidArgument.of("server", f"is `{server}`, and `{host}` cannot be a name; correct it") from None
    except (OSError, http.client.HTTPException) as error:
        late = NO_ANSWER if isinstance(error, TimeoutError) and not error.strerror else None
        cause = late or getattr(error, "strerror", None) or str(error) or type(error).__name__
        # Another try may help, and another scheduler: that is for the session to say.
        raise CallFailed(Answer("UNAVAILABLE", cause, is_answer=False)) from None
    finally:
        connection.close()
    return (text if response.status == http.client.OK else b""), shown


#: What OpenSSL says to an answer in plaintext.
_PLAINTEXT = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNEXPECTED_EOF_WHILE_READING", "PACKET_LENGTH_TOO_LONG")
