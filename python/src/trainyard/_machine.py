"""What differs between operating systems: who is at this machine, and who else may read a file.

Clients run on Windows, too, which has neither user ids nor modes of files.
"""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path


def user_name() -> str:
    """The name behind this process's user id, or the id itself where there is none (in containers)."""
    if sys.platform == "win32":
        try:
            return getpass.getuser()
        except (ImportError, KeyError, OSError):
            return "unknown"
    import pwd

    user = os.getuid()
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def is_open_to_others(file: Path) -> bool:
    """Whether other users of this machine may read or write a file, as far as its mode says so."""
    return sys.platform != "win32" and bool(file.stat().st_mode & 0o077)
