"""The version: Cargo.toml has it, for all of Trainyard."""

import re
from pathlib import Path

#: The repository.
ROOT = Path(__file__).resolve().parents[2]


def _of_workspace() -> str:
    # Python 3.10 cannot read TOML by itself, and a build should need no package for one line.
    text = (ROOT / "Cargo.toml").read_text(encoding="utf-8")
    found = re.search(r'^\[workspace\.package\]\n(?:(?!\[).*\n)*?version = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise SystemExit("Cargo.toml: there is no `version` under [workspace.package]")
    return found[1]


__version__ = _of_workspace()
