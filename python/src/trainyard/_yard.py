"""The program `yard`, where it is at hand: it checks a data set as a training would, and takes every form of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections import deque
from functools import lru_cache
from pathlib import Path

from google.protobuf import json_format

from trainyard._report import Report
from trainyard._settings import Settings
from trainyard._stopping import Stop
from trainyard._version import __version__
from trainyard.errors import InvalidArgument, TrainyardError, Unavailable, Violation
from trainyard.v1 import datasets_pb2

#: Seconds that a program may take to tell its version.
_PATIENCE = 10.0
#: Exit codes of `yard`.
_WRONG_USAGE, _UNREACHABLE = 2, 3
#: Lines of its errors that are kept.
_KEPT_LINES = 200


@lru_cache(maxsize=1)
def at_hand() -> str | None:
    """The program of this package's version: the wheel's own, or the one on the PATH. None where there is none."""
    own = Path(__file__).resolve().parent / "bin" / "yard"
    found = [str(own), shutil.which("yard")]
    return next((one for one in found if one and os.access(one, os.X_OK) and _is_same_version(one)), None)


def _is_same_version(program: str) -> bool:
    try:
        done = subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and done.stdout.strip() == f"yard {__version__}"


def push_data(settings: Settings, file: Path, name: str, report: Report, stop: Stop) -> datasets_pb2.Dataset:
    """Checks and pushes a data set by `yard`, as whom the client is."""
    command = [at_hand() or "yard", "data", "push", str(file), "--name", name, "--output", "json", "--color", "never"]
    if settings.act_as is not None:
        command += ["--as", settings.act_as]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("YARD_")}
    environment["YARD_SERVER"] = ",".join(settings.servers)
    if settings.credential is not None:
        # Others may read the words of a command.
        environment["YARD_TOKEN"] = settings.credential.secret
    else:
        command.append("--token=")
    if settings.ca is not None:
        environment["YARD_CA"] = str(settings.ca)
    said: deque[str] = deque(maxlen=_KEPT_LINES)
    # What is printed is much less than a pipe holds.
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    ) as process:
        try:
            with stop.waking(process.terminate):
                code, printed = _follow(process, said, report)
        finally:
            process.terminate()
    stop.check()
    if code != 0:
        raise _error(code, list(said))
    return json_format.Parse(printed, datasets_pb2.Dataset(), ignore_unknown_fields=True)


def _follow(process: subprocess.Popen[str], said: deque[str], report: Report) -> tuple[int, str]:
    printed: list[str] = []
    assert process.stdout is not None
    assert process.stderr is not None
    reader = threading.Thread(target=lambda out: printed.append(out.read()), args=(process.stdout,), daemon=True)
    reader.start()
    for line in process.stderr:
        text = line.rstrip()
        if said or text.startswith("error: "):
            said.append(text)
        elif text.startswith("warning: "):
            report.warning(text.removeprefix("warning: "))
        else:
            report.line(text)
    reader.join()
    return process.wait(), "".join(printed)


def _error(code: int, said: list[str]) -> TrainyardError:
    """The exception for what `yard` said: a message, details below it, and a hint."""
    message = said[0].removeprefix("error: ") if said else f"`yard data push` ended with exit code {code}"
    details = [line.strip() for line in said[1:] if line.startswith(" ")]
    hint = "".join(f"; {line.removeprefix('hint: ')}" for line in said[1:] if line.startswith("hint: "))
    text = "; ".join([message, *details]) + hint
    if code == _WRONG_USAGE:
        return InvalidArgument(text, violations=[Violation("path", detail) for detail in details or [message]])
    return Unavailable(text) if code == _UNREACHABLE else TrainyardError(text)
