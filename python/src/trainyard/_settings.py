"""Which server to talk to and as whom: arguments first, then the environment, then what `yard login` has kept."""

from __future__ import annotations

import difflib
import os
import pwd
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainyard import _address, _token
from trainyard.errors import InvalidArgument

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_KEYS = ("server", "token", "ca")


@dataclass(frozen=True)
class Settings:
    """A server and how to be known there."""

    #: URLs with their scheme; at least one.
    servers: list[str]
    #: What is sent with every call that may have it.
    credential: _token.Credential | None
    #: Authorities that certify the servers, where it is not the cluster's own.
    ca: Path | None
    #: Name of the user at this machine.
    user: str
    #: For whom an admin acts.
    act_as: str | None


def load(server: str | None, token: str | None, ca: str | os.PathLike[str] | None, act_as: str | None) -> Settings:
    """Puts arguments, environment and file together. The same keys as `yard` has, from the same places."""
    file = _file()
    kept = _read(file) if file is not None and file.exists() else {}
    given = {"server": server, "token": token, "ca": os.fspath(ca) if ca is not None else None}
    values = {key: _value(key, given[key], kept, file) for key in _KEYS}

    credential = None
    text, source = values["token"]
    if text.strip():
        credential = _token.parse(text.strip(), source)
        if credential.pin is not None and token is None and "YARD_TOKEN" not in os.environ and file is not None:
            _check_kept_secret(file)

    stored = kept.get("server", "")
    can_check = bool(values["ca"][0]) or (credential is not None and credential.pin is not None)
    habit = _address.Habit(_address.parse_list(stored), can_check)
    address = values["server"][0]
    servers = [_address.server_url(one, habit) for one in _address.parse_list(address) or [address]]
    authorities = Path(values["ca"][0]) if values["ca"][0] else None
    if act_as is not None and not (act_as.isascii() and act_as.isprintable() and act_as):
        raise InvalidArgument.of("act_as", f"is `{act_as!r}`; give a user's name")
    return Settings(servers, credential, authorities, _user_name(), act_as)


def _value(key: str, given: str | None, kept: dict[str, str], file: Path | None) -> tuple[str, str]:
    """A value, and where it comes from, for messages."""
    if given is not None:
        return given, f"`Client({key}=...)`"
    variable = f"YARD_{key.upper()}"
    if variable in os.environ:
        return os.environ[variable], variable
    if key in kept:
        return kept[key], str(file)
    return (_address.DEFAULT_SERVER if key == "server" else ""), "default"


def _file() -> Path | None:
    """Where the settings are; None where there is no home directory."""
    folder = os.environ.get("XDG_CONFIG_HOME")
    if folder:
        return Path(folder) / "trainyard" / "cli.toml"
    try:
        return Path.home() / ".config" / "trainyard" / "cli.toml"
    except RuntimeError:
        return None


def _read(file: Path) -> dict[str, str]:
    try:
        content: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidArgument(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InvalidArgument(f"{file}: {error}; correct it, or run `yard login` again") from None
    for key, value in content.items():
        if key not in _KEYS:
            nearest = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.0)[0]
            raise InvalidArgument.of(key, f"is no key, in {file}; did you mean `{nearest}`?")
        if not isinstance(value, str):
            raise InvalidArgument.of(key, f"is `{value}`, in {file}; write it in quotes")
    return content


def _check_kept_secret(file: Path) -> None:
    """Refuses a token in a file that others can read."""
    if file.stat().st_mode & 0o077:
        raise InvalidArgument(f"{file} holds a token, and others on this machine may read it; run `chmod 600 {file}`")


def _user_name() -> str:
    """The name behind this process's user id, or the id itself where there is none (in containers)."""
    user = os.getuid()
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
