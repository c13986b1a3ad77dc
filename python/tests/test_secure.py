"""Encryption and tokens: as `yard login` keeps them, as variables, as arguments; and what comes of wrong ones."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

import trainyard
from tests.cluster import TINY, Cluster, yard
from trainyard import Client, InvalidArgument, JobState, PermissionDenied, Unauthenticated, UntrustedServer


@pytest.fixture
def ada(secure: Cluster, tmp_path: Path) -> str:
    """The token of a user; her settings are in `tmp_path / "config"`."""
    root = tmp_path / "root"
    yard("login", secure.address, secure.first_login("yard login"), config=root)
    return yard("token", "create", "--user", "ada", config=root).strip()


def test_what_yard_login_has_kept_is_used(
    secure: Cluster, ada: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard("login", secure.address, ada, config=tmp_path / "config")
    with Client() as client:
        assert client.server == secure.url
        assert (client.whoami().user, client.whoami().role) == ("ada", 2)
        job = client.train(secure.data, epochs=2, **TINY).wait()
        assert (job.user, job.state) == ("ada", JobState.SUCCEEDED)
        assert job.download("best", tmp_path).stat().st_size > 1_000_000
    # The environment counts before the file, and an argument before the environment.
    monkeypatch.setenv("YARD_TOKEN", secure.first_login("yard login"))
    assert Client().whoami().role == 3
    assert Client(token=ada).whoami().user == "ada"
    # An admin acts for her; of her, the scheduler believes no other name.
    assert Client(act_as="ada").train(secure.data, epochs=1, **TINY).cancel().user == "ada"
    with pytest.raises(PermissionDenied, match="only an admin acts for another"):
        Client(token=ada, act_as="root").train(secure.data, epochs=1, **TINY)


def test_the_file_of_the_authority_does_as_well(secure: Cluster, ada: str) -> None:
    authority = secure.folder / "scheduler" / "tls" / "ca.pem"
    assert Client(secure.url, token=ada, ca=authority).whoami().user == "ada"


def test_anothers_job_is_not_touched(secure: Cluster, ada: str) -> None:
    job = secure.client().train(secure.data, epochs=1000, **TINY)
    with pytest.raises(PermissionDenied, match=r"ask its owner or an admin.*`Client\(act_as=") as raised:
        Client(secure.url, token=ada).job(job.id).cancel()
    assert (raised.value.reason, raised.value.metadata["caller"]) == ("NOT_OWNER", "ada")
    job.cancel()


def test_a_token_that_is_revoked_or_unknown_is_told_apart(secure: Cluster, ada: str, tmp_path: Path) -> None:
    client = Client(secure.url, token=ada)
    job = client.train(secure.data, epochs=1000, **TINY)
    watch = job.watch()
    next(watch)
    yard("token", "revoke", ada.split(".")[2], config=tmp_path / "root")
    # A stream that is open ends within a second.
    with pytest.raises(Unauthenticated) as raised:
        list(watch)
    assert raised.value.reason in ("TOKEN_REVOKED", "TOKEN_INVALID")
    with pytest.raises(Unauthenticated, match="ask an admin for a new one, then run `yard login`"):
        client.jobs()
    secure.client().job(job.id).cancel()
    pin, unknown = ada.split(".")[1], f"{'0' * 16}.{'0' * 64}"
    with pytest.raises(Unauthenticated):
        Client(secure.url, token=f"ty1.{pin}.{unknown}").jobs()


def test_without_a_token_the_way_out_is_a_login(secure: Cluster) -> None:
    authority = secure.folder / "scheduler" / "tls" / "ca.pem"
    with pytest.raises(Unauthenticated, match="run `yard login`, or set YARD_TOKEN"):
        Client(secure.url, ca=authority).jobs()
    # In plaintext, it says that it wants encryption.
    with pytest.raises(trainyard.FailedPrecondition, match="yard login") as raised:
        Client(f"http://{secure.address}").jobs()
    assert raised.value.reason == "TLS_REQUIRED"


def test_a_token_of_another_cluster_is_not_sent(secure: Cluster, ada: str) -> None:
    _, _, token_id, secret = ada.split(".")
    with pytest.raises(UntrustedServer, match="another key than the token names; the token was not sent"):
        Client(secure.url, token=f"ty1.{'0' * 32}.{token_id}.{secret}").jobs()


def _certificate_for(usage: str, authority: Path, folder: Path) -> tuple[Path, Path]:
    """A certificate of this cluster's authority for 127.0.0.1, and its key."""
    extensions = f"subjectAltName=DNS:lab.example,IP:127.0.0.1\\nextendedKeyUsage={usage}\\n"
    script = f"""
        openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out request -subj /CN=x
        printf '{extensions}' >extensions
        openssl x509 -req -in request -CA {authority}/ca.pem -CAkey {authority}/ca.key -days 2 \\
            -extfile extensions -out cert.pem
    """
    subprocess.run(["bash", "-ec", script], cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


@pytest.mark.parametrize("usage", ["clientAuth", "serverAuth"])
def test_a_server_with_a_certificate_for_agents_is_not_trusted(
    secure: Cluster, ada: str, tmp_path: Path, usage: str
) -> None:
    """Agents' certificates are of the same authority. Who holds one cannot pose as the scheduler."""
    authority = secure.folder / "scheduler" / "tls"
    certificate, key = _certificate_for(usage, authority, tmp_path)
    with Impostor(certificate, key, authority / "ca.pem") as impostor, pytest.raises(trainyard.Unavailable) as raised:
        Client(f"https://{impostor.address}", token=ada, timeout=5).jobs()
    asked = [request.partition(b" ")[0] for request in impostor.requests]
    if usage == "clientAuth":
        assert isinstance(raised.value, UntrustedServer)
        assert "unsupported certificate purpose; the token was not sent" in str(raised.value)
        assert asked == [b"GET"]
    else:
        # A scheduler's would have been asked: the test can fail.
        assert b"PRI" in asked


class Impostor:
    """A server that shows a certificate and gives out the authority's, as a scheduler does."""

    def __init__(self, certificate: Path, key: Path, authority: Path) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._context.set_alpn_protocols(["h2", "http/1.1"])
        self._authority = authority.read_bytes()
        self.requests: list[bytes] = []

    def __enter__(self) -> Impostor:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(plain, server_side=True) as stream:
                    self.requests.append(stream.recv(4096))
                    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(self._authority)}\r\n\r\n"
                    stream.sendall(head.encode() + self._authority)
            except OSError:
                continue


def test_a_token_in_a_file_that_others_can_read_is_refused(secure: Cluster, ada: str, tmp_path: Path) -> None:
    yard("login", secure.address, ada, config=tmp_path / "config")
    file = tmp_path / "config" / "trainyard" / "cli.toml"
    file.chmod(0o640)
    with pytest.raises(InvalidArgument, match=f"others on this machine may read it; run `chmod 600 {file}`"):
        Client()


def test_a_leader_change_costs_an_encrypted_client_nothing(secure: Cluster, ada: str) -> None:
    client = Client(secure.url, token=ada)
    job = client.train(secure.data, epochs=4, **TINY)
    watch = job.watch()
    next(watch)
    secure.kill()
    secure.start_scheduler()
    assert [event.cursor for event in watch][:1] == [2]
    assert job.state is JobState.SUCCEEDED
