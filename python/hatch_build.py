"""What hatchling does beside packing the sources: generates the messages, adds the programs, names the platform.

There are two wheels. One has the programs, for Linux on x86-64; the other is the client alone, for every system. pip
prefers the first where both fit.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_HERE = Path(__file__).resolve().parent
#: Its value `client` asks for the wheel without programs.
_VARIABLE = "TRAINYARD_WHEEL"


class WheelHook(BuildHookInterface[Any]):
    """Adds what is not among the sources."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before a wheel is packed; an editable install takes the sources as they are."""
        if version == "editable":
            return
        # pip loads this file by its path alone.
        sys.path.insert(0, str(_HERE))
        from build_parts import programs, stubs
        from build_parts.version import ROOT

        wanted = os.environ.get(_VARIABLE, "")
        if wanted not in ("", "client"):
            raise SystemExit(f"{_VARIABLE} is `{wanted}`; use `client`, or leave it out for the wheel with programs")
        work = ROOT / "target" / "wheel-parts"
        added = {ROOT / "LICENSE": "trainyard/LICENSE"} | stubs.generate(work / "messages")
        tag = "py3-none-any"
        if not wanted:
            staged = work / "bin"
            tag = f"py3-none-{programs.stage(programs.folder(), staged)}"
            added[staged] = "trainyard/bin"
        build_data["force_include"] |= {str(path): place for path, place in added.items()}
        build_data["pure_python"] = bool(wanted)
        build_data["tag"] = tag
