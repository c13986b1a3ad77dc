"""Which server, and as whom: arguments, the environment, the file. The same answers as `yard` gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_errors import TOKEN
from trainyard import Client, InvalidArgument, _settings, _token


def _write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "config" / "trainyard" / "cli.toml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    file.chmod(0o600)
    return file


def _servers(server: str | None = None, token: str | None = None) -> list[str]:
    return _settings.load(server, token, None, None).servers


def test_an_argument_wins_over_the_environment_over_the_file_over_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _servers() == ["http://127.0.0.1:7433"]
    _write(tmp_path, "server = 'lab:7433'\ntoken = 'from file'\n")
    assert _servers() == ["http://lab:7433"]
    credential = _settings.load(None, None, None, None).credential
    assert credential == _token.Credential("from file", None)
    monkeypatch.setenv("YARD_SERVER", "http://other:1, third:2")
    assert _servers() == ["http://other:1", "http://third:2"]
    assert _servers("mine:3") == ["http://mine:3"]
    monkeypatch.setenv("YARD_TOKEN", "")
    assert _settings.load(None, None, None, None).credential is None


def test_who_has_logged_in_stays_encrypted_and_loopback_stays_as_it_is(tmp_path: Path) -> None:
    file = _write(tmp_path, f"server = 'https://lab:7433'\ntoken = '{TOKEN}'\n")
    assert _servers("lab:7433,other:1") == ["https://lab:7433", "https://other:1"]
    assert _servers("localhost:7433,[::1]:1") == ["http://localhost:7433", "http://[::1]:1"]
    file.write_text(f"server = 'https://localhost:7433'\ntoken = '{TOKEN}'\n")
    assert _servers("localhost:7433") == ["https://localhost:7433"]
    file.unlink()
    assert _servers(token=TOKEN) == ["http://127.0.0.1:7433"]
    assert _servers("lab", token=TOKEN) == ["https://lab:7433"]


@pytest.mark.parametrize("wrong", ["", "ftp://x", "http://", "https://", "a b", "lab:", "lab:x", "lab/path"])
def test_what_is_no_address_is_told_with_one_that_is(wrong: str) -> None:
    with pytest.raises(InvalidArgument, match=r"server: is `.*`, which is no address; write `http://127.0.0.1:7433`"):
        Client(wrong)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("sever = 'lab:7433'\n", r"sever: is no key, in .*cli.toml; did you mean `server`\?"),
        ("server = 7433\n", r"server: is `7433`, in .*cli.toml; write it in quotes"),
        ("server = \n", r"cli.toml: .*; correct it, or run `yard login` again"),
        ("token = 'ty1.x.y.z'\n", r"token: in the one from .*cli.toml the part PIN is damaged: copy the whole"),
    ],
)
def test_a_wrong_file_is_told_with_its_path(tmp_path: Path, text: str, wanted: str) -> None:
    _write(tmp_path, text)
    with pytest.raises(InvalidArgument, match=wanted):
        Client()


@pytest.mark.parametrize(
    ("token", "wanted"),
    [
        ("ty1.a.b", "is none: one looks like `ty1.PIN.ID.SECRET`"),
        (f"ty1.{'0' * 32}.b.c", "the part ID is damaged"),
        (TOKEN[:-1], "the part SECRET is damaged: copy the whole token again"),
        ("ä", "has characters that cannot be sent"),
    ],
)
def test_a_damaged_token_is_told_apart_and_not_repeated(token: str, wanted: str) -> None:
    with pytest.raises(InvalidArgument, match=wanted) as raised:
        Client(token=token)
    assert "`Client(token=...)`" in str(raised.value)
    assert "0000" not in str(raised.value)


def test_no_print_shows_a_secret() -> None:
    credential = _token.parse(TOKEN, "")
    assert TOKEN.rpartition(".")[2] not in repr(credential)
    assert credential.reveal_to("http://127.0.0.1:7433") is None
    assert credential.reveal_to("https://lab:7433") == TOKEN
    assert _token.parse("a", "").reveal_to("http://x") == "a"


def test_a_file_of_authorities_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"ca: .*/none.pem cannot be read: No such file"):
        Client("https://lab:1", ca=tmp_path / "none.pem").jobs()
    (tmp_path / "empty.pem").touch()
    with pytest.raises(InvalidArgument, match="has no certificate in PEM; name the file of an authority"):
        Client("https://lab:1", ca=tmp_path / "empty.pem").jobs()
