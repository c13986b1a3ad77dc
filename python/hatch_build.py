"""What hatchling does beside packing the sources: generates the messages, adds the programs, names the platform."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_HERE = Path(__file__).resolve().parent


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

        work = ROOT / "target" / "wheel-parts"
        messages = stubs.generate(work / "messages")
        staged = work / "bin"
        platform = programs.stage(programs.folder(), staged)
        build_data["force_include"][str(messages)] = "trainyard/v1"
        build_data["force_include"][str(staged)] = "trainyard/bin"
        build_data["force_include"][str(ROOT / "LICENSE")] = "trainyard/LICENSE"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
