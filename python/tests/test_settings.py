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
    assert _servers() == ["https://lab:7433"]
    credential = _settings.load(None, None, None, None).credential
    assert credential == _token.Credential("from file", None)
    monkeypatch.setenv("YARD_SERVER", "https://other:1, third:2")
    assert _servers() == ["https://other:1", "https://third:2"]
    assert _servers("mine:3") == ["https://mine:3"]
    assert _settings.load(None, "", None, None).credential is None
    assert _servers("mine:3", token="") == ["http://mine:3"]


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_a_variable_that_is_empty_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty: str) -> None:
    _write(tmp_path, f"server = 'https://lab:7433'\ntoken = '{TOKEN}'\nca = '/lab.pem'\n")
    for name in ("YARD_SERVER", "YARD_TOKEN", "YARD_CA"):
        monkeypatch.setenv(name, empty)
    settings = _settings.load(None, None, None, None)
    assert settings.credential is not None
    assert (settings.servers, settings.credential.secret) == (["https://lab:7433"], TOKEN)
    assert str(settings.ca) == "/lab.pem"


def test_who_has_logged_in_stays_encrypted_and_loopback_stays_as_it_is(tmp_path: Path) -> None:
    file = _write(tmp_path, f"server = 'https://lab:7433'\ntoken = '{TOKEN}'\n")
    assert _servers("lab:7433,other:1") == ["https://lab:7433", "https://other:1"]
    assert _servers("localhost:7433,[::1]:1") == ["http://localhost:7433", "http://[::1]:1"]
    file.write_text(f"server = 'https://localhost:7433'\ntoken = '{TOKEN}'\n")
    assert _servers("localhost:7433") == ["https://localhost:7433"]
    file.unlink()
    assert _servers(token=TOKEN) == ["http://127.0.0.1:7433"]
    assert _servers("lab", token=TOKEN) == ["https://lab:7433"]


@pytest.mark.parametrize(
    "wrong", ["", "ftp://x", "http://", "https://", "a b", "lab:", "lab:x", "lab/path", "lab:7433?a", "lab:0", "@lab"]
)
def test_what_is_no_address_is_told_with_one_that_is(wrong: str) -> None:
    with pytest.raises(InvalidArgument, match=r"server: is `.*`, which is no address; write `http://127.0.0.1:7433`"):
        Client(wrong)


@pytest.mark.parametrize("bare", ["fd09::1", "https://fd09::1"])
def test_an_address_of_ipv6_is_shown_with_brackets(bare: str) -> None:
    with pytest.raises(InvalidArgument, match=r"an address of IPv6; write it in brackets: `\[fd09::1\]:7433`"):
        Client(bare)
    assert _servers("[fd09::1]") == ["http://[fd09::1]:7433"]


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
        (f'"{TOKEN}"', "has more in it than a token, or other letters"),
        (f"'{TOKEN}", "no quotes and no `Bearer`"),
        (f"Bearer {TOKEN}", "has more in it than a token"),
        (f"YARD_TOKEN={TOKEN}", "has more in it than a token"),
        (f"x{TOKEN}", "has more in it than a token"),
        (f"\ufeff{TOKEN}", "has more in it than a token"),
        (TOKEN.upper(), "has more in it than a token, or other letters"),
        (f"{TOKEN} {TOKEN}", "is none: one looks like"),
        (f"{TOKEN}\n", ""),
    ],
)
def test_a_damaged_token_is_told_apart_and_not_repeated(token: str, wanted: str) -> None:
    if not wanted:
        assert _settings.load("lab", token, None, None).servers == ["https://lab:7433"]
        return
    with pytest.raises(InvalidArgument, match=wanted) as raised:
        Client("lab:7433", token=token)
    assert "`Client(token=...)`" in str(raised.value)
    assert "0000" not in str(raised.value)


@pytest.mark.parametrize("other", ["hunter2", "ty1", "aty1.b", "eyJhbGci.Qty1.c2ln"])
def test_a_secret_of_another_kind_is_one_and_leaves_this_machine_encrypted_alone(other: str) -> None:
    assert _servers("lab", token=other) == ["https://lab:7433"]
    assert _servers("http://localhost:1", token=other) == ["http://localhost:1"]
    with pytest.raises(
        InvalidArgument, match=r"server: is `http://lab:1`, which is not encrypted, and no token is sent"
    ):
        Client("https://a:1,http://lab:1", token=other)
    assert other not in repr(_settings.load("lab", other, None, None))


@pytest.mark.parametrize("server", [TOKEN, f"https://{TOKEN}@lab:7433", f"lab:7433,{TOKEN}", TOKEN.upper()])
def test_a_token_where_something_else_belongs_is_not_repeated_or_looked_up(server: str) -> None:
    with pytest.raises(
        InvalidArgument, match=r"server: holds a token, which is not repeated here; give an address"
    ) as at:
        Client(server)
    with pytest.raises(InvalidArgument, match="act_as: holds a token") as acting:
        Client(act_as=TOKEN)
    assert "0000" not in f"{at.value}{acting.value}"
    assert _servers("ty1.lab.example") == ["http://ty1.lab.example:7433"]


def test_no_print_shows_a_secret() -> None:
    credential = _token.parse(TOKEN, "")
    assert TOKEN.rpartition(".")[2] not in repr(credential)
    assert credential.reveal_to("http://127.0.0.1:7433") is None
    assert credential.reveal_to("https://lab:7433") == TOKEN
    other = _token.parse("a", "")
    assert [other.reveal_to(server) for server in ("http://x", "https://x", "http://[::1]:1")] == [None, "a", "a"]


def test_a_file_of_authorities_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"ca: .*/none.pem cannot be read: No such file"):
        Client("https://lab:1", ca=tmp_path / "none.pem").jobs()
    (tmp_path / "empty.pem").touch()
    with pytest.raises(InvalidArgument, match="has no certificate in PEM; name the file of an authority"):
        Client("https://lab:1", ca=tmp_path / "empty.pem").jobs()
