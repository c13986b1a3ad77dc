"""Which server to talk to and as whom: arguments first, then the environment, then what `yard login` has kept."""

from __future__ import annotations

import difflib
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainyard import _address, _machine, _token
from trainyard._checks import is_text, shown
from trainyard.errors import InvalidArgument

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Seconds that a call with one answer may take.
DEFAULT_TIMEOUT = 30.0
#: No wait of the system's is longer than this many seconds, a year.
LONGEST_TIMEOUT = 31_536_000.0
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
    #: Seconds that a call with one answer may take, repeats included.
    timeout: float


def load(
    server: str | None,
    token: str | None,
    ca: str | os.PathLike[str] | None,
    act_as: str | None,
    timeout: float = DEFAULT_TIMEOUT,
) -> Settings:
    """Puts arguments, environment and file together. The same keys as `yard` has, from the same places."""
    file = _file()
    kept = _read(file) if file is not None else {}
    given = {"server": server, "token": token, "ca": os.fspath(ca) if isinstance(ca, os.PathLike) else ca}
    values = {key: _value(key, given[key], kept, file) for key in _KEYS}

    credential = None
    text, source = values["token"]
    if text.strip():
        credential = _token.parse(text.strip(), source)
        if credential.pin is not None and source == str(file) and file is not None:
            _check_kept_secret(file)

    habit = _address.Habit(_address.parse_list(kept.get("server", "")), bool(values["ca"][0]) or credential is not None)
    address = values["server"][0]
    _token.refuse_in("server", address, "an address, such as `lab:7433`")
    servers = [_address.server_url(one, habit) for one in _address.parse_list(address) or [address]]
    if credential is not None and credential.pin is None:
        _refuse_plaintext(servers)
    authorities = Path(values["ca"][0]) if values["ca"][0] else None
    return Settings(servers, credential, authorities, _machine.user_name(), _acting(act_as), _seconds(timeout))


def _refuse_plaintext(servers: list[str]) -> None:
    """A secret that is no token of Trainyard's goes wherever it is meant for, but to no other machine in plaintext."""
    for server in servers:
        if not server.startswith("https://") and not _address.is_here(server):
            raise InvalidArgument.of(
                "server",
                f"is `{server}`, which is not encrypted, and no token is sent in plaintext; write `https://`, with "
                "`Client(ca=...)` for its authority. A scheduler without encryption asks for no token: leave it out",
            )


def _acting(act_as: str | None) -> str | None:
    if act_as is None:
        return None
    if not isinstance(act_as, str):
        raise InvalidArgument.of("act_as", f"is `{shown(act_as)}`; give a user's name")
    _token.refuse_in("act_as", act_as, "a user's name")
    if not (act_as.isascii() and act_as.isprintable() and act_as):
        raise InvalidArgument.of("act_as", f"is `{shown(act_as)}`; give a user's name")
    return act_as


def _seconds(timeout: float) -> float:
    is_number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if not is_number or not 0 < timeout < math.inf:
        raise InvalidArgument.of("timeout", f"is `{shown(timeout)}`; give seconds, a number above 0")
    return float(min(timeout, LONGEST_TIMEOUT))


def _value(key: str, given: str | None, kept: dict[str, str], file: Path | None) -> tuple[str, str]:
    """A value, and where it comes from, for messages. A variable that is empty says nothing, as with `yard`."""
    if given is not None:
        if not is_text(given):
            # What it is may be secret.
            kind = type(given).__name__
            raise InvalidArgument.of(key, f"the one from `Client({key}=...)` is no text that can be sent, but a {kind}")
        return given, f"`Client({key}=...)`"
    variable = f"YARD_{key.upper()}"
    text = os.environ.get(variable, "")
    if text.strip():
        return text, variable
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
    except (FileNotFoundError, NotADirectoryError):
        return {}
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
    if _machine.is_open_to_others(file):
        raise InvalidArgument(f"{file} holds a token, and others on this machine may read it; run `chmod 600 {file}`")
